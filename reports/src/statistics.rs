//! The few statistics that verdicts rest on.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF, StudentsT};

/// A mean and how far off it may be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Interval {
    /// The mean of the samples.
    pub mean: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// How many samples it rests on.
    pub samples: usize,
}

impl Interval {
    /// Is zero outside?
    pub fn excludes_zero(&self) -> bool {
        self.low > 0.0 || self.high < 0.0
    }
}

/// The t-interval of a mean at `confidence` (such as 0.95); none of fewer than two samples.
///
/// Equal samples give an interval without width: a deterministic simulation can do that.
pub fn t_interval(samples: &[f64], confidence: f64) -> Option<Interval> {
    let n = samples.len();
    if n < 2 {
        return None;
    }
    let mean = samples.iter().sum::<f64>() / n as f64;
    let variance = samples.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1) as f64;
    let half = t_quantile(0.5 + confidence / 2.0, (n - 1) as f64)? * (variance / n as f64).sqrt();
    Some(Interval { mean, low: mean - half, high: mean + half, samples: n })
}

/// The quantile `p` of Student's t; none below one degree of freedom.
pub fn t_quantile(p: f64, freedom: f64) -> Option<f64> {
    (freedom >= 1.0).then(|| StudentsT::new(0.0, 1.0, freedom).ok()).flatten().map(|t| t.inverse_cdf(p))
}

/// The slope of a line through points at equal distances, with a lower bound.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Slope {
    /// Rise from one point to the next.
    pub slope: f64,
    /// What the slope exceeds at 95 % (one-sided).
    pub low: f64,
}

/// Least squares through `values`; the standard error is widened by the lag-1 autocorrelation of the residuals, as backlogs remember.
///
/// None of fewer than four points.
pub fn slope(values: &[f64]) -> Option<Slope> {
    let n = values.len() as f64;
    if values.len() < 4 {
        return None;
    }
    let x_mean = (n - 1.0) / 2.0;
    let y_mean = values.iter().sum::<f64>() / n;
    let x_squares: f64 = (0..values.len()).map(|i| (i as f64 - x_mean).powi(2)).sum();
    let slope = values.iter().enumerate().map(|(i, y)| (i as f64 - x_mean) * (y - y_mean)).sum::<f64>() / x_squares;
    let residuals: Vec<_> = values.iter().enumerate().map(|(i, y)| y - y_mean - slope * (i as f64 - x_mean)).collect();
    let squares: f64 = residuals.iter().map(|r| r * r).sum();
    let products: f64 = residuals.windows(2).map(|pair| pair[0] * pair[1]).sum();
    let memory = if squares > 0.0 { (products / squares).clamp(0.0, 0.99) } else { 0.0 };
    // So many independent points are as good as these, for a process that forgets at that rate.
    let freedom = (n * (1.0 - memory) / (1.0 + memory) - 2.0).max(1.0);
    let error = (squares / (n - 2.0) / x_squares * (1.0 + memory) / (1.0 - memory)).sqrt();
    Some(Slope { slope, low: slope - t_quantile(0.95, freedom)? * error })
}

/// Jain's fairness index (Σx)² / (n Σx²): 1 if all are equal, 1/n if one has everything. None of no values or of zeros alone.
pub fn jain(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let (n, sum, squares) =
        values.into_iter().fold((0.0, 0.0, 0.0), |(n, sum, squares), x| (n + 1.0, sum + x, squares + x * x));
    (squares > 0.0).then(|| sum * sum / (n * squares))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_t_interval_is_the_one_of_the_tables() {
        // 2.776 is the tabled 97.5 % quantile at 4 degrees of freedom; the standard deviation of 1..5 is sqrt(2.5).
        let interval = t_interval(&[1.0, 2.0, 3.0, 4.0, 5.0], 0.95).unwrap();
        assert!((interval.high - (3.0 + 2.7764451 * (2.5f64 / 5.0).sqrt())).abs() < 1e-5, "{interval:?}");
        assert!(t_interval(&[1.0], 0.95).is_none());
        let equal = t_interval(&[2.0, 2.0], 0.95).unwrap();
        assert_eq!((equal.low, equal.high), (2.0, 2.0));
    }

    #[test]
    fn a_rising_line_has_a_slope_and_a_wave_has_none() {
        let rising: Vec<_> = (0..40).map(|i| f64::from(i) * 0.5 + f64::from(i % 3)).collect();
        assert!(slope(&rising).unwrap().low > 0.45);
        let wave: Vec<_> = (0..40).map(|i| (f64::from(i) / 4.0).sin() * 5.0 + 10.0).collect();
        assert!(slope(&wave).unwrap().low < 0.0);
    }

    #[test]
    fn jain_is_one_for_equals_and_a_share_for_one() {
        assert_eq!(jain([3.0, 3.0, 3.0]), Some(1.0));
        assert_eq!(jain([1.0, 0.0, 0.0, 0.0]), Some(0.25));
        assert_eq!(jain([0.0]), None);
    }
}
