//! Tiles whose keys are cut over several blocks, where few new tokens follow many old ones.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{TileSize, TileSums, Tiled};

/// What the plan asks before it cuts keys, and what pieces cost.
///
/// The keys of every tile are cut as evenly as can be into pieces of at most a quota, which is the least for which all pieces are computed
/// at once. The plan cuts where `planned × (quota + planned_start_keys) + planned_join_keys` is less than what any size of whole tiles takes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Split {
    /// Keys of a unit of quota.
    pub keys: u32,
    /// Units of a quota, at least.
    pub quota_min: u32,
    /// What the plan takes joining the pieces to cost, in keys of the first size at its `planned` of one.
    pub planned_join_keys: f64,
    /// What joining the pieces of a tile takes, in keys: what is not cut saves it.
    #[serde(default, skip_serializing_if = "super::super::super::is_zero")]
    pub join_keys: f64,
    /// What each turn of joining takes, in keys: a block adds up its share of the tile's places some at a time.
    #[serde(default, skip_serializing_if = "super::super::super::is_zero")]
    pub turn_keys: f64,
    /// Places of a tile that a row takes: query heads that share it.
    #[serde(default = "super::one", skip_serializing_if = "super::is_one")]
    pub packed: u32,
    /// Pieces of tiles of each size, in the order of the sizes: the way of the longest piece, or of the busiest slot; `planned` is not read.
    pub sizes: Vec<TileSize>,
    /// The same order: what leaving and joining the sums of a tile full of rows takes, less where fewer have rows; none for nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub us_filled: Vec<f64>,
    /// The same order: what the memory needs for keys and values that no other block reads at that moment.
    pub memory: Vec<SplitMemory>,
}

/// What reading the keys and values of all prompts costs, whatever blocks do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SplitMemory {
    /// Once.
    pub us: f64,
    /// Each token of each prompt, those that were there before and those computed.
    pub us_per_token: f64,
}

/// Warps of a block, and vectors that each has in flight while it joins: of four places at once while pieces are few, otherwise of one.
const WARPS: u32 = 4;
const LOADS: u32 = 16;

/// In how many turns does a block join its share of so many places, each in so many pieces?
fn turns(places: u32, pieces: u32) -> u32 {
    let at_once = if pieces <= LOADS / 4 { 4 } else { 1 };
    places.div_ceil(pieces).div_ceil(WARPS * at_once) * pieces.div_ceil(LOADS / at_once)
}

/// So many tiles are few: more than a chip has room for with most models.
const FEW: usize = 16;

impl Split {
    /// What pieces of tiles of size `index` cost, microseconds.
    pub fn us(&self, index: usize, sums: &TileSums) -> f64 {
        let (SplitMemory { us, us_per_token }, size) = (self.memory[index], &self.sizes[index]);
        let filled = self.us_filled.get(index).map_or(0.0, |us| us * sums.filled);
        // A tile in one piece has nothing to join, and may be on its way for longer than others take to be joined.
        let whole = if sums.whole > 0.0 { size.way_us(sums.whole, sums) } else { 0.0 };
        (filled + size.us(sums).max(us + us_per_token * sums.context)).max(whole)
    }
}

impl Tiled {
    /// Units of a piece at most, for tiles of so many rows; none where not even whole tiles are computed at once. The least that it can be must be
    /// `worth` it, otherwise none either.
    fn quota(
        &self,
        split: &Split,
        prompts: impl Iterator<Item = (u32, u32)> + Clone,
        rows: u32,
        worth: impl Fn(u32) -> bool,
    ) -> Option<u32> {
        let (groups, slots, rows) = (u64::from(self.heads), u64::from(self.slots), rows.max(1));
        let tiles: u64 = prompts.clone().map(|(chunk, _)| u64::from(chunk.div_ceil(rows))).sum();
        if tiles == 0 || tiles * groups > slots {
            return None;
        }
        let units = |prefix: u32, end: u32| (prefix + end).div_ceil(split.keys);
        // A few tiles are cut once.
        if tiles <= FEW as u64 {
            let (mut few, mut count) = ([0; FEW], 0);
            for (chunk, prefix) in prompts {
                let mut end = 0;
                while end < chunk {
                    end = end.saturating_add(rows).min(chunk);
                    few[count] = units(prefix, end);
                    count += 1;
                }
            }
            return self.quota_of(split, few[..count].iter().copied(), tiles, worth);
        }
        let ends =
            |chunk: u32| (0..chunk).step_by(rows as usize).map(move |first| first.saturating_add(rows).min(chunk));
        let units = prompts.flat_map(|(chunk, prefix)| ends(chunk).map(move |end| units(prefix, end)));
        self.quota_of(split, units, tiles, worth)
    }

    /// The same of so many tiles with these units.
    fn quota_of(
        &self,
        split: &Split,
        units: impl Iterator<Item = u32> + Clone,
        tiles: u64,
        worth: impl Fn(u32) -> bool,
    ) -> Option<u32> {
        let (groups, slots) = (u64::from(self.heads), u64::from(self.slots));
        let (mut all, mut longest) = (0, 0);
        for units in units.clone() {
            (all, longest) = (all + u64::from(units), longest.max(units));
        }
        // Pieces are no fewer than if no tile had a rest, and no more than if each had the largest.
        let (least, room) = (u64::from(split.quota_min.max(1)), slots / groups.max(1));
        let mut high = u64::from(longest).min((all - tiles) / (room + 1 - tiles) + 1).max(least);
        let mut low = (all * groups).div_ceil(slots).clamp(least, high) - 1;
        if !worth(low as u32 + 1) {
            return None;
        }
        while high - low > 1 {
            let middle = u64::midpoint(low, high);
            let pieces: u64 = units.clone().map(|units| u64::from(units.div_ceil(middle as u32))).sum();
            (low, high) = if pieces > room { (middle, high) } else { (low, middle) };
        }
        Some(high as u32)
    }

