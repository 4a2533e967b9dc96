//! Does everything fit? Replicas with their KV blocks and adapter memory.

use std::sync::Arc;

use aril_sim::gpu::memory::MemoryBudget;
use aril_sim::model::Model;
use aril_sim::model::lora::LoraTarget;
use aril_sim::profile::Profile;
use aril_sim::settings::{AdapterMemory, Link, ReplicaSettings};
use aril_sim::time::Span;

use crate::scenario::{AdapterRoom, Engine, EngineSettings, KvCache, LinkChoice, Pool, Scenario};
use crate::wrong::Wrong;

/// KV blocks of a cache without bounds: more than any run can fill.
const BLOCKS_UNBOUNDED: u32 = 1 << 30;

/// The most replicas of a scenario.
const REPLICAS_MAX: u32 = 1_000_000;

/// The longest that a link may take before the first byte: beyond it, it is a slip, and a few copies fill the clock of a run.
const LATENCY_MAX: Span = Span::from_secs(3_600);

/// The context that a model was trained for, tokens, from its published configuration.
pub(super) fn context(model: &Model) -> u32 {
    match model.name.as_str() {
        name if name.starts_with("llama-2-") => 4096,
        name if name.starts_with("llama-3") => 131_072,
        _ => 32_768,
    }
}

/// All replicas, and the position of the pool of each.
pub(super) fn replicas(
    scenario: &Scenario,
    model: &Model,
    profiles: &[Arc<Profile>],
) -> Result<(Vec<ReplicaSettings>, Vec<usize>), Wrong> {
    let engine = &scenario.engine;
    check(engine)?;
    let (mut replicas, mut pools) = (Vec::new(), Vec::new());
    for (position, ((name, pool), profile)) in scenario.pool.0.iter().zip(profiles).enumerate() {
        let at = |key: &str, problem: String| Wrong {
            path: ["pool", name, key].map(str::to_owned).to_vec(),
            ..Wrong::new(problem)
        };
        if pool.replicas == 0 || pool.replicas > REPLICAS_MAX {
            return Err(at("replicas", format!("{} replicas: between 1 and {REPLICAS_MAX}", pool.replicas)));
        }
        let starts_on = pool.starts_on.unwrap_or(pool.replicas);
        if starts_on > pool.replicas {
            return Err(at("starts_on", format!("{starts_on} of {} replicas cannot be on", pool.replicas)));
        }
        if pool.usd_per_gpu_hour.is_some_and(|usd| !(usd.is_finite() && usd >= 0.0)) {
            return Err(at("usd_per_gpu_hour", "a price is not negative".to_owned()));
        }
        let settings = replica(engine, pool, profile, model, &scenario.model.lora_targets, position)
            .map_err(|problem| problem.unless_placed(|text| at("replicas", text)))?;
        for k in 0..pool.replicas {
            replicas.push(ReplicaSettings { starts_on: k < starts_on, ..settings.clone() });
            pools.push(position);
        }
    }
    Ok((replicas, pools))
}

/// A problem of the engine, which knows its place, or of the pool, which is still to be told.
enum Problem {
    Placed(Wrong),
    OfPool(String),
}

impl Problem {
    fn unless_placed(self, place: impl FnOnce(String) -> Wrong) -> Wrong {
        match self {
            Problem::Placed(wrong) => wrong,
            Problem::OfPool(text) => place(text),
        }
    }
}

