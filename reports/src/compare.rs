//! Policies against each other on the same requests.

mod verdict;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::verdict::{Verdict, VerdictKind};
use crate::change::{Scale, Thresholds};
use crate::input::{ReportInput, RunInfo};
use crate::metric::{Better, Metric};
use crate::metrics::{RunMetrics, RunResult};
use crate::statistics::{Interval, t_interval};

/// Confidence of every interval in a table.
pub(crate) const CONFIDENCE: f64 = 0.95;

/// All points of a scenario, compared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Comparison {
    /// What decides.
    pub primary: Metric,
    /// A comparison for each point of the sweep; one without a sweep.
    pub points: Vec<PointComparison>,
    /// One sentence over all points.
    pub verdict: Verdict,
    /// What to know before believing it.
    pub notes: Vec<String>,
}

/// The policies at one point of the sweep.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PointComparison {
    /// Axes and values; empty without a sweep.
    pub point: Vec<(String, String)>,
    /// The policy that differences are against.
    pub baseline: String,
    /// The policies, in the order of the scenario.
    pub policies: Vec<PolicyRow>,
    /// One sentence.
    pub verdict: Verdict,
}

/// One policy at one point.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PolicyRow {
    /// Its name.
    pub policy: String,
    /// Is it a bound that no real policy can be?
    pub bound: bool,
    /// Seeds that it ran with.
    pub seeds: Vec<u64>,
    /// Runs of it that were saturated.
    pub saturated_runs: usize,
    /// Why the first of them was.
    pub saturated_reason: Option<String>,
    /// Its values and differences, in the order of [`Metric::ALL`].
    pub cells: Vec<Cell>,
}

/// One metric of one policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Cell {
    /// Which.
    pub metric: Metric,
    /// Mean over seeds.
    pub value: Option<f64>,
    /// Against the baseline; none for the baseline itself.
    pub difference: Option<Difference>,
}

/// A paired difference: policy less baseline on the same requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Difference {
    /// Mean difference.
    pub mean: f64,
    /// Its interval at 95 %; none where nothing is known of the spread.
    pub interval: Option<Interval>,
    /// Mean difference over the baseline's value.
    pub relative: Option<f64>,
    /// What the interval rests on.
    pub basis: Basis,
    /// What it says of the policy.
    pub standing: Standing,
}

/// What a difference says of a policy, as far as its interval goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// Better than the baseline, beyond doubt.
    Better,
    /// Worse, beyond doubt.
    Worse,
    /// If there is a difference, it is too small to matter: under 1 %, or half a percentage point of a share.
    Tie,
    /// The interval holds zero and more than a tie: more seeds would tell. Or there is no interval.
    CannotTell,
}

impl Standing {
    /// `base` is the baseline's value.
    fn of(metric: Metric, base: f64, mean: f64, interval: Option<Interval>) -> Standing {
        let Some(interval) = interval else {
            return if mean == 0.0 { Standing::Tie } else { Standing::CannotTell };
        };
        let least = Thresholds::default().least(metric, Scale::Difference, base);
        match interval.excludes_zero() {
            true if (mean > 0.0) == (metric.better() == Better::Higher) => Standing::Better,
            true => Standing::Worse,
            false if -least <= interval.low && interval.high <= least => Standing::Tie,
            false => Standing::CannotTell,
        }
    }
}

/// What an interval rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Basis {
    /// Differences over seeds.
    Seeds,
    /// One seed: differences over blocks of time, as if blocks were independent.
    Blocks,
    /// One seed, and the metric has no value in blocks.
    Nothing,
}

impl Difference {
    /// Is the policy better than the baseline, beyond doubt? None: a tie, or cannot tell.
    pub fn is_better(&self) -> Option<bool> {
        match self.standing {
            Standing::Better => Some(true),
            Standing::Worse => Some(false),
            Standing::Tie | Standing::CannotTell => None,
        }
    }
}

impl PolicyRow {
    /// Was at least half of its runs saturated?
    pub fn is_saturated(&self) -> bool {
        self.saturated_runs > 0 && 2 * self.saturated_runs >= self.seeds.len()
    }

    /// The cell of a metric.
    pub fn cell(&self, metric: Metric) -> Option<&Cell> {
        self.cells.iter().find(|cell| cell.metric == metric)
    }

    /// The value of a metric.
    pub fn value(&self, metric: Metric) -> Option<f64> {
        self.cell(metric).and_then(|cell| cell.value)
    }
}

/// A point of the sweep and the runs at it.
pub(crate) type PointRuns<'a> = (&'a [(String, String)], Vec<PolicyRuns<'a>>);

/// The runs of one policy at one point.
#[derive(Clone, Debug)]
pub(crate) struct PolicyRuns<'a> {
    pub(crate) policy: &'a str,
    pub(crate) bound: bool,
    pub(crate) runs: Vec<(&'a RunInfo, &'a RunResult)>,
}

