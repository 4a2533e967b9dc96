//! Measures the attention kernels on a GPU: checked against float64, then timed with a cold L2.
//!
//! `cargo run --release -p aril-kernels --example bench_attention -- --out results.json`
//!
//! Options: `--only TEXT|…` (in the point's name; an error where a text is in none), `--sources FOLDER` (kernels from there),
//! `--source-hash` (of the kernels that this binary holds, without a GPU), `--repeats N`, `--no-check`,
//! `--check-only` (for compute-sanitizer), `--sweep` (other workers, rings and tiles beside the plan's own choice),
//! `--budget SECONDS` (begin no point after that; the report says which are missing).

mod bench;
#[path = "../bench_lora/only.rs"]
mod only;
mod points;
#[path = "../bench_lora/provenance.rs"]
mod provenance;

use std::path::PathBuf;
use std::time::Instant;

use aril_kernels::attention::decode::{DecodeAttention, DecodeCapacity};
use aril_kernels::attention::plan::{DecodeTuning, PrefillForm, PrefillTuning};
use aril_kernels::cache::Cache;
use aril_kernels::gemm::GemmShape;
use aril_kernels::gemm::cublaslt::{CublasLt, Trial};
use aril_kernels::gpu::{Gpu, Overlap};
use aril_kernels::program::Compiler;
use aril_kernels::source::Sources;
use aril_kernels::timing::Stopwatch;
use aril_kernels::{Element, Error};
use cudarc::driver::DevicePtr;
use serde_json::{Map, Value, json};

use bench::{Bench, Checked, Loaded, Prepared, Tuning, median};
use points::Point;

struct Options {
    out: PathBuf,
    only: String,
    check: bool,
    time: bool,
    sweep: bool,
    source_hash: bool,
    sources: Option<PathBuf>,
    repeats: usize,
    budget_s: f64,
}

fn options() -> Result<Options, String> {
    let mut options = Options {
        out: "bench_attention.json".into(),
        only: String::new(),
        check: true,
        time: true,
        sweep: false,
        source_hash: false,
        sources: None,
        repeats: 50,
        budget_s: f64::INFINITY,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--out" => options.out = value()?.into(),
            "--only" => options.only = value()?,
            "--sources" => options.sources = Some(value()?.into()),
            "--repeats" => options.repeats = value()?.parse().map_err(|_| "--repeats needs a number".to_owned())?,
            "--budget" => options.budget_s = value()?.parse().map_err(|_| "--budget needs seconds".to_owned())?,
            "--source-hash" => options.source_hash = true,
            "--sweep" => options.sweep = true,
            "--no-check" => options.check = false,
            "--check-only" => options.time = false,
            other => return Err(format!("unknown option {other}; see the head of examples/bench_attention/main.rs")),
        }
    }
    Ok(options)
}

/// What the measured kernels are made of.
const SOURCES: [&str; 6] = [
    "primitives.cuh",
    "memory.cu",
    "decode_attention.cu",
    "decode_parts.cuh",
    "prefill_attention.cu",
    "prefill_parts.cuh",
];

/// What everything is judged by.
struct Ceilings {
    copy_bytes_per_us: f64,
    gemm_flops_per_us: Option<f64>,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let begin = Instant::now();
    let options = options()?;
    let sources = options.sources.as_deref().map_or_else(Sources::built_in, Sources::in_folder);
    if options.source_hash {
        println!("{}", provenance::source_hashes(Some(&SOURCES))?);
        return Ok(());
    }
    // A text may be in the names of small batches alone, or of timed ones.
    let of_small = points::checks().into_iter().filter(|_| options.check).map(|point| (point, false));
    let of_timed = points::all().into_iter().filter(|_| options.time).map(|point| (point, true));
    let chosen = only::only(of_small.chain(of_timed).collect(), &options.only, |(point, _)| point.name())?;
    let gpu = Gpu::open(0)?;
    let stream = gpu.stream()?;
    let cache = Cache::of_user();
    let compiler = Compiler::new(&gpu, sources.clone(), cache.clone());
    let ampere = compiler.clone().with_architecture("compute_80");
    let stopwatch = Stopwatch::new(&gpu, &stream, &sources, cache.as_ref())?;
    let bench = Bench { gpu, stream, compiler, ampere, stopwatch };
    let clocks_before = provenance::clocks();
    let mut wrong = 0;
    let (mut checked, mut results, mut missing) = (Vec::new(), Vec::new(), Vec::new());

