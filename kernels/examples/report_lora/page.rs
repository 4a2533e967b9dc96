//! The page: provenance, the 40 points of the comparison, other points, what falls short.

use std::fmt::Write as _;

use serde_json::Value;

use crate::{Measured, Peers};

pub(crate) fn write(report: &Value, points: &[Measured<'_>], peers: &Peers) -> String {
    let group = |name: &str| points.iter().filter(|point| point.text("group") == name).collect::<Vec<_>>();
    let (table, others) = (group("table"), group("other"));
    let mut page = String::from(
        "# LoRA kernels on one H200\n\n\
         Written by `cargo run -p aril-kernels --example report_lora` from `lora-h200.json`, which \
         `kernels/ci/gpu.sh` measured; `lora-h200-checks.log` is that run's log.\n\n",
    );
    let field = |key: &str| report[key].as_str().unwrap_or("?").to_owned();
    let _ = writeln!(
        page,
        "| | |\n|---|---|\n| GPU | {} |\n| driver, SM and memory clock, highest SM clock, °C, W before / after | {} / {} |\n\
         | CUDA, NVRTC | {}, {} |\n| kernel sources, SHA-256 | `{}` |\n| date | {} |\n| replays a figure | {} |\n\
         | copy of 2 GiB, read and written | {:.2} TB/s |\n",
        field("gpu"),
        field("clocks_before"),
        field("clocks_after"),
        field("driver_cuda"),
        field("nvrtc"),
        field("source_sha256"),
        field("date"),
        report["repeats"],
        report["copy_2gib_bytes_per_us"].as_f64().unwrap_or(f64::NAN) / 1e6,
    );
    page.push_str(
        "Microseconds a call: the median over replays of a CUDA graph of 4 to 32 calls, each on other weights, divided \
         by the calls, after the L2 was swept by reading 256 MiB. *Copy* is a device copy that moves the same bytes, \
         timed the same way. *Target* is 3.0 µs + bytes / 3.70 TB/s back to back, and 4.6 µs + bytes / 3.41 TB/s after a \
         kernel that does not let its successor begin early (a plain copy kernel, whose own time is subtracted). \
         Activations up to 4 MiB a call are one buffer, larger ones rotate over 128 MiB. Every point was first checked \
         against float64 on fresh random inputs, on the Hopper path and on the sm_80 path, in and out of a graph. \
         Peers are the best and vLLM's of 14 public implementations measured by the same method on another machine of \
         this kind (`peers-h200.tsv`).\n\n",
    );
    let within = |points: &[&Measured<'_>], key: &str, target: &str| {
        points.iter().filter(|point| point.median(key) <= point.number(target)).count()
    };
    let pair = within(&table, "pair_us", "target_us");
    let after = within(&table, "pair_after_uncooperative_us", "target_after_uncooperative_us");
    let _ = writeln!(
        page,
        "**{pair} of {n}** points of the comparison are within their target back to back, {after} of {n} after another \
         kernel; **{} of {m}** and {} of {m} of the points that are not in it.\n",
        within(&others, "pair_us", "target_us"),
        within(&others, "pair_after_uncooperative_us", "target_after_uncooperative_us"),
        n = table.len(),
        m = others.len(),
    );
    for kernel in ["pair", "shrink", "expand"] {
        let key = format!("{kernel}_us");
        let ratios = |of: fn((f64, &str, f64)) -> f64| {
            let logs: Vec<f64> = table
                .iter()
                .filter_map(|point| Some((of(peers.find(kernel, point)?.best()) / point.median(&key)).ln()))
                .filter(|ratio| ratio.is_finite())
                .collect();
            (logs.iter().sum::<f64>() / logs.len() as f64).exp()
        };
        let slower: Vec<String> = table
            .iter()
            .filter(|point| {
                let best = peers.find(kernel, point).map_or(f64::NAN, |peer| peer.best().0);
                point.median(&key) > (best * 1.02).max(best + 0.1)
            })
            .map(|point| point.text("point").to_owned())
            .collect();
        let _ = writeln!(
            page,
            "- {kernel}: {:.2} × as fast as the best peer of each point and {:.2} × vLLM (geometric means); slower than the \
             best peer at {} points{}{}",
            ratios(|best| best.0),
            ratios(|best| best.2),
            slower.len(),
            if slower.is_empty() { "" } else { ": " },
            slower.join(", "),
        );
    }
    page.push_str(
        "\n![pair: time over bytes](pair.svg)\n\n## The 40 points\n\n\
         | point | copy | **pair** | target | | after another | target | | best peer | shrink | best peer | expand | \
         best peer | rows a group | blocks | cluster | plan, host µs |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for point in &table {
        row(&mut page, point, Some(peers));
    }
    page.push_str(
        "\n## Other points\n\nThe plan's few rules (row tile, members, way of exchange) were chosen from sweeps over both tables.\n\n\
         | point | copy | **pair** | target | | after another | target | | shrink | expand | rows a group | blocks | cluster \
         | plan, host µs |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for point in &others {
        row(&mut page, point, None);
    }
    page.push_str(
        "\n## Punica's figures, redrawn\n\nFigure 7: the roofline of the expand, 16 → 4096. Figure 8: the whole operator, \
         4096 → 11008 at rank 16. Figure 9: the expand, 4096 outputs, by rank. fp16, kernels alone in a graph; Punica \
         timed a call from the host.\n\n![figure 7](figure-7.svg)\n\n![figure 8](figure-8.svg)\n\n![figure 9](figure-9.svg)\n",
    );
    page
}

fn row(page: &mut String, point: &Measured<'_>, peers: Option<&Peers>) {
    let mark = |key: &str, target: &str| if point.median(key) <= point.number(target) { "✓" } else { "over" };
    let best = |kernel: &str| {
        peers
            .and_then(|peers| peers.find(kernel, point))
            .map_or(String::new(), |peer| format!(" {:.1} |", peer.best().0))
    };
    let pair_peer = peers.and_then(|peers| peers.find("pair", point)).map_or(String::new(), |peer| {
        let (us, name, _) = peer.best();
        format!(" {us:.1} ({name}) |")
    });
    let _ = writeln!(
        page,
        "| {} | {:.2} | **{:.2}** | {:.2} | {} | {:.2} | {:.2} | {} |{pair_peer} {:.2} |{} {:.2} |{} {} | {} | {} | {:.1} |",
        point.text("point"),
        point.median("copy_us"),
        point.median("pair_us"),
        point.number("target_us"),
        mark("pair_us", "target_us"),
        point.median("pair_after_uncooperative_us"),
        point.number("target_after_uncooperative_us"),
        mark("pair_after_uncooperative_us", "target_after_uncooperative_us"),
        point.median("shrink_us"),
        best("shrink"),
        point.median("expand_us"),
        best("expand"),
        point.number("row_tile"),
        point.number("blocks"),
        point.number("cluster"),
        point.number("plan_host_us"),
    );
}
