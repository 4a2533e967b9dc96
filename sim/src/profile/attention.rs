//! Attention: what bounds it, for prompts and for decode rows.

mod regimes;
mod tiles;
mod together;

pub(crate) use regimes::LimitAt;
pub use regimes::{DecodeLimit, DecodeRegime};
pub use tiles::{Split, SplitMemory, TileSize, TileSums, Tiled};
pub use together::{PromptQuantity, PromptSums, PromptTerm, PromptWork, Together};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::curve::{finite, increasing, interpolate, not_negative};

/// Attention of the decode rows of a step, for one layer: the largest of its bounds, and of the quickest of its ways.
///
/// Each bound and each way is affine in the contexts, so that a batch which only grows longer can be priced in closed form.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DecodeAttention {
    /// At least one.
    pub bounds: Vec<DecodeBound>,
    /// Ways in which a kernel may share out the work, of which it takes the quickest; none where it has no choice.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ways: Vec<DecodeBound>,
    /// What has bounds and ways of its own, such as short contexts, which no kernel splits over several blocks: the first whose limits hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub regimes: Vec<DecodeRegime>,
}

/// `us(rows) + us_per_token(rows) × sum of contexts + us_per_longest_token(rows) × longest context`.
///
/// The coefficients are given at some numbers of rows, with straight lines between them. Below the first and beyond the last
/// the two slopes stay as they are; `us` goes on with the slope of its last two points.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DecodeBound {
    /// What bounds it, such as `bandwidth` or `longest row`.
    pub name: String,
    /// Numbers of decode rows at which the coefficients are given: strictly increasing, at least one.
    pub rows: Vec<f64>,
    /// At each: the constant part.
    pub us: Vec<f64>,
    /// At each: for every token of every context.
    pub us_per_token: Vec<f64>,
    /// At each: for every token of the longest context.
    pub us_per_longest_token: Vec<f64>,
}

impl DecodeAttention {
    /// Is there none? Then whole layers come from a peer's tables.
    pub(crate) fn is_none(&self) -> bool {
        self.bounds.is_empty()
    }

    /// What so many decode rows cost, microseconds: by the sum of their contexts and the longest.
    pub fn us(&self, rows: u32, context_sum: u64, longest: u32) -> f64 {
        if rows == 0 {
            return 0.0;
        }
        let bound = |bound: &DecodeBound| {
            let [once, token, longest_token] = bound.at(f64::from(rows));
            once + token * context_sum as f64 + longest_token * f64::from(longest)
        };
        let largest = |bounds: &[DecodeBound]| bounds.iter().map(bound).fold(0.0, f64::max);
        let both = |bounds: &[DecodeBound], ways: &[DecodeBound]| {
            ways.iter().map(bound).reduce(f64::min).unwrap_or(0.0).max(largest(bounds))
        };
        match self.regime(rows, context_sum, longest) {
            Some(index) => both(&self.regimes[index].bounds, &self.regimes[index].ways),
            None => both(&self.bounds, &self.ways),
        }
    }

    /// Whose bounds hold: a regime's, or none for those of all others.
    pub fn regime(&self, rows: u32, context_sum: u64, longest: u32) -> Option<usize> {
        self.regimes.iter().position(|regime| regime.holds(rows, context_sum, longest))
    }
}

impl DecodeBound {
    /// A bound with the same coefficients for any number of rows.
    pub fn uniform(name: &str, us: f64, us_per_token: f64, us_per_longest_token: f64) -> DecodeBound {
        DecodeBound {
            name: name.to_owned(),
            rows: vec![1.0],
            us: vec![us],
            us_per_token: vec![us_per_token],
            us_per_longest_token: vec![us_per_longest_token],
        }
    }

    /// The three coefficients at so many rows: constant, each token, each token of the longest.
    pub(crate) fn at(&self, rows: f64) -> [f64; 3] {
        let clamped = rows.min(self.rows.last().copied().unwrap_or(rows));
        [
            interpolate(&self.rows, &self.us, rows),
            interpolate(&self.rows, &self.us_per_token, clamped),
            interpolate(&self.rows, &self.us_per_longest_token, clamped),
        ]
    }

