//! How many seeds would have told?

use statrs::distribution::{ContinuousCDF, StudentsT};

use crate::statistics::t_quantile;

/// An effect of the size asked for is seen this often.
const POWER: f64 = 0.8;
/// Beyond so many seeds, more of them is no advice.
const SEEDS_MAX: u64 = 1_000_000;

/// How far values scatter, and how many were drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// Standard deviation of the difference between one value of each side.
    pub deviation: f64,
    /// Is it that of pairs on the same requests? If not, each side has its own seeds.
    pub paired: bool,
}

impl Spread {
    /// Seeds a side with which a true difference of `effect` is seen in four cases of five, by a two-sided test at `alpha`.
    ///
    /// None where no number below a million does, or where `effect` is no difference.
    pub fn seeds_for(self, effect: f64, alpha: f64) -> Option<u64> {
        if effect.is_nan() || effect <= 0.0 || !self.deviation.is_finite() {
            return None;
        }
        let tells = |seeds: u64| {
            let freedom = if self.paired { seeds - 1 } else { 2 * (seeds - 1) } as f64;
            let (Some(level), Some(power)) = (t_quantile(1.0 - alpha / 2.0, freedom), t_quantile(POWER, freedom))
            else {
                return false;
            };
            (level + power) * self.deviation / (seeds as f64).sqrt() <= effect
        };
        let mut high = 2;
        while !tells(high) {
            high *= 2;
            if high > SEEDS_MAX {
                return None;
            }
        }
        // More seeds never tell less: the first that does lies in the last doubling.
        let mut low = high / 2;
        while low + 1 < high {
            let middle = low.midpoint(high);
            if tells(middle) { high = middle } else { low = middle }
        }
        Some(high)
    }
}

/// The chance of a |t| at least this large, if there is no difference.
pub(crate) fn two_sided_p(t: f64, freedom: f64) -> Option<f64> {
    let distribution = StudentsT::new(0.0, 1.0, freedom).ok()?;
    // The lower tail keeps its digits where the upper one would be 1 less almost 1.
    Some((2.0 * distribution.cdf(-t.abs())).min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_power_tables() {
        // One-sample t, effect of half a deviation, 5 % two-sided, power 0.8: 34 in Cohen's tables; the sum of
        // quantiles is the usual approximation to the non-central t and may be one off.
        let paired = Spread { deviation: 1.0, paired: true };
        assert!((33..=35).contains(&paired.seeds_for(0.5, 0.05).unwrap()));
        // Two samples, effect of half a deviation of one: 64 a side. The difference scatters √2 as far.
        let unpaired = Spread { deviation: std::f64::consts::SQRT_2, paired: false };
        assert!((63..=65).contains(&unpaired.seeds_for(0.5, 0.05).unwrap()));
        assert_eq!(paired.seeds_for(0.0, 0.05), None);
        assert_eq!(Spread { deviation: 1e6, paired: true }.seeds_for(1e-3, 0.01), None);
        assert_eq!(Spread { deviation: 0.0, paired: true }.seeds_for(1e-3, 0.01), Some(2));
    }

    #[test]
    fn the_tail_keeps_its_digits() {
        // With one degree of freedom t is Cauchy: P(|t| > x) = 1 - 2/π·atan(x) ≈ 2/(πx).
        let p = two_sided_p(1e6, 1.0).unwrap();
        assert!((p * std::f64::consts::PI * 1e6 / 2.0 - 1.0).abs() < 1e-6, "{p}");
        // The density integrated numerically from 8 on, by substitution.
        let p = two_sided_p(8.0, 19.0).unwrap();
        assert!((p / 1.675_954e-7 - 1.0).abs() < 1e-5, "{p}");
    }
}
