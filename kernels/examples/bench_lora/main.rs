//! Measures the LoRA kernels on a GPU: every point checked against float64, then timed with a cold L2.
//!
//! `cargo run --release -p aril-kernels --example bench_lora -- --out results.json`
//!
//! Options: `--points table|others|figures|all`, `--only TEXT` (in the point's name), `--sweep` (every row tile and several
//! spreads, to choose the plan's rules by), `--sources FOLDER` (kernels from there), `--repeats N`, `--no-check`,
//! `--check-only` (for compute-sanitizer).

mod bench;
mod inputs;
mod points;
mod provenance;

use std::path::PathBuf;
use std::time::Instant;

use aril_kernels::Error;
use aril_kernels::cache::Cache;
use aril_kernels::gpu::Gpu;
use aril_kernels::lora::launch::LoraKernels;
use aril_kernels::lora::plan::{Exchange, Plan, Tuning};
use aril_kernels::lora::variant::RowTile;
use aril_kernels::source::Sources;
use aril_kernels::timing::{Stopwatch, Summary};
use serde_json::{Value, json};

use bench::{Before, Bench, Call, Prepared};
use points::Point;

struct Options {
    out: PathBuf,
    points: String,
    only: String,
    sweep: bool,
    check: bool,
    time: bool,
    sources: Option<PathBuf>,
    repeats: usize,
}

fn options() -> Result<Options, String> {
    let mut options = Options {
        out: "bench_lora.json".into(),
        points: "all".to_owned(),
        only: String::new(),
        sweep: false,
        check: true,
        time: true,
        sources: None,
        repeats: 50,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--out" => options.out = value()?.into(),
            "--points" => options.points = value()?,
            "--only" => options.only = value()?,
            "--sources" => options.sources = Some(value()?.into()),
            "--repeats" => options.repeats = value()?.parse().map_err(|_| "--repeats needs a number".to_owned())?,
            "--sweep" => options.sweep = true,
            "--no-check" => options.check = false,
            "--check-only" => options.time = false,
            other => return Err(format!("unknown option {other}; see the head of examples/bench_lora/main.rs")),
        }
    }
    Ok(options)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = options()?;
    let sources = options.sources.as_deref().map_or_else(Sources::built_in, Sources::in_folder);
    let gpu = Gpu::open(0)?;
    let stream = gpu.stream()?;
    let cache = Cache::of_user();
    let kernels = LoraKernels::new(&gpu, sources.clone(), cache.clone());
    let ampere = LoraKernels::new(&gpu, sources.clone(), cache.clone()).with_architecture("compute_80");
    let stopwatch = Stopwatch::new(&gpu, &stream, &sources, cache.as_ref())?;
    let inbox = kernels.inbox(&stream, 1 << 18)?;
    let mut bench = Bench { gpu, stream, kernels, ampere, stopwatch, inbox, repeats: options.repeats };

    let mut chosen: Vec<Point> = match options.points.as_str() {
        "table" => points::table(),
        "others" => points::others(),
        "figures" => points::figures(),
        _ => [points::table(), points::others(), points::figures()].concat(),
    };
    chosen.retain(|point| point.name().contains(&options.only));
    let clocks_before = provenance::clocks();
    let copy = bench.time_copy(2 << 30, 4)?;
    println!("copy of 2 GiB (read + written): {:.0} GB/s", (2_u64 << 30) as f64 / copy.median / 1e3);
    let mut results = Vec::new();
    let mut wrong = 0;
    for point in &chosen {
        let result = run(&mut bench, point, &options);
        match result {
            Ok(result) => {
                wrong += usize::from(result["correct"] == Value::Bool(false));
                results.push(result);
            }
            Err(error) => {
                wrong += 1;
                println!("{}: {error}", point.name());
                results.push(json!({ "point": point.name(), "error": error.to_string() }));
            }
        }
    }
    let report = json!({
        "what": "LoRA kernels, microseconds a call: CUDA graph of `sets` calls on different weights, cold L2",
        "gpu": bench.gpu.name(),
        "driver_cuda": bench.gpu.driver_version(),
        "nvrtc": format!("{:?}", aril_kernels::compile::nvrtc_version()?),
        "clocks_before": clocks_before,
        "clocks_after": provenance::clocks(),
        "source_sha256": sources.hash()?,
        "date": provenance::date(),
        "repeats": options.repeats,
        "copy_2gib_bytes_per_us": (2_u64 << 30) as f64 / copy.median,
        "results": results,
    });
    std::fs::write(&options.out, serde_json::to_string(&report)?.replace("{\"activations\"", "\n{\"activations\""))?;
    println!("{} points, {wrong} wrong; written to {}", chosen.len(), options.out.display());
    if wrong > 0 { Err("some points are wrong".into()) } else { Ok(()) }
}

