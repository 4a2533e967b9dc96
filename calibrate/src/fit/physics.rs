//! What an operation moves and multiplies, from the shape of the model alone.

use aril_sim::gpu::Gpu;
use aril_sim::model::Model;
use aril_sim::profile::lora::PlannedSite;

use super::adapters::Chip;
use crate::machine::{Identity, Part};

/// Bytes and arithmetic of an operation by rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Product {
    /// Whatever the rows.
    pub(crate) bytes: f64,
    /// Each row.
    pub(crate) bytes_per_row: f64,
    /// Each row.
    pub(crate) flops_per_row: f64,
    /// Output features, over which tiles lie side by side.
    pub(crate) outputs: f64,
    pub(crate) peak_gigabytes_per_second: f64,
    pub(crate) peak_teraflops: f64,
}

impl Product {
    /// At the peak bandwidth, microseconds.
    pub(crate) fn memory_us(&self, rows: f64) -> f64 {
        (self.bytes + self.bytes_per_row * rows) / (self.peak_gigabytes_per_second * 1e3)
    }

    /// The least that the hardware needs, microseconds: weights and arithmetic. What goes in and out may stay in the cache.
    pub(crate) fn floor_us(&self, rows: f64) -> f64 {
        let weights = self.bytes / (self.peak_gigabytes_per_second * 1e3);
        weights.max(self.flops_per_row * rows / (self.peak_teraflops * 1e6))
    }
}

/// The device as its data sheet describes it: peaks and memory.
pub(crate) fn sheet(identity: &Identity) -> Option<Gpu> {
    Gpu::named(&identity.gpu_name)
}

/// The device of a profile.
pub(crate) fn sheet_of(profile: &aril_sim::profile::Profile) -> Gpu {
    profile.gpu.clone()
}

/// What a part by rows moves and multiplies on one of the GPUs that share the model.
pub(crate) fn product(part: Part, model: &Model, degree: u32, gpu: &Gpu) -> Product {
    let degree = f64::from(degree.max(1));
    let (hidden, mlp) = (f64::from(model.hidden), f64::from(model.intermediate) / degree);
    let query = model.query_width() as f64 / degree;
    let kv = (f64::from(model.kv_heads) / degree).max(1.0) * f64::from(model.head_dim);
    let vocab = f64::from(model.vocab) / degree;
    let weight = model.weights.bytes() as f64;
    let of = |input: f64, output: f64, bytes: f64, teraflops: f64| Product {
        bytes: input * output * bytes,
        bytes_per_row: 2.0 * (input + output),
        flops_per_row: 2.0 * input * output,
        outputs: output,
        peak_gigabytes_per_second: gpu.gigabytes_per_second,
        peak_teraflops: teraflops,
    };
    let layer = |input, output| of(input, output, weight, gpu.teraflops(model.weights));
    let moved = |bytes_per_row: f64| Product {
        bytes: 0.0,
        bytes_per_row,
        flops_per_row: 0.0,
        outputs: 1.0,
        peak_gigabytes_per_second: gpu.gigabytes_per_second,
        peak_teraflops: gpu.teraflops_16bit,
    };
    match part {
        Part::Qkv => layer(hidden, query + 2.0 * kv),
        Part::O => layer(query, hidden),
        Part::GateUp => layer(hidden, 2.0 * mlp),
        Part::Down => layer(mlp, hidden),
        Part::LmHead => of(hidden, vocab, 2.0, gpu.teraflops_16bit),
        Part::Embedding => moved(4.0 * hidden),
        Part::Norm => moved(8.0 * hidden),
        Part::RopeAndKvAppend => moved(4.0 * (query + 2.0 * kv)),
        Part::Activation => moved(6.0 * mlp),
        Part::Sampling => moved(4.0 * vocab),
        // Attention has forms of its own.
        Part::DecodeAttention | Part::PrefillAttention => moved(0.0),
    }
}

/// Bytes of keys and values of one token in one layer on one GPU.
pub(crate) fn kv_bytes(model: &Model, degree: u32) -> f64 {
    model.kv_bytes_per_token_per_gpu(degree) as f64 / f64::from(model.layers)
}

/// Query heads that one piece of decode attention has at most.
const QUERIES_MAX: u32 = 8;

/// Pieces into which our kernel cuts the decode attention of one sequence on one GPU: KV heads, more where many query heads share one.
pub(crate) fn decode_groups(model: &Model, degree: u32) -> u32 {
    let kv_heads = (model.kv_heads / degree.max(1)).max(1);
    let queries = (model.heads / degree.max(1)).div_ceil(kv_heads);
    kv_heads * queries.div_ceil(QUERIES_MAX)
}

/// Query heads that share a tile of our prefill kernel: those of a KV head, up to 16, as far as they divide evenly.
pub(super) fn packed_heads(model: &Model, degree: u32) -> u32 {
    const PACKED_MAX: u32 = 16;
    let degree = degree.max(1);
    let queries = (model.heads / degree) / (model.kv_heads / degree).max(1);
    (1..=queries.min(PACKED_MAX)).rev().find(|packed| queries.is_multiple_of(*packed)).unwrap_or(1)
}

/// Operations of one pair of a query and a key in one layer on one GPU: a multiply-add for the score, one for the value.
pub(crate) fn pair_flops(model: &Model, degree: u32) -> f64 {
    4.0 * model.query_width() as f64 / f64::from(degree.max(1))
}

/// What adapters' launches of a layer serve on one GPU: q, k and v; o; gate and up; down.
pub(super) fn lora_sites(model: &Model, degree: u32) -> Vec<PlannedSite> {
    let degree = degree.max(1);
    let (hidden, mlp) = (model.hidden, model.intermediate / degree);
    let query = model.query_width() as u32 / degree;
    let kv = (model.kv_heads / degree).max(1) * model.head_dim;
    let site = |inputs, outputs: &[u32]| PlannedSite {
        inputs,
        outputs: outputs.to_vec(),
        scale: 1.0,
        scales: Vec::new(),
        us_waiting: 0.0,
        waiting: 0.0,
        us_hidden: 0.0,
        more_rows: Vec::new(),
    };
    vec![site(hidden, &[query, kv, kv]), site(query, &[hidden]), site(hidden, &[mlp, mlp]), site(mlp, &[hidden])]
}

/// What a plan of adapters asks about a chip: shared memory of a block, and blocks of a cluster.
pub(super) fn lora_chip(gpu_name: &str) -> Chip {
    let (shared_bytes, cluster_max) = match gpu_name {
        name if name.starts_with('h') => (232_448, 16),
        name if name.starts_with("a100") => (166_912, 1),
        _ => (101_376, 1),
    };
    Chip { multiprocessors: 0, shared_bytes, cluster_max, sites: Vec::new(), row_buckets: Vec::new() }
}
