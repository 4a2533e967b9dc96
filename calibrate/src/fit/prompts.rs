//! Prefill attention: tiles of query rows as a kernel deals them out, or pairs of queries and keys, whichever says it better.

use aril_sim::profile::attention::{
    PrefillAttention, PromptCost, PromptQuantity, PromptSums, PromptTerm, PromptWork, Split, SplitMemory, TileSize,
    TileSums, Tiled, Together,
};
use aril_sim::profile::curve::Curve;

use super::Sample;
use super::bounds::{self, Column};

/// Query rows of a tile that are tried.
const TILES: [u32; 4] = [1, 16, 64, 128];

/// What bounds the attention of prompts, from the model and the chip.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct PromptPhysics {
    /// A thousand pairs of a query and a key, all heads of this GPU, at the peak; microseconds.
    pub(super) kilopair_us: f64,
    /// Query heads of this GPU, and how many of them share a tile: those of a KV head, up to 16, where they divide evenly.
    pub(super) heads: u32,
    pub(super) packed: u32,
    /// Multiprocessors.
    pub(super) multiprocessors: u32,
}

/// Fits every form and keeps the best.
pub(super) fn fit(samples: &[Sample], physics: PromptPhysics) -> Option<PrefillAttention> {
    let samples: Vec<&Sample> = samples.iter().filter(|sample| !sample.shape.prompts.is_empty()).collect();
    if samples.len() < 8 {
        return None;
    }
    let together = TILES
        .into_iter()
        .map(|tile| with_tile(&samples, tile, physics.kilopair_us))
        .map(|(together, loss)| (PromptCost::Together(together), loss));
    // Kernels of before the heads of a KV head shared tiles had one each.
    let packed = if physics.packed > 1 { vec![physics.packed, 1] } else { vec![1] };
    let tiled = packed
        .into_iter()
        .filter_map(|packed| tiled(&samples, PromptPhysics { packed, ..physics }))
        .map(|(tiled, loss)| (PromptCost::Tiles(tiled), loss));
    let (prompt, _) = together.chain(tiled).min_by(|a, b| a.1.total_cmp(&b.1))?;
    Some(PrefillAttention { us: 0.0, prompt })
}

/// Query rows of the tiles that kernels choose among.
const SIZES: [u32; 2] = [64, 128];
/// What beginning and ending a tile may take, in keys.
const START_KEYS: [f64; 6] = [30.0, 60.0, 90.0, 120.0, 160.0, 400.0];
/// What a tile without any row may take, over a full one.
const EMPTY_SHARES: [f64; 6] = [0.1, 0.2, 0.3, 0.45, 0.65, 1.0];

/// What a key may take a block that has a multiprocessor for itself, over one that shares it: of tall tiles half, for matrix instructions bound
/// them; short ones wait for keys, beside another or alone.
const ALONE: [&[f64]; 2] = [&[0.6, 0.5, 0.7, 0.85, 1.0], &[0.5]];

/// By what our kernel's plan chooses the size: a key of either, and what it takes a tile's beginning to cost. A test compares both.
const PLANNED: [f64; 2] = [1.135, 2.0];
const PLANNED_START_KEYS: f64 = 160.0;
/// By what it cuts the keys of tiles: units of keys, the least quota, and what joining is taken to cost.
const SPLIT_KEYS: u32 = 64;
const SPLIT_QUOTA_MIN: u32 = 4;
const SPLIT_JOIN_KEYS: f64 = 200.0;

/// How a block's way through its keys is counted.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Walks {
    start_keys: f64,
    empty_share: f64,
    join_keys: f64,
    turn_keys: f64,
    key_tile: u32,
}

/// What joining the pieces of a tile may take, in keys.
const JOIN_KEYS: [f64; 4] = [0.0, 100.0, 200.0, 350.0];
/// And each turn of it.
const TURN_KEYS: [f64; 6] = [0.0, 12.0, 24.0, 36.0, 50.0, 70.0];

/// Of fewer batches of a size nothing is fitted.
const SAMPLES_OF_A_SIZE: usize = 6;
/// So many batches tell what others ask of the memory from the way of one tile.
const SAMPLES_LEAST: usize = 12;