    /// What the plan takes cutting the keys of tiles of size `index` to cost, and into pieces of how many units at most; none if it is no less
    /// than so much.
    pub(super) fn planned_split(
        &self,
        split: &Split,
        prompts: impl Iterator<Item = (u32, u32)> + Clone,
        index: usize,
        most: f64,
    ) -> Option<(u32, f64)> {
        let size = &self.sizes[index];
        let cost = |quota: u32| {
            size.planned * (f64::from(quota * split.keys) + self.planned_start_keys) + split.planned_join_keys
        };
        // A larger quota never costs less.
        let quota = self.quota(split, prompts, size.rows, |quota| cost(quota) < most)?;
        let cost = cost(quota);
        (cost < most).then_some((quota, cost))
    }

    /// These prompts in pieces, of tiles of size `index`.
    pub fn split_sums(&self, prompts: impl Iterator<Item = (u32, u32)> + Clone, index: usize) -> TileSums {
        let Some(split) = &self.split else { return TileSums::default() };
        let quota = self.quota(split, prompts.clone(), self.sizes[index].rows, |_| true);
        quota.map_or_else(TileSums::default, |quota| self.cut_sums(split, prompts, index, quota))
    }

    /// The same in pieces of at most so many units.
    pub(super) fn cut_sums(
        &self,
        split: &Split,
        prompts: impl Iterator<Item = (u32, u32)> + Clone,
        index: usize,
        quota: u32,
    ) -> TileSums {
        let rows = self.sizes[index].rows;
        let (mut pieces, mut total, mut context, mut computed, mut filled) = (0_u64, 0.0, 0.0, 0.0, 0.0_f64);
        let (mut longest, mut whole) = (0.0_f64, 0.0_f64);
        for (chunk, prefix) in prompts {
            context += f64::from(prefix) + f64::from(chunk);
            computed += f64::from(chunk);
            for first in (0..chunk).step_by(rows.max(1) as usize) {
                let mine = rows.min(chunk - first);
                let weight = self.weight(mine, rows);
                let units = (prefix + (first + rows).min(chunk)).div_ceil(split.keys);
                let parts = units.div_ceil(quota);
                pieces += u64::from(parts);
                let way = f64::from(units.div_ceil(parts.max(1)) * split.keys) * weight + self.start_keys;
                if parts > 1 {
                    let turns = f64::from(turns(mine * split.packed, parts));
                    longest = longest.max(way + split.join_keys + split.turn_keys * turns);
                    filled = filled.max(f64::from(mine) / f64::from(rows));
                } else {
                    whole = whole.max(way);
                }
                total += f64::from(units * split.keys) * weight + f64::from(parts) * self.start_keys;
            }
        }
        let (heads, slots) = (f64::from(self.heads), f64::from(self.slots.max(1)));
        let (alone, mean, blocks) = (slots / 2.0, total * heads / slots, pieces as f64 * heads / slots);
        TileSums {
            tiles: pieces as f64,
            longest,
            whole,
            crowded: ((pieces as f64 * heads - alone) / alone).clamp(0.0, 1.0),
            busy: mean,
            mean,
            context,
            rows: computed,
            taken: (2.0 * blocks).min(1.0),
            blocks,
            filled,
        }
    }

    pub(super) fn check_split(&self) -> Result<(), String> {
        let Some(split) = &self.split else { return Ok(()) };
        let count = self.sizes.len();
        let others = [split.sizes.len(), split.memory.len()];
        if split.keys == 0 || others != [count; 2] || !(split.us_filled.is_empty() || split.us_filled.len() == count) {
            return Err("split: keys is 0, or its sizes are not as many as those of whole tiles".to_owned());
        }
        super::not_negative("join_keys", split.join_keys)?;
        super::not_negative("turn_keys", split.turn_keys)?;
        split.us_filled.iter().try_for_each(|&us| super::not_negative("us_filled", us))?;
        for memory in &split.memory {
            super::not_negative("us", memory.us)?;
            super::not_negative("us_per_token", memory.us_per_token)?;
        }
        super::not_negative("planned_join_keys", split.planned_join_keys)?;
        split.sizes.iter().try_for_each(TileSize::check)
    }
}

#[cfg(test)]
mod tests {
    use super::turns;

    /// As `join` in `prefill_parts.cuh`: four warps, four places at once of up to four pieces, one of more, 16 pieces at a time.
    #[test]
    fn few_pieces_are_joined_four_places_at_a_time_and_more_in_more_turns_until_shares_are_small() {
        let of = |places: u32| [2, 3, 4, 5, 8, 16, 17, 32, 64].map(|pieces| turns(places, pieces));
        assert_eq!(of(64), [2, 2, 1, 4, 2, 1, 2, 2, 4]);
        assert_eq!(of(128), [4, 3, 2, 7, 4, 2, 4, 2, 4]);
        assert_eq!(of(16), [1, 1, 1, 1, 1, 1, 2, 2, 4]);
    }
}
