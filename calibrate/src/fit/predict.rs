//! Asks a profile what machines are asked.

use std::collections::BTreeMap;

use aril_sim::batch::Sag;
use aril_sim::profile::lora::LoraKernel;
use aril_sim::profile::{ClockSag, HostCost, Profile, StepRows};

use super::sag::step_rows;
use crate::error::CalibrateError;
use crate::machine::{AT_REST, BEHIND, Part, Question, StepShape, served};
use crate::probe::Probe;

/// Asks a profile what machines are asked.
pub(crate) struct Predictor<'a> {
    profile: &'a Profile,
    /// The GPU's part of steps, by kernel.
    steps: BTreeMap<LoraKernel, Probe>,
    device: Profile,
}

impl<'a> Predictor<'a> {
    pub(crate) fn new(profile: &'a Profile) -> Predictor<'a> {
        let device = Profile { host: HostCost::default(), ..profile.clone() };
        Predictor { profile, steps: BTreeMap::new(), device }
    }

    /// The profile.
    pub(crate) fn profile(&self) -> &Profile {
        self.profile
    }

    /// What the profile says; nothing where it does not know the kernel or has no figure of the kind.
    pub(crate) fn us(&mut self, question: &Question) -> Result<Option<f64>, CalibrateError> {
        let profile = self.profile;
        Ok(match question {
            Question::Operation { operation: Part::DecodeAttention, shape } => {
                let (rows, sum, longest) = (shape.decode_rows(), shape.context_sum(), shape.context_max());
                Some(profile.decode_attention.us(rows, sum, longest))
            }
            Question::Operation { operation: Part::PrefillAttention, shape } => {
                let prompts: Vec<(u32, u32)> = shape.prompt_pairs().collect();
                Some(profile.prefill_attention.us(&prompts))
            }
            Question::Operation { operation, shape } => {
                let rows = if operation.is_by_sequence() { shape.sequences() } else { shape.rows() };
                let found = profile.operations.iter().find(|o| o.name == operation.as_str());
                found.map(|o| o.cost.us(f64::from(profile.padded(rows))))
            }
            Question::Lora { kernel, shape } => {
                profile.lora.get(kernel).filter(|_| !kernel.is_free()).map(|cost| cost.us(&shape.probe(true).view()))
            }
            Question::Step { kernel, shape } => self.repeated(*kernel, shape)?,
            Question::Added { shape } => self.added(shape)?,
            Question::Behind { prompts, times, shape } => self.behind(prompts, *times, shape)?,
            Question::Served { shapes, steps, pauses } => self.served(shapes, *steps, *pauses)?,
            Question::Host { shape, .. } => {
                let host = &profile.host;
                let (prompts, adapters) = (shape.prompts.len() as u32, shape.adapters.len() as u32);
                (host != &HostCost::default())
                    .then(|| host.step_us(shape.sequences(), prompts, shape.prompt_rows(), adapters))
            }
            Question::Load { rank, pinned, beside: None } => {
                let targets = &aril_sim::model::lora::LoraTarget::LAYER;
                let bytes = profile.model.adapter_bytes_per_gpu(*rank, targets, profile.tensor_parallel);
                let mut load = profile.load.clone();
                (load.copy_slowdown, load.pageable_copy_slowdown) = (1.0, None);
                Some(load.link(*pinned).duration(bytes).as_secs_f64() * 1e6)
            }
            Question::Load { .. }
            | Question::StepBesideLoad { .. }
            | Question::Switch { .. }
            | Question::Copy { .. } => None,
        })
    }

    fn step(&mut self, kernel: LoraKernel, shape: &StepShape) -> Result<Option<f64>, CalibrateError> {
        if !kernel.is_free() && !self.device.lora.contains_key(&kernel) {
            return Ok(None);
        }
        if !self.steps.contains_key(&kernel) {
            self.steps.insert(kernel, Probe::new(&self.device, kernel)?);
        }
        let probe = self.steps.get_mut(&kernel).expect("it was just made");
        Ok(Some(probe.us(&shape.probe(kernel != LoraKernel::None))))
    }

    /// The same measured again and again, its card at rest only in part.
    fn repeated(&mut self, kernel: LoraKernel, shape: &StepShape) -> Result<Option<f64>, CalibrateError> {
        let us = self.step(kernel, shape)?;
        Ok(us.map(|us| us + super::sag::repeated_us(self.profile, shape, us)))
    }

    /// What our adapters add to a step.
    fn added(&mut self, shape: &StepShape) -> Result<Option<f64>, CalibrateError> {
        let with = self.repeated(LoraKernel::Segmented, shape)?;
        let without = self.repeated(LoraKernel::None, shape)?;
        Ok(with.zip(without).map(|(with, without)| with - without))
    }

    /// Steps at rest, prompts, and steps behind them: all of the row.
    fn behind(&mut self, prompts: &StepShape, times: u32, shape: &StepShape) -> Result<Option<f64>, CalibrateError> {
        let Some(clocks) = self.profile.clock_sag else { return Ok(None) };
        let (Some(prompts_us), Some(us)) = (self.step(LoraKernel::None, prompts)?, self.step(LoraKernel::None, shape)?)
        else {
            return Ok(None);
        };
        let row = std::iter::repeat_n((step_rows(prompts), prompts_us, 0.0), times as usize);
        let row = row.chain(std::iter::repeat_n((step_rows(shape), us, 0.0), BEHIND));
        Ok(Some(AT_REST as f64 * us + in_a_row(&clocks, row)))
    }

    /// All steps as they are served.
    fn served(&mut self, shapes: &[StepShape], steps: u32, pauses: bool) -> Result<Option<f64>, CalibrateError> {
        let Some(clocks) = self.profile.clock_sag else { return Ok(None) };
        let mut alone = Vec::with_capacity(shapes.len());
        for shape in shapes {
            let Some(us) = self.step(LoraKernel::Segmented, shape)? else { return Ok(None) };
            alone.push((step_rows(shape), us));
        }
        let order = served::order(shapes, steps, pauses).into_iter();
        Ok(Some(in_a_row(
            &clocks,
            order.map(|served| (alone[served.shape].0, alone[served.shape].1, served.rested_us)),
        )))
    }
}

/// Steps one after the other on a card that was at rest: rows of each, what it takes alone, and the pause before, microseconds.
fn in_a_row(clocks: &ClockSag, steps: impl Iterator<Item = (StepRows, f64, f64)>) -> f64 {
    let (all, _) = steps.fold((0.0, Sag::NONE), |(all, sag), (rows, us, rested_us)| {
        let (longer, after) = clocks.behind(sag, rested_us, rows, us);
        (all + us + longer, after)
    });
    all
}
