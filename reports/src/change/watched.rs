//! What is watched, and how large a change has to be to matter.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::estimate::Scale;
use crate::metric::{Metric, Unit};

/// The metrics that changes are judged by, over all requests of a policy.
pub const WATCHED: [Metric; 22] = [
    Metric::Goodput,
    Metric::Attainment,
    Metric::RequestThroughput,
    Metric::OutputTokenThroughput,
    Metric::TtftP50,
    Metric::TtftP90,
    Metric::TtftP99,
    Metric::TpotP50,
    Metric::TpotP90,
    Metric::TpotP99,
    Metric::ItlP50,
    Metric::ItlP90,
    Metric::ItlP99,
    Metric::E2eP50,
    Metric::E2eP90,
    Metric::E2eP99,
    Metric::AdapterLoads,
    Metric::AdapterStall,
    Metric::Preemptions,
    Metric::GpuHours,
    Metric::UsdPerMillionTokens,
    Metric::GpuHoursPerMillionTokens,
];

/// What a metric is called on the command line and in files, such as `ttft-p99`.
pub fn key(metric: Metric) -> String {
    // A unit variant is always written as a text.
    serde_json::to_value(metric).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

/// The metric of this key.
pub fn metric_of(key: &str) -> Option<Metric> {
    serde_json::from_value(serde_json::Value::String(key.to_owned())).ok()
}

/// Does the metric grow large where a queue grows without end? In a saturated run it measures the length of the run.
pub(crate) fn is_of_queue(metric: Metric) -> bool {
    use Metric::{Attainment, E2eMean, E2eP50, E2eP90, E2eP99, Goodput, TtftMean, TtftP50, TtftP90, TtftP99};
    matches!(metric, Goodput | Attainment | TtftMean | TtftP50 | TtftP90 | TtftP99 | E2eMean | E2eP50 | E2eP90 | E2eP99)
}

/// How the values of a metric are set against each other.
pub(crate) fn scale_of(metric: Metric) -> Scale {
    if metric.unit() == Unit::Share { Scale::Difference } else { Scale::Ratio }
}

/// The least change that matters: written `2%` (of the base), `0.5pp` (of a share), or as a number in the metric's own unit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Threshold {
    /// A share of the base.
    Relative(f64),
    /// In units of the metric: seconds, a share of one, a count.
    Absolute(f64),
}

impl FromStr for Threshold {
    type Err = String;

    fn from_str(text: &str) -> Result<Threshold, String> {
        let read = |number: &str| number.trim().parse::<f64>().ok().filter(|x| x.is_finite() && *x >= 0.0);
        let text = text.trim();
        let threshold = match (text.strip_suffix("pp"), text.strip_suffix('%')) {
            (Some(points), _) => read(points).map(|points| Threshold::Absolute(points / 100.0)),
            (_, Some(percent)) => read(percent).map(|percent| Threshold::Relative(percent / 100.0)),
            (None, None) => read(text).map(Threshold::Absolute),
        };
        threshold.ok_or_else(|| {
            format!("`{text}` is no threshold: write `2%`, `0.5pp` (percentage points of a share), or a number in the metric's own unit")
        })
    }
}

impl fmt::Display for Threshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Threshold::Relative(share) => write!(f, "{}%", (share * 1e8).round() / 1e6),
            Threshold::Absolute(amount) => write!(f, "{amount}"),
        }
    }
}

impl Serialize for Threshold {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Threshold {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Threshold, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Threshold {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Threshold".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "pattern": r"^\s*[0-9.eE+-]+\s*(%|pp)?\s*$" })
    }
}

/// The least changes that matter: 1 % of the base, half a percentage point of a share, and at least one of what is counted, unless
/// a metric has its own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Thresholds {
    /// By metric.
    pub of: BTreeMap<Metric, Threshold>,
}

/// What matters of a ratio, unless said otherwise.
pub(crate) const RELATIVE: f64 = 0.01;
/// What matters of a share, unless said otherwise.
pub(crate) const SHARE: f64 = 0.005;

impl Thresholds {
    /// The least change of `metric` that matters, in units of [`super::Estimate::change`], on this scale and for this base.
    pub fn least(&self, metric: Metric, scale: Scale, base: f64) -> f64 {
        match (self.of.get(&metric), scale) {
            (Some(Threshold::Relative(share)), Scale::Ratio) => *share,
            (Some(Threshold::Relative(share)), Scale::Difference) => share * base.abs(),
            (Some(Threshold::Absolute(amount)), Scale::Ratio) => amount / base.abs(),
            (Some(Threshold::Absolute(amount)), Scale::Difference) => *amount,
            (None, Scale::Ratio) => match metric.unit() {
                Unit::Count => RELATIVE.max(1.0 / base.abs()),
                _ => RELATIVE,
            },
            (None, Scale::Difference) => match metric.unit() {
                Unit::Share => SHARE,
                Unit::Count => (RELATIVE * base.abs()).max(1.0),
                _ => RELATIVE * base.abs(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_are_read_as_people_write_them() {
        assert_eq!("2%".parse(), Ok(Threshold::Relative(0.02)));
        assert_eq!(" 0.5 pp".parse(), Ok(Threshold::Absolute(0.005)));
        assert_eq!("3".parse(), Ok(Threshold::Absolute(3.0)));
        for wrong in ["", "-1%", "two", "nan", "inf%"] {
            assert!(wrong.parse::<Threshold>().is_err(), "{wrong}");
        }
        assert_eq!(Threshold::Relative(0.02).to_string(), "2%");
    }

    #[test]
    fn keys_are_those_of_the_summary_and_lead_back() {
        assert_eq!(key(Metric::TtftP99), "ttft-p99");
        for metric in Metric::ALL {
            assert_eq!(metric_of(&key(metric)), Some(metric));
        }
        assert_eq!(metric_of("ttft-p98"), None);
    }

    #[test]
    fn one_preemption_more_matters_and_one_in_a_thousand_does_not() {
        let thresholds = Thresholds::default();
        assert_eq!(thresholds.least(Metric::Preemptions, Scale::Difference, 0.0), 1.0);
        assert_eq!(thresholds.least(Metric::Preemptions, Scale::Ratio, 1000.0), 0.01);
        assert_eq!(thresholds.least(Metric::Preemptions, Scale::Ratio, 10.0), 0.1);
        let own = Thresholds { of: BTreeMap::from([(Metric::TtftP99, Threshold::Absolute(0.05))]) };
        assert_eq!(own.least(Metric::TtftP99, Scale::Ratio, 0.5), 0.1);
    }
}