fn run(bench: &mut Bench, point: &Point, options: &Options) -> Result<Value, Error> {
    let mut correct = Value::Null;
    let mut deviation = Value::Null;
    if options.check {
        let seed = std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_nanos() as u64);
        let checked = bench.check(point, Tuning::default(), seed, false)?;
        let ampere = bench.check(point, Tuning::default(), seed + 1, true)?;
        let passes = checked.passes(point.element) && ampere.passes(point.element);
        if !passes {
            println!("WRONG {}: {checked:?} sm_80: {ampere:?}", point.name());
        }
        correct = Value::Bool(passes);
        deviation = json!({
            "relative_norm": checked.pair.relative_norm.max(checked.separate.relative_norm),
            "element_max": checked.pair.element_max.max(checked.separate.element_max),
            "relative_norm_sm_80": ampere.pair.relative_norm,
        });
    }
    if !options.time {
        let name = point.name();
        println!("{name}: {}", if correct == Value::Bool(true) { "right" } else { "wrong" });
        return Ok(json!({ "point": name, "correct": correct, "deviation": deviation }));
    }
    let prepared = bench.prepare(point)?;
    let plan = bench.plan(&prepared, Tuning::default())?;
    let bytes = point.bytes("pair");
    let copy = bench.time_copy(bytes, prepared.sets)?;
    let (pair, samples) = bench.time(&prepared, &plan, Call::Pair, Before::Itself, options.repeats)?;
    let (plain, _) = bench.time(&prepared, &plan, Call::Pair, Before::ItselfPlain, options.repeats)?;
    let (uncooperative, _) = bench.time(&prepared, &plan, Call::Pair, Before::Uncooperative, options.repeats)?;
    let (shrink, _) = bench.time(&prepared, &plan, Call::Shrink, Before::Itself, options.repeats)?;
    let (expand, _) = bench.time(&prepared, &plan, Call::Expand, Before::Itself, options.repeats)?;
    let target = 3.0 + bytes as f64 / 3.70e6;
    let target_uncooperative = 4.6 + bytes as f64 / 3.41e6;
    println!(
        "{:58} copy {:6.2} pair {:6.2} target {:6.2} {}  after-other {:6.2} target {:6.2} {}  plain {:6.2} shrink {:6.2} expand {:6.2}  {:?} {} blocks c{}{}",
        point.name(),
        copy.median,
        pair.median,
        target,
        if pair.median <= target { "ok  " } else { "OVER" },
        uncooperative.median,
        target_uncooperative,
        if uncooperative.median <= target_uncooperative { "ok  " } else { "OVER" },
        plain.median,
        shrink.median,
        expand.median,
        plan.variant().rows,
        plan.jobs().len(),
        plan.cluster(),
        if correct == Value::Bool(false) { " WRONG" } else { "" },
    );
    let sweep = if options.sweep { sweep(bench, &prepared)? } else { Vec::new() };
    Ok(json!({
        "group": point.group,
        "point": point.name(),
        "element": point.element.name(),
        "inputs": point.inputs,
        "outputs": point.outputs,
        "batch": point.batch,
        "segments": point.segments,
        "rows": point.rows(),
        "sets": prepared.sets,
        "activations": if prepared.activations_are_warm() { "warm" } else { "rotating" },
        "bytes": { "pair": bytes, "shrink": point.bytes("shrink"), "expand": point.bytes("expand") },
        "correct": correct,
        "deviation": deviation,
        "row_tile": plan.variant().rows.rows(),
        "blocks": plan.jobs().len(),
        "cluster": plan.cluster(),
        "plan_host_us": plan_host_us(bench, &prepared)?,
        "copy_us": figures(copy),
        "pair_us": figures(pair),
        "pair_samples_us": samples.iter().map(|us| (us * 1e3).round() / 1e3).collect::<Vec<f64>>(),
        "pair_without_overlap_us": figures(plain),
        "pair_after_uncooperative_us": figures(uncooperative),
        "shrink_us": figures(shrink),
        "expand_us": figures(expand),
        "target_us": target,
        "target_after_uncooperative_us": target_uncooperative,
        "sweep": sweep,
    }))
}

