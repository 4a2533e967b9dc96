//! Two recordings against each other: a verdict for each metric and one over all.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::comparable::{Aspect, Unlike, unlike};
use super::estimate::Estimate;
use super::matched::matched;
use super::recording::Recording;
use super::watched::Thresholds;
use crate::ReportError;
use crate::metric::Metric;

mod judging;

use judging::{Judging, correct, overall};

/// What can be said of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// For the worse, beyond doubt and by enough to matter.
    Worse,
    /// Too few seeds, or nothing to compare.
    CannotTell,
    /// For the better, beyond doubt and by enough to matter.
    Better,
    /// If there is a difference, it is too small to matter.
    Same,
}

impl Verdict {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Worse => "worse",
            Verdict::CannotTell => "cannot tell",
            Verdict::Better => "better",
            Verdict::Same => "the same",
        }
    }
}

/// By which rules changes are judged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Rules {
    /// The chance of calling anything worse or better, of all that is looked at, where nothing changed. Intervals have the confidence 1 - `alpha`.
    pub alpha: f64,
    /// How large a change has to be to matter.
    #[serde(default)]
    pub thresholds: Thresholds,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules { alpha: 0.01, thresholds: Thresholds::default() }
    }
}

/// What is compared: a metric of a policy, at a point of the sweep, over all requests or those of a class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Subject {
    /// The policy.
    pub policy: String,
    /// Where in the sweep.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub point: Vec<(String, String)>,
    /// Of which class; none: over all requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// What.
    pub metric: Metric,
}

/// One comparison and what it says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Row {
    /// What is compared.
    #[serde(flatten)]
    pub subject: Subject,
    /// By how much it differs; none if there is nothing to compare.
    pub estimate: Option<Estimate>,
    /// The chance of such a difference if nothing had changed, corrected for all that was looked at.
    pub p_corrected: Option<f64>,
    /// The least change that matters, in units of the estimate.
    pub least: Option<f64>,
    /// Is it told from no difference?
    pub significant: bool,
    /// Is it large enough to matter?
    pub material: bool,
    /// What that makes.
    pub verdict: Verdict,
    /// Why nothing can be told, if it is not for want of seeds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Where nothing can be told: so many more seeds would show a change that matters, four times in five.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub more_seeds: Option<u64>,
}

/// Something that no single metric says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Finding {
    /// What it makes of the whole.
    pub verdict: Verdict,
    /// In words.
    pub text: String,
}

/// Two recordings, compared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Compared {
    /// Where the base was read.
    pub base: String,
    /// Where the new side was read.
    pub new: String,
    /// What is not the same about them to begin with.
    pub unlike: Vec<Unlike>,
    /// Which of that was allowed.
    pub allowed: Vec<Aspect>,
    /// By which rules.
    pub rules: Rules,
    /// What no single metric says.
    pub findings: Vec<Finding>,
    /// What to know of seeds and requests.
    pub notes: Vec<String>,
    /// The comparisons, in the order of the recordings.
    pub rows: Vec<Row>,
    /// Runs that both sides have, and those of them in which the same happened to the last digit.
    pub runs: RunCount,
    /// Over all.
    pub verdict: Verdict,
}

/// How many runs were the same?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RunCount {
    /// Runs with the same policy, point, seed and requests on both sides.
    pub common: usize,
    /// Those in which the same happened, to the last digit.
    pub identical: usize,
}

impl Compared {
    /// Did the same happen in every run? Behaviour is deterministic: if not, something changed.
    pub fn is_identical(&self) -> bool {
        self.runs.common > 0
            && self.runs.identical == self.runs.common
            && self.findings.is_empty()
            && self.rows.iter().all(|row| row.is_identical())
    }

    /// The rows of a verdict, the largest changes (in thresholds) first.
    pub fn rows_of(&self, verdict: Verdict) -> Vec<&Row> {
        let mut rows: Vec<&Row> = self.rows.iter().filter(|row| row.verdict == verdict).collect();
        rows.sort_by(|a, b| b.size().total_cmp(&a.size()));
        rows
    }

