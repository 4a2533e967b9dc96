//! How measurements scatter: single answers around the median of their shape, and medians around the profile.

use std::collections::BTreeMap;

use aril_sim::profile::{Profile, Spread};
use statrs::statistics::{Data as Statistics, OrderStatistics};

use super::data::{self, Data};
use super::predict::Predictor;
use crate::error::CalibrateError;
use crate::measure::median;

/// Shares of the measurements whose bounds are kept.
const LEVELS: [f64; 11] = [0.01, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95, 0.99];

/// The quantiles of both scatters, by what was measured.
pub(super) fn of(data: &Data, profile: &Profile) -> Result<Vec<Spread>, CalibrateError> {
    let mut predictor = Predictor::new(profile);
    let mut residuals: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for point in data.points() {
        if let Some(us) = predictor.us(&point.question)?
            && us > 0.0
            && median(&point.us) > 0.0
        {
            residuals.entry(data::of(&point.question)).or_default().push(median(&point.us) / us);
        }
    }
    let kept = data.ratios.iter().filter(|(of, ratios)| ratios.len() >= 20 && residuals.contains_key(*of));
    Ok(kept
        .map(|(of, ratios)| Spread {
            of: of.clone(),
            samples: ratios.len() as u32,
            levels: LEVELS.to_vec(),
            ratio: quantiles(ratios),
            residual: quantiles(&residuals[of]),
        })
        .collect())
}

fn quantiles(values: &[f64]) -> Vec<f64> {
    let mut values = Statistics::new(values.to_vec());
    let mut highest = 0.0_f64;
    LEVELS
        .iter()
        .map(|&level| {
            // Interpolation may round a step down.
            highest = highest.max(values.quantile(level));
            highest
        })
        .collect()
}
