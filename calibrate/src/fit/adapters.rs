//! Adapters: what each kernel reads, multiplies and launches, by the quantities that its way of working repeats.

mod planned;
mod slotted;

use std::collections::BTreeMap;

use aril_sim::batch::Segment;
use aril_sim::profile::curve::Curve;
use aril_sim::profile::lora::{
    FewRows as LoraFewRows, LoraBound, LoraCost, LoraKernel, LoraQuantity, LoraTerm, Planned,
};

use aril_sim::profile::pad;

use super::Sample;
use super::bounds::{self, Column};
use super::prompts::log_knots;
use crate::measure::median;
use crate::probe::Shape;
pub(super) use planned::Chip;

/// A term that is tried: a straight line, or one with bends.
#[derive(Clone, Copy)]
struct Tried {
    over: LoraQuantity,
    bends: usize,
}

/// Knots of ranks: what is measured.
const RANKS: [f64; 5] = [8.0, 16.0, 32.0, 64.0, 128.0];

/// Each rank at its own price.
const fn each(over: LoraQuantity) -> Tried {
    Tried { over, bends: RANKS.len() }
}

const fn line(over: LoraQuantity) -> Tried {
    Tried { over, bends: 0 }
}

const fn bent(over: LoraQuantity) -> Tried {
    Tried { over, bends: 6 }
}

/// Forms that are tried for a kernel: bounds of terms.
fn forms(kernel: LoraKernel) -> Vec<Vec<Vec<Tried>>> {
    use LoraQuantity as Q;
    let weights = match kernel {
        LoraKernel::Bgmv => vec![bent(Q::RowRankSum), line(Q::RankSum)],
        LoraKernel::GatherBmm => vec![bent(Q::RowRankPadded), line(Q::RowRankSum)],
        LoraKernel::Padded => vec![bent(Q::RankPadded), line(Q::RankSum), line(Q::RankSlot)],
        LoraKernel::Loop => vec![bent(Q::Segments), line(Q::RankSum)],
        _ => vec![bent(Q::RankSum), line(Q::Tiles)],
    };
    let rows = vec![line(Q::Segments), line(Q::DecodeRows), bent(Q::PrefillRows)];
    let bandwidth: Vec<Tried> = weights.into_iter().chain(rows).collect();
    // One wide adapter is nobody else's to share out.
    let arithmetic = vec![bent(Q::RowRankSum), line(Q::Rows), line(Q::Segments), line(Q::RankMax)];
    let sum: Vec<Tried> = bandwidth.iter().copied().chain([line(Q::RowRankSum), line(Q::RankMax)]).collect();
    // Blocks are shared out evenly among segments: the widest keeps the others waiting. Nothing here falls where rows are shared by more
    // segments: more adapters never cost less.
    let uneven = [bent(Q::RankMax), bent(Q::RankPadded), bent(Q::Tiles), bent(Q::Rows), bent(Q::RowRankPadded)];
    let wide: Vec<Tried> = bandwidth.iter().copied().chain([line(Q::RowRankSum)]).chain(uneven).collect();
    let path: Vec<Tried> = uneven.into_iter().chain([bent(Q::Segments)]).collect();
    // Rank by rank: what a kernel makes of a rank, its tiles, its registers, is no line in it.
    let of_ranks = vec![
        each(Q::EachRank),
        each(Q::RowsOfEachRank),
        bent(Q::Tiles),
        line(Q::DecodeRows),
        bent(Q::PrefillRows),
        bent(Q::RankMax),
    ];
    let padded: Vec<Tried> = of_ranks.iter().copied().chain([bent(Q::RankPadded), bent(Q::RowRankPadded)]).collect();
    let bytes = vec![bent(Q::RankSum), line(Q::Segments), line(Q::Tiles), bent(Q::RowRankSum)];
    vec![
        vec![of_ranks.clone()],
        vec![padded.clone()],
        vec![of_ranks.clone(), bytes.clone()],
        vec![padded, bytes],
        vec![of_ranks, path.clone()],
        vec![sum],
        vec![wide.clone()],
        vec![bandwidth.clone(), arithmetic],
        vec![bandwidth, path.clone()],
        vec![wide, path],
    ]
}

