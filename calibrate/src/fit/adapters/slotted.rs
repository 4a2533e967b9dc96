//! Adapters padded to the largest rank in grids with a slot for each adapter and row tile: what blocks, slots and bytes take.

use aril_sim::batch::Segment;
use aril_sim::profile::lora::{PlannedSite, Slotted, SlottedProjection};

use super::super::Sample;
use super::super::descent::{self, Descent};
use super::planned::Chip;

/// Figures of such kernels: what an H100 and an H200 say together, where a fit begins. The first is what launches take whatever they compute.
const GUESS: [f64; 13] = [23.0, 6.3, 1.3, 2.05, 0.29, 0.43, 0.15, 0.54, 1.07e-3, 0.2, 0.37, 0.93, 0.95];
/// How much a figure may be off its guess before it counts as much as an error of a percent in one sample.
const DRAWN: f64 = 0.02;
/// Blocks that find room on a multiprocessor, and 10⁶ bytes of rows that a launch finds in the cache.
const AT_ONCE: [u32; 2] = [8, 4];
const CACHE: f64 = 4.0;
const DESCENT: Descent = Descent { far: 0.03, steps: 60, least: 1e-4 };

/// Fits the form: what launches take whatever they compute, and the rest.
pub(super) fn fit(samples: &[&Sample], chip: &Chip) -> Option<(f64, Slotted)> {
    if samples.len() < 30 {
        return None;
    }
    let measured: Vec<(Vec<Segment>, f64)> =
        samples.iter().map(|sample| (sample.shape.probe(true).segments, sample.us)).collect();
    let guess = GUESS.map(f64::ln);
    let projections = projections(&chip.sites);
    let (at, _) = descent::fit(&guess, DESCENT, |at| {
        let (us, slotted) = form(chip, &projections, at);
        let of = |(segments, measured): &(Vec<Segment>, f64)| (us + slotted.us(segments)) / measured - 1.0;
        let drawn = at.iter().zip(&guess).map(|(at, guess)| (at - guess) * DRAWN);
        measured.iter().map(of).chain(drawn).collect()
    });
    Some(form(chip, &projections, &at))
}

/// The form with these figures: their logarithms, in the order of [`GUESS`].
fn form(chip: &Chip, projections: &[SlottedProjection], at: &[f64]) -> (f64, Slotted) {
    let [shrinks_at_once, expands_at_once] = AT_ONCE;
    let mut figures = at.iter().map(|at| at.exp());
    let mut next = || figures.next().expect("as many figures as guesses");
    let us = next();
    let slotted = Slotted {
        multiprocessors: chip.multiprocessors,
        projections: projections.to_vec(),
        us_wide: next(),
        us_per_shrink: next(),
        us_per_shrink_tiles: next(),
        us_per_expand: next(),
        us_per_expand_ranks: next(),
        us_per_expand_rows: next(),
        us_per_expand_products: next(),
        us_per_slot: next(),
        us_per_megabyte: next(),
        us_per_megabyte_of_rows: next(),
        cache_megabytes: CACHE,
        shrinks_at_once,
        expands_at_once,
        shrink_rounding: next().min(1.0),
        expand_rounding: next().min(1.0),
    };
    (us, slotted)
}

/// What adapters add to, those of one shape together.
fn projections(sites: &[PlannedSite]) -> Vec<SlottedProjection> {
    let mut all: Vec<SlottedProjection> = Vec::new();
    for (inputs, outputs) in sites.iter().flat_map(|site| site.outputs.iter().map(|&outputs| (site.inputs, outputs))) {
        match all.iter_mut().find(|one| (one.inputs, one.outputs) == (inputs, outputs)) {
            Some(one) => one.times += 1,
            None => all.push(SlottedProjection { inputs, outputs, times: 1 }),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use aril_kernels::baseline::padded;
    use aril_kernels::baseline::table::Entries;
    use aril_kernels::lora::plan::Segment as KernelSegment;
    use aril_sim::model::Model;

    use super::super::super::physics;
    use super::*;

    #[test]
    fn the_grids_of_a_profile_are_those_of_the_kernels() {
        let projections = projections(&physics::lora_sites(&Model::named("llama-3.1-8b").unwrap(), 1));
        assert_eq!(projections.iter().map(|projection| projection.times).sum::<u32>(), 7);
        for (adapters, rows, rank) in [(1, 1, 8), (3, 30, 24), (7, 100, 64), (127, 1, 16), (128, 1, 16), (2, 900, 128)]
        {
            let segments = vec![Segment { rank, prefill_rows: 0, decode_rows: rows }; adapters];
            let each = (0..adapters as u32).map(|n| n * rows..(n + 1) * rows);
            let table: Vec<_> = each.map(|rows| KernelSegment { rows, weights: 4096, rank, scale: 1.0 }).collect();
            let entries = Entries::by_adapter(&table, adapters as u32 * rows, rank).unwrap();
            for &projection in &projections {
                let [shrink, expand] = Slotted::grids(projection, &segments);
                let (theirs, tiles) = (padded::shrink_grid(&entries, projection.inputs), [shrink.parts, shrink.tiles]);
                assert_eq!((shrink.blocks, tiles), (theirs.blocks, [theirs.tiles[0], theirs.tiles[1]]));
                assert_eq!(expand.blocks, padded::expand_grid(&entries, projection.outputs).blocks);
            }
        }
    }
}