/// Compares the policies of a report at each point.
pub fn compare(input: &ReportInput) -> Comparison {
    let points: Vec<PointComparison> =
        by_point(input).iter().map(|(point, policies)| compare_point(input, point, policies)).collect();
    let verdict = Verdict::over_points(input.primary, &points);
    let mut notes = Vec::new();
    for point in &points {
        notes.extend(point.unequal_seeds());
    }
    notes.extend(unequal_requests(input));
    notes.dedup();
    Comparison { primary: input.primary, points, verdict, notes }
}

/// The runs by point and policy, both in order of first appearance.
pub(crate) fn by_point(input: &ReportInput) -> Vec<PointRuns<'_>> {
    let mut points: Vec<PointRuns<'_>> = Vec::new();
    for (info, result) in &input.runs {
        let at = points.iter().position(|(point, _)| *point == info.point).unwrap_or_else(|| {
            points.push((&info.point, Vec::new()));
            points.len() - 1
        });
        let policies = &mut points[at].1;
        match policies.iter_mut().find(|policy| policy.policy == info.policy) {
            Some(policy) => policy.runs.push((info, result)),
            None => policies.push(PolicyRuns { policy: &info.policy, bound: info.bound, runs: vec![(info, result)] }),
        }
    }
    points
}

fn compare_point(input: &ReportInput, point: &[(String, String)], policies: &[PolicyRuns<'_>]) -> PointComparison {
    let baseline = policies
        .iter()
        .find(|policy| Some(policy.policy) == input.baseline.as_deref())
        .or_else(|| verdict::best(input.primary, policies))
        .unwrap_or(&policies[0]);
    let rows = policies.iter().map(|policy| row(policy, baseline)).collect();
    PointComparison {
        point: point.to_vec(),
        baseline: baseline.policy.to_owned(),
        policies: rows,
        verdict: Verdict::at_point(input.primary, policies, input.baseline.as_deref()),
    }
}

fn row(policy: &PolicyRuns<'_>, baseline: &PolicyRuns<'_>) -> PolicyRow {
    let saturated = policy.saturated();
    PolicyRow {
        policy: policy.policy.to_owned(),
        bound: policy.bound,
        seeds: policy.runs.iter().map(|(info, _)| info.seed).collect(),
        saturated_runs: saturated.len(),
        saturated_reason: saturated.first().map(|reason| (*reason).to_owned()),
        cells: Metric::ALL
            .iter()
            .map(|metric| Cell {
                metric: *metric,
                value: policy.mean(*metric),
                difference: if policy.policy == baseline.policy {
                    None
                } else {
                    difference(*metric, policy, baseline, CONFIDENCE)
                },
            })
            .collect(),
    }
}

/// The paired difference of two policies over the seeds that both ran with; over blocks of time if that is a single one.
pub(crate) fn difference(
    metric: Metric,
    policy: &PolicyRuns<'_>,
    baseline: &PolicyRuns<'_>,
    confidence: f64,
) -> Option<Difference> {
    let pairs: Vec<(&RunMetrics, &RunMetrics)> = policy
        .runs
        .iter()
        .filter_map(|(info, run)| {
            let (_, other) = baseline.runs.iter().find(|(other, _)| other.seed == info.seed)?;
            Some((&run.metrics, &other.metrics))
        })
        .collect();
    let values: Vec<(f64, f64)> =
        pairs.iter().filter_map(|(run, other)| Some((metric.of(run)?, metric.of(other)?))).collect();
    if values.is_empty() {
        return None;
    }
    let differences: Vec<f64> = values.iter().map(|(value, other)| value - other).collect();
    let mean = differences.iter().sum::<f64>() / differences.len() as f64;
    let base = values.iter().map(|(_, other)| other).sum::<f64>() / values.len() as f64;
    let (interval, basis) = match (t_interval(&differences, confidence), pairs.as_slice()) {
        (Some(interval), _) => (Some(interval), Basis::Seeds),
        (None, [(run, other)]) => match by_blocks(metric, run, other, mean, confidence) {
            Some(interval) => (Some(interval), Basis::Blocks),
            None => (None, Basis::Nothing),
        },
        (None, _) => (None, Basis::Nothing),
    };
    let interval = interval.map(|interval| within_reach(interval, base));
    let standing = Standing::of(metric, base, mean, interval);
    Some(Difference { mean, interval, relative: (base != 0.0).then(|| mean / base), basis, standing })
}

/// No metric is negative: nothing can be lower than the baseline by more than all of it.
fn within_reach(interval: Interval, base: f64) -> Interval {
    Interval { low: interval.low.max(-base), ..interval }
}

/// The interval of a difference from blocks of time, laid around the difference of the whole window.
///
/// Blocks of the same window hold the same requests and are paired; in a closed loop each policy has a window of its own.
fn by_blocks(metric: Metric, run: &RunMetrics, other: &RunMetrics, mean: f64, confidence: f64) -> Option<Interval> {
    let values = |run: &RunMetrics| run.blocks.iter().map(|block| metric.of_block(block)).collect::<Vec<_>>();
    let (values, others) = (values(run), values(other));
    let span = |run: &RunMetrics| (run.window.start_s, run.window.end_s);
    let (half, samples) = if span(run) == span(other) {
        let differences: Vec<f64> =
            values.iter().zip(&others).filter_map(|(value, other)| Some((*value)? - (*other)?)).collect();
        let interval = t_interval(&differences, confidence)?;
        ((interval.high - interval.low) / 2.0, interval.samples)
    } else {
        let [one, two] =
            [values, others].map(|values| t_interval(&values.into_iter().flatten().collect::<Vec<_>>(), confidence));
        let (one, two) = (one?, two?);
        // Both half widths contain their own t: more than Welch's, never less.
        ((one.high - one.low).hypot(two.high - two.low) / 2.0, one.samples.min(two.samples))
    };
    Some(Interval { mean, low: mean - half, high: mean + half, samples })
}

impl PolicyRuns<'_> {
    /// Why its saturated runs were saturated.
    pub(crate) fn saturated(&self) -> Vec<&str> {
        let saturations = self.runs.iter().filter_map(|(_, run)| run.metrics.saturation.as_ref());
        saturations.filter(|saturation| saturation.saturated).map(|saturation| saturation.reason.as_str()).collect()
    }

    pub(crate) fn is_saturated(&self) -> bool {
        let saturated = self.saturated().len();
        saturated > 0 && 2 * saturated >= self.runs.len()
    }

    /// The mean of a metric over its runs.
    pub(crate) fn mean(&self, metric: Metric) -> Option<f64> {
        let values: Vec<f64> = self.runs.iter().filter_map(|(_, run)| metric.of(&run.metrics)).collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    }

    /// The values of a metric, a run each.
    pub(crate) fn values(&self, metric: Metric) -> Vec<f64> {
        self.runs.iter().filter_map(|(_, run)| metric.of(&run.metrics)).collect()
    }
}

