//! Plans for chips with less shared memory than those the rules were measured on.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

/// An A100; cards of compute capability 8.6, 8.9 and 12.0; an H200.
const CHIPS: [Chip; 4] = [
    Chip { multiprocessors: 108, shared_bytes_block_max: 166_912, cluster_max: 1 },
    Chip { multiprocessors: 46, shared_bytes_block_max: 101_376, cluster_max: 1 },
    Chip { multiprocessors: 170, shared_bytes_block_max: 101_376, cluster_max: 8 },
    CHIP,
];

/// A batch in which every segment has an adapter of its own, so that a job tells its segment.
fn batch(parts: impl IntoIterator<Item = (u32, u32)>) -> Vec<Segment> {
    let mut end = 0;
    let parts = parts.into_iter().zip(1..).map(|((rows, rank), adapter)| {
        end += rows;
        Segment { weights: adapter * 4096, ..segment(end - rows..end, rank) }
    });
    parts.collect()
}

/// Whether each row of each segment meets all inputs and outputs of each projection, the outputs once.
fn covers(plan: &Plan, segments: &[Segment]) -> bool {
    let places = plan.site().places().iter().zip(0..);
    places.into_iter().all(|(place, projection)| {
        let shape = place.shape;
        let (inputs, outputs) = (shape.inputs.div_ceil(TILE_WIDTH), shape.outputs.div_ceil(TILE_WIDTH));
        let mut jobs: Vec<_> = plan.jobs().iter().filter(|job| job.projection == projection).collect();
        jobs.sort_by_key(|job| (job.row, job.column_tile, job.member));
        let mut jobs = jobs.into_iter().peekable();
        segments.iter().all(|segment| {
            let mut row = segment.rows.start;
            while row < segment.rows.end {
                let (mut rows, mut column, mut input) = (0, 0, 0);
                while let Some(job) = jobs.next_if(|job| job.row == row) {
                    let whole = input == inputs;
                    let follows = job.column_tile == column && job.k_tile == if whole { 0 } else { input };
                    if !follows || (job.weights, job.rank) != (segment.weights, segment.rank) {
                        return false;
                    }
                    (rows, column, input) = (job.rows, column + job.column_tiles, job.k_tile + job.k_tiles);
                }
                if rows == 0 || (column, input) != (outputs, inputs) {
                    return false;
                }
                row += rows;
            }
            row == segment.rows.end
        }) && jobs.next().is_none()
    })
}

fn check(site: &Site, segments: &[Segment], chip: Chip, follows: Follows) -> RowTile {
    let shape = || segments.iter().map(|s| (s.rows.len(), s.rank)).collect::<Vec<_>>();
    let tuning = Tuning { follows, short: follows != Follows::Itself, ..Tuning::default() };
    let plan = match Plan::new(site, segments, chip, tuning) {
        Ok(plan) => plan,
        Err(error) => panic!("{chip:?}, {:?}: {error}", shape()),
    };
    assert!(plan.shared_bytes() <= chip.shared_bytes_block_max, "{chip:?}, {:?}", shape());
    assert!(covers(&plan, segments), "{chip:?}, {:?}", shape());
    plan.variant().rows
}

#[test]
fn no_chip_refuses_a_rank_whatever_the_rows() {
    let mut random = ChaCha8Rng::seed_from_u64(3);
    let sites = [site(4096, &[4096]), site(4096, &[11008, 11008]), site(4096, &[4096, 1024, 1024]), site(64, &[72])];
    for chip in CHIPS {
        for rank in 1..=256 {
            for site in &sites {
                let follows = [Follows::Itself, Follows::Another, Follows::Beside][random.random_range(0..3)];
                for rows in [1, 17, 128, 512, random.random_range(2..128), random.random_range(128..512)] {
                    check(site, &batch([(rows, rank)]), chip, follows);
                }
            }
        }
    }
}

#[test]
fn no_chip_refuses_a_mix_of_ranks_and_rows() {
    let mut random = ChaCha8Rng::seed_from_u64(4);
    let widths = [8, 200, 1024, 4096, 11008];
    let mut tiles = Vec::new();
    for number in 0..6000 {
        let mut width = || widths[random.random_range(0..widths.len())];
        let (inputs, outputs) = (width(), [width(), width()]);
        let site = site(inputs, &outputs[..1 + number % 2]);
        // Prompts alone, prompts beside single rows, anything; a few ranks or all.
        let rows = [16..513, 1..40, 0..513][random.random_range(0..3)].clone();
        let count = random.random_range(1..9);
        let singles = [0, 0, 20][random.random_range(0..3)];
        let mut rank = || match number % 3 {
            0 => [1, 8, 64, 128, 129, 256][random.random_range(0..6)],
            _ => random.random_range(1..257),
        };
        let ranks: Vec<u32> = (0..count + singles).map(|_| rank()).collect();
        let lengths = (0..count).map(|_| random.random_range(rows.clone())).chain(std::iter::repeat_n(1, singles));
        let segments = batch(lengths.zip(ranks));
        let follows = [Follows::Itself, Follows::Another, Follows::Beside][number % 3];
        tiles.push(CHIPS.map(|chip| check(&site, &segments, chip, follows)));
    }
    for tile in RowTile::ALL {
        assert!(tiles.iter().any(|tiles| tiles.contains(&tile)), "no batch has {tile:?}");
    }
}

#[test]
fn a_tile_that_does_not_fit_is_replaced_by_the_next_smaller_unless_it_was_asked_for() {
    let site = site(4096, &[4096]);
    let tile = |chip, rows, rank| check(&site, &batch([(rows, rank)]), chip, Follows::Itself);
    let with = |shared_bytes_block_max| Chip { shared_bytes_block_max, ..CHIPS[0] };
    let (large, a100, small) = (with(232_448), with(166_912), with(101_376));
    let tiles = |rows, rank| [large, a100, small].map(|chip| tile(chip, rows, rank));
    assert_eq!(tiles(512, 16), [RowTile::Staged16; 3]);
    assert_eq!(tiles(512, 64), [RowTile::Staged32, RowTile::Staged32, RowTile::Rows8]);
    assert_eq!(tiles(200, 217), [RowTile::Wide16, RowTile::Staged16, RowTile::Rows8]);
    assert_eq!(tiles(512, 256), [RowTile::Wide16, RowTile::Rows8, RowTile::Rows8]);

    let asked = Tuning { row_tile: Some(RowTile::Staged16), ..Tuning::default() };
    let refused = Plan::new(&site, &batch([(512, 256)]), small, asked).expect_err("it needs more");
    assert!(refused.to_string().contains("smaller row tile"), "{refused}");
    let none = Plan::new(&site, &batch([(1, 256)]), with(16 << 10), Tuning::default()).expect_err("too little for any");
    assert!(none.to_string().contains("any row tile"), "{none}");
}
