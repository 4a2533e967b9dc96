//! Measured Llama steps as a page: `cargo run -p aril-kernels --example report_llama`.
//!
//! Reads every `kernels/measurements/llama-GPU.json` that `bench_llama` wrote, and `overlap-GPU.json` of its part
//! `overlap` (`overlap-GPU-WHAT.json`: with another state of the kernels) where that is there, and writes
//! `llama-GPU.md` beside it.

mod overlap;

use std::fmt::Write as _;
use std::path::Path;

use aril_kernels::llama::Operation;
use aril_kernels::source::Sources;
use aril_kernels::timing::Summary;
use serde_json::Value;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("measurements");
    let mut names: Vec<String> = std::fs::read_dir(&folder)?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with("llama-") && name.ends_with(".json"))
        .collect();
    names.sort();
    if names.is_empty() {
        return Err(format!("no llama-*.json in {}", folder.display()).into());
    }
    for name in names {
        let report: Value = serde_json::from_str(&std::fs::read_to_string(folder.join(&name))?)?;
        let mut page = page(&report, &name)?;
        for (ending, heading) in [
            (".json", "Where adapters stand, and how their work is cut"),
            (
                "-one-set.json",
                "The same with shorter LoRA kernels, whose x and y have one set of registers instead of two",
            ),
            (
                "-two-sets.json",
                "The same, in the same minutes, with the longer LoRA kernels, whose x and y have two sets of registers: what launches outside of a step run",
            ),
            (
                "-two-tiles.json",
                "The same with still shorter ones, which take two units of weights at once instead of four",
            ),
        ] {
            let tries = name.replace("llama-", "overlap-").replace(".json", ending);
            if let Ok(text) = std::fs::read_to_string(folder.join(&tries)) {
                overlap::write(&mut page, &serde_json::from_str(&text)?, &tries, heading)?;
            }
        }
        std::fs::write(folder.join(name.replace(".json", ".md")), page)?;
    }
    Ok(())
}

fn page(report: &Value, name: &str) -> Result<String, Failure> {
    let text = |key: &str| report[key].as_str().unwrap_or("unknown").to_owned();
    let copy = number(&report["step"], "copy_2gib_bytes_per_us")?;
    let mut page = String::new();
    writeln!(page, "# Whole Llama steps on one {}\n", text("gpu"))?;
    writeln!(
        page,
        "Written by `cargo run -p aril-kernels --example report_llama` from `{name}`, which `bench_llama check gemm step` measured (part `llama` of `kernels/ci/gpu.sh`); `{}` is the log of that run's checks.\n",
        name.replace(".json", "-checks.log"),
    )?;
    if report["source_sha256"].as_str() != Some(Sources::built_in().hash()?.as_str()) {
        writeln!(
            page,
            "**The kernels have changed since this run**: its figures are those of an older state of the sources.\n"
        )?;
    }
    writeln!(page, "| | |\n|---|---|")?;
    writeln!(page, "| driver, SM and memory clock, highest SM clock, °C, W: before | {} |", text("clocks_before"))?;
    writeln!(page, "| and after | {} |", text("clocks_after"))?;
    writeln!(page, "| CUDA, NVRTC | {}, {} |", text("driver_cuda"), text("nvrtc"))?;
    writeln!(page, "| kernel sources, SHA-256 | `{}` |", text("source_sha256"))?;
    writeln!(page, "| date | {} |", text("date"))?;
    writeln!(page, "| replays a figure | {} |", report["repeats"])?;
    writeln!(page, "| copy of 2 GiB, read and written | {:.2} TB/s |\n", copy / 1e6)?;
    writeln!(
        page,
        "Random weights, bf16, a KV cache filled with random values. A step is one CUDA graph from the embedding to the sampled tokens; a figure is the median over its replays, each after the L2 was swept, with the 10th and 90th percentile behind it. The *floor* is the bytes that the step must read (weights of all projections and of the LM head, and the KV of every token) over the copy bandwidth of the same run; the adapters' own bytes over it are the floor of what they add. *Own* multiplies up to 32 rows with this crate's kernel, *CublasLt* with the quickest of cuBLASLt's algorithms. Adapters run *Before* or *After* the GEMM of their projections on one stream, or *Beside* it on a second one, or *Along* it: behind it on its stream, but beginning when it has seen its input; or, in an older state of the code, *Within* its launch, as the other half of every block. A *chunk* is one further sequence's new tokens, after as many of its tokens as *prefix* says.\n"
    )?;
    checks(&mut page, report)?;
    for model in list(&report["step"], "models")? {
        steps(&mut page, model, copy)?;
        operations(&mut page, model)?;
    }
    gemms(&mut page, report, copy)?;
    Ok(page)
}

