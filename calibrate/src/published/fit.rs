//! The two figures of each (system, model) that are fitted: what a step and what a sequence take beyond what is known.
//!
//! They solve two equations in closed form: the step at batch 1, and the run of the Identical cell. Every other cell of the
//! text generation table is then a prediction.

use std::collections::BTreeMap;

use aril_sim::batch::{BatchShape, CostModel};
use aril_sim::cost::CompiledCost;
use aril_sim::gpu::Gpu;
use aril_sim::model::Model;
use aril_sim::profile::lora::LoraKernel;
use aril_sim::profile::{Assumption, Profile};

use super::textgen::{self, Batching, Popularity, Run, TextgenRequest};
use super::{Facts, System, fit_error, unfitted};
use crate::error::CalibrateError;

/// Decode steps from one garbage collection to the next in the paper's static batches.
const COLLECT_EVERY: u64 = 16;

/// What was fitted and to what.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fitted {
    /// A step of one sequence, microseconds.
    pub us: f64,
    /// Each further sequence of a step, microseconds.
    pub us_per_sequence: f64,
    /// One garbage collection, microseconds: see [`collection_us`].
    pub us_per_collection: f64,
    /// The step at batch 1 that it meets, microseconds.
    pub anchor_us: f64,
    /// The context of that step, tokens.
    pub anchor_context: u32,
    /// The Identical cell that it meets, tokens a second.
    pub identical: f64,
}

impl Fitted {
    /// As a profile states it.
    pub fn table(&self) -> BTreeMap<String, Assumption> {
        [
            ("fitted_anchor_us", self.anchor_us, "us", "the step at batch 1 that host.us meets"),
            ("fitted_anchor_context", f64::from(self.anchor_context), "tokens", "the context of that step"),
            ("fitted_identical", self.identical, "tokens/s", "the Identical cell that host.us_per_sequence meets"),
        ]
        .into_iter()
        .map(|(name, value, unit, source)| {
            (name.to_owned(), Assumption { value, unit: unit.to_owned(), source: source.to_owned() })
        })
        .collect()
    }
}

impl System {
    /// The LoRA kernel with which its profile is used.
    pub const fn kernel(self) -> LoraKernel {
        match self {
            System::Hf => LoraKernel::Loop,
            System::Punica => LoraKernel::Sgmv,
            // FasterTransformer and vLLM ran without LoRA; DeepSpeed's published steps leave no room for any.
            System::Deepspeed | System::Fastertransformer | System::Vllm => LoraKernel::None,
        }
    }
}

/// Fits the two figures of a system on a model.
///
/// The step at batch 1 is that of Fig. 1 for Punica on Llama-2 7B; for HuggingFace the middle of the steps that its own
/// Uniform and Skewed cells imply; for all others the middle of those that DeepSpeed, FasterTransformer and vLLM imply together.
///
/// # Errors
/// When a figure is missing, or the two cannot be met by costs of zero or above.
pub fn fit_textgen(
    facts: &Facts,
    requests: &[TextgenRequest],
    system: System,
    model: &Model,
) -> Result<Fitted, CalibrateError> {
    let error = |problem: &str| fit_error(system, model, problem);
    let gpu = Gpu::named(&facts.gpu).ok_or_else(|| error("its GPU is unknown"))?;
    let known = unfitted(facts, &gpu, system, model)?;
    let identical = facts.tokens_per_second(system, model)?[Popularity::Identical as usize];
    let run = run(&known, requests, system, Popularity::Identical)?;
    let (anchor_us, anchor_context, anchor_kernel) = anchor(facts, requests, system, model)?;
    let known_us = one_row_us(&known, anchor_kernel, anchor_context)?;
    let us_per_collection = collection_us(facts, requests, system, model)?;
    // At one sequence nothing but `us` is added; over the run, steps × us + further × us_per_sequence.
    let us = anchor_us - us_per_collection / COLLECT_EVERY as f64 - known_us;
    let collecting = us_per_collection * (run.steps / COLLECT_EVERY) as f64;
    let at_identical = seconds_us(requests, identical) - run.span.as_secs_f64() * 1e6 - collecting;
    let (steps, further) = (run.steps as f64, (run.sequence_steps - run.steps) as f64);
    let us_per_sequence = (at_identical - steps * us) / further;
    if us < 0.0 || us_per_sequence < 0.0 {
        let problem = format!("they leave {us:.0} us for a step and {us_per_sequence:.0} us for a sequence");
        return Err(error(&problem));
    }
    Ok(Fitted { us, us_per_sequence, us_per_collection, anchor_us, anchor_context, identical })
}

