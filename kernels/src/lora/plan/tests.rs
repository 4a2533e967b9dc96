//! Plans by hand: what is shared out, and to how many.

use super::super::layout::{AdapterLayout, ProjectionShape};
use super::*;
use crate::Element;

const CHIP: Chip = Chip { multiprocessors: 132, shared_bytes_block_max: 232_448, cluster_max: 16 };

fn site(inputs: u32, outputs: &[u32]) -> Site {
    let shapes: Vec<_> = outputs.iter().map(|&outputs| ProjectionShape { inputs, outputs }).collect();
    let layout = AdapterLayout::new(&shapes).expect("multiples of 8");
    Site::new(Element::Bf16, layout.places()).expect("one to four projections")
}

fn segment(rows: Range<u32>, rank: u32) -> Segment {
    Segment { rows, weights: 4096, rank, scale: 1.0 }
}

#[test]
fn every_row_meets_every_tile_of_every_projection_exactly_once() {
    let site = site(5120, &[5120, 1024, 40]);
    let segments = [segment(0..1, 8), segment(1..1, 16), segment(4..71, 100), segment(71..72, 1)];
    for row_tile in RowTile::ALL {
        let tuning = Tuning { row_tile: Some(row_tile), blocks: Some(400), ..Tuning::default() };
        let plan = Plan::new(&site, &segments, CHIP, tuning).expect("a valid batch");
        for (projection, place) in site.places().iter().enumerate() {
            let inputs = place.shape.inputs.div_ceil(32) as usize;
            let outputs = place.shape.outputs.div_ceil(32) as usize;
            let mut seen_inputs = vec![0; 72 * inputs];
            let mut seen_outputs = vec![0; 72 * outputs];
            for job in plan.jobs().iter().filter(|job| job.projection as usize == projection) {
                for row in job.row..job.row + job.rows {
                    for tile in job.k_tile..job.k_tile + job.k_tiles {
                        seen_inputs[row as usize * inputs + tile as usize] += 1;
                    }
                    for tile in job.column_tile..job.column_tile + job.column_tiles {
                        seen_outputs[row as usize * outputs + tile as usize] += 1;
                    }
                }
            }
            for (seen, tiles) in [(seen_inputs, inputs), (seen_outputs, outputs)] {
                for (row, counts) in seen.chunks_exact(tiles).enumerate() {
                    let expected = i32::from(!(1..4).contains(&row));
                    assert!(counts.iter().all(|&count| count == expected), "row {row}: {counts:?}");
                }
            }
        }
    }
}

#[test]
fn few_inputs_are_multiplied_by_every_member_that_widens_them() {
    let segments: Vec<_> = (0..30).map(|n| segment(n..n + 1, [8, 16, 24][n as usize % 3])).collect();
    let site = site(2048, &[8192]);
    let plan = |tuning| Plan::new(&site, &segments, CHIP, tuning).expect("a valid batch");
    let global = plan(Tuning::default());
    assert_eq!(global.cluster(), 1);
    let (mut columns, mut inputs) = (vec![[0; 256]; 30], vec![[0; 64]; 30]);
    for job in global.jobs() {
        let row = job.row as usize;
        let alone = job.rank <= 16;
        assert_eq!(alone, job.members == 1, "{job:?}");
        assert_eq!(alone, job.k_tiles == 64, "{job:?}");
        (job.column_tile..job.column_tile + job.column_tiles).for_each(|tile| columns[row][tile as usize] += 1);
        (job.k_tile..job.k_tile + job.k_tiles).for_each(|tile| inputs[row][tile as usize] += 1);
    }
    assert!(columns.iter().flatten().all(|&count| count == 1), "every column once");
    assert!(inputs.iter().flatten().all(|&count| count >= 1), "every input");
    // Where sums shall be exchanged, or the launch runs beside a GEMM, they are.
    for tuning in [
        Tuning { exchange: Some(Exchange::Global), ..Tuning::default() },
        Tuning { follows: Follows::Beside, ..Tuning::default() },
    ] {
        assert!(plan(tuning).jobs().iter().all(|job| job.members > 1 && job.k_tiles < 64));
    }
}

