//! How an engine, its memory and its links are set.

use serde::{Deserialize, Serialize};

use crate::time::Span;

/// Adapter memory of one tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AdapterMemory {
    /// So many adapters, whatever their size (vLLM's `max_loras`, `max_cpu_loras`).
    Slots(u32),
    /// So many bytes.
    Bytes(u64),
    /// All of them.
    Unbounded,
}

/// A link that copies one adapter after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Before the first byte.
    pub latency: Span,
    /// Bytes a second. `None`: the bytes take no time.
    pub bytes_per_second: Option<u64>,
}

impl Link {
    /// A link on which everything is there at once.
    pub const INSTANT: Link = Link { latency: Span::ZERO, bytes_per_second: None };

    /// How long does a copy of `bytes` take on the idle link? Rounded to the nearest picosecond.
    pub fn duration(&self, bytes: u64) -> Span {
        let Some(rate) = self.bytes_per_second else { return self.latency };
        let rate = u128::from(rate);
        let ps = (u128::from(bytes) * 1_000_000_000_000 + rate / 2) / rate;
        self.latency + Span::from_ps(u64::try_from(ps).expect("a copy takes more than 213 days"))
    }
}

/// How one replica is set, in units of its engine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReplicaSettings {
    /// GPUs of the replica.
    pub gpus: u32,
    /// Which executor prices its steps: position in the engine's list.
    pub executor: usize,
    /// Largest number of sequences in a step.
    pub max_num_seqs: u32,
    /// Largest number of tokens in a step.
    pub max_num_batched_tokens: u32,
    /// Largest number of distinct adapters in a step.
    pub max_loras: u32,
    /// Largest rank a slot can hold; 0: LoRA is off.
    pub max_lora_rank: u32,
    /// Slots the engine pays for when idle, if its cost model does so.
    pub lora_slots: u32,
    /// Tokens of a KV block.
    pub block_size: u32,
    /// KV blocks.
    pub kv_blocks: u32,
    /// Adapter memory on the GPU.
    pub gpu_adapters: AdapterMemory,
    /// Adapter memory in the host; an adapter that is not there comes from disk.
    pub host_adapters: AdapterMemory,
    /// Host to GPU.
    pub gpu_link: Link,
    /// Disk to host.
    pub disk_link: Link,
    /// From being acquired to serving.
    pub startup: Span,
    /// Held from the start of the run?
    pub starts_on: bool,
}

impl ReplicaSettings {
    /// One GPU with room for everything, on from the start, whose copies take no time: a model from which an experiment takes
    /// away what it is about.
    pub fn boundless() -> ReplicaSettings {
        ReplicaSettings {
            gpus: 1,
            executor: 0,
            max_num_seqs: 1_000_000,
            max_num_batched_tokens: 1_000_000,
            max_loras: 1_000_000,
            max_lora_rank: 1_024,
            lora_slots: 0,
            block_size: 16,
            kv_blocks: 1_000_000,
            gpu_adapters: AdapterMemory::Unbounded,
            host_adapters: AdapterMemory::Unbounded,
            gpu_link: Link::INSTANT,
            disk_link: Link::INSTANT,
            startup: Span::ZERO,
            starts_on: true,
        }
    }
}

/// How the cluster is set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClusterSettings {
    /// The replicas, by id.
    pub replicas: Vec<ReplicaSettings>,
    /// How often routers get fresh signals; zero: they see the truth.
    pub signals_interval: Span,
    /// After how long, from its arrival, a client cancels a request that is not finished.
    pub client_timeout: Option<Span>,
    /// When the run is cut: what is not finished then ends as unfinished.
    pub horizon: Option<Span>,
    /// Advance runs of equal decode steps at once. Facts are the same either way.
    pub stretches: bool,
    /// Where random streams come from.
    pub seed: u64,
}

impl ClusterSettings {
    /// These replicas, whose routers see the truth and whose clients wait until they are served.
    pub fn of(replicas: Vec<ReplicaSettings>, seed: u64) -> ClusterSettings {
        ClusterSettings {
            replicas,
            signals_interval: Span::ZERO,
            client_timeout: None,
            horizon: None,
            stretches: true,
            seed,
        }
    }
}
