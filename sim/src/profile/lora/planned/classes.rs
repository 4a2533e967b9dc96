//! Segments by their ranks: all that a plan asks about them.

use std::slice;

use super::TILES;
use super::prompts::ROWS;
use super::tile::{Tile, Tiles};
use crate::batch::{Census, Segment};
use crate::print::Print;

/// Pairs of granules of the largest rank, 256.
pub(super) const PAIRS_MAX: usize = 16;

/// So many groups are few.
const FEW: u32 = 12;

/// Segments whose ranks fill as many pairs of granules.
#[derive(Clone, Copy, Debug)]
pub(super) struct Class {
    pub(super) pairs: u32,
    /// Rows of all of them.
    pub(super) rows: u64,
    /// Groups of each kind of tile.
    pub(super) groups: [u32; TILES],
    /// Rows of the largest segment.
    pub(super) most: u32,
    /// Rows of the last groups of 32 rows: bit `i` of `i + 1` rows, where they may be the fewest.
    ends: u32,
}

impl Class {
    const NONE: Class = Class { pairs: 0, rows: 0, groups: [0; TILES], most: 0, ends: 0 };

    /// The fewest rows of a group, which is the last of its segment.
    #[inline(always)]
    pub(super) fn fewest(&self, tile: Tile) -> u32 {
        // A segment of i + 1 rows ends with a group of i modulo the size, and one.
        let of_16 = self.ends | self.ends >> 16;
        let ends = match tile.rows() {
            8 => of_16 | of_16 >> 8,
            16 => of_16,
            _ => self.ends,
        };
        ends.trailing_zeros() + 1
    }
}

/// All of them. An adapter's decode rows and its prompts are two segments: rows of prompts follow those of decodes.
#[derive(Clone, Debug)]
pub(crate) struct Classes {
    /// The first so many that there are, by their pairs.
    list: [Class; PAIRS_MAX],
    count: usize,
    pub(super) rows: u64,
    /// Granules of 8 ranks, each segment's.
    pub(super) granules: u64,
    pub(super) groups: [u32; TILES],
    /// Bit `i`: there is a class of `i` pairs.
    pairs: u32,
    pub(super) rank_max: u32,
    /// Is every segment a prompt?
    pub(super) are_prompts: bool,
    pub(super) most: u32,
}

impl Class {
    /// Counts the groups of a segment of many rows.
    fn cut(&mut self, rows: u32) {
        for (groups, tile) in self.groups.iter_mut().zip(Tile::ALL) {
            *groups += rows.div_ceil(tile.rows());
        }
        self.ends |= 1 << ((rows - 1) % 32);
    }
}

impl Classes {
    /// Of no segment.
    pub(crate) const NONE: Classes = Classes {
        list: [Class::NONE; PAIRS_MAX],
        count: 0,
        rows: 0,
        granules: 0,
        groups: [0; TILES],
        pairs: 0,
        rank_max: 0,
        are_prompts: true,
        most: 0,
    };

    pub(crate) fn of(segments: &[Segment]) -> Classes {
        let mut classes = Classes::NONE;
        let mut by_pairs = [Class::NONE; PAIRS_MAX + 1];
        // Segments of at most 8 rows, which most are: one group each, whatever its size.
        let mut small = [0; PAIRS_MAX + 1];
        // Mostly all have one rank: a run of them is counted without a look at its class.
        for run in segments.chunk_by(|a, b| a.rank == b.rank) {
            let rank = run[0].rank;
            let (mut rows, mut count, mut few, mut least, mut most) = (0, 0, 0, u32::MAX, 0);
            for &Segment { decode_rows, prefill_rows, .. } in run {
                for part in [decode_rows, prefill_rows] {
                    // Nothing is more than everything here.
                    let below = part.wrapping_sub(1);
                    rows += u64::from(part);
                    count += u32::from(part > 0);
                    few += u32::from(below < 8);
                    least = least.min(below);
                    most = most.max(part);
                }
            }
            if count == 0 {
                continue;
            }
            let pairs = (rank.div_ceil(16) as usize).clamp(1, PAIRS_MAX);
            let class = &mut by_pairs[pairs];
            class.rows += rows;
            let least = least + 1;
            classes.are_prompts &= least >= ROWS;
            class.most = class.most.max(most);
            small[pairs] += few;
            if few > 0 {
                // Of those the smallest alone may be the fewest.
                class.ends |= 1 << (least - 1);
            }
            if count > few {
                let parts = run.iter().flat_map(|segment| [segment.decode_rows, segment.prefill_rows]);
                parts.filter(|part| *part > 8).for_each(|part| class.cut(part));
            }
            classes.granules += u64::from(count) * u64::from(rank.div_ceil(8));
            classes.rank_max = classes.rank_max.max(rank);
        }
        for (pairs, class) in by_pairs.iter_mut().enumerate().filter(|(_, class)| class.rows > 0) {
            class.pairs = pairs as u32;
            classes.rows += class.rows;
            classes.most = classes.most.max(class.most);
            for size in 0..TILES {
                class.groups[size] += small[pairs];
                classes.groups[size] += class.groups[size];
            }
            classes.pairs |= 1 << pairs;
            classes.list[classes.count] = *class;
            classes.count += 1;
        }
        classes
    }

