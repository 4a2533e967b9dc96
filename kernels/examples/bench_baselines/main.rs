//! Measures other systems' ways of serving adapters beside ours: the same points, method and checks as `bench_lora`.
//!
//! `cargo run --release -p aril-kernels --example bench_baselines -- --out results.json`
//!
//! Options: `--points table|others|padding|all`, `--only TEXT|…` (in the point's name; an error where a text is in none), `--source-hash`
//! (of the kernels that this binary holds, without a GPU), `--sources FOLDER` (kernels from there),
//! `--repeats N`, `--no-check`, `--check-only` (for compute-sanitizer), `--own` (nothing through cuBLAS, whose
//! kernels racecheck misjudges), `--no-merge`, `--budget SECONDS` (begin no point
//! after that; the report says which points are missing).

#[path = "../bench_lora/bench.rs"]
#[expect(dead_code, reason = "what bench_lora alone uses")]
mod bench;
#[path = "../bench_lora/inputs.rs"]
mod inputs;
mod merging;
#[path = "../bench_lora/only.rs"]
mod only;
mod padding;
#[path = "../bench_lora/points.rs"]
#[expect(dead_code, reason = "the points of Punica's figures are bench_lora's")]
mod points;
#[path = "../bench_lora/provenance.rs"]
mod provenance;
mod ways;

use std::path::PathBuf;
use std::time::Instant;

use aril_kernels::baseline::launch::BaselineKernels;
use aril_kernels::baseline::merged::MergeKernel;
use aril_kernels::cache::Cache;
use aril_kernels::cublas::Cublas;
use aril_kernels::gpu::{Gpu, Overlap};
use aril_kernels::lora::launch::LoraKernels;
use aril_kernels::lora::plan::Tuning;
use aril_kernels::program::Compiler;
use aril_kernels::source::Sources;
use aril_kernels::timing::{Stopwatch, Summary};
use aril_kernels::{Element, Error};
use serde_json::{Map, Value, json};

use bench::{Before, Bench, Call};
use inputs::Inputs;
use points::Point;
use ways::{Part, Setup, Tools, Way, check};

struct Options {
    out: PathBuf,
    points: String,
    only: String,
    check: bool,
    time: bool,
    merge: bool,
    own: bool,
    source_hash: bool,
    sources: Option<PathBuf>,
    repeats: usize,
    budget_s: f64,
}

fn options() -> Result<Options, String> {
    let mut options = Options {
        out: "bench_baselines.json".into(),
        points: "all".to_owned(),
        only: String::new(),
        check: true,
        time: true,
        merge: true,
        own: false,
        source_hash: false,
        sources: None,
        repeats: 50,
        budget_s: f64::INFINITY,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
        let number = |text: String| text.parse().map_err(|_| format!("{argument} needs a number"));
        match argument.as_str() {
            "--out" => options.out = value()?.into(),
            "--points" => options.points = value()?,
            "--only" => options.only = value()?,
            "--sources" => options.sources = Some(value()?.into()),
            "--repeats" => options.repeats = number(value()?)? as usize,
            "--budget" => options.budget_s = number(value()?)?,
            "--no-check" => options.check = false,
            "--check-only" => options.time = false,
            "--source-hash" => options.source_hash = true,
            "--own" => options.own = true,
            "--no-merge" => options.merge = false,
            other => return Err(format!("unknown option {other}; see the head of examples/bench_baselines/main.rs")),
        }
    }
    Ok(options)
}

/// Everything on the GPU, for both number formats and both architectures.
struct Machine {
    ours: Bench,
    cublas: Cublas,
    kernels: Vec<BaselineKernels>,
    older: Vec<BaselineKernels>,
    merges: Vec<MergeKernel>,
}

impl Machine {
    fn open(options: &Options, sources: &Sources) -> Result<Machine, Error> {
        let gpu = Gpu::open(0)?;
        let stream = gpu.stream()?;
        let cache = Cache::of_user();
        let kernels = LoraKernels::new(&gpu, sources.clone(), cache.clone());
        let ampere = LoraKernels::new(&gpu, sources.clone(), cache.clone()).with_architecture("compute_80");
        let stopwatch = Stopwatch::new(&gpu, &stream, sources, cache.as_ref())?;
        let inbox = kernels.inbox(&stream, 1 << 18)?;
        let cublas = Cublas::new(&gpu, &stream)?;
        let compiler = Compiler::new(&gpu, sources.clone(), cache);
        let compiled = |compiler: &Compiler| {
            Element::ALL
                .into_iter()
                .map(|element| BaselineKernels::new(compiler, element))
                .collect::<Result<Vec<_>, _>>()
        };
        let here = compiled(&compiler)?;
        let merges = Element::ALL
            .into_iter()
            .map(|element| MergeKernel::new(&compiler, element))
            .collect::<Result<Vec<_>, _>>()?;
        let older = compiled(&compiler.with_architecture("compute_80"))?;
        let ours = Bench { gpu, stream, kernels, ampere, stopwatch, inbox, library: None, repeats: options.repeats };
        Ok(Machine { ours, cublas, kernels: here, older, merges })
    }

