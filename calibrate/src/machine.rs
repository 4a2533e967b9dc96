//! Who answers how long something takes: a GPU, or a made-up one whose truth is known.

pub mod gpu;
pub mod served;
pub mod shape;
pub mod synthetic;

use std::fmt;

use aril_sim::model::Model;
use aril_sim::profile::lora::LoraKernel;
use serde::{Deserialize, Serialize};

pub use shape::{AdapterRows, Prompt, StepShape};

/// Something that can be asked how long operations, steps and copies take.
pub trait Machine {
    /// What is it, and what can it hold?
    fn identity(&self) -> &Identity;

    /// How long does this take?
    ///
    /// # Errors
    /// [`MachineError::Unsupported`] where this machine has no answer and others may; [`MachineError::Failed`] where nothing
    /// more can be hoped for.
    fn measure(&mut self, question: &Question, repeats: u32) -> Result<Answer, MachineError>;

    /// Makes what an answer needs that is made once and kept: a library's kernels are chosen by timing them, which heats a machine. Gives
    /// whether it did.
    ///
    /// # Errors
    /// As [`Machine::measure`].
    fn make_ready(&mut self, _question: &Question) -> Result<bool, MachineError> {
        Ok(false)
    }

    /// How fast does it tick, and does anything hold it back?
    fn clocks(&mut self) -> Clocks;

    /// Seconds since it was opened, by its own clock.
    fn seconds(&self) -> f64;

    /// Does nothing for so many seconds, so that it cools down.
    fn rest(&mut self, seconds: f64) {
        std::thread::sleep(std::time::Duration::from_secs_f64(seconds));
    }
}

/// How long something takes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// One figure a repetition, microseconds; at least one.
    pub us: Vec<f64>,
    /// What each of them is the sum of, where it was measured part by part: the same repetitions of each part. Of our adapters in a layer
    /// their launches for q, k and v, for o, for gate and up and for down, then what the operations take longer that add their results. Of
    /// steps behind others each step. Of what adapters add to a step the step with them, and the step without, which is subtracted.
    pub parts: Vec<Vec<f64>>,
}

impl Answer {
    /// How much longer one of two takes than the other, by the same repetitions of each. Of next to nothing noise may be more than there is.
    fn difference(longer: Vec<f64>, shorter: Vec<f64>) -> Answer {
        let us = longer.iter().zip(&shorter).map(|(longer, shorter)| (longer - shorter).max(0.01)).collect();
        Answer { us, parts: vec![longer, shorter] }
    }
}

impl From<Vec<f64>> for Answer {
    fn from(us: Vec<f64>) -> Answer {
        Answer { us, parts: Vec::new() }
    }
}

/// What a machine is. Measurements of different identities never share a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// Name of the GPU as its driver gives it.
    pub gpu: String,
    /// What scenarios call such a GPU, such as `h200`.
    pub gpu_name: String,
    /// Version of the driver.
    pub driver: String,
    /// Version of CUDA.
    pub cuda: String,
    /// SHA-256 of the kernel sources.
    pub kernel_source_hash: String,
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// The model whose steps it computes.
    pub model: Model,
    /// GPUs that share the model; it is one of them.
    pub tensor_parallel: u32,
    /// Numbers of rows that its steps are padded to; none if they are not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub row_buckets: Vec<u32>,
    /// What it can hold at once.
    pub limits: Limits,
}

impl Identity {
    /// Is it made up?
    pub fn is_synthetic(&self) -> bool {
        self.kernel_source_hash == SYNTHETIC
    }
}

/// What a made-up machine has instead of a hash of kernel sources.
pub(crate) const SYNTHETIC: &str = "synthetic";

/// What a machine can hold at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Rows of a step, decode and prefill together.
    pub rows: u32,
    /// Sequences of a step.
    pub sequences: u32,
    /// Tokens of one sequence.
    pub context: u32,
    /// Tokens of all sequences.
    pub kv_tokens: u32,
    /// Sum over adapters of the rank that their slot has room for.
    pub rank_sum: u32,
    /// The largest rank.
    pub rank: u32,
    /// Adapters.
    pub adapters: u32,
}

