//! Sums of curves, looked up by whole rows.

use crate::profile::curve::Curve;
use crate::profile::{Per, Profile, Rows, WholeStep, pad};

/// The sum of all operations over one kind of rows, microseconds: a table for usual row counts, the curves beyond it.
///
/// What whole steps take beyond the sum of their parts depends on all rows, and is in their table, divided by the scale.
#[derive(Clone, Debug)]
pub(super) struct RowTable {
    dense: Vec<f64>,
    curves: Vec<(f64, Curve)>,
    /// Layers over scale, and the gaps.
    gaps: Option<(f64, WholeStep)>,
    /// What the engine pads rows to.
    buckets: Vec<u32>,
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
        let gaps = (over == Rows::All).then(|| (layers / profile.whole_step.scale, profile.whole_step.clone()));
        let mut table = RowTable { dense: Vec::new(), curves, gaps, buckets: profile.row_buckets.clone() };
        table.dense = (0..=dense_rows).map(|rows| table.sum(rows)).collect();
        table
    }

    /// The cost of so many rows, microseconds.
    pub(super) fn us(&self, rows: u32) -> f64 {
        self.dense.get(rows as usize).copied().unwrap_or_else(|| self.sum(rows))
    }

    fn sum(&self, rows: u32) -> f64 {
        let rows = f64::from(pad(&self.buckets, rows));
        let gaps = self.gaps.as_ref().map_or(0.0, |(layers, whole)| layers * whole.layer_us(rows));
        self.curves.iter().map(|(times, curve)| times * curve.us(rows)).sum::<f64>() + gaps
    }
}