#[test]
fn prompts_of_few_groups_have_blocks_of_more_warps() {
    let tile = |rows: u32, count: u32, rank| {
        let segments: Vec<_> = (0..count).map(|n| segment(n * rows..(n + 1) * rows, rank)).collect();
        Plan::new(&site(3072, &[3072]), &segments, CHIP, Tuning::default()).expect("a valid batch").variant().rows
    };
    assert_eq!(tile(250, 4, 32), RowTile::Wide16);
    assert_eq!(tile(250, 4, 16), RowTile::Staged16, "little to multiply");
    assert_eq!(tile(250, 5, 32), RowTile::Staged32, "more groups than half of the multiprocessors");
    assert_eq!(tile(512, 4, 32), RowTile::Staged32, "few members a group");
    assert_eq!(tile(250, 4, 48), RowTile::Staged32);
}

#[test]
fn inboxes_of_different_groups_do_not_overlap() {
    let segments: Vec<_> = (0..20).map(|n| segment(n..n + 1, 8 * (n + 1))).collect();
    let tuning = Tuning { exchange: Some(Exchange::Global), ..Tuning::default() };
    let plan = Plan::new(&site(4096, &[4096]), &segments, CHIP, tuning).expect("a valid batch");
    let mut end = 0;
    for job in plan.jobs().iter().filter(|job| job.members > 1 && job.member == 0) {
        assert!(job.inbox >= end);
        // One row a segment: as many cells as pairs of granules.
        end = job.inbox + inbox_cells(plan.variant().rows, layout::pairs(job.rank), job.members);
    }
    assert_eq!(end, plan.inbox_cells());
}

#[test]
fn members_follow_the_bytes_of_a_mixed_batch() {
    let ranks = [8, 64, 128].into_iter().cycle().take(9);
    let segments: Vec<_> = ranks.zip(0..).map(|(rank, n)| segment(n..n + 1, rank)).collect();
    let tuning = Tuning { exchange: Some(Exchange::Global), ..Tuning::default() };
    let plan = Plan::new(&site(4096, &[4096]), &segments, CHIP, tuning).expect("a valid batch");
    let members = |rank| plan.jobs().iter().filter(|job| job.rank == rank).count();
    assert!(members(8) < members(64) && members(64) < members(128));
    assert!(plan.jobs().len() <= 198);
}

#[test]
fn clusters_are_whole_and_leave_room_for_the_next_launch() {
    for (rank, rows, outputs) in [(16, 1, 4096), (64, 8, 8192), (128, 4, 1024), (256, 2, 4096), (8, 32, 512)] {
        let segments: Vec<_> = (0..rows).map(|n| segment(n * 8..n * 8 + 8, rank)).collect();
        let plan = Plan::new(&site(4096, &[outputs]), &segments, CHIP, Tuning::default()).expect("a valid batch");
        let what = format!("rank {rank}, {rows} groups");
        assert_eq!(plan.jobs().len() % plan.cluster() as usize, 0, "{what}");
        let two_fit = 2 * (plan.shared_bytes() + 1024) <= 233_472;
        let half_is_free = 2 * plan.jobs().len() <= 132;
        assert!(two_fit || half_is_free, "{what}: {} bytes", plan.shared_bytes());
    }
}

#[test]
fn a_group_never_has_more_members_than_a_small_gpu_has_room_for() {
    let chip = Chip { multiprocessors: 14, ..CHIP };
    for exchange in [None, Some(Exchange::Global), Some(Exchange::Cluster)] {
        let tuning = Tuning { exchange, blocks: Some(1000), ..Tuning::default() };
        let plan = Plan::new(&site(8192, &[8192]), &[segment(0..1, 16)], chip, tuning).expect("a valid batch");
        assert!(plan.jobs().iter().all(|job| job.members <= 14), "{exchange:?}");
    }
}

