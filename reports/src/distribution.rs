//! Durations to be asked for percentiles: all of them while they are few, a histogram when they are many.

use crate::histogram::{LogLinear, nearest_rank};
use crate::metrics::Latency;

/// Bucket width of histograms kept in place of samples: 2^-11, at most 0.05 % of the value.
pub const BITS: u32 = 11;
/// The same where one stands for each of many groups: 2^-9, at most 0.2 %.
pub const WIDE_BITS: u32 = 9;

/// How long did it take, over many cases? In picoseconds.
#[derive(Clone, Debug, PartialEq)]
pub enum Distribution {
    /// Every value, in order: percentiles are exact.
    Exact(Vec<u64>),
    /// Too many to keep: percentiles are within 0.025 %, mean and ends exact.
    Bucketed(LogLinear<BITS>),
    /// Told in wide buckets: percentiles and ends are within 0.1 %, the mean is exact.
    Wide(LogLinear<WIDE_BITS>),
}

impl Default for Distribution {
    fn default() -> Self {
        Distribution::Exact(Vec::new())
    }
}

impl Distribution {
    /// Of these values; kept one by one if there are at most `keep`.
    pub fn of(values: impl IntoIterator<Item = u64>, keep: usize) -> Distribution {
        let mut gathering = Gathering::new(keep);
        values.into_iter().for_each(|value| gathering.record(value));
        gathering.finish()
    }

    /// Of several distributions together.
    pub fn pooled<'a>(parts: impl IntoIterator<Item = &'a Distribution>) -> Distribution {
        let parts: Vec<_> = parts.into_iter().collect();
        if let [only] = parts.as_slice() {
            return (*only).clone();
        }
        // Narrow buckets lie within wide ones: what is told in those tells of all no better.
        if parts.iter().any(|part| matches!(part, Distribution::Wide(_))) {
            return Distribution::Wide(merged(&parts));
        }
        let mut values = Vec::new();
        for part in &parts {
            match part {
                Distribution::Exact(more) => values.extend_from_slice(more),
                _ => return Distribution::Bucketed(merged(&parts)),
            }
        }
        values.sort_unstable();
        Distribution::Exact(values)
    }

    /// How many values?
    pub fn count(&self) -> u64 {
        match self {
            Distribution::Exact(values) => values.len() as u64,
            Distribution::Bucketed(histogram) => histogram.count(),
            Distribution::Wide(histogram) => histogram.count(),
        }
    }

    /// The nearest-rank quantile, picoseconds: the least value that at least `q` of all values do not exceed.
    pub fn quantile(&self, q: f64) -> Option<u64> {
        match self {
            Distribution::Exact(values) => nearest_rank(q, values.len() as u64).map(|rank| values[rank as usize - 1]),
            Distribution::Bucketed(histogram) => histogram.quantile(q),
            Distribution::Wide(histogram) => histogram.quantile(q),
        }
    }

    /// The sum of all values, picoseconds.
    pub fn sum(&self) -> u128 {
        match self {
            Distribution::Exact(values) => values.iter().map(|value| u128::from(*value)).sum(),
            Distribution::Bucketed(histogram) => histogram.sum(),
            Distribution::Wide(histogram) => histogram.sum(),
        }
    }

    /// The mean, picoseconds; none of no values.
    pub fn mean(&self) -> Option<f64> {
        let count = self.count();
        (count > 0).then(|| self.sum() as f64 / count as f64)
    }

    /// Are percentiles exact?
    pub fn is_exact(&self) -> bool {
        matches!(self, Distribution::Exact(_))
    }
}

/// Durations as they come: one by one while they are few.
#[derive(Clone, Debug)]
pub(crate) struct Gathering {
    keep: usize,
    values: Vec<u64>,
    /// Of all, once they are too many.
    histogram: Option<LogLinear<BITS>>,
}

impl Gathering {
    /// Keeps so many values.
    pub(crate) fn new(keep: usize) -> Gathering {
        Gathering { keep, values: Vec::new(), histogram: None }
    }

    pub(crate) fn record(&mut self, value: u64) {
        match &mut self.histogram {
            Some(histogram) => histogram.record(value, 1),
            None if self.values.len() < self.keep => self.values.push(value),
            none => {
                let histogram = none.insert(LogLinear::default());
                std::mem::take(&mut self.values).into_iter().for_each(|value| histogram.record(value, 1));
                histogram.record(value, 1);
            }
        }
    }

    pub(crate) fn record_if(&mut self, value: Option<u64>) {
        if let Some(value) = value {
            self.record(value);
        }
    }

