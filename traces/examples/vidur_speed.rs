//! How long does the loop take on Vidur's larger workload, with its cost tables? Nobody watches, as in its own fastest run.
//!
//! `cargo run --release -p aril-traces --example vidur_speed -- [repetitions]`

use std::path::Path;
use std::time::Instant;

use aril_sim::batch::{Executor, Modelled};
use aril_sim::cost::CompiledCost;
use aril_sim::engine;
use aril_sim::fact::{Fact, Observer};
use aril_sim::policy::Policies;
use aril_sim::policy::batcher::Chunked;
use aril_sim::policy::evictor::Lru;
use aril_sim::policy::load_path::Blocking;
use aril_sim::policy::preemptor::Newest;
use aril_sim::policy::router::RoundRobin;
use aril_sim::profile::Profile;
use aril_sim::profile::lora::LoraKernel;
use aril_sim::settings::{ClusterSettings, ReplicaSettings};
use aril_sim::time::Time;
use aril_sim::workload::{Catalog, Offered, Outcome, Request, RequestId, TenantId};
use aril_traces::{Columns, Format, ReadOptions, read};

/// Counts steps and facts.
#[derive(Default)]
struct Count {
    steps: u64,
    facts: u64,
}

impl Observer for Count {
    fn observe(&mut self, _: Time, fact: &Fact<'_>) {
        self.facts += 1;
        if let Fact::Stretch(stretch) = fact {
            self.steps += u64::from(stretch.steps);
        }
    }
}

fn main() {
    let repetitions: usize = std::env::args().nth(1).map_or(20, |text| text.parse().expect("a whole number"));
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios/vidur");
    let text = std::fs::read_to_string(folder.join("vidur-a100-80gb-llama-2-7b.toml")).expect("the profile is there");
    let profile: Profile = toml::from_str(&text).expect("it is a profile");
    let path = folder.join("requests_r16_n10000_q64.csv.gz");
    let table =
        read(&path, Some(Format::Vidur), &Columns::default(), &ReadOptions::default()).expect("the requests are there");
    let arrivals = table.arrivals_ps.expect("they have arrivals");
    let offered: Vec<Offered> = (0..arrivals.len())
        .map(|i| Offered {
            request: Request {
                id: RequestId(i as u32),
                tenant: TenantId(0),
                adapter: None,
                arrival: Time::from_ps(arrivals[i]),
                prompt_tokens: table.input_tokens[i],
                max_tokens: 4096 - table.input_tokens[i],
                predicted_output_tokens: None,
                prefix: None,
            },
            outcome: Outcome { output_tokens: table.output_tokens[i] },
        })
        .collect();
    let replica = ReplicaSettings {
        max_num_seqs: 128,
        max_num_batched_tokens: 512,
        max_loras: 0,
        max_lora_rank: 0,
        kv_blocks: 7424,
        ..ReplicaSettings::boundless()
    };
    let settings = ClusterSettings::of(vec![replica; 16], 0);
    let policies = Policies {
        router: Box::new(|| Box::new(RoundRobin::default())),
        batcher: Box::new(|| {
            Box::new(Chunked { watermark: 0.01, admits_after_preemption: true, ..Chunked::default() })
        }),
        evictor: Box::new(|| Box::new(Lru::default())),
        load_path: Box::new(|| Box::new(Blocking::default())),
        preemptor: Box::new(|| Box::new(Newest::default())),
        migrator: None,
        scaler: None,
    };
    let run = |observer: &mut dyn Observer| {
        let cost = CompiledCost::compile(&profile, LoraKernel::None).expect("the tables are whole");
        let mut executors: Vec<Box<dyn Executor>> = vec![Box::new(Modelled(cost))];
        let requests = offered.clone();
        let began = Instant::now();
        let mut requests = requests.into_iter();
        let ended = engine::run(&settings, &Catalog::default(), &policies, &mut executors, &mut requests, observer);
        let milliseconds = began.elapsed().as_secs_f64() * 1e3;
        (milliseconds, ended.expect("everybody is served"))
    };
    let mut count = Count::default();
    let (_, ended) = run(&mut count);
    let mut times: Vec<f64> = (0..repetitions.max(1)).map(|_| run(&mut ()).0).collect();
    times.sort_by(f64::total_cmp);
    let (least, median) = (times[0], times[times.len() / 2]);
    println!(
        "{} requests, {} steps, {} facts, simulated {:.3} s",
        ended.offered,
        count.steps,
        count.facts,
        ended.at.as_secs_f64()
    );
    println!(
        "loop: median {median:.1} ms, least {least:.1} ms of {} runs; {:.2} million steps/s, {:.0} ns a step, {:.0} ns a fact",
        times.len(),
        count.steps as f64 / median / 1e3,
        median * 1e6 / count.steps as f64,
        median * 1e6 / count.facts as f64
    );
}
