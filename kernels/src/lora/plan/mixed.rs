//! Batches of prompts beside segments of a few rows, whose groups may differ in length by more than what they move says.
//! Their rules follow from the sweep `bench_lora --points beside`.
//!
//! A launch waits for its longest block. A short segment of a large rank, whose weights come from the memory once, takes as
//! long as sixteen rows of a prompt of that rank, which read them again: both are shared out by how long a block would take.

use std::ops::Range;

use super::super::layout::pairs;
use super::super::variant::RowTile;
use super::prompts::are_prompts;
use super::rules::Group;
use super::{Chip, Segment};

/// Members from which on no group is long: a cluster's quicker exchange is worth more than even slices.
pub(super) const MEMBERS_EVEN: u32 = 8;

/// Whether there are prompts and segments of fewer rows.
pub(super) fn are_mixed(segments: &[Segment]) -> bool {
    let is_long = |segment: &Segment| segment.rows.end - segment.rows.start > RowTile::Rows8.rows();
    segments.iter().any(is_long) && !are_prompts(segments)
}

/// Whether tiles of 32 rows, of which a multiprocessor has one, leave it less to do than those of 16, of which it has two.
pub(super) fn suit_tiles_of_32(segments: &[Segment], rank_max: u32) -> bool {
    let all_ns = |tile: RowTile| -> u64 {
        let groups = |rows: &Range<u32>| u64::from((rows.end - rows.start).div_ceil(tile.rows()));
        segments.iter().map(|segment| groups(&segment.rows) * tile_ns(tile, segment.rank)).sum()
    };
    rank_max <= RowTile::Staged32.rank_max() && 2 * all_ns(RowTile::Staged32) < all_ns(RowTile::Staged16)
}

/// Whether one group takes at least twice as long as another.
pub(super) fn are_lopsided(groups: &[Group], segments: &[Segment], row_tile: RowTile) -> bool {
    let lengths = || groups.iter().map(|group| length_ns(group, segments, row_tile));
    lengths().max() >= lengths().min().map(|least| 2 * least)
}

/// Gives each group so many members that none of their slices is longer than an even share of all on so many places.
pub(super) fn share(groups: &mut [Group], segments: &[Segment], row_tile: RowTile, chip: Chip) {
    let slots = u64::from(chip.multiprocessors);
    // Blocks of which not two find room would queue; so, nearly, do two that share what a multiprocessor can do.
    let queue = row_tile.is_staged() && (row_tile.shape().blocks_min == 1 || (groups.len() as u64) * 3 < slots * 4);
    let places = if queue { slots * 3 / 4 } else { slots * 3 / 2 };
    let total: u64 = groups.iter().map(|group| length_ns(group, segments, row_tile)).sum();
    for group in groups {
        let members = (length_ns(group, segments, row_tile) * places).div_ceil(total.max(1));
        group.members = (members as u32).clamp(1, group.members_max.max(1));
    }
}

/// How long one block would take for a group.
fn length_ns(group: &Group, segments: &[Segment], row_tile: RowTile) -> u64 {
    u64::from(group.input_tiles + group.output_tiles) * tile_ns(row_tile, segments[group.segment].rank)
}

/// What a block takes for 32 columns where the chip is full, nanoseconds, about; measured on an H200.
fn tile_ns(row_tile: RowTile, rank: u32) -> u64 {
    let pairs = u64::from(pairs(rank));
    match row_tile {
        RowTile::Brief8 | RowTile::Rows8 => 15 + 40 * pairs,
        RowTile::Staged16 | RowTile::Wide16 => 16 + 28 * pairs + 4 * pairs * pairs,
        // A stage takes as long whatever is in it: 256 columns, or of ranks over 64 half as many.
        RowTile::Staged32 => [81, 162][usize::from(pairs > 4)],
    }
}
