//! Adapters of many rows, as our kernels' plan shares them out: the figures of its blocks, by the method of Levenberg and Marquardt.

use aril_sim::batch::Segment;
use aril_sim::profile::lora::{Planned, PlannedBeside, PlannedSite, PlannedTile};

use super::super::Sample;
use super::super::descent::{self, Descent};

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

/// Figures of a tile, and of all: what is guessed of an H200, and where a fit begins.
const TILE: [f64; PlannedTile::FIGURES] =
    [2.0, 1.0, 0.3, 0.3, 0.8, 0.02, 0.3, 0.05, 0.6, 0.7, 0.5, 0.5, 0.3, 0.05, 0.02, 0.15];
const MEMORY: [f64; 3] = [0.25, 0.1, 0.05];
/// The same beside a product, which hides most of a launch's start, of all models and both chips together.
const TILE_BESIDE: [f64; PlannedTile::FIGURES] =
    [0.25, 2.2, 0.12, 0.65, 0.17, 0.013, 0.43, 0.2, 0.06, 0.7, 0.5, 0.5, 0.3, 0.05, 0.12, 0.15];
const MEMORY_BESIDE: [f64; 3] = [0.21, 0.23, 0.036];
/// The cache, 10⁶ bytes, those after which it holds nothing, and what those beyond it take more.
const CACHE: [f64; 3] = [20.0, 20.0, 0.3];
/// Of each site: how much longer launches take there, what waiting for the product beside them costs, what that hides of them, and how much
/// longer the memory takes of those that wait.
const SITE: [f64; 4] = [1.0, 0.05, 5.0, 0.05];
/// Of each kind of tile of a site behind products, and of each figure of a site beside those of more rows: how many times as much.
const SCALE: f64 = 1.0;
/// What a figure counts that is off its guess by a factor of e, as an error of one sample: so little that only what little tells stays.
const DRAWN: f64 = 0.01;
const DRAWN_BESIDE: f64 = 0.02;
/// The same of scales of tiles, of which some have few launches, and of figures beside products of more rows.
const SCALE_DRAWN: f64 = 0.1;
const MORE_DRAWN: f64 = 0.05;
/// The rows from which on products beside launches are other kernels (`gemm/few_rows.rs` of `aril-kernels`).
const MORE_ROWS: [u32; 2] = [9, 17];
/// Errors beyond this count in proportion.
const FAR: f64 = 0.03;
/// Steps at most, and the least share of the loss that one must gain; beside a product, where much is hidden, the way is long and flat.
const STEPS: [(u32, f64); 2] = [(25, 1e-3), (100, 1e-4)];

/// What was measured of a batch: its launches apart, where they were recorded, or their sum.
struct Measured {
    segments: Vec<Segment>,
    rows: u32,
    us: f64,
    sites: Vec<f64>,
}

/// Where a figure begins, a logarithm, and how much it counts to be off that.
#[derive(Clone, Copy)]
struct Guess {
    at: f64,
    drawn: f64,
}

/// What kernels there may be: today's, and those before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kernels {
    /// Kinds of tiles.
    tiles: usize,
    /// [`Planned::alone`], [`Planned::packs`] and [`Planned::prompts`], which came one after the other.
    packs: bool,
    /// [`Planned::mixed`].
    mixed: bool,
    /// [`Planned::dealt`].
    dealt: bool,
}

const NOW: Kernels = Kernels { tiles: 4, packs: true, mixed: true, dealt: true };
/// Groups whose ranks differ were shared out by bytes.
const BEFORE: Kernels = Kernels { tiles: 4, packs: true, mixed: false, dealt: true };
/// Beside a product there are few rows, which all kernels share out alike.
const FEW_ROWS: Kernels = Kernels { tiles: 3, packs: false, mixed: false, dealt: true };
/// Nothing is hidden there of what cache and memory serve.
const FEW_ROWS_ADDED: Kernels = Kernels { dealt: false, ..FEW_ROWS };

/// What a form is made for.
#[derive(Clone, Copy)]
struct For<'a> {
    chip: &'a Chip,
    place: Where,
    kernels: Kernels,
}

/// Fits the form, by the rules of today's kernels and, for recordings of older ones, of those before, or beside products with memory and cache that
/// hide part of each other and with those that do not: whichever says it better.
pub(super) fn fit(samples: &[&Sample], chip: &Chip, place: Where) -> Option<Planned> {
    if samples.len() < 60 {
        return None;
    }
    let kernels = if place == Where::Behind { vec![NOW, BEFORE] } else { vec![FEW_ROWS, FEW_ROWS_ADDED] };
    let fits = kernels.into_iter().map(|kernels| fit_for(samples, For { chip, place, kernels }));
    fits.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(planned, _)| planned)
}

