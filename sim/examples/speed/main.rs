//! How fast is the engine alone? Punica's lengths, prices and policies on many replicas, nobody watching.
//!
//! `cargo run --release -p aril-sim --example speed -- [replicas] [seconds] [adapters] [facts]`
//! (1,000 replicas for an hour and 10,000 adapters unless told otherwise: 2.88 million requests). `facts` adds a digest of every
//! fact: what a faster engine must not change.

use std::path::Path;
use std::time::Instant;

use aril_sim::batch::{Executor, Modelled};
use aril_sim::cost::CompiledCost;
use aril_sim::engine;
use aril_sim::fact::Observer;
use aril_sim::profile::Profile;
use aril_sim::profile::lora::LoraKernel;
use aril_sim::random::{self, Stream};
use aril_sim::settings::ClusterSettings;
use aril_sim::time::{Span, Time};
use aril_sim::workload::{Adapter, AdapterId, Catalog, Offered, Outcome, Request, RequestId, Tenant, TenantId};
use rand::Rng;

use stage::{Counts, Digest, spent};

mod stage;

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

fn main() {
    let argument = |position: usize, default: u32| {
        std::env::args().nth(position).map_or(default, |text| text.parse().expect("a whole number"))
    };
    let (count, seconds, adapters) = (argument(1, 1_000), argument(2, 3_600), argument(3, 10_000));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../calibrate/profiles/punica-a100-80gb-llama-2-7b.toml");
    let text = std::fs::read_to_string(path).expect("the profile is there");
    let profile: Profile = toml::from_str(&text).expect("it is a profile");
    let replica = stage::replica(&profile, 6_800);
    let settings = ClusterSettings::of(vec![replica; count as usize], 1);
    let adapter = |i| Adapter { name: format!("adapter {i}"), rank: 16, bytes: 80_000_000, owner: None };
    let catalog = Catalog {
        tenants: vec![Tenant { name: "everybody".to_owned(), weight: 1.0, slo_class: 0 }],
        adapters: (0..adapters).map(adapter).collect(),
    };
    let mut traffic = Traffic {
        random: random::stream(1, "speed"),
        next: 0.0,
        rate: RATE_PER_REPLICA * f64::from(count),
        end: f64::from(seconds),
        id: 0,
        adapters,
    };
    let cost = CompiledCost::compile(&profile, LoraKernel::Sgmv).expect("the profile has this kernel");
    let mut executors: Vec<Box<dyn Executor>> = vec![Box::new(Modelled(cost))];
    let (mut counts, mut digest) = (Counts::default(), Digest::default());
    let with_facts = std::env::args().nth(4).is_some_and(|word| word == "facts");
    let (start, before) = (Instant::now(), spent());
    let mut both = (&mut counts, &mut digest);
    let watcher: &mut dyn Observer = if with_facts { &mut both } else { &mut both.0 };
    let ended = engine::run(&settings, &catalog, &stage::policies(), &mut executors, &mut traffic, watcher)
        .expect("it is served");
    let wall = start.elapsed().as_secs_f64();
    let after = spent();
    // On a busy machine the wall clock tells more of the neighbours than of the engine.
    let busy = before.cpu_seconds.zip(after.cpu_seconds).map_or(wall, |(before, after)| after - before);
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
    if let (Some(before), Some(peak)) = (before.peak_mib, after.peak_mib) {
        println!("peak memory {peak:.0} MiB, {before:.0} MiB of it before the first request");
    }
}