/// How much longer than a long replay or a step of many rows a card rests after it: a card that multiplies without a pause reaches its
/// power limit after some twenty milliseconds, and serving gives it its pauses. Steps of few rows follow each other as they do there.
pub(crate) const REST: f64 = 1.5;
/// How long it rests before a row of steps, so that the first of them are those of a card at rest; seconds.
pub(crate) const REST_BEFORE_S: f64 = 0.2;
/// No longer than this after a step, microseconds.
const REST_US_MAX: f64 = 60_000.0;
/// Products and steps of so few rows are bound by their bytes, and need no rest.
pub(crate) const ROWS_AT_REST: u32 = 64;

/// How long a card rests after each repetition of a step of so many rows that took `us`, microseconds.
pub(crate) fn rest_us(rows: u32, us: f64) -> f64 {
    if rows > ROWS_AT_REST { (us * REST).min(REST_US_MAX) } else { 0.0 }
}

/// Steps before those whose after-effect is asked for.
pub const AT_REST: usize = 6;
/// Steps behind them.
pub const BEHIND: usize = 24;

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Question {
    /// One operation of one layer (or of the step, where it runs once), alone, weights cold.
    Operation {
        /// Which.
        operation: Part,
        /// In which step.
        shape: StepShape,
    },
    /// All that adapters add to one layer, alone.
    Lora {
        /// By which kernel.
        kernel: LoraKernel,
        /// In which step.
        shape: StepShape,
    },
    /// The GPU's part of a whole step. [`LoraKernel::None`]: LoRA is off; any other without adapters in the shape: on, and idle.
    Step {
        /// By which kernel.
        kernel: LoraKernel,
        /// Which step.
        shape: StepShape,
    },
    /// What our adapters add to the GPU's part of a whole step: the same step with them and without, by turns, so that what a card does from
    /// one minute to the next is in both. A part with, a part without.
    Added {
        /// Which step.
        shape: StepShape,
    },
    /// The GPU's part of steps without adapters, one after the other after a rest: [`AT_REST`] of `shape`, as many as are told of `prompts`, [`BEHIND`] of
    /// `shape` again. What do prompts leave behind?
    Behind {
        /// Steps of prompts in the middle.
        prompts: StepShape,
        /// How many of them.
        times: u32,
        /// The steps before and behind.
        shape: StepShape,
    },
    /// The GPU's part of steps with our adapters as serving meets them: each of `shapes` alone, [`served::ALONE`] times, then so many steps
    /// one after the other, in [`served::order`]. What do clocks that sag cost a run?
    Served {
        /// Which steps.
        shapes: Vec<StepShape>,
        /// How many follow each other.
        steps: u32,
        /// Does the card rest between them now and then?
        pauses: bool,
    },
    /// What the host adds to a whole step: from the call to its return, less the GPU's part of the same step.
    Host {
        /// By which kernel.
        kernel: LoraKernel,
        /// Which step.
        shape: StepShape,
    },
    /// A copy of an adapter to the GPU.
    Load {
        /// Its rank.
        rank: u32,
        /// From pinned host memory, or pageable?
        pinned: bool,
        /// Beside which running step?
        #[serde(default, skip_serializing_if = "Option::is_none")]
        beside: Option<StepShape>,
    },
    /// The GPU's part of a whole step without adapters, beside a running copy of pinned memory.
    StepBesideLoad {
        /// Which step.
        shape: StepShape,
    },
    /// Merging another adapter into the weights of all layers.
    Switch {
        /// The rank of both adapters.
        rank: u32,
    },
    /// A copy within the GPU's memory: the yardstick of bandwidth.
    Copy {
        /// Bytes read, and as many written.
        bytes: u64,
    },
}

impl Question {
    /// The step that is asked about, if it is one.
    pub fn shape(&self) -> Option<&StepShape> {
        match self {
            Question::Operation { shape, .. }
            | Question::Lora { shape, .. }
            | Question::Step { shape, .. }
            | Question::Added { shape }
            | Question::Host { shape, .. }
            | Question::Behind { shape, .. }
            | Question::StepBesideLoad { shape } => Some(shape),
            Question::Load { beside, .. } => beside.as_ref(),
            Question::Served { .. } | Question::Switch { .. } | Question::Copy { .. } => None,
        }
    }