fn checks(page: &mut String, report: &Value) -> Result<(), Failure> {
    let Some(lines) = report["check"].as_array() else { return Ok(()) };
    let worst = lines.iter().filter_map(|line| line["relative_norm"].as_f64()).fold(0.0, f64::max);
    let typical = lines.iter().filter_map(|line| line["typical"].as_f64()).fold(0.0, f64::max);
    let right = lines.iter().all(|line| line["tokens"] == true && line["repeats"] == true);
    writeln!(
        page,
        "Before it was timed, a tiny model (grouped queries, adapters of ranks 5 to 40 on all projections, chunks of prompts beside decodes over many steps) was run in {} ways and compared with float64: relative norm of the logits at most {typical:.4} over all parts of a way, {worst:.4} in the worst part of all; sampled tokens and repeated runs, in graphs and out, {}.\n",
        lines.len(),
        if right { "equal to the bit" } else { "NOT equal" },
    )?;
    Ok(())
}

fn steps(page: &mut String, model: &Value, copy: f64) -> Result<(), Failure> {
    writeln!(page, "## {}\n", model["model"].as_str().unwrap_or("unknown"))?;
    writeln!(
        page,
        "| rows | context | chunk | prefix | adapters | GEMM | order | step without adapters, ms | floor, ms | ratio | with adapters, ms | they add, ms | their bytes alone, ms |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|"
    )?;
    for step in list(model, "steps")? {
        let (without, with) = (summary(step, "without_us")?, summary(step, "with_us")?);
        let floor = number(step, "bytes")? / copy;
        let word = |key: &str| step[key].as_str().unwrap_or("unknown").to_owned();
        writeln!(
            page,
            "| {} | {} | {} | {} | {} of rank {} | {} | {} | {} | {:.3} | {} | {} | **{:.3}** | {:.3} |",
            step["rows"],
            step["context"],
            step["chunk"],
            // Earlier recordings have no such steps.
            step["prefix"].as_u64().unwrap_or(0),
            step["adapters"],
            step["rank"],
            word("gemm"),
            word("order"),
            spread(without),
            floor / 1e3,
            // A prompt is bound by arithmetic.
            if step["chunk"] == 0 { format!("{:.2}", without.median / floor) } else { "–".to_owned() },
            spread(with),
            (with.median - without.median) / 1e3,
            number(step, "lora_bytes")? / copy / 1e3,
        )?;
    }
    let served = &model["served"];
    if let (Ok(device), Ok(host)) = (summary(served, "device_us"), summary(served, "host_us")) {
        writeln!(
            page,
            "\nDriven step by step from Rust, 32 rows of 32 adapters, tokens fed back: {} ms a step on the GPU, copies of metadata included; {:.3} ms of host work before it waits.",
            spread(device),
            host.median / 1e3,
        )?;
    }
    writeln!(page)?;
    Ok(())
}

fn operations(page: &mut String, model: &Value) -> Result<(), Failure> {
    let found = &model["operations"];
    writeln!(
        page,
        "Each operation alone, 32 rows of 32 adapters, context 1,024: a graph of one call a layer, back to back, on other weights each.\n\n| operation | µs a call | calls a step | ms a step |\n|---|---|---|---|"
    )?;
    let layers = model["layers"].as_u64().unwrap_or(0) as u32;
    let mut total = 0.0;
    for operation in Operation::ALL {
        let name = format!("{operation:?}");
        let Ok(one) = summary(found, &name) else { continue };
        let count = operation.count(layers);
        total += one.median * f64::from(count) / 1e3;
        let ms = one.median * f64::from(count) / 1e3;
        writeln!(page, "| {name} | {:.2} ({:.2}–{:.2}) | {count} | {ms:.3} |", one.median, one.p10, one.p90)?;
    }
    writeln!(page, "| sum | | | {total:.3} |\n")?;
    Ok(())
}

fn gemms(page: &mut String, report: &Value, copy: f64) -> Result<(), Failure> {
    let Some(points) = report["gemm"].as_array() else { return Ok(()) };
    writeln!(
        page,
        "## GEMMs alone\n\nBack to back on cold weights, µs a call; *bytes* is the time of a copy of as many bytes at this run's bandwidth.\n\n| rows | inputs→outputs | bytes | own | cuBLASLt |\n|---|---|---|---|---|"
    )?;
    for point in points {
        let own = summary(point, "own_us").map_or("–".to_owned(), |own| format!("{:.2}", own.median));
        writeln!(
            page,
            "| {} | {}→{} | {:.2} | {own} | {:.2} |",
            point["rows"],
            point["inputs"],
            point["outputs"],
            number(point, "bytes")? / copy,
            summary(point, "cublaslt_us")?.median,
        )?;
    }
    Ok(())
}

fn spread(of: Summary) -> String {
    format!("{:.3} ({:.3}–{:.3})", of.median / 1e3, of.p10 / 1e3, of.p90 / 1e3)
}

fn number(value: &Value, key: &str) -> Result<f64, Failure> {
    value[key].as_f64().ok_or_else(|| format!("{key} is no number").into())
}

fn list<'a>(value: &'a Value, key: &str) -> Result<&'a Vec<Value>, Failure> {
    value[key].as_array().ok_or_else(|| format!("{key} is no list").into())
}

fn summary(value: &Value, key: &str) -> Result<Summary, Failure> {
    let samples: Vec<f64> = list(value, key)?.iter().filter_map(Value::as_f64).collect();
    Summary::of(&samples).ok_or_else(|| format!("{key} has no samples").into())
}
