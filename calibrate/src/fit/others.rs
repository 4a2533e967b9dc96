//! The host, copies, and what whole steps take beyond the sum of their parts.

use aril_sim::model::Model;
use aril_sim::model::lora::LoraTarget;
use aril_sim::profile::{HostCost, LoadCost, LoraOverlap, WholeStep, doublings};

use super::Sample;
use super::bounds::{self, Column};
use super::least_squares::any_sign;
use crate::measure::median;

/// What the host adds to a step: planning adapters, and waiting, from which it wakes up the later the longer the GPU takes. Most of it is noise of
/// the moment ([`super::judge`] says how much), so that few coefficients serve.
pub(super) fn host(samples: &[Sample]) -> Option<HostCost> {
    if samples.len() < 5 {
        return None;
    }
    let us: Vec<f64> = samples.iter().map(|sample| sample.us).collect();
    let of = |value: &dyn Fn(&Sample) -> f64| Column::new(samples.iter().map(value).collect());
    let columns = [
        of(&|_| 1.0),
        of(&|s| doublings(s.shape.sequences())),
        of(&|s| doublings(s.shape.prompt_rows().saturating_add(1))),
        of(&|s| s.shape.adapters.len() as f64),
        of(&|s| f64::from(u8::from(!s.shape.adapters.is_empty()))),
        of(&|s| f64::from(u8::from(!s.shape.prompts.is_empty() && !s.shape.adapters.is_empty()))),
    ];
    let x = bounds::robust(&columns, &us);
    Some(HostCost {
        us: x[0],
        us_per_doubling: x[1],
        us_per_prompt_doubling: x[2],
        us_per_segment: x[3],
        us_adapters: x[4],
        us_prompts_and_adapters: x[5],
        ..HostCost::default()
    })
}

/// A measured copy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct LoadSample {
    pub(super) rank: u32,
    pub(super) pinned: bool,
    pub(super) beside: bool,
    pub(super) us: f64,
}

/// Copies: a start and a rate for each kind of memory, and how much copies and steps slow each other down.
pub(super) fn loads(samples: &[LoadSample], step_slowdowns: &[f64], model: &Model, degree: u32) -> Option<LoadCost> {
    let bytes = |rank: u32| model.adapter_bytes_per_gpu(rank, &LoraTarget::LAYER, degree) as f64;
    let line = |pinned: bool| {
        let mine: Vec<&LoadSample> = samples.iter().filter(|s| s.pinned == pinned && !s.beside).collect();
        let us: Vec<f64> = mine.iter().map(|s| s.us).collect();
        let columns = [
            Column::new(vec![1.0; us.len()]),
            Column { values: mine.iter().map(|s| bytes(s.rank) * 1e-3).collect(), lower: 1e-6 },
        ];
        (us.len() >= 2).then(|| bounds::robust(&columns, &us))
    };
    let pinned = line(true)?;
    // Where pageable memory was not measured, nothing is known of it: the slower of what is.
    let pageable = line(false).unwrap_or_else(|| pinned.clone());
    let beside = |pinned: bool, line: &[f64]| -> Vec<f64> {
        let alone = |sample: &LoadSample| line[0] + bytes(sample.rank) * 1e-3 * line[1];
        samples.iter().filter(|s| s.beside && s.pinned == pinned).map(|s| s.us / alone(s)).collect()
    };
    let slowdown = |ratios: &[f64]| if ratios.is_empty() { 1.0 } else { median(ratios).max(1.0) };
    Some(LoadCost {
        us: pinned[0],
        pinned_gigabytes_per_second: 1.0 / pinned[1],
        pageable_gigabytes_per_second: 1.0 / pageable[1],
        copy_slowdown: slowdown(&beside(true, &pinned)),
        pageable_copy_slowdown: Some(beside(false, &pageable)).filter(|r| !r.is_empty()).map(|r| slowdown(&r)),
        step_slowdown: slowdown(step_slowdowns),
    })
}

/// A measured step and the sum of its parts; or what adapters add to one, and what they take alone.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct StepSample {
    pub(super) rows: f64,
    /// Is it what adapters add, and nothing else?
    pub(super) added: bool,
    pub(super) lora: bool,
    pub(super) prompt: bool,
    /// Prompts and decode rows.
    pub(super) mixed: bool,
    pub(super) us: f64,
    pub(super) parts_us: f64,
    /// What the attention of prompts is of that.
    pub(super) prompts_us: f64,
    /// How much of that its own prompts make the clocks sag.
    pub(super) sagging_us: f64,
    /// What adapters are of that.
    pub(super) lora_us: f64,
}

/// As many steps with adapters of few rows, and of more, tell the two apart.
const APART_LEAST: usize = 10;

/// Errors beyond this count in proportion: of steps, and of what adapters add, whose form is further off.
const FAR: f64 = 0.02;
const ADDED_FAR: f64 = 0.05;

/// Rows at which gaps have a value of their own: closer where products become longer than their weights take to come.
const ROWS: [f64; 13] = [1.0, 8.0, 32.0, 64.0, 128.0, 192.0, 256.0, 384.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0];