fn figures(summary: Summary) -> Value {
    let rounded = |us: f64| (us * 1e3).round() / 1e3;
    json!({ "median": rounded(summary.median), "p10": rounded(summary.p10), "p90": rounded(summary.p90) })
}

/// Every row tile with several spreads: what the plan's rules are chosen by.
fn sweep(bench: &mut Bench, prepared: &Prepared) -> Result<Vec<Value>, Error> {
    let mut found: Vec<(f64, RowTile, u32, usize)> = Vec::new();
    let mut all = Vec::new();
    let settings = RowTile::ALL
        .into_iter()
        .flat_map(|tile| [Exchange::Cluster, Exchange::Global].into_iter().map(move |exchange| (tile, exchange)));
    for (row_tile, exchange) in settings {
        let mut seen = Vec::new();
        for blocks in [1, 8, 16, 33, 66, 99, 132, 198, 264, 528] {
            let tuning = Tuning { row_tile: Some(row_tile), blocks: Some(blocks), exchange: Some(exchange) };
            let Ok(plan) = bench.plan(prepared, tuning) else { continue };
            if seen.contains(&plan.jobs().len()) || (exchange == Exchange::Cluster) != (plan.cluster() > 1) {
                continue;
            }
            seen.push(plan.jobs().len());
            let Ok((pair, _)) = bench.time(prepared, &plan, Call::Pair, Before::Itself, 10) else { continue };
            let Ok((after, _)) = bench.time(prepared, &plan, Call::Pair, Before::Uncooperative, 10) else { continue };
            let (rows, jobs) = (row_tile.rows(), plan.jobs().len());
            all.push(json!({
                "row_tile": rows, "asked": blocks, "blocks": jobs, "cluster": plan.cluster(),
                "pair_us": pair.median, "after_uncooperative_us": after.median,
            }));
            found.push((pair.median, row_tile, plan.cluster(), jobs));
        }
    }
    found.sort_by(|a, b| a.0.total_cmp(&b.0));
    let best: Vec<String> = found
        .iter()
        .take(5)
        .map(|(us, tile, cluster, jobs)| format!("{us:.2} ({} rows, {jobs} blocks, c{cluster})", tile.rows()))
        .collect();
    println!("    best: {}", best.join(", "));
    Ok(all)
}

/// Host time of making the plan.
fn plan_host_us(bench: &Bench, prepared: &Prepared) -> Result<f64, Error> {
    let mut samples = Vec::new();
    for _ in 0..20 {
        let start = Instant::now();
        let plan: Plan = bench.plan(prepared, Tuning::default())?;
        samples.push(start.elapsed().as_secs_f64() * 1e6);
        drop(plan);
    }
    Ok(Summary::of(&samples).expect("twenty samples").median)
}
