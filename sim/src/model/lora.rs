//! What an adapter weighs: the matrices it adds to, and its bytes by rank.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Model, Projection};

/// A matrix of the model that an adapter adds to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LoraTarget {
    /// Query projection.
    Q,
    /// Key projection.
    K,
    /// Value projection.
    V,
    /// Output projection of attention.
    O,
    /// Gate projection of the MLP.
    Gate,
    /// Up projection of the MLP.
    Up,
    /// Down projection of the MLP.
    Down,
    /// The embedding; not in a layer.
    Embedding,
    /// The LM head; not in a layer.
    LmHead,
}

impl LoraTarget {
    /// The seven matrices of a layer: what Punica and most published adapters of every linear layer use.
    pub const LAYER: [LoraTarget; 7] = [
        LoraTarget::Q,
        LoraTarget::K,
        LoraTarget::V,
        LoraTarget::O,
        LoraTarget::Gate,
        LoraTarget::Up,
        LoraTarget::Down,
    ];

    /// The attention matrices: S-LoRA's adapters.
    pub const ATTENTION: [LoraTarget; 4] = [LoraTarget::Q, LoraTarget::K, LoraTarget::V, LoraTarget::O];

    /// All nine: what vLLM reserves in a slot for a Llama model.
    pub const ALL: [LoraTarget; 9] = [
        LoraTarget::Q,
        LoraTarget::K,
        LoraTarget::V,
        LoraTarget::O,
        LoraTarget::Gate,
        LoraTarget::Up,
        LoraTarget::Down,
        LoraTarget::Embedding,
        LoraTarget::LmHead,
    ];

    /// Is there one in every layer?
    pub fn in_layer(self) -> bool {
        !matches!(self, LoraTarget::Embedding | LoraTarget::LmHead)
    }
}

impl Model {
    /// Input and output features of the matrix that a target adds to, before any split.
    pub fn projection(&self, target: LoraTarget) -> Projection {
        let (hidden, mlp, vocab) = (u64::from(self.hidden), u64::from(self.intermediate), u64::from(self.vocab));
        let (input, output, column_parallel) = match target {
            LoraTarget::Q => (hidden, self.query_width(), true),
            LoraTarget::K | LoraTarget::V => (hidden, self.kv_width(), true),
            LoraTarget::O => (self.query_width(), hidden, false),
            LoraTarget::Gate | LoraTarget::Up => (hidden, mlp, true),
            LoraTarget::Down => (mlp, hidden, false),
            LoraTarget::Embedding => (vocab, hidden, false),
            LoraTarget::LmHead => (hidden, vocab, true),
        };
        Projection { input, output, column_parallel }
    }

    /// Bytes of a 16-bit adapter of this rank on these targets, over all GPUs of a replica, each part counted once.
    pub fn adapter_bytes(&self, rank: u32, targets: &[LoraTarget]) -> u64 {
        self.sum_targets(targets, |projection| projection.input + projection.output) * u64::from(rank) * 2
    }

    /// Bytes of a 16-bit adapter on each of `tensor_parallel` GPUs.
    ///
    /// Split as vLLM does by default: of a matrix that is split along its output, A is kept whole and B is split;
    /// of one split along its input, A is split and B kept whole. No collective beyond the base model's is needed then.
    pub fn adapter_bytes_per_gpu(&self, rank: u32, targets: &[LoraTarget], tensor_parallel: u32) -> u64 {
        let degree = u64::from(tensor_parallel.max(1));
        let features = self.sum_targets(targets, |projection| match projection.column_parallel {
            true => projection.input + projection.output.div_ceil(degree),
            false => projection.input.div_ceil(degree) + projection.output,
        });
        features * u64::from(rank) * 2
    }

    /// A sum over every matrix that the targets name: those in layers count once a layer.
    fn sum_targets(&self, targets: &[LoraTarget], of: impl Fn(Projection) -> u64) -> u64 {
        targets
            .iter()
            .map(|&target| {
                let times = if target.in_layer() { u64::from(self.layers) } else { 1 };
                times * of(self.projection(target))
            })
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Punica's adapters: rank 16 on all seven projections, 2.50, 3.13 and 5.18 MB a layer.
    #[test]
    fn rank_16_on_seven_projections_weighs_what_the_paper_needs() {
        for (name, bytes) in [("llama-2-7b", 79_953_920), ("llama-2-13b", 125_173_760), ("llama-2-70b", 414_187_520)] {
            assert_eq!(Model::named(name).unwrap().adapter_bytes(16, &LoraTarget::LAYER), bytes, "{name}");
        }
    }

    #[test]
    fn bytes_are_proportional_to_the_rank() {
        let model = Model::named("llama-3.1-8b").unwrap();
        assert_eq!(model.adapter_bytes(64, &LoraTarget::ALL), 8 * model.adapter_bytes(8, &LoraTarget::ALL));
    }

    #[test]
    fn a_split_adapter_takes_more_than_its_share_and_less_than_the_whole() {
        let model = Model::named("llama-3.1-70b").unwrap();
        let whole = model.adapter_bytes(16, &LoraTarget::LAYER);
        let split = model.adapter_bytes_per_gpu(16, &LoraTarget::LAYER, 8);
        assert!(split > whole / 8 && split < whole, "{split} of {whole}");
        assert_eq!(model.adapter_bytes_per_gpu(16, &LoraTarget::LAYER, 1), whole);
    }

    /// An S-LoRA adapter costs `rank × 4` token slots of one vector a layer: q, k, v and o of a model without GQA.
    #[test]
    fn attention_adapters_weigh_four_times_their_rank_in_key_value_vectors() {
        let model = Model::named("llama-2-7b").unwrap();
        assert_eq!(model.adapter_bytes(8, &LoraTarget::ATTENTION), 8 * 4 * model.kv_bytes_per_token());
    }
}