/// A form without coefficients.
fn bare(physics: PromptPhysics, walks: Walks, sizes: &[u32], planned: bool) -> Tiled {
    let Walks { start_keys, empty_share, join_keys, turn_keys, key_tile } = walks;
    let packed = physics.packed.max(1);
    let size = |(index, &places): (usize, &u32)| TileSize {
        // Places of a tile are pairs of a token and a head.
        rows: places / packed,
        us: 0.0,
        us_per_key: 0.0,
        us_per_key_crowded: 0.0,
        us_per_mean_key: 0.0,
        us_per_row: 0.0,
        us_per_token: 0.0,
        us_taken: 0.0,
        us_per_block: 0.0,
        busy: Curve::constant(0.0),
        planned: if planned { PLANNED[index] } else { 0.0 },
        alone: if planned { ALONE[index][0] } else { 0.0 },
    };
    let sizes: Vec<TileSize> = sizes.iter().enumerate().map(size).collect();
    let split = planned.then(|| Split {
        keys: SPLIT_KEYS,
        quota_min: SPLIT_QUOTA_MIN,
        planned_join_keys: SPLIT_JOIN_KEYS,
        join_keys,
        turn_keys,
        packed,
        us_filled: vec![0.0; sizes.len()],
        memory: vec![SplitMemory::default(); sizes.len()],
        sizes: sizes.clone(),
    });
    Tiled {
        heads: physics.heads / packed,
        slots: 2 * physics.multiprocessors,
        start_keys,
        empty_share,
        planned_start_keys: if planned { PLANNED_START_KEYS } else { 0.0 },
        key_tile,
        sizes,
        split,
    }
}

/// The form of tiles, with our plan's choice of their size and without: what a tile's beginning takes first, then what empty warps save.
fn tiled(samples: &[&Sample], physics: PromptPhysics) -> Option<(Tiled, f64)> {
    let better = |a: &(Tiled, f64), b: &(Tiled, f64)| a.1.total_cmp(&b.1);
    let best = |planned: bool, sizes: &[u32]| {
        let with = |walks: Walks| Some((walks, with_sizes(samples, bare(physics, walks, sizes, planned), physics)?));
        let best = |walks: Vec<Walks>| walks.into_iter().filter_map(with).min_by(|a, b| better(&a.1, &b.1));
        // How keys are walked is known of our kernel only.
        let key_tile = if planned { SPLIT_KEYS } else { 1 };
        let first =
            Walks { start_keys: 0.0, empty_share: 0.4, join_keys: JOIN_KEYS[2], turn_keys: TURN_KEYS[2], key_tile };
        let (walks, _) = best(START_KEYS.map(|start_keys| Walks { start_keys, ..first }).to_vec())?;
        let (walks, found) = best(EMPTY_SHARES.map(|empty_share| Walks { empty_share, ..walks }).to_vec())?;
        if !planned {
            return Some(found);
        }
        let (walks, _) = best(JOIN_KEYS.map(|join_keys| Walks { join_keys, ..walks }).to_vec())?;
        let (walks, _) = best(TURN_KEYS.map(|turn_keys| Walks { turn_keys, ..walks }).to_vec())?;
        // A few blocks walk a tile of few keys sooner than a crowd walks a full one, which counting single keys may say better.
        best([key_tile, 1].map(|key_tile| Walks { key_tile, ..walks }).to_vec()).map(|(_, found)| found)
    };
    let one = SIZES.into_iter().filter_map(|rows| best(false, &[rows]));
    [best(true, &SIZES), best(false, &SIZES)].into_iter().flatten().chain(one).min_by(better)
}