/// Fits a kernel's price in each layer.
pub(super) fn fit(kernel: LoraKernel, samples: &[Sample], chip: &Chip) -> Option<LoraCost> {
    let samples: Vec<&Sample> = samples.iter().filter(|sample| !sample.shape.adapters.is_empty()).collect();
    if samples.len() < 8 {
        return None;
    }
    let whole = best(kernel, &samples, &TILES);
    if kernel == LoraKernel::Padded
        && let Some(cost) = by_slots(whole.as_ref(), &samples, chip)
    {
        return Some(cost);
    }
    let few_rows: Vec<bool> = samples.iter().map(|sample| sample.shape.rows() <= FEW_ROWS).collect();
    let of = |few: bool| -> Vec<&Sample> {
        samples.iter().zip(&few_rows).filter(|(_, is)| **is == few).map(|(sample, _)| *sample).collect()
    };
    let (few, many) = (of(true), of(false));
    if few.len() < 24 || many.len() < 24 {
        return whole;
    }
    let Some(many) = best(kernel, &many, &TILES) else { return whole };
    let Some(few) = best(kernel, &few, &[many.rows_per_tile]) else { return whole };
    if kernel == LoraKernel::Segmented
        && let Some(cost) = by_plan(&few, &many, &of, chip)
    {
        return Some(cost);
    }
    let two = joined(few, many);
    match whole {
        Some(whole) if loss(&two, &samples) > loss(&whole, &samples) * 0.8 => Some(whole),
        _ => Some(two),
    }
}

/// Rows of a tile that are tried.
const TILES: [u32; 2] = [8, 16];

/// Rows up to which products run a kernel beside which adapters may run.
const FEW_ROWS: u32 = 32;

/// The best form on some samples.
fn best(kernel: LoraKernel, samples: &[&Sample], tiles: &[u32]) -> Option<LoraCost> {
    let fitted = forms(kernel)
        .into_iter()
        .flat_map(|form| tiles.iter().map(|&tile| with(&form, samples, tile)).collect::<Vec<_>>());
    fitted.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(cost, _)| cost)
}

/// What whoever reads the products takes longer, by rows as the machine pads them; none where launches were not recorded one by one.
fn reading(samples: &[&Sample], chip: &Chip) -> Option<Curve> {
    let mut by: BTreeMap<u32, Vec<f64>> = BTreeMap::new();
    for sample in samples {
        let us = *sample.parts.get(chip.sites.len())?;
        by.entry(pad(&chip.row_buckets, sample.shape.rows())).or_default().push(us);
    }
    let (mut rows, mut us, mut last, mut most) = (Vec::new(), Vec::new(), 0, 0.0_f64);
    for (padded, values) in by {
        // More rows are not read in less time: what says so is noise.
        most = most.max(median(&values));
        for row in [last + 1, padded] {
            if rows.last().is_none_or(|before| *before < f64::from(row)) {
                rows.push(f64::from(row));
                us.push(most);
            }
        }
        last = padded;
    }
    (rows.len() > 1).then_some(Curve::Table { rows, us })
}

/// By slots of adapters and row tiles, where that says it better than bounds, which have more coefficients.
fn by_slots(bounds: Option<&LoraCost>, samples: &[&Sample], chip: &Chip) -> Option<LoraCost> {
    let (us, slotted) = slotted::fit(samples, chip)?;
    let bounds = bounds?;
    let cost = LoraCost { us, rows_per_tile: 1, bounds: Vec::new(), slotted: Some(slotted), ..bounds.clone() };
    (loss(&cost, samples) < loss(bounds, samples)).then_some(cost)
}