/// What does one garbage collection cost a static batcher, by the published cells? Microseconds; 0 for the others.
///
/// DeepSpeed's and FasterTransformer's loops collect every 16 steps, vLLM's does not, and all three stream the same weights
/// at batch 1. What the first two take longer there is put down to collections, and nothing where they do not.
///
/// # Errors
/// When a cell is missing.
pub fn collection_us(
    facts: &Facts,
    requests: &[TextgenRequest],
    system: System,
    model: &Model,
) -> Result<f64, CalibrateError> {
    if system.batching() != Batching::Static {
        return Ok(0.0);
    }
    let mean = |systems: &[System]| -> Result<f64, CalibrateError> {
        let steps = steps_at_batch_one(facts, requests, systems, model)?;
        Ok(steps.iter().sum::<f64>() / steps.len() as f64)
    };
    let longer = mean(&[System::Deepspeed, System::Fastertransformer])? - mean(&[System::Vllm])?;
    Ok(longer.max(0.0) * COLLECT_EVERY as f64)
}

/// Runs the benchmark's requests through a profile under a system's own batching.
///
/// # Errors
/// When the profile lacks the system's kernel.
pub fn run(
    profile: &Profile,
    requests: &[TextgenRequest],
    system: System,
    popularity: Popularity,
) -> Result<Run, CalibrateError> {
    let mut cost = compile(profile, system.kernel())?;
    Ok(textgen::run(requests, popularity, system.batching(), &mut cost))
}

/// The step at batch 1: microseconds, context, and the LoRA kernel that ran in it.
fn anchor(
    facts: &Facts,
    requests: &[TextgenRequest],
    system: System,
    model: &Model,
) -> Result<(f64, u32, LoraKernel), CalibrateError> {
    if system == System::Punica && model.name == "llama-2-7b" {
        let us = facts.decode_step_us(1, 128).ok_or_else(|| fit_error(system, model, "Fig. 1 lacks a corner"))?;
        return Ok((us, 128, LoraKernel::None));
    }
    let (systems, kernel): (&[System], _) = match system {
        System::Hf => (&[System::Hf], system.kernel()),
        _ => (&[System::Deepspeed, System::Fastertransformer, System::Vllm], LoraKernel::None),
    };
    let mut steps = steps_at_batch_one(facts, requests, systems, model)?;
    steps.sort_by(f64::total_cmp);
    let middle = (steps[0] + steps[steps.len() - 1]) / 2.0;
    Ok((middle, textgen::mean_context(requests), kernel))
}

/// The steps that the Uniform and the Skewed cells of some systems imply, microseconds. Their batches are of 1.0 to 1.3 requests.
fn steps_at_batch_one(
    facts: &Facts,
    requests: &[TextgenRequest],
    systems: &[System],
    model: &Model,
) -> Result<Vec<f64>, CalibrateError> {
    let mut implied = Vec::new();
    for &system in systems {
        let cells = facts.tokens_per_second(system, model)?;
        for popularity in [Popularity::Uniform, Popularity::Skewed] {
            let steps = textgen::run(requests, popularity, system.batching(), &mut textgen::Counting).steps;
            implied.push(seconds_us(requests, cells[popularity as usize]) / steps as f64);
        }
    }
    Ok(implied)
}

/// How long does the benchmark take at so many tokens a second? Microseconds.
fn seconds_us(requests: &[TextgenRequest], tokens_per_second: f64) -> f64 {
    textgen::total_tokens(requests) as f64 / tokens_per_second * 1e6
}

/// A step of one row by a profile, microseconds.
fn one_row_us(profile: &Profile, kernel: LoraKernel, context: u32) -> Result<f64, CalibrateError> {
    let rank = 16;
    let segments = [aril_sim::batch::Segment { rank, prefill_rows: 0, decode_rows: 1 }];
    let shape = BatchShape {
        decode_contexts: &[context],
        decode_context_sum: u64::from(context),
        prefills: &[],
        segments: &segments,
        lora_slots: 0,
        lora_rank_max: rank,
        copies_in_flight: false,
    };
    Ok(compile(profile, kernel)?.price(&shape).first.as_secs_f64() * 1e6)
}

fn compile(profile: &Profile, kernel: LoraKernel) -> Result<CompiledCost, CalibrateError> {
    CompiledCost::compile(profile, kernel)
        .map_err(|problem| CalibrateError::Figures { origin: profile.name.clone(), problem })
}

/// Least squares: the value at zero and the slope of the line through the points; nothing for fewer than two different ones.
pub(crate) fn line(xs: &[f64], ys: &[f64]) -> Option<(f64, f64)> {
    let n = xs.len().min(ys.len()) as f64;
    let (mean_x, mean_y) = (xs.iter().sum::<f64>() / n, ys.iter().sum::<f64>() / n);
    let (mut xy, mut xx) = (0.0, 0.0);
    for (x, y) in xs.iter().zip(ys) {
        xy += (x - mean_x) * (y - mean_y);
        xx += (x - mean_x) * (x - mean_x);
    }
    let slope = xy / xx;
    if n >= 2.0 && xx > 0.0 { Some((mean_y - slope * mean_x, slope)) } else { None }
}