    pub(crate) fn check(&self) -> Result<(), String> {
        increasing("rows", &self.rows)?;
        for (key, values) in [
            ("us", &self.us),
            ("us_per_token", &self.us_per_token),
            ("us_per_longest_token", &self.us_per_longest_token),
        ] {
            if values.len() != self.rows.len() {
                return Err(format!("{} rows but {} {key}: one for each", self.rows.len(), values.len()));
            }
            values.iter().try_for_each(|&value| not_negative(key, value))?;
        }
        Ok(())
    }
}

/// Attention of the prompts of a step, for one layer: a start, then each prompt after the other, or all together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PrefillAttention {
    /// Once, in a step with a prompt.
    #[serde(default)]
    pub us: f64,
    /// Each prompt, or all of them.
    pub prompt: PromptCost,
}

/// What does the attention of prompts cost, by the tokens computed (chunk) and those already there (prefix)?
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum PromptCost {
    /// Each prompt the largest of its bounds.
    Bounds(Vec<PromptBound>),
    /// Each prompt from a grid of measured points, bilinear between them and beyond.
    Table(PromptTable),
    /// All prompts in one launch: no sum over them.
    Together(Together),
    /// All prompts in one launch, by the tiles that its blocks compute.
    Tiles(Tiled),
}

/// `us + us_per_token × chunk + us_per_kilopair × pairs / 1000 + us_per_context_token × (prefix + chunk)`,
/// where a pair is a query and a key that it attends to: `chunk × prefix + chunk (chunk + 1) / 2` of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PromptBound {
    /// What bounds it, such as `arithmetic` or `bandwidth`.
    pub name: String,
    /// Once.
    #[serde(default)]
    pub us: f64,
    /// Each token computed.
    #[serde(default)]
    pub us_per_token: f64,
    /// A thousand pairs of a query and a key.
    #[serde(default)]
    pub us_per_kilopair: f64,
    /// Each token attended to.
    #[serde(default)]
    pub us_per_context_token: f64,
}

/// A grid of measured points.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PromptTable {
    /// Tokens computed: strictly increasing, at least one.
    pub chunks: Vec<f64>,
    /// Tokens already there: strictly increasing, at least one.
    pub prefixes: Vec<f64>,
    /// One list a chunk, in it one cost a prefix.
    pub us: Vec<Vec<f64>>,
}

impl Default for PrefillAttention {
    fn default() -> PrefillAttention {
        PrefillAttention { us: 0.0, prompt: PromptCost::Bounds(Vec::new()) }
    }
}

impl PrefillAttention {
    /// Is there none? Then whole layers come from a peer's tables.
    pub(crate) fn is_none(&self) -> bool {
        *self == PrefillAttention::default()
    }

    /// What the prompts of a step cost, by (chunk, prefix); microseconds.
    pub fn us(&self, prompts: &[(u32, u32)]) -> f64 {
        if prompts.is_empty() { 0.0 } else { self.us + self.prompts_us(prompts.iter().copied()) }
    }

    /// What the prompts of a step cost beyond the start, by (chunk, prefix); microseconds.
    pub(crate) fn prompts_us(&self, prompts: impl Iterator<Item = (u32, u32)> + Clone) -> f64 {
        let some = prompts.filter(|(chunk, _)| *chunk > 0);
        let wide = |(chunk, prefix): (u32, u32)| (f64::from(chunk), f64::from(prefix));
        match &self.prompt {
            PromptCost::Bounds(bounds) => some
                .map(wide)
                .map(|(chunk, prefix)| bounds.iter().map(|bound| bound.us(chunk, prefix)).fold(0.0, f64::max))
                .sum(),
            PromptCost::Table(table) => some.map(wide).map(|(chunk, prefix)| table.us(chunk, prefix)).sum(),
            PromptCost::Together(together) => together.us(some),
            PromptCost::Tiles(tiled) => tiled.us(some),
        }
    }

    pub(crate) fn check(&self) -> Result<(), String> {
        not_negative("us", self.us)?;
        match &self.prompt {
            PromptCost::Bounds(bounds) if bounds.is_empty() => {
                Err("bounds is empty: at least one is needed".to_owned())
            }
            PromptCost::Bounds(bounds) => bounds.iter().try_for_each(PromptBound::check),
            PromptCost::Table(table) => table.check(),
            PromptCost::Together(together) => together.check(),
            PromptCost::Tiles(tiled) => tiled.check(),
        }
    }
}