fn replica(
    engine: &Engine,
    pool: &Pool,
    profile: &Profile,
    model: &Model,
    targets: &[LoraTarget],
    executor: usize,
) -> Result<ReplicaSettings, Problem> {
    let settings = engine.settings();
    let get = Getter(settings);
    let degree = pool.tensor_parallel;
    // vLLM reserves all nine matrices of a slot, whatever the adapters add to.
    let reserved = if matches!(engine, Engine::Vllm(_)) { &LoraTarget::ALL[..] } else { targets };
    let slot_bytes = model.adapter_bytes_per_gpu(get.max_lora_rank(), reserved, degree);
    let room = get.gpu_adapters();
    let adapter_bytes = match room {
        _ if get.max_lora_rank() == 0 => 0,
        AdapterRoom::Slots(slots) => slot_bytes.saturating_mul(u64::from(slots)),
        AdapterRoom::Bytes(bytes) => bytes.0.div_ceil(u64::from(degree)),
        AdapterRoom::Unbounded => 0,
    };
    let mut budget = MemoryBudget::of(&profile.gpu, model, degree, get.max_num_batched_tokens(), get.max_num_seqs());
    budget.gpu_memory_utilization = get.gpu_memory_utilization();
    budget.adapter_bytes = adapter_bytes;
    budget.block_size = get.block_size();
    let blocks_for = |tokens: u32| tokens.div_ceil(get.block_size());
    let fit = || {
        let context = format!("{} on {degree} × {}", model.name, profile.gpu.name);
        budget.kv_room().map(|room| room.blocks).map_err(|problem| {
            let problem = format!("{context}: {problem}");
            let mut without = budget.clone();
            without.adapter_bytes = 0;
            if adapter_bytes == 0 || without.kv_room().is_err() {
                return Problem::OfPool(problem);
            }
            // The model alone would fit: it is the adapters' memory that is too large.
            let wrong = Wrong::at(&format!("engine.{}.gpu_adapters", engine.kind()), problem);
            Problem::Placed(wrong.help("make room for fewer adapters, or for smaller ranks (`max_lora_rank`)"))
        })
    };
    let kv_blocks = match get.kv_cache() {
        KvCache::Unbounded => BLOCKS_UNBOUNDED,
        KvCache::Fit => fit()?,
        // Less than fits may be asked for, to see what happens when memory is short; more may not.
        KvCache::Blocks(blocks) => at_most(engine, blocks, fit()?)?,
        KvCache::Tokens(tokens) => at_most(engine, blocks_for(tokens), fit()?)?,
    };
    Ok(ReplicaSettings {
        gpus: degree,
        executor,
        max_num_seqs: get.max_num_seqs(),
        max_num_batched_tokens: get.max_num_batched_tokens(),
        max_loras: get.max_loras(),
        max_lora_rank: get.max_lora_rank(),
        lora_slots: match room {
            AdapterRoom::Slots(slots) => slots,
            _ => get.max_loras(),
        },
        block_size: get.block_size(),
        kv_blocks: kv_blocks.min(BLOCKS_UNBOUNDED),
        gpu_adapters: memory(room),
        host_adapters: memory(settings.host_adapters.unwrap_or(AdapterRoom::Unbounded)),
        gpu_link: link(settings.host_link.unwrap_or(LinkChoice::Profile), profile),
        disk_link: link(settings.disk_link.unwrap_or(LinkChoice::Instant), profile),
        startup: pool.startup,
        starts_on: true,
    })
}

fn at_most(engine: &Engine, asked: u32, fits: u32) -> Result<u32, Problem> {
    if asked > 0 && asked <= fits {
        return Ok(asked);
    }
    let problem = format!("{asked} KV blocks: between 1 and the {fits} that fit beside weights and adapters");
    Err(Problem::Placed(Wrong::at(&format!("engine.{}.kv_cache", engine.kind()), problem)))
}

fn memory(room: AdapterRoom) -> AdapterMemory {
    match room {
        AdapterRoom::Slots(slots) => AdapterMemory::Slots(slots),
        AdapterRoom::Bytes(bytes) => AdapterMemory::Bytes(bytes.0),
        AdapterRoom::Unbounded => AdapterMemory::Unbounded,
    }
}

fn link(choice: LinkChoice, profile: &Profile) -> Link {
    match choice {
        LinkChoice::Profile => profile.load.link(true),
        LinkChoice::Pageable => profile.load.link(false),
        LinkChoice::Instant => Link::INSTANT,
        LinkChoice::Figures(figures) => Link {
            latency: figures.latency,
            bytes_per_second: Some((figures.gigabytes_per_second * 1e9).round() as u64),
        },
    }
}