/// Which size of tile a batch had, and whether its keys were cut, is what the plan says, or is found by turns: fit each to its batches, give
/// each batch to the quicker, again.
fn with_sizes(samples: &[&Sample], mut form: Tiled, physics: PromptPhysics) -> Option<(Tiled, f64)> {
    let us: Vec<f64> = samples.iter().map(|sample| sample.us).collect();
    let prompts = |sample: &Sample| sample.shape.prompt_pairs().collect::<Vec<_>>();
    let sizes = form.sizes.len();
    let forms = if form.split.is_some() { 2 * sizes } else { sizes };
    let sums_of = |form: &Tiled, index: usize, alone: f64| -> Vec<TileSums> {
        let size = |index: usize| TileSize { alone, ..form.sizes[index].clone() };
        let of = |sample: &&Sample| {
            let prompts = prompts(sample).into_iter();
            if index < sizes { form.sums(prompts, &size(index)) } else { form.split_sums(prompts, index - sizes) }
        };
        samples.iter().map(of).collect()
    };
    let mut sums: Vec<Vec<TileSums>> =
        (0..forms).map(|index| sums_of(&form, index, form.sizes[index % sizes].alone)).collect();
    // Tall tiles read keys half as often: a first guess.
    let guess = |size: usize, i: usize| {
        let rows = f64::from(form.sizes[size].rows);
        sums[size][i].busy * rows * if size == 0 { 1.15 } else { 1.0 }
    };
    let least = |of: &dyn Fn(usize, usize) -> f64, i: usize| (0..sizes).min_by(|&a, &b| of(a, i).total_cmp(&of(b, i)));
    let planned: Option<Vec<usize>> = samples.iter().map(|sample| form.planned(prompts(sample).into_iter())).collect();
    let mut owner: Vec<usize> =
        planned.clone().unwrap_or_else(|| (0..us.len()).filter_map(|i| least(&guess, i)).collect());
    let mut best: Option<(Tiled, f64)> = None;
    for _ in 0..4 {
        let mut fitted: Vec<Option<OneSize>> = vec![None; forms];
        for (index, fitted) in fitted.iter_mut().enumerate() {
            let mine: Vec<usize> = (0..us.len()).filter(|&i| owner[i] == index).collect();
            if mine.len() < SAMPLES_OF_A_SIZE || index >= sizes {
                continue;
            }
            // A slot's key is that many pairs of all slots at once.
            let rows = f64::from(form.sizes[index % sizes].rows);
            let lower = physics.kilopair_us * 1e-3 * rows * f64::from(form.slots) / f64::from(form.heads);
            let with = |all: &[TileSums]| {
                let (us, sums): (Vec<f64>, Vec<TileSums>) = mine.iter().map(|&i| (us[i], all[i])).unzip();
                one_size(&us, &sums, lower, planned.is_some(), planned.is_some() && index == 0)
            };
            let mut best = with(&sums[index]);
            // Where the plan is known, what a key takes that shares nothing is tried.
            if planned.is_some() {
                for alone in &ALONE[index][1..] {
                    let other = sums_of(&form, index, *alone);
                    let found = with(&other);
                    if found.loss < best.loss {
                        (best, sums[index], form.sizes[index].alone) = (found, other, *alone);
                    }
                }
            }
            *fitted = Some(best);
        }
        if form.split.is_some() {
            let mine =
                |index: usize| (0..us.len()).filter(|&i| owner[i] == index).map(|i| (us[i], sums[index][i])).unzip();
            let batches: Vec<(Vec<f64>, Vec<TileSums>)> = (sizes..forms).map(mine).collect();
            fitted.splice(sizes.., pieces(&batches));
        }
        // What too few batches had costs what its kind does with the other size, or whole.
        let like = |index: usize| {
            let kind = index / sizes * sizes;
            let others = (kind..kind + sizes).chain([index % sizes]);
            let found = |other: usize| {
                let OneSize { size, memory, filled, loss } = fitted[other].clone()?;
                // As the plan takes the two to differ.
                let key = |index: usize| form.sizes[index % sizes].planned;
                let longer = if key(other) > 0.0 { key(index) / key(other) } else { 1.0 };
                Some(OneSize { size: scaled(size, longer), memory, filled, loss })
            };
            std::iter::once(index).chain(others).find_map(found)
        };
        let all: Vec<OneSize> = (0..forms).map(like).collect::<Option<_>>()?;
        for (index, OneSize { size: found, memory, filled, .. }) in all.into_iter().enumerate() {
            let size = match form.split.as_mut() {
                Some(split) if index >= sizes => {
                    split.memory[index - sizes] = memory;
                    split.us_filled[index - sizes] = filled;
                    &mut split.sizes[index - sizes]
                }
                _ => &mut form.sizes[index],
            };
            let TileSize { rows, planned, alone, .. } = *size;
            *size = TileSize { rows, planned, alone, ..found };
        }
        let says = |index: usize, i: usize| match &form.split {
            Some(split) if index >= sizes => split.us(index - sizes, &sums[index][i]),
            _ => form.sizes[index].us(&sums[index][i]),
        };
        let told = |i: usize| match &planned {
            Some(planned) => says(planned[i], i),
            None => (0..sizes).map(|size| says(size, i)).fold(f64::INFINITY, f64::min),
        };
        let loss = (0..us.len()).map(|i| bounds::huber(told(i) / us[i] - 1.0)).sum();
        if best.as_ref().is_none_or(|(_, least)| loss < *least) {
            best = Some((form.clone(), loss));
        }
        let next: Vec<usize> = (0..us.len()).filter_map(|i| least(&says, i)).collect();
        if next == owner || planned.is_some() {
            break;
        }
        owner = next;
    }
    best
}

