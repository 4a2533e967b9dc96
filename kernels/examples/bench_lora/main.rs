//! Measures the LoRA kernels on a GPU: every point checked against float64 (all but Punica's figures with rows between that
//! have no adapter, too), then timed with a cold L2.
//!
//! `cargo run --release -p aril-kernels --example bench_lora -- --out results.json`
//!
//! Options: `--points table|others|figures|all|neighbours|prompts|beside`, `--only TEXT|…` (in the point's name; an error where a text is in none), `--explore` (every row tile
//! with several spreads, to choose the plan's rules by; only the row tile of `--tuning` if there is one), `--after` (with `--explore`: after other kernels too), `--swift` (with `--explore`: the plan's own shared memory and release, nothing checked), `--budget SECONDS` (points that come later are left out), `--compare FOLDER,…` (with `--explore`: the kernels of each),
//! `--tuning TILE,EXCHANGE,BLOCKS,SHARED,RELEASE` (instead of the plan's choices), `--sources FOLDER` (kernels from there), `--repeats N`, `--no-check`,
//! `--stress N` (N launches in changing surroundings, each compared to the bit), `--profile` (one launch a point, for ncu), `--pair-only` (not among other kernels),
//! `--source-hash` (of the kernels that this binary holds, without a GPU), `--check-only` (for compute-sanitizer), `--ends` (v at both ends of its range, and beyond, instead of points), `--compile-only` (fills the cache, without a GPU).

mod bench;
mod ends;
mod explore;
mod inputs;
mod only;
mod plan_time;
mod points;
mod provenance;
mod stress;

use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use aril_kernels::Error;
use aril_kernels::cache::Cache;
use aril_kernels::compile::Unit;
use aril_kernels::gemm::cublaslt::CublasLt;
use aril_kernels::gpu::Gpu;
use aril_kernels::lora::launch::LoraKernels;
use aril_kernels::lora::plan::{Exchange, Follows, Job, Release, Tuning};
use aril_kernels::lora::variant::{RowTile, SOURCES, Variant};
use aril_kernels::program::Compiler;
use aril_kernels::source::Sources;
use aril_kernels::timing::{Stopwatch, Summary};
use serde_json::{Value, json};

use bench::{Before, Bench, Call};
use explore::{explore, explore_swiftly};
use points::Point;
use stress::stress;

struct Options {
    out: PathBuf,
    points: String,
    only: String,
    explore: bool,
    swift: bool,
    budget_s: f64,
    after: bool,
    compare: Vec<PathBuf>,
    compile_only: bool,
    source_hash: bool,
    tuning: Tuning,
    check: bool,
    time: bool,
    sources: Option<PathBuf>,
    repeats: usize,
    stress: Option<usize>,
    profile: bool,
    pair_only: bool,
    ends: bool,
}

fn options() -> Result<Options, String> {
    let mut options = Options {
        out: "bench_lora.json".into(),
        points: "all".to_owned(),
        only: String::new(),
        explore: false,
        swift: false,
        budget_s: f64::INFINITY,
        after: false,
        compare: Vec::new(),
        compile_only: false,
        source_hash: false,
        tuning: Tuning::default(),
        check: true,
        time: true,
        sources: None,
        repeats: 50,
        stress: None,
        profile: false,
        pair_only: false,
        ends: false,
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
            "--stress" => options.stress = Some(value()?.parse().map_err(|_| "--stress needs a number".to_owned())?),
            "--profile" => options.profile = true,
            "--ends" => options.ends = true,
            "--pair-only" => options.pair_only = true,
            "--explore" => options.explore = true,
            "--swift" => options.swift = true,
            "--budget" => options.budget_s = value()?.parse().map_err(|_| "--budget needs seconds".to_owned())?,
            "--after" => options.after = true,
            "--compare" => options.compare = value()?.split(',').map(PathBuf::from).collect(),
            "--compile-only" => options.compile_only = true,
            "--source-hash" => options.source_hash = true,
            "--tuning" => options.tuning = tuning(&value()?)?,
            "--no-check" => options.check = false,
            "--check-only" => options.time = false,
            other => return Err(format!("unknown option {other}; see the head of examples/bench_lora/main.rs")),
        }
    }
    Ok(options)
}

