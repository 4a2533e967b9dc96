//! The policies that come with aril, registered as anybody would register theirs.

use aril_sim::policy::{batcher, evictor, load_path, migrator, preemptor, router, scaler};

use crate::registry::Registry;

/// Every built-in policy and preset.
pub(crate) fn registry() -> Registry {
    presets(policies(Registry::empty()))
}

fn policies(registry: Registry) -> Registry {
    registry
        .router::<router::RoundRobin>("round-robin")
        .router::<router::Random>("random")
        .router::<router::LeastLoaded>("least-loaded")
        .router::<router::PowerOfTwo>("power-of-two")
        .router::<router::AffinityHard>("affinity-hard")
        .router::<router::AffinitySoft>("affinity-soft")
        .router::<router::Scorers>("scorers")
        .router::<router::Dedicated>("dedicated")
        .router::<router::PunicaPaper>("punica-paper")
        .router::<router::PunicaArtifact>("punica-artifact")
        .batcher::<batcher::Punica>("punica")
        .batcher::<batcher::Chunked>("chunked")
        .batcher::<batcher::PrefillFirst>("prefill-first")
        .batcher::<batcher::StaticConsecutive>("static-consecutive")
        .batcher::<batcher::FcfsSameAdapter>("fcfs-same-adapter")
        .batcher::<batcher::RegroupByAdapter>("regroup-by-adapter")
        .batcher::<batcher::SLora>("s-lora")
        .evictor::<evictor::Lru>("lru")
        .evictor::<evictor::Fifo>("fifo")
        .evictor::<evictor::Lfu>("lfu")
        .evictor::<evictor::SizeAware>("size-aware")
        .evictor::<evictor::Pinned>("pinned")
        .evictor::<evictor::AtOnce>("at-once")
        .load_path::<load_path::Blocking>("blocking")
        .load_path::<load_path::JoinWhenReady>("join-when-ready")
        .load_path::<load_path::OnArrival>("on-arrival")
        .load_path::<load_path::NextInQueue>("next-in-queue")
        .preemptor::<preemptor::Newest>("newest")
        .preemptor::<preemptor::Oldest>("oldest")
        .migrator::<migrator::PunicaConsolidate>("punica-consolidate")
        .scaler::<scaler::PunicaHints>("punica-hints")
}

fn presets(registry: Registry) -> Registry {
    registry
        .preset(
            "punica-paper",
            r#"# Punica (MLSys 2024), section 5: as the paper describes its scheduler.
router = "punica-paper"
batcher = "punica"
evictor = "lru"
load_path = "on-arrival"
preemptor = { newest = { by = "arrival", requeue = "cluster" } }
"#,
        )
        .preset(
            "punica-artifact",
            r#"# punica-server-experimental 3886f27: as the authors' cluster code does it.
router = "punica-artifact"
batcher = { punica = { prefills_per_step = 0 } }
evictor = "lru"
load_path = "on-arrival"
preemptor = { oldest = { by = "arrival", requeue = "cluster", reserve_per_sequence = 1 } }
migrator = "none"
scaler = "none"
gpu_adapters = { slots = 38 }
host_link = "instant"
"#,
        )
        .preset(
            "punica-consolidate",
            r#"# Ours: the paper's scheduler, and what it claims of consolidation and scaling without saying how.
router = "punica-paper"
batcher = "punica"
evictor = "lru"
load_path = "on-arrival"
preemptor = { newest = { by = "arrival", requeue = "cluster" } }
migrator = "punica-consolidate"
scaler = "punica-hints"
"#,
        )
        .preset(
            "vllm",
            r#"# vLLM V1: chunked prefill, max_loras skip rule, blocking loads, preemption by recompute on the same replica.
batcher = "chunked"
evictor = "lru"
load_path = "blocking"
preemptor = { newest = { by = "admission", requeue = "replica" } }
"#,
        )
        .preset(
            "vllm-v0",
            r#"# vLLM v0: prompts first, undivided.
batcher = "prefill-first"
evictor = "lru"
load_path = "blocking"
preemptor = { newest = { by = "admission", requeue = "replica" } }
"#,
        )
        .preset(
            "sglang",
            r#"# SGLang with overlapped adapter loading: V1-like batching, copies beside the steps.
batcher = "chunked"
evictor = "lru"
load_path = "join-when-ready"
preemptor = { newest = { by = "admission", requeue = "replica" } }
"#,
        )
        .preset(
            "s-lora",
            r#"# S-LoRA (arXiv 2311.03285): one pool for adapters and KV, admission by look-ahead, no cache of idle adapters.
batcher = "s-lora"
evictor = "at-once"
load_path = { next-in-queue = { late = "blocking" } }
preemptor = { newest = { by = "admission", requeue = "replica" } }
gpu_adapters = "unbounded"
block_size = 1
"#,
        )
        .preset(
            "dedicated",
            r#"# One deployment a group of adapters: without multi-LoRA serving.
router = "dedicated"
"#,
        )
}
