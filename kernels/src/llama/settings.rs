//! How much memory a model gets, and how its adapters are computed.

use crate::llama::LlamaShape;
use crate::{Element, Error};

/// Capacities, all fixed when the model is opened: a step allocates nothing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LlamaSettings {
    /// Number format of weights, activations and the KV cache.
    pub element: Element,
    /// KV blocks, shared by all sequences.
    pub kv_blocks: u32,
    /// Token slots in a KV block: 16.
    pub block_tokens: u32,
    /// The most rows (new tokens of all sequences together) in a step.
    pub rows_max: u32,
    /// The most sequences in a step.
    pub sequences_max: u32,
    /// The most tokens of one sequence, prefix and new ones together.
    pub context_max: u32,
    /// Adapters that are on the GPU at once.
    pub adapter_slots: u32,
    /// The largest rank of an adapter; each slot has room for it.
    pub rank_max: u32,
    /// How adapters are computed.
    pub lora: LoraPath,
    /// What multiplies few rows.
    pub gemm: GemmPath,
}

/// What multiplies the rows of small steps. Steps of more than 32 rows are cuBLASLt's in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GemmPath {
    /// This crate's kernel, which loads weights before the preceding kernel is finished.
    Own,
    /// cuBLASLt, the quickest of its algorithms.
    CublasLt,
}

/// How a step computes adapters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LoraPath {
    /// Not at all: sequences must name no adapter.
    Off,
    /// One fused launch for q, k and v, one for o, one for gate and up, one for down, over the segments of the batch.
    Segmented(LoraOrder),
}

/// Where in a layer the adapters' launches stand relative to the backbone's GEMM of the same projections.
///
/// Behind the GEMM adapters add to its result. Otherwise they write a delta that the next operation adds: before, beside
/// and along the GEMM they give the same bits. Steps of more than 64 rows take [`LoraOrder::After`] in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum LoraOrder {
    /// Behind the GEMM: the adapter's weights stream in while the GEMM ends.
    After,
    /// Before the GEMM: the adapter's weights stream in during the operation before, those of the GEMM during the
    /// adapter's exchange.
    Before,
    /// On a second stream, from the GEMM's input on to the operation that reads its output.
    Beside,
    /// Behind the GEMM on its stream, but beginning as soon as the GEMM has seen its input, which this crate's kernel tells:
    /// both run side by side, and the weights of both stream at once. With another GEMM, or more than 32 rows: [`LoraOrder::After`].
    #[default]
    Along,
}

impl LoraOrder {
    /// Every order.
    pub const ALL: [LoraOrder; 4] = [LoraOrder::Along, LoraOrder::After, LoraOrder::Before, LoraOrder::Beside];
}

impl LlamaSettings {
    /// Settings for steps of up to `sequences` sequences of up to `context` tokens, all of them at once in the KV cache,
    /// and no adapters.
    pub fn for_sequences(element: Element, sequences: u32, context: u32) -> Self {
        let block_tokens = 16;
        LlamaSettings {
            element,
            kv_blocks: sequences.saturating_mul(context.div_ceil(block_tokens)),
            block_tokens,
            rows_max: sequences.max(2048),
            sequences_max: sequences,
            context_max: context,
            adapter_slots: 0,
            rank_max: 0,
            lora: LoraPath::Off,
            gemm: GemmPath::Own,
        }
    }

    /// Checks these settings against each other and the shape.
    ///
    /// # Errors
    /// [`Error::Shape`] names the field and what would do.
    pub fn check(&self, shape: &LlamaShape) -> Result<(), Error> {
        shape.check()?;
        let refuse = |field: &str, why: String| Err(Error::shape(format!("model settings: {field}"), why));
        if self.block_tokens != 16 {
            return refuse("block_tokens", format!("{} is not 16", self.block_tokens));
        }
        // The upper bounds keep every index of a kernel within 32 bits.
        for (field, count, most) in [
            ("kv_blocks", self.kv_blocks, 1 << 26),
            ("rows_max", self.rows_max, 1 << 16),
            ("sequences_max", self.sequences_max, 1 << 12),
            ("context_max", self.context_max, 1 << 20),
        ] {
            if count == 0 || count > most {
                return refuse(field, format!("{count} is not in 1..={most}"));
            }
        }
        if self.rows_max < self.sequences_max {
            let why =
                format!("{} is fewer than {} sequences, each of one row at least", self.rows_max, self.sequences_max);
            return refuse("rows_max", why);
        }
        if self.lora != LoraPath::Off {
            if self.adapter_slots == 0 {
                return refuse("adapter_slots", "must not be zero where adapters are computed".to_owned());
            }
            crate::lora::layout::check_rank(self.rank_max)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_cannot_hold_a_step_are_refused() {
        let shape = LlamaShape::tiny();
        let good = LlamaSettings::for_sequences(Element::Bf16, 8, 100);
        good.check(&shape).expect("room for eight sequences");
        assert_eq!(good.kv_blocks, 8 * 7);
        let lora = LoraPath::Segmented(LoraOrder::default());
        for bad in [
            LlamaSettings { block_tokens: 32, ..good },
            LlamaSettings { kv_blocks: 0, ..good },
            LlamaSettings { rows_max: 7, ..good },
            LlamaSettings { context_max: u32::MAX, ..good },
            LlamaSettings { lora, adapter_slots: 0, rank_max: 8, ..good },
            LlamaSettings { lora, adapter_slots: 1, rank_max: 257, ..good },
        ] {
            assert!(matches!(bad.check(&shape), Err(Error::Shape { .. })), "{bad:?}");
        }
    }
}
