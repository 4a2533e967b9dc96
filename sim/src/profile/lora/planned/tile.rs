//! What a block of each size of tile needs of a multiprocessor.

use super::classes::PAIRS_MAX;
use super::{Planned, SITES};

/// Rows of a group, and how they travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tile {
    Rows8,
    Staged16,
    Staged32,
    /// 16 rows in blocks of twice as many warps, one a multiprocessor.
    Wide16,
}

/// The tile of each launch of a layer.
pub(crate) type Tiles = [Tile; SITES];

impl Tile {
    /// In the order of [`crate::batch::TILES`].
    pub(crate) const ALL: [Tile; 4] = [Tile::Rows8, Tile::Staged16, Tile::Staged32, Tile::Wide16];
    /// One of each size.
    pub(super) const SIZES: [Tile; 3] = [Tile::Rows8, Tile::Staged16, Tile::Staged32];

    /// Its place among the sizes.
    pub(super) const fn size(self) -> usize {
        match self {
            Tile::Rows8 => 0,
            Tile::Staged16 | Tile::Wide16 => 1,
            Tile::Staged32 => 2,
        }
    }

    pub(super) const fn rows(self) -> u32 {
        8 << self.size()
    }

    pub(super) const fn is_staged(self) -> bool {
        !matches!(self, Tile::Rows8)
    }

    const fn warps(self) -> u32 {
        if matches!(self, Tile::Wide16) { 16 } else { 8 }
    }

    /// Blocks that share a multiprocessor, as far as registers go.
    pub(super) const fn blocks_min(self) -> u32 {
        if matches!(self, Tile::Staged32 | Tile::Wide16) { 1 } else { 2 }
    }

    /// Bytes of a ring of depth 1.
    pub(super) const fn unit(self) -> u32 {
        if self.is_staged() { 1024 } else { self.warps() * 1024 }
    }

    /// Bytes of one step of the work of a group, and warps whose sums of a cell are added up.
    const fn stage(self, pairs: u32) -> (u32, u32) {
        if !self.is_staged() {
            let mut splits = 1;
            while splits * 2 < pairs {
                splits *= 2;
            }
            return (self.unit(), 8 / splits);
        }
        /// Column tiles of a stage, at least.
        const LEAST: u32 = 4;
        let (row_tiles, granules) = (self.rows() / 8, 2 * pairs);
        let mut tiles = 32 / row_tiles;
        while tiles > LEAST && tiles * granules * 512 > 32 << 10 {
            tiles /= 2;
        }
        let mut rank_warps = 1;
        // A warp holds the sums of two pairs.
        while 2 * rank_warps < pairs && rank_warps < self.warps() {
            rank_warps *= 2;
        }
        (row_tiles * 8 * (tiles * 64 + 64) + tiles * granules * 512, self.warps() / rank_warps)
    }

    /// Bytes of one step of the work of a group.
    pub(super) fn slot(self, pairs: u32) -> u32 {
        STAGES[self as usize][pairs as usize].0
    }

    /// Warps whose sums of a cell are added up.
    pub(super) fn k_warps(self, pairs: u32) -> u32 {
        STAGES[self as usize][pairs as usize].1
    }

    /// Bytes of barriers, those of a cluster excepted, and of what warpgroups read behind a stage.
    pub(super) const fn barriers(self) -> u32 {
        match self {
            Tile::Rows8 => 0,
            Tile::Staged16 | Tile::Wide16 => 256,
            Tile::Staged32 => 512 + 7 * 512,
        }
    }

    /// The rows that are added up of a group of fewer: warpgroups add up whole tiles.
    pub(super) const fn rows_least(self) -> u32 {
        if matches!(self, Tile::Staged32) { self.rows() } else { 1 }
    }

    /// Cells of one member's sums, of a group of so many rows.
    pub(super) fn cells(self, pairs: u32, rows: u32) -> u32 {
        pairs * rows.max(self.rows_least()).div_ceil(8)
    }

    /// Shared memory of the exchange.
    pub(super) fn exchange(self, pairs: u32, cells: u32, members: u32, cluster: bool) -> u32 {
        let barriers = if cluster { 16 } else { 0 } + self.barriers();
        let k_warps = self.k_warps(pairs);
        let others = if self.is_staged() || cells >= 5 || cells * members >= 64 {
            cells + if cluster { members * cells.div_ceil(members) } else { 0 }
        } else if members > 1 {
            members * cells
        } else {
            0
        };
        (k_warps * cells + others) * 512 + barriers
    }

    /// Depth of the ring of a block that has a multiprocessor for itself.
    pub(super) fn ring_alone(self, exchange: u32, chip: u32) -> u32 {
        let room = chip.saturating_sub(exchange);
        if self.is_staged() { room / 1024 } else { (room / self.unit()).clamp(4, 11) }
    }

    /// Depth of the ring beside the exchange, such that the next launch's blocks find room; none if it would be too short.
    pub(super) fn ring(self, slot: u32, exchange: u32, blocks: u32, planned: &Planned) -> Option<u32> {
        let chip = planned.shared_bytes;
        let beside = (chip.div_ceil(2) + 512).saturating_sub(1024 + exchange);
        if self.is_staged() {
            let alone = chip.saturating_sub(exchange);
            let beside = if self.blocks_min() > 1 { beside } else { alone };
            // Stages that keep the memory busy: one more where a multiprocessor has but one block.
            let useful = if planned.packs && blocks <= planned.multiprocessors { 3 } else { 2 };
            let rooms = [(beside, useful), (alone, 2)];
            return rooms.into_iter().find_map(|(bytes, stages)| (bytes / slot >= stages).then_some(bytes / 1024));
        }
        let (beside, alone) = (beside / slot, self.ring_alone(exchange, chip));
        if beside > 5 {
            Some(beside.min(11))
        } else {
            (2 * blocks <= planned.multiprocessors && alone > 5).then_some(alone)
        }
    }
}

/// [`Tile::stage`] of each tile, by pairs.
const STAGES: [[(u32, u32); PAIRS_MAX + 1]; 4] = {
    let mut stages = [[(0, 0); PAIRS_MAX + 1]; 4];
    let mut tile = 0;
    while tile < 4 {
        let mut pairs = 0;
        while pairs <= PAIRS_MAX {
            stages[tile][pairs] = Tile::ALL[tile].stage(pairs as u32);
            pairs += 1;
        }
        tile += 1;
    }
    stages
};
