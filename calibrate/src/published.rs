//! Profiles from published figures: Punica's A100, and the systems that the paper ran beside it.
//!
//! What the paper gives is used as it is. What it does not give comes from the data sheet at its peak, so that the fitted
//! remainder is never below what hardware allows. Two figures of each (system, model) are fitted, in [`fit`].

pub mod fit;
mod lora;
pub mod table;
pub mod textgen;

use std::collections::BTreeMap;

use aril_sim::gpu::Gpu;
use aril_sim::model::Model;
use aril_sim::profile::attention::{DecodeAttention, DecodeBound};
use aril_sim::profile::{Assumption, LoadCost, Profile, Provenance, ProvenanceKind, Range, Validity};
use serde::Deserialize;

use crate::derive::{Assumptions, derive_with};
use crate::embedded::full_name;
use crate::error::CalibrateError;
use crate::text;
pub use fit::{Fitted, fit_textgen};
pub use textgen::{Popularity, TextgenRequest};

/// The paper's figures, as committed in `published/punica.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Facts {
    /// The paper.
    pub paper: String,
    /// The GPU of the figures.
    pub gpu: String,
    /// The rank of its adapters.
    pub rank: u32,
    /// Corners of Fig. 1.
    pub decode_step: Vec<DecodeStep>,
    /// What LoRA adds to a token.
    pub lora: LoraFact,
    /// Fig. 8.
    pub operator: OperatorFact,
    /// Fig. 9.
    pub expand: ExpandFact,
    /// The loop over adapters.
    pub r#loop: LoopFact,
    /// The host link.
    pub load: LoadFact,
    /// Fig. 11: model, system, tokens a second by popularity.
    pub textgen: BTreeMap<String, BTreeMap<String, [f64; 4]>>,
}

/// One decode step without LoRA.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecodeStep {
    /// Sequences.
    pub rows: u32,
    /// Tokens of each.
    pub context: u32,
    /// Milliseconds.
    pub ms: f64,
}

/// What LoRA adds to a token.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraFact {
    /// Milliseconds.
    pub ms_per_token: f64,
}

/// One LoRA operator, alone.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperatorFact {
    /// Input features.
    pub input: u32,
    /// Output features.
    pub output: u32,
    /// The larger number of rows.
    pub rows: u32,
    /// One row, microseconds.
    pub one_row_us: f64,
    /// `rows` rows with as many adapters.
    pub distinct_us: f64,
    /// `rows` rows with one adapter.
    pub identical_us: f64,
    /// Gather and batched product, `rows` rows with as many adapters.
    pub gather_bmm_distinct_us: f64,
}

/// The expand half, by rank.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExpandFact {
    /// Output features.
    pub output: u32,
    /// The larger number of rows.
    pub rows: u32,
    /// One row of any rank, microseconds.
    pub one_row_us: f64,
    /// Ranks.
    pub ranks: Vec<f64>,
    /// `rows` rows with as many adapters, one for each rank.
    pub distinct_us: Vec<f64>,
}

/// The loop over adapters.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoopFact {
    /// Adapters.
    pub segments: Vec<f64>,
    /// Microseconds for each.
    pub us: Vec<f64>,
}

/// The host link.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoadFact {
    /// 10⁹ bytes a second.
    pub gigabytes_per_second: f64,
}

/// A system of Fig. 11.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum System {
    /// HuggingFace with PEFT.
    Hf,
    /// DeepSpeed.
    Deepspeed,
    /// FasterTransformer, without LoRA.
    Fastertransformer,
    /// vLLM, without LoRA.
    Vllm,
    /// Punica.
    Punica,
}

impl System {
    /// All five.
    pub const ALL: [System; 5] =
        [System::Hf, System::Deepspeed, System::Fastertransformer, System::Vllm, System::Punica];

    /// As the figures call it.
    pub const fn as_str(self) -> &'static str {
        match self {
            System::Hf => "hf",
            System::Deepspeed => "deepspeed",
            System::Fastertransformer => "fastertransformer",
            System::Vllm => "vllm",
            System::Punica => "punica",
        }
    }
}

