//! Is the simulator itself faster or slower? Judged by repeated paired runs, and by thresholds of its own.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::compared::Verdict;
use super::estimate::{Estimate, Scale};
use super::history::recorded;
use super::holm::holm;
use super::regression::Outcome;
use crate::format;

/// What is measured of a whole run of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Quantity {
    /// Instructions executed, as counted by valgrind's callgrind.
    Instructions,
    /// Wall time, on one thread.
    WallTime,
}

impl Quantity {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Quantity::Instructions => "instructions",
            Quantity::WallTime => "wall time",
        }
    }

    /// All of them.
    pub const ALL: [Quantity; 2] = [Quantity::Instructions, Quantity::WallTime];

    /// What its counts repeat to at best: a spread found by few runs is never taken to be smaller.
    fn spread_least(self) -> f64 {
        match self {
            Quantity::Instructions => 1e-4,
            Quantity::WallTime => 2e-3,
        }
    }
}

/// By which rules speed is judged; never those of behaviour.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SpeedRules {
    /// The chance of calling anything slower or faster, of all that is looked at, where nothing changed.
    pub alpha: f64,
    /// The least change of the instruction count that matters, a share.
    pub instructions: f64,
    /// The least change of the wall time that matters, a share.
    pub wall_time: f64,
}

impl Default for SpeedRules {
    fn default() -> SpeedRules {
        SpeedRules { alpha: 0.01, instructions: 0.01, wall_time: 0.05 }
    }
}

impl SpeedRules {
    /// The least change of a quantity that matters, a share.
    pub fn least(&self, quantity: Quantity) -> f64 {
        match quantity {
            Quantity::Instructions => self.instructions,
            Quantity::WallTime => self.wall_time,
        }
    }
}

/// Repeated paired runs of one scenario.
#[derive(Clone, Debug, PartialEq)]
pub struct SpeedSamples {
    /// The scenario.
    pub scenario: String,
    /// What was measured.
    pub quantity: Quantity,
    /// Base and new, run one after the other.
    pub pairs: Vec<(f64, f64)>,
}

/// What they say.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SpeedRow {
    /// The scenario.
    pub scenario: String,
    /// What was measured.
    pub quantity: Quantity,
    /// By how much it differs.
    pub estimate: Option<Estimate>,
    /// Corrected for all that was looked at.
    pub p_corrected: Option<f64>,
    /// The least change that matters, a share.
    pub least: f64,
    /// What that makes.
    pub verdict: Verdict,
    /// The new program's mean and the ends of its interval, for its history.
    #[serde(skip)]
    pub level: Vec<f64>,
}

/// The simulator's own speed against that of another build.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Speed {
    /// The program that the new one was compared with.
    pub base: String,
    /// By which rules.
    pub rules: SpeedRules,
    /// The comparisons.
    pub rows: Vec<SpeedRow>,
    /// What could not be measured, and why.
    pub notes: Vec<String>,
}

impl Speed {
    /// Judges samples.
    pub fn judge(base: &str, samples: &[SpeedSamples], rules: SpeedRules, notes: Vec<String>) -> Speed {
        let estimates: Vec<Option<Estimate>> = samples
            .iter()
            .map(|samples| {
                Estimate::paired_at_best(
                    Scale::Ratio,
                    &samples.pairs,
                    1.0 - rules.alpha,
                    samples.quantity.spread_least(),
                )
            })
            .collect();
        let p_values: Vec<f64> =
            estimates.iter().map(|estimate| estimate.and_then(|estimate| estimate.p).unwrap_or(1.0)).collect();
        let rows = samples
            .iter()
            .zip(estimates)
            .zip(holm(&p_values))
            .map(|((samples, estimate), p)| {
                let least = rules.least(samples.quantity);
                SpeedRow {
                    scenario: samples.scenario.clone(),
                    quantity: samples.quantity,
                    estimate,
                    p_corrected: estimate.and_then(|estimate| estimate.p).map(|_| p),
                    least,
                    verdict: verdict(estimate, p, least, rules.alpha),
                    level: recorded(&samples.pairs.iter().map(|(_, new)| *new).collect::<Vec<_>>()),
                }
            })
            .collect();
        Speed { base: base.to_owned(), rules, rows, notes }
    }

    /// What a history of this scenario keeps of it.
    pub fn levels(&self, scenario: &str) -> BTreeMap<Quantity, Vec<f64>> {
        let rows = self.rows.iter().filter(|row| row.scenario == scenario && !row.level.is_empty());
        rows.map(|row| (row.quantity, row.level.clone())).collect()
    }

