//! Grids by hand, and what more of anything costs.

use super::*;

fn slotted() -> Slotted {
    Slotted {
        multiprocessors: 132,
        projections: vec![
            SlottedProjection { inputs: 4096, outputs: 4096, times: 4 },
            SlottedProjection { inputs: 4096, outputs: 11008, times: 2 },
            SlottedProjection { inputs: 11008, outputs: 4096, times: 1 },
        ],
        us_wide: 6.0,
        us_per_shrink: 0.6,
        us_per_shrink_tiles: 2.0,
        us_per_expand: 0.5,
        us_per_expand_ranks: 0.4,
        us_per_expand_rows: 0.2,
        us_per_expand_products: 0.5,
        us_per_slot: 8e-4,
        us_per_megabyte: 0.2,
        us_per_megabyte_of_rows: 0.3,
        cache_megabytes: 4.0,
        shrinks_at_once: 8,
        expands_at_once: 4,
        shrink_rounding: 0.9,
        expand_rounding: 1.0,
    }
}

fn segment(rank: u32, rows: u32) -> Segment {
    Segment { rank, prefill_rows: 0, decode_rows: rows }
}

#[test]
fn every_adapter_has_a_slot_for_each_row_tile_of_the_batch() {
    let [shrink, expand] = Slotted::grids(slotted().projections[2], &[segment(8, 40), segment(24, 30), segment(16, 1)]);
    // 344 tiles of inputs, 8 a split; 71 rows are 3 tiles of 32 and 2 of 64; 24 ranks are 2 tiles of 16.
    assert_eq!(shrink, SlottedGrid { blocks: 3 * 3 * 2 * 43, parts: 43, tiles: 8 });
    assert_eq!(expand, SlottedGrid { blocks: 3 * 2 * 32, parts: 32, tiles: 0 });
    // Of 128 rows on inputs are cut into 8.
    assert_eq!(Slotted::grids(slotted().projections[2], &[segment(8, 128)])[0].parts, 8);
}

#[test]
fn ranks_cost_as_much_as_the_largest_of_them() {
    let cost = slotted();
    let (mixed, wide) = ([segment(8, 1), segment(64, 1)], [segment(64, 1), segment(64, 1)]);
    assert_eq!(cost.us(&mixed), cost.us(&wide));
    assert!(cost.us(&[segment(8, 1), segment(8, 1)]) < cost.us(&mixed));
}

#[test]
fn another_row_rank_or_adapter_never_costs_less_while_inputs_are_cut_alike() {
    let cost = slotted();
    for adapters in [1, 3, 16, 33, 60] {
        for rows in [1, 15, 16, 32, 33, 64, 200, 3000] {
            for rank in [8, 16, 40, 128] {
                let segments = vec![segment(rank, rows); adapters];
                let us = cost.us(&segments);
                let cut = |segments: &[Segment]| Slotted::grids(cost.projections[0], segments)[0].parts;
                let mut more = [segments.clone(), segments.clone(), segments.clone(), segments.clone()];
                more[0][0].decode_rows += 1;
                more[1][0].rank += 8;
                more[2].push(segment(8, 1));
                more[3].push(segment(rank, 700));
                for more in more.iter().filter(|more| cut(more) == cut(&segments)) {
                    assert!(
                        cost.us(more) >= us,
                        "{adapters} of {rows} rows, rank {rank}: {} after {us}",
                        cost.us(more)
                    );
                }
            }
        }
    }
}
