//! By how much does a value differ between two sides, and how sure is that?

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::power::{Spread, two_sided_p};
use crate::statistics::t_quantile;

/// Differences that scatter less than this share of themselves are equal: what is left is rounding.
const ROUNDING: f64 = 1e-9;

/// How values are set against each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Scale {
    /// New over base, less one. Means are taken of logarithms, so that a doubling and a halving cancel.
    Ratio,
    /// New less base.
    Difference,
}

/// What the two sides have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Pairing {
    /// Each value of one side belongs to one of the other: the same seed, the same requests. Judged by Student's t of the differences.
    Paired,
    /// Each side has seeds of its own. Judged by Welch's t.
    Unpaired,
}

/// A difference between two sides.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Estimate {
    /// How the sides are set against each other.
    pub scale: Scale,
    /// Pairs, or two samples.
    pub pairing: Pairing,
    /// Mean of the base.
    pub base: f64,
    /// Mean of the new side.
    pub new: f64,
    /// How much the new side is off: a share of the base ([`Scale::Ratio`]) or in units of the metric ([`Scale::Difference`]).
    pub change: f64,
    /// The interval of `change`, where there are enough seeds for one.
    pub interval: Option<(f64, f64)>,
    /// The chance of a difference at least this large if there were none, before any correction.
    pub p: Option<f64>,
    /// Values of the base.
    pub seeds_base: usize,
    /// Values of the new side.
    pub seeds_new: usize,
    /// Is each pair equal to the last digit?
    pub identical: bool,
    /// Standard deviation of the difference between one value of each side, on the scale of the test.
    #[serde(skip)]
    pub(crate) spread: Option<f64>,
}

impl Estimate {
    /// Of pairs (base, new); the interval has this confidence. None of no pairs.
    pub fn paired(scale: Scale, pairs: &[(f64, f64)], confidence: f64) -> Option<Estimate> {
        Estimate::paired_at_best(scale, pairs, confidence, 0.0)
    }

    /// As [`Estimate::paired`], of values that are known to repeat to `spread` at best (on the scale of the test), however little a
    /// few of them happen to scatter.
    pub fn paired_at_best(scale: Scale, pairs: &[(f64, f64)], confidence: f64, spread: f64) -> Option<Estimate> {
        let (base, new): (Vec<f64>, Vec<f64>) = pairs.iter().copied().unzip();
        let (scale, base_on, new_on) = on_scale(scale, &base, &new)?;
        let differences: Vec<f64> = base_on.iter().zip(&new_on).map(|(base, new)| new - base).collect();
        let (mean, variance) = moments(&differences)?;
        let count = differences.len() as f64;
        let test = variance.map(|variance| Test::paired(mean, variance.max(spread * spread), count, &differences));
        let identical = pairs.iter().all(|(base, new)| base == new);
        Some(Estimate::new(scale, Pairing::Paired, (&base, &new), mean, test, confidence, identical))
    }

    /// Of two samples with seeds of their own. None where one is empty.
    pub fn unpaired(scale: Scale, base: &[f64], new: &[f64], confidence: f64) -> Option<Estimate> {
        let (scale, base_on, new_on) = on_scale(scale, base, new)?;
        let (base_mean, base_variance) = moments(&base_on)?;
        let (new_mean, new_variance) = moments(&new_on)?;
        let variances = base_variance.zip(new_variance);
        let mean = new_mean - base_mean;
        let test =
            variances.map(|variances| Test::welch(mean, variances, (base.len() as f64, new.len() as f64), base_mean));
        Some(Estimate::new(scale, Pairing::Unpaired, (base, new), mean, test, confidence, false))
    }

    fn new(
        scale: Scale,
        pairing: Pairing,
        (base, new): (&[f64], &[f64]),
        mean: f64,
        test: Option<Test>,
        confidence: f64,
        identical: bool,
    ) -> Estimate {
        let out = |x: f64| if scale == Scale::Ratio { x.exp_m1() } else { x };
        let half = test.and_then(|test| test.half_width(confidence));
        Estimate {
            scale,
            pairing,
            base: moments(base).map_or(0.0, |(mean, _)| mean),
            new: moments(new).map_or(0.0, |(mean, _)| mean),
            change: out(mean),
            interval: half.map(|half| (out(mean - half), out(mean + half))),
            p: test.and_then(|test| if identical { Some(1.0) } else { test.p }),
            seeds_base: base.len(),
            seeds_new: new.len(),
            identical,
            spread: test.map(|test| test.deviation),
        }
    }

