//! The calibrated costs of one model on one GPU under one engine, with where each figure comes from.
//!
//! A step takes
//!
//! ```text
//! host + scale × ( layers × ( layer operations + prefill attention + decode attention + LoRA )
//!                + step operations ) + gap
//! ```
//!
//! where host and gap belong to the step, and scale and gap are what whole steps take beyond the sum of their parts
//! ([`WholeStep`]); what steps take longer behind prompts comes on top ([`ClockSag`]). Or whole layers come from a peer's tables ([`VidurTables`]), with LoRA on top. Everything is in
//! microseconds unless its name says otherwise. A profile is plain data:
//! [`crate::cost::CompiledCost`] turns it into a price.

pub mod attention;
pub mod check;
pub mod curve;
pub mod lora;
mod sag;
mod step;
pub mod vidur;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::gpu::Gpu;
use crate::model::Model;
use crate::settings::Link;
use crate::time::Span;
use attention::{DecodeAttention, PrefillAttention};
use curve::Curve;
use lora::{LoraCost, LoraKernel};
pub(crate) use sag::Sagging;
pub use sag::{ClockSag, Clocks, StepRows};
pub use step::{HostCost, LoraOverlap, WholeStep, beside, doublings};
use vidur::VidurTables;

/// The version of the format that this build writes.
///
/// Version 2 added waves of tiles ([`curve::Waves`]), padding of rows, prompts that share a launch ([`attention::Together`]), gaps by rows, by
/// adapters and by prompts ([`WholeStep`]), tiles of prompts ([`attention::Tiled`]), regimes of decode attention ([`attention::DecodeRegime`]), plans of adapters
/// ([`lora::Planned`]), a host that waits longer for more ([`HostCost::us_per_doubling`]), clocks that sag under prompts ([`ClockSag`]), and the spread of measurements ([`Spread`]). What version 1 says,
/// it still says.
///
/// Version 3 says anew what version 2 said of tiles of prompts (what a block takes besides its keys, and which share of a chip is taken) and of clocks that sag (by rows,
/// whatever they are of): such a profile of version 2 is not read, its recording is fitted again.
pub const SCHEMA: u32 = 3;

/// The oldest version of the format that this build reads.
pub const SCHEMA_OLDEST: u32 = 1;

/// The calibrated costs of one model on one GPU under one engine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Version of the format: [`SCHEMA`].
    pub schema: u32,
    /// What scenarios call it.
    pub name: String,
    /// The engine whose host work and habits are in it, such as `punica` or `vllm`.
    pub engine: String,
    /// GPUs that share the model; every cost below is that of one of them, in step with the others.
    pub tensor_parallel: u32,
    /// Where the figures come from.
    pub provenance: Provenance,
    /// The model.
    pub model: Model,
    /// The device.
    pub gpu: Gpu,
    /// What the CPU adds to a step.
    pub host: HostCost,
    /// What whole steps take beyond the sum of their parts.
    #[serde(default)]
    pub whole_step: WholeStep,
    /// What steps take longer behind prompts; where absent, nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_sag: Option<ClockSag>,
    /// Matrices, norms, sampling, collectives: all whose cost depends on the number of rows alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub operations: Vec<Operation>,
    /// The numbers of rows that the engine pads to before it computes them: strictly increasing. Beyond the last, and without any,
    /// rows are computed as they are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub row_buckets: Vec<u32>,
    /// Attention of prompts, for one layer.
    #[serde(default, skip_serializing_if = "PrefillAttention::is_none")]
    pub prefill_attention: PrefillAttention,
    /// Attention of decode rows, for one layer.
    #[serde(default, skip_serializing_if = "DecodeAttention::is_none")]
    pub decode_attention: DecodeAttention,
    /// Vidur's prediction tables, in place of host, operations and attention.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vidur: Option<VidurTables>,
    /// The kernels that can add adapters, side by side. `none` and `merged` cost nothing and need no entry.
    #[serde(default)]
    #[schemars(extend("propertyNames" = {"enum": LoraKernel::ALL.map(LoraKernel::as_str)}))]
    pub lora: BTreeMap<LoraKernel, LoraCost>,
    /// Copies of adapters to the GPU.
    pub load: LoadCost,
    /// Where the figures hold. A look-up outside is answered by extrapolation, and counted.
    #[serde(default)]
    pub validity: Validity,
    /// How far the profile is from measurements that its fit did not see.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held_out: Vec<HeldOutError>,
    /// How measurements scatter around the profile: what a simulation draws its jitter from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub spread: Vec<Spread>,
    /// What was assumed rather than measured or published, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub assumptions: BTreeMap<String, Assumption>,
}

impl Profile {
    /// So many rows as the engine pads them.
    pub fn padded(&self, rows: u32) -> u32 {
        pad(&self.row_buckets, rows)
    }

    /// How are the figures of this kernel known?
    pub fn lora_kind(&self, kernel: LoraKernel) -> ProvenanceKind {
        self.lora.get(&kernel).and_then(|cost| cost.kind).unwrap_or(self.provenance.kind)
    }

    /// How long does it take to merge another adapter into the weights?
    pub fn switch_time(&self, kernel: LoraKernel) -> Span {
        self.lora.get(&kernel).map_or(Span::ZERO, |cost| Span::from_secs_f64(cost.us_per_switch * 1e-6))
    }

    /// How long does one garbage collection take, where a batcher asks for it?
    pub fn collection_time(&self) -> Span {
        Span::from_secs_f64(self.host.us_per_collection * 1e-6)
    }
}

