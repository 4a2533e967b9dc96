//! What a language model is to a cost: its shape, its bytes, and the adapters that fit it.

pub mod lora;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// In what format are numbers stored?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    /// IEEE half precision, 2 bytes.
    #[default]
    Fp16,
    /// bfloat16, 2 bytes.
    Bf16,
    /// 8-bit float, 1 byte.
    Fp8,
}

impl Precision {
    /// Bytes of one number.
    pub const fn bytes(self) -> u64 {
        match self {
            Precision::Fp16 | Precision::Bf16 => 2,
            Precision::Fp8 => 1,
        }
    }
}

/// A dense decoder of the Llama family: grouped-query attention, a gated MLP of three matrices, RMS norms.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// What users call it, such as `llama-2-7b`.
    pub name: String,
    /// Transformer layers.
    pub layers: u32,
    /// Width of the residual stream.
    pub hidden: u32,
    /// Query heads.
    pub heads: u32,
    /// Key and value heads.
    pub kv_heads: u32,
    /// Width of one head.
    pub head_dim: u32,
    /// Width of the MLP.
    pub intermediate: u32,
    /// Rows of the embedding.
    pub vocab: u32,
    /// Is the LM head the embedding itself?
    #[serde(default)]
    pub tied_embeddings: bool,
    /// Have the q, k and v projections a bias (Qwen2)?
    #[serde(default)]
    pub qkv_bias: bool,
    /// Format of the matrices of the layers. Embedding, LM head and norms stay at 2 bytes when it is smaller.
    #[serde(default)]
    pub weights: Precision,
    /// Format of the KV cache.
    #[serde(default)]
    pub kv_cache: Precision,
}

/// One matrix of a layer: what goes in and what comes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Projection {
    /// Input features.
    pub input: u64,
    /// Output features.
    pub output: u64,
    /// Is it split along its output (q, k, v, gate, up) or its input (o, down) under tensor parallelism?
    pub column_parallel: bool,
}

impl Model {
    /// The same model with its layers' matrices in another format.
    pub fn with_weights(mut self, weights: Precision) -> Model {
        self.weights = weights;
        self
    }

    /// The same model with its KV cache in another format.
    pub fn with_kv_cache(mut self, kv_cache: Precision) -> Model {
        self.kv_cache = kv_cache;
        self
    }

    /// Output features of all query heads.
    pub fn query_width(&self) -> u64 {
        u64::from(self.heads) * u64::from(self.head_dim)
    }

    /// Output features of all key (or value) heads.
    pub fn kv_width(&self) -> u64 {
        u64::from(self.kv_heads) * u64::from(self.head_dim)
    }

    /// Parameters of the seven matrices of one layer.
    pub fn layer_matrix_parameters(&self) -> u64 {
        let (hidden, mlp) = (u64::from(self.hidden), u64::from(self.intermediate));
        2 * hidden * self.query_width() + 2 * hidden * self.kv_width() + 3 * hidden * mlp
    }

    /// Parameters of the LM head, shared with the embedding or not.
    pub fn head_parameters(&self) -> u64 {
        u64::from(self.vocab) * u64::from(self.hidden)
    }

    /// All parameters, norms and biases included.
    pub fn parameters(&self) -> u64 {
        let layers = u64::from(self.layers);
        layers * self.layer_matrix_parameters() + self.small_parameters()
    }

    /// Parameters that are not in the matrices of the layers: embedding, LM head, norms, biases.
    fn small_parameters(&self) -> u64 {
        let (hidden, layers) = (u64::from(self.hidden), u64::from(self.layers));
        let embeddings = self.head_parameters() * if self.tied_embeddings { 1 } else { 2 };
        let bias = if self.qkv_bias { self.query_width() + 2 * self.kv_width() } else { 0 };
        embeddings + layers * (2 * hidden + bias) + hidden
    }

    /// Bytes of all weights, over all GPUs of a replica.
    pub fn weight_bytes(&self) -> u64 {
        u64::from(self.layers) * self.layer_matrix_parameters() * self.weights.bytes()
            + self.small_parameters() * self.weights.bytes().max(2)
    }

    /// Bytes of weights on each of `tensor_parallel` GPUs: matrices are split, norms are not.
    pub fn weight_bytes_per_gpu(&self, tensor_parallel: u32) -> u64 {
        let norms = (2 * u64::from(self.layers) + 1) * u64::from(self.hidden) * self.weights.bytes().max(2);
        (self.weight_bytes() - norms).div_ceil(u64::from(tensor_parallel.max(1))) + norms
    }

