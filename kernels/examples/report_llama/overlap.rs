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
            point["model"] == model && point["rows"] == rows && point["adapters"] == adapters
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
    }
    Ok(())
}
