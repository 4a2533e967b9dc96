//! The two figures of each (system, model) that are fitted: what a step and what a sequence take beyond what is known.
//!
//! They solve two equations in closed form: the step at batch 1 of Fig. 1, and the run of the Identical cell. No other cell of
//! the text generation table enters.

use std::collections::BTreeMap;

use aril_sim::cost::CompiledCost;
use aril_sim::gpu::Gpu;
use aril_sim::model::Model;
use aril_sim::profile::lora::LoraKernel;
use aril_sim::profile::{Assumption, Profile};

use super::textgen::{self, Popularity, Run, TextgenRequest};
use super::{Facts, System, fit_error, unfitted};
use crate::error::CalibrateError;
use crate::probe::{Probe, Shape};

/// Tokens before the row of the anchor: the short corner of Fig. 1.
const ANCHOR_CONTEXT: u32 = 128;

/// What was fitted and to what.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fitted {
    /// A step of one sequence, microseconds.
    pub us: f64,
    /// Each further sequence of a step, microseconds.
    pub us_per_sequence: f64,
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
            ("fitted_anchor_us", self.anchor_us, "us", "the step at batch 1, without LoRA, that host.us meets"),
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
/// Fig. 1 gives the step at batch 1 of Llama-2 7B; what it takes beyond its bytes at the data sheet's peak is every system's,
/// and grows with the bytes of the weights to another model.
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
    // At one sequence nothing but `us` is added; over the run, steps × us + further × us_per_sequence.
    let us = beyond_peak_us(facts, &gpu, system, model)?;
    let anchor_us = us + one_row_us(&known)?;
    let at_identical = seconds_us(requests, identical) - run.span.as_secs_f64() * 1e6;
    let (steps, further) = (run.steps as f64, (run.sequence_steps - run.steps) as f64);
    let us_per_sequence = (at_identical - steps * us) / further;
    if us < 0.0 || us_per_sequence < 0.0 {
        let problem = format!("they leave {us:.0} us for a step and {us_per_sequence:.0} us for a sequence");
        return Err(error(&problem));
    }
    Ok(Fitted { us, us_per_sequence, anchor_us, anchor_context: ANCHOR_CONTEXT, identical })
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

/// What does the step of one row take beyond weights and KV at the data sheet's peak? Microseconds.
///
/// By Fig. 1 for Llama-2 7B; for another model in proportion to the bytes of its weights.
fn beyond_peak_us(facts: &Facts, gpu: &Gpu, system: System, model: &Model) -> Result<f64, CalibrateError> {
    let missing = |problem| fit_error(system, model, problem);
    let paper_model = Model::named("llama-2-7b").ok_or_else(|| missing("the paper's model is unknown"))?;
    let step = facts.decode_step_us(1, ANCHOR_CONTEXT).ok_or_else(|| missing("Fig. 1 lacks a corner"))?;
    let beyond = step - one_row_us(&unfitted(facts, gpu, system, &paper_model)?)?;
    Ok(beyond * model.weight_bytes() as f64 / paper_model.weight_bytes() as f64)
}

/// How long does the benchmark take at so many tokens a second? Microseconds.
fn seconds_us(requests: &[TextgenRequest], tokens_per_second: f64) -> f64 {
    textgen::total_tokens(requests) as f64 / tokens_per_second * 1e6
}

/// A step of one row without LoRA by a profile, microseconds, at the anchor's context.
fn one_row_us(profile: &Profile) -> Result<f64, CalibrateError> {
    Ok(Probe::new(profile, LoraKernel::None)?.us(&Shape::decode(1, ANCHOR_CONTEXT)))
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
