//! From measurements to a profile: each operation by what bounds it, whole steps by the sum of their operations.
//!
//! Read in this order: [`fn@fit`] (the way), [`judge`] (how far off it is on what it never saw); then one file an operation: rows,
//! decode attention, prompts, adapters, and the rest.

mod adapters;
mod bounds;
mod data;
mod decode;
mod descent;
pub mod judge;
mod least_squares;
mod others;
mod overlap;
pub(crate) mod physics;
pub(crate) mod predict;
mod prompts;
mod rows;
mod sag;
mod spread;
mod steps;

use std::collections::BTreeMap;

use aril_sim::gpu::Gpu;
use aril_sim::profile::lora::{LoraCost, LoraKernel};
use aril_sim::profile::{
    HostCost, LoadCost, LoraOverlap, Operation, Per, Profile, Provenance, ProvenanceKind, Rows, SCHEMA, WholeStep,
};

use crate::derive;
use crate::error::CalibrateError;
use crate::machine::{Identity, Part, StepShape};
use crate::recording::Recording;
use data::Data;

/// A measured shape: the median of its repetitions.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sample {
    pub(crate) shape: StepShape,
    pub(crate) kernel: LoraKernel,
    pub(crate) us: f64,
    /// The medians of its parts, where it was measured part by part.
    pub(crate) parts: Vec<f64>,
}

/// What a fit gives.
#[derive(Clone, Debug, PartialEq)]
pub struct Fitted {
    /// The profile, errors and spread in it.
    pub profile: Profile,
    /// Bias of whole steps by what they are: batch, context, segments.
    pub bias: Vec<judge::Bias>,
    /// What the measurements lacked, and what was done about it.
    pub notes: Vec<String>,
}

/// Makes a profile of a recording, and judges it on shapes that were held out.
///
/// `name` is what scenarios will call it; `origin` is what errors name.
///
/// # Errors
/// When the GPU is unknown or an operation has too few points for any fit.
pub fn fit(recording: &Recording, name: &str, origin: &str) -> Result<Fitted, CalibrateError> {
    let data = Data::of(recording);
    let identity = recording.machine();
    let mut notes = Vec::new();
    let mut profile = model(&data, identity, origin, &mut notes)?;
    profile.name = name.to_owned();
    profile.provenance = provenance(recording);
    let judged = judge::judge(&data, identity, origin)?;
    profile.held_out = judged.held_out;
    profile.spread = spread::of(&data, &profile)?;
    collective(&mut profile, &mut notes);
    if recording.missing > 0 {
        notes.push(format!("{} planned points are missing", recording.missing));
    }
    if recording.unsound() > 0 {
        notes.push(format!("{} points of a hot or slowed-down GPU do not count", recording.unsound()));
    }
    profile.check().map_err(|problem| CalibrateError::Figures { origin: origin.to_owned(), problem })?;
    Ok(Fitted { profile, bias: judged.bias, notes })
}

/// The same without judging it: no errors and no spread, and a tenth of the time.
///
/// # Errors
/// As [`fn@fit`].
pub fn unjudged(recording: &Recording, name: &str, origin: &str) -> Result<Profile, CalibrateError> {
    let mut notes = Vec::new();
    let mut profile = model(&Data::of(recording), recording.machine(), origin, &mut notes)?;
    profile.name = name.to_owned();
    profile.provenance = provenance(recording);
    collective(&mut profile, &mut notes);
    Ok(profile)
}