/// `staged32,cluster,128[,SHARED BYTES[,RELEASE]]` → a plan's choices; an empty part leaves the choice to the plan.
fn tuning(text: &str) -> Result<Tuning, String> {
    let mut tuning = Tuning::default();
    for (index, part) in text.split(',').enumerate().filter(|(_, part)| !part.is_empty()) {
        let number = || part.parse::<u32>().map_err(|_| format!("{part} in --tuning {text} is not a number"));
        match index {
            0 => {
                let named = |tile: &RowTile| format!("{tile:?}").eq_ignore_ascii_case(part);
                tuning.row_tile = Some(RowTile::ALL.into_iter().find(named).ok_or(format!("no row tile {part}"))?);
            }
            1 => {
                tuning.exchange = Some(match part {
                    "cluster" => Exchange::Cluster,
                    "global" => Exchange::Global,
                    _ => return Err(format!("{part} in --tuning is neither cluster nor global")),
                });
            }
            2 => tuning.blocks = Some(number()?),
            3 => tuning.shared_bytes = Some(number()?),
            _ => {
                let named = |release: &Release| format!("{release:?}").eq_ignore_ascii_case(part);
                tuning.release = Some(Release::ALL.into_iter().find(named).ok_or(format!("no release {part}"))?);
            }
        }
    }
    Ok(tuning)
}

