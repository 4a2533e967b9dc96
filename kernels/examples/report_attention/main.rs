//! The measurements of the attention kernels as a page: `cargo run -p aril-kernels --example report_attention`.
//!
//! For each `attention-*.json` in `kernels/measurements` it writes the page of the same name beside it.

use std::fmt::Write as _;
use std::path::Path;

use aril_kernels::source::Sources;
use serde_json::Value;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("measurements");
    for entry in std::fs::read_dir(&folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if !name.starts_with("attention-") || !name.ends_with(".json") {
            continue;
        }
        let report: Value = serde_json::from_str(&std::fs::read_to_string(&path)?)?;
        let log = std::fs::read_to_string(folder.join(log_of(name)))?;
        std::fs::write(path.with_extension("md"), page(&report, name, &log)?)?;
    }
    Ok(())
}

/// The log of a run: `attention-h200.json` → `attention-h200-checks.log`.
fn log_of(data: &str) -> String {
    format!("{}-checks.log", data.trim_end_matches(".json"))
}

/// What a log of `kernels/ci/gpu.sh` holds: its parts, and whether the sanitizers were among them.
fn contents(log: &str) -> String {
    let parts: Vec<&str> = log
        .lines()
        .filter_map(|line| Some(line.split_once(": exit ")?.0))
        .filter(|part| part.contains("attention"))
        .collect();
    let sanitized = parts.iter().any(|part| part.starts_with("memcheck"));
    format!(
        "{} ({})",
        if sanitized { "its checks and compute-sanitizer" } else { "its checks, without compute-sanitizer" },
        parts.join(", "),
    )
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}

/// Tenth and ninetieth percentile over the median, in percent.
fn spread(point: &Value) -> String {
    let mut samples: Vec<f64> = point["samples_us"].as_array().into_iter().flatten().map(number).collect();
    samples.sort_by(f64::total_cmp);
    let Some(last) = samples.len().checked_sub(1) else { return "?".to_owned() };
    let at = |share: f64| samples[(share * last as f64).round() as usize];
    let part = |value: f64| (value / at(0.5) - 1.0) * 100.0;
    format!("{:+.1} / {:+.1}", part(at(0.1)), part(at(0.9)))
}

fn page(report: &Value, data: &str, log: &str) -> Result<String, Box<dyn std::error::Error>> {
    let text = |key: &str| report[key].as_str().unwrap_or("?").to_owned();
    let empty = Vec::new();
    let results = report["results"].as_array().unwrap_or(&empty);
    let checks = report["checks"].as_array().unwrap_or(&empty);
    let sources: Vec<&str> = report["sources"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let right = |list: &[Value]| list.iter().filter(|entry| entry["correct"] == Value::Bool(true)).count();
    let copy = number(&report["copy_2gib_bytes_per_us"]);
    let gemm = ["", "_after"].map(|when| number(&report[format!("gemm_8192_bf16_flops_per_us{when}").as_str()]));
    let best_gemm = gemm[0].max(gemm[1]);
    let gemm: Vec<String> =
        gemm.into_iter().filter(|rate| rate.is_finite()).map(|rate| format!("{:.0}", rate / 1e6)).collect();
    let mut page = format!(
        "# Attention kernels on one {}\n\n\
         Written by `cargo run -p aril-kernels --example report_attention` from `{data}`, which `bench_attention` measured; \
         `{}` is that run's log: {}.\n\n",
        text("gpu"),
        log_of(data),
        contents(log),
    );
    if report["source_sha256"].as_str() != Some(Sources::built_in().hash_of(sources.iter().copied())?.as_str()) {
        page.push_str(
            "**The kernels have changed since this run**: its figures are those of an older state of the sources.\n\n",
        );
    }
    let _ = writeln!(
        page,
        "| | |\n|---|---|\n| GPU | {} |\n| driver, SM and memory clock, highest SM clock, °C, W before / after | {} / {} |\n\
         | CUDA, NVRTC | {}, {} |\n| kernel sources, SHA-256 | {}: `{}` |\n| date | {} |\n| replays a figure | {} |\n\
         | copy of 2 GiB, read and written | {:.2} TB/s |\n| bf16 GEMM of 8192³, cuBLASLt, random contents | {} TFLOP/s |\n\
         | checks against float64 | {} of {} batches and {} of {} timed points right |\n",
        text("gpu"),
        text("clocks_before"),
        text("clocks_after"),
        text("driver_cuda"),
        text("nvrtc"),
        sources.join(", "),
        text("source_sha256"),
        text("date"),
        report["repeats"],
        copy / 1e6,
        gemm.join(" and "),
        right(checks),
        checks.len(),
        right(results),
        results.len(),
    );
    page.push_str(
        "Microseconds a call: the median over replays of a CUDA graph of one call a layer (2 to 32 layers, over 1 GiB of keys \
         and values together), divided by the layers, after the L2 was swept by reading 256 MiB. KV blocks of a sequence are \
         scattered over the cache. The spread is the tenth and ninetieth percentile over the median. Every batch ran on fresh \
         random inputs with a poisoned result and NaN behind the last token of every sequence, in and out of a graph; the \
         batches that are not timed also compiled for sm_80 and with every height of tiles.\n\n",
    );
    decode(&mut page, results);
    prefill(&mut page, results, best_gemm, copy);
    Ok(page)
}

fn of<'a>(results: &'a [Value], kernel: &str) -> impl Iterator<Item = &'a Value> {
    let kernel = Value::String(kernel.to_owned());
    results.iter().filter(move |point| point["kernel"] == kernel)
}