/// The profile that some measurements make, without errors, spread and provenance.
pub(crate) fn model(
    data: &Data,
    identity: &Identity,
    origin: &str,
    notes: &mut Vec<String>,
) -> Result<Profile, CalibrateError> {
    let lacks = |problem: String| CalibrateError::NotEnough { origin: origin.to_owned(), problem };
    let gpu = physics::sheet(identity)
        .ok_or_else(|| lacks(format!("there is no data sheet of a GPU `{}`", identity.gpu_name)))?;
    let degree = identity.tensor_parallel;
    let padded = data.padded(&identity.row_buckets);
    let data = &padded;
    let mut operations = Vec::new();
    for part in Part::ALL.into_iter().filter(|part| part.is_by_rows()) {
        let product = physics::product(part, &identity.model, degree, &gpu);
        let cost = rows::fit(data.rows(part), &product, identity.multiprocessors)
            .ok_or_else(|| lacks(format!("too few points of {part}")))?;
        let operation = Operation {
            name: part.as_str().to_owned(),
            per: if part.is_once() { Per::Step } else { Per::Layer },
            over: if part.is_by_sequence() { Rows::Sequences } else { Rows::All },
            cost,
        };
        // What runs twice a layer is there twice, once under a name of its own.
        if part.times() == 2.0 {
            operations.push(Operation { name: format!("{}-2", operation.name), ..operation.clone() });
        }
        operations.push(operation);
    }
    let kv_us = physics::kv_bytes(&identity.model, degree) / (gpu.gigabytes_per_second * 1e3);
    let sharing = decode::Sharing {
        groups: physics::decode_groups(&identity.model, degree),
        workers: 2 * identity.multiprocessors,
        least_us_per_token: kv_us,
    };
    let decode_attention =
        decode::fit(&data.decode, sharing).ok_or_else(|| lacks("too few points of decode-attention".to_owned()))?;
    let prompts = prompts::PromptPhysics {
        kilopair_us: physics::pair_flops(&identity.model, degree) * 1e3 / (gpu.teraflops_16bit * 1e6),
        heads: identity.model.heads / degree.max(1),
        packed: physics::packed_heads(&identity.model, degree),
        multiprocessors: identity.multiprocessors,
    };
    let prefill_attention =
        prompts::fit(&data.prompts, prompts).ok_or_else(|| lacks("too few points of prefill-attention".to_owned()))?;
    let derived = derive::derive(&gpu, &identity.model, degree).ok();
    let mut lora: BTreeMap<LoraKernel, LoraCost> = BTreeMap::new();
    let chip = adapters::Chip {
        multiprocessors: identity.multiprocessors,
        sites: physics::lora_sites(&identity.model, degree),
        row_buckets: identity.row_buckets.clone(),
        ..physics::lora_chip(&identity.gpu_name)
    };
    for (&kernel, samples) in &data.lora {
        match adapters::fit(kernel, samples, &chip) {
            Some(cost) => {
                lora.insert(kernel, cost);
            }
            None => notes.push(format!("too few points of the LoRA kernel {kernel}: the profile leaves it out")),
        }
    }
    others_of(data, derived.as_ref(), &mut lora, notes);
    let load = match others::loads(&data.loads, &data.step_slowdowns(), &identity.model, degree) {
        Some(load) => load,
        None => {
            notes.push("loads were not measured: theirs are figures of the data sheet".to_owned());
            derived.as_ref().map_or_else(|| load_of(&gpu), |profile| profile.load.clone())
        }
    };
    let mut profile = Profile {
        schema: SCHEMA,
        name: "unnamed".to_owned(),
        engine: "aril".to_owned(),
        tensor_parallel: degree,
        provenance: Provenance {
            kind: ProvenanceKind::Measured,
            source: String::new(),
            gpu: None,
            driver: None,
            cuda: None,
            clocks: None,
            kernel_source_hash: None,
            commit: None,
            date: None,
            note: None,
        },
        model: identity.model.clone(),
        gpu,
        host: HostCost::default(),
        whole_step: WholeStep::default(),
        clock_sag: sag::fit(&data.in_a_row),
        operations,
        row_buckets: identity.row_buckets.clone(),
        prefill_attention,
        decode_attention,
        vidur: None,
        lora,
        load,
        validity: data.validity(),
        held_out: Vec::new(),
        spread: Vec::new(),
        assumptions: BTreeMap::new(),
    };
    let few_rows = profile.lora.get(&LoraKernel::Segmented).and_then(|cost| cost.few_rows.as_ref());
    let few_rows = few_rows.map_or(0, |few| few.rows_max);
    let overlap = overlap::fit(&steps::added(data, &profile), few_rows);
    let steps = steps::samples(data, &profile, overlap.as_ref())?;
    let (whole, own) = others::whole(&steps, identity.model.layers, few_rows);
    let scale = whole.scale;
    let known = overlap.map(|known| LoraOverlap {
        scale: known.scale / scale,
        least_us: known.least_us.iter().map(|us| us / scale).collect(),
        ..known
    });
    profile.whole_step = WholeStep { lora_few_rows: known.or(whole.lora_few_rows.clone()), ..whole };
    if let Some(sag) = &mut profile.clock_sag {
        sag.own = own;
    }
    // Overlap hides no more than there is: the first adapter and the first prompt cost something.
    let prompt_us = profile.prefill_attention.us(&[(1, 0)]);
    let one = StepShape::decode(1, 1).with_adapters(8, &[1]).probe(true);
    let lora_us = profile.lora.get(&LoraKernel::Segmented).map_or(0.0, |cost| cost.us(&one.view()));
    let scale = profile.whole_step.scale;
    let whole = &mut profile.whole_step;
    let prompt_us = prompt_us * whole.prompt_scale;
    whole.us_per_layer_prompt = whole.us_per_layer_prompt.max(-prompt_us * scale);
    // Nor do a prompt's rows beside decode rows.
    whole.us_per_layer_mixed = whole.us_per_layer_mixed.max(-whole.us_per_layer_prompt - prompt_us * scale);
    whole.us_per_layer_lora = whole.us_per_layer_lora.max(-lora_us * scale * whole.lora_scale);
    // Nor does a prompt make adapters quicker.
    whole.us_per_layer_lora_prompt = whole.us_per_layer_lora_prompt.max(0.0);
    if let Some(few) = &mut whole.lora_few_rows {
        few.us_per_layer = few.us_per_layer.max(-lora_us * scale * few.scale);
    }
    if steps.len() < 12 {
        notes.push("too few whole steps: what they take beyond the sum of their parts is unknown".to_owned());
    }
    idle(data, &mut profile)?;
    match others::host(&data.host) {
        Some(host) => profile.host = host,
        None => notes.push("the host's part of a step was not measured: it counts as nothing".to_owned()),
    }
    Ok(profile)
}