    /// Bytes of keys and values that one token keeps, over all GPUs of a replica.
    pub fn kv_bytes_per_token(&self) -> u64 {
        2 * u64::from(self.layers) * self.kv_width() * self.kv_cache.bytes()
    }

    /// Bytes of keys and values that one token keeps on each of `tensor_parallel` GPUs: heads are split, and
    /// repeated where there are fewer than GPUs.
    pub fn kv_bytes_per_token_per_gpu(&self, tensor_parallel: u32) -> u64 {
        let heads = u64::from(self.kv_heads.div_ceil(tensor_parallel.max(1)).max(1));
        2 * u64::from(self.layers) * heads * u64::from(self.head_dim) * self.kv_cache.bytes()
    }

    /// Multiply-adds, counted as two, of the layers' matrices for one row.
    pub fn layer_flops_per_row(&self) -> u64 {
        2 * self.layer_matrix_parameters()
    }

    /// Can `tensor_parallel` GPUs share it? The reason if not.
    pub fn check_tensor_parallel(&self, tensor_parallel: u32) -> Result<(), String> {
        let degree = tensor_parallel;
        if degree == 0 {
            return Err("tensor_parallel must be at least 1".to_owned());
        }
        if !self.heads.is_multiple_of(degree) {
            return Err(format!(
                "{} has {} query heads, which {degree} GPUs cannot share evenly",
                self.name, self.heads
            ));
        }
        if !self.kv_heads.is_multiple_of(degree) && !degree.is_multiple_of(self.kv_heads) {
            return Err(format!(
                "{} has {} KV heads, which {degree} GPUs cannot share evenly",
                self.name, self.kv_heads
            ));
        }
        if !self.intermediate.is_multiple_of(degree) {
            return Err(format!("{}'s MLP of {} cannot be split over {degree} GPUs", self.name, self.intermediate));
        }
        Ok(())
    }

    /// What is impossible about this shape? Nothing for every named model.
    pub fn check(&self) -> Result<(), String> {
        let named = [
            ("layers", self.layers),
            ("hidden", self.hidden),
            ("heads", self.heads),
            ("kv_heads", self.kv_heads),
            ("head_dim", self.head_dim),
            ("intermediate", self.intermediate),
            ("vocab", self.vocab),
        ];
        for (key, value) in named {
            if value == 0 || value > 10_000_000 {
                return Err(format!("model.{key} is {value}: between 1 and 10000000 is possible"));
            }
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(format!("model.heads ({}) is no multiple of model.kv_heads ({})", self.heads, self.kv_heads));
        }
        Ok(())
    }

    /// The model of this name, 16-bit throughout.
    pub fn named(name: &str) -> Option<Model> {
        MODELS.iter().find(|row| row.name == name).map(Row::model)
    }

    /// The names that [`Model::named`] knows.
    pub fn names() -> impl Iterator<Item = &'static str> {
        MODELS.iter().map(|row| row.name)
    }
}

/// A row of the table of known models.
struct Row {
    name: &'static str,
    layers: u32,
    hidden: u32,
    heads: u32,
    kv_heads: u32,
    intermediate: u32,
    vocab: u32,
    tied: bool,
    bias: bool,
}

impl Row {
    fn model(&self) -> Model {
        Model {
            name: self.name.to_owned(),
            layers: self.layers,
            hidden: self.hidden,
            heads: self.heads,
            kv_heads: self.kv_heads,
            // Every model of the table but the smallest Llama has heads of 128.
            head_dim: if self.name == "llama-3.2-1b" { 64 } else { 128 },
            intermediate: self.intermediate,
            vocab: self.vocab,
            tied_embeddings: self.tied,
            qkv_bias: self.bias,
            weights: if self.name.starts_with("llama-2") { Precision::Fp16 } else { Precision::Bf16 },
            kv_cache: if self.name.starts_with("llama-2") { Precision::Fp16 } else { Precision::Bf16 },
        }
    }
}

