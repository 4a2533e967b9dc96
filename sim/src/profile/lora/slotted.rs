//! Kernels whose grids have a slot for each adapter and each tile of the rows of the whole batch, every adapter padded to the largest rank: the way
//! of vLLM's, with vLLM's tiles and splits.
//!
//! A projection is two launches: the shrink splits its inputs and adds the parts, the expand has a block for some columns. Slots without rows leave
//! at once.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::curve::not_negative;
use crate::batch::Segment;
use crate::print::Print;

const SHRINK_ROWS: u32 = 32;
const SHRINK_RANKS: u32 = 16;
const EXPAND_ROWS: u32 = 64;
const EXPAND_COLUMNS: u32 = 128;
/// Rows and ranks that are multiplied at once.
const MULTIPLIED: u32 = 16;
/// Inputs of a tile of the shrink, and tiles of a split, at least; while a batch has fewer rows than [`ROWS_MANY`] there are up to [`SPLITS_MAX`],
/// then [`SPLITS_OF_MANY`].
const TILE: u32 = 32;
const SPLIT_TILES: u32 = 8;
const SPLITS_MAX: u32 = 64;
const ROWS_MANY: u32 = 128;
const SPLITS_OF_MANY: u32 = 8;
/// Ranks that lie together.
const GRANULE: u32 = 8;

/// What the launches of a layer cost, microseconds.
///
/// Of each the longest block, or all of them over the places that the chip has for them, whichever is more; then its slots, and what it moves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Slotted {
    /// Multiprocessors of the chip.
    pub multiprocessors: u32,
    /// What adapters add to.
    pub projections: Vec<SlottedProjection>,
    /// What ranks of more than 8 take longer, once.
    pub us_wide: f64,
    /// A block of the shrink.
    pub us_per_shrink: f64,
    /// Each 8 tiles of inputs that are its part.
    pub us_per_shrink_tiles: f64,
    /// A block of the expand.
    pub us_per_expand: f64,
    /// Each 16 ranks of it.
    pub us_per_expand_ranks: f64,
    /// Each 16 rows of it beyond the first.
    pub us_per_expand_rows: f64,
    /// Each 16 ranks of those.
    pub us_per_expand_products: f64,
    /// A slot, whether it has rows or not.
    pub us_per_slot: f64,
    /// 10⁶ bytes of weights, each adapter's once, at the largest rank.
    pub us_per_megabyte: f64,
    /// 10⁶ bytes of rows read and written, beyond those that stay in the cache.
    pub us_per_megabyte_of_rows: f64,
    /// Those, of each launch.
    pub cache_megabytes: f64,
    /// Blocks of a shrink that share a multiprocessor.
    pub shrinks_at_once: u32,
    /// Blocks of an expand that share a multiprocessor.
    pub expands_at_once: u32,
    /// How much of what the last round of shrinks lacks to be full is lost, 0 to 1.
    pub shrink_rounding: f64,
    /// The same of expands.
    pub expand_rounding: f64,
}

/// Projections of one shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SlottedProjection {
    /// Width of what they read.
    pub inputs: u32,
    /// Width of what each writes.
    pub outputs: u32,
    /// So many of them.
    pub times: u32,
}

/// The blocks of one launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlottedGrid {
    /// All of them.
    pub blocks: u64,
    /// Blocks that inputs or columns are cut into.
    pub parts: u32,
    /// Tiles of inputs of each; of an expand 0.
    pub tiles: u32,
}

/// What is asked about the segments of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Slots {
    segments: u64,
    rows: u64,
    /// Whole tiles of 16, 32 and 64 rows.
    tiles: [u64; 3],
    /// Rows of the largest.
    most: u32,
    /// Multiples of 8.
    ranks: u32,
}

impl Slots {
    pub(crate) fn of(segments: &[Segment]) -> Slots {
        let mut slots = Slots { segments: segments.len() as u64, ..Slots::default() };
        let mut rank_max = 0;
        for &Segment { rank, decode_rows, prefill_rows } in segments {
            let rows = decode_rows.saturating_add(prefill_rows);
            slots.rows += u64::from(rows);
            let tiles = [MULTIPLIED, SHRINK_ROWS, EXPAND_ROWS].map(|size| u64::from(rows.div_ceil(size)));
            slots.tiles.iter_mut().zip(tiles).for_each(|(all, tiles)| *all += tiles);
            slots.most = slots.most.max(rows);
            rank_max = rank_max.max(rank);
        }
        slots.ranks = rank_max.next_multiple_of(GRANULE);
        slots
    }

    pub(crate) fn print(&self) -> u64 {
        let [of_16, of_32, of_64] = self.tiles;
        let mut print = Print::new();
        print.pair(self.rows, self.segments | u64::from(self.ranks) << 32);
        print.pair(of_16, of_32 << 32 | of_64);
        print.pair(u64::from(self.most.min(EXPAND_ROWS)), 0);
        print.finish()
    }

    /// Row tiles of so many rows that the batch as a whole has.
    fn row_tiles(&self, size: u32) -> u64 {
        self.rows.div_ceil(u64::from(size))
    }

    fn shrink(&self, inputs: u32) -> SlottedGrid {
        let tiles = inputs.div_ceil(TILE);
        let splits = if self.rows < u64::from(ROWS_MANY) { SPLITS_MAX } else { SPLITS_OF_MANY };
        let of_each = tiles.div_ceil(splits).max(SPLIT_TILES);
        let parts = tiles.div_ceil(of_each);
        let slots = self.segments * self.row_tiles(SHRINK_ROWS) * u64::from(self.ranks.div_ceil(SHRINK_RANKS));
        SlottedGrid { blocks: slots * u64::from(parts), parts, tiles: of_each }
    }