/// The form of some kernels, and its loss.
fn fit_for(samples: &[&Sample], form_of: For<'_>) -> (Planned, f64) {
    let For { chip, place, kernels } = form_of;
    let measured: Vec<Measured> = samples
        .iter()
        .map(|sample| Measured {
            segments: sample.shape.probe(true).segments,
            rows: sample.shape.rows(),
            us: sample.us,
            sites: sample.parts.iter().take(chip.sites.len()).copied().collect(),
        })
        .collect();
    let (tile, memory, drawn) = match place {
        Where::Behind => (TILE, MEMORY, DRAWN),
        Where::Beside => (TILE_BESIDE, MEMORY_BESIDE, DRAWN_BESIDE),
    };
    let of_sites = SITE.iter().cycle().take(SITE.len() * chip.sites.len());
    let figures = tile.iter().cycle().take(kernels.tiles * TILE.len()).chain(&memory).chain(&CACHE).chain(of_sites);
    let (scales, scale_drawn) = match place {
        Where::Behind => (kernels.tiles * chip.sites.len(), SCALE_DRAWN),
        Where::Beside => (MORE_ROWS.len() * SITE.len() * chip.sites.len(), MORE_DRAWN),
    };
    let guess: Vec<Guess> = figures
        .map(|figure| Guess { at: figure.ln(), drawn })
        .chain((0..scales).map(|_| Guess { at: SCALE.ln(), drawn: scale_drawn }))
        .collect();
    let (steps, least) = STEPS[usize::from(place == Where::Beside)];
    let begin: Vec<f64> = guess.iter().map(|guess| guess.at).collect();
    let (at, loss) =
        descent::fit(&begin, Descent { far: FAR, steps, least }, |at| errors(&measured, form_of, at, &guess));
    (form(form_of, &at), loss)
}

/// Relative errors of all sums, or of each launch over the mean of its batch, and how far figures are from their guesses.
fn errors(measured: &[Measured], form_of: For<'_>, at: &[f64], guess: &[Guess]) -> Vec<f64> {
    let (planned, chip) = (form(form_of, at), form_of.chip);
    let mut errors = Vec::with_capacity(measured.len() * chip.sites.len() + guess.len());
    for m in measured {
        if m.sites.len() == chip.sites.len() {
            let count = m.sites.len() as f64;
            let each = planned.sites_us(&m.segments, m.rows).into_iter().zip(&m.sites);
            // The error of the sum is what counts in the end.
            let sum: f64 = m.sites.iter().sum();
            let mut off = 0.0;
            for (says, us) in each {
                errors.push((says - us) / sum * count * 0.25);
                off += says - us;
            }
            errors.push(off / sum);
        } else {
            errors.push(planned.us(&m.segments, m.rows) / m.us - 1.0);
        }
    }
    errors.extend(at.iter().zip(guess).map(|(at, guess)| (at - guess.at) * guess.drawn));
    errors
}

fn form(For { chip, place, kernels }: For<'_>, at: &[f64]) -> Planned {
    let of_tiles = kernels.tiles * TILE.len();
    let figure = |index: usize| at[index].exp();
    let behind = place == Where::Behind;
    let tile = |tile: usize| {
        let figures = PlannedTile::of_values(std::array::from_fn(|index| figure(tile * TILE.len() + index)));
        // In rounds the last one is what it is.
        if behind { PlannedTile { rounding: 0.0, ..figures } } else { figures }
    };
    let mut sites = chip.sites.clone();
    let of_sites = of_tiles + MEMORY.len() + CACHE.len();
    let beyond = of_sites + SITE.len() * sites.len();
    for (index, site) in sites.iter_mut().enumerate() {
        let first = of_sites + index * SITE.len();
        site.scale = figure(first);
        // Behind a product there is nothing to wait for, and nothing hides.
        if behind {
            let scales = beyond + index * kernels.tiles;
            site.scales = (scales..scales + kernels.tiles).map(figure).collect();
            continue;
        }
        (site.us_waiting, site.us_hidden, site.waiting) = (figure(first + 1), figure(first + 2), figure(first + 3));
        let more = |number: usize| {
            let first = beyond + (number * chip.sites.len() + index) * SITE.len();
            PlannedBeside {
                rows: MORE_ROWS[number],
                scale: site.scale * figure(first),
                us_waiting: site.us_waiting * figure(first + 1),
                us_hidden: site.us_hidden * figure(first + 2),
                waiting: site.waiting * figure(first + 3),
            }
        };
        site.more_rows = (0..MORE_ROWS.len()).map(more).collect();
    }
    Planned {
        multiprocessors: chip.multiprocessors,
        shared_bytes: chip.shared_bytes,
        cluster_max: chip.cluster_max,
        beside: place == Where::Beside,
        alone: kernels.packs,
        packs: kernels.packs,
        prompts: kernels.packs,
        mixed: kernels.mixed,
        rounds: place == Where::Behind,
        dealt: kernels.dealt,
        sites,
        tiles: (0..kernels.tiles).map(tile).collect(),
        us_per_megabyte: figure(of_tiles),
        us_per_megabyte_of_rows: figure(of_tiles + 1),
        us_per_megabyte_again: figure(of_tiles + 2),
        // Beside a product few rows are written, which the cache holds.
        cache_megabytes: if place == Where::Beside { 0.0 } else { figure(of_tiles + 3) },
        cache_megabytes_more: if place == Where::Beside { 0.0 } else { figure(of_tiles + 4) },
        us_per_megabyte_beyond: if place == Where::Beside { 0.0 } else { figure(of_tiles + 5) },
    }
}