/// Tiles whose keys take so many times as long.
fn scaled(size: TileSize, longer: f64) -> TileSize {
    let busy = match size.busy {
        Curve::Table { rows, us } => Curve::Table { rows, us: us.into_iter().map(|us| us * longer).collect() },
        Curve::Affine { us, us_per_row } => Curve::Affine { us: us * longer, us_per_row: us_per_row * longer },
        other => other,
    };
    let (us_per_key, us_per_key_crowded) = (size.us_per_key * longer, size.us_per_key_crowded * longer);
    TileSize { us_per_key, us_per_key_crowded, busy, ..size }
}

/// What tiles of one size take, and how well that says it.
#[derive(Clone, Debug)]
struct OneSize {
    size: TileSize,
    /// Where keys are cut: what the memory takes, and leaving and joining the sums of full tiles.
    memory: SplitMemory,
    filled: f64,
    loss: f64,
}

/// Both bounds of one size of tile. Where the plan is known the busiest slot takes its keys, each alike, and its
/// blocks; else what else there is bends the line.
/// `short`: so many batches are no longer than one tile that what others ask of the memory beside it can be told.
fn one_size(us: &[f64], sums: &[TileSums], least_us_per_key: f64, planned: bool, short: bool) -> OneSize {
    let of = |value: &dyn Fn(&TileSums) -> f64| -> Vec<f64> { sums.iter().map(value).collect() };
    let busy = of(&|s| s.busy);
    let mut path = vec![
        Column::new(vec![1.0; us.len()]),
        Column::new(of(&|s| s.longest)),
        Column::new(of(&|s| s.longest * s.crowded)),
    ];
    if short && us.len() >= SAMPLES_LEAST {
        path.extend([of(&|s| s.mean), of(&|s| s.taken)].map(Column::new));
    }
    let mut all = vec![Column::new(vec![1.0; us.len()]), Column { values: busy.clone(), lower: least_us_per_key }];
    let knots = log_knots(&busy, (us.len() / 6).clamp(2, 7));
    if planned {
        all.push(Column::new(of(&|s| s.blocks)));
    } else {
        all.extend(bounds::ramps(&busy, &knots));
    }
    // While one tile is the whole way, nothing else bounds it.
    let start: Vec<usize> = sums.iter().map(|s| usize::from(s.busy > s.longest * 1.1)).collect();
    let starts = vec![start, vec![1; us.len()], vec![0; us.len()]];
    let fit = bounds::fit(&[path, all], us, &starts);
    let (path, all) = (&fit.coefficients[0], &fit.coefficients[1]);
    let busy = if planned {
        Curve::Affine { us: all[0], us_per_row: all[1] }
    } else {
        let (rows, ramp) = bounds::ramp_table(&knots, &all[2..]);
        let us = rows.iter().zip(&ramp).map(|(busy, ramp)| all[0] + all[1] * busy + ramp).collect();
        Curve::Table { rows, us }
    };
    let us_per_block = if planned { all[2] } else { 0.0 };
    let size = TileSize { busy, us_per_block, ..way(path) };
    OneSize { size, memory: SplitMemory::default(), filled: 0.0, loss: fit.loss }
}

/// The way of the longest tile, of coefficients of: once, a key, a key in a crowd, a key of the mean, all slots, a row, a token; the last of them may be left out.
fn way(coefficients: &[f64]) -> TileSize {
    let of = |index: usize| coefficients.get(index).copied().unwrap_or(0.0);
    TileSize {
        rows: 0,
        us: of(0),
        us_per_key: of(1),
        us_per_key_crowded: of(2),
        us_per_mean_key: of(3),
        us_taken: of(4),
        us_per_block: 0.0,
        us_per_row: of(5),
        us_per_token: of(6),
        busy: Curve::constant(0.0),
        planned: 0.0,
        alone: 0.0,
    }
}