/// Reads the committed figures.
///
/// # Errors
/// When the file is damaged.
pub fn facts() -> Result<Facts, CalibrateError> {
    text::parse("calibrate/published/punica.toml", include_str!("../published/punica.toml"))
}

impl Facts {
    /// Tokens a second of a system on a model, by popularity.
    ///
    /// # Errors
    /// When the paper has none.
    pub fn tokens_per_second(&self, system: System, model: &Model) -> Result<[f64; 4], CalibrateError> {
        let cells = self.textgen.get(&model.name).and_then(|systems| systems.get(system.as_str()));
        cells.copied().ok_or_else(|| fit_error(system, model, "the paper has no such cells"))
    }

    /// The step of Fig. 1 at so many rows of so much context, microseconds.
    fn decode_step_us(&self, rows: u32, context: u32) -> Option<f64> {
        let step = self.decode_step.iter().find(|step| step.rows == rows && step.context == context)?;
        Some(step.ms * 1e3)
    }

    /// Fig. 1's slopes over all layers of Llama-2 7B, microseconds: each token of 32 equal rows, and each token of one row alone.
    fn attention_slopes(&self) -> Option<(f64, f64)> {
        let grown = |rows| Some(self.decode_step_us(rows, 2048)? - self.decode_step_us(rows, 128)?);
        Some((grown(32)? / (32.0 * 1920.0), grown(1)? / 1920.0))
    }
}

pub(crate) fn fit_error(system: System, model: &Model, problem: &str) -> CalibrateError {
    CalibrateError::Fit { system: system.as_str().to_owned(), model: model.name.clone(), problem: problem.to_owned() }
}

/// The profile of a published family for a model.
///
/// Families: `punica-a100-80gb` (the paper's own system), `punica-a100-80gb-SYSTEM` (what it was compared with),
/// `punica-a100-40gb` (its own system, scaled to the other board's bandwidth).
///
/// # Errors
/// When there is no such family, or its figures cannot be met.
pub fn profile(
    facts: &Facts,
    requests: &[TextgenRequest],
    family: &str,
    model: &Model,
) -> Result<Profile, CalibrateError> {
    let rest = family.strip_prefix("punica-").unwrap_or(family);
    let (gpu, system) = System::ALL
        .iter()
        .find_map(|&system| Some((rest.strip_suffix(system.as_str())?.strip_suffix('-')?, system)))
        .unwrap_or((rest, System::Punica));
    let unknown = || CalibrateError::Unknown { name: family.to_owned(), nearest: None, known: Vec::new() };
    let device = Gpu::named(gpu).ok_or_else(unknown)?;
    let fitted = fit_textgen(facts, requests, system, model)?;
    let mut profile = unfitted(facts, &device, system, model)?;
    profile.name = full_name(family, &model.name, 1);
    profile.host.us = fitted.us;
    profile.host.us_per_sequence = fitted.us_per_sequence;
    profile.assumptions.extend(fitted.table());
    if device.name != facts.gpu {
        profile.provenance.note = Some(format!(
            "The paper's figures are from an {}: bytes are scaled to this board's bandwidth, everything else is kept.",
            facts.gpu
        ));
    }
    Ok(profile)
}

