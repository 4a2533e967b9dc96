//! How fast is the engine alone? Punica's lengths, prices and policies on many replicas, nobody watching.
//!
//! `cargo run --release -p aril-sim --example speed -- [replicas] [seconds] [adapters] [facts]`
//! (1,000 replicas for an hour and 10,000 adapters unless told otherwise: 2.88 million requests). `facts` adds a digest of every
//! fact: what a faster engine must not change.

use std::fmt::Write;
use std::path::Path;
use std::time::Instant;

use aril_sim::batch::{Executor, Modelled};
use aril_sim::cost::CompiledCost;
use aril_sim::engine;
use aril_sim::fact::{Fact, Observer};
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
use aril_sim::random::{self, Stream};
use aril_sim::settings::{AdapterMemory, ClusterSettings, ReplicaSettings};
use aril_sim::time::{Span, Time};
use aril_sim::workload::{Adapter, AdapterId, Catalog, Offered, Outcome, Request, RequestId, Tenant, TenantId};
use rand::Rng;

const BATCH: u32 = 32;
const RATE_PER_REPLICA: f64 = 0.8;

/// Poisson arrivals, lengths as Punica draws them, adapters uniformly.
struct Traffic {
    random: Stream,
    next: f64,
    rate: f64,
    end: f64,
    id: u32,
    adapters: u32,
}

impl Traffic {
    fn uniform(&mut self) -> f64 {
        ((self.random.next_u64() >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    fn normal(&mut self) -> f64 {
        let (u, v) = (self.uniform(), self.uniform());
        (-2.0 * u.ln()).sqrt() * (2.0 * std::f64::consts::PI * v).cos()
    }
}

impl Iterator for Traffic {
    type Item = Offered;

    fn next(&mut self) -> Option<Offered> {
        self.next -= self.uniform().ln() / self.rate;
        if self.next > self.end {
            return None;
        }
        let prompt = (18.0 * (0.8 * self.normal()).exp() - 1.0).clamp(1.0, 2046.0) as u32;
        let total = (self.uniform() * 2048.0) as u32;
        let id = self.id;
        self.id += 1;
        let request = Request {
            id: RequestId(id),
            tenant: TenantId(0),
            adapter: Some(AdapterId((self.uniform() * f64::from(self.adapters)) as u32)),
            arrival: Time::ZERO + Span::from_secs_f64(self.next),
            prompt_tokens: prompt,
            max_tokens: 2048,
            predicted_output_tokens: None,
            prefix: None,
        };
        Some(Offered { request, outcome: Outcome { output_tokens: (prompt + 2).max(total) - prompt } })
    }
}

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

impl Write for Digest {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0 = text.bytes().fold(self.0, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
        Ok(())
    }
}

impl Observer for Digest {
    fn observe(&mut self, now: Time, fact: &Fact<'_>) {
        write!(self, "{now:?}{fact:?}").expect("a digest takes everything");
    }
}

/// Peak memory of this process, MiB, where the system tells it.
fn peak_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM"))?;
    Some(line.split_whitespace().nth(1)?.parse::<f64>().ok()? / 1024.0)
}

/// Processor time of this process so far, where the system tells it (in hundredths of a second).
fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |position: usize| fields.get(position)?.parse::<f64>().ok();
    Some((ticks(11)? + ticks(12)?) / 100.0)
}

fn main() {
    let argument = |position: usize, default: u32| {
        std::env::args().nth(position).map_or(default, |text| text.parse().expect("a whole number"))
    };
    let (count, seconds, adapters) = (argument(1, 1_000), argument(2, 3_600), argument(3, 10_000));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../calibrate/profiles/punica-a100-80gb-llama-2-7b.toml");
    let text = std::fs::read_to_string(path).expect("the profile is there");
    let profile: Profile = toml::from_str(&text).expect("it is a profile");
    let replica = ReplicaSettings {
        max_num_seqs: BATCH,
        max_num_batched_tokens: 8_192,
        max_loras: BATCH,
        max_lora_rank: 16,
        lora_slots: BATCH,
        kv_blocks: 6_800,
        gpu_adapters: AdapterMemory::Slots(BATCH),
        gpu_link: profile.load.link(true),
        ..ReplicaSettings::boundless()
    };
    let settings = ClusterSettings::of(vec![replica; count as usize], 1);
    let adapter = |i| Adapter { name: format!("adapter {i}"), rank: 16, bytes: 80_000_000, owner: None };
    let catalog = Catalog {
        tenants: vec![Tenant { name: "everybody".to_owned(), weight: 1.0, slo_class: 0 }],
        adapters: (0..adapters).map(adapter).collect(),
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
    let mut traffic = Traffic {
        random: random::stream(1, "speed"),
        next: 0.0,
        rate: RATE_PER_REPLICA * f64::from(count),
        end: f64::from(seconds),
        id: 0,
        adapters,
    };
    let before = peak_mib();
    let cost = CompiledCost::compile(&profile, LoraKernel::Sgmv).expect("the profile has this kernel");
    let mut executors: Vec<Box<dyn Executor>> = vec![Box::new(Modelled(cost))];
    let (mut counts, mut digest) = (Counts::default(), Digest(0xcbf2_9ce4_8422_2325));
    let with_facts = std::env::args().nth(4).is_some_and(|word| word == "facts");
    let start = (Instant::now(), cpu_seconds());
    let mut both = (&mut counts, &mut digest);
    let watcher: &mut dyn Observer = if with_facts { &mut both } else { &mut both.0 };
    let ended =
        engine::run(&settings, &catalog, &policies, &mut executors, &mut traffic, watcher).expect("it is served");
    let wall = start.0.elapsed().as_secs_f64();
    // On a busy machine the wall clock tells more of the neighbours than of the engine.
    let busy = start.1.zip(cpu_seconds()).map_or(wall, |(before, after)| after - before);
    println!(
        "{count} replicas, {adapters} adapters, {} requests, simulated {:.0} s",
        ended.offered,
        ended.at.as_secs_f64()
    );
    println!(
        "{} stretches, {} steps, {:.1} rows a stretch, {} loads, {} facts, at most {} requests in flight",
        counts.stretches,
        counts.steps,
        counts.rows as f64 / counts.stretches as f64,
        counts.loads,
        counts.facts,
        counts.live_max
    );
    println!(
        "{wall:.2} s, {busy:.2} s of CPU: {:.2} us a request, {:.0} requests/s, {:.0} stretches/s, {:.0} ns a stretch, {:.1} million steps/s",
        busy * 1e6 / ended.offered as f64,
        ended.offered as f64 / busy,
        counts.stretches as f64 / busy,
        busy * 1e9 / counts.stretches as f64,
        counts.steps as f64 / busy / 1e6
    );
    if with_facts {
        println!("facts {:016x}", digest.0);
    }
    if let (Some(before), Some(peak)) = (before, peak_mib()) {
        println!("peak memory {peak:.0} MiB, {before:.0} MiB of it before the first request");
    }
}
