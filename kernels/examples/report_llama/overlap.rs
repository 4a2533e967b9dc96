//! The table of where adapters may stand in a step and how their work may be cut.

use std::fmt::Write as _;

use serde_json::Value;

use crate::{Failure, list, summary};

/// (rows, adapters) of the table's columns.
const BATCHES: [(u64, u64); 3] = [(32, 32), (32, 1), (8, 8)];

pub(crate) fn write(page: &mut String, report: &Value, name: &str, heading: &str) -> Result<(), Failure> {
    let text = |key: &str| report[key].as_str().unwrap_or("unknown").to_owned();
    writeln!(
        page,
        "\n## {heading}\n\nFrom `{name}`, measured by `bench_llama overlap` on {} at {} (kernel sources `{}`): context 1,024, rank 16; what adapters add, µs, and beside it the step without them. *Blocks* over which all adapters of a launch are spread, *shared memory* of each, the *exchange* of their sums, and when the launch *releases* the next one; *stages* of the GEMM's ring. Where nothing is named the plan chooses.\n",
        text("gpu"),
        text("date"),
        text("source_sha256"),
    )?;
    let points = list(report, "overlap")?;
    let mut models: Vec<&str> = points.iter().filter_map(|point| point["model"].as_str()).collect();
    models.dedup();
    for model in models {
        writeln!(
            page,
            "{model}:\n\n| order | blocks | shared memory | exchange | release | stages | 32 rows of 32 adapters | 32 rows of one | 8 rows of 8 |\n|---|---|---|---|---|---|---|---|---|"
        )?;
        let of = |point: &Value, (rows, adapters): (u64, u64)| {
            point["model"] == model && point["rows"] == rows && point["adapters"] == adapters && chunk(point) == 0
        };
        let choices = ["order", "blocks", "shared_bytes", "exchange", "release", "stages"];
        for way in points.iter().filter(|point| of(point, BATCHES[0])) {
            let mut line = String::from("|");
            for key in choices {
                let value = &way[key];
                let said = if value.is_null() { "–".to_owned() } else { value.to_string().replace('"', "") };
                write!(line, " {said} |")?;
            }
            for batch in BATCHES {
                let same = |point: &&Value| of(point, batch) && choices.iter().all(|&key| point[key] == way[key]);
                let Some(point) = points.iter().find(same) else {
                    line += " – |";
                    continue;
                };
                let (with, without) = (summary(point, "with_us")?.median, summary(point, "without_us")?.median);
                write!(line, " **{:+.0}** ({without:.0}) |", with - without)?;
            }
            writeln!(page, "{line}")?;
        }
        writeln!(page)?;
        let prompts: Vec<&Value> = points.iter().filter(|point| point["model"] == model && chunk(point) > 0).collect();
        if prompts.is_empty() {
            continue;
        }
        writeln!(
            page,
            "A step of nothing but a chunk of a prompt, with one adapter, behind the library's GEMM; the card rests four times as long after each replay: without, a few replays bring it to its power limit, and what is timed later, with adapters or without, is slower by more than adapters take.\n\n| tokens | release | adapters add, µs | without, µs (10th–90th percentile) |\n|---|---|---|---|"
        )?;
        for point in prompts {
            let (with, without) = (summary(point, "with_us")?, summary(point, "without_us")?);
            writeln!(
                page,
                "| {} | {} | **{:+.0}** | {:.0} ({:.0}–{:.0}) |",
                chunk(point),
                point["release"].as_str().unwrap_or("–"),
                with.median - without.median,
                without.median,
                without.p10,
                without.p90,
            )?;
        }
        writeln!(page)?;
    }
    Ok(())
}

/// Tokens of a prompt in the step; older measurements have none.
fn chunk(point: &Value) -> u64 {
    point["chunk"].as_u64().unwrap_or(0)
}
