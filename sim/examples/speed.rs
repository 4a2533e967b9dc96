//! How fast is the engine alone? Punica's lengths on many replicas, nobody watching, an affine toy price.
//!
//! `cargo run --release -p aril-sim --example speed -- [replicas] [seconds] [adapters]`
//! (1,000 replicas for an hour and 10,000 adapters unless told otherwise: 2.88 million requests).

use std::time::Instant;

use aril_sim::batch::{BatchShape, CostModel, Executor, Modelled, Price};
use aril_sim::draft::{Draft, Refusal};
use aril_sim::engine;
use aril_sim::fact::{Fact, Observer};
use aril_sim::fleet::Fleet;
use aril_sim::policy::{
    Asked, Batcher, Evictor, Idle, LoadMode, LoadPath, Policies, Preemptor, Requeue, Route, Router, Running,
};
use aril_sim::random::{self, Stream};
use aril_sim::settings::{AdapterMemory, ClusterSettings, Link, ReplicaSettings};
use aril_sim::time::{Span, Time};
use aril_sim::workload::{Adapter, AdapterId, Catalog, Offered, Outcome, Request, RequestId, Tenant, TenantId};
use rand::Rng;

const BATCH: u32 = 32;
const RATE_PER_REPLICA: f64 = 0.8;

/// The replica with the largest working set that has a place, ties to the highest id.
struct Largest;

impl Router for Largest {
    fn route(&mut self, _: &Asked<'_>, fleet: &Fleet<'_>, _: &mut Stream) -> Route {
        fleet.with_working_set(0..BATCH).next_back().map_or(Route::Hold, |(_, replica)| Route::To(replica))
    }
}

/// All decodes, and the queue in order until somebody does not fit.
struct InOrder;

impl Batcher for InOrder {
    fn compose(&mut self, draft: &mut Draft<'_>) {
        draft.decode_all();
        for position in 0..draft.waiting_len() {
            match draft.admit(position) {
                Ok(_) | Err(Refusal::AdapterLoading) => {}
                Err(_) => return,
            }
        }
    }
}

struct LeastRecentlyUsed;

impl Evictor for LeastRecentlyUsed {
    fn victim(&mut self, _: Time, idle: &[Idle]) -> Option<usize> {
        (0..idle.len()).min_by_key(|&position| idle[position].last_used)
    }
}

struct JoinWhenReady;

impl LoadPath for JoinWhenReady {
    fn mode(&self) -> LoadMode {
        LoadMode::Overlapped
    }

    fn ahead(&self) -> usize {
        1
    }
}

struct Newest;

impl Preemptor for Newest {
    fn victim(&mut self, running: &[Running]) -> usize {
        (0..running.len()).max_by_key(|&position| running[position].admitted).expect("somebody runs")
    }

    fn requeue(&self) -> Requeue {
        Requeue::Replica
    }
}

/// 11 ms for a short sequence, 13 ms for 32, 34 ms for 32 long ones.
struct Toy;

impl CostModel for Toy {
    fn price(&mut self, shape: &BatchShape<'_>) -> Price {
        let rows = u64::from(shape.decode_rows());
        let first = Span::from_us(10_900)
            + Span::from_us(65) * rows
            + Span::from_ns(320) * shape.decode_context_sum
            + Span::from_us(10) * u64::from(shape.prefill_tokens())
            + Span::from_us(5) * shape.segments.len() as u64;
        match shape.is_decode_only() {
            true => Price { first, increment: Span::from_ns(320) * rows, steps: u32::MAX },
            false => Price::once(first),
        }
    }
}

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
    let replica = ReplicaSettings {
        max_num_seqs: BATCH,
        max_num_batched_tokens: 4_096,
        max_loras: BATCH,
        max_lora_rank: 16,
        lora_slots: BATCH,
        kv_blocks: 4_200,
        gpu_adapters: AdapterMemory::Slots(2 * BATCH),
        gpu_link: Link { latency: Span::from_us(20), bytes_per_second: Some(25_000_000_000) },
        ..ReplicaSettings::boundless()
    };
    let settings = ClusterSettings::of(vec![replica; count as usize], 1);
    let adapter = |i| Adapter { name: format!("adapter {i}"), rank: 16, bytes: 40_000_000, owner: None };
    let catalog = Catalog {
        tenants: vec![Tenant { name: "everybody".to_owned(), weight: 1.0, slo_class: 0 }],
        adapters: (0..adapters).map(adapter).collect(),
    };
    let policies = Policies {
        router: Box::new(|| Box::new(Largest)),
        batcher: Box::new(|| Box::new(InOrder)),
        evictor: Box::new(|| Box::new(LeastRecentlyUsed)),
        load_path: Box::new(|| Box::new(JoinWhenReady)),
        preemptor: Box::new(|| Box::new(Newest)),
        migrator: None,
        scaler: None,
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
    let mut executors: Vec<Box<dyn Executor>> = vec![Box::new(Modelled(Toy))];
    let mut counts = Counts::default();
    let start = (Instant::now(), cpu_seconds());
    let ended =
        engine::run(&settings, &catalog, &policies, &mut executors, &mut traffic, &mut counts).expect("it is served");
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
        "{wall:.2} s, {busy:.2} s of CPU: {:.0} requests/s, {:.0} stretches/s, {:.0} ns a stretch, {:.1} million steps/s",
        ended.offered as f64 / busy,
        counts.stretches as f64 / busy,
        busy * 1e9 / counts.stretches as f64,
        counts.steps as f64 / busy / 1e6
    );
    if let (Some(before), Some(peak)) = (before, peak_mib()) {
        println!("peak memory {peak:.0} MiB, {before:.0} MiB of it before the first request");
    }
}
