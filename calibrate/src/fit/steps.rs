//! Measured steps beside what a profile of operations alone says of them: what the gaps of whole steps are fitted to.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use aril_sim::profile::lora::LoraKernel;
use aril_sim::profile::{ClockSag, HostCost, LoraOverlap, Profile, WholeStep};

use super::data::Data;
use super::others::StepSample;
use super::{Sample, overlap, sag};
use crate::error::CalibrateError;
use crate::machine::StepShape;
use crate::probe::Probe;

/// What our adapters added to steps, by turns, beside what they take alone: in a layer.
pub(super) fn added(data: &Data, profile: &Profile) -> Vec<overlap::Added> {
    let layers = f64::from(profile.model.layers);
    let cost = profile.lora.get(&LoraKernel::Segmented);
    let samples = data.added.iter().filter_map(|sample| {
        let (rows, alone_us) = (sample.shape.rows(), cost?.us(&sample.shape.probe(true).view()));
        Some(overlap::Added { rows: profile.padded(rows), alone_us, us: added_us(profile, sample) / layers })
    });
    samples.collect()
}

/// What adapters added to a step, less what the longer of the two steps did to the clocks.
fn added_us(profile: &Profile, sample: &Sample) -> f64 {
    let sagging = |part: usize| sample.parts.get(part).map_or(0.0, |us| sag::repeated_us(profile, &sample.shape, *us));
    sample.us - (sagging(0) - sagging(1))
}

/// Every measured step beside the sum of its parts, and what adapters add to one beside what they take alone. Of few rows adapters that are
/// `known` are parts like others.
pub(super) fn samples(
    data: &Data,
    profile: &Profile,
    known: Option<&LoraOverlap>,
) -> Result<Vec<StepSample>, CalibrateError> {
    let whole_step = WholeStep { lora_few_rows: known.cloned(), ..WholeStep::default() };
    let bare = Profile { host: HostCost::default(), whole_step, ..profile.clone() };
    let is_known = |shape: &StepShape| known.is_some_and(|known| shape.rows() <= known.rows_max);
    let mut probes: BTreeMap<LoraKernel, Probe> = BTreeMap::new();
    let layers = f64::from(bare.model.layers);
    let prompts_us = |shape: &StepShape| {
        let prompts: Vec<(u32, u32)> = shape.prompt_pairs().collect();
        bare.prefill_attention.us(&prompts) * layers
    };
    let decode_us = |shape: &StepShape| {
        bare.decode_attention.us(shape.decode_rows(), shape.context_sum(), shape.context_max()) * layers
    };
    let lora_us = |kernel: LoraKernel, shape: &StepShape| {
        let on = bare.lora.get(&kernel).filter(|_| !shape.adapters.is_empty());
        on.map_or(0.0, |cost| cost.us(&shape.probe(true).view()) * layers)
    };
    let sagging_us = |shape: &StepShape, us: f64| {
        profile.clock_sag.map_or(0.0, |sag| ClockSag { own: 1.0, ..sag }.own_us(shape.prompt_rows(), us))
    };
    let mut samples = Vec::new();
    for sample in &data.steps {
        let shape = &sample.shape;
        let on = !shape.adapters.is_empty();
        let kernel = if on { sample.kernel } else { LoraKernel::None };
        if kernel != LoraKernel::None && !bare.lora.contains_key(&kernel) {
            continue;
        }
        let probe = match probes.entry(kernel) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(Probe::new(&bare, kernel)?),
        };
        // A step with LoRA on and idle tells of idleness, not of gaps.
        if sample.kernel != LoraKernel::None && !on {
            continue;
        }
        let parts_us = probe.clone().us(&shape.probe(on));
        let lora = on && !is_known(shape);
        samples.push(StepSample {
            rows: f64::from(shape.rows()),
            added: false,
            lora,
            prompt: !shape.prompts.is_empty(),
            mixed: !shape.prompts.is_empty() && shape.decode_rows() > 0,
            us: sample.us - sag::repeated_us(profile, shape, sample.us),
            parts_us,
            prompts_us: prompts_us(shape),
            sagging_us: sagging_us(shape, parts_us - decode_us(shape)),
            lora_us: if lora { lora_us(kernel, shape) } else { 0.0 },
        });
    }
    let added = data.added.iter().filter(|sample| bare.lora.contains_key(&sample.kernel) && !is_known(&sample.shape));
    samples.extend(added.map(|sample| {
        let lora_us = lora_us(sample.kernel, &sample.shape);
        StepSample {
            rows: f64::from(sample.shape.rows()),
            added: true,
            lora: true,
            prompt: !sample.shape.prompts.is_empty(),
            us: added_us(profile, sample),
            parts_us: lora_us,
            lora_us,
            ..StepSample::default()
        }
    }));
    Ok(samples)
}