    /// Every step that answering it runs.
    pub fn shapes(&self) -> Vec<&StepShape> {
        match self {
            Question::Served { shapes, .. } => shapes.iter().collect(),
            Question::Behind { prompts, shape, .. } => vec![shape, prompts],
            _ => self.shape().into_iter().collect(),
        }
    }

    /// A name for it that no other question has.
    pub fn key(&self) -> String {
        serde_json::to_string(self).expect("a question has only numbers, lists and names")
    }
}

/// An operation of a step, as it is measured alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// Token rows of the embedding; once a step.
    Embedding,
    /// RMSNorm with the residual's sum; twice a layer, asked for once.
    Norm,
    /// The product of q, k and v.
    Qkv,
    /// Rotary embedding, and keys and values written to the cache.
    RopeAndKvAppend,
    /// Attention of decode rows.
    DecodeAttention,
    /// Attention of prompts.
    PrefillAttention,
    /// The output projection.
    O,
    /// The product of gate and up.
    GateUp,
    /// SiLU(gate) · up.
    Activation,
    /// The down projection.
    Down,
    /// The product over the vocabulary, on one row a sequence; once a step.
    LmHead,
    /// The next token of each sequence; once a step.
    Sampling,
}

impl Part {
    /// All of them, in the order of a step.
    pub const ALL: [Part; 12] = [
        Part::Embedding,
        Part::Norm,
        Part::Qkv,
        Part::RopeAndKvAppend,
        Part::DecodeAttention,
        Part::PrefillAttention,
        Part::O,
        Part::GateUp,
        Part::Activation,
        Part::Down,
        Part::LmHead,
        Part::Sampling,
    ];

    /// As files and profiles write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Part::Embedding => "embedding",
            Part::Norm => "norm",
            Part::Qkv => "qkv",
            Part::RopeAndKvAppend => "rope-and-kv-append",
            Part::DecodeAttention => "decode-attention",
            Part::PrefillAttention => "prefill-attention",
            Part::O => "o",
            Part::GateUp => "gate-up",
            Part::Activation => "activation",
            Part::Down => "down",
            Part::LmHead => "lm-head",
            Part::Sampling => "sampling",
        }
    }

    /// Does it depend on the number of rows alone?
    pub const fn is_by_rows(self) -> bool {
        !matches!(self, Part::DecodeAttention | Part::PrefillAttention)
    }

    /// Is it a matrix product?
    pub const fn is_product(self) -> bool {
        matches!(self, Part::Qkv | Part::O | Part::GateUp | Part::Down | Part::LmHead)
    }

    /// Does it run once a step, rather than in each layer?
    pub const fn is_once(self) -> bool {
        matches!(self, Part::Embedding | Part::LmHead | Part::Sampling)
    }

    /// Does it compute one row a sequence, rather than all rows?
    pub const fn is_by_sequence(self) -> bool {
        matches!(self, Part::LmHead | Part::Sampling)
    }

    /// How often it runs in a layer, or in a step.
    pub const fn times(self) -> f64 {
        if matches!(self, Part::Norm) { 2.0 } else { 1.0 }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// How fast a GPU ticks, and what holds it back.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clocks {
    /// Multiprocessors, MHz.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sm_mhz: Option<u32>,
    /// Memory, MHz.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mhz: Option<u32>,
    /// Degrees Celsius.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature_c: Option<u32>,
    /// Watts drawn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power_w: Option<f64>,
    /// Why it is slower than it could be: the driver's reasons, but for idleness.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub throttled: Vec<Throttle>,
}

/// Why a GPU is slower than it could be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Throttle {
    /// At its power limit: what heavy work does to any card of its kind. Such measurements count.
    PowerCap,
    /// Too hot.
    Thermal,
    /// The board slows it down: power brake or external signal.
    Hardware,
}

impl Clocks {
    /// Do measurements at such clocks count?
    pub fn is_sound(&self) -> bool {
        self.throttled.iter().all(|reason| *reason == Throttle::PowerCap)
    }
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MachineError {
    /// This machine cannot answer this question; go on with the next.
    #[error("not on this machine: {0}")]
    Unsupported(String),
    /// The machine failed; nothing more can be measured.
    #[error("the measurement failed: {0}")]
    Failed(String),
}
