//! Segments by their ranks: all that a plan asks about them.

use super::share::Tile;
use crate::batch::Segment;

/// Pairs of granules of the largest rank, 256.
pub(super) const PAIRS_MAX: usize = 16;

/// Segments whose ranks fill as many pairs of granules.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Class {
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

/// All of them. An adapter's decode rows and its prompts are two segments: rows of prompts follow those of decodes.
#[derive(Clone, Debug)]
pub(super) struct Classes {
    by_pairs: [Class; PAIRS_MAX + 1],
    /// Which pairs there are, a bit each.
    present: u32,
    pub(super) rows: u64,
    /// Granules of 8 ranks, each segment's.
    pub(super) granules: u64,
    pub(super) groups: [u32; 3],
    pub(super) rank_max: u32,
    pub(super) least: u32,
    pub(super) most: u32,
}

impl Classes {
    pub(super) fn of(segments: &[Segment]) -> Classes {
        let mut classes = Classes {
            by_pairs: [Class::default(); PAIRS_MAX + 1],
            present: 0,
            rows: 0,
            granules: 0,
            groups: [0; 3],
            rank_max: 0,
            least: u32::MAX,
            most: 0,
        };
        for segment in segments {
            classes.add(segment.rank, segment.decode_rows);
            classes.add(segment.rank, segment.prefill_rows);
        }
        classes
    }

    fn add(&mut self, rank: u32, rows: u32) {
        if rows == 0 {
            return;
        }
        let pairs = (rank.div_ceil(16) as usize).clamp(1, PAIRS_MAX);
        self.rows += u64::from(rows);
        self.granules += u64::from(rank.div_ceil(8));
        self.rank_max = self.rank_max.max(rank);
        self.least = self.least.min(rows);
        self.most = self.most.max(rows);
        let class = &mut self.by_pairs[pairs];
        if self.present & (1 << pairs) == 0 {
            self.present |= 1 << pairs;
            *class = Class { least: u32::MAX, fewest: [u32::MAX; 3], ..Class::default() };
        }
        class.rows += u64::from(rows);
        class.least = class.least.min(rows);
        class.most = class.most.max(rows);
        for tile in Tile::ALL {
            let size = tile.rows();
            let groups = rows.div_ceil(size);
            class.groups[tile as usize] += groups;
            self.groups[tile as usize] += groups;
            let last = rows - (groups - 1) * size;
            class.fewest[tile as usize] = class.fewest[tile as usize].min(last);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.present == 0
    }

    /// Those that there are, with their pairs.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Class)> + Clone {
        (1..=PAIRS_MAX as u32)
            .filter(|pairs| self.present & (1 << pairs) != 0)
            .map(|pairs| (pairs, &self.by_pairs[pairs as usize]))
    }

    /// The most pairs.
    pub(super) fn pairs_max(&self) -> u32 {
        31 - self.present.max(1).leading_zeros()
    }
}
