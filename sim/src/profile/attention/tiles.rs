//! Prompts whose query rows are cut into tiles, a block of the kernel for each tile and head, the longest first.

mod cut;
mod split;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::profile::curve::{Curve, not_negative};
use cut::{Cut, GRID, nth};
pub use split::{Split, SplitMemory};

/// Attention of all prompts of a step in one launch, for one layer: with one size of tile, the larger of the longest tile's way through its
/// keys and of what all tiles keep the chip busy. The size is the one that the kernel's plan takes to be the quickest, or without a plan
/// the one that is.
///
/// A tile counts the keys that it walks, and `start_keys` more for its beginning and end. The last tile of a prompt may be partly
/// filled: its warps without rows do less, down to the share `empty_share`; the third power of their share is what is saved, for one warp
/// alone walks its keys faster than four, and two hardly do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tiled {
    /// Blocks of one tile: query heads on this GPU.
    pub heads: u32,
    /// Blocks that the chip computes at once.
    pub slots: u32,
    /// What beginning and ending a tile takes, in keys.
    pub start_keys: f64,
    /// What a tile without any row would take, over one whose warps are full: above zero, at most one.
    pub empty_share: f64,
    /// What the kernel's plan takes beginning and ending a tile to cost, in keys, where it chooses the size.
    #[serde(default, skip_serializing_if = "super::super::is_zero")]
    pub planned_start_keys: f64,
    /// Keys are walked in whole tiles of so many.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub key_tile: u32,
    /// At least one.
    pub sizes: Vec<TileSize>,
    /// Where the plan may cut the keys of tiles over several blocks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<Split>,
}

/// What tiles of one size cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TileSize {
    /// Query rows of a tile.
    pub rows: u32,
    /// The longest tile: once.
    pub us: f64,
    /// The longest tile: each key, while blocks have a multiprocessor for themselves.
    pub us_per_key: f64,
    /// The longest tile: each key beyond that, where all slots are taken; in proportion between.
    pub us_per_key_crowded: f64,
    /// The longest tile: each key of the mean slot, for what all blocks ask of the memory slows each of them.
    #[serde(default, skip_serializing_if = "super::super::is_zero")]
    pub us_per_mean_key: f64,
    /// The longest tile: each row of all prompts, whose queries are read and whose results are written around the walk.
    #[serde(default, skip_serializing_if = "super::super::is_zero")]
    pub us_per_row: f64,
    /// The longest tile: each token of all prompts, whose keys and values no block has read before.
    #[serde(default, skip_serializing_if = "super::super::is_zero")]
    pub us_per_token: f64,
    /// The longest tile: what blocks on all multiprocessors add, in proportion to those that have one.
    #[serde(default, skip_serializing_if = "super::super::is_zero")]
    pub us_taken: f64,
    /// All tiles: what beginning and ending a block takes its slot beyond `start_keys`, for each block that a slot has on average.
    #[serde(default, skip_serializing_if = "super::super::is_zero")]
    pub us_per_block: f64,
    /// All tiles: by the keys that the busiest slot walks, as tiles are dealt out.
    pub busy: Curve,
    /// What the kernel's plan takes a key of such a tile to cost, in any unit; 0: no plan chooses, and the quickest size is taken.
    #[serde(default, skip_serializing_if = "super::super::is_zero")]
    pub planned: f64,
    /// What a key takes a block that has its multiprocessor for itself, over one that shares it: a last round that is not full is that much
    /// quicker, and so is the longest tile once the others are done. 0: nobody asked who shares, and how many blocks there are tells how crowded
    /// all of them are.
    #[serde(default, skip_serializing_if = "super::super::is_zero")]
    pub alone: f64,
}

fn one() -> u32 {
    1
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_one(value: &u32) -> bool {
    *value == 1
}

/// Prompts as tiles of one size.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TileSums {
    /// Tiles.
    pub tiles: f64,
    /// Keys of the longest; where keys are cut, of the longest piece of a tile in several.
    pub longest: f64,
    /// Where keys are cut: of the longest tile that is left in one piece.
    pub whole: f64,
    /// How much of its way the longest shares a multiprocessor: 0 while every block has one for itself, 1 where all slots are taken.
    pub crowded: f64,
    /// Keys of the busiest slot.
    pub busy: f64,
    /// Keys of all slots over their number.
    pub mean: f64,
    /// Tokens of all prompts, those that were there before and those computed.
    pub context: f64,
    /// Those computed.
    pub rows: f64,
    /// The share of the multiprocessors that have a block, at most all.
    pub taken: f64,
    /// Blocks of a slot, on average.
    pub blocks: f64,
    /// The share of the fullest tile that has rows, of those whose keys are cut.
    pub filled: f64,
}

