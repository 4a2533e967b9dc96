//! The rules of a plan: members of a group, how they exchange sums. They were chosen from the sweeps of
//! `examples/bench_lora` on an H200 and an H100.

use std::cmp::Reverse;
use std::ops::{Range, RangeInclusive};

use super::super::layout::{self, TILE_BYTES, TILE_WIDTH, pairs};
use super::super::variant::{CELLS_IN_TURNS, RowTile};
use super::memory::{exchange_bytes, pair_up, ring, ring_slot};
use super::mixed;
use super::prompts::{self, Share, are_prompts};
use super::{Chip, Exchange, Follows, Release, Segment, Site, Tuning};

/// The blocks that share a row tile of a segment and a projection.
pub(super) struct Group {
    pub(super) segment: usize,
    pub(super) rows: Range<u32>,
    pub(super) projection: usize,
    /// Bytes that the group moves: its share of the chip.
    pub(super) bytes: u64,
    /// Those of weights, and those of rows had it all rows of its tile.
    pub(super) bytes_weights: u64,
    pub(super) bytes_rows: u64,
    /// Inbox cells of one member's partial sums.
    pub(super) cells: u32,
    /// Inputs, in tiles.
    pub(super) input_tiles: u32,
    /// Outputs, in tiles.
    pub(super) output_tiles: u32,
    /// More output than input.
    pub(super) widens: bool,
    /// At most half as much output as input, so that most of the bytes come before the exchange.
    pub(super) narrows: bool,
    pub(super) members_max: u32,
    pub(super) members: u32,
    /// Times that there are so many members: each of these sets multiplies all inputs, and they share the outputs.
    pub(super) sets: u32,
}

impl Group {
    pub(super) fn blocks(&self) -> u32 {
        self.members * self.sets
    }

    /// The wider of inputs and outputs, in tiles.
    fn tiles_max(&self) -> u32 {
        self.input_tiles.max(self.output_tiles)
    }
}

pub(super) fn groups(site: &Site, segments: &[Segment], row_tile: RowTile) -> Vec<Group> {
    let mut groups = Vec::new();
    for (index, segment) in segments.iter().enumerate() {
        let mut row = segment.rows.start;
        while row < segment.rows.end {
            let rows = row..segment.rows.end.min(row + row_tile.rows());
            for (projection, place) in site.places().iter().enumerate() {
                let (inputs, outputs) = (place.shape.inputs, place.shape.outputs);
                let tiles = u64::from(inputs.div_ceil(TILE_WIDTH) + outputs.div_ceil(TILE_WIDTH));
                // Tiles travel in pairs, so an odd granule costs time as two.
                let weights = tiles * 2 * u64::from(pairs(segment.rank)) * TILE_BYTES as u64;
                let rows_count = rows.end - rows.start;
                let row = 2 * (u64::from(inputs) + 2 * u64::from(outputs));
                let row_tiles = if row_tile.is_added_up_whole() { row_tile.tiles() } else { rows_count.div_ceil(8) };
                let cells = pairs(segment.rank) * row_tiles;
                groups.push(Group {
                    segment: index,
                    rows: rows.clone(),
                    projection,
                    bytes: weights + u64::from(rows_count) * row,
                    bytes_weights: weights,
                    bytes_rows: u64::from(row_tile.rows()) * row,
                    cells,
                    input_tiles: inputs.div_ceil(TILE_WIDTH),
                    output_tiles: outputs.div_ceil(TILE_WIDTH),
                    widens: outputs > inputs,
                    narrows: inputs >= 2 * outputs,
                    members_max: members_max(inputs, outputs),
                    members: 1,
                    sets: 1,
                });
            }
            row = rows.end;
        }
    }
    // The longest first, so that none of them is alone at the end; those of the same rows stay side by side.
    groups.sort_by_key(|group| Reverse((pairs(segments[group.segment].rank), group.rows.len())));
    groups
}

/// How many blocks may share a group: no more than there are tiles to share, and no more than the exchange is worth.
fn members_max(inputs: u32, outputs: u32) -> u32 {
    inputs.min(outputs).div_ceil(TILE_WIDTH).min(32)
}

/// Whether a warp of every group has so little of its slices that the shortest code is the fastest: two units of weights
/// in the shrink and in the expand, where each group has as many members and sets of them as `shared` says.
pub(super) fn is_brief(groups: &[Group], segments: &[Segment], shared: impl Fn(&Group) -> (u32, u32)) -> bool {
    groups.iter().all(|group| units_of_a_warp(group, segments, shared(group)) <= RowTile::Brief8.batch())
}