/// Pieces are all computed at once: the way of the longest, or the memory's, which is one for tiles of every size; and around either what tiles
/// full of rows leave and join. Or the way of a tile in one piece: batches where that is the longest tell nothing of the others.
///
/// Of the batches of each size; none for a size with too few.
fn pieces(batches: &[(Vec<f64>, Vec<TileSums>)]) -> Vec<Option<OneSize>> {
    let told = |(us, sums): &(Vec<f64>, Vec<TileSums>)| -> Vec<(f64, TileSums)> {
        let all = || us.iter().copied().zip(sums.iter().copied());
        let cut: Vec<(f64, TileSums)> = all().filter(|(_, s)| s.whole <= s.longest).collect();
        if all().count() < SAMPLES_OF_A_SIZE {
            Vec::new()
        } else if cut.len() >= 8 {
            cut
        } else {
            all().collect()
        }
    };
    let told: Vec<Vec<(f64, TileSums)>> = batches.iter().map(told).collect();
    let all: Vec<(usize, f64, TileSums)> =
        told.iter().enumerate().flat_map(|(size, told)| told.iter().map(move |&(us, s)| (size, us, s))).collect();
    if all.is_empty() {
        return vec![None; batches.len()];
    }
    let of = |value: &dyn Fn(&TileSums) -> f64| -> Vec<f64> { all.iter().map(|(_, _, s)| value(s)).collect() };
    let context = of(&|s| s.context);
    // The quickest of each size.
    let least: Vec<f64> =
        told.iter().map(|told| told.iter().map(|(us, _)| *us).fold(f64::INFINITY, f64::min)).collect();
    let columns = |size: usize| {
        let mine = |value: &dyn Fn(&TileSums) -> f64| -> Column {
            Column::new(all.iter().map(|(of, _, s)| if *of == size { value(s) } else { 0.0 }).collect())
        };
        let mut path = vec![mine(&|_| 1.0), mine(&|s| s.longest), mine(&|s| s.longest * s.crowded)];
        if told[size].len() >= SAMPLES_LEAST {
            path.extend([mine(&|s| s.mean), mine(&|s| s.taken), mine(&|s| s.rows), mine(&|s| s.context)]);
        }
        path
    };
    let mut bounds: Vec<Vec<Column>> = (0..told.len()).map(columns).collect();
    bounds.push(vec![Column::new(vec![1.0; all.len()]), Column::new(context.clone())]);
    let mean = context.iter().sum::<f64>() / context.len() as f64;
    // Long contexts are the memory's.
    let starts: Vec<Vec<usize>> = [0.2, 0.5, 1.0, 2.0, 0.0, f64::INFINITY]
        .map(|share| all.iter().map(|(size, _, s)| if s.context > share * mean { told.len() } else { *size }).collect())
        .to_vec();
    // What filling takes is around both: tried from nothing to half of the quickest.
    let tried = (0..=10).map(|tenth| {
        let filled: Vec<f64> = least.iter().map(|least| least * 0.08 * f64::from(tenth)).collect();
        let rest: Vec<f64> = all.iter().map(|(size, us, s)| us - filled[*size] * s.filled).collect();
        let fit = bounds::fit(&bounds, &rest, &starts);
        let memory = fit.coefficients[told.len()].clone();
        let error = |(size, us, s): &(usize, f64, TileSums)| {
            let path = way(&fit.coefficients[*size]).us(&TileSums { busy: 0.0, tiles: 1.0, ..*s });
            bounds::huber((filled[*size] * s.filled + path.max(memory[0] + memory[1] * s.context)) / us - 1.0)
        };
        let loss: f64 = all.iter().map(error).sum();
        (loss, filled, fit)
    });
    let (loss, filled, fit) = tried.min_by(|a, b| a.0.total_cmp(&b.0)).expect("there are eleven");
    let memory = &fit.coefficients[told.len()];
    let memory = SplitMemory { us: memory[0], us_per_token: memory[1] };
    let one = |size: usize| {
        (!told[size].is_empty()).then(|| OneSize {
            size: way(&fit.coefficients[size]),
            memory,
            filled: filled[size],
            loss,
        })
    };
    (0..told.len()).map(one).collect()
}

