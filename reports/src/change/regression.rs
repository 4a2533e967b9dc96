//! A folder of scenarios against its baselines.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::compared::{Compared, Rules, Verdict};
use super::history::History;
use super::speed::Speed;

/// What `schema` says in a `summary.json` of this version.
pub const SCHEMA: &str = "aril-regression/1";

/// What became of a scenario, or of all; the worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The same happened, to the last digit.
    Unchanged,
    /// Something else happened, and nothing is known to be worse.
    Changed,
    /// Something else happened, and it is worse.
    Worse,
    /// It could not be run, or there was nothing to compare it with.
    CannotRun,
}

impl Outcome {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Unchanged => "unchanged",
            Outcome::Changed => "changed",
            Outcome::Worse => "worse",
            Outcome::CannotRun => "cannot run",
        }
    }

    /// Of a comparison under the same seeds: there any difference is a difference.
    pub fn of(compared: &Compared) -> Outcome {
        match compared.verdict {
            _ if compared.is_identical() => Outcome::Unchanged,
            Verdict::Worse => Outcome::Worse,
            _ => Outcome::Changed,
        }
    }
}

/// What became of one scenario.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ScenarioOutcome {
    /// Its file, without the folder.
    pub file: String,
    /// What became of it.
    pub outcome: Outcome,
    /// Why it could not be run or compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// What moved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compared: Option<Compared>,
    /// The recorded commits, and this one last.
    #[serde(skip)]
    pub history: History,
    /// How long its runs took, all together, seconds.
    #[serde(skip)]
    pub wall_s: f64,
}

impl ScenarioOutcome {
    /// A name for people: the file without its ending.
    pub fn name(&self) -> &str {
        self.file.strip_suffix(".toml").unwrap_or(&self.file)
    }

    /// One sentence.
    pub fn sentence(&self) -> String {
        match (&self.problem, &self.compared) {
            (Some(problem), _) => problem.clone(),
            (None, Some(compared))
                if !compared.is_identical() && compared.moved().is_empty() && compared.findings.is_empty() =>
            {
                let other = compared.runs.common - compared.runs.identical;
                format!(
                    "What happened differs in {other} of {} runs, though no watched metric moved.",
                    compared.runs.common
                )
            }
            (None, Some(compared)) => compared.sentence(),
            (None, None) => "nothing was compared".to_owned(),
        }
    }
}

/// A folder of scenarios against its baselines.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Regression {
    /// [`SCHEMA`].
    pub schema: String,
    /// The folder.
    pub folder: String,
    /// The commit that was run; with a `+` where the checkout held more than that.
    pub commit: String,
    /// The build that was run.
    pub build: String,
    /// By which rules.
    pub rules: Rules,
    /// Over all.
    pub outcome: Outcome,
    /// Were the baselines written anew?
    pub updated: bool,
    /// The scenarios, by name.
    pub scenarios: Vec<ScenarioOutcome>,
    /// The simulator's own speed, if it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speed: Option<Speed>,
}

impl Regression {
    /// How many scenarios ended so?
    pub fn count(&self, outcome: Outcome) -> usize {
        self.scenarios.iter().filter(|scenario| scenario.outcome == outcome).count()
    }

    /// The worst of all scenarios and of speed; a folder without scenarios cannot be run.
    pub fn overall(scenarios: &[ScenarioOutcome], speed: Option<&Speed>) -> Outcome {
        let slower = speed.map(Speed::outcome);
        scenarios
            .iter()
            .map(|scenario| scenario.outcome)
            .chain(slower)
            .max()
            .filter(|_| !scenarios.is_empty())
            .unwrap_or(Outcome::CannotRun)
    }

    /// One sentence.
    pub fn sentence(&self) -> String {
        let all = self.scenarios.len();
        let counts: Vec<String> = [Outcome::CannotRun, Outcome::Worse, Outcome::Changed, Outcome::Unchanged]
            .into_iter()
            .map(|outcome| (self.count(outcome), outcome))
            .filter(|(count, _)| *count > 0)
            .map(|(count, outcome)| format!("{count} {}", outcome.name()))
            .collect();
        let what = if all == 1 { "scenario".to_owned() } else { format!("{all} scenarios") };
        let mut text = match (self.outcome, counts.as_slice()) {
            (_, []) => "There is no scenario in this folder.".to_owned(),
            (Outcome::Unchanged, _) if all == 1 => {
                "The scenario behaves as its baseline says, to the last digit.".to_owned()
            }
            (Outcome::Unchanged, _) => format!("All {what} behave as their baselines say, to the last digit."),
            (_, counts) => format!("Of {what}: {}.", counts.join(", ")),
        };
        if self.updated {
            text += " The baselines were written anew.";
        }
        if let Some(speed) = &self.speed {
            text += &format!(" {}", speed.sentence());
        }
        text
    }
}