    if options.check {
        for (point, _) in chosen.iter().filter(|(_, timed)| !timed) {
            let (passes, entry) = check(&bench, point, usize::MAX);
            wrong += usize::from(!passes);
            checked.push(entry);
        }
        if options.only.is_empty() {
            let replaced = replacement_is_exact(&bench);
            println!("replaced plan under a captured graph: {replaced:?}");
            wrong += usize::from(!matches!(replaced, Ok(true)));
        }
        println!("{} checks, {wrong} wrong, {:.0} s", checked.len(), begin.elapsed().as_secs_f64());
    }
    let mut ceilings = Ceilings { copy_bytes_per_us: f64::NAN, gemm_flops_per_us: None };
    if options.time {
        let copies = bench.stopwatch.copies_us(&bench.gpu, 2 << 30, 4, options.repeats)?;
        ceilings.copy_bytes_per_us = (2_u64 << 30) as f64 / median(&copies);
        match best_gemm_us(&bench, options.repeats) {
            Ok(us) => ceilings.gemm_flops_per_us = Some(2.0 * 8192_f64.powi(3) / us),
            Err(error) => println!("GEMM of 8192³: {error}"),
        }
        println!(
            "copy of 2 GiB {:.0} GB/s, GEMM of 8192³ {:.0} TFLOP/s, {:.0} s",
            ceilings.copy_bytes_per_us / 1e3,
            ceilings.gemm_flops_per_us.unwrap_or(f64::NAN) / 1e6,
            begin.elapsed().as_secs_f64()
        );
        for (point, _) in chosen.iter().filter(|(_, timed)| *timed) {
            if begin.elapsed().as_secs_f64() > options.budget_s {
                missing.push(point.name());
                continue;
            }
            let (passes, mut entry) = if options.check { check(&bench, point, 400) } else { (true, Map::new()) };
            wrong += usize::from(!passes);
            if let Err(error) = time(&bench, point, &options, &ceilings, &mut entry) {
                wrong += 1;
                println!("{}: {error}", point.name());
                entry.insert("error".to_owned(), Value::String(error.to_string()));
            }
            results.push(Value::Object(entry));
        }
    }
    // Again after everything else: the chip is warm now, and the better of both is what prefill is judged by.
    let gemm_after = if options.time { best_gemm_us(&bench, options.repeats).ok() } else { None };
    let report = json!({
        "what": "attention kernels, microseconds a call: CUDA graph of one call a layer, cold L2",
        "gpu": bench.gpu.name(),
        "driver_cuda": bench.gpu.driver_version(),
        "nvrtc": format!("{:?}", aril_kernels::compile::nvrtc_version()?),
        "clocks_before": clocks_before,
        "clocks_after": provenance::clocks(),
        "sources": SOURCES,
        "source_sha256": sources.hash_of(SOURCES.into_iter())?,
        "date": provenance::date(),
        "repeats": options.repeats,
        "copy_2gib_bytes_per_us": ceilings.copy_bytes_per_us,
        "gemm_8192_bf16_flops_per_us": ceilings.gemm_flops_per_us,
        "gemm_8192_bf16_flops_per_us_after": gemm_after.map(|us| 2.0 * 8192_f64.powi(3) / us),
        "checks": checked,
        "results": results,
        "missing": missing,
    });
    std::fs::write(&options.out, serde_json::to_string(&report)?.replace(",{\"", ",\n{\""))?;
    println!("{} points, {wrong} wrong, {} missing; written to {}", chosen.len(), missing.len(), options.out.display());
    if wrong > 0 { Err("some points are wrong".into()) } else { Ok(()) }
}

