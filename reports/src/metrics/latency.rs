//! A distribution in five numbers.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::distribution::Distribution;
use crate::histogram::LogLinear;

const PS: f64 = 1e12;

/// How long it took, in seconds, over how many cases. Empty distributions have no percentiles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Latency {
    /// Cases.
    pub count: u64,
    /// Mean.
    pub mean: Option<f64>,
    /// Median.
    pub p50: Option<f64>,
    /// Nine in ten take no longer.
    pub p90: Option<f64>,
    /// 99 in a hundred take no longer.
    pub p99: Option<f64>,
    /// The longest.
    pub max: Option<f64>,
    /// Are percentiles those of single observations? If not, they come from a histogram (0.05 % wide buckets; 1.6 % for token gaps by tenant and adapter).
    pub exact: bool,
}

impl Latency {
    /// Of a distribution.
    pub fn of(distribution: &Distribution) -> Latency {
        let at = |q| distribution.quantile(q).map(|ps| ps as f64 / PS);
        Latency {
            count: distribution.count(),
            mean: distribution.mean().map(|ps| ps / PS),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            max: at(1.0),
            exact: distribution.is_exact(),
        }
    }

    /// Of values in any order, picoseconds; sorts them.
    pub(crate) fn of_values(values: &mut [u64]) -> Latency {
        values.sort_unstable();
        let at = |q: f64| {
            crate::histogram::nearest_rank(q, values.len() as u64).map(|rank| values[rank as usize - 1] as f64 / PS)
        };
        let sum: u128 = values.iter().map(|value| u128::from(*value)).sum();
        Latency {
            count: values.len() as u64,
            mean: (!values.is_empty()).then(|| sum as f64 / values.len() as f64 / PS),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            max: at(1.0),
            exact: true,
        }
    }

    /// Of a histogram.
    pub(crate) fn of_histogram<const BITS: u32>(histogram: &LogLinear<BITS>) -> Latency {
        let at = |q| histogram.quantile(q).map(|ps| ps as f64 / PS);
        Latency {
            count: histogram.count(),
            mean: (histogram.count() > 0).then(|| histogram.sum() as f64 / histogram.count() as f64 / PS),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            max: at(1.0),
            exact: false,
        }
    }

    /// The mean of each number over several runs; counts add up.
    pub fn mean_of(runs: &[Latency]) -> Latency {
        let mean = |field: fn(&Latency) -> Option<f64>| {
            let values: Vec<_> = runs.iter().filter_map(field).collect();
            (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
        };
        Latency {
            count: runs.iter().map(|run| run.count).sum(),
            mean: mean(|run| run.mean),
            p50: mean(|run| run.p50),
            p90: mean(|run| run.p90),
            p99: mean(|run| run.p99),
            max: runs.iter().filter_map(|run| run.max).reduce(f64::max),
            exact: runs.iter().all(|run| run.exact),
        }
    }
}
