//! `aril compare`: what moved between two run directories.

use std::path::PathBuf;
use std::process::ExitCode;

use aril_reports::change::{
    Aspect, Compared, Recording, Row, Rules, Threshold, Thresholds, Verdict, compare_recordings, key, markdown_of,
    metric_of,
};
use aril_reports::format;
use clap::ValueEnum;

use crate::error::ArilError;
use crate::wrong::suggest;

/// What the program ends with, told apart for scripts.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
    0   better or the same
    2   the command line is wrong; a result cannot be read; or the two cannot be compared
    10  worse
    12  cannot tell";

/// Worse than before.
pub(crate) const WORSE: u8 = 10;
/// Nothing can be told.
const CANNOT_TELL: u8 = 12;

#[derive(Debug, clap::Args)]
pub(crate) struct CompareArguments {
    /// The base: a run directory, its summary.json, or a baseline of `aril regress`.
    base: PathBuf,
    /// What is compared with it.
    new: PathBuf,
    /// Compare all the same although these differ; may be given several times, or with commas between.
    #[arg(long, value_delimiter = ',', value_name = "ASPECT")]
    allow: Vec<Allowed>,
    #[command(flatten)]
    rules: RuleArguments,
    /// As a table for people, as Markdown for comments, or as JSON for programs.
    #[arg(long, default_value = "table")]
    format: CompareFormat,
    /// Show every comparison, not only what moved.
    #[arg(long)]
    all: bool,
}

/// How changes are judged.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct RuleArguments {
    /// The chance of a false alarm, over all comparisons of a scenario together [default: 0.01].
    #[arg(long)]
    pub(crate) alpha: Option<f64>,
    /// The least change of a metric that matters, such as ttft-p99=2%, attainment=0.5pp or preemptions=5; may be given several times
    /// [default: 1%, 0.5pp of shares].
    #[arg(long, value_name = "METRIC=LEAST")]
    pub(crate) threshold: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Allowed {
    /// Another question was asked.
    Scenario,
    /// Steps cost something else.
    Profile,
    /// Another build ran it.
    Build,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CompareFormat {
    /// For people.
    Table,
    /// For comments.
    Markdown,
    /// For programs.
    Json,
}

impl RuleArguments {
    /// Over these rules.
    ///
    /// # Errors
    /// An alpha that is no chance, an unknown metric, a threshold that is none.
    pub(crate) fn over(&self, mut rules: Rules) -> Result<Rules, ArilError> {
        rules.alpha = self.alpha.unwrap_or(rules.alpha);
        if !(rules.alpha > 0.0 && rules.alpha < 1.0) {
            return Err(argument(
                "--alpha",
                format!("{} is no chance", rules.alpha),
                "a number between 0 and 1, such as 0.01".to_owned(),
            ));
        }
        for text in &self.threshold {
            let (name, least) = text.split_once('=').ok_or_else(|| {
                argument(
                    "--threshold",
                    format!("`{text}` has no `=`"),
                    "write METRIC=LEAST, such as ttft-p99=2%".to_owned(),
                )
            })?;
            let metric = metric_of(name.trim()).ok_or_else(|| {
                let names: Vec<String> = aril_reports::change::WATCHED.iter().map(|metric| key(*metric)).collect();
                let help = suggest(name.trim(), names.iter().map(String::as_str), "watched");
                argument("--threshold", format!("there is no metric `{name}`"), help)
            })?;
            let least: Threshold =
                least.parse().map_err(|problem: String| argument("--threshold", problem, String::new()))?;
            rules.thresholds.of.insert(metric, least);
        }
        Ok(rules)
    }
}

fn argument(which: &str, problem: String, help: String) -> ArilError {
    ArilError::Input { path: which.into(), problem, help }
}

/// Compares, and says what to print and what to end with.
pub(crate) fn compare(arguments: &CompareArguments) -> Result<(String, ExitCode), ArilError> {
    let rules = arguments.rules.over(Rules { thresholds: Thresholds::default(), ..Rules::default() })?;
    let allowed: Vec<Aspect> = arguments
        .allow
        .iter()
        .map(|allowed| match allowed {
            Allowed::Scenario => Aspect::Scenario,
            Allowed::Profile => Aspect::Profile,
            Allowed::Build => Aspect::Build,
        })
        .collect();
    let base = Recording::read(&arguments.base)?;
    let new = Recording::read(&arguments.new)?;
    let compared = compare_recordings(&base, &new, &rules, &allowed)?;
    let text = match arguments.format {
        CompareFormat::Table => told(&compared, arguments.all),
        CompareFormat::Markdown => markdown_of(&compared),
        CompareFormat::Json => serde_json::to_string_pretty(&compared).map_err(aril_reports::ReportError::from)? + "\n",
    };
    let code = match compared.verdict {
        Verdict::Worse => WORSE,
        Verdict::CannotTell => CANNOT_TELL,
        Verdict::Better | Verdict::Same => 0,
    };
    Ok((text, ExitCode::from(code)))
}

fn told(compared: &Compared, all: bool) -> String {
    let mut text = String::new();
    for unlike in &compared.unlike {
        text += &format!("{unlike} (allowed by --allow {})\n", unlike.aspect.name());
    }
    text += &format!("{}\n", compared.sentence());
    text += &format!("base: {}\nnew:  {}\n", compared.base, compared.new);
    text += &format!(
        "{} of {} common runs are the same to the last digit\n",
        compared.runs.identical, compared.runs.common
    );
    for note in &compared.notes {
        text += &format!("note: {note}\n");
    }
    let rows: Vec<&Row> = if all { compared.rows.iter().collect() } else { compared.moved() };
    if !rows.is_empty() {
        text.push('\n');
        let confidence = format!("{} interval", format::percent(1.0 - compared.rules.alpha));
        let headings =
            ["policy", "metric", "base", "new", "change", &confidence, "matters from", "verdict"].map(str::to_owned);
        text += &table(&headings, rows.into_iter());
    }
    text
}

fn table<'a>(headings: &[String], rows: impl Iterator<Item = &'a Row>) -> String {
    let rows: Vec<Vec<String>> = rows
        .map(|row| {
            let (base, new) = row.values();
            vec![
                row.of_whom(),
                row.subject.metric.title().to_owned(),
                base,
                new,
                row.change(),
                row.interval(),
                row.threshold(),
                row.said(),
            ]
        })
        .collect();
    crate::cli::output::table(headings, &rows)
}