/// Impossible combinations within the engine.
fn check(engine: &Engine) -> Result<(), Wrong> {
    let settings = engine.settings();
    let get = Getter(settings);
    let at = |key: &str, problem: String| Wrong::at(&format!("engine.{}.{key}", engine.kind()), problem);
    for (key, value) in [
        ("max_num_seqs", get.max_num_seqs()),
        ("max_num_batched_tokens", get.max_num_batched_tokens()),
        ("block_size", get.block_size()),
    ] {
        if value == 0 {
            return Err(at(key, "0 would serve nobody".to_owned()));
        }
    }
    if get.block_size() > 65_536 {
        return Err(at("block_size", format!("{} tokens a block: at most 65536", get.block_size())));
    }
    let share = get.gpu_memory_utilization();
    if !(share > 0.0 && share <= 1.0) {
        return Err(at("gpu_memory_utilization", format!("{share} is no share of the memory: above 0, at most 1")));
    }
    if get.max_num_batched_tokens() < get.max_num_seqs() {
        let problem = format!(
            "{} tokens a step are too few for {} sequences that decode one token each",
            get.max_num_batched_tokens(),
            get.max_num_seqs()
        );
        return Err(at("max_num_batched_tokens", problem).help("raise it, or lower `max_num_seqs`"));
    }
    if settings.max_model_len.is_some_and(|tokens| tokens < 2) {
        return Err(at("max_model_len", "a prompt and an output need one token each".to_owned()));
    }
    if let AdapterRoom::Slots(slots) = get.gpu_adapters()
        && slots < get.max_loras()
    {
        let problem = format!("{slots} slots are too few for {} adapters in a step (`max_loras`)", get.max_loras());
        return Err(at("gpu_adapters", problem).help("raise the slots, or lower `max_loras`"));
    }
    if let (Some(AdapterRoom::Slots(host)), AdapterRoom::Slots(slots)) = (settings.host_adapters, get.gpu_adapters())
        && host < slots
    {
        let problem = format!("{host} adapters in the host are too few for {slots} slots on the GPU");
        let help = match slots == get.max_loras() {
            true => format!("set `max_cpu_loras` to {slots} or more, or lower `max_loras`"),
            // Slots of their own: the scenario's, or those of a policy's preset.
            false => format!("set `max_cpu_loras` to {slots} or more, or `gpu_adapters` to fewer slots"),
        };
        return Err(at("host_adapters", problem).help(help));
    }
    for (key, choice) in [("host_link", settings.host_link), ("disk_link", settings.disk_link)] {
        match choice {
            Some(LinkChoice::Figures(figures)) => {
                let rate = figures.gigabytes_per_second;
                if !(rate.is_finite() && (1e-6..=1e6).contains(&rate)) {
                    let problem = format!("{rate} GB/s is no rate of a link: between 0.000001 and 1000000");
                    return Err(at(&format!("{key}.figures.gigabytes_per_second"), problem));
                }
                if figures.latency > LATENCY_MAX {
                    let problem = format!("no link takes {} to begin: at most {LATENCY_MAX}", figures.latency);
                    return Err(at(&format!("{key}.figures.latency"), problem));
                }
            }
            Some(LinkChoice::Profile | LinkChoice::Pageable) if key == "disk_link" => {
                return Err(at(key, "profiles measure the link to the GPU, not the disk".to_owned())
                    .help("write \"instant\", or { figures = { latency = \"100us\", gigabytes_per_second = 3.0 } }"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Values of an engine whose defaults are written out.
struct Getter<'a>(&'a EngineSettings);

macro_rules! getters {
    ($($name:ident $type:ty,)*) => {
        impl Getter<'_> {
            $(fn $name(&self) -> $type {
                self.0.$name.expect("the engine's defaults are written out")
            })*
        }
    };
}

getters! {
    max_num_seqs u32,
    max_num_batched_tokens u32,
    block_size u32,
    gpu_memory_utilization f64,
    kv_cache KvCache,
    max_loras u32,
    max_lora_rank u32,
    gpu_adapters AdapterRoom,
}