    /// The rows that moved at all, the largest changes first.
    pub fn moved(&self) -> Vec<&Row> {
        let mut rows: Vec<&Row> = self.rows.iter().filter(|row| !row.is_identical() && row.size() > 0.0).collect();
        rows.sort_by(|a, b| {
            (a.verdict, b.size()).partial_cmp(&(b.verdict, a.size())).unwrap_or(std::cmp::Ordering::Equal)
        });
        rows
    }
}

impl Row {
    /// Are all its pairs equal to the last digit?
    pub fn is_identical(&self) -> bool {
        self.reason.is_none() && self.estimate.is_some_and(|estimate| estimate.identical)
    }

    /// The change, in thresholds.
    pub fn size(&self) -> f64 {
        match (self.estimate, self.least) {
            (Some(estimate), Some(least)) if estimate.change != 0.0 => (estimate.change / least).abs(),
            _ => 0.0,
        }
    }
}

/// Compares `new` with `base`.
///
/// # Errors
/// [`ReportError::NotComparable`] where scenario, profiles or build differ and that was not allowed.
pub fn compare_recordings(
    base: &Recording,
    new: &Recording,
    rules: &Rules,
    allowed: &[Aspect],
) -> Result<Compared, ReportError> {
    let unlike = unlike(&base.identity, &new.identity);
    let refused: Vec<&Unlike> = unlike.iter().filter(|unlike| !allowed.contains(&unlike.aspect)).collect();
    if !refused.is_empty() {
        let what = refused.iter().map(|unlike| unlike.to_string()).collect::<Vec<_>>().join("; ");
        let mut flags: Vec<&str> = refused.iter().map(|unlike| unlike.aspect.name()).collect();
        flags.dedup();
        return Err(ReportError::NotComparable(format!(
            "{what}; if that is the change in question, allow it with --allow {}",
            flags.join(",")
        )));
    }
    let mut judging = Judging::by(rules);
    for matched in matched(base, new) {
        judging.policy(&matched);
    }
    let Judging { findings, mut notes, mut rows, runs, .. } = judging;
    notes.dedup();
    correct(&mut rows, rules);
    let verdict = overall(&findings, &rows);
    let allowed =
        allowed.iter().copied().filter(|aspect| unlike.iter().any(|unlike| unlike.aspect == *aspect)).collect();
    let (base, new) = (base.place.clone(), new.place.clone());
    Ok(Compared { base, new, unlike, allowed, rules: rules.clone(), findings, notes, rows, runs, verdict })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::estimate::Pairing;
    use crate::change::recording::Recorded;
    use crate::change::recording::{Identity, Values};
    use crate::input::RunInfo;

    /// Runs of one policy whose TTFT p99 is what `value` says of the seed.
    fn recording(seeds: std::ops::Range<u64>, value: impl Fn(u64) -> f64) -> Recording {
        let runs = seeds
            .map(|seed| Recorded {
                run: RunInfo { policy: "p".to_owned(), seed, ..RunInfo::default() },
                offered: 100,
                finished: 100,
                groups: vec![(None, Values::from([(Metric::TtftP99, value(seed)), (Metric::Preemptions, 0.0)]))],
                ..Recorded::default()
            })
            .collect();
        Recording { identity: Identity { name: "s".to_owned(), ..Identity::default() }, runs, ..Recording::default() }
    }

    /// A number between 0 and 1 that looks like chance.
    fn noise(seed: u64) -> f64 {
        (seed as f64 * 12.9898).sin().abs().fract()
    }

    fn compared(base: &Recording, new: &Recording) -> Compared {
        compare_recordings(base, new, &Rules::default(), &[]).unwrap()
    }

    #[test]
    fn the_same_runs_are_identical_and_the_same() {
        let base = recording(0..3, |seed| 1.0 + noise(seed));
        let compared = compared(&base, &base);
        assert!(compared.is_identical());
        assert_eq!((compared.verdict, compared.runs.identical), (Verdict::Same, 3));
    }

    #[test]
    fn pairs_see_what_strangers_cannot() {
        let base = recording(0..20, |seed| 1.0 + noise(seed));
        let new = recording(0..20, |seed| (1.0 + noise(seed)) * (1.02 + 0.002 * noise(seed + 50)));
        let paired = compared(&base, &new);
        assert_eq!(paired.verdict, Verdict::Worse);
        assert_eq!(paired.rows_of(Verdict::Worse)[0].subject.metric, Metric::TtftP99);
        assert!(!paired.is_identical() && paired.runs.identical == 0);
        let mut strangers = new.clone();
        strangers.runs.iter_mut().for_each(|run| run.run.seed += 1000);
        let unpaired = compared(&base, &strangers);
        assert_eq!(unpaired.verdict, Verdict::CannotTell);
        let row = &unpaired.rows_of(Verdict::CannotTell)[0];
        assert!(row.more_seeds.is_some_and(|more| more > 500), "{row:?}");
        assert!(unpaired.notes[0].contains("Welch"), "{:?}", unpaired.notes);
    }

    #[test]
    fn what_is_significant_and_small_is_the_same() {
        let base = recording(0..20, |seed| 1.0 + noise(seed));
        let new = recording(0..20, |seed| (1.0 + noise(seed)) * 1.001);
        let compared = compared(&base, &new);
        let row = &compared.rows[0];
        assert!(row.significant && !row.material);
        assert_eq!(compared.verdict, Verdict::Same);
        assert!(!compared.is_identical());
    }

    #[test]
    fn one_seed_tells_nothing_and_says_so() {
        let compared = compared(&recording(0..1, |_| 1.0), &recording(0..1, |_| 2.0));
        assert_eq!(compared.verdict, Verdict::CannotTell);
        assert!(compared.rows[0].material && !compared.rows[0].significant);
    }

    #[test]
    fn other_requests_under_the_same_seed_are_no_pairs() {
        let base = recording(0..4, |seed| 1.0 + noise(seed));
        let mut new = base.clone();
        new.runs.iter_mut().for_each(|run| run.offered = 99);
        let compared = compared(&base, &new);
        assert_eq!(compared.rows[0].estimate.unwrap().pairing, Pairing::Unpaired);
        assert!(compared.notes[0].contains("different requests"), "{:?}", compared.notes);
        assert!(!compared.is_identical());
    }

    #[test]
    fn a_side_that_finishes_nothing_is_worse_not_missing() {
        let base = recording(0..4, |seed| 1.0 + noise(seed));
        let mut new = base.clone();
        new.runs.iter_mut().for_each(|run| (run.finished, run.groups) = (0, vec![(None, Values::new())]));
        let compared = compared(&base, &new);
        assert_eq!(compared.verdict, Verdict::Worse);
        assert!(compared.findings[0].text.contains("finishes no request any more"));
        assert!(compared.rows.iter().all(|row| row.verdict == Verdict::CannotTell && row.reason.is_some()));
    }

    #[test]
    fn a_policy_without_a_partner_never_passes_silently() {
        let base = recording(0..4, |seed| 1.0 + noise(seed));
        let mut new = base.clone();
        new.runs.iter_mut().for_each(|run| run.run.policy = "q".to_owned());
        let compared = compared(&base, &new);
        assert_eq!(compared.verdict, Verdict::CannotTell);
        assert_eq!(compared.findings.len(), 2);
        assert!(!compared.is_identical());
        assert_eq!(super::tests::compared(&Recording::default(), &Recording::default()).verdict, Verdict::CannotTell);
    }

    #[test]
    fn what_is_not_comparable_is_refused_and_named_or_allowed_and_said() {
        let base = recording(0..2, |_| 1.0);
        let mut new = base.clone();
        new.identity.name = "other".to_owned();
        let refused = compare_recordings(&base, &new, &Rules::default(), &[Aspect::Build]).unwrap_err();
        assert!(
            refused.to_string().contains("different scenario: `s` against `other`")
                && refused.to_string().contains("--allow scenario")
        );
        let allowed = compare_recordings(&base, &new, &Rules::default(), &Aspect::ALL).unwrap();
        assert_eq!(allowed.allowed, [Aspect::Scenario]);
    }

    #[test]
    fn a_saturated_run_does_not_rank_its_queue() {
        let base = recording(0..5, |seed| 1.0 + noise(seed));
        let mut new = recording(0..5, |seed| 3.0 + noise(seed));
        new.runs.iter_mut().for_each(|run| run.saturated = true);
        let compared = compared(&base, &new);
        assert_eq!(compared.verdict, Verdict::Worse);
        assert!(compared.findings[0].text.contains("does not keep up"));
        assert!(compared.rows[0].reason.as_deref().is_some_and(|reason| reason.contains("saturated")));
    }
}
