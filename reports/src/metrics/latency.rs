//! A distribution in five numbers.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::distribution::Distribution;
use crate::histogram::{LogLinear, nearest_rank};

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
    /// Are percentiles those of single observations? If not, they come from a histogram (0.05 % wide buckets; 0.2 % for token gaps by tenant and adapter, or beside a warm-up or a drain, whose middle is off by less than 0.1 %).
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

    /// Of values in any order, picoseconds, which may be in another one afterwards.
    pub(crate) fn of_values(values: &mut [u64]) -> Latency {
        let count = values.len() as u64;
        let sum: u128 = values.iter().map(|value| u128::from(*value)).sum();
        let at = at_ranks(values, [0.5, 0.9, 0.99, 1.0].map(|q| nearest_rank(q, count).unwrap_or(0)));
        let [p50, p90, p99, max] = at.map(|value| value.map(|ps| ps as f64 / PS));
        let mean = (count > 0).then(|| sum as f64 / count as f64 / PS);
        Latency { count, mean, p50, p90, p99, max, exact: true }
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

/// The values of these ranks, from 1 and ascending, of all of them in order; none where there are not so many. Leaves them in another order.
pub(crate) fn at_ranks<const N: usize>(values: &mut [u64], ranks: [u64; N]) -> [Option<u64>; N] {
    let sorted = values.is_sorted();
    let (mut rest, mut before) = (values, 0);
    ranks.map(|rank| {
        let place = (rank as usize).checked_sub(before + 1).filter(|place| *place < rest.len());
        if sorted {
            return place.map(|place| rest[place]);
        }
        match place {
            Some(place) => {
                let (_, value, _) = rest.select_nth_unstable(place);
                let value = *value;
                // What follows is not less: the next rank is looked for there, this one included.
                rest = &mut std::mem::take(&mut rest)[place..];
                before += place;
                Some(value)
            }
            None => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ranks_are_those_of_the_sorted_values(
            mut values in prop::collection::vec(0u64..50, 0..80), mut ranks in prop::array::uniform5(0u64..90), sort in any::<bool>(),
        ) {
            ranks.sort_unstable();
            let mut sorted = values.clone();
            sorted.sort_unstable();
            if sort {
                values.clone_from(&sorted);
            }
            let expected = ranks.map(|rank| (rank as usize).checked_sub(1).and_then(|place| sorted.get(place)).copied());
            prop_assert_eq!(at_ranks(&mut values, ranks), expected);
        }
    }
}