fn with_tile(samples: &[&Sample], tile: u32, least_us_per_kilopair: f64) -> (Together, f64) {
    let us: Vec<f64> = samples.iter().map(|sample| sample.us).collect();
    let sums: Vec<PromptSums> =
        samples.iter().map(|sample| PromptSums::of(sample.shape.prompt_pairs(), tile)).collect();
    let of = |quantity| -> Vec<f64> { sums.iter().map(|sums| sums.get(quantity)).collect() };
    let pairs = of(PromptQuantity::Kilopairs);
    // As many bends as there are points to tell them.
    let knots = log_knots(&pairs, (us.len() / 9).clamp(3, 9));
    let constant = || Column::new(vec![1.0; us.len()]);
    let linear = |quantity| Column::new(of(quantity));
    let mut ramp = bounds::ramps(&pairs, &knots);
    ramp.iter_mut().for_each(|column| column.lower = least_us_per_kilopair);
    let bends = ramp.len();
    let lines = [PromptQuantity::Tiles, PromptQuantity::ContextTokens, PromptQuantity::LongestContext];
    let work: Vec<Column> = std::iter::once(constant()).chain(lines.map(linear)).chain(ramp).collect();
    let longest = vec![constant(), linear(PromptQuantity::LongestContext), linear(PromptQuantity::Tiles)];
    let share: Vec<f64> = sums.iter().map(|sums| sums.longest / sums.kilopairs.max(1e-9)).collect();
    let mut starts = bounds::starts_by(&share);
    starts.push(vec![0; us.len()]);
    let fit = bounds::fit(&[work, longest], &us, &starts);
    let (work, longest) = (&fit.coefficients[0], &fit.coefficients[1]);
    let term = |over, us_per_row| PromptTerm { over, cost: Curve::per_row(us_per_row) };
    let start = |us| PromptTerm { over: PromptQuantity::Prompts, cost: Curve::constant(us) };
    let (rows, table) = bounds::ramp_table(&knots, &work[4..4 + bends]);
    let together = Together {
        rows_per_tile: tile,
        bounds: vec![
            PromptWork {
                name: "arithmetic".to_owned(),
                terms: vec![
                    start(work[0]),
                    term(PromptQuantity::Tiles, work[1]),
                    term(PromptQuantity::ContextTokens, work[2]),
                    term(PromptQuantity::LongestContext, work[3]),
                    PromptTerm { over: PromptQuantity::Kilopairs, cost: Curve::Table { rows, us: table } },
                ],
            },
            PromptWork {
                name: "longest prompt".to_owned(),
                terms: vec![
                    start(longest[0]),
                    term(PromptQuantity::LongestContext, longest[1]),
                    term(PromptQuantity::Tiles, longest[2]),
                ],
            },
        ],
    };
    (together, fit.loss)
}

/// Knots evenly over the orders of magnitude of a quantity.
pub(super) fn log_knots(values: &[f64], count: usize) -> Vec<f64> {
    let positive = || values.iter().copied().filter(|value| *value > 0.0);
    let (low, high) = (positive().fold(f64::INFINITY, f64::min), positive().fold(0.0, f64::max));
    if high <= low * 1.01 {
        return vec![low.min(1.0), low.min(1.0) + 1.0];
    }
    (0..count).map(|k| low * (high / low).powf(k as f64 / (count - 1) as f64)).collect()
}

#[cfg(test)]
mod tests {
    use aril_kernels::Element;
    use aril_kernels::attention::layout::AttentionShape;
    use aril_kernels::attention::plan::{PrefillForm, PrefillPlan, PrefillSequence, PrefillTuning};
    use aril_kernels::lora::plan::Chip;
    use rand::RngExt;

    use super::*;