fn heads(point: &Value) -> String {
    let part = |index: usize| point["heads"][index].to_string();
    format!("{} / {} × {}", part(0), part(1), part(2))
}

fn batch(point: &Value) -> String {
    let text = |key: &str| point[key].as_str().unwrap_or("?").to_owned();
    format!("| {} | {} | {} ", text("element"), heads(point), text("batch"))
}

fn decode(page: &mut String, results: &[Value]) {
    page.push_str(
        "## Decode\n\nBytes are keys, values, q and the result, each once. *Share* is bytes over time over the bandwidth of the \
         2 GiB copy; *copy* is a device copy that moves the same bytes, timed the same way. A copy writes half of its bytes, \
         attention only reads, which is why it can exceed the copy. The target is a share of \
         85 % at the batch in bold.\n\n\
         | format | query / KV heads × width | sequences × context | MiB | copy µs | µs | spread % | share | workers | plan, host µs |\n\
         |---|---|---|---|---|---|---|---|---|---|\n",
    );
    for point in of(results, "decode") {
        let bold = if point["target"] == Value::Bool(true) { "**" } else { "" };
        let _ = writeln!(
            page,
            "{}| {:.0} | {:.1} | {bold}{:.1}{bold} | {} | {bold}{:.1} %{bold} | {} | {:.1} |",
            batch(point),
            number(&point["bytes"]) / f64::from(1 << 20),
            number(&point["same_bytes_copy_us"]),
            number(&point["us"]),
            spread(point),
            number(&point["share_of_copy_bandwidth"]) * 100.0,
            point["workers"],
            number(&point["plan_host_us"]),
        );
    }
}

/// Blocks of an earlier recording, which had one for each tile and head.
fn tiles(point: &Value) -> String {
    format!("{:.0}", number(&point["tiles"]) * number(&point["heads"][0]))
}

fn prefill(page: &mut String, results: &[Value], gemm: f64, copy: f64) {
    page.push_str(
        "\n## Prefill\n\nOperations are those of the two products over the keys that a row may see. *Share* is their rate over the \
         better one of the GEMM. The target is a share of 40 % at the batch in bold. *Form*: places of a tile, which \
         is a new token and a query head each, and whether its keys are cut over several blocks; *KV* is the bytes of keys and \
         values, each once, over the time and over the bandwidth of the copy: what bounds few new tokens after many old ones.\n\n\
         | format | query / KV heads × width | new tokens | GFLOP | µs | spread % | TFLOP/s | share | KV | form | blocks | plan, host µs |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for point in of(results, "prefill") {
        let bold = if point["target"] == Value::Bool(true) { "**" } else { "" };
        let (flops, us) = (number(&point["flops"]), number(&point["us"]));
        let _ = writeln!(
            page,
            "{}| {:.1} | {bold}{us:.1}{bold} | {} | {:.0} | {bold}{:.1} %{bold} | {} | {} | {} | {:.1} |",
            batch(point),
            flops / 1e9,
            spread(point),
            flops / us / 1e6,
            flops / us / gemm * 100.0,
            // Earlier recordings say neither.
            point["kv_bytes"].as_f64().map_or("–".to_owned(), |bytes| format!("{:.0} %", bytes / us / copy * 100.0)),
            point["form"].as_str().unwrap_or("–"),
            point["blocks"].as_u64().map_or_else(|| tiles(point), |blocks| blocks.to_string()),
            number(&point["plan_host_us"]),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_without_sanitizers_is_not_called_one_with_them() {
        let head = "kernels/ci/gpu.sh attention\nNVIDIA H200\n";
        let measured = format!("{head}attention: exit 0, 98 s: 0 wrong\nall together: 98 s, nothing failed");
        assert_eq!(contents(&measured), "its checks, without compute-sanitizer (attention)");
        let sanitized = format!("{measured}\nmemcheck-attention-decode: exit 0, 1 s: 0 errors");
        assert_eq!(contents(&sanitized), "its checks and compute-sanitizer (attention, memcheck-attention-decode)");
    }
}
