//! Adapters of many rows, as our kernels' plan shares them out: the figures of its blocks, by the method of Levenberg and Marquardt.

use aril_sim::batch::Segment;
use aril_sim::profile::lora::{Planned, PlannedSite, PlannedTile};

use super::super::Sample;
use super::super::least_squares::any_sign;

/// What the plan knows of chip and model.
#[derive(Clone, Debug, PartialEq)]
pub(in super::super) struct Chip {
    pub(in super::super) multiprocessors: u32,
    pub(in super::super) shared_bytes: u32,
    pub(in super::super) cluster_max: u32,
    pub(in super::super) sites: Vec<PlannedSite>,
    /// The numbers of rows that the machine pads to.
    pub(in super::super) row_buckets: Vec<u32>,
}

/// Where launches stand in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Where {
    /// Behind the products.
    Behind,
    /// Beside them: most of a launch's start is hidden.
    Beside,
}

/// What is left of a launch's start beside a product, microseconds.
const BESIDE_US: f64 = 0.2;

/// Figures of a tile, and of all: what is guessed of an H200, and where a fit begins.
const TILE: [f64; 12] = [2.0, 1.0, 0.3, 0.3, 0.8, 0.02, 0.3, 0.05, 0.6, 0.7, 0.5, 0.5];
const MEMORY: [f64; 2] = [0.25, 0.1];
/// Of each site: how much longer launches take there, and what waiting for the product beside them costs.
const SITE: [f64; 2] = [1.0, 1.0];
const OF_TILES: usize = 3 * TILE.len();
/// How much a figure may be off its guess before it counts as much as an error of a percent in one sample: so little that only what nothing
/// tells stays.
const DRAWN: f64 = 0.002;
/// Errors beyond this count in proportion.
const FAR: f64 = 0.03;
const STEPS: u32 = 25;

/// What was measured of a batch: its launches apart, where they were recorded, or their sum.
struct Measured {
    segments: Vec<Segment>,
    us: f64,
    sites: Vec<f64>,
}

/// Fits the form.
pub(super) fn fit(samples: &[&Sample], chip: &Chip, place: Where) -> Option<Planned> {
    if samples.len() < 60 {
        return None;
    }
    let measured: Vec<Measured> = samples
        .iter()
        .map(|sample| Measured {
            segments: sample.shape.probe(true).segments,
            us: sample.us,
            sites: sample.parts.iter().take(chip.sites.len()).copied().collect(),
        })
        .collect();
    let mut tile = TILE;
    if place == Where::Beside {
        tile[0] = BESIDE_US;
    }
    let of_sites = SITE.iter().cycle().take(SITE.len() * chip.sites.len());
    let guess: Vec<f64> =
        tile.iter().cycle().take(OF_TILES).chain(&MEMORY).chain(of_sites).map(|figure| figure.ln()).collect();
    let mut at = guess.clone();
    let mut errors = errors(&measured, (chip, place), &at, &guess);
    let mut loss = total(&errors);
    let mut ridge = 1e-3;
    for _ in 0..STEPS {
        let weights: Vec<f64> = errors.iter().map(|error| 1.0 / (1.0 + (error / FAR).powi(2)).sqrt()).collect();
        let slopes: Vec<Vec<f64>> = (0..guess.len())
            .map(|figure| {
                let mut beside = at.clone();
                beside[figure] += SLOPE;
                let there = self::errors(&measured, (chip, place), &beside, &guess);
                there.iter().zip(&errors).map(|(there, here)| (there - here) / SLOPE).collect()
            })
            .collect();
        let target: Vec<f64> = errors.iter().map(|error| -error).collect();
        let before = loss;
        for _ in 0..6 {
            let step = any_sign(&slopes, &target, &weights, ridge);
            let next: Vec<f64> = at.iter().zip(step).map(|(at, step)| at + step.clamp(-1.0, 1.0)).collect();
            let next_errors = self::errors(&measured, (chip, place), &next, &guess);
            let next_loss = total(&next_errors);
            if next_loss < loss {
                (at, errors, loss) = (next, next_errors, next_loss);
                ridge = (ridge * 0.3_f64).max(1e-7);
                break;
            }
            ridge *= 10.0;
        }
        if loss > before * (1.0 - 1e-3) {
            break;
        }
    }
    Some(form(chip, place, &at))
}

/// For slopes: figures are logarithms.
const SLOPE: f64 = 1e-4;

fn total(errors: &[f64]) -> f64 {
    errors.iter().map(|error| (1.0 + (error / FAR).powi(2)).sqrt() - 1.0).sum()
}