/// So many prompts are few: steps rarely have more.
const FEW: usize = 8;

/// How much quicker the older of two blocks of a multiprocessor is, and the younger slower.
const OLDER: f64 = 0.1;

impl Tiled {
    /// What these (chunk, prefix) pairs cost, microseconds.
    pub(super) fn us(&self, prompts: impl Iterator<Item = (u32, u32)> + Clone) -> f64 {
        let of = |size: &TileSize| size.us(&self.sums(prompts.clone(), size));
        match (self.form(prompts.clone()), &self.split) {
            (Some((index, Some(quota))), Some(split)) => split.us(index, &self.cut_sums(split, prompts, index, quota)),
            (Some((index, _)), _) => of(&self.sizes[index]),
            (None, _) => self.sizes.iter().map(of).reduce(f64::min).unwrap_or(0.0),
        }
    }

    /// The size that the kernel's plan chooses for these prompts: the least share of all keys, or way of the longest tile. None where no
    /// plan chooses. From the number of sizes on it is one of these again, with the keys of its tiles cut.
    pub fn planned(&self, prompts: impl Iterator<Item = (u32, u32)> + Clone) -> Option<usize> {
        self.form(prompts).map(|(index, quota)| if quota.is_some() { self.sizes.len() + index } else { index })
    }

    /// The same as a size, and of how many units its pieces are at most where keys are cut.
    fn form(&self, prompts: impl Iterator<Item = (u32, u32)> + Clone) -> Option<(usize, Option<u32>)> {
        if self.sizes.len() < 2 || self.sizes.iter().any(|size| size.planned == 0.0) {
            return None;
        }
        let makespan = |size: &TileSize| {
            let (rows, start) = (f64::from(size.rows), self.planned_start_keys);
            let (mut total, mut longest) = (0.0, 0.0_f64);
            for (chunk, prefix) in prompts.clone() {
                let (whole, keys) = (f64::from(chunk / size.rows), f64::from(prefix) + f64::from(chunk));
                let part = if chunk % size.rows > 0 { keys + start } else { 0.0 };
                total += whole * (f64::from(prefix) + start) + rows * whole * (whole + 1.0) / 2.0 + part;
                longest = longest.max(keys + start);
            }
            size.planned * (total * f64::from(self.heads) / f64::from(self.slots.max(1))).max(longest)
        };
        let whole = self.sizes.iter().map(makespan).enumerate();
        let Some(split) = &self.split else {
            // Of equals the last.
            let better = |best: (usize, f64), other: (usize, f64)| if best.1 < other.1 { best } else { other };
            return whole.reduce(better).map(|(index, _)| (index, None));
        };
        // Of equals the first.
        let better = |best: (usize, f64), other: (usize, f64)| if other.1 < best.1 { other } else { best };
        let (mut best, mut least) = whole.reduce(better).map(|(index, cost)| ((index, None), cost))?;
        for index in 0..self.sizes.len() {
            if let Some((quota, cost)) = self.planned_split(split, prompts.clone(), index, least) {
                (best, least) = ((index, Some(quota)), cost);
            }
        }
        Some(best)
    }

    /// What a tile of so many rows with `filled` of them walks its keys in, over a full one.
    fn weight(&self, filled: u32, rows: u32) -> f64 {
        // Four warps share a tile's rows.
        let warps = f64::from((4 * filled).div_ceil(rows)) / 4.0;
        1.0 - (1.0 - self.empty_share) * (1.0 - warps).powi(3)
    }

    /// The same prompts as tiles of a size.
    pub fn sums(&self, prompts: impl Iterator<Item = (u32, u32)> + Clone, size: &TileSize) -> TileSums {
        // A few prompts are cut once; of more each pass cuts them again, so that nothing is allocated.
        let mut few = [Cut::NONE; FEW];
        let mut count = 0;
        let (mut rows, mut context) = (0.0, 0.0);
        for (chunk, prefix) in prompts.clone() {
            if count < FEW {
                few[count] = Cut::of(chunk, prefix, size.rows, self);
            }
            count += 1;
            rows += f64::from(chunk);
            context += f64::from(prefix) + f64::from(chunk);
        }
        let dealt = if count <= FEW {
            self.dealt(few[..count].iter().copied(), size.alone)
        } else {
            self.dealt(prompts.map(|(chunk, prefix)| Cut::of(chunk, prefix, size.rows, self)), size.alone)
        };
        TileSums { context, rows, ..dealt }
    }