/// Microseconds of one product of two 8192² bf16 matrices by cuBLASLt, random contents: the best of three choices among
/// the library's algorithms, which differ in what a short trial finds the quickest.
fn best_gemm_us(bench: &Bench, repeats: usize) -> Result<f64, Error> {
    (0..3).try_fold(f64::INFINITY, |best, _| Ok(gemm_us(bench, repeats)?.min(best)))
}

fn gemm_us(bench: &Bench, repeats: usize) -> Result<f64, Error> {
    let Bench { gpu, stream, stopwatch, .. } = bench;
    let library = CublasLt::open(gpu, stream)?;
    let matrix = |seed| {
        let mut matrix = gpu.allocate::<u16>(stream, 8192 * 8192, "a large matrix")?;
        stopwatch.fill(&mut matrix, Element::Bf16, seed, 1.0)?;
        Ok::<_, Error>(matrix)
    };
    let (w, x, y) = (matrix(1)?, matrix(2)?, matrix(3)?);
    let address = |matrix: &cudarc::driver::CudaSlice<u16>| matrix.device_ptr(stream).0;
    let (w, x, y) = (address(&w), address(&x), address(&y));
    let shape = GemmShape::dense(Element::Bf16, 8192, 8192, 8192);
    // SAFETY: three live matrices of that shape, which nothing else uses.
    let plan = unsafe { library.plan(stream, shape, Some(Trial { weights: &[w], x, y }))? };
    let graph = stopwatch.capture(|| {
        // SAFETY: as above.
        (0..4).try_for_each(|_| unsafe { library.launch(stream, &plan, w, x, y, 0.0) })
    })?;
    Ok(median(&stopwatch.replays_us(&graph, repeats)?) / 4.0)
}

/// Small batches are checked in full, on both code paths and with every height of tiles; timed ones as they are timed, at
/// some (row, head) pairs.
fn check(bench: &Bench, point: &Point, pairs_max: usize) -> (bool, Map<String, Value>) {
    let seed = std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_nanos() as u64);
    let mut entry = Map::new();
    entry.insert("point".to_owned(), Value::String(point.name()));
    let mut passes = true;
    let small = pairs_max == usize::MAX;
    let mut tunings = vec![None];
    if small && point.kernel == "prefill" {
        let can_be = |form: &PrefillForm| form.makespan(&point.shape, point.chunks(), bench.gpu.chip()).is_some();
        tunings = PrefillForm::ALL.into_iter().filter(can_be).map(Some).collect();
    }
    let paths: &[bool] = if small { &[false, true] } else { &[false] };
    for (&form, &ampere) in tunings.iter().flat_map(|tuning| paths.iter().map(move |path| (tuning, path))) {
        let tuning = Tuning { prefill: PrefillTuning { form, quota: None }, ..Tuning::default() };
        let form = form.map_or(String::new(), |form| format!(" {}", name_of(form)));
        let path = format!("{}{form}", if ampere { "sm_80" } else { "native" });
        let result: Result<Checked, Error> = bench.check(point, tuning, seed, ampere, pairs_max);
        let right = result.as_ref().is_ok_and(|checked| checked.passes(&point.shape));
        if !right {
            println!("WRONG {} ({path}): {result:?}", point.name());
        }
        passes &= right;
        let norm = result.map_or(Value::Null, |checked| json!(checked.deviation.relative_norm));
        entry.insert(format!("relative_norm {path}"), norm);
    }
    entry.insert("correct".to_owned(), Value::Bool(passes));
    (passes, entry)
}