#[test]
fn prompts_pass_through_rings_and_share_large_weights_among_more_rows() {
    let row_tile = |rank: u32, rows: [u32; 4]| {
        let mut end = 0;
        let segments = rows.map(|rows| {
            end += rows;
            segment(end - rows..end, rank)
        });
        let plan = Plan::new(&site(4096, &[4096]), &segments, CHIP, Tuning::default()).expect("a valid batch");
        plan.variant().rows
    };
    assert_eq!(row_tile(16, [512; 4]), RowTile::Staged16);
    assert_eq!(row_tile(64, [512; 4]), RowTile::Staged32);
    // Too few groups to fill half of the chip; rows of decodes between prompts.
    assert_eq!(row_tile(64, [64; 4]), RowTile::Rows8);
    assert_eq!(row_tile(64, [512, 1, 1, 1]), RowTile::Staged32);
    assert_eq!(row_tile(64, [400, 1, 1, 1]), RowTile::Rows8, "room for four blocks a group");
    assert_eq!(row_tile(64, [9, 9, 9, 500]), RowTile::Staged32);
    assert_eq!(row_tile(32, [1024, 1024, 1, 1]), RowTile::Staged32);
    assert_eq!(row_tile(16, [1024, 1024, 1, 1]), RowTile::Staged16);
    assert_eq!(row_tile(256, [1024, 1024, 1, 1]), RowTile::Staged16, "32 rows hold ranks up to 128");
}

#[test]
fn groups_beside_prompts_have_members_by_how_long_they_take() {
    // Rows of a decode and prompts, ranks of which the largest takes eight times as long as the smallest.
    let decodes = [128, 128, 64, 32, 16, 8].into_iter().enumerate();
    let mut segments: Vec<_> = decodes.map(|(n, rank)| segment(n as u32..n as u32 + 1, rank)).collect();
    segments.push(segment(6..518, 16));
    let plan = |tuning| Plan::new(&site(4096, &[11008, 11008]), &segments, CHIP, tuning).expect("a valid batch");
    let shared = plan(Tuning::default());
    assert_eq!((shared.variant().rows, shared.cluster()), (RowTile::Staged16, 1));
    let members = |rank: u32| shared.jobs().iter().filter(|job| job.rank == rank).map(|job| job.members).max();
    assert_eq!([128, 64, 32, 16, 8].map(members), [9, 4, 2, 1, 1].map(Some));
    // No slice is much longer than an even share, and the chip is filled.
    assert!((100..=200).contains(&shared.jobs().len()), "{}", shared.jobs().len());
    // Beside a product that was not measured.
    let beside = plan(Tuning { follows: Follows::Beside, ..Tuning::default() });
    assert_ne!(beside.jobs().len(), shared.jobs().len());
}

#[test]
fn a_few_members_poll_for_few_sums_where_nothing_runs_beside_them() {
    let segments: Vec<_> = (0..32).map(|n| segment(n * 4..n * 4 + 4, 16)).collect();
    let plan = |tuning| Plan::new(&site(4096, &[4096]), &segments, CHIP, tuning).expect("a valid batch");
    let alone = plan(Tuning::default());
    assert_eq!((alone.cluster(), alone.release()), (1, Release::WithSums));
    assert!(alone.jobs().iter().all(|job| job.members == 4) && alone.inbox_cells() > 0);
    let beside = plan(Tuning { follows: Follows::Beside, ..Tuning::default() });
    assert_eq!((beside.cluster(), beside.release(), beside.inbox_cells()), (4, Release::WithOperands, 0));
    let tuning = Tuning { follows: Follows::Beside, ..Tuning::default() };
    let few = Plan::new(&site(4096, &[4096]), &segments[..2], CHIP, tuning).expect("a valid batch");
    assert_eq!(few.release(), Release::AtStart);
    assert_eq!(alone.jobs().len(), beside.jobs().len());
}

