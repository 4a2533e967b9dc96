//! `aril trace`.

use std::path::Path;
use std::process::ExitCode;

use aril_traces::{
    ArrivalLaw, Columns, Context, Format as TraceFormat, Inspection, ReadOptions, Table, Traffic, Workload, inspect,
    read, shipped, write,
};

use super::run::{load, placed};
use super::{Format, TraceCommand, output};
use crate::builtin;
use crate::error::ArilError;
use crate::run::offer;
use crate::wrong::{Wrong, suggest};

/// The names of [`TraceFormat`], as scenarios write them.
const FORMATS: [&str; 9] =
    ["aril", "azure", "mooncake", "ragpulse", "burstgpt", "vidur", "bailian", "punica-textgen", "servegen"];

pub(super) fn trace(command: &TraceCommand) -> Result<ExitCode, ArilError> {
    match command {
        TraceCommand::Inspect { trace, trace_format, format } => {
            let table = table(trace, format_named(trace_format.as_deref())?)?;
            let inspection = inspect(&table);
            match format {
                Format::Json => output::print(&output::json(&inspection)?),
                Format::Table => output::print(&told(&table, &inspection)),
            }
        }
        TraceCommand::Convert { trace, out, trace_format, force } => {
            refuse_existing(out, *force)?;
            let table = table(trace, format_named(trace_format.as_deref())?)?;
            save(out, &table)
        }
        TraceCommand::Generate { scenario, out, force } => {
            refuse_existing(out, *force)?;
            let (document, plan) = load(&builtin::registry(), scenario, None, true)?;
            if plan.points.len() > 1 {
                let help = "set the swept values with --set, and take `sweep` out";
                return Err(Wrong::at("sweep", "a trace is made of one point, and this scenario sweeps")
                    .help(help)
                    .into());
            }
            let workload = offer(&plan, 0, 0).map_err(|error| placed(&document, error))?;
            save(out, &workload.table())
        }
    }
}

fn format_named(name: Option<&str>) -> Result<Option<TraceFormat>, ArilError> {
    let Some(name) = name else { return Ok(None) };
    serde_json::from_value(name.into()).map(Some).map_err(|_| {
        Wrong::new(format!("--trace-format {name}: there is no such format"))
            .help(suggest(name, FORMATS.into_iter(), "formats"))
            .into()
    })
}

/// A shipped trace by its name, or a file, as the canonical table.
fn table(name: &str, format: Option<TraceFormat>) -> Result<Table, ArilError> {
    let is_shipped = shipped().iter().any(|shipped| shipped.name == name);
    if !is_shipped && Path::new(name).is_file() && format != Some(TraceFormat::Servegen) && !name.contains(".tar") {
        return Ok(read(Path::new(name), format, &Columns::default(), &ReadOptions::default())?);
    }
    let mut traffic = Traffic { trace: Some(name.to_owned()), format, ..Traffic::default() };
    match workload(&traffic) {
        Ok(workload) => Ok(workload.table()),
        // A trace of lengths alone is a queue.
        Err(_) if is_shipped => {
            traffic.arrivals = Some(ArrivalLaw::Closed);
            Ok(workload(&traffic)?.table())
        }
        Err(error) => Err(error.into()),
    }
}

fn workload(traffic: &Traffic) -> Result<Workload, aril_traces::TraceError> {
    traffic.build(&Context {
        base: Path::new("."),
        seed: 1,
        as_recorded: true,
        adapter_bytes: &|_| 0,
        max_model_len: u32::MAX,
    })
}

fn refuse_existing(out: &Path, force: bool) -> Result<(), ArilError> {
    if out.exists() && !force {
        return Err(ArilError::Input {
            path: out.to_owned(),
            problem: "this file is already there".to_owned(),
            help: "choose another name, or replace it with --force".to_owned(),
        });
    }
    Ok(())
}

fn save(out: &Path, table: &Table) -> Result<ExitCode, ArilError> {
    write(out, table)?;
    output::print(&format!("{} requests in {}\n", table.len(), out.display()))
}

/// An inspection for people.
fn told(table: &Table, inspection: &Inspection) -> String {
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut row = |what: &str, value: String| rows.push(vec![what.to_owned(), value]);
    let optional = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |value| format!("{value:.3}"));
    row("requests", inspection.requests.to_string());
    row("span, s", optional(inspection.span_s));
    row("requests a second", optional(inspection.rate_per_s));
    row("variation of gaps (1: Poisson)", optional(inspection.gap_cv));
    for (bin, dispersion) in &inspection.dispersion {
        row(&format!("dispersion in {bin} s (1: Poisson)"), format!("{dispersion:.2}"));
    }
    row("busiest minute over the mean", optional(inspection.peak_to_mean_60s));
    for (what, spread) in [("prompt", &inspection.input_tokens), ("output", &inspection.output_tokens)] {
        let text = format!(
            "mean {:.1}, p50 {}, p90 {}, p99 {}, max {}",
            spread.mean, spread.p50, spread.p90, spread.p99, spread.max
        );
        row(&format!("{what} tokens"), text);
    }
    row("tenants", inspection.tenants.distinct.to_string());
    row("adapters", inspection.adapters.distinct.to_string());
    for (slots, rate) in &inspection.lru_hit_rate {
        row(&format!("LRU hits with {slots} slots"), format!("{:.1} %", rate * 100.0));
    }
    if let Some(prefix) = &inspection.prefix {
        row("prompt blocks seen before", format!("{:.1} % of {}", prefix.hit_rate * 100.0, prefix.blocks));
    }
    let headings = ["", ""].map(str::to_owned);
    let mut text = output::table(&headings, &rows);
    for note in &table.notes {
        text += &format!("note: {note}\n");
    }
    text
}