    /// Tall tiles have six batches here, too few to tell alone what their bytes take.
    #[test]
    fn what_the_memory_takes_is_one_for_pieces_of_tiles_of_every_size() {
        let batch = |size: usize| -> (Vec<f64>, Vec<TileSums>) {
            let (count, us_per_key) = if size == 0 { (30, 0.02) } else { (6, 0.04) };
            let sums = (1..=count).map(|i| {
                let (longest, context) = (300.0 + 70.0 * f64::from(i * 7 % 13), 500.0 * f64::from(i * 5 % 31));
                // None of the tall ones is bound by its bytes.
                let context = if size == 0 { context } else { context.min(1000.0) };
                TileSums { tiles: 1.0, longest, context, ..TileSums::default() }
            });
            sums.map(|s| ((2.0 + us_per_key * s.longest).max(5.0 + 0.004 * s.context), s)).unzip()
        };
        let found = pieces(&[batch(0), batch(1)]);
        for one in &found {
            let memory = one.as_ref().unwrap().memory;
            assert!((memory.us_per_token / 0.004 - 1.0).abs() < 0.01 && (memory.us - 5.0).abs() < 0.5, "{memory:?}");
        }
        let key = |size: usize| found[size].as_ref().unwrap().size.us_per_key;
        assert!((key(0) / 0.02 - 1.0).abs() < 0.05 && (key(1) / 0.04 - 1.0).abs() < 0.05, "{found:?}");
    }

    #[test]
    fn what_a_block_takes_to_begin_and_end_is_told_from_its_keys() {
        let sums: Vec<TileSums> = (1..60)
            .map(|i| {
                let (blocks, keys) = (f64::from(1 + i * 7 % 9), 100.0 * f64::from(1 + i * 5 % 11));
                let busy = blocks * keys;
                TileSums {
                    tiles: 1.0,
                    longest: keys,
                    busy,
                    mean: busy,
                    taken: 1.0,
                    crowded: 1.0,
                    blocks,
                    ..TileSums::default()
                }
            })
            .collect();
        let us: Vec<f64> = sums.iter().map(|s| (3.0 + 0.02 * s.longest).max(0.027 * s.busy + 2.5 * s.blocks)).collect();
        let found = one_size(&us, &sums, 0.0, true, false).size;
        assert!((found.us_per_block / 2.5 - 1.0).abs() < 0.02, "{found:?}");
    }

    #[test]
    fn the_form_of_tiles_is_the_one_that_the_kernels_plan_chooses() {
        let chip = Chip { multiprocessors: 132, shared_bytes_block_max: 232_448, cluster_max: 16 };
        let table: Vec<u32> = (0..4096).collect();
        let mut random = aril_sim::random::stream(1, "tiles");
        for (heads, kv_heads) in [(32, 32), (40, 40), (32, 8), (8, 1)] {
            let shape = AttentionShape { element: Element::Bf16, heads, kv_heads, head_dim: 128 };
            let packed = PrefillForm::packed(&shape);
            let physics = PromptPhysics { kilopair_us: 1.0, heads, packed, multiprocessors: chip.multiprocessors };
            let walks =
                Walks { start_keys: 160.0, empty_share: 0.4, join_keys: 200.0, turn_keys: 24.0, key_tile: SPLIT_KEYS };
            let form = bare(physics, walks, &SIZES, true);
            let mut chosen = [0; 4];
            for index in 0..400 {
                let draw = |_| {
                    (
                        random.random_range(1..3000 >> (index % 8)),
                        random.random_range(0..2) * random.random_range(0..9000),
                    )
                };
                let prompts: Vec<(u32, u32)> = (0..1 + index % 5).map(draw).collect();
                let sequences: Vec<PrefillSequence> = prompts
                    .iter()
                    .map(|&(tokens, prefix)| PrefillSequence { row: 0, tokens, prefix, table: 0 })
                    .collect();
                let plan = PrefillPlan::new(shape, &sequences, &table, chip, PrefillTuning::default()).unwrap();
                let PrefillForm { fragments, split } = plan.form();
                let planned = fragments as usize - 1 + if split { 2 } else { 0 };
                assert_eq!(form.planned(prompts.iter().copied()), Some(planned), "{heads} {kv_heads} {prompts:?}");
                chosen[planned] += 1;
                if split {
                    let pieces = form.split_sums(prompts.iter().copied(), planned - 2).tiles;
                    assert_eq!(pieces, plan.pieces().len() as f64, "{prompts:?}");
                }
            }
            assert!(chosen.iter().filter(|count| **count > 10).count() >= 3, "{chosen:?}");
        }
    }
}