    /// What dealing out these tiles comes to.
    fn dealt(&self, cuts: impl Iterator<Item = Cut> + Clone, alone: f64) -> TileSums {
        let (mut count, mut total, mut longest, mut shortest) = (0_u64, 0.0, 0.0_f64, f64::INFINITY);
        let mut few = 0;
        let cut = || cuts.clone();
        for part in cut() {
            count += part.count();
            total += part.keys();
            longest = longest.max(part.place(0)).max(if part.whole > 0 { part.whole_key(part.whole) } else { 0.0 });
            shortest = shortest.min(part.place(part.count() - 1));
            few += 1;
        }
        if few == 0 {
            return TileSums::default();
        }
        let (heads, slots) = (u64::from(self.heads.max(1)), u64::from(self.slots.max(1)));
        let (blocks, half) = (count * heads, slots / 2);
        let mean = total * heads as f64 / slots as f64;
        let key_at = |place: u64| if few == 1 { Cut::first(cut()).place(place) } else { nth(cut(), place, longest) };
        let mut busy = if alone > 0.0 { mean } else { mean.max(longest) };
        if blocks > slots {
            // Dealt out the longest first, slots end unevenly: by what the last round of blocks lacks to be full, half a round at most, of
            // the shortest tile of those prompts that matter, where they alone are more than a round. A round of half the blocks has the
            // chip for itself.
            for one in cut() {
                let (mut mine, mut keys) = (0, 0.0);
                for other in cut().filter(|other| other.prefix >= one.prefix) {
                    mine += other.count();
                    keys += other.keys();
                }
                if mine * heads > slots {
                    let shortest = one.prefix + one.start + if one.whole > 0 { one.rows } else { 0.0 };
                    let rounds = (mine * heads) as f64 / slots as f64;
                    let lacks = match rounds.ceil() - rounds {
                        lacks if alone > 0.0 && lacks >= 0.5 => (alone - (1.0 - lacks)).max(0.0),
                        lacks => lacks.min(0.5),
                    };
                    busy = busy.max(keys * heads as f64 / slots as f64 + lacks * shortest);
                }
            }
            // Some slot has k + 1 of the first k × slots + 1 blocks, none of them shorter than the last of these.
            let last = blocks.div_ceil(slots) - 1;
            for k in [1, last] {
                let place = k * slots / heads;
                let next = (k + 1) as f64;
                if place < count && (k == 1 || last > 1) && next * longest > busy {
                    let key = (key_at(place) / GRID).floor() * GRID;
                    let rest = blocks - k * slots;
                    // A last round of few blocks has a multiprocessor for each.
                    let end = if alone > 0.0 && k == last && rest <= half {
                        (alone * key).max(key.min(self.paired(longest - key, rest)))
                    } else {
                        key
                    };
                    busy = busy.max(k as f64 * key + end);
                }
            }
            // The last block of a second round begins when as many slots are free.
            if alone > 0.0 && few > 1 && last == 1 && blocks - slots > half && longest + shortest > busy {
                busy = busy.max((key_at((2 * slots - blocks) / heads) / GRID).floor() * GRID + shortest);
            }
        }
        let crowded = if alone > 0.0 {
            // Block `half` is the first that shares, and the longest has it beside it.
            if blocks > half { (key_at(half / heads).max(mean) / longest).min(1.0) } else { 0.0 }
        } else {
            ((blocks as f64 - half as f64) / half as f64).clamp(0.0, 1.0)
        };
        let blocks = blocks as f64 / slots as f64;
        let taken = (2.0 * blocks).min(1.0);
        TileSums { tiles: count as f64, longest, crowded, busy, mean, taken, blocks, ..TileSums::default() }
    }

    /// Up to so many keys both slots of a multiprocessor end within one another's reach, so that two of the `rest` blocks of a last round come to
    /// stand there: the older of two blocks is quicker by a tenth, which sets the ends of long tiles apart, and tiles differ by
    /// `spread` keys over a round.
    fn paired(&self, spread: f64, rest: u64) -> f64 {
        spread / (2.0 * OLDER) * (0.5 + rest as f64 / f64::from(self.slots.max(1)))
    }

