//! What goes into a step, and what comes out.

/// The part of one sequence that a step computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sequence<'a> {
    /// New tokens of this step: the last sampled one for a decode row, a chunk of the prompt for a prefill.
    pub tokens: &'a [u32],
    /// Tokens before these, whose KV is in the cache already.
    pub prefix: u32,
    /// The sequence's KV blocks, in order: enough for prefix and new tokens. Several sequences may share a block before their new tokens;
    /// one that a step writes to must be nowhere else in it.
    pub blocks: &'a [u32],
    /// The slot of its adapter, if it has one.
    pub adapter: Option<u32>,
    /// Whether the token after the last new one is wanted. A chunk in the middle of a prompt needs none.
    pub sample: bool,
}

/// What a step gave.
#[derive(Debug, Clone, PartialEq)]
pub struct StepResult {
    /// The next token of every sequence that asked for one, in the order of the sequences.
    pub tokens: Vec<u32>,
    /// From the first copy of metadata to the last sampled token on the GPU, by events, microseconds.
    pub device_us: f64,
    /// Planning, metadata and launches, until the host began to wait, microseconds.
    pub host_us: f64,
    /// What of that made something to keep, which the first step of a kind meets: kernels compiled, products timed, plans
    /// loaded, graphs captured; microseconds. The GPU's part has what of it came after the first copy.
    pub made_us: f64,
}

/// One operation of a step, to be timed alone. All but the first and the last two are run once a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operation {
    /// Token rows of the embedding.
    Embedding,
    /// RMSNorm with the residual's sum.
    Norm,
    /// The GEMM of q, k and v.
    Qkv,
    /// Rotary embedding of q and k, k and v written to the cache.
    RopeAndKvAppend,
    /// Attention of the sequences with one new token.
    DecodeAttention,
    /// Attention of the sequences with several.
    PrefillAttention,
    /// The output projection's GEMM.
    O,
    /// The GEMM of gate and up.
    GateUp,
    /// SiLU(gate)·up.
    Activation,
    /// The down projection's GEMM.
    Down,
    /// The GEMM over the vocabulary, on sampled rows alone, with the norm before it.
    LmHead,
    /// The largest logit of each sampled row.
    Sampling,
    /// The adapters' q, k and v.
    LoraQkv,
    /// The adapters' o.
    LoraO,
    /// The adapters' gate and up.
    LoraGateUp,
    /// The adapters' down.
    LoraDown,
}

impl Operation {
    /// Every operation, in the order of a step.
    pub const ALL: [Operation; 16] = [
        Operation::Embedding,
        Operation::Norm,
        Operation::Qkv,
        Operation::LoraQkv,
        Operation::RopeAndKvAppend,
        Operation::DecodeAttention,
        Operation::PrefillAttention,
        Operation::O,
        Operation::LoraO,
        Operation::GateUp,
        Operation::LoraGateUp,
        Operation::Activation,
        Operation::Down,
        Operation::LoraDown,
        Operation::LmHead,
        Operation::Sampling,
    ];

    /// How often a step of a model with so many layers runs it.
    pub fn count(self, layers: u32) -> u32 {
        match self {
            Operation::Embedding | Operation::LmHead | Operation::Sampling => 1,
            Operation::Norm => 2 * layers,
            _ => layers,
        }
    }

    /// The GEMM of the same projections, which adapters may run beside.
    pub fn beside(self) -> Option<Operation> {
        match self {
            Operation::LoraQkv => Some(Operation::Qkv),
            Operation::LoraO => Some(Operation::O),
            Operation::LoraGateUp => Some(Operation::GateUp),
            Operation::LoraDown => Some(Operation::Down),
            _ => None,
        }
    }

    /// Whether it belongs to the adapters.
    pub fn is_lora(self) -> bool {
        matches!(self, Operation::LoraQkv | Operation::LoraO | Operation::LoraGateUp | Operation::LoraDown)
    }
}