/// Whether a graph that was captured with one plan gives, after the plan was replaced, the bits of a launch that was
/// made for the new one.
fn replacement_is_exact(bench: &Bench) -> Result<bool, Error> {
    let long = points::all().into_iter().find(|point| point.batch.starts_with("32 ragged")).expect("a ragged batch");
    let prepared = bench.prepare(&long, 1, 77)?;
    let short: Vec<_> = long.sequences.iter().map(|&(prefix, new)| (prefix / 3, new)).collect();
    let whole = bench.decode_plan(&prepared, DecodeTuning::default())?;
    let part = bench.decode_plan_of(&prepared, &short, DecodeTuning::default())?;
    let capacity = DecodeCapacity { workers: whole.workers().len() as u32, sequences: 32 };
    let mut loaded = Loaded::decode(DecodeAttention::load(&bench.compiler, &bench.stream, &whole, capacity)?);
    let graph = bench.stopwatch.capture(|| bench.launch(&prepared, &loaded, 0, Overlap::Programmatic))?;
    let replay = || {
        graph.launch().map_err(|code| Error::Driver { doing: "replaying".to_owned(), code: format!("{code:?}") })?;
        prepared.result(&bench.stream)
    };
    let before = replay()?;
    if let Loaded::Decode(decode) = &mut loaded {
        decode.replace(&bench.stream, &part)?;
    }
    let after = replay()?;
    let fresh = Loaded::decode(DecodeAttention::load(&bench.compiler, &bench.stream, &part, capacity)?);
    bench.launch(&prepared, &fresh, 0, Overlap::None)?;
    Ok(after == prepared.result(&bench.stream)? && after != before)
}

const MIB: u64 = 1 << 20;

fn time(
    bench: &Bench,
    point: &Point,
    options: &Options,
    ceilings: &Ceilings,
    entry: &mut Map<String, Value>,
) -> Result<(), Error> {
    let layers = (1024 * MIB).div_ceil(point.kv_bytes()).clamp(2, 32) as usize;
    let prepared = bench.prepare(point, layers, 1)?;
    let samples = bench.time(&prepared, Tuning::default(), options.repeats)?;
    let us = median(&samples);
    let mut put = |key: &str, value: Value| entry.insert(key.to_owned(), value);
    let shape = point.shape;
    put("kernel", json!(point.kernel));
    put("batch", json!(point.batch));
    put("element", json!(shape.element.name()));
    put("heads", json!([shape.heads, shape.kv_heads, shape.head_dim]));
    put("target", json!(point.target));
    put("layers", json!(layers));
    put("us", json!(us));
    put("plan_host_us", json!(plan_host_us(bench, &prepared)?));
    put("samples_us", json!(samples.iter().map(|sample| (sample * 1e3).round() / 1e3).collect::<Vec<_>>()));
    if point.kernel == "decode" {
        let plan = bench.decode_plan(&prepared, DecodeTuning::default())?;
        let copy = median(&bench.stopwatch.copies_us(&bench.gpu, plan.bytes(), layers, options.repeats)?);
        let share = plan.bytes() as f64 / us / ceilings.copy_bytes_per_us;
        put("bytes", json!(plan.bytes()));
        put("workers", json!(plan.workers().len()));
        put("same_bytes_copy_us", json!(copy));
        put("share_of_copy_bandwidth", json!(share));
        println!(
            "{:55} {us:8.1} us, copy {copy:7.1}, {:5.0} GB/s = {:.1} % of copy bandwidth",
            point.name(),
            plan.bytes() as f64 / us / 1e3,
            share * 1e2
        );
    } else {
        let plan = bench.prefill_plan(&prepared, PrefillTuning::default())?;
        let share = ceilings.gemm_flops_per_us.map(|gemm| plan.flops() / us / gemm);
        put("flops", json!(plan.flops()));
        put("form", json!(name_of(plan.form())));
        put("pieces", json!(plan.pieces().len()));
        put("blocks", json!(plan.pieces().len() as u32 * plan.form().groups(&shape)));
        put("kv_bytes", json!(point.kv_bytes()));
        println!(
            "{:55} {us:8.1} us, {:5.0} TFLOP/s = {:.1} % of the GEMM rate ({}, {} pieces), KV {:.0} GB/s",
            point.name(),
            plan.flops() / us / 1e6,
            share.unwrap_or(f64::NAN) * 1e2,
            name_of(plan.form()),
            plan.pieces().len(),
            point.kv_bytes() as f64 / us / 1e3,
        );
    }
    if options.sweep {
        let mut others = Map::new();
        let mut line = String::new();
        for (name, tuning) in alternatives(bench, point) {
            let us = bench.time(&prepared, tuning, options.repeats / 3 + 1).map(|samples| median(&samples));
            line += &us.as_ref().map_or_else(|error| format!("  {name}: {error}"), |us| format!("  {name} {us:.1}"));
            others.insert(name, us.map_or(Value::Null, |us| json!(us)));
        }
        println!("    {line}");
        put("others_us", Value::Object(others));
    }
    Ok(())
}