/// What one GPU cannot measure of several: the all-reduces of a layer, priced from link figures and marked as that.
fn collective(profile: &mut Profile, notes: &mut Vec<String>) {
    if profile.tensor_parallel <= 1 {
        return;
    }
    let derived = derive::derive(&profile.gpu, &profile.model, profile.tensor_parallel).ok();
    let Some((operation, derived)) = derived.and_then(|derived| {
        let all_reduce = derived.operations.iter().find(|operation| operation.name == ALL_REDUCE)?.clone();
        Some((all_reduce, derived))
    }) else {
        notes.push("the all-reduces between GPUs are not in the profile: nothing is known of the link".to_owned());
        return;
    };
    profile.operations.push(operation);
    for key in ["all_reduce_us", "link_efficiency"] {
        if let Some(assumption) = derived.assumptions.get(key) {
            profile.assumptions.insert(key.to_owned(), assumption.clone());
        }
    }
    let note = format!("one GPU of {} was measured; all-reduces are priced from link figures", profile.tensor_parallel);
    let known = profile.provenance.note.take();
    profile.provenance.note = Some(known.map_or_else(|| note.clone(), |known| format!("{known}; {note}")));
    notes.push(note);
}

/// What data sheets' profiles call the collective.
const ALL_REDUCE: &str = "all-reduce";

/// Merging: what a switch costs was measured; steps with merged weights cost what they cost without adapters.
fn others_of(
    data: &Data,
    derived: Option<&Profile>,
    lora: &mut BTreeMap<LoraKernel, LoraCost>,
    notes: &mut Vec<String>,
) {
    let sheet = derived.and_then(|profile| profile.lora.get(&LoraKernel::Merged));
    match (data.switch_us(), sheet) {
        (Some(us_per_switch), _) => {
            let nothing = LoraCost {
                kind: None,
                source: None,
                idle_us: 0.0,
                idle_us_per_slot: 0.0,
                us: 0.0,
                rows_per_tile: 1,
                bounds: Vec::new(),
                few_rows: None,
                planned: None,
                slotted: None,
                us_per_switch,
            };
            lora.insert(LoraKernel::Merged, nothing);
        }
        (None, Some(sheet)) => {
            notes.push("switches of merged weights were not measured: theirs are figures of the data sheet".to_owned());
            let source = Some("data sheet, as in the derived profile".to_owned());
            lora.insert(LoraKernel::Merged, LoraCost { kind: Some(ProvenanceKind::Derived), source, ..sheet.clone() });
        }
        (None, None) => {}
    }
}