    /// Seeds a side, beyond those there are, with which a change of `effect` (in units of [`Estimate::change`]) is seen four times in five.
    pub fn more_seeds_for(&self, effect: f64, alpha: f64) -> Option<u64> {
        let spread = Spread { deviation: self.spread?, paired: self.pairing == Pairing::Paired };
        let effect = if self.scale == Scale::Ratio { effect.ln_1p() } else { effect };
        let needed = spread.seeds_for(effect, alpha)?;
        Some(needed.saturating_sub(self.seeds_base.min(self.seeds_new) as u64))
    }
}

/// What a test of no difference says.
#[derive(Clone, Copy)]
struct Test {
    error: f64,
    freedom: f64,
    p: Option<f64>,
    deviation: f64,
}

impl Test {
    fn paired(mean: f64, variance: f64, count: f64, differences: &[f64]) -> Test {
        let deviation = variance.sqrt();
        let freedom = count - 1.0;
        if deviation <= ROUNDING * mean.abs() || deviation == 0.0 {
            // Equal differences have no spread to measure them by: what is left is that all have the same sign.
            let is_zero = differences.iter().all(|difference| *difference == 0.0);
            let p = if is_zero { 1.0 } else { 2f64.powf(1.0 - count) };
            return Test { error: 0.0, freedom, p: Some(p), deviation: 0.0 };
        }
        let error = deviation / count.sqrt();
        Test { error, freedom, p: two_sided_p(mean / error, freedom), deviation }
    }

    fn welch(mean: f64, (base, new): (f64, f64), (count_base, count_new): (f64, f64), level: f64) -> Test {
        let (base_part, new_part) = (base / count_base, new / count_new);
        let error = (base_part + new_part).sqrt();
        let deviation = (base + new).sqrt();
        if error <= ROUNDING * mean.abs().max(level.abs()) {
            // Two constants: of all ways to deal the values to two sides, one in each direction tells them apart like this.
            let is_zero = mean.abs() <= ROUNDING * level.abs();
            let p = if is_zero { 1.0 } else { (2.0 / ways(count_base + count_new, count_base)).min(1.0) };
            return Test { error: 0.0, freedom: count_base + count_new - 2.0, p: Some(p), deviation: 0.0 };
        }
        let freedom = (base_part + new_part).powi(2)
            / (base_part.powi(2) / (count_base - 1.0) + new_part.powi(2) / (count_new - 1.0));
        Test { error, freedom, p: two_sided_p(mean / error, freedom), deviation }
    }

    fn half_width(self, confidence: f64) -> Option<f64> {
        if self.error == 0.0 { Some(0.0) } else { Some(t_quantile(0.5 + confidence / 2.0, self.freedom)? * self.error) }
    }
}

/// Ways to choose `k` of `n`.
fn ways(n: f64, k: f64) -> f64 {
    (1..=k as u64).map(|i| (n - k + i as f64) / i as f64).product()
}

/// Both sides on the scale of the test. Ratios need positive values: where there are others, differences are taken.
fn on_scale(scale: Scale, base: &[f64], new: &[f64]) -> Option<(Scale, Vec<f64>, Vec<f64>)> {
    let all = || base.iter().chain(new);
    if !all().all(|value| value.is_finite()) {
        return None;
    }
    if scale == Scale::Ratio && all().all(|value| *value > 0.0) {
        let log = |values: &[f64]| values.iter().map(|value| value.ln()).collect();
        return Some((Scale::Ratio, log(base), log(new)));
    }
    Some((Scale::Difference, base.to_vec(), new.to_vec()))
}

