//! The plan's rules for segments of a few rows whose ranks differ, alone or beside prompts (`lora/plan/mixed.rs` of `aril-kernels`).

use super::classes::{Classes, PAIRS_MAX};
use super::share::Groups;
use super::tile::Tile;
use super::{Planned, TILES};

/// Members from which on no group beside prompts is long.
const MEMBERS_EVEN: u32 = 8;

/// What a block takes for 32 columns of a group, nanoseconds, about, by pairs of granules.
const LENGTHS: [[u16; PAIRS_MAX + 1]; TILES] = {
    let mut lengths = [[0; PAIRS_MAX + 1]; TILES];
    let mut pairs = 0;
    while pairs <= PAIRS_MAX {
        let of = pairs as u16;
        let of_16 = 16 + 28 * of + 4 * of * of;
        let of_32 = if of <= 4 { 81 } else { 162 };
        lengths[Tile::Rows8 as usize][pairs] = 15 + 40 * of;
        lengths[Tile::Staged16 as usize][pairs] = of_16;
        lengths[Tile::Staged32 as usize][pairs] = of_32;
        lengths[Tile::Wide16 as usize][pairs] = of_16;
        pairs += 1;
    }
    lengths
};

impl Tile {
    /// How long a block takes for a group, against others with such tiles.
    pub(super) fn length(self, pairs: u32) -> u32 {
        u32::from(LENGTHS[self as usize][pairs as usize])
    }
}

impl Planned {
    /// Of a batch of prompts beside segments of fewer rows: do tiles of 32 rows, of which a multiprocessor has one, leave it less to do than
    /// those of 16, of which it has two?
    pub(super) fn suits_tiles_of_32(&self, classes: &Classes) -> bool {
        let length = |tile: Tile| -> u32 {
            classes.iter().map(|class| class.groups[tile.size()] * tile.length(class.pairs)).sum()
        };
        let may_be = self.mixed && !self.beside && classes.rank_max <= 128;
        may_be && 2 * length(Tile::Staged32) < length(Tile::Staged16)
    }
}

impl Groups<'_> {
    /// Does one group take at least twice as long as another?
    pub(super) fn are_lopsided(&self) -> bool {
        if !self.planned.mixed || self.planned.beside || self.classes.are_prompts {
            return false;
        }
        let (Some(first), Some(last)) = (self.classes.list().first(), self.classes.list().last()) else { return false };
        let tiles = || self.site.runs().iter().map(|run| run.bytes_pair);
        let (least, most) = (tiles().fold(f64::INFINITY, f64::min), tiles().fold(0.0, f64::max));
        let length = |pairs: u32| f64::from(self.tile.length(pairs));
        most * length(last.pairs) >= 2.0 * (least * length(first.pairs))
    }

    /// Is any of so many members long, though its group is beside prompts?
    pub(super) fn are_uneven(&self, members: u32) -> bool {
        members < MEMBERS_EVEN && self.classes.most > Tile::Rows8.rows() && self.are_lopsided()
    }

    /// Are there fewer places than blocks that find room? Where two blocks share what a multiprocessor can do.
    pub(super) fn has_few_places(&self) -> bool {
        self.tile.is_staged() && (self.tile.blocks_min() == 1 || self.count * 3 < self.planned.multiprocessors * 4)
    }
}
