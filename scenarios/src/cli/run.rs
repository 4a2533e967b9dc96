//! `aril run`.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use aril_reports::expectation::Judgement;
use aril_reports::{Existing, Summary};

use super::{ExecutorArgument, Format, RunArguments, ScenarioArguments, output};
use crate::document::{Changes, Document, swept_path};
use crate::error::ArilError;
use crate::manifest;
use crate::plan::Plan;
use crate::registry::Registry;
use crate::run::{ExecutorChoice, Options, Outcome, run as run_plan};
use crate::setup::of_what_is_written;

/// Reads a scenario as the command line changes it; `profile` is what every pool's steps cost, instead of what the pool says.
pub(super) fn load(
    registry: &Registry,
    arguments: &ScenarioArguments,
    profile: Option<&str>,
    tables: bool,
) -> Result<(Document, Plan), ArilError> {
    let mut set = arguments.set.clone();
    if !tables {
        set.extend(["report.tables=false", "report.timeline_events=0"].map(str::to_owned));
    }
    if let Some(profile) = profile {
        // A path of the command line begins where the command was given, one of a scenario where its file lies.
        let path = Path::new(profile);
        let named = match path.is_file() {
            true => std::path::absolute(path).map_err(ArilError::io("find", path))?.display().to_string(),
            false => profile.to_owned(),
        };
        let bare = Changes { set: arguments.set.clone(), seed: arguments.seed, seeds: arguments.seeds };
        let document = Document::load(&arguments.scenario, &bare)?;
        let pools = document.root.get(&["pool"]).map(|pools| pools.entries()).unwrap_or_default();
        if pools.is_empty() {
            set.push("pool.default.replicas=1".to_owned());
            set.push(format!("pool.default.profile={named:?}"));
        }
        set.extend(pools.iter().map(|pool| format!("pool.{}.profile={named:?}", pool.key)));
    }
    let changes = Changes { set, seed: arguments.seed, seeds: arguments.seeds };
    let document = Document::load(&arguments.scenario, &changes)?;
    let plan = Plan::new(&document, registry, &arguments.policy)?;
    Ok((document, plan))
}

pub(super) fn run(registry: &Registry, arguments: &RunArguments) -> Result<ExitCode, ArilError> {
    let (document, plan) = load(registry, &arguments.scenario, arguments.profile.as_deref(), !arguments.no_tables)?;
    let inputs = manifest::inputs(&plan)?;
    for note in manifest::verify(&document, &inputs)? {
        let _ = writeln!(std::io::stderr(), "note: {note}");
    }
    warn(&plan);
    let options = Options {
        out: arguments.out.clone().unwrap_or_else(|| default_out(&plan)),
        existing: if arguments.force { Existing::Replace } else { Existing::Refuse },
        threads: arguments.threads.map(|threads| threads as usize),
        executor: match arguments.executor {
            ExecutorArgument::Modelled => ExecutorChoice::Modelled,
            ExecutorArgument::Gpu => ExecutorChoice::Gpu,
        },
        progress: !arguments.quiet && std::io::stderr().is_terminal(),
    };
    let outcome = run_plan(&plan, &inputs, &options).map_err(|error| placed(&document, error))?;
    let text = match arguments.format {
        Format::Json => output::json(&outcome.summary)?,
        Format::Table => told(&outcome),
    };
    if let Err(error) = output::print(&text) {
        let _ = writeln!(std::io::stderr(), "note: {} is complete", outcome.directory.display());
        return Err(error);
    }
    let missed = outcome.summary.expectations.iter().any(|table| {
        let (holds, judged) = table.score();
        holds < judged
    });
    Ok(ExitCode::from(u8::from(missed)))
}

/// Says on standard error which profiles are of other kernels than those of this build.
pub(super) fn warn(plan: &Plan) {
    let mut told: Vec<&str> = Vec::new();
    for profile in plan.variants.iter().flat_map(|variant| &variant.setup.profiles) {
        if let Some(doubt) = aril_calibrate::check::other_kernels(profile)
            && !told.contains(&profile.name.as_str())
        {
            let _ = writeln!(std::io::stderr(), "warning: {}: {doubt}", profile.name);
            told.push(&profile.name);
        }
    }
}