    /// In five numbers.
    pub(crate) fn latency(&mut self) -> Latency {
        match &self.histogram {
            Some(histogram) => Latency::of_histogram(histogram),
            None => Latency::of_values(&mut self.values),
        }
    }

    pub(crate) fn finish(mut self) -> Distribution {
        if let Some(histogram) = self.histogram {
            return Distribution::Bucketed(histogram);
        }
        self.values.sort_unstable();
        Distribution::Exact(self.values)
    }
}

/// All parts in buckets of one width, none of theirs wider.
fn merged<const BITS: u32>(parts: &[&Distribution]) -> LogLinear<BITS> {
    let mut sum = LogLinear::default();
    for part in parts {
        match part {
            Distribution::Exact(values) => values.iter().for_each(|value| sum.record(*value, 1)),
            Distribution::Bucketed(histogram) => sum.merge(&histogram.widened()),
            Distribution::Wide(histogram) => sum.merge(&histogram.widened()),
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_rank_as_by_hand() {
        let ten = Distribution::of((1..=10).rev(), 100);
        assert_eq!([0.0, 0.1, 0.5, 0.9, 0.91, 0.99, 1.0].map(|q| ten.quantile(q).unwrap()), [1, 1, 5, 9, 10, 10, 10]);
        assert_eq!(Distribution::of(1..=100, 100).quantile(0.99), Some(99));
        assert_eq!(Distribution::default().quantile(0.5), None);
    }

    /// Of one run and of several, beside narrow buckets and beside values.
    #[test]
    fn wide_buckets_tell_within_a_thousandth() {
        let mut all: Vec<u64> = (0..4000).map(|i| 1_000_000 + i * i * 977).collect();
        let wide = |values: &[u64]| {
            let mut histogram = LogLinear::<WIDE_BITS>::default();
            values.iter().for_each(|value| histogram.record(*value, 1));
            Distribution::Wide(histogram)
        };
        let few = Distribution::of(all[3000..3500].iter().copied(), usize::MAX);
        let narrow = Distribution::of(all[3500..].iter().copied(), 10);
        for pooled in [
            wide(&all),
            Distribution::pooled([&wide(&all[..2000]), &wide(&all[2000..])]),
            Distribution::pooled([&wide(&all[..3000]), &few, &narrow]),
            Distribution::pooled([&narrow, &few, &wide(&all[..3000])]),
        ] {
            all.sort_unstable();
            assert_eq!((pooled.count(), pooled.sum()), (4000, all.iter().map(|v| u128::from(*v)).sum()));
            for place in (1..=4000).step_by(7) {
                let (found, exact) = (pooled.quantile(place as f64 / 4000.0).unwrap(), all[place - 1]);
                assert!((found as f64 / exact as f64 - 1.0).abs() < 0.001, "{place}: {found} for {exact}");
            }
        }
    }

    #[test]
    fn pooling_a_histogram_and_samples_keeps_count_and_sum() {
        let few = Distribution::of([1_000_000, 5_000_000], 2);
        let many = Distribution::of((1..=1000).map(|i| i * 1_000_000), 10);
        let pooled = Distribution::pooled([&few, &many]);
        assert!(!pooled.is_exact());
        assert_eq!(pooled.count(), 1002);
        assert_eq!(pooled.sum(), few.sum() + many.sum());
        assert_eq!(Distribution::pooled([&few, &few]).quantile(0.5), Some(1_000_000));
    }

    #[test]
    fn pooled_percentiles_are_within_a_thousandth_of_the_exact_ones() {
        // Five runs of different sizes and spreads, from microseconds to minutes; only two are kept sample by sample.
        let mut state = 1u64;
        let mut draw = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1u64 << 53) as f64
        };
        let runs: Vec<Vec<u64>> = [(500, 3.0), (40_000, 1.0), (7, 0.2), (90_000, 2.0), (1_000, 0.01)]
            .into_iter()
            .map(|(count, spread)| (0..count).map(|_| (1e9 * (spread * 10.0 * draw()).exp()) as u64).collect())
            .collect();
        let parts: Vec<Distribution> = runs.iter().map(|run| Distribution::of(run.iter().copied(), 1_000)).collect();
        assert!(parts[0].is_exact() && !parts[1].is_exact());
        let pooled = Distribution::pooled(&parts);
        let exact = Distribution::of(runs.concat(), usize::MAX);
        assert_eq!((pooled.count(), pooled.sum()), (exact.count(), exact.sum()));
        for q in [0.0, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999, 1.0] {
            let (found, truth) = (pooled.quantile(q).unwrap() as f64, exact.quantile(q).unwrap() as f64);
            assert!((found / truth - 1.0).abs() < 1e-3, "p{}: {found} for {truth}", q * 100.0);
        }
    }
}
