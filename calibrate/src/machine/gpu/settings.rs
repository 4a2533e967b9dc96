//! Which model is opened, and with how much memory for what.

use aril_kernels::Element;
use aril_kernels::llama::{GemmPath, LlamaSettings, LlamaShape, LoraOrder, LoraPath};
use aril_sim::model::{Model, Precision};

use crate::error::CalibrateError;
use crate::machine::Limits;

/// Rows of a step that the largest question has.
const ROWS: u32 = 8704;
/// Sequences.
const SEQUENCES: u32 = 512;
/// Tokens of one sequence.
const CONTEXT: u32 = 40_960;
/// Sum of the ranks that adapter slots have room for.
const RANK_SUM: u32 = 4096;
/// KV tokens that no question goes beyond.
const KV_TOKENS: u32 = 131_072;
/// Device memory that stays free: the driver's, the libraries' and the other kernels'.
const RESERVE_BYTES: u64 = 7 << 30;

/// The kernels' shape and number format of a model.
pub(super) fn model_of(name: &str, tensor_parallel: u32) -> Result<(LlamaShape, Element, Model), CalibrateError> {
    let model = Model::named(name).ok_or_else(|| CalibrateError::Unknown {
        name: name.to_owned(),
        nearest: None,
        known: Model::names().map(str::to_owned).collect(),
    })?;
    let shape = match (name, tensor_parallel) {
        ("llama-2-7b", 1) => LlamaShape::llama_2_7b(),
        ("llama-2-13b", 1) => LlamaShape::llama_2_13b(),
        ("llama-3.1-8b", 1) => LlamaShape::llama_3_1_8b(),
        ("llama-3.1-70b", 8) => LlamaShape::llama_3_1_70b_shard_tp8(),
        _ => {
            let known =
                "llama-2-7b, llama-2-13b and llama-3.1-8b on one GPU, and the shard of llama-3.1-70b on one of 8";
            return Err(CalibrateError::Machine(format!(
                "there is no whole step of {name} on {tensor_parallel} GPU(s): there is one of {known}"
            )));
        }
    };
    let element = if model.weights == Precision::Bf16 { Element::Bf16 } else { Element::F16 };
    Ok((shape, element, model))
}

/// Adapter slots for every question and as many KV blocks as then fit.
pub(super) fn settings(
    shape: &LlamaShape,
    element: Element,
    model: &Model,
    tensor_parallel: u32,
    free_bytes: u64,
) -> Result<LlamaSettings, CalibrateError> {
    let adapters = model.adapter_bytes_per_gpu(RANK_SUM, &aril_sim::model::lora::LoraTarget::LAYER, tensor_parallel);
    let rows = u64::from(ROWS)
        * 2
        * u64::from(4 * (shape.query_width() + 2 * shape.kv_width()) + 8 * shape.hidden + 5 * shape.intermediate);
    let logits = u64::from(SEQUENCES) * u64::from(shape.vocab) * 2;
    let taken = model.weight_bytes_per_gpu(tensor_parallel) + adapters + rows + logits + RESERVE_BYTES;
    let kv_token = model.kv_bytes_per_token_per_gpu(tensor_parallel);
    let tokens = free_bytes.saturating_sub(taken) / kv_token;
    if tokens < 4096 {
        return Err(CalibrateError::Machine(format!(
            "{} needs {:.1} GB beside its KV cache, and {:.1} GB are free: use a larger GPU",
            model.name,
            taken as f64 / 1e9,
            free_bytes as f64 / 1e9
        )));
    }
    let kv_tokens = tokens.min(u64::from(KV_TOKENS)) as u32;
    Ok(LlamaSettings {
        element,
        kv_blocks: kv_tokens / 16,
        block_tokens: 16,
        rows_max: ROWS,
        sequences_max: SEQUENCES,
        context_max: CONTEXT.min(kv_tokens),
        adapter_slots: RANK_SUM / 128,
        rank_max: 128,
        lora: LoraPath::Segmented(LoraOrder::default()),
        gemm: GemmPath::Own,
    })
}

/// The limits that settings give.
pub(super) fn limits(settings: &LlamaSettings) -> Limits {
    Limits {
        rows: settings.rows_max,
        sequences: settings.sequences_max,
        context: settings.context_max,
        kv_tokens: settings.kv_blocks * settings.block_tokens,
        rank_sum: RANK_SUM,
        rank: 128,
        adapters: 256,
    }
}
