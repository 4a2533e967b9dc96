//! A peer's runs, reproduced: its requests, its cost tables, our engine and batchers, its completion times.

use std::path::{Path, PathBuf};

use aril_sim::batch::{Executor, Modelled};
use aril_sim::cost::CompiledCost;
use aril_sim::engine;
use aril_sim::fact::{End, Fact, Observer};
use aril_sim::policy::batcher::{Chunked, PrefillFirst};
use aril_sim::policy::evictor::Lru;
use aril_sim::policy::load_path::Blocking;
use aril_sim::policy::preemptor::Newest;
use aril_sim::policy::router::RoundRobin;
use aril_sim::policy::{Batcher, Make, Policies};
use aril_sim::gpu::Gpu;
use aril_sim::model::Model;
use aril_sim::profile::lora::LoraKernel;
use aril_sim::profile::{LoadCost, Profile, Provenance, ProvenanceKind};
use aril_sim::settings::{AdapterMemory, ClusterSettings, Link, ReplicaSettings};
use aril_sim::time::{Span, Time};
use aril_sim::workload::{Catalog, Offered, Outcome, Request, RequestId, TenantId};
use aril_traces::read_vidur_costs;

/// Its first-token and completion times, by request.
#[derive(Default)]
struct Times(Vec<(Time, Time)>);

impl Observer for Times {
    fn observe(&mut self, now: Time, fact: &Fact<'_>) {
        if let Fact::Ended(life) = fact {
            assert_eq!(life.end, End::Finished);
            let index = life.offered.request.id.index();
            self.0.resize(self.0.len().max(index + 1), Default::default());
            self.0[index] = (life.first_token.expect("a finished request has a token"), now);
        }
    }
}

fn folder() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/vidur");
    if !folder.exists() {
        println!("skipped: {} is not there", folder.display());
        return None;
    }
    Some(folder)
}

fn columns<const N: usize>(path: &Path, names: [&str; N]) -> Vec<[f64; N]> {
    let file = std::fs::File::open(path).unwrap();
    let mut reader = csv::Reader::from_reader(flate2::read::GzDecoder::new(file));
    let header = reader.headers().unwrap().clone();
    let positions = names.map(|name| header.iter().position(|column| column == name).unwrap());
    reader.records().map(|row| row.unwrap()).map(|row| positions.map(|i| row[i].parse().unwrap())).collect()
}

fn offered(path: &Path) -> Vec<Offered> {
    columns(path, ["request_id", "arrived_at_s", "prompt_tokens", "output_tokens"])
        .into_iter()
        .map(|[id, arrival, prompt, output]| Offered {
            request: Request {
                id: RequestId(id as u32),
                tenant: TenantId(0),
                adapter: None,
                arrival: Time::ZERO + Span::from_secs_f64(arrival),
                prompt_tokens: prompt as u32,
                max_tokens: 4096 - prompt as u32,
                predicted_output_tokens: None,
                prefix: None,
            },
            outcome: Outcome { output_tokens: output as u32 },
        })
        .collect()
}

/// Its engine: 7,424 blocks of 16 tokens and 128 sequences.
fn replica(max_num_batched_tokens: u32) -> ReplicaSettings {
    ReplicaSettings {
        gpus: 1,
        executor: 0,
        max_num_seqs: 128,
        max_num_batched_tokens,
        max_loras: 0,
        max_lora_rank: 0,
        lora_slots: 0,
        block_size: 16,
        kv_blocks: 7424,
        gpu_adapters: AdapterMemory::Unbounded,
        host_adapters: AdapterMemory::Unbounded,
        gpu_link: Link::INSTANT,
        disk_link: Link::INSTANT,
        startup: Span::ZERO,
        starts_on: true,
    }
}

/// The tables as a profile; nothing is loaded.
fn profile(folder: &Path) -> Profile {
    let provenance = Provenance {
        kind: ProvenanceKind::Published,
        source: "Vidur".to_owned(),
        gpu: None,
        driver: None,
        cuda: None,
        clocks: None,
        kernel_source_hash: None,
        commit: None,
        date: None,
        note: None,
    };
    let load = LoadCost {
        us: 0.0,
        pinned_gigabytes_per_second: 1.0,
        pageable_gigabytes_per_second: 1.0,
        copy_slowdown: 1.0,
        step_slowdown: 1.0,
    };
    let (model, gpu) = (Model::named("llama-2-7b").unwrap(), Gpu::named("a100-80gb").unwrap());
    let tables = read_vidur_costs(&folder.join("costs_llama2_7b_a100")).unwrap();
    Profile::of_vidur("vidur".to_owned(), provenance, model, gpu, load, tables)
}

fn worst_error(name: &str, max_num_batched_tokens: u32, batcher: Make<dyn Batcher>) -> Option<f64> {
    let folder = folder()?;
    let cost = CompiledCost::compile(&profile(&folder), LoraKernel::None).unwrap();
    let mut executors: Vec<Box<dyn Executor>> = vec![Box::new(Modelled(cost))];
    let settings = ClusterSettings {
        replicas: vec![replica(max_num_batched_tokens)],
        signals_interval: Span::ZERO,
        client_timeout: None,
        horizon: None,
        stretches: true,
        seed: 0,
    };
    let policies = Policies {
        router: Box::new(|| Box::new(RoundRobin::default())),
        batcher,
        evictor: Box::new(|| Box::new(Lru::default())),
        load_path: Box::new(|| Box::new(Blocking::default())),
        preemptor: Box::new(|| Box::new(Newest::default())),
        migrator: None,
        scaler: None,
    };
    let mut times = Times::default();
    let mut arrivals = offered(&folder.join(format!("{name}.csv.gz"))).into_iter();
    let ended =
        engine::run(&settings, &Catalog::default(), &policies, &mut executors, &mut arrivals, &mut times).unwrap();
    assert!(ended.coverage[0].outside.is_empty(), "{:?}", ended.coverage);
    let outputs =
        columns(&folder.join(format!("{name}_outputs.csv.gz")), ["request_id", "first_token_at_s", "completed_at_s"]);
    assert_eq!(outputs.len(), times.0.len());
    let error = |time: Time, theirs: f64| (time.as_ps() as f64 / 1e12 - theirs).abs();
    let worst = outputs.iter().map(|&[id, first, done]| {
        let ours = times.0[id as usize];
        error(ours.0, first).max(error(ours.1, done))
    });
    Some(worst.fold(0.0, f64::max))
}

#[test]
fn every_request_of_vidurs_chunked_prefill_is_reproduced_within_a_microsecond() {
    let batcher = || Box::new(Chunked::default()) as Box<dyn Batcher>;
    if let Some(error) = worst_error("sarathi_r1_n1000_q4", 512, Box::new(batcher)) {
        assert!(error < 1e-6, "{error} s");
    }
}

#[test]
fn every_request_of_vidurs_prefill_first_is_reproduced_within_a_microsecond() {
    let batcher = || Box::new(PrefillFirst { counts_padding: true, ..PrefillFirst::default() }) as Box<dyn Batcher>;
    if let Some(error) = worst_error("vllm_r1_n1000_q4", 4096, Box::new(batcher)) {
        assert!(error < 1e-6, "{error} s");
    }
}