/// Units of weights of which a warp has so many at most in the shrink and in the expand.
fn units_of_a_warp(group: &Group, segments: &[Segment], (members, sets): (u32, u32)) -> u32 {
    let warps = RowTile::Rows8.shape().warps;
    let inputs = group.input_tiles.div_ceil(members * warps);
    let outputs = group.output_tiles.div_ceil(members * sets * warps);
    inputs.max(outputs) * pairs(segments[group.segment].rank)
}

/// Gives each group members and returns the blocks in a cluster, or 1 where sums go through global memory.
///
/// All groups get the same number of members and become clusters, where that suits them: the exchange is quicker. Otherwise
/// they get members in proportion to their bytes, or to how long they would take ([`mixed`]). Either way all blocks together fill the chip
/// once or twice: the next launch's blocks load their weights early, and need room beside them.
pub(super) fn share_blocks(
    groups: &mut [Group],
    segments: &[Segment],
    row_tile: RowTile,
    chip: Chip,
    tuning: Tuning,
) -> u32 {
    // Members poll for one another, so all of them must find room at once, also on a small slice of a GPU.
    for group in groups.iter_mut() {
        group.members_max = group.members_max.min(chip.multiprocessors).max(1);
    }
    let alone = tuning.exchange.is_none() && tuning.follows != Follows::Beside;
    // Most launches need not know.
    let lopsided = |groups: &[Group]| {
        tuning.blocks.is_none()
            && tuning.follows != Follows::Beside
            && !are_prompts(segments)
            && mixed::are_lopsided(groups, segments, row_tile)
    };
    let (wanted, sets) = match tuning.blocks {
        Some(blocks) if tuning.exchange.is_some() => (blocks / (groups.len() as u32).max(1), 1),
        Some(blocks) => (power_below(blocks / (groups.len() as u32).max(1)), 1),
        None => match short_members(groups, segments, row_tile, chip, tuning.follows) {
            Some(short) => short,
            None => (choose_members(groups, row_tile, chip, tuning.follows), 1),
        },
    };
    if tuning.exchange != Some(Exchange::Global) && chip.cluster_max > 1 && !groups.is_empty() {
        let most = groups.iter().map(|group| group.members_max).min().unwrap_or(1).min(chip.cluster_max).max(1);
        let late = tuning.blocks.is_none() && starts_late(groups, tuning.follows);
        let most = if late { most.min(8) } else { most };
        let mut members = if wanted <= most { wanted.max(1) } else { power_below(most) };
        // Blocks of which not two fit one multiprocessor cannot overlap, and their clusters pack badly.
        let exchange = |group: &Group, members: u32| {
            exchange_bytes(row_tile, segments[group.segment].rank, group.cells, members, members > 1)
        };
        let count = groups.len() as u32;
        let fits = |members: u32| {
            groups.iter().all(|group| {
                let slot = ring_slot(row_tile, segments[group.segment].rank);
                ring(row_tile, slot, exchange(group, members), count * members, chip).is_some()
            })
        };
        let of_prompts = alone && tuning.blocks.is_none() && are_prompts(segments);
        let pair = |members: u32| {
            groups.iter().all(|group| {
                let slot = ring_slot(row_tile, segments[group.segment].rank);
                pair_up(row_tile, slot, exchange(group, members), count * members, chip)
            })
        };
        if of_prompts {
            match prompts::share(groups, row_tile, chip, fits, pair) {
                Some(Share::ByBytes) => {
                    // As many as find room at once: shares are rounded down.
                    let slots = chip.multiprocessors;
                    for blocks in (slots..=2 * slots).rev().step_by(slots as usize / 16 + 1) {
                        share_by_bytes(groups, blocks);
                        if groups.iter().map(|group| group.members).sum::<u32>() <= slots {
                            break;
                        }
                    }
                    return 1;
                }
                Some(Share::Polling(members)) => {
                    groups.iter_mut().for_each(|group| group.members = members);
                    return 1;
                }
                Some(Share::Clusters(members)) => {
                    groups.iter_mut().for_each(|group| group.members = members);
                    return members;
                }
                None => {}
            }
        }
        // More blocks of prompts than multiprocessors, of which not two find room on one, would queue.
        let queue = |members: u32| {
            of_prompts && row_tile.is_staged() && count * members > chip.multiprocessors && !pair(members)
        };
        while members > 1 && tuning.exchange.is_none() && (!fits(members) || queue(members)) {
            members /= 2;
        }
        if alone && tuning.blocks.is_none() && packs_well(groups, segments, row_tile, members, chip, tuning.follows) {
            let more = members_packed(groups, members, chip, tuning.follows);
            if fits(more) {
                groups.iter_mut().for_each(|group| group.members = more);
                return more;
            }
        }
        let uneven = members < mixed::MEMBERS_EVEN && mixed::are_mixed(segments) && lopsided(groups);
        let global = uneven || prefers_global(groups, row_tile, members, chip);
        let few = alone && polls_well(groups, row_tile, members, chip) && !global;
        if tuning.exchange.is_some() || few || !global {
            groups.iter_mut().for_each(|group| group.members = members);
            if few {
                return 1;
            }
            if members == wanted {
                groups.iter_mut().for_each(|group| group.sets = sets);
            }
            return members;
        }
    }
    if lopsided(groups) {
        mixed::share(groups, segments, row_tile, chip);
    } else {
        share_by_bytes(groups, tuning.blocks.unwrap_or(chip.multiprocessors * 3 / 2));
    }
    1
}