#[test]
fn slices_for_the_shortest_code_are_as_few_as_hold_all_tiles() {
    let plan = |width: u32, follows| {
        let tuning = Tuning { follows, ..Tuning::default() };
        let plan = Plan::new(&site(width, &[width]), &[segment(0..1, 16)], CHIP, tuning).expect("a valid batch");
        (plan.cluster(), plan.variant().rows)
    };
    assert_eq!(plan(4096, Follows::Itself), (10, RowTile::Brief8), "nothing hides the latency of few groups");
    assert_eq!(plan(5120, Follows::Another), (10, RowTile::Brief8));
    assert_eq!(plan(6144, Follows::Itself), (12, RowTile::Brief8));
    assert_eq!(plan(5120, Follows::Beside), (16, RowTile::Brief8));
    let few = |groups: u32, follows| {
        let segments: Vec<_> = (0..groups).map(|n| segment(n..n + 1, 16)).collect();
        let tuning = Tuning { follows, ..Tuning::default() };
        Plan::new(&site(4096, &[11008]), &segments, CHIP, tuning).expect("a valid batch").cluster()
    };
    assert_eq!([few(1, Follows::Itself), few(4, Follows::Another)], [10, 8]);
    assert_eq!([few(5, Follows::Itself), few(1, Follows::Beside)], [8; 2]);
}

#[test]
fn sets_of_members_share_the_outputs_and_each_multiplies_all_inputs() {
    let plan = |groups: u32, rank: u32, (inputs, outputs): (u32, u32), follows| {
        let segments: Vec<_> = (0..groups).map(|n| segment(n..n + 1, rank)).collect();
        let tuning = Tuning { follows, ..Tuning::default() };
        let plan = Plan::new(&site(inputs, &[outputs]), &segments, CHIP, tuning).expect("a valid batch");
        for row in 0..groups {
            let jobs: Vec<_> = plan.jobs().iter().filter(|job| job.row == row).collect();
            let sets = jobs.len() as u32 / jobs[0].members;
            assert_eq!(jobs.iter().map(|job| job.k_tiles).sum::<u32>(), sets * inputs / 32);
            let mut column = 0;
            for (block, job) in jobs.into_iter().enumerate() {
                assert_eq!((job.member, job.column_tile), (block as u32 % job.members, column));
                column += job.column_tiles;
            }
            assert_eq!(column, outputs / 32);
        }
        (plan.variant().rows, plan.cluster(), plan.jobs().len() as u32 / groups / plan.cluster())
    };
    let (brief, rows, itself) = (RowTile::Brief8, RowTile::Rows8, Follows::Itself);
    assert_eq!(plan(1, 16, (4096, 11008), itself), (brief, 10, 3));
    assert_eq!(plan(4, 16, (4096, 11008), Follows::Another), (brief, 8, 3));
    assert_eq!(plan(4, 16, (4096, 14336), itself), (rows, 8, 2), "too many blocks for the shortest code");
    assert_eq!(plan(1, 16, (14336, 4096), itself), (rows, 14, 2));
    assert_eq!(plan(1, 32, (4096, 14336), Follows::Another), (rows, 8, 4), "wide clusters start late");
    assert_eq!(plan(1, 16, (4096, 11008), Follows::Beside).2, 1);
    assert_eq!(plan(8, 16, (4096, 11008), itself).2, 1, "no room");
    assert_eq!(plan(1, 64, (4096, 11008), itself).2, 1, "a long exchange");
}

