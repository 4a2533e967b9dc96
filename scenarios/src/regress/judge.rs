//! What a scenario gave, against what its baseline says.

use aril_reports::change::{
    Aspect, Baseline, Entry, History, Outcome, Recording, Rules, ScenarioOutcome, Speed, compare_recordings,
};

use super::folder::ScenarioFile;
use super::runs::Ran;
use crate::error::ArilError;

/// What is written besides the report.
pub(super) struct Writing<'a> {
    pub(super) update: bool,
    pub(super) record: bool,
    pub(super) commit: &'a str,
    pub(super) at: &'a str,
    pub(super) speed: Option<&'a Speed>,
}

/// Judges one scenario, and writes its baseline and history where that was asked for.
///
/// # Errors
/// Only what the system refuses to write; everything else is an outcome.
pub(super) fn judge(
    scenario: &ScenarioFile,
    ran: Result<Ran, String>,
    rules: &Rules,
    writing: &Writing<'_>,
) -> Result<ScenarioOutcome, ArilError> {
    let outcome = ScenarioOutcome {
        file: scenario.file.clone(),
        outcome: Outcome::CannotRun,
        problem: None,
        compared: None,
        history: History::default(),
        wall_s: ran.as_ref().map_or(0.0, |ran| ran.wall_s),
    };
    let Ran { recording, .. } = match ran {
        Ok(ran) => ran,
        Err(problem) => {
            return Ok(ScenarioOutcome { problem: Some(format!("It cannot be run: {problem}")), ..outcome });
        }
    };
    let mut outcome = against(scenario, &recording, rules, outcome);
    let mut now = Entry::of(&recording, writing.commit, writing.at);
    now.speed = writing.speed.map(|speed| speed.levels(outcome.name())).unwrap_or_default();
    let mut history = match History::read(&scenario.history) {
        Ok(history) => history,
        Err(error) => {
            outcome.outcome = Outcome::CannotRun;
            outcome.problem = Some(format!("Its history cannot be read: {error}"));
            return Ok(outcome);
        }
    };
    if let Some(policy) = idle(&recording) {
        // Nothing to watch, and nothing that an update should agree to.
        if outcome.outcome != Outcome::Worse {
            outcome.outcome = Outcome::CannotRun;
            outcome.problem = Some(format!(
                "`{policy}` finishes no request: there is nothing to compare. Offer more, or run longer."
            ));
        }
        return Ok(outcome);
    }
    if writing.update && outcome.outcome != Outcome::Unchanged {
        Baseline::of(&recording)?.write(&scenario.baseline)?;
        outcome = agreed(outcome);
    }
    let is_new = writing.update && (outcome.outcome != Outcome::Unchanged || history.entries.is_empty());
    history.push(now);
    if writing.record || is_new {
        history.write(&scenario.history)?;
    }
    outcome.history = history;
    Ok(outcome)
}

fn against(scenario: &ScenarioFile, recording: &Recording, rules: &Rules, outcome: ScenarioOutcome) -> ScenarioOutcome {
    let cannot = |problem: String| ScenarioOutcome { problem: Some(problem), ..outcome.clone() };
    if !scenario.baseline.exists() {
        return cannot(format!(
            "It has no baseline: nothing says what it should give. `aril regress --update` writes {}.",
            scenario.baseline.display()
        ));
    }
    let baseline = match Baseline::read(&scenario.baseline) {
        Ok(baseline) => baseline.recording(&scenario.baseline),
        Err(error) => return cannot(format!("Its baseline cannot be used: {error}")),
    };
    let seeds = |recording: &Recording| {
        let mut seeds: Vec<u64> = recording.runs.iter().map(|run| run.run.seed).collect();
        seeds.sort_unstable();
        seeds.dedup();
        seeds
    };
    let (before, now) = (seeds(&baseline), seeds(recording));
    if before != now {
        return cannot(format!(
            "Its seeds do not match: the baseline has {}, the scenario {}. Restore them, or agree with --update.",
            list(&before),
            list(&now)
        ));
    }
    // Profile and build are what a change under test changes: they are named, and compared all the same.
    match compare_recordings(&baseline, recording, rules, &[Aspect::Profile, Aspect::Build]) {
        Ok(mut compared) => {
            // Every build differs from the one before: that says nothing.
            compared.unlike.retain(|unlike| unlike.aspect != Aspect::Build);
            compared.allowed.retain(|aspect| *aspect != Aspect::Build);
            ScenarioOutcome { outcome: Outcome::of(&compared), compared: Some(compared), ..outcome }
        }
        Err(_) => cannot(
            "The scenario is not the one that the baseline was written for. Restore it, or agree with --update."
                .to_owned(),
        ),
    }
}

/// A policy that finishes nothing with any seed.
fn idle(recording: &Recording) -> Option<&str> {
    let finishes = |policy: &str| recording.runs.iter().any(|run| run.run.policy == policy && run.finished > 0);
    recording.runs.iter().map(|run| run.run.policy.as_str()).find(|policy| !finishes(policy))
}

/// After an update: what could not be compared before can be from now on.
fn agreed(outcome: ScenarioOutcome) -> ScenarioOutcome {
    let was = outcome.outcome;
    let problem = outcome.problem.map(|problem| format!("{problem} The baseline was written."));
    ScenarioOutcome { outcome: if was == Outcome::CannotRun { Outcome::Changed } else { was }, problem, ..outcome }
}

/// A baseline or a history without its scenario.
pub(super) fn orphan(file: &str) -> ScenarioOutcome {
    ScenarioOutcome {
        file: file.to_owned(),
        outcome: Outcome::CannotRun,
        problem: Some("Its scenario is not there: bring it back, or remove this file.".to_owned()),
        compared: None,
        history: History::default(),
        wall_s: 0.0,
    }
}

fn list(seeds: &[u64]) -> String {
    let shown: Vec<String> = seeds.iter().take(8).map(u64::to_string).collect();
    let more = if seeds.len() > 8 { format!(" and {} more", seeds.len() - 8) } else { String::new() };
    format!("{}{more}", shown.join(", "))
}
