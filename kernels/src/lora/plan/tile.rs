//! How many rows a group has, and how they travel.

use super::super::variant::RowTile;
use super::prompts::{self, are_prompts};
use super::{Chip, Follows, Segment, Site, mixed};

/// The fewest rows a group with which all groups find room at once. Reading the weights again for further rows of a
/// segment costs L2 bandwidth only, and small groups finish sooner; more groups than that would queue. From 16 rows on
/// x and y are most of the bytes and pass through a ring: for prompts as soon as there is much of them
/// ([`prompts::suit_registers`]); for prompts beside short segments when groups of 8 rows would get no more than two blocks
/// each, and larger ones are fewer by a quarter; then of 32 rows where weights are most of it
/// ([`mixed::suit_tiles_of_32`]). Of prompts alone, where there are weights to multiply and too few groups for two blocks a
/// multiprocessor, one of more warps is quicker, of 32 rows where there are more groups than that.
pub(super) fn choose_row_tile(
    site: &Site,
    segments: &[Segment],
    rank_max: u32,
    chip: Chip,
    follows: Follows,
) -> RowTile {
    let rows = || segments.iter().map(|s| s.rows.end - s.rows.start).filter(|&rows| rows > 0);
    let groups = |tile: RowTile| -> u32 {
        rows().map(|rows| rows.div_ceil(tile.rows())).sum::<u32>() * site.places().len() as u32
    };
    if rows().all(|rows| rows <= RowTile::Rows8.rows()) {
        return RowTile::Rows8;
    }
    let prompts = are_prompts(segments);
    let small = groups(RowTile::Rows8);
    let in_registers = if !prompts {
        let fewer = groups(RowTile::Staged16) * 4 <= small * 3;
        small <= if fewer { chip.multiprocessors * 9 / 20 } else { chip.multiprocessors }
    } else if follows == Follows::Beside {
        small * 2 <= chip.multiprocessors
    } else {
        prompts::suit_registers(site, segments, small, chip)
    };
    if in_registers {
        return RowTile::Rows8;
    }
    if !prompts {
        let of_32 = follows != Follows::Beside && mixed::suit_tiles_of_32(segments, rank_max);
        return if of_32 { RowTile::Staged32 } else { RowTile::Staged16 };
    }
    let fits = rank_max <= RowTile::Staged32.rank_max();
    if fits && rank_max >= RANK_WEIGHTY {
        RowTile::Staged32
    } else if rank_max > 16 && groups(RowTile::Wide16) * 2 <= chip.multiprocessors {
        RowTile::Wide16
    } else if fits && rank_max > 16 {
        RowTile::Staged32
    } else {
        RowTile::Staged16
    }
}

/// From this rank on the weights that 16 rows read again from the L2 are more than their x and y.
const RANK_WEIGHTY: u32 = 33;