#[test]
fn prompts_beside_single_rows_leave_room_for_the_next_launch() {
    let plan = |rows: u32, single: u32| {
        let prompt = [segment(0..rows, 16)];
        let segments: Vec<_> = prompt.into_iter().chain((rows..rows + single).map(|n| segment(n..n + 1, 16))).collect();
        let plan = Plan::new(&site(4096, &[4096]), &segments, CHIP, Tuning::default()).expect("a valid batch");
        (plan.variant().rows, plan.jobs().len(), plan.cluster())
    };
    assert_eq!(plan(512, 31), (RowTile::Staged16, 63 * 3, 3));
    assert_eq!(plan(700, 31), (RowTile::Staged16, 75 * 3, 3));
    assert_eq!(plan(512, 63), (RowTile::Staged16, 95 * 2, 2));
    assert_eq!(plan(200, 31), (RowTile::Rows8, 56 * 4, 4));
    assert_eq!(plan(20, 64).0, RowTile::Rows8, "a short prompt saves few groups");
}

#[test]
fn single_rows_that_could_poll_become_clusters_that_fill_the_chip_more_than_once() {
    let plan = |groups: u32, rank: u32, rows: u32, (inputs, outputs): (u32, u32), follows| {
        let segments: Vec<_> = (0..groups).map(|n| segment(n * rows..n * rows + rows, rank)).collect();
        let tuning = Tuning { follows, ..Tuning::default() };
        let plan = Plan::new(&site(inputs, &[outputs]), &segments, CHIP, tuning).expect("a valid batch");
        (plan.jobs().len() as u32 / groups, plan.cluster())
    };
    let square = (4096, 4096);
    for follows in [Follows::Itself, Follows::Another] {
        assert_eq!(plan(64, 16, 1, square, follows), (2, 2));
        assert_eq!(plan(32, 16, 8, square, follows), (4, 1), "rows take longer than the exchange");
        assert_eq!(plan(32, 16, 1, (2048, 8192), follows), (4, 1), "each member multiplies all inputs");
        assert_eq!(plan(32, 16, 1, (8192, 28672), follows), (6, 6));
    }
    let both = |rank| [Follows::Itself, Follows::Another].map(|follows| plan(32, rank, 1, square, follows));
    assert_eq!(both(16), [(5, 5), (6, 6)]);
    assert_eq!(both(24), [(5, 5), (3, 3)]);
    assert_eq!(both(8), [(4, 1), (6, 6)], "a call shorter than the start of clusters");
    assert_eq!(plan(32, 16, 1, square, Follows::Beside), (4, 4));
}

#[test]
fn clusters_of_blocks_with_a_multiprocessor_each_leave_some_of_the_chip() {
    let plan = |count: u32, rows: u32, rank: u32| {
        let segments: Vec<_> = (0..count).map(|n| segment(n * rows..(n + 1) * rows, rank)).collect();
        let plan = Plan::new(&site(4096, &[4096]), &segments, CHIP, Tuning::default()).expect("a valid batch");
        (plan.variant().rows, plan.jobs().len(), plan.cluster())
    };
    assert_eq!(plan(2, 512, 64), (RowTile::Staged32, 96, 3));
    assert_eq!(plan(4, 512, 64), (RowTile::Staged32, 128, 2));
    assert_eq!(plan(4, 512, 32), (RowTile::Staged32, 128, 2));
    assert_eq!(plan(4, 250, 32), (RowTile::Wide16, 128, 2));
    assert_eq!(plan(4, 300, 32), (RowTile::Staged32, 80, 2), "of 16 rows more than one a multiprocessor would queue");
    assert_eq!(plan(1, 576, 64), (RowTile::Staged32, 90, 5), "18 clusters of 6 do not find room");
    assert_eq!(plan(1, 512, 64), (RowTile::Staged32, 96, 6));
    assert_eq!(plan(2, 512, 128), (RowTile::Staged32, 128, 1), "much to multiply: more blocks, which poll");
    assert_eq!(plan(1, 224, 128), (RowTile::Staged32, 112, 16), "few groups");
}

