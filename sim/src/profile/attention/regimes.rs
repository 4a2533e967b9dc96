//! Decode batches that a kernel's plan shares out in a way of its own: when it does, and what they cost then.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::DecodeBound;
use crate::profile::curve::{finite, increasing, interpolate_signed};

/// What batches cost for which all of some limits hold: the largest of the bounds, and of the quickest of the ways.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DecodeRegime {
    /// What the plan does, such as `cut evenly`.
    pub name: String,
    /// All of them hold; at least one.
    pub limits: Vec<DecodeLimit>,
    /// With the ways at least one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bounds: Vec<DecodeBound>,
    /// As in [`DecodeAttention::ways`](super::DecodeAttention::ways).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ways: Vec<DecodeBound>,
}

/// `sum(rows) × sum of contexts + longest(rows) × longest context ≤ most(rows)`.
///
/// The coefficients, of any sign, are given at some numbers of rows, with straight lines between them; the first and last hold outside.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DecodeLimit {
    /// Numbers of decode rows: strictly increasing, at least one.
    pub rows: Vec<f64>,
    /// At each: of the sum of the contexts.
    pub sum: Vec<f64>,
    /// At each: of the longest.
    pub longest: Vec<f64>,
    /// At each: the most that both may come to.
    pub most: Vec<f64>,
}

/// A limit at some number of rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct LimitAt {
    sum: f64,
    longest: f64,
    most: f64,
}

impl DecodeRegime {
    /// Of contexts up to some length, whatever their number: the largest of these bounds.
    pub fn short(context_max: u32, bounds: Vec<DecodeBound>) -> DecodeRegime {
        let limits = vec![DecodeLimit::longest(vec![1.0], vec![f64::from(context_max)])];
        DecodeRegime { name: "short".to_owned(), limits, bounds, ways: Vec::new() }
    }

    /// Do all limits hold?
    pub fn holds(&self, rows: u32, context_sum: u64, longest: u32) -> bool {
        let (context_sum, longest) = (context_sum as f64, f64::from(longest));
        self.limits.iter().all(|limit| limit.at(rows).excess(context_sum, longest) <= 0.0)
    }

    pub(crate) fn check(&self) -> Result<(), String> {
        if self.limits.is_empty() || self.bounds.is_empty() && self.ways.is_empty() {
            return Err(format!("`{}` has no limits, or neither bounds nor ways", self.name));
        }
        self.limits.iter().try_for_each(DecodeLimit::check)?;
        self.bounds.iter().chain(&self.ways).try_for_each(DecodeBound::check)
    }
}

impl DecodeLimit {
    /// The longest context is at most so long, at some numbers of rows.
    pub fn longest(rows: Vec<f64>, most: Vec<f64>) -> DecodeLimit {
        DecodeLimit { sum: vec![0.0; rows.len()], longest: vec![1.0; rows.len()], rows, most }
    }

    pub(crate) fn at(&self, rows: u32) -> LimitAt {
        let rows = f64::from(rows).clamp(self.rows[0], self.rows[self.rows.len() - 1]);
        let of = |values: &[f64]| interpolate_signed(&self.rows, values, rows);
        LimitAt { sum: of(&self.sum), longest: of(&self.longest), most: of(&self.most) }
    }

    fn check(&self) -> Result<(), String> {
        increasing("rows", &self.rows)?;
        for (key, values) in [("sum", &self.sum), ("longest", &self.longest), ("most", &self.most)] {
            if values.len() != self.rows.len() {
                return Err(format!("{} rows but {} {key}: one for each", self.rows.len(), values.len()));
            }
            values.iter().try_for_each(|&value| finite(key, value))?;
        }
        Ok(())
    }
}

impl LimitAt {
    /// How much too much it is; at most zero where the limit holds.
    pub(crate) fn excess(self, context_sum: f64, longest: f64) -> f64 {
        self.sum * context_sum + self.longest * longest - self.most
    }

    /// How much more with each step, which lengthens every context by a token.
    pub(crate) fn growth(self, rows: u32) -> f64 {
        self.sum * f64::from(rows) + self.longest
    }
}