/// Everything but the two fitted figures, which are 0.
pub(crate) fn unfitted(facts: &Facts, gpu: &Gpu, system: System, model: &Model) -> Result<Profile, CalibrateError> {
    // At their peak: what hardware takes beyond it is in the fitted remainder.
    let peak = Assumptions {
        bandwidth_efficiency: 1.0,
        kernel_us: 0.0,
        host_us: 0.0,
        host_us_per_sequence: 0.0,
        ..Assumptions::default()
    };
    let mut profile = derive_with(gpu, model, 1, &peak)?;
    profile.engine = system.as_str().to_owned();
    profile.provenance = Provenance {
        kind: ProvenanceKind::Published,
        source: facts.paper.clone(),
        gpu: None,
        driver: None,
        cuda: None,
        clocks: None,
        kernel_source_hash: None,
        commit: None,
        date: Some("2023-10-28".to_owned()),
        note: Some(note(system).to_owned()),
    };
    let missing = || fit_error(system, model, "Fig. 1 lacks a corner");
    profile.decode_attention = attention(facts, gpu, system, model).ok_or_else(missing)?;
    profile.lora = lora::kernels(facts, gpu, system, model, &profile.lora)?;
    profile.load = LoadCost {
        us: 0.0,
        pinned_gigabytes_per_second: facts.load.gigabytes_per_second,
        pageable_gigabytes_per_second: facts.load.gigabytes_per_second * peak.pageable_efficiency,
        copy_slowdown: 1.0,
        pageable_copy_slowdown: None,
        step_slowdown: 1.0,
    };
    profile.assumptions = used(&peak);
    let range = |min, max| Some(Range { min, max });
    let longest = facts.decode_step.iter().map(|step| step.context).max().unwrap_or(0);
    profile.validity = Validity {
        decode_rows: range(1, facts.decode_step.iter().map(|step| step.rows).max().unwrap_or(1)),
        context: range(1, longest),
        segments: range(1, facts.operator.rows),
        rank: range(
            facts.expand.ranks.iter().copied().fold(f64::INFINITY, f64::min) as u32,
            facts.expand.ranks.iter().copied().fold(0.0, f64::max) as u32,
        ),
        ..Validity::default()
    };
    Ok(profile)
}

/// What is still assumed in a published profile.
fn used(peak: &Assumptions) -> BTreeMap<String, Assumption> {
    let mut table = peak.table();
    table.retain(|name, _| {
        ["arithmetic_efficiency", "attention_arithmetic_efficiency", "rows_per_tile", "pageable_efficiency"]
            .contains(&name.as_str())
    });
    let source =
        "the data sheet's peak: the least that weights can take; what they take beyond is in the fitted figures";
    let peak = Assumption { value: 1.0, unit: "1".to_owned(), source: source.to_owned() };
    table.insert("bandwidth_efficiency".to_owned(), peak);
    table
}

/// Fig. 1 in every layer: KV streams at the rate of 32 long rows, and one long row alone is bound by its own length.
fn attention(facts: &Facts, gpu: &Gpu, system: System, model: &Model) -> Option<DecodeAttention> {
    let (token, longest) = facts.attention_slopes()?;
    let paper_gpu = Gpu::named(&facts.gpu)?;
    let paper_model = Model::named("llama-2-7b")?;
    let layer_bytes = |model: &Model| model.kv_bytes_per_token() as f64 / f64::from(model.layers);
    let layers = f64::from(paper_model.layers);
    let token = token / layers * layer_bytes(model) / layer_bytes(&paper_model) * paper_gpu.gigabytes_per_second
        / gpu.gigabytes_per_second;
    let mut bounds = vec![DecodeBound::uniform("bandwidth", 0.0, token, 0.0)];
    // The figure is Punica's own; for the others the step at batch 1 is fitted at the lengths that they ran.
    if system == System::Punica {
        bounds.push(DecodeBound::uniform("longest row", 0.0, 0.0, longest / layers));
    }
    Some(DecodeAttention { bounds, ..DecodeAttention::default() })
}

fn note(system: System) -> &'static str {
    match system {
        System::Hf => "HuggingFace with PEFT as the paper ran it; use it with static batches and the `loop` kernel.",
        System::Deepspeed => {
            "DeepSpeed as the paper ran it. Its published steps leave no room for a visible LoRA: use it with static batches and the `none` kernel."
        }
        System::Fastertransformer => {
            "FasterTransformer as the paper ran it, backbone only; use it with static batches and the `none` kernel."
        }
        System::Vllm => "vLLM of 2023 as the paper ran it, backbone only; use it with the `none` kernel.",
        System::Punica => "Punica's own system; use it with the `sgmv` kernel.",
    }
}