#[test]
fn a_launch_that_starts_late_has_smaller_clusters_where_most_bytes_follow_the_exchange() {
    let plan = |inputs: u32, outputs: u32, follows| {
        let segments: Vec<_> = (0..8).map(|n| segment(n * 8..n * 8 + 8, 64)).collect();
        let tuning = Tuning { follows, ..Tuning::default() };
        Plan::new(&site(inputs, &[outputs]), &segments, CHIP, tuning).expect("a valid batch").cluster()
    };
    assert_eq!((plan(4096, 14336, Follows::Itself), plan(4096, 14336, Follows::Another)), (16, 8));
    // Most bytes come before the exchange: a launch on half of the chip leaves the other half to the next.
    assert_eq!((plan(28672, 8192, Follows::Itself), plan(28672, 8192, Follows::Another)), (8, 16));
}

#[test]
fn the_next_launch_starts_when_the_memory_has_time_for_it() {
    let release = |inputs, outputs: u32, rank, groups: u32| {
        let segments: Vec<_> = (0..groups).map(|n| segment(n * 8..n * 8 + 8, rank)).collect();
        let plan = Plan::new(&site(inputs, &[outputs]), &segments, CHIP, Tuning::default());
        plan.expect("a valid batch").release()
    };
    // Most of the bytes before the exchange, and after it; a full chip with much to do.
    assert_eq!(release(14336, 4096, 64, 8), Release::WithSums);
    assert_eq!(release(28672, 8192, 32, 8), Release::WithSums);
    assert_eq!(release(1536, 8960, 64, 8), Release::WithOperands);
    // The next one starts on the other half of the chip; rank 100 leaves none.
    assert_eq!(release(8192, 8192, 64, 8), Release::WithOperands);
    assert_eq!(release(4096, 4096, 100, 16), Release::WithSums);
    assert_eq!(release(4096, 4096, 128, 32), Release::AtStart);
}

#[test]
fn a_batch_without_adapters_needs_no_block() {
    let plan = Plan::new(&site(64, &[64]), &[segment(3..3, 16)], CHIP, Tuning::default()).expect("nothing to do");
    assert!(plan.jobs().is_empty());
}

#[test]
fn prompts_are_held_in_registers_until_they_are_many_bytes() {
    let plan = |lengths: &[u32], rank: u32, outputs: &[u32], follows| {
        let mut end = 0;
        let mut next = |&rows: &u32| {
            end += rows;
            segment(end - rows..end, rank)
        };
        let segments: Vec<_> = lengths.iter().map(&mut next).collect();
        let tuning = Tuning { follows, ..Tuning::default() };
        let plan = Plan::new(&site(4096, outputs), &segments, CHIP, tuning).expect("a valid batch");
        (plan.variant().rows, plan.jobs().len(), plan.cluster())
    };
    for follows in [Follows::Itself, Follows::Another] {
        let plan = |lengths: &[u32], rank| plan(lengths, rank, &[4096], follows);
        assert_eq!(plan(&[256], 64), (RowTile::Rows8, 128, 1), "once the chip: they poll");
        assert_eq!(plan(&[200], 32), (RowTile::Rows8, 100, 4));
        assert_eq!(plan(&[400], 16), (RowTile::Rows8, 200, 4));
        assert_eq!(plan(&[400], 64), (RowTile::Staged32, 104, 8), "too many bytes of weights");
        assert_eq!(plan(&[512], 16), (RowTile::Staged16, 96, 3), "too many bytes of y");
        assert_eq!(plan(&[256, 256], 8), (RowTile::Staged16, 96, 3));
    }
    let plan = |lengths: &[u32], rank, outputs: &[u32]| plan(lengths, rank, outputs, Follows::Another);
    assert_eq!(plan(&[512], 16, &[4096, 1024, 1024]), (RowTile::Staged16, 128, 1), "the widest has more members");
    assert_eq!(plan(&[22; 23], 16, &[4096]), (RowTile::Staged16, 184, 4), "short tails");
}

mod fit;
mod refused;
