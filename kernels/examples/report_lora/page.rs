//! The page: provenance, the 40 points of the comparison, other points, what falls short.

use std::fmt::Write as _;

use crate::counters::Counters;
use crate::{After, Measured, Set};

pub(crate) fn write(set: &Set<'_>, counters: &Counters) -> String {
    let Set { name, report, points, .. } = *set;
    let group = |name: &str| points.iter().filter(|point| point.text("group") == name).collect::<Vec<_>>();
    let (table, others) = (group("table"), group("other"));
    let mut page = format!(
        "# LoRA kernels on one {}\n\n\
         Written by `cargo run -p aril-kernels --example report_lora` from `{name}.json`, which `kernels/ci/gpu.sh` \
         measured; `{name}-checks.log` is that run's log.\n\n",
        report["gpu"].as_str().unwrap_or("GPU").trim_start_matches("NVIDIA "),
    );
    if report["source_sha256"].as_str() != Some(set.current) {
        page.push_str(
            "**The kernels have changed since this run**: its figures are those of an older state of the sources.\n\n",
        );
    }
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
         timed the same way. ",
    );
    let preceding = if points.iter().any(|point| !point.median("pair_after_gemm_us").is_nan()) {
        "*After another*: after the backbone's GEMM of the same x into the same y by cuBLASLt, on cold weights, whose own \
         time is subtracted. Where that GEMM is long (prompts) its own time varies by more than the call takes: a difference \
         below the call's time back to back is no time, and the figure after a plain copy kernel stands in its place, marked †. "
    } else {
        "*After another*: after a plain copy kernel that does not let its successor begin early, whose own time is subtracted. "
    };
    page.push_str(if set.is_h200() {
        "*Target* is 3.0 µs + bytes / 3.70 TB/s back to back, and 4.6 µs + bytes / 3.41 TB/s after another kernel. "
    } else {
        "*Target* is that of the H200 in terms of this run's own copy: 1.15 × copy + 1 µs back to back, and 1.25 × copy + \
         2.4 µs after another kernel. *Best peer* was measured on an H200 and is given here as the same multiple of a copy of \
         the same bytes (there 1.75 µs + bytes / 4.257 TB/s, here this run's): an estimate, not a measurement. "
    });
    page.push_str(preceding);
    if points.iter().any(|point| point.0["after"].is_object()) {
        page.push_str("There the plan is told what it follows. ");
    }
    page.push_str("Activations up to 4 MiB a call are one buffer, larger ones rotate over 128 MiB. ");
    page.push_str(&checks(points));
    page.push_str(
        "Peers are the best and vLLM's of 14 public implementations measured by the same method on another machine \
         (`peers-h200.tsv`).\n\n",
    );
    let within = |points: &[&Measured<'_>]| points.iter().filter(|p| p.median("pair_us") <= set.target(p)).count();
    let within_after =
        |points: &[&Measured<'_>]| points.iter().filter(|p| set.after(p).us <= set.target_after(p)).count();
    let _ = writeln!(
        page,
        "**{} of {n}** points of the comparison are within their target back to back, {} of {n} after another \
         kernel; **{} of {m}** and {} of {m} of the points that are not in it.\n",
        within(&table),
        within_after(&table),
        within(&others),
        within_after(&others),
        n = table.len(),
        m = others.len(),
    );
    page.push_str(&spreads(set, &[&table[..], &others[..]].concat()));
    for kernel in ["pair", "shrink", "expand"] {
        let key = format!("{kernel}_us");
        let ratios = |of: fn((f64, &str, f64)) -> f64| {
            let logs: Vec<f64> = table
                .iter()
                .filter_map(|point| Some((of(set.best_peer(kernel, point)?) / point.median(&key)).ln()))
                .filter(|ratio| ratio.is_finite())
                .collect();
            (logs.iter().sum::<f64>() / logs.len() as f64).exp()
        };
        let slower: Vec<String> = table
            .iter()
            .filter(|point| {
                let best = set.best_peer(kernel, point).map_or(f64::NAN, |best| best.0);
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
    let _ = write!(page, "\n![pair: time over bytes]({name}-pair.svg)\n\n## The 40 points\n\n");
    page.push_str(
        "A plan, made once a step: *host* is the time to make it, *device* the GPU's to take its table from pinned memory, as one \
         copy of many in a graph, *replaced* the time from a stream's reaching the replacement of a loaded plan until the \
         table is there, the host's part of it included. – is what this run did not measure.\n\n",
    );
    page.push_str(
        "| point | copy | **pair** | target | | after another | target | | best peer | shrink | best peer | expand | \
         best peer | rows a group | blocks | cluster | plan, host µs | device µs | replaced µs |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for point in &table {
        row(&mut page, set, point, true);
    }
    page.push_str(
        "\n## Other points\n\nThe plan's few rules (row tile, members, way of exchange) were chosen from sweeps over both tables.\n\n\
         | point | copy | **pair** | target | | after another | target | | shrink | expand | rows a group | blocks | cluster \
         | plan, host µs | device µs | replaced µs |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for point in &others {
        row(&mut page, set, point, false);
    }
    counters.write(&mut page, set);
    page.push_str(
        "\n## Punica's figures, redrawn\n\nFigure 7: the roofline of the expand, 16 → 4096. Figure 8: the whole operator, \
         4096 → 11008 at rank 16. Figure 9: the expand, 4096 outputs, by rank. fp16, kernels alone in a graph; Punica \
         timed a call from the host.\n",
    );
    for figure in 7..=9 {
        let _ = write!(page, "\n![figure {figure}]({name}-figure-{figure}.svg)\n");
    }
    page
}

/// How many points were compared with float64, and which were not.
fn checks(points: &[Measured<'_>]) -> String {
    let count = |what: bool| points.iter().filter(|point| point.0["correct"] == what).count();
    let (right, wrong) = (count(true), count(false));
    let unchecked: Vec<&str> =
        points.iter().filter(|point| !point.0["correct"].is_boolean()).map(|point| point.text("point")).collect();
    let how = "against float64 on fresh random inputs, on the Hopper path and on the sm_80 path, in and out of a graph";
    let mut text =
        format!("{} of {} points were first checked {how}: {wrong} were wrong. ", right + wrong, points.len());
    if !unchecked.is_empty() {
        let _ = write!(
            text,
            "**{} were timed without a check** (`correct` is null; what the log calls wrong does not count them): {}. ",
            unchecked.len(),
            unchecked.join("; "),
        );
    }
    text
}

/// Spread beyond which a figure after another kernel is shown with its percentiles.
const SPREAD_SHOWN: f64 = 0.05;

/// How far the figures after another kernel spread, how many of them stand in for another, and how many verdicts that leaves open.
fn spreads(set: &Set<'_>, points: &[&Measured<'_>]) -> String {
    let after = || points.iter().map(|point| (set.after(point), set.target_after(point)));
    let wide = after().filter(|(after, _)| after.spread() > SPREAD_SHOWN).count();
    let widest = after().map(|(after, _)| after.spread()).fold(0.0, f64::max);
    let stand_in = after().filter(|(after, _)| after.stands_in).count();
    let open = after().filter(|(after, target)| (after.p10..after.p90).contains(target)).count();
    let mut text = format!(
        "After another kernel the 10th or 90th percentile of {wide} of {n} points is more than {:.0} % from the median (at most \
         {:.0} %): the table shows both there. At {open} of {n} the target lies between the two, so that one replay meets it and \
         another does not.",
        SPREAD_SHOWN * 100.0,
        widest * 100.0,
        n = points.len(),
    );
    if stand_in > 0 {
        let _ = write!(text, " {stand_in} figures (†) are after a plain copy kernel.");
    }
    text.push_str("\n\n");
    text
}

/// A figure after another kernel, with what must be known of it.
fn after_cell(after: &After) -> String {
    let mut text = format!("{:.2}", after.us);
    if after.spread() > SPREAD_SHOWN {
        let _ = write!(text, " ({:.2}–{:.2})", after.p10, after.p90);
    }
    if after.stands_in {
        text.push_str(" †");
    }
    text
}

fn row(page: &mut String, set: &Set<'_>, point: &Measured<'_>, with_peers: bool) {
    let mark = |us: f64, target: f64| if us <= target { "✓" } else { "over" };
    let best = |kernel: &str| -> String {
        let peer = if with_peers { set.best_peer(kernel, point) } else { None };
        match peer {
            Some((us, name, _)) if kernel == "pair" => format!(" {us:.1} ({name}) |"),
            Some((us, ..)) => format!(" {us:.1} |"),
            None => String::new(),
        }
    };
    let (pair, after) = (point.median("pair_us"), set.after(point));
    let (target, target_after) = (set.target(point), set.target_after(point));
    let _ = writeln!(
        page,
        "| {} | {:.2} | **{pair:.2}** | {target:.2} | {} | {} | {target_after:.2} | {} |{} {:.2} |{} {:.2} |{} {} | {} | {} | {:.1} | {} | {} |",
        point.text("point"),
        point.median("copy_us"),
        mark(pair, target),
        after_cell(&after),
        mark(after.us, target_after),
        best("pair"),
        point.median("shrink_us"),
        best("shrink"),
        point.median("expand_us"),
        best("expand"),
        point.number("row_tile"),
        point.number("blocks"),
        point.number("cluster"),
        point.number("plan_host_us"),
        measured(point.median("plan_device_us")),
        measured(point.median("plan_replaced_us")),
    );
}

/// A figure that runs before it was measured do not have.
fn measured(us: f64) -> String {
    if us.is_nan() { "–".to_owned() } else { format!("{us:.1}") }
}