    /// What it makes of the whole: slower is worse; what cannot be told of noise is no change.
    pub fn outcome(&self) -> Outcome {
        let is = |verdict: Verdict| self.rows.iter().any(|row| row.verdict == verdict);
        match (is(Verdict::Worse), self.rows.is_empty()) {
            (true, _) => Outcome::Worse,
            (false, true) => Outcome::CannotRun,
            (false, false) => Outcome::Unchanged,
        }
    }

    /// One sentence.
    pub fn sentence(&self) -> String {
        let count = |verdict: Verdict| self.rows.iter().filter(|row| row.verdict == verdict).count();
        let parts: Vec<String> = [
            (Verdict::Worse, "slower"),
            (Verdict::Better, "faster"),
            (Verdict::CannotTell, "not told"),
            (Verdict::Same, "the same"),
        ]
        .into_iter()
        .map(|(verdict, name)| (count(verdict), name))
        .filter(|(count, _)| *count > 0)
        .map(|(count, name)| format!("{count} {name}"))
        .collect();
        match parts.as_slice() {
            [] => "Speed could not be measured.".to_owned(),
            parts => format!("Speed: {}.", parts.join(", ")),
        }
    }
}

impl SpeedRow {
    /// By how much, between what and what.
    pub fn change(&self) -> String {
        let Some(estimate) = self.estimate else { return "–".to_owned() };
        match estimate.interval {
            Some((low, high)) => {
                format!(
                    "{} ({} to {})",
                    format::signed_percent(estimate.change),
                    format::signed_percent(low),
                    format::signed_percent(high)
                )
            }
            None => format!("{} (one pair: no interval)", format::signed_percent(estimate.change)),
        }
    }

    /// A value as people write it.
    pub fn value(&self, value: f64) -> String {
        match self.quantity {
            Quantity::Instructions => format::number(value),
            Quantity::WallTime => format::seconds(value),
        }
    }
}

fn verdict(estimate: Option<Estimate>, p: f64, least: f64, alpha: f64) -> Verdict {
    let Some((estimate, (low, high))) = estimate.and_then(|estimate| Some((estimate, estimate.interval?))) else {
        return Verdict::CannotTell;
    };
    let material = estimate.change.abs() >= least;
    match (p <= alpha && material, estimate.change > 0.0) {
        (true, true) => Verdict::Worse,
        (true, false) => Verdict::Better,
        (false, _) if low >= -least && high <= least => Verdict::Same,
        (false, _) => Verdict::CannotTell,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(quantity: Quantity, pairs: &[(f64, f64)]) -> SpeedSamples {
        SpeedSamples { scenario: "s".to_owned(), quantity, pairs: pairs.to_vec() }
    }

    fn verdicts(samples: &[SpeedSamples]) -> Vec<Verdict> {
        Speed::judge("base", samples, SpeedRules::default(), Vec::new()).rows.iter().map(|row| row.verdict).collect()
    }

    #[test]
    fn two_percent_more_instructions_are_slower_and_two_percent_of_noisy_time_are_not_told() {
        let counted = samples(Quantity::Instructions, &[(1e9, 1.02e9), (1.0001e9, 1.0201e9), (0.9999e9, 1.02e9)]);
        let timed = samples(Quantity::WallTime, &[(1.0, 1.02), (1.1, 1.0), (0.9, 1.0), (1.0, 0.95)]);
        assert_eq!(verdicts(&[counted, timed]), [Verdict::Worse, Verdict::CannotTell]);
    }

    #[test]
    fn counts_that_repeat_exactly_are_judged_by_what_counts_repeat_to_at_best() {
        let slower = samples(Quantity::Instructions, &[(1e9, 1.05e9); 3]);
        let same = samples(Quantity::Instructions, &[(1e9, 1.000_1e9); 3]);
        let faster = samples(Quantity::WallTime, &[(1.0, 0.8), (1.01, 0.8), (1.0, 0.81), (0.99, 0.8), (1.0, 0.8)]);
        assert_eq!(verdicts(&[slower, same, faster]), [Verdict::Worse, Verdict::Same, Verdict::Better]);
    }

    #[test]
    fn one_pair_tells_nothing_and_no_row_is_no_pass() {
        assert_eq!(verdicts(&[samples(Quantity::WallTime, &[(1.0, 2.0)])]), [Verdict::CannotTell]);
        assert_eq!(Speed::judge("base", &[], SpeedRules::default(), Vec::new()).outcome(), Outcome::CannotRun);
    }
}