    /// What a way runs with, and the kernels for an older architecture.
    fn tools(&mut self, element: Element) -> (Tools<'_>, &BaselineKernels) {
        let at = self.kernels.iter().position(|kernels| kernels.element() == element).expect("both were compiled");
        let Bench { gpu, stream, stopwatch, .. } = &self.ours;
        let tools = Tools { gpu, stream, stopwatch, kernels: &self.kernels[at], cublas: &mut self.cublas };
        (tools, &self.older[at])
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = options()?;
    let begin = Instant::now();
    let sources = options.sources.as_deref().map_or_else(Sources::built_in, Sources::in_folder);
    if options.source_hash {
        println!("{}", provenance::source_hashes(None)?);
        return Ok(());
    }
    let chosen = chosen(&options)?;
    let mut machine = Machine::open(&options, &sources)?;
    let clocks_before = provenance::clocks();
    let copy = machine.ours.time_copy(2 << 30, 4)?;
    println!("copy of 2 GiB (read + written): {:.0} GB/s", (2_u64 << 30) as f64 / copy.median / 1e3);

    let merged = if options.merge { merging::measure(&mut machine, &options)? } else { Value::Null };
    let wrong_merges =
        merged["checks"].as_array().into_iter().flatten().filter(|check| check["correct"] != json!(true));
    let (mut results, mut wrong, mut left_out) = (Vec::new(), wrong_merges.count(), Vec::new());
    for (point, padded_to) in &chosen {
        if begin.elapsed().as_secs_f64() > options.budget_s {
            left_out.push(point.name());
            continue;
        }
        match run(&mut machine, point, *padded_to, &options) {
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
        "what": "other ways of serving adapters, microseconds a call: CUDA graph of `sets` calls on different weights, cold L2",
        "gpu": machine.ours.gpu.name(),
        "driver_cuda": machine.ours.gpu.driver_version(),
        "nvrtc": format!("{:?}", aril_kernels::compile::nvrtc_version()?),
        "cublas": machine.cublas.version()?,
        "clocks_before": clocks_before,
        "clocks_after": provenance::clocks(),
        "source_sha256": sources.hash()?,
        "date": provenance::date(),
        "repeats": options.repeats,
        "copy_2gib_bytes_per_us": (2_u64 << 30) as f64 / copy.median,
        "merged": merged,
        "left_out": left_out,
        "results": results,
    });
    std::fs::write(&options.out, serde_json::to_string(&report)?.replace("{\"activations\"", "\n{\"activations\""))?;
    println!(
        "{} points, {wrong} wrong, {} left out; {:.0} s; written to {}",
        chosen.len(),
        left_out.len(),
        begin.elapsed().as_secs_f64(),
        options.out.display()
    );
    if wrong > 0 { Err("some points are wrong".into()) } else { Ok(()) }
}

/// The points that were asked for, at least one, and what each is padded to.
fn chosen(options: &Options) -> Result<Vec<(Point, Option<u32>)>, String> {
    let with = |points: Vec<Point>| points.into_iter().map(|point| (point, None)).collect::<Vec<_>>();
    let all = match options.points.as_str() {
        "table" => with(points::table()),
        "others" => with(points::others()),
        "padding" => padding::points(),
        "all" => [with(points::table()), with(points::others()), padding::points()].concat(),
        other => return Err(format!("no points {other}; see the head of examples/bench_baselines/main.rs")),
    };
    only::only(all, &options.only, |(point, _)| point.name())
}

fn run(machine: &mut Machine, point: &Point, padded_to: Option<u32>, options: &Options) -> Result<Value, Error> {
    let ways: &[Way] = match padded_to {
        Some(_) => &[Way::Padded],
        None if options.own => &[Way::Bgmv, Way::Padded],
        None => &Way::ALL,
    };
    let mut correct = Value::Null;
    let mut deviations = Map::new();
    if options.check {
        let seed = std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_nanos() as u64);
        let inputs = Inputs::draw_apart(point, seed);
        let expected = inputs.expected(point, 0.75);
        let mut passes = true;
        for &way in ways {
            let (mut tools, older) = machine.tools(point.element);
            let found = check(&mut tools, older, way, point, padded_to, &inputs, &expected)?;
            if !found.iter().all(|checked| checked.passes(point.element)) {
                passes = false;
                println!("WRONG {} {}, and for sm_80: {found:?}", point.name(), way.name());
            }
            let found = found.map(|checked| checked.deviation.relative_norm.max(checked.in_graph.relative_norm));
            deviations
                .insert(way.name().to_owned(), json!({ "relative_norm": found[0], "relative_norm_sm_80": found[1] }));
        }
        correct = Value::Bool(passes);
    }
    if !options.time {
        println!("{}: {}", point.name(), if correct == Value::Bool(true) { "right" } else { "wrong" });
        return Ok(json!({ "point": point.name(), "correct": correct, "deviation": deviations }));
    }
    let prepared = machine.ours.prepare(point)?;
    let (sets, warm) = (prepared.sets, prepared.activations_are_warm());
    let plan = machine.ours.plan(&prepared, Tuning::default())?;
    let (ours, ours_samples) = machine.ours.time(&prepared, &plan, Call::Pair, Before::Itself, options.repeats)?;
    let (ours_plain, _) = machine.ours.time(&prepared, &plan, Call::Pair, Before::ItselfPlain, options.repeats)?;
    drop(prepared);
    let copy = machine.ours.time_copy(point.bytes("pair"), sets)?;
    let mut line = format!("{:58} copy {:6.2} ours {:6.2}", point.name(), copy.median, ours.median);
    let mut measured = Map::new();
    for &way in ways {
        let (mut tools, _) = machine.tools(point.element);
        match time(&mut tools, way, point, padded_to, options.repeats) {
            Ok((us, result)) => {
                line += &format!("  {} {us:7.2}", way.name());
                measured.insert(way.name().to_owned(), result);
            }
            Err(error) => {
                line += &format!("  {}: {error}", way.name());
                measured.insert(way.name().to_owned(), json!({ "error": error.to_string() }));
            }
        }
    }
    println!("{line}{}", if correct == Value::Bool(false) { " WRONG" } else { "" });
    Ok(json!({
        "group": point.group,
        "point": point.name(),
        "element": point.element.name(),
        "inputs": point.inputs,
        "outputs": point.outputs,
        "batch": point.batch,
        "segments": point.segments,
        "rows": point.rows(),
        "padded_to": ways::padded_stride(point, padded_to),
        "sets": sets,
        "activations": if warm { "warm" } else { "rotating" },
        "bytes": point.bytes("pair"),
        "correct": correct,
        "deviation": deviations,
        "copy_us": figures(copy),
        "ours_us": figures(ours),
        "ours_samples_us": rounded(&ours_samples),
        "ours_without_overlap_us": figures(ours_plain),
        "ways": measured,
    }))
}