/// Few rows, many, or both by the plan, each where it says them better; none where it says neither.
fn by_plan<'a>(few: &LoraCost, many: &LoraCost, of: &dyn Fn(bool) -> Vec<&'a Sample>, chip: &Chip) -> Option<LoraCost> {
    let apart = |few_rows: LoraFewRows, planned: Option<Planned>| match planned {
        Some(planned) => {
            let bounds = Vec::new();
            LoraCost { us: 0.0, bounds, few_rows: Some(few_rows), planned: Some(planned), ..many.clone() }
        }
        None => LoraCost { us: 0.0, bounds: started(many), few_rows: Some(few_rows), ..many.clone() },
    };
    let bounded = LoraFewRows { rows_max: FEW_ROWS, bounds: started(few), planned: None, reading: None };
    let (few_samples, many_samples) = (of(true), of(false));
    let behind = planned::fit(&many_samples, chip, planned::Where::Behind).filter(|planned| {
        loss(&apart(bounded.clone(), Some(planned.clone())), &many_samples) < loss(many, &many_samples)
    });
    let beside = planned::fit(&few_samples, chip, planned::Where::Beside).map(|planned| LoraFewRows {
        bounds: Vec::new(),
        planned: Some(planned),
        reading: reading(&few_samples, chip),
        ..bounded.clone()
    });
    // Bounds have a coefficient for every rank and bend, and follow what they see wherever it goes. Where launches were recorded one by one the
    // plan, which has few and is told four times as much, needs no comparison.
    let apart_known = few_samples.iter().all(|sample| sample.parts.len() >= chip.sites.len());
    let beside = beside
        .filter(|beside| apart_known || loss(&apart(beside.clone(), None), &few_samples) < loss(few, &few_samples));
    if behind.is_none() && beside.is_none() {
        return None;
    }
    Some(apart(beside.unwrap_or(bounded), behind))
}

/// Bounds with the kernel's start in each of them.
fn started(cost: &LoraCost) -> Vec<LoraBound> {
    let mut bounds = cost.bounds.clone();
    if cost.us > 0.0 {
        let once = LoraTerm { over: LoraQuantity::Segments, cost: Curve::constant(cost.us) };
        bounds.iter_mut().for_each(|bound| bound.terms.push(once.clone()));
    }
    bounds
}

/// One price of both: what bounds few rows bounds many, too, so that a step that grows never gets cheaper.
fn joined(few: LoraCost, many: LoraCost) -> LoraCost {
    let us = few.us.min(many.us);
    let with_start = |cost: LoraCost| -> Vec<LoraBound> {
        let start = cost.us - us;
        let term = |bound: LoraBound| {
            let mut terms = bound.terms;
            if start > 0.0 {
                terms.push(LoraTerm { over: LoraQuantity::Segments, cost: Curve::constant(start) });
            }
            LoraBound { terms, ..bound }
        };
        cost.bounds.into_iter().map(term).collect()
    };
    // Tiles are counted alike: both regimes share a size.
    let rows_per_tile = many.rows_per_tile;
    let few = with_start(few);
    let mut bounds = with_start(many.clone());
    bounds.extend(few.iter().cloned());
    LoraCost {
        us,
        rows_per_tile,
        bounds,
        few_rows: Some(LoraFewRows { rows_max: FEW_ROWS, bounds: few, planned: None, reading: None }),
        ..many
    }
}

fn loss(cost: &LoraCost, samples: &[&Sample]) -> f64 {
    samples.iter().map(|sample| bounds::huber(cost.us(&sample.shape.probe(true).view()) / sample.us - 1.0)).sum()
}

/// Knots of rows: beside few rows adapters hide behind the products, whose kernel is another beyond them.
fn beyond_few_rows(rows: &[f64]) -> Vec<f64> {
    const FEW: f64 = 32.0;
    let most = rows.iter().copied().fold(0.0, f64::max);
    let knots = [1.0, 8.0, FEW, FEW + 1.0, 64.0, 256.0, 1024.0, 4096.0];
    let mut knots: Vec<f64> = knots.into_iter().filter(|knot| *knot < most).collect();
    knots.push(most.max(2.0));
    knots
}

