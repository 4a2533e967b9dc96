//! The tables of the ways: one a way, then padding, idle slots and merging.

use std::fmt::Write as _;

use serde_json::Value;

use crate::peers::Peers;
use crate::{Measured, WAYS, Way};

pub(crate) fn write(page: &mut String, report: &Value, slots: &Value, peers: &Peers, card: &str) {
    let points: Vec<Measured<'_>> = report["results"].as_array().into_iter().flatten().map(Measured).collect();
    let group = |name: &str| points.iter().copied().filter(|point| point.text("group") == name).collect::<Vec<_>>();
    let (table, others, padding) = (group("table"), group("other"), group("padding"));
    page.push_str(
        "Microseconds a call of y += scale·(x·A)·B: the median over replays of a CUDA graph of 4 to 32 calls, each on other \
         weights, divided by the calls, after the L2 was swept. Kernels are launched plainly unless a column says \
         *overlapped* (programmatic launches, nothing loaded before the wait). *Copy* moves the point's minimal bytes. \
         *Ours* is the fused pair of this crate in the same run, back to back. Every way was first checked against float64 on \
         fresh random inputs, launched and captured, as compiled for this card and for sm_80. *In copies* divides by the \
         same run's copy, and a published figure by the copy of its own run; *ratio* divides the two.\n\n",
    );
    summary(page, &table, peers);
    page.push_str(
        "\nWhere a way is quicker than the public implementation of the same idea, it leaves something out that the idea does \
         not need. Padded: no split of the inputs that has no inputs (64 splits of 256 where 4,096 are 16), no work on row tiles \
         without rows; the grid has vLLM's empty slots. BGMV: all loads of a thread are in flight at once, four columns a \
         thread. Gathered: the gather runs at the speed of a copy, and the second GEMM adds to y. Loop: the second GEMM adds to y. \
         So what these tables say in favour of ours is the least of it. Where a point is small and its rows share adapters \
         (gather of 64 rows of 8 adapters), *in copies* flatters whoever has the faster memory: the gathered bytes are many \
         times the minimal ones.\n",
    );
    let _ = writeln!(page, "\n![µs against adapters](prices-{card}-adapters.svg)\n");
    for way in &WAYS {
        one_way(page, way, &table, &others, peers);
    }
    padded(page, &padding);
    idle_slots(page, slots);
    merged(page, &report["merged"]);
    let left_out: Vec<&str> = report["left_out"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if !left_out.is_empty() {
        let _ = writeln!(page, "Not measured, for want of time: {}.\n", left_out.join("; "));
    }
}

/// Microseconds of a published implementation, and the copy of its run.
fn published(peers: &Peers, point: Measured<'_>, column: &str) -> Option<(f64, f64)> {
    let (rank, rows, popularity) = point.batch()?;
    let numbers = [point.number("inputs"), point.number("outputs")].map(|number| number.to_string());
    let [inputs, outputs] = numbers;
    let key = [
        "pair".to_owned(),
        point.text("element").to_owned(),
        inputs,
        outputs,
        rank.to_string(),
        rows.to_string(),
        popularity.to_owned(),
    ];
    Some((peers.us(&key, column)?, peers.us(&key, "copy_us")?))
}

fn geometric_mean(values: impl Iterator<Item = f64>) -> f64 {
    let logs: Vec<f64> = values.filter(|value| value.is_finite()).map(f64::ln).collect();
    (logs.iter().sum::<f64>() / logs.len() as f64).exp()
}

fn summary(page: &mut String, table: &[Measured<'_>], peers: &Peers) {
    page.push_str(
        "Geometric means over the 40 points of the published comparison:\n\n\
         | way | in copies | × ours | public | its in copies | µs ÷ its µs | ratio in copies |\n|---|---|---|---|---|---|---|\n",
    );
    for way in &WAYS {
        let pair = |point: &Measured<'_>| point.way(way.key, "pair_us");
        let public: Vec<(f64, f64, f64, f64)> = table
            .iter()
            .filter_map(|point| {
                let (us, copy) = published(peers, *point, way.peer)?;
                pair(point).is_finite().then(|| (pair(point), point.median("copy_us"), us, copy))
            })
            .collect();
        let _ = writeln!(
            page,
            "| {} | {:.2} | {:.2} | {} | {:.2} | {:.2} | {:.2} |",
            way.name,
            geometric_mean(table.iter().map(|point| pair(point) / point.median("copy_us"))),
            geometric_mean(table.iter().map(|point| pair(point) / point.median("ours_us"))),
            way.peer_name,
            geometric_mean(public.iter().map(|(_, _, us, copy)| us / copy)),
            geometric_mean(public.iter().map(|(mine, _, us, _)| mine / us)),
            geometric_mean(public.iter().map(|(mine, here, us, copy)| mine / here / (us / copy))),
        );
    }
}

fn one_way(page: &mut String, way: &Way, table: &[Measured<'_>], others: &[Measured<'_>], peers: &Peers) {
    let title = format!("{}{}", way.name[..1].to_uppercase(), &way.name[1..]);
    let _ = writeln!(
        page,
        "## {title}\n\n{}\n\n| point | copy | pair | overlapped | shrink | expand | in copies | {} | in copies | ratio | ours |\n\
         |---|---|---|---|---|---|---|---|---|---|---|",
        way.note, way.peer_name
    );
    for point in table.iter().chain(others) {
        let figure = |key: &str| number(point.way(way.key, key), 2);
        let (pair, copy) = (point.way(way.key, "pair_us"), point.median("copy_us"));
        let public = published(peers, *point, way.peer);
        let public_copies = public.map_or(f64::NAN, |(us, copy)| us / copy);
        let _ = writeln!(
            page,
            "| {} | {:.2} | **{}** | {} | {} | {} | {} | {} | {} | {} | {:.2} |",
            point.text("point"),
            copy,
            number(pair, 2),
            figure("pair_overlapping_us"),
            figure("shrink_us"),
            figure("expand_us"),
            number(pair / copy, 2),
            number(public.map_or(f64::NAN, |(us, _)| us), 1),
            number(public_copies, 2),
            number(pair / copy / public_copies, 2),
            point.median("ours_us"),
        );
    }
    page.push('\n');
}

fn number(value: f64, digits: usize) -> String {
    if value.is_finite() { format!("{value:.digits$}") } else { "–".to_owned() }
}

fn padded(page: &mut String, padding: &[Measured<'_>]) {
    let mut paddings: Vec<u32> = padding.iter().map(|point| point.number("padded_to") as u32).collect();
    paddings.sort_unstable();
    paddings.dedup();
    let columns: Vec<String> = paddings.iter().map(|rank| format!("padded to {rank}")).collect();
    let _ = writeln!(
        page,
        "## What padding and idle slots cost\n\nThe padded kernels on adapters of rank 16, bf16 4096→4096, microseconds a pair.\n\n\
         | batch | ours | {} |\n|---|---|{}",
        columns.join(" | "),
        "---|".repeat(paddings.len())
    );
    let base = |point: &Measured<'_>| point.text("batch").split(", padded").next().unwrap_or_default().to_owned();
    let mut seen = Vec::new();
    for point in padding {
        let name = base(point);
        if seen.contains(&name) {
            continue;
        }
        let cells: Vec<String> = paddings
            .iter()
            .map(|&rank| {
                let found =
                    padding.iter().find(|other| base(other) == name && other.number("padded_to") == f64::from(rank));
                number(found.map_or(f64::NAN, |found| found.way("padded", "pair_us")), 2)
            })
            .collect();
        let _ = writeln!(page, "| {name} | {:.2} | {} |", point.median("ours_us"), cells.join(" | "));
        seen.push(name);
    }
    page.push('\n');
}

/// What adapters that no row uses cost, from a run of its own.
fn idle_slots(page: &mut String, report: &Value) {
    let Some(points) = report["results"].as_array() else { return };
    let _ = writeln!(
        page,
        "Slots that no row uses, 32 rows of 8 adapters of rank 16, from an earlier run ({}, {}, kernel sources `{:.12}`), in which a \
         memset zeroed v:\n\n| batch | ours | padded |\n|---|---|---|",
        report["gpu"].as_str().unwrap_or("?"),
        report["date"].as_str().unwrap_or("?"),
        report["source_sha256"].as_str().unwrap_or("?"),
    );
    for point in points.iter().map(Measured) {
        let (ours, padded) = (point.median("ours_us"), point.way("padded", "pair_us"));
        let _ = writeln!(page, "| {} | {ours:.2} | {padded:.2} |", point.text("batch"));
    }
    page.push('\n');
}

fn merged(page: &mut String, merged: &Value) {
    let Some(times) = merged["times"].as_array() else { return };
    let _ = writeln!(
        page,
        "## Merged into the base weights\n\nW += scale·A·B for all seven projections of all {} layers of {}, a launch each; a \
         switch is an unmerge and a merge by the quicker of the two. *Copy* moves the same bytes.\n\n| rank | merge, ms | by GEMMs with beta = 1, ms | copy, ms | a switch, ms |\n|---|---|---|---|---|",
        merged["layers"],
        merged["model"].as_str().unwrap_or("?"),
    );
    for time in times.iter().map(Measured) {
        let _ = writeln!(
            page,
            "| {} | {:.2} | {:.2} | {:.2} | **{:.2}** |",
            time.number("rank"),
            time.median("merge_us") / 1e3,
            time.median("merge_by_gemm_us") / 1e3,
            time.number("copy_us") / 1e3,
            2.0 * time.median("merge_us").min(time.median("merge_by_gemm_us")) / 1e3,
        );
    }
    page.push('\n');
}