/// Mean and, of two values or more, the variance.
fn moments(values: &[f64]) -> Option<(f64, Option<f64>)> {
    let count = values.len() as f64;
    if values.is_empty() {
        return None;
    }
    let mean = values.iter().sum::<f64>() / count;
    let squares = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
    Some((mean, (values.len() > 1).then(|| squares / (count - 1.0))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) -> bool {
        (a / b - 1.0).abs() < 1e-4
    }

    #[test]
    fn pairs_give_students_t() {
        // Student's sleep data (1908): two drugs, ten patients. R: t = -4.0621, df = 9, p = 0.002833, 95 % from -2.4599 to -0.7001.
        let first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0];
        let second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4];
        let pairs: Vec<_> = second.into_iter().zip(first).collect();
        let estimate = Estimate::paired(Scale::Ratio, &pairs, 0.95).unwrap();
        assert_eq!(estimate.scale, Scale::Difference, "there are values below zero");
        assert!(close(estimate.change, -1.58) && close(estimate.p.unwrap(), 0.002_832_9), "{estimate:?}");
        let (low, high) = estimate.interval.unwrap();
        assert!(close(low, -2.459_886) && close(high, -0.700_114), "{low} {high}");
    }

    #[test]
    fn two_samples_give_welchs_t() {
        // The same data as if they were two groups. R: t = -1.8608, df = 17.776, p = 0.07939, 95 % from -3.365483 to 0.205483.
        let first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0];
        let second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4];
        let estimate = Estimate::unpaired(Scale::Difference, &second, &first, 0.95).unwrap();
        assert!(close(estimate.p.unwrap(), 0.079_394), "{estimate:?}");
        let (low, high) = estimate.interval.unwrap();
        assert!(close(low, -3.365_483) && close(high, 0.205_483), "{low} {high}");
    }

    #[test]
    fn ratios_cancel_where_differences_would_not() {
        let estimate = Estimate::paired(Scale::Ratio, &[(1.0, 2.0), (2.0, 1.0)], 0.95).unwrap();
        assert!(estimate.change.abs() < 1e-12 && estimate.scale == Scale::Ratio);
        let scaled: Vec<_> = [0.3, 0.5, 9.0, 1.1].map(|x| (x, x * 1.02)).to_vec();
        let estimate = Estimate::paired(Scale::Ratio, &scaled, 0.99).unwrap();
        assert!(close(estimate.change, 0.02) && close(estimate.interval.unwrap().0, 0.02));
    }

    #[test]
    fn equal_differences_are_only_as_sure_as_a_coin_that_falls_the_same_way() {
        let pairs = |n: usize| vec![(5.0, 6.0); n];
        assert_eq!(Estimate::paired(Scale::Difference, &pairs(3), 0.99).unwrap().p, Some(0.25));
        assert_eq!(Estimate::paired(Scale::Difference, &pairs(20), 0.99).unwrap().p, Some(2f64.powi(-19)));
        let same = Estimate::paired(Scale::Difference, &[(5.0, 5.0); 3], 0.99).unwrap();
        assert!(same.identical && same.p == Some(1.0) && same.interval == Some((0.0, 0.0)));
        let apart = Estimate::unpaired(Scale::Ratio, &[5.0; 4], &[6.0; 4], 0.99).unwrap();
        assert!(close(apart.p.unwrap(), 2.0 / 70.0));
        assert_eq!(Estimate::unpaired(Scale::Ratio, &[5.0; 4], &[5.0; 3], 0.99).unwrap().p, Some(1.0));
    }

    #[test]
    fn one_seed_has_no_interval_and_none_has_no_estimate() {
        let one = Estimate::paired(Scale::Ratio, &[(1.0, 1.5)], 0.99).unwrap();
        assert!(one.interval.is_none() && one.p.is_none() && close(one.change, 0.5));
        assert!(Estimate::paired(Scale::Ratio, &[], 0.99).is_none());
        assert!(Estimate::unpaired(Scale::Ratio, &[1.0], &[], 0.99).is_none());
        assert!(Estimate::paired(Scale::Ratio, &[(1.0, f64::NAN)], 0.99).is_none());
    }
}