/// A problem found later than the tree was read still has its line.
pub(crate) fn placed(document: &Document, error: ArilError) -> ArilError {
    match error {
        ArilError::Scenario(wrong) => {
            let wrong = of_what_is_written(&document.root, wrong);
            let swept = document.root.get(&["sweep"]).and_then(|sweep| {
                let is_it = |path: &crate::node::KeyPath| path.iter().map(|(key, _)| key).eq(&wrong.path);
                sweep.entries().iter().find(|axis| swept_path(&axis.key, &axis.origin).is_ok_and(|path| is_it(&path)))
            });
            match swept {
                // One of the values there, whatever the base says.
                Some(axis) => wrong.from_origin(&axis.node.origin).into(),
                None => document.root.place(wrong).into(),
            }
        }
        other => other,
    }
}

fn default_out(plan: &Plan) -> PathBuf {
    let kept = |c: char| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '_' };
    let name: String = plan.scenario.name.chars().map(kept).take(100).collect();
    let name = name.trim_start_matches('.');
    Path::new("runs").join(if name.is_empty() { "unnamed" } else { name })
}

/// The comparison for a terminal.
fn told(outcome: &Outcome) -> String {
    let summary = &outcome.summary;
    let mut text = String::new();
    for table in aril_reports::tables(&summary.comparison) {
        if !table.title.is_empty() {
            text += &format!("\n{}\n", table.title);
        }
        text += &output::table(&table.headings, &table.rows);
        text += &format!("{}\n", table.verdict);
    }
    if summary.comparison.points.len() > 1 {
        text += &format!("\n{}\n", summary.comparison.verdict.sentence);
    }
    let legend = aril_reports::legend(&summary.comparison);
    if !legend.is_empty() {
        text += &format!("{legend}\n");
    }
    for note in &summary.comparison.notes {
        text += &format!("note: {note}\n");
    }
    // Whoever thinks of adapters and has none of them should not have to open the report.
    for note in summary.trust.not_modelled.iter().filter_map(|note| note.strip_prefix("traffic: no adapters: ")) {
        text += &format!("note: no adapters: {note}\n");
    }
    text += &expected(summary);
    text += &trust(summary);
    text += &format!("{}\n", outcome.directory.join("report.html").display());
    text
}

fn expected(summary: &Summary) -> String {
    let mut text = String::new();
    for table in &summary.expectations {
        let mut headings = table.axes.clone();
        headings.extend(["published", "ours", "deviation", ""].map(str::to_owned));
        let rows: Vec<Vec<String>> = table
            .rows
            .iter()
            .map(|cell| {
                let number = |value: f64| format!("{value:.1}");
                let mut row = cell.labels.clone();
                row.push(number(cell.published));
                row.push(cell.ours.map_or_else(|| "–".to_owned(), number));
                row.push(cell.deviation().map_or_else(String::new, aril_reports::format::deviation));
                row.push(match cell.judgement() {
                    Judgement::Holds => "holds".to_owned(),
                    Judgement::Misses => "MISSES".to_owned(),
                    Judgement::Fitted => "fitted".to_owned(),
                    Judgement::Missing => "no run".to_owned(),
                    Judgement::Exempt => format!("exempt: {}", cell.exempt.as_deref().unwrap_or_default()),
                });
                row
            })
            .collect();
        let (holds, judged) = table.score();
        text += &format!("\n{} ({})\n", table.title, table.source);
        text += &output::table(&headings, &rows);
        text += &format!("{holds} of {judged} judged cells are within their tolerance\n");
    }
    text
}

/// One line: what the figures rest on.
fn trust(summary: &Summary) -> String {
    let profiles: Vec<String> =
        summary.trust.profiles.iter().map(|profile| format!("{} ({})", profile.name, profile.kind.name())).collect();
    let coverage = &summary.trust.coverage;
    let outside = match (coverage.outside_least(), coverage.lookups) {
        (0, _) | (_, 0) => String::new(),
        (outside, lookups) => {
            format!("; {:.2} % of cost look-ups outside their range", outside as f64 * 100.0 / lookups as f64)
        }
    };
    format!("\ncosts: {}{outside}\n", profiles.join(", "))
}
