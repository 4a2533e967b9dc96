//! Prompts that share one launch: what they cost is no sum over them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::profile::curve::Curve;

/// Attention of all prompts of a step in one launch, for one layer: the largest of its bounds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Together {
    /// Query rows of one prompt are computed in whole tiles of so many.
    pub rows_per_tile: u32,
    /// At least one.
    pub bounds: Vec<PromptWork>,
}

/// A sum of terms.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PromptWork {
    /// What bounds it, such as `arithmetic` or `longest prompt`.
    pub name: String,
    /// At least one.
    pub terms: Vec<PromptTerm>,
}

/// A cost as a function of one quantity of the prompts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PromptTerm {
    /// Of what.
    pub over: PromptQuantity,
    /// How much; the `rows` of the curve are the quantity.
    pub cost: Curve,
}

/// What the time can depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PromptQuantity {
    /// Prompts.
    Prompts,
    /// Tokens computed.
    Rows,
    /// Whole tiles of query rows.
    Tiles,
    /// Thousands of pairs of a query and a key it attends to, queries counted in whole tiles.
    Kilopairs,
    /// Tokens attended to, over all prompts: prefix and chunk.
    ContextTokens,
    /// Tokens attended to by the prompt that attends to most.
    LongestContext,
}

/// The quantities of one step's prompts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PromptSums {
    /// Prompts.
    pub prompts: f64,
    /// Tokens computed.
    pub rows: f64,
    /// Whole tiles of query rows.
    pub tiles: f64,
    /// Thousands of pairs.
    pub kilopairs: f64,
    /// Tokens attended to.
    pub context: f64,
    /// The most that one attends to.
    pub longest: f64,
}

impl PromptSums {
    /// Of these (chunk, prefix) pairs, with tiles of so many query rows.
    pub fn of(prompts: impl Iterator<Item = (u32, u32)>, rows_per_tile: u32) -> PromptSums {
        let tile = f64::from(rows_per_tile.max(1));
        let mut sums = PromptSums::default();
        for (chunk, prefix) in prompts.filter(|(chunk, _)| *chunk > 0) {
            let (chunk, prefix) = (f64::from(chunk), f64::from(prefix));
            let tiles = (chunk / tile).ceil();
            // The last row of tile i attends to prefix + (i + 1) tile keys, the last of all to prefix + chunk.
            let pairs = tile * (tiles * prefix + tile * tiles * (tiles - 1.0) / 2.0 + chunk);
            sums.prompts += 1.0;
            sums.rows += chunk;
            sums.tiles += tiles;
            sums.kilopairs += pairs * 1e-3;
            sums.context += prefix + chunk;
            sums.longest = sums.longest.max(prefix + chunk);
        }
        sums
    }

    /// One of them.
    pub fn get(&self, quantity: PromptQuantity) -> f64 {
        match quantity {
            PromptQuantity::Prompts => self.prompts,
            PromptQuantity::Rows => self.rows,
            PromptQuantity::Tiles => self.tiles,
            PromptQuantity::Kilopairs => self.kilopairs,
            PromptQuantity::ContextTokens => self.context,
            PromptQuantity::LongestContext => self.longest,
        }
    }
}

impl Together {
    /// What these (chunk, prefix) pairs cost, microseconds.
    pub(super) fn us(&self, prompts: impl Iterator<Item = (u32, u32)>) -> f64 {
        let sums = PromptSums::of(prompts, self.rows_per_tile);
        let bound = |bound: &PromptWork| bound.terms.iter().map(|term| term.cost.us(sums.get(term.over))).sum();
        self.bounds.iter().map(bound).fold(0.0, f64::max)
    }

    pub(super) fn check(&self) -> Result<(), String> {
        if self.rows_per_tile == 0 {
            return Err("rows_per_tile is 0: at least 1".to_owned());
        }
        if self.bounds.is_empty() {
            return Err("bounds is empty: at least one is needed".to_owned());
        }
        for bound in &self.bounds {
            if bound.terms.is_empty() {
                return Err(format!("bound `{}` has no terms", bound.name));
            }
            for term in &bound.terms {
                term.cost.check().map_err(|error| format!("bound `{}`: {error}", bound.name))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_counted_in_whole_tiles_of_queries() {
        let by_hand = |chunk: u32, prefix: u32, tile: u32| -> u32 {
            (0..chunk.div_ceil(tile)).map(|i| tile * (prefix + chunk.min((i + 1) * tile))).sum()
        };
        for (chunk, prefix, tile) in [(1, 0, 1), (5, 7, 1), (5, 7, 4), (8, 0, 4), (64, 100, 64), (65, 100, 64)] {
            let sums = PromptSums::of([(chunk, prefix)].into_iter(), tile);
            let pairs = f64::from(by_hand(chunk, prefix, tile)) * 1e-3;
            assert!((sums.kilopairs - pairs).abs() < 1e-12, "{chunk} after {prefix} in tiles of {tile}");
        }
    }

    #[test]
    fn short_prompts_beside_each_other_cost_what_the_longest_costs() {
        let per = |over, us_per_row| PromptTerm { over, cost: Curve::per_row(us_per_row) };
        let together = Together {
            rows_per_tile: 1,
            bounds: vec![
                PromptWork { name: "arithmetic".to_owned(), terms: vec![per(PromptQuantity::Kilopairs, 100.0)] },
                PromptWork { name: "longest prompt".to_owned(), terms: vec![per(PromptQuantity::LongestContext, 1.0)] },
            ],
        };
        let us = |prompts: &[(u32, u32)]| together.us(prompts.iter().copied());
        assert_eq!(us(&[(10, 0)]), 10.0);
        assert_eq!(us(&[(10, 0), (10, 0)]), 11.0);
        assert_eq!(us(&[(10, 0), (10, 0), (0, 500)]), 11.0);
    }
}