#[cfg(test)]
mod tests {
    use aril_kernels::Element;
    use aril_kernels::lora::layout::{AdapterLayout, ProjectionShape};
    use aril_kernels::lora::plan::{Chip as KernelChip, Follows, Plan, Segment as KernelSegment, Site, Tuning};
    use aril_kernels::lora::variant::RowTile;
    use aril_sim::model::Model;
    use aril_sim::profile::lora::{LoraKernel, SharedOut};
    use rand::RngExt;

    use super::super::super::physics;
    use super::*;
    use crate::machine::StepShape;

    /// The form of today's kernels, behind products, with any figures.
    fn unfitted(chip: &Chip) -> Planned {
        let of_sites = (SITE.len() + NOW.tiles) * chip.sites.len();
        let figures = NOW.tiles * TILE.len() + MEMORY.len() + CACHE.len() + of_sites;
        form(For { chip, place: Where::Behind, kernels: NOW }, &vec![0.0; figures])
    }

    /// What the kernels' plan makes of the segments, decode rows first.
    fn planned(site: &PlannedSite, segments: &[Segment]) -> SharedOut {
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
        // A group of one block exchanges nothing either: of those that stand alone there are several with the same inputs.
        let mut groups: std::collections::BTreeMap<(u32, u32), (u32, u32)> = std::collections::BTreeMap::new();
        for job in plan.jobs() {
            let (members, blocks) = groups.entry((job.row, job.projection)).or_default();
            (*members, *blocks) = (job.members, *blocks + 1);
        }
        SharedOut {
            rows: plan.variant().rows.rows(),
            wide: plan.variant().rows == RowTile::Wide16,
            blocks: plan.jobs().len() as f64,
            alone: groups.values().any(|&(members, blocks)| members == 1 && blocks > 1),
        }
    }

    /// The profile's rules go by classes of equal ranks, where the plan goes group by group: mostly that is the same.
    #[test]
    fn the_rules_of_a_profile_are_those_of_the_kernels_plan() {
        let mut random = aril_sim::random::stream(1, "plans of adapters");
        let ranks = [8, 16, 32, 64, 128];
        let (mut wide, mut alone) = (0, 0);
        for (model, degree) in [("llama-2-7b", 1), ("llama-3.1-8b", 1), ("llama-3.1-70b", 8)] {
            let chip = Chip {
                multiprocessors: 132,
                sites: physics::lora_sites(&Model::named(model).unwrap(), degree),
                ..physics::lora_chip("h200")
            };
            let form = unfitted(&chip);
            let (mut batches, mut apart) = (0, 0);
            for index in 0..900 {
                let single = (index % 2 == 0).then(|| ranks[random.random_range(0..ranks.len())]);
                let mut rank = || single.unwrap_or_else(|| ranks[random.random_range(0..ranks.len())]);
                let ranks: Vec<u32> = (0..1 + index % 41).map(|_| rank()).collect();
                let mut segments: Vec<Segment> = Vec::new();
                // Among mixed batches some of one row an adapter, and some of prompts alone, a few of one rank.
                let kind = index % 5;
                let of_prompts = [32, 64, 16, 128, 8][index / 5 % 5];
                let ranks = if kind == 4 { vec![of_prompts; 1 + index % 6] } else { ranks };
                for rank in ranks {
                    let (decode_rows, prefill_rows) = match kind {
                        3 => (1, 0),
                        4 => (0, random.random_range(40..400)),
                        _ if random.random_bool(0.1) => (random.random_range(0..12), random.random_range(2..1500)),
                        _ => (random.random_range(1..12), 0),
                    };
                    segments.push(Segment { rank, prefill_rows, decode_rows });
                }
                for (number, site) in chip.sites.iter().enumerate() {
                    let (plan, here) = (planned(site, &segments), form.shared_out(number, &segments));
                    assert_eq!((here.rows, here.wide), (plan.rows, plan.wide), "{segments:?}");
                    wide += u32::from(plan.wide);
                    alone += u32::from(plan.alone);
                    batches += 1;
                    apart += u32::from((here.blocks / plan.blocks - 1.0).abs() > 0.15 || here.alone != plan.alone);
                }
            }
            assert!(apart * 100 < batches, "{model}: {apart} of {batches} plans have other blocks");
        }
        assert!(wide > 10 && alone > 5, "{wide} {alone}");
    }

