//! Checks and measures whole Llama steps on a GPU.
//!
//! `cargo run --release -p aril-kernels --example bench_llama -- PART... --out results.json`
//!
//! Parts: `gemm` (both ways to multiply, checked and timed), `kernels` (each small kernel of a step alone, at the widths of
//! real models, against float64), `check` (a tiny model over several mixed steps against
//! float64, in and out of graphs, the path for older GPUs too), `hf FOLDER` (the case that `ci/hf_check.py` wrote),
//! `step` (whole steps with and without adapters, and each operation alone), `overlap` (what adapters add by where they
//! stand and how their work is cut).
//! Options: `--sources FOLDER`, `--source-hash` (of the kernels that this binary holds, without a GPU), `--repeats N`,
//! `--model NAME` (only that one; an error where there is none), `--check-only` (of `gemm`: nothing is timed), `--quick` (one model, for
//! compute-sanitizer; of `overlap` the orders alone), `--own` (few steps of few rows, once: every kernel is this crate's, for
//! racecheck).

mod case;
mod check;
mod gemm;
mod hugging_face;
mod kernels;
#[path = "../bench_lora/only.rs"]
mod only;
mod overlap;
#[path = "../bench_lora/provenance.rs"]
mod provenance;
mod steps;

use std::path::PathBuf;

use aril_kernels::gpu::Gpu;
use aril_kernels::llama::{Build, LlamaShape};
use aril_kernels::source::Sources;
use serde_json::{Value, json};

pub(crate) struct Options {
    parts: Vec<String>,
    pub(crate) folder: PathBuf,
    out: PathBuf,
    pub(crate) build: Build,
    pub(crate) repeats: usize,
    pub(crate) model: String,
    pub(crate) quick: bool,
    pub(crate) own: bool,
    pub(crate) time: bool,
    source_hash: bool,
}

impl Options {
    /// Those of a part's models that were asked for: at least one.
    pub(crate) fn models<'a>(
        &self,
        all: &[(&'a str, LlamaShape)],
    ) -> Result<Vec<(&'a str, LlamaShape)>, aril_kernels::Error> {
        only::only(all.to_vec(), &self.model, |(name, _)| (*name).to_owned())
            .map_err(|why| aril_kernels::Error::Shape { what: "--model".to_owned(), why })
    }
}

fn options() -> Result<Options, String> {
    let mut options = Options {
        parts: Vec::new(),
        folder: PathBuf::new(),
        out: "bench_llama.json".into(),
        build: Build::default(),
        repeats: 20,
        model: String::new(),
        quick: false,
        own: false,
        time: true,
        source_hash: false,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--out" => options.out = value()?.into(),
            "--sources" => options.build.sources = Some(value()?.into()),
            "--repeats" => options.repeats = value()?.parse().map_err(|_| "--repeats needs a number".to_owned())?,
            "--quick" => options.quick = true,
            "--check-only" => options.time = false,
            "--source-hash" => options.source_hash = true,
            "--own" => options.own = true,
            "--model" => options.model = value()?,
            "hf" => {
                options.folder = value()?.into();
                options.parts.push(argument);
            }
            "gemm" | "kernels" | "check" | "step" | "overlap" => options.parts.push(argument),
            other => return Err(format!("unknown argument {other}; see the head of examples/bench_llama/main.rs")),
        }
    }
    if options.parts.is_empty() && !options.source_hash {
        return Err("no part is named; see the head of examples/bench_llama/main.rs".to_owned());
    }
    Ok(options)
}

/// To the nanosecond, which is finer than the clock.
pub(crate) fn rounded(samples: Vec<f64>) -> Vec<f64> {
    samples.into_iter().map(|us| (us * 1e3).round() / 1e3).collect()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = options()?;
    if options.source_hash {
        println!("{}", provenance::source_hashes(None)?);
        return Ok(());
    }
    let gpu = Gpu::open(0)?;
    let sources = options.build.sources.as_deref().map_or_else(Sources::built_in, Sources::in_folder);
    let mut report = json!({
        "gpu": gpu.name(),
        "driver_cuda": gpu.driver_version(),
        "nvrtc": format!("{:?}", aril_kernels::compile::nvrtc_version()?),
        "clocks_before": provenance::clocks(),
        "source_sha256": sources.hash()?,
        "date": provenance::date(),
        "repeats": options.repeats,
    });
    let mut wrong = 0;
    for part in &options.parts {
        let result: Result<(Value, usize), aril_kernels::Error> = match part.as_str() {
            "gemm" => gemm::run(&gpu, &options),
            "kernels" => kernels::run(&gpu, &options),
            "check" => check::run(&gpu, &options),
            "hf" => hugging_face::run(&gpu, &options),
            "overlap" => overlap::run(&gpu, &options),
            _ => steps::run(&gpu, &options),
        };
        match result {
            Ok((value, failures)) => {
                wrong += failures;
                report[part] = value;
            }
            Err(error) => {
                wrong += 1;
                println!("{part}: {error}");
                report[part] = json!({ "error": error.to_string() });
            }
        }
    }
    report["clocks_after"] = json!(provenance::clocks());
    // A line for each measured point.
    let text = serde_json::to_string(&report)?
        .replace("{\"adapters\"", "\n{\"adapters\"")
        .replace("{\"bytes\"", "\n{\"bytes\"");
    std::fs::write(&options.out, text)?;
    println!("{}: {wrong} wrong; written to {}", options.parts.join(", "), options.out.display());
    if wrong > 0 { Err("something is wrong".into()) } else { Ok(()) }
}
