//! Sums of curves, looked up by whole rows.

use crate::profile::curve::Curve;
use crate::profile::{Per, Profile, Rows};

/// The sum of all operations over one kind of rows, microseconds: a table for usual row counts, the curves beyond it.
#[derive(Clone, Debug)]
pub(super) struct RowTable {
    dense: Vec<f64>,
    curves: Vec<(f64, Curve)>,
}

impl RowTable {
    /// Every operation of the profile over these rows, layers multiplied out, with a table up to `dense_rows`.
    pub(super) fn compile(profile: &Profile, over: Rows, dense_rows: u32) -> RowTable {
        let layers = f64::from(profile.model.layers);
        let curves: Vec<_> = profile
            .operations
            .iter()
            .filter(|operation| operation.over == over)
            .map(|operation| (if operation.per == Per::Layer { layers } else { 1.0 }, operation.cost.clone()))
            .collect();
        let dense = (0..=dense_rows).map(|rows| sum(&curves, rows)).collect();
        RowTable { dense, curves }
    }

    /// The cost of so many rows, microseconds.
    pub(super) fn us(&self, rows: u32) -> f64 {
        self.dense.get(rows as usize).copied().unwrap_or_else(|| sum(&self.curves, rows))
    }
}

fn sum(curves: &[(f64, Curve)], rows: u32) -> f64 {
    curves.iter().map(|(times, curve)| times * curve.us(f64::from(rows))).sum()
}
