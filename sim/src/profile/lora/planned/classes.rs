//! Segments by their ranks: all that a plan asks about them.

use super::tile::Tile;
use crate::batch::{Census, Segment};

/// Pairs of granules of the largest rank, 256.
pub(super) const PAIRS_MAX: usize = 16;

/// Segments whose ranks fill as many pairs of granules.
#[derive(Clone, Copy, Debug)]
pub(super) struct Class {
    pub(super) pairs: u32,
    /// Rows of all of them.
    pub(super) rows: u64,
    /// Groups of 8, 16 and 32 rows.
    pub(super) groups: [u32; 3],
    /// Rows of the smallest and the largest segment.
    pub(super) least: u32,
    pub(super) most: u32,
    /// The fewest rows of a group of each size.
    pub(super) fewest: [u32; 3],
}

impl Class {
    const NONE: Class = Class { pairs: 0, rows: 0, groups: [0; 3], least: u32::MAX, most: 0, fewest: [u32::MAX; 3] };
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
    pub(super) groups: [u32; 3],
    pub(super) rank_max: u32,
    pub(super) least: u32,
    pub(super) most: u32,
}

impl Class {
    /// Counts the groups of a segment of many rows.
    fn cut(&mut self, rows: u32) {
        for (index, tile) in Tile::SIZES.into_iter().enumerate() {
            let size = tile.rows();
            let groups = rows.div_ceil(size);
            self.groups[index] += groups;
            let last = rows - (groups - 1) * size;
            self.fewest[index] = self.fewest[index].min(last);
        }
    }
}

impl Classes {
    /// Of no segment.
    pub(crate) const NONE: Classes = Classes {
        list: [Class::NONE; PAIRS_MAX],
        count: 0,
        rows: 0,
        granules: 0,
        groups: [0; 3],
        rank_max: 0,
        least: u32::MAX,
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
            class.least = class.least.min(least + 1);
            class.most = class.most.max(most);
            small[pairs] += few;
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
            classes.least = classes.least.min(class.least);
            classes.most = classes.most.max(class.most);
            for size in 0..Tile::SIZES.len() {
                class.groups[size] += small[pairs];
                classes.groups[size] += class.groups[size];
                if small[pairs] > 0 {
                    // The smallest segment is one of them.
                    class.fewest[size] = class.fewest[size].min(class.least);
                }
            }
            classes.list[classes.count] = *class;
            classes.count += 1;
        }
        classes
    }

    /// Becomes what [`Classes::of`] would make of the segments with this census and this largest rank. Classes that there are none of are
    /// left as they were: nobody reads them.
    pub(crate) fn count(&mut self, census: &Census, rank_max: u32) {
        (self.count, self.rows, self.granules, self.rank_max) = (0, census.rows(), census.granules(), rank_max);
        (self.groups, self.least, self.most) = ([0; 3], u32::MAX, 0);
        for (pairs, sizes) in census.classes() {
            let (groups, (least, most)) = (sizes.tiles(), sizes.range());
            self.list[self.count] = Class { pairs, rows: sizes.rows(), groups, least, most, fewest: sizes.fewest() };
            self.count += 1;
            (self.least, self.most) = (self.least.min(least), self.most.max(most));
            for (all, groups) in self.groups.iter_mut().zip(groups) {
                *all += groups;
            }
        }
    }

    pub(super) fn count_of_classes(&self) -> usize {
        self.count
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Those that there are, by their pairs.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Class> + Clone {
        self.list[..self.count].iter()
    }

    /// The most pairs.
    pub(super) fn pairs_max(&self) -> u32 {
        self.iter().last().map_or(0, |class| class.pairs)
    }
}
