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
use aril_sim::fact::Observer;
use aril_sim::gpu::memory::MemoryBudget;
use aril_sim::model::lora::LoraTarget;
use aril_sim::profile::Profile;
use aril_sim::profile::lora::LoraKernel;
use aril_sim::settings::ClusterSettings;
use aril_traces::{Context, Traffic};

use stage::{BATCH, Counts, Digest, spent};

// The engine's own example times the same loop on traffic that needs no file.
#[path = "../../sim/examples/speed/stage.rs"]
mod stage;

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
    let replica = stage::replica(&profile, budget.kv_room().expect("it fits").blocks);
    let settings = ClusterSettings::of(vec![replica; count as usize], 1);
    let cost = CompiledCost::compile(&profile, LoraKernel::Sgmv).expect("the profile has this kernel");
    let mut executors: Vec<Box<dyn Executor>> = vec![Box::new(Modelled(cost))];

    let (start, before) = (Instant::now(), spent());
    let mut observer = (Counts::default(), Digest::default());
    let offered = if is("draw") {
        workload.arrivals().count() as u64
    } else {
        let arrivals = &mut *workload.arrivals();
        let watcher: &mut dyn Observer = if is("facts") { &mut observer } else { &mut observer.0 };
        let ended = engine::run(&settings, &workload.catalog, &stage::policies(), &mut executors, arrivals, watcher);
        ended.expect("everybody is served").offered
    };
    let (wall, after) = (start.elapsed().as_secs_f64(), spent());
    let told = |value: Option<f64>| value.unwrap_or(0.0);
    let (busy, counts) = (told(after.cpu_seconds) - told(before.cpu_seconds), observer.0);
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
        told(after.peak_mib),
        told(before.peak_mib)
    );
    if is("facts") {
        println!("facts {:016x}", observer.1.0);
    }
}