/// Times a way: the pair, back to back and overlapping, and its parts. Returns the pair's median too.
fn time(
    tools: &mut Tools<'_>,
    way: Way,
    point: &Point,
    padded_to: Option<u32>,
    repeats: usize,
) -> Result<(f64, Value), Error> {
    let setup = Setup::new(tools, way, point, padded_to)?;
    let summary = |samples: &[f64]| Summary::of(samples).expect("at least one replay");
    let samples = setup.time(tools, Part::Pair, Overlap::None, repeats)?;
    let pair = summary(&samples);
    let mut result = json!({
        "pair_us": figures(pair),
        "pair_samples_us": rounded(&samples),
        "sets": setup.sets(),
        "blocks": setup.blocks(),
    });
    if way.splits() {
        for (name, part) in [("shrink_us", Part::Shrink), ("expand_us", Part::Expand)] {
            result[name] = figures(summary(&setup.time(tools, part, Overlap::None, repeats)?));
        }
        if way != Way::Looped {
            let overlapping = setup.time(tools, Part::Pair, Overlap::Programmatic, repeats)?;
            result["pair_overlapping_us"] = figures(summary(&overlapping));
        }
    }
    Ok((pair.median, result))
}

fn rounded(samples: &[f64]) -> Vec<f64> {
    samples.iter().map(|us| (us * 1e3).round() / 1e3).collect()
}

fn figures(summary: Summary) -> Value {
    let rounded = |us: f64| (us * 1e3).round() / 1e3;
    json!({ "median": rounded(summary.median), "p10": rounded(summary.p10), "p90": rounded(summary.p90) })
}