    /// Few groups have limits of their own: by how many there are, and how long.
    #[test]
    fn a_few_groups_of_equal_rank_have_as_many_blocks_as_in_the_kernels_plan() {
        let mut seen = std::collections::BTreeSet::new();
        for (model, degree) in [("llama-2-7b", 1), ("llama-2-13b", 1), ("llama-3.1-8b", 1), ("llama-3.1-70b", 8)] {
            let chip = Chip {
                multiprocessors: 132,
                sites: physics::lora_sites(&Model::named(model).unwrap(), degree),
                ..physics::lora_chip("h200")
            };
            let form = unfitted(&chip);
            for (groups, rank) in (1..=12).flat_map(|groups| [8, 16, 32, 64, 128].map(|rank| (groups, rank))) {
                for rows in [1, 2, 8] {
                    let segments = vec![Segment { rank, prefill_rows: 0, decode_rows: rows }; groups];
                    for (number, site) in chip.sites.iter().enumerate() {
                        let (plan, here) = (planned(site, &segments), form.shared_out(number, &segments));
                        assert_eq!(here, plan, "{model}, site {number}: {groups} x rank {rank}, {rows} rows");
                        seen.insert((plan.blocks / (groups * site.outputs.len()) as f64) as u32);
                    }
                }
            }
        }
        // The limit of long groups is among them, and several clusters a group.
        assert!(seen.contains(&12) && seen.last() > Some(&16), "{seen:?}");
    }

    /// Launches hide otherwise beside the kernels of products of more rows.
    #[test]
    fn what_products_of_more_rows_hide_is_found() {
        let chip = Chip {
            multiprocessors: 132,
            sites: physics::lora_sites(&Model::named("llama-2-7b").unwrap(), 1),
            ..physics::lora_chip("h200")
        };
        let figures = TILE_BESIDE.iter().cycle().take(FEW_ROWS.tiles * TILE.len()).chain(&MEMORY_BESIDE).chain(&CACHE);
        let of_sites = (SITE.len() * (1 + MORE_ROWS.len())) * chip.sites.len();
        let mut at: Vec<f64> =
            figures.chain(SITE.iter().cycle().take(SITE.len() * chip.sites.len())).map(|f| f.ln()).collect();
        at.resize(FEW_ROWS.tiles * TILE.len() + MEMORY.len() + CACHE.len() + of_sites, 0.0);
        let mut truth = form(For { chip: &chip, place: Where::Beside, kernels: FEW_ROWS }, &at);
        for site in &mut truth.sites {
            (site.more_rows[0].us_hidden, site.more_rows[1].us_hidden) = (4.0, 3.0);
        }
        let of = |(rank, adapters, rows): (u32, usize, u32)| {
            let shape = StepShape::decode(adapters as u32 * rows, 16).with_adapters(rank, &vec![rows; adapters]);
            let parts = truth.sites_us(&shape.probe(true).segments, shape.rows());
            Sample { shape, kernel: LoraKernel::Segmented, us: parts.iter().sum(), parts }
        };
        let samples: Vec<Sample> = [8, 16, 32, 64, 128]
            .into_iter()
            .flat_map(|rank| [1, 2, 3, 6, 8, 12, 16, 24, 32].map(|adapters| (rank, adapters)))
            .flat_map(|(rank, adapters)| [1, 2, 4, 8].map(|rows| (rank, adapters, rows)))
            .filter(|(_, adapters, rows)| *adapters as u32 * rows <= 32)
            .map(of)
            .collect();
        let fitted = fit(&samples.iter().collect::<Vec<_>>(), &chip, Where::Beside).unwrap();
        for sample in &samples {
            let says = fitted.us(&sample.shape.probe(true).segments, sample.shape.rows());
            assert!((says / sample.us - 1.0).abs() < 0.02, "{says} for {}: {:?}", sample.us, sample.shape);
        }
    }
}