/// What whole steps take beyond their parts: gaps between launches, activations that stay in the cache, overlap.
///
/// Steps of up to `few_rows` rows compute adapters beside the products.
///
/// Linear in everything, so that least squares of relative errors serve; drawn lightly towards nothing, so that few steps do not make much of noise.
///
/// What adapters add to a step tells of them alone, and more of them than a step does of which they are a tenth: its errors are relative to
/// what they add.
///
/// Beside it what clocks that a step's own prompts make sag take longer, share of that ([`ClockSag::own`](aril_sim::profile::ClockSag::own)).
pub(super) fn whole(samples: &[StepSample], layers: u32, few_rows: u32) -> (WholeStep, f64) {
    let sags = samples.iter().filter(|sample| sample.sagging_us > 0.0).count() >= APART_LEAST;
    let (whole, own) = whole_with(samples, layers, few_rows, sags);
    // Clocks that sag make nothing quicker.
    if own < 0.0 { whole_with(samples, layers, few_rows, false) } else { (whole, own) }
}

fn whole_with(samples: &[StepSample], layers: u32, few_rows: u32, sags: bool) -> (WholeStep, f64) {
    if samples.len() < 12 {
        return (WholeStep::default(), 0.0);
    }
    let layers = f64::from(layers);
    let most = samples.iter().map(|sample| sample.rows).fold(1.0, f64::max);
    let mut knots = ROWS.to_vec();
    if few_rows > 0 {
        // More rows are multiplied by another kernel, which does not ask for its weights before the last is over.
        knots.extend([f64::from(few_rows), f64::from(few_rows + 1)]);
        knots.sort_by(f64::total_cmp);
        knots.dedup();
    }
    knots.retain(|knot| *knot <= most);
    let flag = |on: bool| if on { layers } else { 0.0 };
    let few = |s: &StepSample| s.rows <= f64::from(few_rows);
    let told = |want_few: bool| samples.iter().filter(|s| s.lora && few(s) == want_few).count() >= APART_LEAST;
    // Beside a product and behind it adapters are two things, where both were seen often enough.
    let apart = few_rows > 0 && told(true) && told(false);
    let lora = |of: &dyn Fn(&StepSample) -> f64, want_few: bool| -> Vec<f64> {
        samples.iter().map(|s| if (apart && few(s)) == want_few { of(s) / s.us } else { 0.0 }).collect()
    };
    let mut columns: Vec<Vec<f64>> = vec![
        samples.iter().map(|s| s.parts_us / s.us).collect(),
        // Behind a product adapters overlap with nothing: what they take alone, and a gap.
        lora(&|s| flag(s.lora), false),
        lora(&|s| s.lora_us, true),
        lora(&|s| flag(s.lora), true),
        lora(&|s| if apart { flag(s.lora) * s.rows } else { 0.0 }, true),
        lora(&|s| if apart { s.lora_us * s.rows } else { 0.0 }, true),
        samples.iter().map(|s| if s.added { 0.0 } else { flag(s.prompt) / s.us }).collect(),
        samples.iter().map(|s| flag(s.mixed) / s.us).collect(),
        samples.iter().map(|s| s.prompts_us / s.us).collect(),
        samples.iter().map(|s| if sags { s.sagging_us / s.us } else { 0.0 }).collect(),
        lora(&|s| flag(s.lora && s.prompt), false),
    ];
    let by_rows = columns.len();
    for k in 0..knots.len() {
        let gap = |s: &StepSample| if s.added { 0.0 } else { layers * bounds::hat(&knots, k, s.rows) / s.us };
        columns.push(samples.iter().map(gap).collect());
    }
    // What is missing beyond a scale of one.
    let target: Vec<f64> = samples.iter().map(|s| 1.0 - s.parts_us / s.us).collect();
    let far: Vec<f64> = samples.iter().map(|s| if s.added { ADDED_FAR } else { FAR }).collect();
    let mut weights = vec![1.0; samples.len()];
    let mut x = Vec::new();
    for _ in 0..5 {
        x = any_sign(&columns, &target, &weights, 1e-5);
        for (row, weight) in weights.iter_mut().enumerate() {
            let error: f64 = columns.iter().zip(&x).map(|(column, c)| column[row] * c).sum::<f64>() - target[row];
            *weight = (far[row] / error.abs().max(far[row])).max(1e-3);
        }
    }
    // Some of it is always seen.
    let scale_of = |more: f64| (1.0 + more / (1.0 + x[0])).max(0.2);
    let whole = WholeStep {
        scale: 1.0 + x[0],
        us: 0.0,
        us_per_layer: 0.0,
        lora_scale: 1.0,
        us_per_layer_lora: x[1],
        us_per_layer_lora_prompt: x[10],
        lora_few_rows: apart.then(|| LoraOverlap {
            rows_max: few_rows,
            scale: scale_of(x[2]),
            scale_row: x[5] / (1.0 + x[0]),
            us_per_layer: x[3],
            us_per_layer_row: x[4],
            rows: Vec::new(),
            least_us: Vec::new(),
        }),
        prompt_scale: scale_of(x[8]),
        us_per_layer_prompt: x[6],
        us_per_layer_mixed: x[7],
        rows: knots,
        us_per_layer_by_rows: x[by_rows..].to_vec(),
    };
    (whole, x[9])
}
