//! What changes are judged from: the runs of one scenario, each in a few dozen numbers.

use std::collections::BTreeMap;

use super::fact_digest::Digests;
use super::watched::WATCHED;
use crate::input::RunInfo;
use crate::metric::Metric;
use crate::metrics::{ClassMetrics, RunMetrics};

/// Digits that a value keeps: enough to tell a microsecond in a quarter of an hour, few enough to be read.
const DIGITS: usize = 9;

/// The runs of one scenario, as one side of a comparison.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recording {
    /// Where it was read, or what it is, for messages.
    pub place: String,
    /// What it was made of.
    pub identity: Identity,
    /// The runs.
    pub runs: Vec<Recorded>,
}

/// What a recording was made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Name of the scenario.
    pub name: String,
    /// Digest of the scenario, where it is known.
    pub scenario: Option<String>,
    /// Name and, where it is known, digest of each profile.
    pub profiles: Vec<(String, String)>,
    /// The build, where it is known.
    pub build: Option<String>,
}

/// One run in numbers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recorded {
    /// Which.
    pub run: RunInfo,
    /// What was asked, and what came of it, where that was recorded.
    pub digests: Option<Digests>,
    /// Measured requests.
    pub offered: u64,
    /// Those that finished.
    pub finished: u64,
    /// Did the cluster fall behind?
    pub saturated: bool,
    /// Over all requests, then by class, under the class's name; what has no value is left out.
    pub groups: Vec<(Option<String>, Values)>,
}

/// Values by metric.
pub type Values = BTreeMap<Metric, f64>;

impl Recorded {
    /// Of a run that was measured.
    pub fn of(run: &RunInfo, metrics: &RunMetrics, digests: Option<Digests>) -> Recorded {
        let all = WATCHED.iter().filter_map(|metric| Some((*metric, rounded(metric.of(metrics)?)))).collect();
        let window_s = metrics.window.end_s - metrics.window.start_s;
        // A single class is everybody: it would say everything twice.
        let told_apart = if metrics.classes.len() > 1 { metrics.classes.as_slice() } else { &[] };
        let classes = told_apart.iter().map(|class| (Some(class.name.clone()), of_class(class, window_s)));
        Recorded {
            run: run.clone(),
            digests,
            offered: metrics.measured.offered,
            finished: metrics.measured.finished,
            saturated: metrics.saturation.as_ref().is_some_and(|saturation| saturation.saturated),
            groups: std::iter::once((None, all)).chain(classes).collect(),
        }
    }

    /// The value of a metric in a group; `None` stands for all requests.
    pub fn value(&self, class: Option<&str>, metric: Metric) -> Option<f64> {
        self.groups
            .iter()
            .find(|(name, _)| name.as_deref() == class)
            .and_then(|(_, values)| values.get(&metric).copied())
    }

    /// Did the other run see the same requests? By digest where both have one, else by their number.
    pub fn saw_the_same(&self, other: &Recorded) -> bool {
        match (&self.digests, &other.digests) {
            (Some(a), Some(b)) => a.requests == b.requests,
            _ => self.offered == other.offered,
        }
    }

    /// Did the same happen? By digest where both have one, and by every number.
    pub fn is_the_same(&self, other: &Recorded) -> bool {
        let digests = self.digests.is_none() || other.digests.is_none() || self.digests == other.digests;
        digests && self.saturated == other.saturated && self.counts() == other.counts() && self.groups == other.groups
    }

    fn counts(&self) -> (u64, u64) {
        (self.offered, self.finished)
    }
}

fn of_class(class: &ClassMetrics, window_s: f64) -> Values {
    let goodput = (window_s > 0.0).then(|| class.good as f64 / window_s);
    let values = [
        (Metric::Goodput, goodput),
        (Metric::Attainment, class.attainment),
        (Metric::TtftP50, class.ttft.p50),
        (Metric::TtftP90, class.ttft.p90),
        (Metric::TtftP99, class.ttft.p99),
        (Metric::TpotP50, class.tpot.p50),
        (Metric::TpotP90, class.tpot.p90),
        (Metric::TpotP99, class.tpot.p99),
        (Metric::ItlP50, class.itl.p50),
        (Metric::ItlP90, class.itl.p90),
        (Metric::ItlP99, class.itl.p99),
        (Metric::E2eP50, class.e2e.p50),
        (Metric::E2eP90, class.e2e.p90),
        (Metric::E2eP99, class.e2e.p99),
    ];
    values.into_iter().filter_map(|(metric, value)| Some((metric, rounded(value?)))).collect()
}

/// To nine significant digits, so that what was written down and read again is equal to what was not.
pub(crate) fn rounded(value: f64) -> f64 {
    if !value.is_finite() {
        return value;
    }
    format!("{value:.*e}", DIGITS - 1).parse().unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_keeps_nine_digits_and_is_done_once() {
        assert_eq!(rounded(0.123_456_789_123), 0.123_456_789);
        assert_eq!(rounded(rounded(1.0 / 3.0)), rounded(1.0 / 3.0));
        assert_eq!(rounded(0.0), 0.0);
        assert_eq!(rounded(-12_345_678_912.0), -12_345_678_900.0);
    }
}