impl PromptBound {
    fn us(&self, chunk: f64, prefix: f64) -> f64 {
        let pairs = chunk * prefix + chunk * (chunk + 1.0) / 2.0;
        self.us
            + self.us_per_token * chunk
            + self.us_per_kilopair * pairs * 1e-3
            + self.us_per_context_token * (prefix + chunk)
    }

    fn check(&self) -> Result<(), String> {
        finite("us", self.us)?;
        not_negative("us_per_token", self.us_per_token)?;
        not_negative("us_per_kilopair", self.us_per_kilopair)?;
        not_negative("us_per_context_token", self.us_per_context_token)
    }
}

impl PromptTable {
    fn us(&self, chunk: f64, prefix: f64) -> f64 {
        let last = self.chunks.len() - 1;
        if last == 0 {
            return interpolate(&self.prefixes, &self.us[0], prefix);
        }
        let right = self.chunks.partition_point(|&point| point < chunk).clamp(1, last);
        let left = right - 1;
        let low = interpolate(&self.prefixes, &self.us[left], prefix);
        let high = interpolate(&self.prefixes, &self.us[right], prefix);
        // Below the first chunk the first row holds; beyond the last the slope goes on.
        let share = ((chunk - self.chunks[left]) / (self.chunks[right] - self.chunks[left])).max(0.0);
        (low + (high - low) * share).max(0.0)
    }

    fn check(&self) -> Result<(), String> {
        increasing("chunks", &self.chunks)?;
        increasing("prefixes", &self.prefixes)?;
        if self.us.len() != self.chunks.len() {
            return Err(format!("{} chunks but {} lists of us: one for each", self.chunks.len(), self.us.len()));
        }
        for list in &self.us {
            if list.len() != self.prefixes.len() {
                return Err(format!("{} prefixes but {} us: one for each", self.prefixes.len(), list.len()));
            }
            list.iter().try_for_each(|&value| not_negative("us", value))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> PrefillAttention {
        PrefillAttention {
            us: 0.0,
            prompt: PromptCost::Table(PromptTable {
                chunks: vec![16.0, 32.0],
                prefixes: vec![0.0, 1000.0],
                us: vec![vec![10.0, 20.0], vec![30.0, 60.0]],
            }),
        }
    }

    #[test]
    fn a_grid_goes_through_its_points_and_is_bilinear_between_them() {
        for (chunk, prefix, us) in
            [(16, 0, 10.0), (16, 1000, 20.0), (32, 1000, 60.0), (24, 500, 30.0), (8, 0, 10.0), (48, 0, 50.0)]
        {
            assert_eq!(table().prompts_us([(chunk, prefix)].into_iter()), us, "{chunk} tokens after {prefix}");
        }
    }

    #[test]
    fn pairs_count_every_key_that_a_query_attends_to() {
        let attention = PrefillAttention {
            us: 0.0,
            prompt: PromptCost::Bounds(vec![PromptBound {
                name: "arithmetic".to_owned(),
                us: 0.0,
                us_per_token: 0.0,
                us_per_kilopair: 1000.0,
                us_per_context_token: 0.0,
            }]),
        };
        let by_hand = |chunk: u32, prefix: u32| (0..chunk).map(|token| prefix + token + 1).sum::<u32>();
        for (chunk, prefix) in [(1, 0), (1, 7), (5, 0), (5, 7)] {
            assert_eq!(attention.prompts_us([(chunk, prefix)].into_iter()), f64::from(by_hand(chunk, prefix)));
        }
    }

    #[test]
    fn slopes_stay_beyond_the_last_row_count_and_the_constant_goes_on() {
        let bound = DecodeBound {
            name: "bandwidth".to_owned(),
            rows: vec![1.0, 3.0],
            us: vec![1.0, 3.0],
            us_per_token: vec![0.4, 0.2],
            us_per_longest_token: vec![0.0, 0.0],
        };
        assert_eq!(bound.at(2.0)[0], 2.0);
        assert!((bound.at(2.0)[1] - 0.3).abs() < 1e-12);
        assert_eq!(bound.at(9.0), [9.0, 0.2, 0.0]);
    }
}
