//! `aril trace`.

use std::path::Path;
use std::process::ExitCode;

use aril_traces::{
    Columns, Context, Format as TraceFormat, Inspection, ReadOptions, Table, TraceError, Traffic, Workload, inspect,
    read, shipped, write,
};

use super::run::{load, placed};
use super::{Format, TraceArguments, TraceCommand, output};
use crate::builtin;
use crate::error::ArilError;
use crate::run::offer;
use crate::wrong::{Wrong, suggest};

/// The names of [`TraceFormat`], as scenarios write them.
const FORMATS: [&str; 9] =
    ["aril", "azure", "mooncake", "ragpulse", "burstgpt", "vidur", "bailian", "punica-textgen", "servegen"];

/// The names of [`Columns`].
const COLUMNS: [&str; 8] =
    ["arrival", "tenant", "adapter", "rank", "input_tokens", "output_tokens", "max_tokens", "prefix"];

pub(super) fn trace(command: &TraceCommand) -> Result<ExitCode, ArilError> {
    match command {
        TraceCommand::Inspect { trace, format } => {
            let table = table(trace)?;
            let inspection = inspect(&table);
            match format {
                Format::Json => output::print(&output::json(&inspection)?),
                Format::Table => output::print(&told(&table, &inspection)),
            }
        }
        TraceCommand::Convert { trace, out, force } => {
            refuse_existing(out, *force)?;
            save(out, &table(trace)?)
        }
        TraceCommand::Generate { scenario, out, force } => {
            refuse_existing(out, *force)?;
            if let Some(seeds) = scenario.seeds.filter(|seeds| *seeds != 1) {
                let problem = format!("--seeds {seeds}: a trace is the traffic of one seed");
                return Err(Wrong::new(problem).help("choose it with --seed, and write a file for each").into());
            }
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

/// A word of the command line as the choice that scenarios write so.
fn word<T: serde::de::DeserializeOwned>(
    option: &str,
    name: Option<&str>,
    known: &[&'static str],
) -> Result<Option<T>, ArilError> {
    let Some(name) = name else { return Ok(None) };
    serde_json::from_value(name.into()).map(Some).map_err(|_| {
        Wrong::new(format!(
            "{option} {name}: there is no such {}",
            option.trim_start_matches("--").replace("trace-", "")
        ))
        .help(suggest(name, known.iter().copied(), "known"))
        .into()
    })
}

/// `arrival=ts`, and so on.
fn columns(arguments: &[String]) -> Result<Columns, ArilError> {
    let mut named = serde_json::Map::new();
    for argument in arguments {
        let Some((name, column)) = argument.split_once('=') else {
            return Err(Wrong::new(format!("--columns {argument}: there is no `=`"))
                .help("write --columns NAME=COLUMN, such as --columns arrival=ts,input_tokens=prompt")
                .into());
        };
        if !COLUMNS.contains(&name) {
            return Err(Wrong::new(format!("--columns {argument}: a trace has no `{name}`"))
                .help(suggest(name, COLUMNS.into_iter(), "it has"))
                .into());
        }
        if named.insert(name.to_owned(), column.into()).is_some() {
            return Err(Wrong::new(format!("--columns: `{name}` is there twice")).into());
        }
    }
    serde_json::from_value(named.into()).map_err(|error| Wrong::new(format!("--columns: {error}")).into())
}

/// A shipped trace by its name, or a file, as the canonical table.
fn table(arguments: &TraceArguments) -> Result<Table, ArilError> {
    let name = arguments.trace.as_str();
    let format: Option<TraceFormat> = word("--trace-format", arguments.trace_format.as_deref(), &FORMATS)?;
    let columns = columns(&arguments.columns)?;
    let units = ["s", "ms", "us", "ns", "ps", "rfc3339"];
    let options = ReadOptions {
        arrival_unit: word("--arrival-unit", arguments.arrival_unit.as_deref(), &units)?,
        sort: arguments.sort.then_some(true),
        failures: word("--failures", arguments.failures.as_deref(), &["drop", "keep", "refuse"])?.unwrap_or_default(),
    };
    let on_file = |error: TraceError| in_options(error.into());
    if let Some(shipped) = shipped().iter().find(|shipped| shipped.name == name && shipped.lists_requests()) {
        return shipped.read_with(&columns, &options).map_err(on_file);
    }
    let is_shipped = shipped().iter().any(|shipped| shipped.name == name);
    if !is_shipped && Path::new(name).is_file() && format != Some(TraceFormat::Servegen) && !name.contains(".tar") {
        return read(Path::new(name), format, &columns, &options).map_err(on_file);
    }
    let ReadOptions { arrival_unit, sort, failures } = options;
    let trace = Some(name.to_owned());
    let traffic = Traffic { trace, format, columns, arrival_unit, sort, failures, ..Traffic::default() };
    Ok(workload(&traffic).map_err(on_file)?.table())
}

/// The same problem with the options of this command where a scenario has keys.
fn in_options(error: ArilError) -> ArilError {
    const WORDS: [(&str, &str); 12] = [
        (
            "`columns = { arrival = …, input_tokens = …, output_tokens = … }`",
            "`--columns arrival=…,input_tokens=…,output_tokens=…`",
        ),
        ("under `columns`", "with `--columns`"),
        ("`format = \"servegen\"`", "`--trace-format servegen`"),
        ("`format`", "`--trace-format`"),
        ("`sort = true`", "`--sort`"),
        ("`arrival_unit = \"ms\"`", "`--arrival-unit ms`"),
        ("`arrival_unit`", "`--arrival-unit`"),
        ("`failures = \"drop\"`", "`--failures drop`"),
        ("`failures = \"keep\"`", "`--failures keep`"),
        ("read the trace without its column `max_tokens`", "take its column `max_tokens` out"),
        ("; paths are relative to the scenario file", ""),
        ("traffic.", ""),
    ];
    let reworded = |text: String| WORDS.iter().fold(text, |text, (key, option)| text.replace(key, option));
    match error {
        // What the system refuses has an exit code of its own.
        ArilError::Trace(TraceError::Io { .. }) => error,
        ArilError::Trace(error) => Wrong::new(reworded(error.to_string())).into(),
        ArilError::Scenario(wrong) => {
            let help = wrong.help.map(reworded);
            ArilError::Scenario(Wrong { problem: reworded(wrong.problem), path: Vec::new(), help, ..wrong })
        }
        other => other,
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
    write(out, table).map_err(|error| match error {
        TraceError::Io { source, .. } => ArilError::io("write", out)(source),
        other => other.into(),
    })?;
    output::print(&format!("{} requests in {}\n{}", table.len(), out.display(), unread(table)))
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
    text + &unread(table)
}

/// Which columns of the file say nothing here.
fn unread(table: &Table) -> String {
    match table.ignored.as_slice() {
        [] => String::new(),
        names => format!("note: columns that are not read: {}\n", names.join(", ")),
    }
}