/// Gives each group as many of the blocks as its share of all bytes.
fn share_by_bytes(groups: &mut [Group], blocks: u32) {
    let total: u64 = groups.iter().map(|group| group.bytes).sum();
    for group in groups.iter_mut() {
        let share = (u64::from(blocks) * group.bytes / total.max(1)) as u32;
        group.members = share.clamp(1, group.members_max.max(1));
    }
}

/// Whether the members of a group, which would exchange their sums through global memory, had better multiply all of its
/// inputs, each for itself: A then comes from the L2 as often as there are members, and nobody waits for another. For
/// few inputs and more outputs; the rest was slower or was not measured.
pub(super) fn sums_alone(group: &Group, rank: u32, row_tile: RowTile, cluster: u32, tuning: Tuning) -> bool {
    // Beside a GEMM, and where the way of exchange is asked for, that was not measured.
    let asked = tuning.exchange.is_some() || tuning.follows == Follows::Beside;
    cluster == 1 && group.members > 1 && !asked && !row_tile.is_staged() && multiplies_alone(group, rank)
}

/// Whether a block multiplies all inputs of the group sooner than sums arrive.
fn multiplies_alone(group: &Group, rank: u32) -> bool {
    group.widens && group.input_tiles * pairs(rank) <= UNITS_ALONE
}

/// Units of weights (16 ranks × 32 inputs) up to which a block multiplies them sooner than sums arrive.
const UNITS_ALONE: u32 = 96;

pub(super) fn power_below(value: u32) -> u32 {
    1 << value.max(1).ilog2()
}

/// Whether groups whose few members could poll had better be clusters that fill the chip more than once. Where a group is
/// one row; not where each member had better multiply all inputs, nor where a call between launches of its kind is shorter
/// than the start of clusters: blocks that poll are waiting when x comes.
fn packs_well(
    groups: &[Group],
    segments: &[Segment],
    row_tile: RowTile,
    members: u32,
    chip: Chip,
    follows: Follows,
) -> bool {
    let (bytes_min, bytes_max) = byte_range(groups);
    let worth = |group: &Group, rank: u32| {
        follows == Follows::Another || (rank > layout::TILE_RANKS && group.bytes >= BYTES_PACKED)
    };
    polls_well(groups, row_tile, members, chip)
        && bytes_max <= 2 * bytes_min
        && groups.iter().all(|group| {
            let rank = segments[group.segment].rank;
            group.rows.len() == 1 && !multiplies_alone(group, rank) && worth(group, rank)
        })
}

/// Members of those clusters: five in place of four, which fill the chip one and a quarter times; six where they write for
/// long. After a kernel that does not let its successor begin early, nothing is loaded before x is there: six short
/// slices then, or three where two cells are exchanged.
fn members_packed(groups: &[Group], members: u32, chip: Chip, follows: Follows) -> u32 {
    let (_, bytes) = byte_range(groups);
    let cells = groups.iter().map(|group| group.cells).max().unwrap_or(1);
    let quarters = match (follows, cells) {
        _ if members < 4 => 5,
        (Follows::Another, 1) => 6,
        (Follows::Another, _) => 3,
        _ if bytes >= BYTES_LONG => 6,
        _ => 5,
    };
    (chip.multiprocessors * quarters / 4 / groups.len() as u32).max(1)
}

/// Bytes of a group whose members write for so long that they are worth a slower exchange.
const BYTES_LONG: u64 = 700 << 10;

/// Bytes of a group from which on clusters are worth their start between launches of a kind.
const BYTES_PACKED: u64 = 192 << 10;