/// Fills the cache with everything that a Hopper GPU may ask for, on a machine that needs none.
fn compile_all(options: &Options, sources: &Sources) -> Result<(), Box<dyn std::error::Error>> {
    let cache = Cache::of_user();
    let memory = Unit { source: "memory.cu", architecture: "sm_90a".to_owned(), defines: Vec::new() };
    memory.compile(sources, cache.as_ref())?;
    let stress = Unit { source: "stress.cu", ..memory };
    stress.compile(&Sources::built_in(), cache.as_ref())?;
    // A comparison of versions checks nothing on the path for older GPUs.
    let architectures: &[&str] = if options.compare.is_empty() { &["sm_90a", "compute_80"] } else { &["sm_90a"] };
    for architecture in architectures {
        for variant in Variant::all() {
            variant.unit(architecture).compile(sources, cache.as_ref())?;
        }
    }
    for folder in &options.compare {
        for variant in Variant::all() {
            variant.unit("sm_90a").compile(&Sources::in_folder(folder), cache.as_ref())?;
        }
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = options()?;
    let sources = options.sources.as_deref().map_or_else(Sources::built_in, Sources::in_folder);
    if options.compile_only {
        return compile_all(&options, &sources);
    }
    if options.source_hash {
        println!("{}", provenance::source_hashes(Some(&SOURCES))?);
        return Ok(());
    }
    let chosen = chosen(&options)?;
    let gpu = Gpu::open(0)?;
    let stream = gpu.stream()?;
    let cache = Cache::of_user();
    let kernels = LoraKernels::new(&gpu, sources.clone(), cache.clone());
    let ampere = LoraKernels::new(&gpu, sources.clone(), cache.clone()).with_architecture("compute_80");
    let stopwatch = Stopwatch::new(&gpu, &stream, &sources, cache.as_ref())?;
    let inbox = kernels.inbox(&stream, 1 << 18)?;
    let library = CublasLt::open(&gpu, &stream).map_err(|error| println!("no GEMM before a call: {error}")).ok();
    let mut bench = Bench { gpu, stream, kernels, ampere, stopwatch, inbox, library, repeats: options.repeats };

    let clocks_before = provenance::clocks();
    if options.ends {
        let (launches, wrong) = ends::ends(&mut bench)?;
        wrong.iter().for_each(|line| println!("WRONG {line}"));
        println!("v at both ends of its range: {launches} launches, {} wrong", wrong.len());
        return if wrong.is_empty() { Ok(()) } else { Err("some launches are wrong".into()) };
    }
    if options.profile {
        return profile(&mut bench, &chosen, &options, &sources);
    }
    let copy = bench.time_copy(2 << 30, 4)?;
    println!("copy of 2 GiB (read + written): {:.0} GB/s", (2_u64 << 30) as f64 / copy.median / 1e3);
    let mut results = Vec::new();
    let (mut checked, mut wrong) = (0, 0);
    let must_be_checked = options.check && !options.explore;
    let began = Instant::now();
    for point in &chosen {
        if began.elapsed().as_secs_f64() > options.budget_s {
            println!("out of time: {} of {} points", results.len(), chosen.len());
            break;
        }
        let result = run(&mut bench, point, &options);
        match result {
            Ok(result) => {
                checked += usize::from(result["correct"].is_boolean());
                wrong += usize::from(is_wrong(&result, must_be_checked));
                if options.swift {
                    // What a run that is cut off has found stays.
                    let mut lines = std::fs::OpenOptions::new()
                        .create(true)
                        .append(true)
                        .open(options.out.with_extension("lines"))?;
                    writeln!(lines, "{result}")?;
                }
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
        "source_sha256": sources.hash_of(SOURCES)?,
        "sources": SOURCES,
        "date": provenance::date(),
        "repeats": options.repeats,
        "copy_2gib_bytes_per_us": (2_u64 << 30) as f64 / copy.median,
        "results": results,
    });
    std::fs::write(&options.out, serde_json::to_string(&report)?.replace("{\"activations\"", "\n{\"activations\""))?;
    println!("{} points, {checked} checked, {wrong} wrong; written to {}", chosen.len(), options.out.display());
    if wrong > 0 { Err("some points are wrong".into()) } else { Ok(()) }
}

/// The points that were asked for: at least one.
fn chosen(options: &Options) -> Result<Vec<Point>, String> {
    let all = match options.points.as_str() {
        "table" => points::table(),
        "others" => points::others(),
        "figures" => points::figures(),
        "neighbours" => points::neighbours(),
        "prompts" => points::prompts(),
        "beside" => points::beside(),
        "all" => [points::table(), points::others(), points::figures()].concat(),
        other => return Err(format!("no points {other}; see the head of examples/bench_lora/main.rs")),
    };
    only::only(all, &options.only, Point::name)
}

/// Whether a result is no success: what should have been checked and was not is as bad as what is wrong.
fn is_wrong(result: &Value, must_be_checked: bool) -> bool {
    match result["correct"] {
        Value::Bool(correct) => !correct,
        _ => must_be_checked,
    }
}

/// One launch a point; the report says which, in order, so that a profiler's rows find their points.
fn profile(
    bench: &mut Bench,
    points: &[Point],
    options: &Options,
    sources: &Sources,
) -> Result<(), Box<dyn std::error::Error>> {
    let mut launches = Vec::new();
    for point in points {
        let prepared = bench.prepare(point)?;
        let plan = bench.plan(&prepared, options.tuning)?;
        bench.launch_once(&prepared, &plan)?;
        launches.push(json!({
            "point": point.name(),
            "row_tile": format!("{:?}", plan.variant().rows),
            "blocks": plan.jobs().len(),
            "cluster": plan.cluster(),
            "shared_bytes": plan.shared_bytes(),
        }));
    }
    let report = json!({
        "what": "one launch of the pair a point, cold L2, in the order in which the profiler saw them",
        "gpu": bench.gpu.name(),
        "driver_cuda": bench.gpu.driver_version(),
        "source_sha256": sources.hash_of(SOURCES)?,
        "date": provenance::date(),
        "launches": launches,
    });
    std::fs::write(&options.out, serde_json::to_string(&report)?.replace("{\"blocks\"", "\n{\"blocks\""))?;
    Ok(())
}

fn run(bench: &mut Bench, point: &Point, options: &Options) -> Result<Value, Error> {
    if let Some(repeats) = options.stress {
        let compiler = Compiler::new(&bench.gpu, Sources::built_in(), Cache::of_user());
        return stress(bench, &compiler, point, options.tuning, repeats);
    }
    if options.swift && options.explore {
        return explore_swiftly(bench, point);
    }
    if options.explore {
        return explore(bench, point, &options.compare, options.after, options.tuning.row_tile);
    }
    let mut correct = Value::Null;
    let mut deviation = Value::Null;
    if options.check {
        let seed = std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_nanos() as u64);
        let checked = bench.check(point, options.tuning, seed, false)?;
        let without_clusters = Tuning { exchange: options.tuning.exchange.map(|_| Exchange::Global), ..options.tuning };
        let ampere = bench.check(point, without_clusters, seed + 1, true)?;
        let after =
            bench.check(point, Tuning { follows: Follows::Another, short: true, ..options.tuning }, seed + 2, false)?;
        let mut all = vec![("", checked), ("sm_80: ", ampere), ("after another kernel: ", after)];
        // Punica's figures are many points of one kind, which the others hold too.
        if point.group != "figure" {
            all.push(("with gaps: ", bench.check(&point.with_gaps(), options.tuning, seed + 3, false)?));
        }
        let wrong = all.iter().filter(|(_, checked)| !checked.passes(point.element));
        wrong.clone().for_each(|(how, checked)| println!("WRONG {}: {how}{checked:?}", point.name()));
        let passes = wrong.count() == 0;
        correct = Value::Bool(passes);
        deviation = json!({
            "relative_norm": checked.pair.relative_norm.max(checked.separate.relative_norm),
            "element_max": checked.pair.element_max.max(checked.separate.element_max),
            "relative_norm_sm_80": ampere.pair.relative_norm,
        });
    }
    if !options.time {
        let name = point.name();
        let says = match correct {
            Value::Bool(true) => "right",
            Value::Bool(false) => "wrong",
            _ => "not checked",
        };
        println!("{name}: {says}");
        return Ok(json!({ "point": name, "correct": correct, "deviation": deviation }));
    }
    let prepared = bench.prepare(point)?;
    let plan = bench.plan(&prepared, options.tuning)?;
    let bytes = point.bytes("pair");
    let copy = bench.time_copy(bytes, prepared.sets)?;
    let (pair, samples) = bench.time(&prepared, &plan, Call::Pair, Before::Itself, options.repeats)?;
    // A point of Punica's figures is a kernel alone; the others also show what surrounds a call.
    let in_a_step = point.group != "figure" && !options.pair_only;
    let plan_after = bench.plan(&prepared, Tuning { follows: Follows::Another, ..options.tuning })?;
    let mut median = |plan, before| -> Result<Option<Summary>, Error> {
        Ok(if in_a_step { Some(bench.time(&prepared, plan, Call::Pair, before, options.repeats)?.0) } else { None })
    };
    let plain = median(&plan, Before::ItselfPlain)?;
    let uncooperative = median(&plan_after, Before::Uncooperative)?;
    let gemm = if bench.library.is_some() && in_a_step {
        Some(bench.time(&prepared, &plan_after, Call::Pair, Before::Gemm, options.repeats)?.0)
    } else {
        None
    };
    let mut copy_of = |kernel| -> Result<Option<Summary>, Error> {
        Ok(if in_a_step { Some(bench.time_copy(point.bytes(kernel), prepared.sets)?) } else { None })
    };
    let (copy_shrink, copy_expand) = (copy_of("shrink")?, copy_of("expand")?);
    let us = |summary: Option<Summary>| summary.map_or(f64::NAN, |summary| summary.median);
    let (shrink, _) = bench.time(&prepared, &plan, Call::Shrink, Before::Itself, options.repeats)?;
    let (expand, _) = bench.time(&prepared, &plan, Call::Expand, Before::Itself, options.repeats)?;
    let target = 3.0 + bytes as f64 / 3.70e6;
    let target_uncooperative = 4.6 + bytes as f64 / 3.41e6;
    println!(
        "{:58} copy {:6.2} pair {:6.2} target {:6.2} {}  after-other {:6.2} after-gemm {:6.2} target {:6.2} {}  plain {:6.2} shrink {:6.2} expand {:6.2}  {:?} {} blocks c{}{}",
        point.name(),
        copy.median,
        pair.median,
        target,
        if pair.median <= target { "ok  " } else { "OVER" },
        us(uncooperative),
        us(gemm),
        target_uncooperative,
        if us(uncooperative) <= target_uncooperative { "ok  " } else { "OVER" },
        us(plain),
        shrink.median,
        expand.median,
        plan.variant().rows,
        plan.jobs().len(),
        plan.cluster(),
        if correct == Value::Bool(false) { " WRONG" } else { "" },
    );
    Ok(json!({
        "group": point.group,
        "point": point.name(),
        "element": point.element.name(),
        "inputs": point.inputs,
        "outputs": point.outputs,
        "also": point.also,
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
        "after": {
            "row_tile": format!("{:?}", plan_after.variant().rows), "short": plan_after.variant().short,
            "blocks": plan_after.jobs().len(), "cluster": plan_after.cluster(),
            "release": format!("{:?}", plan_after.release()),
        },
        "plan_host_us": bench.plan_host_us(&prepared)?,
        "plan_bytes": plan.jobs().len() * Job::BYTES,
        "plan_device_us": figures(bench.plan_device_us(&plan, options.repeats)?),
        "plan_replaced_us": figures(bench.plan_replaced_us(&plan, options.repeats)?),
        "copy_us": figures(copy),
        "copy_shrink_us": copy_shrink.map(figures),
        "copy_expand_us": copy_expand.map(figures),
        "pair_us": figures(pair),
        "pair_samples_us": samples.iter().map(|us| (us * 1e3).round() / 1e3).collect::<Vec<f64>>(),
        "pair_without_overlap_us": plain.map(figures),
        "pair_after_uncooperative_us": uncooperative.map(figures),
        "pair_after_gemm_us": gemm.map(figures),
        "shrink_us": figures(shrink),
        "expand_us": figures(expand),
        "target_us": target,
        "target_after_uncooperative_us": target_uncooperative,
    }))
}

fn figures(summary: Summary) -> Value {
    let rounded = |us: f64| (us * 1e3).round() / 1e3;
    json!({ "median": rounded(summary.median), "p10": rounded(summary.p10), "p90": rounded(summary.p90) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_checked_is_no_success_where_a_check_was_asked_for() {
        let with = |correct: Value| json!({ "correct": correct });
        assert!(!is_wrong(&with(json!(true)), true));
        assert!(is_wrong(&with(json!(false)), false));
        assert!(is_wrong(&with(Value::Null), true));
        assert!(!is_wrong(&with(Value::Null), false));
    }
}
