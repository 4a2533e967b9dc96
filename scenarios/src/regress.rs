//! `aril regress`: a folder of scenarios against their committed baselines.
//!
//! Read in this order: [`folder`] (what lies in it), [`runs`] (running all of it), [`judge`] (against the baselines), [`speed`].

#[cfg(test)]
mod acceptance;
mod commit;
#[cfg(test)]
mod coverage;
mod folder;
mod judge;
mod lock;
mod runs;
mod speed;

use std::path::PathBuf;
use std::process::ExitCode;

use aril_reports::change::{Outcome, Regression, SCHEMA, write_regression};
use aril_reports::{Existing, RunDir};

use crate::compare_command::{RuleArguments, WORSE};
use crate::error::ArilError;
use crate::manifest::build;
use crate::registry::Registry;

use self::folder::Folder;
use self::lock::Lock;

/// What the program ends with, told apart for CI.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
    0   every scenario behaves as its baseline says; with --update, the baselines were written
    2   the command line or the folder is wrong
    4   the system refused to read or write
    10  worse: behaviour or speed
    11  changed: behaviour is not what the baseline says, and nothing is known to be worse
    13  cannot run: a scenario fails, has no baseline or another one than its own, or a baseline has no scenario";

/// Behaviour changed.
const CHANGED: u8 = 11;
/// Something could not be run or compared.
const CANNOT_RUN: u8 = 13;

#[derive(Debug, clap::Args)]
pub(crate) struct RegressArguments {
    /// The folder: NAME.toml are scenarios, NAME.baseline.toml what they gave, NAME.history.jsonl what they gave over time, and
    /// regress.toml the rules.
    folder: PathBuf,
    /// Write what the scenarios give now as their baselines, and show what moved.
    #[arg(long)]
    update: bool,
    /// Add what the scenarios give now to their histories, whether or not it moved.
    #[arg(long)]
    record: bool,
    /// Where report.html, summary.md, junit.xml, summary.json and plots/ go; replaced if it is one of ours.
    #[arg(long, value_name = "DIR", default_value = "regress-report")]
    out: PathBuf,
    /// Only this scenario; may be given several times.
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    #[command(flatten)]
    rules: RuleArguments,
    /// What to call this commit [default: as git does].
    #[arg(long, value_name = "NAME")]
    commit: Option<String>,
    /// Compare the speed of this program with that of another build of it, by paired runs.
    #[arg(long, value_name = "PROGRAM")]
    speed_base: Option<PathBuf>,
    /// Pairs of timed runs of each scenario.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(2..=1000))]
    pairs: u32,
    /// How many threads [default: all cores], at most four a core. Results do not depend on it.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    threads: Option<u32>,
    /// Print the Markdown summary, not only a line for each scenario.
    #[arg(long)]
    markdown: bool,
}

/// Runs, compares, writes; says what to print and what to end with.
pub(crate) fn regress(registry: &Registry, arguments: &RegressArguments) -> Result<(String, ExitCode), ArilError> {
    let writes = arguments.update || arguments.record;
    let lock = writes.then(|| Lock::take(&arguments.folder)).transpose()?;
    let folder = Folder::read(&arguments.folder, &arguments.only)?;
    let rules = arguments.rules.over(folder.rules.behaviour())?;
    let directory = RunDir::create(&arguments.out, Existing::Replace)?;
    let guard = crate::interrupt::guard(directory.path(), directory.made());
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(crate::run::threads(arguments.threads.map(|threads| threads as usize), usize::MAX))
        .build()
        .map_err(|error| ArilError::io("start threads for", &arguments.out)(std::io::Error::other(error)))?;
    let ran = pool.install(|| runs::all(registry, &folder));
    let speed = match &arguments.speed_base {
        Some(base) => Some(speed::measure(&folder, base, arguments.pairs, folder.rules.speed)?),
        None => None,
    };
    let commit = arguments.commit.clone().unwrap_or_else(|| commit::name(&folder));
    let at = crate::run::now();
    let writing = judge::Writing {
        update: arguments.update,
        record: arguments.record,
        commit: &commit,
        at: &at,
        speed: speed.as_ref(),
    };
    let mut scenarios = Vec::with_capacity(ran.len());
    for (scenario, ran) in folder.scenarios.iter().zip(ran) {
        scenarios.push(judge::judge(scenario, ran, &rules, &writing)?);
    }
    scenarios.extend(folder.orphans.iter().map(|orphan| judge::orphan(orphan)));
    drop(lock);
    let outcome = Regression::overall(&scenarios, speed.as_ref());
    let regression = Regression {
        schema: SCHEMA.to_owned(),
        folder: arguments.folder.display().to_string(),
        commit,
        build: format!("aril {} ({})", build().version, build().commit),
        rules,
        outcome,
        updated: arguments.update,
        scenarios,
        speed,
    };
    write_regression(&regression, directory.path())?;
    drop(guard);
    let written = directory.commit()?;
    let mut text = told(&regression, arguments.markdown);
    text += &format!("\n{}\n", written.join("report.html").display());
    let code = match outcome {
        Outcome::CannotRun => CANNOT_RUN,
        // What was agreed to by --update is what is expected from now on.
        _ if arguments.update && regression.speed.is_none() => 0,
        Outcome::Worse => WORSE,
        Outcome::Changed => CHANGED,
        Outcome::Unchanged => 0,
    };
    Ok((text, ExitCode::from(code)))
}

fn told(regression: &Regression, markdown: bool) -> String {
    if markdown {
        return aril_reports::change::markdown(regression);
    }
    let mut scenarios: Vec<_> = regression.scenarios.iter().collect();
    scenarios.sort_by_key(|scenario| std::cmp::Reverse(scenario.outcome));
    let width = scenarios.iter().map(|scenario| scenario.name().chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for scenario in scenarios {
        let sentence = crate::source::printable(&scenario.sentence().replace('\n', " "));
        text += &format!(
            "{:<10}  {:<width$}  {sentence}\n",
            scenario.outcome.name(),
            crate::source::printable(scenario.name())
        );
    }
    format!("{text}\n{}\n", regression.sentence())
}