    pub(super) fn check(&self) -> Result<(), String> {
        if self.heads == 0 || self.slots == 0 {
            return Err("heads or slots is 0: at least 1".to_owned());
        }
        not_negative("start_keys", self.start_keys)?;
        not_negative("planned_start_keys", self.planned_start_keys)?;
        if !(self.empty_share > 0.0 && self.empty_share <= 1.0) {
            return Err(format!("empty_share is {}: above zero, at most one", self.empty_share));
        }
        if self.sizes.is_empty() {
            return Err("sizes is empty: at least one is needed".to_owned());
        }
        self.sizes.iter().try_for_each(TileSize::check)?;
        self.check_split()
    }
}

impl TileSize {
    fn check(&self) -> Result<(), String> {
        if self.rows == 0 {
            return Err("rows is 0: at least 1".to_owned());
        }
        for (key, value) in [
            ("us", self.us),
            ("us_per_key", self.us_per_key),
            ("us_per_key_crowded", self.us_per_key_crowded),
            ("us_per_mean_key", self.us_per_mean_key),
            ("us_per_row", self.us_per_row),
            ("us_per_token", self.us_per_token),
            ("us_taken", self.us_taken),
            ("us_per_block", self.us_per_block),
            ("planned", self.planned),
            ("alone", self.alone),
        ] {
            not_negative(key, value)?;
        }
        self.busy.check()
    }

    /// What tiles of this size cost, microseconds.
    pub fn us(&self, sums: &TileSums) -> f64 {
        if sums.tiles == 0.0 {
            return 0.0;
        }
        self.way_us(sums.longest, sums).max(self.busy.us(sums.busy) + self.us_per_block * sums.blocks)
    }