/// Host time of making the plan, as the median of twenty.
fn plan_host_us(bench: &Bench, prepared: &Prepared<'_>) -> Result<f64, Error> {
    let mut samples = Vec::new();
    for _ in 0..20 {
        let begin = Instant::now();
        if prepared.point.kernel == "decode" {
            bench.decode_plan(prepared, DecodeTuning::default())?;
        } else {
            bench.prefill_plan(prepared, PrefillTuning::default())?;
        }
        samples.push(begin.elapsed().as_secs_f64() * 1e6);
    }
    Ok(median(&samples))
}

fn alternatives(bench: &Bench, point: &Point) -> Vec<(String, Tuning)> {
    if point.kernel == "prefill" {
        let chip = bench.gpu.chip();
        let mut all = Vec::new();
        for form in PrefillForm::ALL {
            let Some(_) = form.makespan(&point.shape, point.chunks(), chip) else { continue };
            let quota = if form.split { form.quota(&point.shape, point.chunks(), chip) } else { None };
            // As short as can be, and some longer ones.
            for quota in [Some(None), quota.map(|quota| Some(quota * 2)), quota.map(|quota| Some(quota * 3 / 2))] {
                let Some(quota) = quota else { continue };
                let prefill = PrefillTuning { form: Some(form), quota };
                let name = quota.map_or(name_of(form), |quota| format!("{} of {quota}", name_of(form)));
                all.push((name, Tuning { prefill, ..Tuning::default() }));
            }
        }
        return all;
    }
    let multiprocessors = bench.gpu.chip().multiprocessors;
    let (shallow, deep) = if point.shape.head_dim == 64 { (4, 6) } else { (2, 3) };
    let plain = DecodeTuning::default();
    let mut all = Vec::new();
    for (name, halves, tuning) in [
        ("again", 0, plain),
        ("1 an SM", 2, plain),
        ("3 an SM", 6, plain),
        ("4 an SM", 8, plain),
        ("shallow", 0, DecodeTuning { depth: Some(shallow), ..plain }),
        ("deep", 0, DecodeTuning { depth: Some(deep), ..plain }),
        ("even", 0, DecodeTuning { even: Some(true), ..plain }),
        ("dense", 0, DecodeTuning { even: Some(false), ..plain }),
    ] {
        let workers = (halves > 0).then_some(multiprocessors * halves / 2);
        all.push((name.to_owned(), Tuning { decode: DecodeTuning { workers, ..tuning }, ..Tuning::default() }));
    }
    for grain in [1, 2, 4] {
        for empty in [0, 4, 8, 12] {
            let decode = DecodeTuning { even: Some(false), empty: Some(empty), grain: Some(grain), ..plain };
            all.push((format!("{empty} empty, grain {grain}"), Tuning { decode, ..Tuning::default() }));
        }
    }
    all
}

fn name_of(form: PrefillForm) -> String {
    format!("{} {}", 64 * form.fragments, if form.split { "split" } else { "whole" })
}