/// Members of each group and sets of them with slices short enough for the shortest code, which are worth more blocks; so
/// are those of few groups, since nothing else hides their latency. Where so many members leave a group long slices of its
/// outputs, several sets of them share the outputs, each of which multiplies all inputs: that is shorter than a wider
/// exchange. Sets leave some of the chip to the next launch, and more of it where a warp has a whole batch of units.
fn short_members(
    groups: &[Group],
    segments: &[Segment],
    row_tile: RowTile,
    chip: Chip,
    follows: Follows,
) -> Option<(u32, u32)> {
    let count = (groups.len() as u32).max(1);
    let (bytes_min, bytes_max) = byte_range(groups);
    if row_tile.tiles() != 1 || bytes_max > 2 * bytes_min {
        return None;
    }
    let slots = chip.multiprocessors;
    let find = |units: u32, least: u32, step: usize, sets: RangeInclusive<u32>, room: u32| {
        let shared = (least..=if starts_late(groups, follows) { 8 } else { 16 }).step_by(step);
        let short = |shared| groups.iter().all(|group| units_of_a_warp(group, segments, shared) <= units);
        let in_sets = |members| sets.clone().map(move |sets| (members, sets));
        shared.flat_map(in_sets).find(|&(members, sets)| {
            count * members * sets <= if sets > 1 { room } else { slots } && short((members, sets))
        })
    };
    if follows == Follows::Beside {
        return find(RowTile::Brief8.batch(), 8, 8, 1..=1, slots);
    }
    let tiles = groups.iter().map(Group::tiles_max).min().unwrap_or(0);
    let least = if count <= 2 && tiles > 64 { 10 } else { 8 };
    find(RowTile::Brief8.batch(), least, 1, 1..=SETS_MAX, slots * 3 / 4).or_else(|| {
        let few = groups.iter().all(|group| pairs(segments[group.segment].rank) <= 2);
        few.then(|| find(RowTile::Rows8.batch(), 8, 1, 2..=SETS_MAX, slots / 2)).flatten()
    })
}

/// Sets of members that were measured to be worth it.
const SETS_MAX: u32 = 4;

/// Whether clusters of more than 8 blocks start too late: after a kernel that does not let its successor begin early, unless
/// most of the bytes come before the exchange.
fn starts_late(groups: &[Group], follows: Follows) -> bool {
    follows == Follows::Another && groups.iter().all(|group| group.cells > 1 && group.widens)
}

/// Members of each group: enough to fill the chip, but no block with less than about 64 KiB, the size below which more
/// blocks only add to the exchange; a few groups are split further, since then nothing else hides their latency.
fn choose_members(groups: &[Group], row_tile: RowTile, chip: Chip, follows: Follows) -> u32 {
    let count = (groups.len() as u32).max(1);
    let slots = chip.multiprocessors;
    let (bytes_min, bytes_max) = byte_range(groups);
    if row_tile.shape().blocks_min == 1 {
        // Clusters of more than two blocks with a multiprocessor each do not fill a chip whose multiprocessors come in
        // unequal clusters: the last would wait for a whole block.
        let fill = (slots / count).clamp(1, 8);
        return if fill > 2 && count * fill * 8 > slots * 7 { fill - 1 } else { fill };
    }
    if bytes_max > 2 * bytes_min {
        // Lopsided: the largest group decides, so all get as many as find room; where x and y pass through a ring, as leave
        // some to the next launch.
        return match row_tile.is_staged() {
            true => (slots * 7 / 4 / count).clamp(1, 3),
            false => power_below((2 * slots / count).min(8)),
        };
    }
    let fill = power_below(slots / count);
    let doubled_fits = count * fill * 2 <= row_tile.shape().blocks_min * slots;
    let fill = if doubled_fits && (fill == 1 || count * fill * 10 <= slots * 9) { fill * 2 } else { fill };
    // Clusters of 16 start late after a kernel that does not let its successor begin early: fewer blocks suffice where
    // most of the bytes come before the exchange. Between launches of its kind one on half of the chip leaves the other
    // half to the next, which then has most of its bytes before it may begin.
    let widens = groups.iter().all(|group| group.widens);
    let narrows = follows != Follows::Beside && groups.iter().all(|group| group.narrows);
    let large = (bytes_max >> if widens { 17 } else { 18 }).min(16) as u32;
    let half = power_below(slots / 2 / count);
    let large = if narrows && follows == Follows::Itself { large.min(half) } else { large };
    let tiles = groups.iter().map(Group::tiles_max).min().unwrap_or(0);
    if count <= 4 && count * 12 <= slots && tiles > 128 && large < 12 && follows != Follows::Beside {
        return 12;
    }
    let worth = match (count <= 6, narrows) {
        (true, false) => 8,
        (true, true) => large.max(8),
        (false, _) => large.max((bytes_max >> 16).clamp(1, 8) as u32),
    };
    fill.min(power_below(worth))
}