impl PointComparison {
    fn unequal_seeds(&self) -> Option<String> {
        let first = &self.policies.first()?.seeds;
        let other = self.policies.iter().find(|row| row.seeds != *first)?;
        Some(format!(
            "`{}` did not run with the seeds of `{}`: only common seeds are paired",
            other.policy, self.policies[0].policy
        ))
    }
}

/// Policies must see the same requests; a count that differs shows that they did not.
fn unequal_requests(input: &ReportInput) -> Option<String> {
    for (_, policies) in by_point(input) {
        let all = || policies.iter().flat_map(|policy| &policy.runs);
        for (info, run) in all() {
            let other = all().find(|(other, other_run)| {
                other.seed == info.seed && other_run.metrics.all.offered != run.metrics.all.offered
            });
            if let Some((other, _)) = other {
                return Some(format!(
                    "`{}` and `{}` were offered different numbers of requests with seed {}: their differences are not paired on the same requests",
                    info.policy, other.policy, info.seed
                ));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interval(low: f64, high: f64) -> Option<Interval> {
        Some(Interval { mean: (low + high) / 2.0, low, high, samples: 3 })
    }

    #[test]
    fn a_tie_is_known_to_be_small_and_what_is_not_known_is_no_tie() {
        let of = |low, high| Standing::of(Metric::TtftP99, 10.0, (low + high) / 2.0, interval(low, high));
        assert_eq!(of(-0.05, 0.08), Standing::Tie, "within 1 % of 10 s");
        assert_eq!(of(-0.05, 0.12), Standing::CannotTell);
        assert_eq!(of(-9.0, 20.0), Standing::CannotTell, "two seeds say nothing");
        assert_eq!(of(0.01, 0.02), Standing::Worse, "surely longer, if only by little");
        assert_eq!(of(-3.0, -1.0), Standing::Better);
        assert_eq!(Standing::of(Metric::Goodput, 10.0, 2.0, interval(1.0, 3.0)), Standing::Better);
        assert_eq!(Standing::of(Metric::Attainment, 0.9, 0.0, interval(-0.004, 0.004)), Standing::Tie, "half a point");
        assert_eq!(Standing::of(Metric::Attainment, 0.9, 0.0, interval(-0.006, 0.006)), Standing::CannotTell);
        assert_eq!(Standing::of(Metric::TtftP99, 10.0, 0.0, None), Standing::Tie);
        assert_eq!(Standing::of(Metric::TtftP99, 10.0, 1.0, None), Standing::CannotTell);
    }

    #[test]
    fn nothing_falls_by_more_than_all_of_it() {
        let wide = Interval { mean: -6.0, low: -14.0, high: 2.0, samples: 2 };
        assert_eq!(within_reach(wide, 10.0), Interval { low: -10.0, ..wide });
        let narrow = Interval { mean: -6.0, low: -7.0, high: -5.0, samples: 9 };
        assert_eq!(within_reach(narrow, 10.0), narrow);
    }
}
