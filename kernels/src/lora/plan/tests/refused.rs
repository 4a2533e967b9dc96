//! What no plan can be made of, and that nothing else stops one.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::super::super::layout::WIDTH_MAX;
use super::*;

#[track_caller]
fn refused(result: Result<Plan, Error>, what_is_wrong: &str, why_it_is: &str) {
    match result {
        Err(Error::Shape { what, why }) => {
            assert!(what == what_is_wrong && why.contains(why_it_is), "{what}: {why}");
        }
        other => panic!("{what_is_wrong} passed, or failed otherwise: {other:?}"),
    }
}

#[test]
fn bad_segments_are_refused() {
    let right = || segment(0..2, 16);
    let far = ROWS_MAX + 1;
    for (bad, what, why) in [
        (Segment { rank: 0, ..right() }, "adapter rank", "0 is not in 1..=256"),
        (Segment { rank: 257, ..right() }, "adapter rank", "257 is not in 1..=256"),
        (Segment { weights: 8, ..right() }, "weights of segment 1", "0x8 is null or not a multiple of 16"),
        (Segment { weights: 0, ..right() }, "weights of segment 1", "0x0 is null"),
        (Segment { scale: f32::NAN, ..right() }, "adapter scale", "NaN is not a finite number"),
        (Segment { scale: f32::INFINITY, ..right() }, "adapter scale", "inf is not a finite number"),
        (Segment { scale: f32::NEG_INFINITY, ..right() }, "adapter scale", "-inf is not a finite number"),
        (Segment { rows: 0..far, ..right() }, "segment 1", "at most"),
        (Segment { rows: far - 3..far, ..right() }, "segment 1", "at most"),
        (Segment { rows: far..far, ..right() }, "segment 1", "at most"),
        (Segment { rows: u32::MAX - 9..u32::MAX, ..right() }, "segment 1", "at most"),
        (Segment { rows: Range { start: 3, end: 2 }, ..right() }, "segment 1", "in order"),
    ] {
        // Behind an empty segment, of which nothing but its rows is looked at.
        let empty = Segment { weights: 0, scale: f32::NAN, ..segment(0..0, 300) };
        let plan = |other| Plan::new(&site(4096, &[4096]), &[empty.clone(), other], CHIP, Tuning::default());
        plan(right()).expect("nothing is wrong");
        refused(plan(bad), what, why);
    }
    let overlapping = [segment(0..2, 8), segment(1..3, 8)];
    let plan = Plan::new(&site(4096, &[4096]), &overlapping, CHIP, Tuning::default());
    refused(plan, "segment 1", "must not overlap");
}

#[test]
fn a_chip_that_cannot_be_is_refused() {
    let plan = |chip| Plan::new(&site(4096, &[4096]), &[segment(0..100, 16)], chip, Tuning::default());
    for bad in [0, u32::MAX] {
        refused(plan(Chip { multiprocessors: bad, ..CHIP }), "chip", "multiprocessors");
        refused(plan(Chip { shared_bytes_block_max: bad, ..CHIP }), "chip", "bytes of shared memory a block");
        refused(plan(Chip { cluster_max: bad, ..CHIP }), "chip", "blocks in the largest cluster");
    }
    for few in [1, 1023, 1024, 1025] {
        refused(plan(Chip { shared_bytes_block_max: few, ..CHIP }), "rank 16 with 8 rows a group", "any row tile");
    }
}

#[test]
fn the_last_row_and_the_widest_projection_have_a_plan() {
    let follows = [Follows::Itself, Follows::Another, Follows::Beside];
    for (inputs, outputs) in [(WIDTH_MAX, 8), (8, WIDTH_MAX), (WIDTH_MAX, WIDTH_MAX)] {
        for (rows, rank) in [(1, 1), (20, 256), (600, 64), (600, 256)] {
            for follows in follows {
                let segments = [segment(0..1, rank), segment(ROWS_MAX - rows..ROWS_MAX, rank)];
                let tuning = Tuning { follows, ..Tuning::default() };
                let plan = Plan::new(&site(inputs, &[outputs; 4]), &segments, CHIP, tuning).expect("a valid batch");
                assert_eq!(plan.rows_end(), ROWS_MAX);
            }
        }
    }
}

/// Overflow panics here; release builds would go on with a wrong plan.
#[test]
fn whatever_it_is_given_a_plan_is_made_or_refused() {
    let mut random = ChaCha8Rng::seed_from_u64(5);
    let (mut made, mut refused) = (0, 0);
    for _ in 0..8000 {
        let mut one_of = |values: &[u32]| values[random.random_range(0..values.len())];
        let chip = Chip {
            multiprocessors: one_of(&[132, 132, 132, 108, 1, 2, 0, 1 << 16, 1 << 16, u32::MAX]),
            shared_bytes_block_max: one_of(&[232_448, 232_448, 166_912, 101_376, 0, 1023, 1 << 24, 1 << 24, u32::MAX]),
            cluster_max: one_of(&[16, 16, 1, 8, 3, 1 << 16, 0, u32::MAX]),
        };
        let widths =
            [8, 72, 1024, 4096, 4096, 4096, 11008, WIDTH_MAX, WIDTH_MAX, WIDTH_MAX - 8, WIDTH_MAX + 8, 1 << 31];
        let (inputs, outputs) = (one_of(&widths), [one_of(&widths), one_of(&widths)]);
        let mut row = one_of(&[0, 0, 0, ROWS_MAX - 700, u32::MAX - 2000]);
        let segments: Vec<_> = (0..one_of(&[1, 2, 9]))
            .map(|_| {
                let start = row;
                row += one_of(&[0, 1, 1, 17, 200]);
                segment(start..row, one_of(&[1, 8, 16, 16, 64, 64, 129, 256, 256, 256, 256, 257]))
            })
            .collect();
        let follows = [Follows::Itself, Follows::Another, Follows::Beside][one_of(&[0, 1, 2]) as usize];
        let shapes = outputs.map(|outputs| ProjectionShape { inputs, outputs });
        let plan = AdapterLayout::new(&shapes)
            .and_then(|layout| Site::new(Element::F16, layout.places()))
            .and_then(|site| Plan::new(&site, &segments, chip, Tuning { follows, ..Tuning::default() }));
        match plan {
            Ok(_) => made += 1,
            Err(error) => {
                assert!(matches!(error, Error::Shape { .. }), "{error}");
                refused += 1;
            }
        }
    }
    assert!(made > 1000 && refused > 1000, "{made} made, {refused} refused");
}