    fn expand(&self, outputs: u32) -> SlottedGrid {
        let parts = outputs.div_ceil(EXPAND_COLUMNS);
        SlottedGrid { blocks: self.segments * self.row_tiles(EXPAND_ROWS) * u64::from(parts), parts, tiles: 0 }
    }
}

impl Slotted {
    /// The grids of the shrink and of the expand of a projection.
    pub fn grids(projection: SlottedProjection, segments: &[Segment]) -> [SlottedGrid; 2] {
        let slots = Slots::of(segments);
        [slots.shrink(projection.inputs), slots.expand(projection.outputs)]
    }

    /// What the launches of one layer take, microseconds.
    pub fn us(&self, segments: &[Segment]) -> f64 {
        self.us_of(&Slots::of(segments))
    }

    pub(crate) fn us_of(&self, slots: &Slots) -> f64 {
        let each = |p: &SlottedProjection| f64::from(p.times) * (self.shrink_us(slots, p) + self.expand_us(slots, p));
        let wide = if slots.ranks > GRANULE { self.us_wide } else { 0.0 };
        wide + self.projections.iter().map(each).sum::<f64>()
    }

    fn shrink_us(&self, slots: &Slots, projection: &SlottedProjection) -> f64 {
        let grid = slots.shrink(projection.inputs);
        let block_us = self.us_per_shrink + self.us_per_shrink_tiles * f64::from(grid.tiles) / f64::from(SPLIT_TILES);
        let blocks = (slots.tiles[1] * u64::from(slots.ranks.div_ceil(SHRINK_RANKS)) * u64::from(grid.parts)) as f64;
        let places = f64::from(self.multiprocessors * self.shrinks_at_once);
        let lost = self.shrink_rounding * lacking(blocks, places);
        (block_us * (blocks + lost) / places).max(block_us)
            + self.us_per_slot * grid.blocks as f64
            + self.moved_us(slots, projection.inputs, 2)
    }

    fn expand_us(&self, slots: &Slots, projection: &SlottedProjection) -> f64 {
        let grid = slots.expand(projection.outputs);
        let ranks = f64::from(slots.ranks.div_ceil(MULTIPLIED));
        let least_us = self.us_per_expand + self.us_per_expand_ranks * ranks;
        let [of_16, _, of_64] = slots.tiles.map(|tiles| (tiles * u64::from(grid.parts)) as f64);
        let rows_us = self.us_per_expand_rows + self.us_per_expand_products * ranks;
        let longest_us =
            least_us + rows_us * f64::from(slots.most.min(EXPAND_ROWS).div_ceil(MULTIPLIED).saturating_sub(1));
        let places = f64::from(self.multiprocessors * self.expands_at_once);
        // What is lost goes by the shortest block: so one more never costs less.
        let work_us = least_us * (of_64 + self.expand_rounding * lacking(of_64, places)) + rows_us * (of_16 - of_64);
        (work_us / places).max(longest_us)
            + self.us_per_slot * grid.blocks as f64
            + self.moved_us(slots, projection.outputs, 4)
    }

    /// Weights of so many columns, and rows of them at so many bytes a number.
    fn moved_us(&self, slots: &Slots, columns: u32, bytes_of_row: u32) -> f64 {
        let columns = f64::from(columns) * 1e-6;
        let weights = 2.0 * columns * (slots.segments * u64::from(slots.ranks)) as f64;
        let rows = f64::from(bytes_of_row) * columns * slots.rows as f64;
        self.us_per_megabyte * weights + self.us_per_megabyte_of_rows * (rows - self.cache_megabytes).max(0.0)
    }

    pub(crate) fn check(&self) -> Result<(), String> {
        if self.multiprocessors == 0 || self.shrinks_at_once == 0 || self.expands_at_once == 0 {
            return Err("no multiprocessors, or no blocks that find room on one".to_owned());
        }
        if self.projections.is_empty() || self.projections.iter().any(|p| p.inputs == 0 || p.outputs == 0) {
            return Err("no projections, or some without inputs or outputs".to_owned());
        }
        for (key, rounding) in [("shrink_rounding", self.shrink_rounding), ("expand_rounding", self.expand_rounding)] {
            if rounding > 1.0 {
                return Err(format!("{key} is {rounding}: at most 1"));
            }
        }
        self.figures().into_iter().try_for_each(|(key, value)| not_negative(key, value))
    }

    fn figures(&self) -> [(&'static str, f64); 13] {
        [
            ("us_wide", self.us_wide),
            ("us_per_shrink", self.us_per_shrink),
            ("us_per_shrink_tiles", self.us_per_shrink_tiles),
            ("us_per_expand", self.us_per_expand),
            ("us_per_expand_ranks", self.us_per_expand_ranks),
            ("us_per_expand_rows", self.us_per_expand_rows),
            ("us_per_expand_products", self.us_per_expand_products),
            ("us_per_slot", self.us_per_slot),
            ("us_per_megabyte", self.us_per_megabyte),
            ("us_per_megabyte_of_rows", self.us_per_megabyte_of_rows),
            ("cache_megabytes", self.cache_megabytes),
            ("shrink_rounding", self.shrink_rounding),
            ("expand_rounding", self.expand_rounding),
        ]
    }
}

/// Blocks that the last of several rounds lacks.
fn lacking(blocks: f64, places: f64) -> f64 {
    if blocks > places { (blocks / places).ceil() * places - blocks } else { 0.0 }
}

#[cfg(test)]
mod tests;