/// The first bucket that holds so many rows; the rows themselves beyond the last.
pub fn pad(buckets: &[u32], rows: u32) -> u32 {
    if rows == 0 {
        return 0;
    }
    buckets.get(buckets.partition_point(|bucket| *bucket < rows)).copied().unwrap_or(rows)
}

/// How do we know?
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ProvenanceKind {
    /// By running it on the hardware.
    Measured,
    /// From figures that others published.
    Published,
    /// From data sheets and stated assumptions.
    Derived,
}

impl ProvenanceKind {
    /// As reports print it.
    pub const fn as_str(self) -> &'static str {
        match self {
            ProvenanceKind::Measured => "measured",
            ProvenanceKind::Published => "published",
            ProvenanceKind::Derived => "derived",
        }
    }
}

/// Where the figures of a profile come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// How do we know?
    pub kind: ProvenanceKind,
    /// The paper, the data sheet, or the machine.
    pub source: String,
    /// Name of the GPU as its driver gives it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<String>,
    /// Version of the GPU driver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// Version of CUDA.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cuda: Option<String>,
    /// Clocks during the measurement.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clocks: Option<String>,
    /// Hash of the sources of the kernels that were measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_source_hash: Option<String>,
    /// Commit of the build that measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// Day of the measurement or of the publication.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub date: Option<String>,
    /// What a reader must know before using it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

pub(crate) fn is_zero(value: &f64) -> bool {
    *value == 0.0
}

pub(crate) fn is_one(value: &f64) -> bool {
    *value == 1.0
}

/// Something whose cost depends on a number of rows alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Operation {
    /// What it is, such as `gate-up`.
    pub name: String,
    /// How often it runs.
    pub per: Per,
    /// Which rows it computes.
    #[serde(default)]
    pub over: Rows,
    /// What it costs once.
    pub cost: Curve,
}

/// How often does an operation run?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Per {
    /// Once in each layer.
    Layer,
    /// Once in each step.
    Step,
}

/// Which rows does an operation compute?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Rows {
    /// All: decode rows and prefill tokens.
    #[default]
    All,
    /// One a sequence: decode rows, and the last token of each prompt or part of a prompt.
    Sequences,
}

/// Copies of adapters to the GPU.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LoadCost {
    /// Before the first byte.
    pub us: f64,
    /// From pinned host memory, 10⁹ bytes a second.
    pub pinned_gigabytes_per_second: f64,
    /// From pageable host memory, 10⁹ bytes a second.
    pub pageable_gigabytes_per_second: f64,
    /// How much longer a copy takes beside a running step: a factor, at least 1.
    #[serde(default = "one")]
    pub copy_slowdown: f64,
    /// The same for a copy from pageable memory, where it was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pageable_copy_slowdown: Option<f64>,
    /// How much longer a step takes beside a running copy: a factor, at least 1.
    #[serde(default = "one")]
    pub step_slowdown: f64,
}

pub(crate) fn one() -> f64 {
    1.0
}

impl LoadCost {
    /// The link over which adapters come to the GPU, beside running steps.
    pub fn link(&self, pinned: bool) -> Link {
        let rate = if pinned { self.pinned_gigabytes_per_second } else { self.pageable_gigabytes_per_second };
        let slowdown =
            if pinned { self.copy_slowdown } else { self.pageable_copy_slowdown.unwrap_or(self.copy_slowdown) };
        Link {
            latency: Span::from_secs_f64(self.us * 1e-6),
            bytes_per_second: Some(((rate * 1e9 / slowdown.max(1.0)).round() as u64).max(1)),
        }
    }
}

/// A closed range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Range {
    /// The least.
    pub min: u32,
    /// The most.
    pub max: u32,
}

impl Range {
    /// Is it in there?
    pub const fn contains(self, value: u32) -> bool {
        self.min <= value && value <= self.max
    }
}

/// Where the figures of a profile hold; what is not named holds everywhere.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Validity {
    /// Decode rows of a step, in steps that have any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decode_rows: Option<Range>,
    /// Attended tokens of a decode row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<Range>,
    /// Rows of a step, decode and prefill together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<Range>,
    /// Prompt tokens that a step computes of one sequence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunk: Option<Range>,
    /// Tokens of a prompt that were there before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<Range>,
    /// Adapters in a step, in steps that have any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub segments: Option<Range>,
    /// Rank of an adapter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank: Option<Range>,
}

/// How far is the profile from measurements that its fit did not see?
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HeldOutError {
    /// Of what: an operation's name, or `step`.
    pub of: String,
    /// How the held-out shapes were chosen.
    pub split: String,
    /// How many there were.
    pub shapes: u32,
    /// Median of |modelled / measured − 1|, percent.
    pub median_percent: f64,
    /// Its 95th percentile, percent.
    pub p95_percent: f64,
    /// Mean of modelled / measured − 1, percent: the bias.
    pub mean_signed_percent: f64,
    /// Median of |modelled − measured|, microseconds: what the percentages are worth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub median_us: Option<f64>,
    /// Its 95th percentile, microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p95_us: Option<f64>,
}

/// How do measurements scatter around the profile?
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Spread {
    /// Of what: an operation's name, or `step`.
    pub of: String,
    /// How many measurements.
    pub samples: u32,
    /// Shares of them: strictly increasing, within 0 and 1.
    pub levels: Vec<f64>,
    /// At each: such a share of single measurements, over the median of their shape, is at most this.
    pub ratio: Vec<f64>,
    /// At each: such a share of the medians of shapes, over what the profile says of them, is at most this.
    pub residual: Vec<f64>,
}

/// Something assumed rather than measured or published.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Assumption {
    /// How much.
    pub value: f64,
    /// Of what unit; `1` for a ratio.
    pub unit: String,
    /// Why it is believed.
    pub source: String,
}
