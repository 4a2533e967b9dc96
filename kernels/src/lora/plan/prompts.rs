//! Batches of prompts alone: every segment has 16 rows or more. Their rules follow from the sweep
//! `bench_lora --points prompts --explore --swift`.
//!
//! Two things bound them. x, y and, of larger ranks, the weights must pass, the quicker the more multiprocessors have a
//! part in it; and the members of a group wait once for each other's sums. So as many blocks share the batch as find room
//! at once, as clusters where those find room, since their exchange is the quicker one.

use super::super::variant::RowTile;
use super::rules::{self, Group, power_below};
use super::{Chip, Segment, Site};

/// How a batch of prompts is shared out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Share {
    /// So many members a group, which are clusters.
    Clusters(u32),
    /// So many members a group, which poll.
    Polling(u32),
    /// As many blocks as find room at once, over all groups by their bytes; members poll.
    ByBytes,
}

/// Whether every segment is a prompt.
pub(super) fn are_prompts(segments: &[Segment]) -> bool {
    let mut rows = segments.iter().map(|s| s.rows.end - s.rows.start).filter(|&rows| rows > 0);
    rows.all(|rows| rows >= RowTile::Staged16.rows())
}

/// Bytes that all groups of 8 rows move, a multiprocessor, up to which they are quicker: beyond, weights that are read again
/// for every 8 rows, and loads of which a warp has few in flight, cost more than a ring's first stage does.
const BYTES_OF_REGISTERS: u64 = 320 << 10;
/// Bytes of y, a multiprocessor, up to which the same holds: a ring asks for y while sums are exchanged, registers hold only
/// the first of it.
const BYTES_OF_Y: u64 = 26 << 10;

/// Whether groups of 8 rows, so many of them, had better hold x and y in registers.
pub(super) fn suit_registers(site: &Site, segments: &[Segment], groups: u32, chip: Chip) -> bool {
    let slots = u64::from(chip.multiprocessors);
    let rows: u64 = segments.iter().map(|s| u64::from(s.rows.end - s.rows.start)).sum();
    let y: u64 = site.places().iter().map(|place| 2 * rows * u64::from(place.shape.outputs)).sum();
    let bytes = || -> u64 { rules::groups(site, segments, RowTile::Rows8).iter().map(|group| group.bytes).sum() };
    groups * 2 <= chip.multiprocessors && y <= BYTES_OF_Y * slots && bytes() <= BYTES_OF_REGISTERS * slots
}

/// How many blocks each group gets; `None` where the rules of all batches say it well. `fits`: whether the shared memory of
/// so many members does; `pair_up`: whether two of their blocks find room on a multiprocessor.
pub(super) fn share(
    groups: &[Group],
    row_tile: RowTile,
    chip: Chip,
    fits: impl Fn(u32) -> bool,
    pair_up: impl Fn(u32) -> bool,
) -> Option<Share> {
    let (count, slots) = (groups.len() as u32, chip.multiprocessors);
    if count == 0 || count >= slots {
        return None;
    }
    let most = groups.iter().map(|group| group.members_max).min()?.min(chip.cluster_max);
    let most = (slots / count).min(most);
    let full = || groups.iter().map(|group| group.bytes_weights + group.bytes_rows);
    if most <= MEMBERS_EVEN && full().max()? * 2 > full().min()? * 3 {
        return Some(Share::ByBytes);
    }
    if !row_tile.is_staged() {
        return share_registers(count, most.min(MEMBERS_MAX), slots);
    }
    if most < 2 {
        return None;
    }
    let bytes = groups.iter().map(|group| group.bytes).max()?;
    if pair_up(most.min(MEMBERS_MAX)) {
        if most < 3 {
            return None;
        }
        let room = if most >= MEMBERS_EVEN { slots * 3 / 2 / count } else { most };
        let worth = bytes.div_ceil(BYTES_SLICE) as u32;
        let members = worth.max(slots / 2 / count).min(room).min(MEMBERS_MAX);
        return Some(Share::Clusters(members));
    }
    if most >= LARGE && count < slots / LARGE && fits(LARGE) {
        return Some(Share::Clusters(LARGE));
    }
    let find = |&members: &u32| fits(members) && find_room(members, count, chip);
    let members = (2..=most.min(MEMBERS_MAX)).rev().find(find).unwrap_or(1);
    let heavy = groups.iter().any(|group| group.bytes_weights * 2 >= group.bytes_rows * 3);
    if heavy && members < MEMBERS_EVEN && most > members {
        return Some(Share::Polling(most.min(MEMBERS_MAX)));
    }
    Some(Share::Clusters(members))
}

/// So few members that each counts. Up to so many, the largest group of projections or ranks that differ would be the last:
/// blocks by bytes are worth a slower exchange. Of fewer, so is one more where weights are most of the bytes, which are
/// multiplied for all rows of a tile.
const MEMBERS_EVEN: u32 = 4;
/// Members beyond which the exchange costs more than shorter slices save.
const MEMBERS_MAX: u32 = 8;
/// Bytes of a block up to which further blocks only add to the exchange.
const BYTES_SLICE: u64 = 256 << 10;
/// Blocks of the largest cluster, which is as many multiprocessors as each of their groups has: for few groups.
const LARGE: u32 = 16;

/// Groups of 8 rows, blocks of which two find room on a multiprocessor. Where they fill the chip once, blocks that poll start and
/// end earlier than clusters.
fn share_registers(count: u32, most: u32, slots: u32) -> Option<Share> {
    let nearly_all = |members: u32| count * members * 8 > slots * 7;
    let power = power_below(most);
    if power < MEMBERS_EVEN || count < slots / LARGE {
        return None;
    }
    Some(if nearly_all(power) {
        Share::Polling(power)
    } else {
        Share::Clusters(if nearly_all(most) { most - 1 } else { most })
    })
}

/// Whether so many clusters with a multiprocessor a block all find room. A cluster lies within one of the chip's groups of
/// multiprocessors, of which each has 16 or a few more; of 132 no more than 111 were filled.
fn find_room(members: u32, clusters: u32, chip: Chip) -> bool {
    let slots = chip.multiprocessors;
    members <= 2 || (clusters <= slots / LARGE * (LARGE / members) && clusters * members * 19 <= slots * 16)
}
