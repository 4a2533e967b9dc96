//! How fast is the loop alone on the bench's traffic with locality (`scenarios/bench/locality.toml`)? Nobody records, nothing is
//! written; cluster, prices and policies are the scenario's.
//!
//! `cargo run --release -p aril-traces --example loop_alone -- [replicas] [seconds] [adapters] [draw | facts]`
//! (1,000 replicas for an hour and 64,000 adapters unless told otherwise: 2.88 million requests).
//!
//! `draw` draws the requests and simulates nothing; `facts` adds a digest of every fact: what a faster engine must not change.

use std::path::Path;
use std::time::Instant;

use aril_sim::batch::{Executor, Modelled};
use aril_sim::cost::CompiledCost;
use aril_sim::engine;
use aril_sim::fact::{Fact, Observer};
use aril_sim::gpu::memory::MemoryBudget;
use aril_sim::model::lora::LoraTarget;
use aril_sim::policy::Policies;
use aril_sim::policy::batcher::Punica;
use aril_sim::policy::evictor::Lru;
use aril_sim::policy::load_path::OnArrival;
use aril_sim::policy::migrator::PunicaConsolidate;
use aril_sim::policy::preemptor::Newest;
use aril_sim::policy::router::PunicaPaper;
use aril_sim::policy::scaler::PunicaHints;
use aril_sim::profile::Profile;
use aril_sim::profile::lora::LoraKernel;
use aril_sim::settings::{AdapterMemory, ClusterSettings, ReplicaSettings};
use aril_sim::time::Time;
use aril_traces::{Context, Traffic};

const BATCH: u32 = 32;

/// Counts, and nothing else.
#[derive(Default)]
struct Counts {
    facts: u64,
    stretches: u64,
    steps: u64,
    rows: u64,
    loads: u64,
    live: i64,
    live_max: i64,
}

impl Observer for Counts {
    fn observe(&mut self, _: Time, fact: &Fact<'_>) {
        self.facts += 1;
        match fact {
            Fact::Stretch(stretch) => {
                self.stretches += 1;
                self.steps += u64::from(stretch.steps);
                self.rows += stretch.rows.len() as u64;
            }
            Fact::LoadStarted { .. } => self.loads += 1,
            Fact::Offered(_) => {
                self.live += 1;
                self.live_max = self.live_max.max(self.live);
            }
            Fact::Ended(_) => self.live -= 1,
            _ => {}
        }
    }
}

/// Every fact, as it prints, in one number (FNV-1a).
struct Digest(u64);

impl std::fmt::Write for Digest {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0 = text.bytes().fold(self.0, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
        Ok(())
    }
}

impl Observer for Digest {
    fn observe(&mut self, now: Time, fact: &Fact<'_>) {
        use std::fmt::Write;
        write!(self, "{now:?}{fact:?}").expect("a digest takes everything");
    }
}

/// Processor seconds and peak MiB of this process so far, where the system tells them.
fn spent() -> (f64, f64) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let ticks = |position: usize| fields.get(position).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find(|line| line.starts_with("VmHWM")).and_then(|line| line.split_whitespace().nth(1));
    ((ticks(11) + ticks(12)) / 100.0, peak.and_then(|kib| kib.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0)
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |position: usize, default: u32| {
        arguments.get(position).map_or(default, |text| text.parse().expect("a whole number"))
    };
    let (count, seconds, adapters) = (number(0, 1_000), number(1, 3_600), number(2, 64_000));
    let is = |word: &str| arguments.iter().any(|argument| argument == word);
    let home = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = |path: &str| std::fs::read_to_string(home.join(path)).expect("a file of the repository");
    let profile: Profile =
        toml::from_str(&text("../calibrate/profiles/punica-a100-80gb-llama-2-7b.toml")).expect("a profile");
    let mut scenario: toml::Table = text("../scenarios/bench/locality.toml").parse().expect("a scenario");
    let mut traffic = scenario.remove("traffic").expect("traffic");
    traffic["arrivals"]["poisson"]["rate"] = (0.8 * f64::from(count)).into();
    traffic["window"]["duration"] = format!("{seconds}s").into();
    traffic["popularity"]["working-set"]["adapters"] = i64::from(adapters).into();
    traffic["popularity"]["working-set"]["tenants"] = i64::from(adapters.div_ceil(4)).into();
    let traffic: Traffic = traffic.try_into().expect("a table of traffic");
    let adapter_bytes = |rank| profile.model.adapter_bytes(rank, &LoraTarget::LAYER);
    let context =
        Context { base: home, seed: 1, as_recorded: true, adapter_bytes: &adapter_bytes, max_model_len: 4096 };
    let workload = traffic.build(&context).expect("a workload");

    let mut budget = MemoryBudget::of(&profile.gpu, &profile.model, 1, 8192, BATCH);
    budget.adapter_bytes = u64::from(BATCH) * adapter_bytes(16);
    let replica = ReplicaSettings {
        max_num_seqs: BATCH,
        max_num_batched_tokens: 8192,
        max_loras: BATCH,
        max_lora_rank: 16,
        lora_slots: BATCH,
        kv_blocks: budget.kv_room().expect("it fits").blocks,
        gpu_adapters: AdapterMemory::Slots(BATCH),
        gpu_link: profile.load.link(true),
        ..ReplicaSettings::boundless()
    };
    let policies = Policies {
        router: Box::new(|| Box::new(PunicaPaper::default())),
        batcher: Box::new(|| Box::new(Punica::default())),
        evictor: Box::new(|| Box::new(Lru::default())),
        load_path: Box::new(|| Box::new(OnArrival::default())),
        preemptor: Box::new(|| Box::new(Newest::default())),
        migrator: Some(Box::new(|| Box::new(PunicaConsolidate::default()))),
        scaler: Some(Box::new(|| Box::new(PunicaHints::default()))),
    };
    let settings = ClusterSettings::of(vec![replica; count as usize], 1);
    let cost = CompiledCost::compile(&profile, LoraKernel::Sgmv).expect("the profile has this kernel");
    let mut executors: Vec<Box<dyn Executor>> = vec![Box::new(Modelled(cost))];

    let (start, before) = (Instant::now(), spent());
    let mut observer = (Counts::default(), Digest(0xcbf2_9ce4_8422_2325));
    let offered = if is("draw") {
        workload.arrivals().count() as u64
    } else {
        let arrivals = &mut *workload.arrivals();
        let watcher: &mut dyn Observer = if is("facts") { &mut observer } else { &mut observer.0 };
        let ended = engine::run(&settings, &workload.catalog, &policies, &mut executors, arrivals, watcher);
        ended.expect("everybody is served").offered
    };
    let (wall, after) = (start.elapsed().as_secs_f64(), spent());
    let (busy, counts) = (after.0 - before.0, observer.0);
    println!(
        "{count} replicas, {offered} requests, {} stretches of {:.1} rows, {} steps, {} loads, {} facts, at most {} requests in flight",
        counts.stretches,
        counts.rows as f64 / counts.stretches.max(1) as f64,
        counts.steps,
        counts.loads,
        counts.facts,
        counts.live_max
    );
    println!(
        "{wall:.2} s, {busy:.2} s of processor: {:.2} us/request; {:.0} MiB at its peak, {:.0} before the first request",
        busy * 1e6 / offered as f64,
        after.1,
        before.1
    );
    if is("facts") {
        println!("facts {:016x}", observer.1.0);
    }
}