/// One form, and Schwarz's criterion for it: the loss, and a price for each coefficient.
fn with(form: &[Vec<Tried>], samples: &[&Sample], rows_per_tile: u32) -> (LoraCost, f64) {
    let us: Vec<f64> = samples.iter().map(|sample| sample.us).collect();
    let probes: Vec<_> = samples.iter().map(|sample| sample.shape.probe(true)).collect();
    let of = |over: LoraQuantity| -> Vec<f64> { probes.iter().map(|p| over.of(&p.view(), rows_per_tile)).collect() };
    let mut designs = Vec::new();
    let mut layouts = Vec::new();
    for bound in form {
        let mut columns = vec![Column::new(vec![1.0; us.len()])];
        let mut layout = Vec::new();
        for term in bound {
            if term.over.is_by_rank() {
                let added = by_rank(&probes, term.over == LoraQuantity::RowsOfEachRank);
                layout.push((term.over, RANKS.to_vec(), added.len()));
                columns.extend(added);
                continue;
            }
            let values = of(term.over);
            let bends = term.bends.min(us.len() / 12).max(2);
            let knots = match term.over {
                _ if term.bends == 0 => Vec::new(),
                LoraQuantity::Rows => beyond_few_rows(&values),
                _ => log_knots(&values, bends),
            };
            let added = if knots.is_empty() { vec![Column::new(values)] } else { bounds::ramps(&values, &knots) };
            layout.push((term.over, knots, added.len()));
            columns.extend(added);
        }
        designs.push(columns);
        layouts.push(layout);
    }
    let rows = of(LoraQuantity::RowRankSum);
    let ranks = of(LoraQuantity::RankSum);
    let share: Vec<f64> = rows.iter().zip(&ranks).map(|(rows, ranks)| rows / ranks.max(1.0)).collect();
    let mut starts = bounds::starts_by(&share);
    starts.push(vec![0; us.len()]);
    let fit = bounds::fit(&designs, &us, &starts);
    let used = fit.coefficients.iter().flatten().filter(|c| **c > 0.0).count() as f64;
    let n = us.len() as f64;
    let score = n * (fit.loss / n).max(1e-12).ln() + used * n.ln();
    // What every bound has is the kernel's start.
    let start = fit.coefficients.iter().map(|c| c[0]).fold(f64::INFINITY, f64::min).max(0.0);
    let bounds = layouts.iter().zip(&fit.coefficients).enumerate().map(|(index, (layout, coefficients))| LoraBound {
        name: ["bandwidth", "arithmetic"][index.min(1)].to_owned(),
        terms: terms(layout, coefficients, coefficients[0] - start),
    });
    let cost = LoraCost {
        kind: None,
        source: None,
        idle_us: 0.0,
        idle_us_per_slot: 0.0,
        us: start,
        rows_per_tile,
        bounds: bounds.collect(),
        few_rows: None,
        planned: None,
        slotted: None,
        us_per_switch: 0.0,
    };
    (cost, score)
}

/// Columns of a price that rises with the rank, for each segment or each of its rows: at the first rank, and what each further one adds.
fn by_rank(probes: &[Shape], rows: bool) -> Vec<Column> {
    let share = |k: usize, rank: f64| match k {
        0 => 1.0,
        _ => ((rank - RANKS[k - 1]) / (RANKS[k] - RANKS[k - 1])).clamp(0.0, 1.0),
    };
    let of = |k: usize, probe: &Shape| -> f64 {
        let each = |s: &Segment| {
            share(k, f64::from(s.rank)) * if rows { f64::from(s.decode_rows + s.prefill_rows) } else { 1.0 }
        };
        probe.segments.iter().map(each).sum()
    };
    (0..RANKS.len()).map(|k| Column::new(probes.iter().map(|probe| of(k, probe)).collect())).collect()
}

/// The terms of a bound that cost anything; at least one.
fn terms(layout: &[(LoraQuantity, Vec<f64>, usize)], coefficients: &[f64], constant: f64) -> Vec<LoraTerm> {
    let mut terms = Vec::new();
    let mut at = 1;
    for (over, knots, count) in layout {
        let mine = &coefficients[at..at + count];
        at += count;
        if mine.iter().all(|c| *c == 0.0) {
            continue;
        }
        let cost = if over.is_by_rank() {
            let mut sum = 0.0;
            let us = mine.iter().map(|step| {
                sum += step;
                sum
            });
            Curve::Table { rows: knots.clone(), us: us.collect() }
        } else if knots.is_empty() {
            Curve::per_row(mine[0])
        } else {
            let (rows, us) = bounds::ramp_table(knots, mine);
            Curve::Table { rows, us }
        };
        terms.push(LoraTerm { over: *over, cost });
    }
    if constant > 0.0 || terms.is_empty() {
        terms.push(LoraTerm { over: LoraQuantity::Segments, cost: Curve::constant(constant.max(0.0)) });
    }
    terms
}