/// Whether a few members of each group exchange their few sums through global memory although a cluster would be
/// quicker at that: where nearly every multiprocessor has one block, blocks without a cluster start and end earlier.
fn polls_well(groups: &[Group], row_tile: RowTile, members: u32, chip: Chip) -> bool {
    let blocks = groups.len() as u32 * members;
    !row_tile.is_staged()
        && (2..=4).contains(&members)
        && blocks <= chip.multiprocessors
        && blocks * 4 > chip.multiprocessors * 3
        && groups.iter().all(|group| group.cells <= 2)
}

/// When the next launch may start its blocks. They ask for their weights at once: while this launch still asks for its
/// own, they are in each other's way, and when it adds up and exchanges its sums the memory has nothing else to do.
pub(super) fn choose_release(
    groups: &[Group],
    segments: &[Segment],
    row_tile: RowTile,
    cluster: u32,
    chip: Chip,
    tuning: Tuning,
) -> Release {
    let blocks: u32 = groups.iter().map(Group::blocks).sum();
    if tuning.follows == Follows::Beside {
        // What is next in a step gains little by an early start, and loses little.
        let first = groups.iter().filter(|group| group.rows.start == segments[group.segment].rows.start);
        let bytes: u64 = first.map(|group| group.bytes).sum();
        return if bytes < BYTES_FEW { Release::AtStart } else { Release::WithOperands };
    }
    // A chip full of long slices never has nothing to do; blocks of which one fills a multiprocessor leave no room anyway.
    let bytes_block = groups.iter().map(|group| group.bytes / u64::from(group.blocks())).max().unwrap_or(0);
    let staged_alone = row_tile.is_staged() && (row_tile.shape().blocks_min == 1 || blocks <= chip.multiprocessors);
    if bytes_block >= BYTES_BUSY && !staged_alone && blocks * 4 > chip.multiprocessors * 3 {
        return Release::AtStart;
    }
    let members = groups.iter().map(|group| group.members).max().unwrap_or(1);
    let widens = groups.iter().all(|group| group.widens);
    let cells = groups.iter().map(|group| group.cells).min().unwrap_or(0);
    let with_sums = if row_tile.is_staged() || blocks > chip.multiprocessors {
        false
    } else if cluster == 1 {
        // Outputs are asked for late: where they are most of the bytes, that is too late for the next launch's weights.
        members > 1 && !widens
    } else if 2 * blocks <= chip.multiprocessors {
        // On half of the chip it is in the way of the next one's weights only where most bytes come before the exchange.
        cells > 1 && groups.iter().all(|group| group.narrows)
    } else {
        cells >= CELLS_IN_TURNS - 1 && widens == (members > 8)
    };
    if with_sums { Release::WithSums } else { Release::WithOperands }
}

/// Bytes of a block from which on a full chip is busy for long enough.
const BYTES_BUSY: u64 = 384 << 10;
/// Bytes of a launch beside a GEMM below which that has the memory for itself anyway.
const BYTES_FEW: u64 = 1 << 20;

/// Whether sums had better go through global memory: large groups of small rank that the chip cannot split evenly write
/// for so long that further blocks are worth a slower exchange, and one block a lopsided group would leave the largest
/// alone.
fn prefers_global(groups: &[Group], row_tile: RowTile, members: u32, chip: Chip) -> bool {
    let (bytes_min, bytes_max) = byte_range(groups);
    let count = groups.len() as u32;
    let exchanges_little = groups.iter().all(|group| group.cells == 1 && group.widens);
    let large = exchanges_little
        && bytes_max >= BYTES_LONG
        && count * 8 > chip.multiprocessors
        && count * members < chip.multiprocessors;
    let enough = match (row_tile.is_staged(), row_tile.shape().blocks_min) {
        (true, 1) => 1,
        (true, _) => 2,
        (false, _) => 4,
    };
    let lopsided = bytes_max > 2 * bytes_min && members < enough;
    large || lopsided
}

fn byte_range(groups: &[Group]) -> (u64, u64) {
    let bytes = groups.iter().map(|group| group.bytes);
    (bytes.clone().min().unwrap_or(0), bytes.max().unwrap_or(0))
}