    /// Becomes what [`Classes::of`] would make of the segments with this census and this largest rank. Classes that there are none of are
    /// left as they were: nobody reads them.
    pub(crate) fn count(&mut self, census: &Census, rank_max: u32) {
        let (mut count, mut all, mut all_pairs, mut are_prompts, mut most_rows) = (0, [0; TILES], 0, true, 0);
        for (pairs, sizes) in census.classes() {
            let (groups, (_, most)) = (sizes.tiles(), sizes.range());
            self.list[count] = Class { pairs, rows: sizes.rows(), groups, most, ends: sizes.ends() };
            count += 1;
            all_pairs |= 1 << pairs;
            are_prompts &= !sizes.any_below(ROWS);
            most_rows = most_rows.max(most);
            for (all, groups) in all.iter_mut().zip(groups) {
                *all += groups;
            }
        }
        (self.count, self.rows, self.granules, self.rank_max) = (count, census.rows(), census.granules(), rank_max);
        (self.groups, self.pairs, self.are_prompts, self.most) = (all, all_pairs, are_prompts, most_rows);
    }

    /// A fingerprint of all that the rules depend on where launches have these tiles. `uneven`: the largest group has more than twice the bytes
    /// of the smallest in every launch, and more than one cell; then rules ask only how many cells groups have, and tell only some numbers of
    /// groups apart ([`Planned::alike`](super::Planned::alike)), prompts alone excepted.
    #[inline(always)]
    pub(super) fn print(&self, tiles: Tiles, uneven: bool, alike: &[u32]) -> u64 {
        let (mut print, prompts) = (Print::new(), self.are_prompts);
        let cells_alone = uneven && !prompts;
        let kinds = u32::from_le_bytes(tiles.map(|tile| tile as u8));
        let [eight, sixteen, more, wide] =
            Tile::ALL.map(|tile| tiles.iter().fold(false, |any, one| any | (*one == tile)));
        let rows_most = if more { 32 } else { 8 << u32::from(sixteen | wide) };
        // Of sizes that no launch has, nothing counts.
        let [eight, sixteen, more] = [eight, sixteen | wide, more].map(|is| u32::from(is).wrapping_neg());
        let groups = |size: usize| match cells_alone {
            true => alike[(self.groups[size] as usize).min(alike.len() - 1)],
            false => self.groups[size],
        };
        let of_few_rows = self.most <= Tile::Rows8.rows();
        let asked = [cells_alone, prompts, of_few_rows].iter().rev().fold(0, |asked, is| asked << 1 | u64::from(*is));
        print.pair(
            u64::from(kinds) << 3 | asked | u64::from(self.pairs) << 40,
            u64::from(groups(0) & eight) ^ u64::from(groups(1) & sixteen) << 21 ^ u64::from(groups(2) & more) << 42,
        );
        if !cells_alone {
            for class in self.iter() {
                // Rules know of a class only the fewest and the most rows of a group: a byte each.
                let fewest = |tile: Tile, has: u32| class.fewest(tile) & has;
                let sixteen = fewest(Tile::Staged16, sixteen) << 8 | fewest(Tile::Staged32, more) << 16;
                let rows = fewest(Tile::Rows8, eight) | sixteen | class.most.min(rows_most) << 24;
                print.pair(u64::from(rows), u64::from(class.pairs));
            }
        } else if rows_most > Tile::Rows8.rows() {
            // The same in cells of 8 rows, of which a group has one to four: five bits.
            let mut cells = 0_u128;
            for class in self.iter() {
                let of = |rows: u32| (rows - 1) >> 3;
                let fewest =
                    of(class.fewest(Tile::Staged16)) & sixteen | (of(class.fewest(Tile::Staged32)) & more) << 1;
                cells = cells << 5 | u128::from(fewest | of(class.most.min(rows_most)) << 3);
            }
            print.pair(cells as u64, (cells >> 64) as u64);
        }
        print.finish()
    }

    /// A fingerprint of all that the price depends on, where the rules depend on so much.
    pub(crate) fn print_of_price(&self, rules: u64) -> u64 {
        let mut print = Print::new();
        print.pair(rules, self.count as u64);
        print.pair(self.rows, self.granules);
        if self.count > 1 {
            for class in self.iter() {
                // Every group is one segment or many, which the others' rows do not tell.
                print.pair(class.rows, u64::from(class.groups[0]) | u64::from(class.groups[1]) << 32);
                print.pair(u64::from(class.groups[2]), u64::from(class.most));
            }
        }
        print.finish()
    }

    /// Is the same batch, as far as its price goes, likely to come again? Of one rank or of few segments, whose numbers of rows differ little.
    pub(crate) fn comes_again(&self) -> bool {
        self.count == 1 || self.groups[0] <= FEW
    }

    /// Do all ranks fill as many sixteens?
    pub(crate) fn are_of_one_rank(&self) -> bool {
        self.count == 1
    }

    pub(super) fn count_of_classes(&self) -> usize {
        self.count
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Those that there are, by their pairs.
    pub(super) fn list(&self) -> &[Class] {
        &self.list[..self.count]
    }

    pub(super) fn iter(&self) -> slice::Iter<'_, Class> {
        self.list().iter()
    }

    /// The most pairs.
    pub(super) fn pairs_max(&self) -> u32 {
        self.iter().last().map_or(0, |class| class.pairs)
    }
}
