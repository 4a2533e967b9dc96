//! Prefill attention: pairs of queries and keys in whole tiles, or the longest prompt's way through its keys.

use aril_sim::profile::attention::{
    PrefillAttention, PromptCost, PromptQuantity, PromptSums, PromptTerm, PromptWork, Together,
};
use aril_sim::profile::curve::Curve;

use super::Sample;
use super::bounds::{self, Column};

/// Query rows of a tile that are tried.
const TILES: [u32; 4] = [1, 16, 64, 128];

/// Fits both bounds for each size of tile and keeps the best; `least_us_per_kilopair` is a thousand pairs at the peak.
pub(super) fn fit(samples: &[Sample], least_us_per_kilopair: f64) -> Option<PrefillAttention> {
    let samples: Vec<&Sample> = samples.iter().filter(|sample| !sample.shape.prompts.is_empty()).collect();
    if samples.len() < 8 {
        return None;
    }
    let (together, _) = TILES
        .into_iter()
        .map(|tile| with_tile(&samples, tile, least_us_per_kilopair))
        .min_by(|a, b| a.1.total_cmp(&b.1))?;
    Some(PrefillAttention { us: 0.0, prompt: PromptCost::Together(together) })
}

fn with_tile(samples: &[&Sample], tile: u32, least_us_per_kilopair: f64) -> (Together, f64) {
    let us: Vec<f64> = samples.iter().map(|sample| sample.us).collect();
    let sums: Vec<PromptSums> = samples
        .iter()
        .map(|sample| PromptSums::of(sample.shape.prompts.iter().map(|p| (p.chunk, p.prefix)), tile))
        .collect();
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
