//! How many KV blocks are left when weights, activations and adapters have taken theirs?

use std::fmt;

use crate::gpu::Gpu;
use crate::model::Model;
use crate::model::lora::LoraTarget;

/// What takes memory on each GPU of a replica, bytes, apart from the KV cache.
#[derive(Clone, Debug, PartialEq)]
pub struct MemoryBudget {
    /// Memory of the GPU that a CUDA program sees.
    pub total_bytes: u64,
    /// The share of it that the engine may use (vLLM's `gpu_memory_utilization`), above 0, at most 1.
    pub gpu_memory_utilization: f64,
    /// Weights.
    pub weight_bytes: u64,
    /// The largest need of one forward pass: activations, logits, workspaces.
    pub activation_bytes: u64,
    /// Reserved for adapters.
    pub adapter_bytes: u64,
    /// Keys and values of one token.
    pub kv_bytes_per_token: u64,
    /// Tokens of a KV block, at least 1.
    pub block_size: u32,
}

/// What room the KV cache gets on a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvRoom {
    /// Whole blocks.
    pub blocks: u32,
    /// Their tokens.
    pub tokens: u64,
    /// Bytes that they take on each GPU.
    pub bytes: u64,
}

/// Why a model does not fit: what needs how many bytes on each GPU.
#[derive(Clone, Debug, PartialEq)]
pub struct DoesNotFit {
    /// What was asked for.
    pub budget: MemoryBudget,
    /// What the engine may use.
    pub usable_bytes: u64,
    /// What is needed before the first KV block.
    pub needed_bytes: u64,
    /// Bytes of one KV block.
    pub block_bytes: u64,
}

impl fmt::Display for DoesNotFit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let b = &self.budget;
        write!(
            f,
            "the model does not fit: each GPU offers {} ({} of {} of them), but the weights need {}, a forward pass {}, the adapters {}",
            Gigabytes(self.usable_bytes),
            b.gpu_memory_utilization,
            Gigabytes(b.total_bytes),
            Gigabytes(b.weight_bytes),
            Gigabytes(b.activation_bytes),
            Gigabytes(b.adapter_bytes),
        )?;
        match self.needed_bytes.checked_sub(self.usable_bytes) {
            Some(missing) if missing > 0 => write!(f, ": {} too much", Gigabytes(missing))?,
            _ => write!(f, ": what is left is less than one KV block of {}", Gigabytes(self.block_bytes))?,
        }
        f.write_str("; use more GPUs a replica, fewer or smaller adapter slots, or 8-bit weights")
    }
}

/// Bytes as people read them.
struct Gigabytes(u64);

impl fmt::Display for Gigabytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("nothing"),
            bytes if bytes < 1_000_000_000 => write!(f, "{:.1} MB", bytes as f64 / 1e6),
            bytes => write!(f, "{:.2} GB", bytes as f64 / 1e9),
        }
    }
}

impl MemoryBudget {
    /// The budget of one GPU of a replica, before adapters: `adapter_bytes` is 0.
    ///
    /// `rows` is the largest number of tokens in a step, `sequences` that of sequences.
    pub fn of(gpu: &Gpu, model: &Model, tensor_parallel: u32, rows: u32, sequences: u32) -> MemoryBudget {
        MemoryBudget {
            total_bytes: gpu.memory_bytes,
            gpu_memory_utilization: 0.9,
            weight_bytes: model.weight_bytes_per_gpu(tensor_parallel),
            activation_bytes: activation_bytes(model, tensor_parallel, rows, sequences),
            adapter_bytes: 0,
            kv_bytes_per_token: model.kv_bytes_per_token_per_gpu(tensor_parallel),
            block_size: 16,
        }
    }

    /// The same budget with so many adapter slots reserved, each for the largest rank, as vLLM does.
    ///
    /// For a Llama model vLLM reserves for the embedding and the LM head too ([`LoraTarget::ALL`]).
    pub fn with_slots(
        mut self,
        model: &Model,
        tensor_parallel: u32,
        slots: u32,
        rank_max: u32,
        targets: &[LoraTarget],
    ) -> MemoryBudget {
        self.adapter_bytes += u64::from(slots) * model.adapter_bytes_per_gpu(rank_max, targets, tensor_parallel);
        self
    }

    /// How many KV blocks fit?
    ///
    /// # Errors
    /// When not even one does.
    pub fn kv_room(&self) -> Result<KvRoom, DoesNotFit> {
        let usable_bytes = (self.total_bytes as f64 * self.gpu_memory_utilization.clamp(0.0, 1.0)).floor() as u64;
        let needed_bytes = self.weight_bytes.saturating_add(self.activation_bytes).saturating_add(self.adapter_bytes);
        let block_bytes = self.kv_bytes_per_token.max(1).saturating_mul(u64::from(self.block_size.max(1)));
        let blocks = usable_bytes.saturating_sub(needed_bytes) / block_bytes;
        if blocks == 0 {
            return Err(DoesNotFit { budget: self.clone(), usable_bytes, needed_bytes, block_bytes });
        }
        let blocks = u32::try_from(blocks).unwrap_or(u32::MAX);
        Ok(KvRoom {
            blocks,
            tokens: u64::from(blocks) * u64::from(self.block_size.max(1)),
            bytes: u64::from(blocks) * block_bytes,
        })
    }
}

