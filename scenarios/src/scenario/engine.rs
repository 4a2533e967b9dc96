//! How an engine is set, under vLLM's own names where it has one.

use aril_sim::profile::lora::LoraKernel;
use aril_sim::time::Span;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::bytes::Bytes;

/// Which engine: it gives the defaults of what its table leaves out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Engine {
    /// vLLM V1 (0.10): `max_loras = 1` slots reserved at `max_lora_rank = 16` on all nine matrices, as many adapters in the host.
    Vllm(EngineSettings),
    /// Punica's engine: batches of 32, every adapter of a batch has a slot, all adapters in the host.
    Aril(EngineSettings),
}

/// How an engine is set. What is left out takes the engine's default, which `aril check` prints.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EngineSettings {
    /// Largest number of sequences in a step. vllm: 256; aril: 32.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_num_seqs: Option<u32>,
    /// Largest number of tokens in a step. Both: 8192.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_num_batched_tokens: Option<u32>,
    /// The model's context, prompt and output together, tokens. Both: the model's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_model_len: Option<u32>,
    /// Tokens of a KV block. Both: 16.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_size: Option<u32>,
    /// The share of the GPU's memory that the engine may use. Both: 0.9.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_memory_utilization: Option<f64>,
    /// How much KV memory there is. Both: what is left beside weights, activations and adapters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_cache: Option<KvCache>,
    /// Largest number of distinct adapters in a step. vllm: 1; aril: `max_num_seqs`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_loras: Option<u32>,
    /// Largest rank that a slot can hold; 0: LoRA is off. vllm: 16; aril: 64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_lora_rank: Option<u32>,
    /// Adapters in the host's memory. vllm: `max_loras`; aril: all of them, unless `host_adapters` says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_cpu_loras: Option<u32>,
    /// Adapter memory on the GPU, taken from the KV cache. Both: `max_loras` slots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_adapters: Option<AdapterRoom>,
    /// Adapter memory in the host. vllm: `max_cpu_loras` slots; aril: unbounded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_adapters: Option<AdapterRoom>,
    /// Host to GPU. Both: as the profile says, from pinned memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_link: Option<LinkChoice>,
    /// Disk to host. Both: 100 us and 3 GB/s, an NVMe drive; an assumption.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_link: Option<LinkChoice>,
    /// Which kernel adds adapters. vllm: `padded`; aril: `segmented`, or `sgmv` where the profile has only that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora_kernel: Option<LoraKernel>,
}

/// How much KV memory a replica has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum KvCache {
    /// What is left beside weights, activations and adapters.
    #[default]
    Fit,
    /// As much as anybody asks for, as in the benchmark of Punica's artifact.
    Unbounded,
    /// So many blocks.
    Blocks(u32),
    /// So many tokens, in whole blocks.
    Tokens(u32),
}

/// How much adapter memory there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AdapterRoom {
    /// So many adapters, each with room for `max_lora_rank`.
    Slots(u32),
    /// So many bytes.
    Bytes(Bytes),
    /// All of them; on a GPU, beside what is counted.
    Unbounded,
}

/// How fast a link is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LinkChoice {
    /// As the profile says, from pinned memory. Only of the link to the GPU.
    Profile,
    /// As the profile says, from pageable memory. Only of the link to the GPU.
    Pageable,
    /// Everything is there at once.
    Instant,
    /// By figures.
    Figures(LinkFigures),
}

/// The figures of a link.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LinkFigures {
    /// Before the first byte.
    pub latency: Span,
    /// 10⁹ bytes a second.
    pub gigabytes_per_second: f64,
}

impl Engine {
    /// As the file calls it.
    pub fn kind(&self) -> &'static str {
        match self {
            Engine::Vllm(_) => "vllm",
            Engine::Aril(_) => "aril",
        }
    }

    /// Its table.
    pub fn settings(&self) -> &EngineSettings {
        match self {
            Engine::Vllm(settings) | Engine::Aril(settings) => settings,
        }
    }

    /// The same with every default written out, but for what the model (its context) and the profile (its LoRA kernels) have to say.
    pub fn resolved(&self) -> Engine {
        let settings = self.settings();
        let vllm = matches!(self, Engine::Vllm(_));
        let max_num_seqs = settings.max_num_seqs.unwrap_or(if vllm { 256 } else { 32 });
        let max_loras = settings.max_loras.unwrap_or(if vllm { 1 } else { max_num_seqs });
        let host = match (settings.host_adapters, settings.max_cpu_loras) {
            (Some(room), _) => room,
            (None, Some(adapters)) => AdapterRoom::Slots(adapters),
            (None, None) if vllm => AdapterRoom::Slots(max_loras),
            (None, None) => AdapterRoom::Unbounded,
        };
        let disk = LinkFigures { latency: Span::from_us(100), gigabytes_per_second: 3.0 };
        let resolved = EngineSettings {
            max_num_seqs: Some(max_num_seqs),
            max_num_batched_tokens: Some(settings.max_num_batched_tokens.unwrap_or(8192)),
            max_model_len: settings.max_model_len,
            block_size: Some(settings.block_size.unwrap_or(16)),
            gpu_memory_utilization: Some(settings.gpu_memory_utilization.unwrap_or(0.9)),
            kv_cache: Some(settings.kv_cache.unwrap_or_default()),
            max_loras: Some(max_loras),
            max_lora_rank: Some(settings.max_lora_rank.unwrap_or(if vllm { 16 } else { 64 })),
            max_cpu_loras: None,
            gpu_adapters: Some(settings.gpu_adapters.unwrap_or(AdapterRoom::Slots(max_loras))),
            host_adapters: Some(host),
            host_link: Some(settings.host_link.unwrap_or(LinkChoice::Profile)),
            disk_link: Some(settings.disk_link.unwrap_or(LinkChoice::Figures(disk))),
            lora_kernel: settings.lora_kernel,
        };
        if vllm { Engine::Vllm(resolved) } else { Engine::Aril(resolved) }
    }
}

impl Engine {
    /// Its table, to change it.
    pub fn settings_mut(&mut self) -> &mut EngineSettings {
        match self {
            Engine::Vllm(settings) | Engine::Aril(settings) => settings,
        }
    }

    /// With this kernel.
    pub fn with_kernel(mut self, kernel: LoraKernel) -> Engine {
        self.settings_mut().lora_kernel = Some(kernel);
        self
    }

    /// With this context.
    pub fn with_context(mut self, tokens: u32) -> Engine {
        self.settings_mut().max_model_len = Some(tokens);
        self
    }
}