/// What the data sheet says of the host link, where no profile can be derived.
fn load_of(gpu: &Gpu) -> LoadCost {
    LoadCost {
        us: 10.0,
        pinned_gigabytes_per_second: gpu.host_gigabytes_per_second,
        pageable_gigabytes_per_second: gpu.host_gigabytes_per_second,
        copy_slowdown: 1.0,
        pageable_copy_slowdown: None,
        step_slowdown: 1.0,
    }
}

/// Enabled but idle: what steps with LoRA on and no adapter take beyond the same steps with LoRA off, each layer.
fn idle(data: &Data, profile: &mut Profile) -> Result<(), CalibrateError> {
    let off: BTreeMap<String, f64> = data
        .steps
        .iter()
        .filter(|sample| sample.kernel == LoraKernel::None)
        .map(|sample| (key(&sample.shape), sample.us))
        .collect();
    let layers = f64::from(profile.model.layers);
    for (&kernel, cost) in &mut profile.lora {
        let extra: Vec<f64> = data
            .steps
            .iter()
            .filter(|sample| sample.kernel == kernel && sample.shape.adapters.is_empty())
            .filter_map(|sample| Some((sample.us - off.get(&key(&sample.shape))?) / layers))
            .collect();
        if extra.is_empty() {
            continue;
        }
        cost.idle_us = crate::measure::median(&extra).max(0.0);
        // A kernel is idle or it is not: what it costs at work was measured whole.
        cost.us = (cost.us - cost.idle_us).max(0.0);
    }
    Ok(())
}

fn key(shape: &StepShape) -> String {
    serde_json::to_string(shape).expect("a shape has only numbers and lists")
}

fn provenance(recording: &Recording) -> Provenance {
    let (machine, last) = (recording.machine(), &recording.sessions[recording.sessions.len() - 1]);
    let clocks: Vec<_> = recording.blocks.iter().map(|(_, block)| &block.clocks).collect();
    let range = |of: &dyn Fn(&crate::machine::Clocks) -> Option<u32>| {
        let values: Vec<u32> = clocks.iter().filter_map(|clocks| of(clocks)).collect();
        Some((*values.iter().min()?, *values.iter().max()?))
    };
    let said = |name: &str, range: Option<(u32, u32)>| {
        range.map(
            |(low, high)| if low == high { format!("{name} {low} MHz") } else { format!("{name} {low} to {high} MHz") },
        )
    };
    let parts: Vec<String> =
        [said("SM", range(&|c| c.sm_mhz)), said("memory", range(&|c| c.memory_mhz))].into_iter().flatten().collect();
    let capped = clocks.iter().filter(|c| c.throttled.contains(&crate::machine::Throttle::PowerCap)).count();
    let cap =
        if capped > 0 { format!("; at the power limit in {capped} of {} blocks", clocks.len()) } else { String::new() };
    let drift =
        recording.drift_percent().map_or(String::new(), |drift| format!("; a repeated kernel moved by {drift:.1} %"));
    let points = recording.sound().len();
    // What nobody measured on hardware is never called measured.
    let (kind, source) = match machine.is_synthetic() {
        true => {
            (ProvenanceKind::Derived, format!("{points} answers of a made-up GPU: for trying out, not for promises"))
        }
        false => {
            let how = "operations as CUDA graphs with cold weights, steps as an engine runs them; medians";
            (ProvenanceKind::Measured, format!("{points} points on one {}, {how}", machine.gpu))
        }
    };
    Provenance {
        kind,
        source,
        gpu: Some(machine.gpu.clone()),
        driver: Some(machine.driver.clone()),
        cuda: Some(machine.cuda.clone()),
        clocks: Some(format!(
            "{}{cap}{drift}",
            if parts.is_empty() { "not told".to_owned() } else { parts.join(", ") }
        )),
        kernel_source_hash: Some(machine.kernel_source_hash.clone()),
        commit: Some(last.commit.clone()),
        date: Some(last.date.clone()),
        note: (recording.missing > 0).then(|| format!("{} planned points are missing", recording.missing)),
    }
}