/// What does one forward pass need beside weights and KV, bytes on each GPU? An estimate from the widest moment:
/// the MLP's two halves and the residual stream of all rows at 2 bytes, and 32-bit logits with their softmax.
pub fn activation_bytes(model: &Model, tensor_parallel: u32, rows: u32, sequences: u32) -> u64 {
    let degree = u64::from(tensor_parallel.max(1));
    let per_row = 2 * (2 * u64::from(model.intermediate).div_ceil(degree) + 4 * u64::from(model.hidden));
    let per_sequence = 2 * 4 * u64::from(model.vocab);
    u64::from(rows) * per_row + u64::from(sequences) * per_sequence
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Punica's artifact: 0.8 of the memory, weights at 2 bytes, and 38 adapters whose bytes it forgets to double.
    fn artifact(gpu: &str) -> MemoryBudget {
        let model = Model::named("llama-2-7b").unwrap();
        MemoryBudget {
            total_bytes: Gpu::named(gpu).unwrap().memory_bytes,
            gpu_memory_utilization: 0.8,
            weight_bytes: model.parameters() * 2,
            activation_bytes: 0,
            adapter_bytes: 38 * model.adapter_bytes(16, &LoraTarget::LAYER) / 2,
            kv_bytes_per_token: model.kv_bytes_per_token(),
            block_size: 16,
        }
    }

    #[test]
    fn punicas_rule_gives_its_page_counts() {
        for (gpu, pages) in [("a100-40gb", 2_245.0), ("a100-80gb", 6_317.0), ("h200", 12_500.0)] {
            let blocks = f64::from(artifact(gpu).kv_room().unwrap().blocks);
            assert!((blocks / pages - 1.0).abs() < 0.005, "{gpu}: {blocks} pages, {pages} by the artifact");
        }
    }

    /// KV tokens that vLLM loses with each further slot (Agullo et al., `agullo_kv_capacity_vs_slots.tsv`).
    #[test]
    fn a_slot_costs_as_many_kv_tokens_as_vllm_reports() {
        let tokens = |model: &str, rank: u32, targets: &[LoraTarget]| {
            let model = Model::named(model).unwrap();
            model.adapter_bytes(rank, targets) as f64 / model.kv_bytes_per_token() as f64
        };
        // Of a Llama model vLLM reserves for the embedding and the LM head too.
        for (rank, published) in [(8, 401.0), (16, 758.0), (32, 1458.0)] {
            let ours = tokens("llama-3.1-8b", rank, &LoraTarget::ALL);
            assert!((ours / published - 1.0).abs() < 0.13, "rank {rank}: {ours:.0}, published {published}");
        }
        // What a rank adds is free of the constant part of a slot, so it must agree more closely.
        let slope = tokens("llama-3.1-8b", 24, &LoraTarget::ALL);
        assert!((slope / (1458.0 - 401.0) - 1.0).abs() < 0.02, "{slope:.0}");
        let slope = tokens("qwen2.5-7b", 24, &LoraTarget::LAYER);
        assert!((slope / (2853.0 - 719.0) - 1.0).abs() < 0.02, "{slope:.0}");
    }

    #[test]
    fn slots_are_paid_in_blocks() {
        let model = Model::named("llama-3.1-8b").unwrap();
        let budget = MemoryBudget::of(&Gpu::named("h200").unwrap(), &model, 1, 8192, 256);
        let without = budget.kv_room().unwrap();
        let budget = budget.with_slots(&model, 1, 16, 64, &LoraTarget::LAYER);
        assert_eq!(budget.adapter_bytes, 16 * model.adapter_bytes(64, &LoraTarget::LAYER));
        let with = budget.kv_room().unwrap();
        let lost = (without.blocks - with.blocks) as u64 * 16 * model.kv_bytes_per_token();
        assert!(lost.abs_diff(budget.adapter_bytes) <= 16 * model.kv_bytes_per_token());
        assert_eq!(with.tokens, u64::from(with.blocks) * 16);
    }

    #[test]
    fn a_model_that_does_not_fit_is_refused_with_the_bytes_of_each_part() {
        let model = Model::named("llama-3.1-70b").unwrap();
        let gpu = Gpu::named("h100").unwrap();
        let refusal = MemoryBudget::of(&gpu, &model, 1, 8192, 256).kv_room().unwrap_err();
        assert!(refusal.needed_bytes > refusal.usable_bytes);
        let text = refusal.to_string();
        assert!(text.contains("weights need 141.11 GB") && text.contains("too much"), "{text}");
        assert!(MemoryBudget::of(&gpu, &model, 8, 8192, 256).kv_room().is_ok());
    }

    #[test]
    fn less_than_one_block_left_is_a_refusal_too() {
        let budget = MemoryBudget {
            total_bytes: 1_000,
            gpu_memory_utilization: 1.0,
            weight_bytes: 900,
            activation_bytes: 0,
            adapter_bytes: 0,
            kv_bytes_per_token: 10,
            block_size: 16,
        };
        let refusal = budget.kv_room().unwrap_err();
        assert!(refusal.to_string().contains("less than one KV block"), "{refusal}");
        assert_eq!(MemoryBudget { block_size: 10, ..budget }.kv_room().unwrap().blocks, 1);
    }
}