macro_rules! rows {
    ($($name:literal: $layers:literal $hidden:literal $heads:literal $kv:literal $mlp:literal $vocab:literal $tied:literal $bias:literal;)*) => {
        &[$(Row { name: $name, layers: $layers, hidden: $hidden, heads: $heads, kv_heads: $kv, intermediate: $mlp, vocab: $vocab, tied: $tied, bias: $bias }),*]
    };
}

/// From the models' published configurations (`config.json`).
#[rustfmt::skip]
const MODELS: &[Row] = rows! {
    //               layers hidden heads kv  mlp   vocab  tied  bias
    "llama-2-7b":        32  4096  32  32  11008  32000 false false;
    "llama-2-13b":       40  5120  40  40  13824  32000 false false;
    "llama-2-70b":       80  8192  64   8  28672  32000 false false;
    "llama-3.1-8b":      32  4096  32   8  14336 128256 false false;
    "llama-3.1-70b":     80  8192  64   8  28672 128256 false false;
    "llama-3.2-1b":      16  2048  32   8   8192 128256 true  false;
    "llama-3.2-3b":      28  3072  24   8   8192 128256 true  false;
    "mistral-7b":        32  4096  32   8  14336  32768 false false;
    "qwen2.5-7b":        28  3584  28   4  18944 152064 false true;
    "qwen2.5-14b":       48  5120  40   8  13824 152064 false true;
    "qwen2.5-32b":       64  5120  40   8  27648 152064 false true;
    "qwen2.5-72b":       80  8192  64   8  29568 152064 false true;
};

#[cfg(test)]
mod tests {
    use super::*;

    /// Parameter counts as the models' publishers state them.
    #[test]
    fn parameters_agree_with_the_published_counts_to_the_last_one() {
        for (name, parameters) in [
            ("llama-2-7b", 6_738_415_616),
            ("llama-2-13b", 13_015_864_320),
            ("llama-2-70b", 68_976_648_192),
            ("llama-3.1-8b", 8_030_261_248),
            ("llama-3.1-70b", 70_553_706_496),
            ("llama-3.2-1b", 1_235_814_400),
            ("llama-3.2-3b", 3_212_749_824),
            ("mistral-7b", 7_248_023_552),
            ("qwen2.5-7b", 7_615_616_512),
            ("qwen2.5-14b", 14_770_033_664),
            ("qwen2.5-32b", 32_763_876_352),
            ("qwen2.5-72b", 72_706_203_648),
        ] {
            assert_eq!(Model::named(name).unwrap().parameters(), parameters, "{name}");
        }
    }

    #[test]
    fn a_token_keeps_half_a_mebibyte_in_llama_2_7b_and_an_eighth_in_llama_3_1_8b() {
        assert_eq!(Model::named("llama-2-7b").unwrap().kv_bytes_per_token(), 512 * 1024);
        assert_eq!(Model::named("llama-3.1-8b").unwrap().kv_bytes_per_token(), 128 * 1024);
        let fp8 = Model::named("llama-3.1-8b").unwrap().with_kv_cache(Precision::Fp8);
        assert_eq!(fp8.kv_bytes_per_token(), 64 * 1024);
    }

    #[test]
    fn kv_heads_are_repeated_where_there_are_fewer_than_gpus() {
        let model = Model::named("llama-3.1-70b").unwrap();
        assert_eq!(model.kv_bytes_per_token_per_gpu(8) * 8, model.kv_bytes_per_token());
        assert_eq!(model.kv_bytes_per_token_per_gpu(16) * 8, model.kv_bytes_per_token());
    }

    #[test]
    fn eight_bit_weights_halve_the_layers_and_leave_the_embeddings() {
        let model = Model::named("llama-3.1-8b").unwrap();
        let layers = u64::from(model.layers) * model.layer_matrix_parameters();
        let fp8 = model.clone().with_weights(Precision::Fp8);
        assert_eq!(model.weight_bytes() - fp8.weight_bytes(), layers);
    }

    #[test]
    fn an_uneven_split_is_refused_with_its_reason() {
        let model = Model::named("qwen2.5-7b").unwrap();
        assert!(model.check_tensor_parallel(4).is_ok());
        assert!(model.check_tensor_parallel(8).unwrap_err().contains("28 query heads"));
        assert!(model.check_tensor_parallel(0).is_err());
    }

    #[test]
    fn every_named_model_is_possible() {
        for name in Model::names() {
            assert_eq!(Model::named(name).unwrap().check(), Ok(()), "{name}");
        }
    }
}