    /// What one tile's way through so many keys takes beside all others.
    fn way_us(&self, keys: f64, sums: &TileSums) -> f64 {
        let others = self.us_per_mean_key * sums.mean + self.us_taken * sums.taken;
        let memory = self.us_per_row * sums.rows + self.us_per_token * sums.context;
        self.us + (self.us_per_key + self.us_per_key_crowded * sums.crowded) * keys + others + memory
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiled(heads: u32, slots: u32) -> Tiled {
        let size = |rows, us_per_key| TileSize {
            rows,
            us: 0.0,
            us_per_key,
            us_per_key_crowded: 0.0,
            us_per_mean_key: 0.0,
            us_per_row: 0.0,
            us_per_token: 0.0,
            us_taken: 0.0,
            us_per_block: 0.0,
            busy: Curve::per_row(us_per_key),
            planned: 0.0,
            alone: 0.0,
        };
        let sizes = vec![size(4, 1.0), size(8, 1.5)];
        let (start_keys, empty_share, planned_start_keys) = (10.0, 0.5, 0.0);
        Tiled { heads, slots, start_keys, empty_share, planned_start_keys, key_tile: 1, sizes, split: None }
    }

    /// Every block to the slot that is free first.
    fn dealt(tiled: &Tiled, prompts: &[(u32, u32)], rows: u32) -> f64 {
        let mut keys = Vec::new();
        for &(chunk, prefix) in prompts {
            for begin in (0..chunk).step_by(rows as usize) {
                let mine = rows.min(chunk - begin);
                let share = f64::from((4 * mine).div_ceil(rows)) / 4.0;
                let empty = (1.0 - tiled.empty_share) * (1.0 - share).powi(3);
                let weight = if mine == rows { 1.0 } else { 1.0 - empty };
                keys.push(f64::from(prefix + begin + mine) * weight + tiled.start_keys);
            }
        }
        keys.sort_by(|a, b| b.total_cmp(a));
        let mut slots = vec![0.0_f64; tiled.slots as usize];
        for key in keys.iter().flat_map(|key| std::iter::repeat_n(*key, tiled.heads as usize)) {
            let free = slots.iter_mut().min_by(|a, b| a.total_cmp(b)).unwrap();
            *free += key;
        }
        slots.into_iter().fold(0.0, f64::max)
    }

    #[test]
    fn the_busiest_slot_is_about_what_dealing_out_gives() {
        let tiled = tiled(32, 264);
        let mut state = 1_u32;
        let mut draw = |below: u32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) % below
        };
        let mut errors = Vec::new();
        for _ in 0..200 {
            let prompts: Vec<(u32, u32)> = (0..=draw(6)).map(|_| (16 << draw(7), draw(2) * (16 << draw(9)))).collect();
            for rows in [64, 128] {
                let size = TileSize { rows, ..tiled.sizes[0].clone() };
                let sums = tiled.sums(prompts.iter().copied(), &size);
                let by_hand = dealt(&tiled, &prompts, rows);
                errors.push((sums.busy / by_hand - 1.0).abs());
            }
        }
        errors.sort_by(f64::total_cmp);
        let at = |percent| errors[errors.len() * percent / 100];
        let worst = errors[errors.len() - 1];
        // Exact for most.
        assert!(
            at(50) < 0.01 && at(90) < 0.04 && at(95) < 0.06 && worst < 0.15,
            "{} {} {} {worst}",
            at(50),
            at(90),
            at(95)
        );
    }

    #[test]
    fn whoever_has_a_multiprocessor_for_himself_is_quicker() {
        let tiled = tiled(1, 8);
        let sums = |prompts: &[(u32, u32)], alone: f64| {
            tiled.sums(prompts.iter().copied(), &TileSize { alone, ..tiled.sizes[0].clone() })
        };
        // Ten tiles of 114 keys on eight slots: a round and two that have half of the chip, 57 keys, or a whole round in keys of sixteen.
        let even = [(4, 100); 10];
        assert_eq!(sums(&even, 0.5).busy, 171.0);
        assert_eq!(sums(&even, 0.0).busy, 224.0);
        // One of 1,010 beside nine of 14 is alone most of its way: all slots together have 142.
        let long: Vec<(u32, u32)> = std::iter::once((4, 996)).chain([(4, 0); 9]).collect();
        let sums = sums(&long, 0.5);
        assert_eq!((sums.longest, sums.busy < 200.0), (1010.0, true));
        assert!((sums.crowded - 142.0 / 1010.0).abs() < 1e-12, "{sums:?}");
    }

    #[test]
    fn keys_are_walked_in_whole_tiles() {
        let tiled = Tiled { key_tile: 64, ..tiled(1, 8) };
        let sums = |prompt| tiled.sums([prompt].into_iter(), &tiled.sizes[0]).longest;
        assert_eq!([(4, 0), (4, 60), (4, 61), (8, 64)].map(sums), [74.0, 74.0, 138.0, 138.0]);
    }

    #[test]
    fn the_size_that_the_plan_chooses_is_taken_though_another_be_quicker() {
        let mut tiled = tiled(1, 8);
        tiled.planned_start_keys = 10.0;
        for (size, planned) in tiled.sizes.iter_mut().zip([1.0, 1.2]) {
            size.planned = planned;
        }
        // (8 + 10) beside 1.2 (8 + 10): four rows; twenty prompts: (20 x (14 + 18)) / 8 beside 1.2 (20 x 18) / 8: eight.
        assert_eq!(tiled.planned([(8, 0)].into_iter()), Some(0));
        assert_eq!(tiled.planned(std::iter::repeat_n((8, 0), 20)), Some(1));
        tiled.sizes[0].planned = 1.3;
        assert_eq!(tiled.us([(8, 0)].into_iter()), 27.0);
    }

    #[test]
    fn every_block_of_a_slot_begins_and_ends() {
        let mut tiled = tiled(1, 8);
        tiled.sizes.truncate(1);
        let us = |tiled: &Tiled, tiles: usize| tiled.us(std::iter::repeat_n((4, 0), tiles));
        let before = [8, 16, 32].map(|tiles| us(&tiled, tiles));
        tiled.sizes[0].us_per_block = 3.0;
        let after = [8, 16, 32].map(|tiles| us(&tiled, tiles));
        assert_eq!([0, 1, 2].map(|index| after[index] - before[index]), [3.0, 6.0, 12.0]);
    }

    #[test]
    fn a_multiprocessor_is_taken_by_its_first_block() {
        let tiled = tiled(1, 8);
        let taken = |tiles| tiled.sums(std::iter::repeat_n((4, 0), tiles), &tiled.sizes[0]).taken;
        assert_eq!([1, 3, 4, 5, 9].map(taken), [0.25, 0.75, 1.0, 1.0, 1.0]);
    }

    #[test]
    fn one_tile_costs_its_keys_and_the_quicker_size_is_taken() {
        let tiled = tiled(1, 8);
        // Tiles of 4 and 8 keys, and 10 more each; or one of 8, at half as much again.
        assert_eq!(tiled.us([(8, 0)].into_iter()), 18.0);
        assert_eq!(tiled.us([(4, 20)].into_iter()), 34.0);
        // One row of four: three quarters are empty, so that it weighs 1 - 0.5 x 27 / 64.
        assert_eq!(tiled.us([(1, 0)].into_iter()), 10.7890625);
        assert_eq!(tiled.us(std::iter::empty()), 0.0);
    }
}