/// Relative errors of all sums, or of each launch over the mean of its batch, and how far figures are from their guesses.
fn errors(measured: &[Measured], (chip, place): (&Chip, Where), at: &[f64], guess: &[f64]) -> Vec<f64> {
    let planned = form(chip, place, at);
    let mut errors = Vec::with_capacity(measured.len() * chip.sites.len() + guess.len());
    for m in measured {
        if m.sites.len() == chip.sites.len() {
            let count = m.sites.len() as f64;
            let each = planned.sites_us(&m.segments).into_iter().zip(&m.sites);
            // The error of the sum is what counts in the end.
            let sum: f64 = m.sites.iter().sum();
            let mut off = 0.0;
            for (says, us) in each {
                errors.push((says - us) / sum * count * 0.25);
                off += says - us;
            }
            errors.push(off / sum);
        } else {
            errors.push(planned.us(&m.segments) / m.us - 1.0);
        }
    }
    errors.extend(at.iter().zip(guess).map(|(at, guess)| (at - guess) * DRAWN));
    errors
}

fn form(chip: &Chip, place: Where, at: &[f64]) -> Planned {
    let figure = |index: usize| at[index].exp();
    let tile = |tile: usize| PlannedTile::of_values(std::array::from_fn(|index| figure(tile * TILE.len() + index)));
    let mut sites = chip.sites.clone();
    for (index, site) in sites.iter_mut().enumerate() {
        let first = OF_TILES + MEMORY.len() + index * SITE.len();
        site.scale = figure(first);
        // Behind a product there is nothing to wait for.
        site.us_waiting = if place == Where::Beside { figure(first + 1) } else { 0.0 };
    }
    Planned {
        multiprocessors: chip.multiprocessors,
        shared_bytes: chip.shared_bytes,
        cluster_max: chip.cluster_max,
        beside: place == Where::Beside,
        sites,
        tiles: (0..3).map(tile).collect(),
        us_per_megabyte: figure(OF_TILES),
        us_per_megabyte_of_rows: figure(OF_TILES + 1),
    }
}

#[cfg(test)]
mod tests {
    use aril_kernels::Element;
    use aril_kernels::lora::layout::{AdapterLayout, ProjectionShape};
    use aril_kernels::lora::plan::{Chip as KernelChip, Follows, Plan, Segment as KernelSegment, Site, Tuning};
    use aril_sim::model::Model;
    use rand::RngExt;

    use super::super::super::physics;
    use super::*;

    /// Rows of a tile and blocks of what the kernels' plan makes of the segments, decode rows first.
    fn planned(site: &PlannedSite, segments: &[Segment]) -> (u32, f64) {
        let shapes: Vec<_> =
            site.outputs.iter().map(|&outputs| ProjectionShape { inputs: site.inputs, outputs }).collect();
        let layout = AdapterLayout::new(&shapes).unwrap();
        let site = Site::new(Element::Bf16, layout.places()).unwrap();
        let mut end = 0;
        let mut rows = Vec::new();
        for of in [|s: &Segment| s.decode_rows, |s: &Segment| s.prefill_rows] {
            for segment in segments.iter().filter(|segment| of(segment) > 0) {
                let range = end..end + of(segment);
                end = range.end;
                rows.push(KernelSegment { rows: range, weights: 4096, rank: segment.rank, scale: 1.0 });
            }
        }
        let chip = KernelChip { multiprocessors: 132, shared_bytes_block_max: 232_448, cluster_max: 16 };
        let plan = Plan::new(&site, &rows, chip, Tuning { follows: Follows::Another, ..Tuning::default() }).unwrap();
        (plan.variant().rows.rows(), plan.jobs().len() as f64)
    }

    /// The profile's rules go by classes of equal ranks, where the plan goes group by group: mostly that is the same.
    #[test]
    fn the_rules_of_a_profile_are_those_of_the_kernels_plan() {
        let mut random = aril_sim::random::stream(1, "plans of adapters");
        let ranks = [8, 16, 32, 64, 128];
        for model in ["llama-2-7b", "llama-3.1-8b"] {
            let chip = Chip {
                multiprocessors: 132,
                sites: physics::lora_sites(&Model::named(model).unwrap(), 1),
                ..physics::lora_chip("h200")
            };
            let form = form(&chip, Where::Behind, &[0.0; OF_TILES + 10]);
            let (mut batches, mut apart) = (0, 0);
            for index in 0..300 {
                let single = (index % 2 == 0).then(|| ranks[random.random_range(0..ranks.len())]);
                let mut rank = || single.unwrap_or_else(|| ranks[random.random_range(0..ranks.len())]);
                let ranks: Vec<u32> = (0..1 + index % 41).map(|_| rank()).collect();
                let mut segments: Vec<Segment> = Vec::new();
                for rank in ranks {
                    let prompt = random.random_bool(0.1);
                    let prefill_rows = if prompt { random.random_range(2..1500) } else { 0 };
                    segments.push(Segment {
                        rank,
                        prefill_rows,
                        decode_rows: random.random_range(u32::from(!prompt)..12),
                    });
                }
                for (number, site) in chip.sites.iter().enumerate() {
                    let (tile, blocks) = form.shared(number, &segments);
                    let (plan_tile, plan_blocks) = planned(site, &segments);
                    assert_eq!(tile, plan_tile, "{segments:?}");
                    batches += 1;
                    apart += u32::from((blocks / plan_blocks - 1.0).abs() > 0.15);
                }
            }
            assert!(apart * 20 < batches, "{model}: {apart} of {batches} plans have other blocks");
        }
    }
}
