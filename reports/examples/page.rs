//! Writes a report of a synthetic cluster, to look at: `cargo run -p aril-reports --example page -- FOLDER [sweep]`.

#[path = "../tests/reports/queue.rs"]
mod queue;
#[path = "../tests/reports/setup.rs"]
mod setup;

use std::collections::BTreeMap;
use std::path::Path;

use aril_reports::{
    CoverageNote, Existing, Expectation, ExpectedCell, Metric, ProfileNote, Provenance, Recorder, RecorderSettings,
    ReportError, ReportInput, RunDir, RunInfo, SloClass, Traffic, Trust, tables, write,
};
use aril_sim::time::Span;
use queue::{Route, Setup};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let target = arguments.next().ok_or("name a folder to write to")?;
    let kind = arguments.next().unwrap_or_default();
    let run_dir = RunDir::create(Path::new(&target), Existing::Replace)?;
    let rates: &[f64] = if kind == "sweep" { &[8.0, 16.0, 24.0, 32.0, 48.0] } else { &[28.0] };
    let seeds: &[u64] = if kind == "one" { &[1] } else { &[1, 2, 3, 4, 5] };
    let policies = [
        ("round robin", Route::RoundRobin),
        ("least loaded", Route::LeastLoaded),
        ("by adapter", Route::ByAdapter),
        ("consolidate <b>", Route::Fullest),
    ];
    let mut runs = Vec::new();
    for rate in rates {
        for (policy, route) in policies {
            for seed in seeds {
                let point =
                    if kind == "sweep" { vec![("traffic.rate".to_owned(), rate.to_string())] } else { Vec::new() };
                let info = RunInfo { policy: policy.to_owned(), seed: *seed, point, bound: policy == "least loaded" };
                let setup = Setup {
                    rate_per_s: *rate,
                    requests: (rate * 300.0) as u32,
                    wave: true,
                    timeout: Some(Span::from_secs(20)),
                    ..Setup::new(route, *seed)
                };
                runs.push((info.clone(), record(&setup, run_dir.path(), &info)?));
            }
        }
    }
    let input = ReportInput {
        name: "synthetic".to_owned(),
        description: "Four ways to route over eight replicas with eight adapter slots each, while the traffic rises and falls once.".to_owned(),
        trust: Trust {
            profiles: vec![
                ProfileNote { name: "a100-80g/llama-2-7b".to_owned(), kind: Provenance::Published, source: "Punica, Fig. 9 and 10".to_owned() },
                ProfileNote { name: "h100/llama-2-7b".to_owned(), kind: Provenance::Derived, source: "roofline from the data sheet".to_owned() },
            ],
            coverage: CoverageNote { lookups: 1_234_567, outside: vec![("context".to_owned(), 1204)] },
            seeds: seeds.to_vec(),
            warmup: "after 30 s of warm-up, to the last arrival".to_owned(),
            not_modelled: ["tokenizer time", "network", "speculative decoding", "prefix caching"].map(str::to_owned).to_vec(),
            build: "example".to_owned(),
        },
        runs,
        baseline: (kind == "baseline").then(|| "round robin".to_owned()),
        primary: Metric::Goodput,
        expectations: expectations(),
    };
    let written = write(&input, run_dir.path())?;
    for table in tables(&written.comparison) {
        println!("{}\n{:?}", table.title, table.headings);
        table.rows.iter().for_each(|row| println!("{row:?}"));
        println!("{}\n", table.verdict);
    }
    println!("{}", run_dir.commit()?.display());
    Ok(())
}

fn record(setup: &Setup, dir: &Path, info: &RunInfo) -> Result<aril_reports::RunResult, ReportError> {
    let folder = dir.join(info.folder());
    std::fs::create_dir_all(&folder).map_err(|source| ReportError::Io {
        action: "create",
        path: folder.clone(),
        source,
    })?;
    let replicas = setup.replicas as usize;
    let class = |name: &str, ttft, tpot, attainment| SloClass {
        name: name.to_owned(),
        ttft: Some(Span::from_ms(ttft)),
        tpot: Some(Span::from_ms(tpot)),
        attainment: Some(attainment),
    };
    let settings = RecorderSettings {
        replica_gpus: vec![1; replicas],
        replica_pool: vec!["a100".to_owned(); replicas],
        replicas_on: vec![false; replicas],
        replica_kv_blocks: vec![4000; replicas],
        slo: vec![class("gold", 800, 60, 0.99), class("standard", 3000, 80, 0.95)],
        traffic: Traffic::Open,
        warmup: Span::from_secs(30),
        max_num_seqs: setup.batch as u32,
        usd_per_gpu_hour: BTreeMap::from([("a100".to_owned(), 1.8)]),
        ..RecorderSettings::default()
    };
    let mut recorder = Recorder::create(&folder, setup.catalog(), settings)?;
    let ended_at = queue::run(setup, &mut recorder);
    recorder.finish(ended_at)
}

fn expectations() -> Vec<Expectation> {
    let cell = |labels: [&str; 2], published, ours, fitted, exempt: Option<&str>| ExpectedCell {
        labels: labels.map(str::to_owned).to_vec(),
        published,
        ours,
        fitted,
        exempt: exempt.map(str::to_owned),
        tolerance: 0.1,
        ..ExpectedCell::default()
    };
    vec![Expectation {
        title: "A table to look at".to_owned(),
        source: "made up for this example".to_owned(),
        unit: "tokens/s".to_owned(),
        axes: ["system", "popularity"].map(str::to_owned).to_vec(),
        rows: vec![
            cell(["one", "identical"], 1044.0, Some(1044.2), true, None),
            cell(["one", "distinct"], 1040.0, Some(1011.0), false, None),
            cell(["two", "distinct"], 26.0, Some(31.5), false, None),
            cell(["two", "uniform"], 30.0, Some(55.0), false, Some("contradicts the cell above it")),
            cell(["two", "skewed"], 34.0, None, false, None),
        ],
    }]
}
