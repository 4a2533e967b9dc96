//! Shared memory of a block: how deep its ring is, how it is cut into stages, and what the exchange of sums takes.

use super::super::layout::{self, TILE_BYTES, pairs};
use super::super::variant::{CELLS_IN_TURNS, CELLS_OF_ALL_IN_TURNS, RowTile};
use super::{CELL_BYTES, Chip};

/// A ring that is no deeper than this starves its warps.
const RING_DEPTH_USEFUL: u32 = 5;
/// Stages with which x and y keep the memory busy; one more where a multiprocessor has but one block.
const STAGES_USEFUL: u32 = 2;

/// Shared memory with which two blocks find room on a multiprocessor: the driver keeps 1 KiB a block for itself.
fn half(chip: Chip) -> u32 {
    ((chip.shared_bytes_block_max + 1024) / 2).saturating_sub(1024)
}

/// Depth of the ring beside these bytes of exchange, such that the blocks of the next launch find room too: beside each
/// block, or on other multiprocessors where this launch leaves half of them free. `None` if it would be too short.
pub(super) fn ring(row_tile: RowTile, slot: u32, exchange_bytes: u32, blocks: u32, chip: Chip) -> Option<u32> {
    let beside = half(chip).saturating_sub(exchange_bytes);
    if row_tile.is_staged() {
        let alone = chip.shared_bytes_block_max.saturating_sub(exchange_bytes);
        // Registers leave no room for a second block where one has more threads.
        let beside = if row_tile.shape().blocks_min > 1 { beside } else { alone };
        let useful = if blocks > chip.multiprocessors { STAGES_USEFUL } else { STAGES_USEFUL + 1 };
        let rooms = [(beside, useful), (alone, STAGES_USEFUL)];
        let bytes = rooms.into_iter().find_map(|(bytes, stages)| (bytes / slot >= stages).then_some(bytes));
        return bytes.map(|bytes| bytes / 1024);
    }
    let beside = beside / slot;
    let alone = ring_alone(row_tile, exchange_bytes, chip);
    if row_tile.shape().blocks_min > 1 && beside > RING_DEPTH_USEFUL {
        Some(beside.min(row_tile.shape().depth_max))
    } else {
        (2 * blocks <= chip.multiprocessors && alone > RING_DEPTH_USEFUL).then_some(alone)
    }
}

/// Whether two such blocks find room on a multiprocessor.
pub(super) fn pair_up(row_tile: RowTile, slot: u32, exchange_bytes: u32, blocks: u32, chip: Chip) -> bool {
    let depth = ring(row_tile, slot, exchange_bytes, blocks, chip);
    row_tile.shape().blocks_min > 1
        && depth.is_some_and(|depth| depth * ring_unit(row_tile) + exchange_bytes <= half(chip))
}

/// Depth of the ring of a block that has a multiprocessor for itself.
pub(super) fn ring_alone(row_tile: RowTile, exchange_bytes: u32, chip: Chip) -> u32 {
    let room = chip.shared_bytes_block_max.saturating_sub(exchange_bytes);
    if row_tile.is_staged() {
        return room / 1024;
    }
    (room / ring_unit(row_tile)).clamp(4, row_tile.shape().depth_max)
}

/// Bytes of a ring of depth 1: a slot of every warp, or 1 KiB where the block has one ring of stages.
pub(super) fn ring_unit(row_tile: RowTile) -> u32 {
    if row_tile.is_staged() { 1024 } else { row_tile.shape().warps * 2 * TILE_BYTES as u32 }
}

/// Bytes of a ring that holds one step of the work of a group of this rank.
pub(super) fn ring_slot(row_tile: RowTile, rank: u32) -> u32 {
    if row_tile.is_staged() { stage(row_tile, rank).slot_bytes } else { ring_unit(row_tile) }
}

/// How `lora_staged.cu` cuts its slices into stages and shares a stage among its warps.
pub(super) struct Stage {
    pub(super) slot_bytes: u32,
    /// Warps whose partial sums of a cell are added up.
    pub(super) k_warps: u32,
}

/// Bytes of the barriers before a ring of stages, and of what is read behind it. Warpgroups read matrices that begin at
/// multiples of 512, of 64 ranks and 32 rows whatever the adapter and the group have.
fn stage_barriers(row_tile: RowTile) -> u32 {
    if row_tile.is_added_up_whole() { 512 + 7 * CELL_BYTES as u32 } else { 256 }
}
/// Column tiles of a stage, at least.
const STAGE_TILES_MIN: u32 = 4;
/// Bytes of weights above which a stage has fewer tiles.
const STAGE_WEIGHTS_MAX: u32 = 32 << 10;

pub(super) fn stage(row_tile: RowTile, rank: u32) -> Stage {
    let (row_tiles, warps, tile) = (row_tile.tiles(), row_tile.shape().warps, TILE_BYTES as u32);
    let granules = layout::granules(rank);
    let mut tiles = 32 / row_tiles;
    while tiles > STAGE_TILES_MIN && tiles * granules * tile > STAGE_WEIGHTS_MAX {
        tiles /= 2;
    }
    let mut rank_warps = 1;
    while row_tile.shape().pairs * rank_warps < pairs(rank) && rank_warps < warps {
        rank_warps *= 2;
    }
    let rows_bytes = row_tiles * 8 * (tiles * 64 + 64);
    Stage { slot_bytes: rows_bytes + tiles * granules * tile, k_warps: warps / rank_warps }
}

/// Shared memory of the exchange: the warps' partial sums, and the members' where they are staged.
pub(super) fn exchange_bytes(row_tile: RowTile, rank: u32, cells: u32, members: u32, cluster: bool) -> u32 {
    // With a cluster, two barriers of 8 bytes follow; a ring of stages has its own.
    let barriers = if cluster { 16 } else { 0 } + if row_tile.is_staged() { stage_barriers(row_tile) } else { 0 };
    let shape = row_tile.shape();
    let k_warps = if row_tile.is_staged() {
        stage(row_tile, rank).k_warps
    } else {
        let mut splits = 1;
        while splits * shape.pairs < pairs(rank) {
            splits *= 2;
        }
        shape.warps / splits
    };
    let others = if takes_turns(row_tile, cells, members) {
        cells + if cluster { members * cells.div_ceil(members) } else { 0 }
    } else if members > 1 {
        members * cells
    } else {
        0
    };
    (k_warps * cells + others) * CELL_BYTES as u32 + barriers
}

/// Whether members own the cells in turn and exchange them in two hops, rather than every cell with everybody at once.
fn takes_turns(row_tile: RowTile, cells: u32, members: u32) -> bool {
    row_tile.is_staged() || cells >= CELLS_IN_TURNS || cells * members >= CELLS_OF_ALL_IN_TURNS
}

/// Inbox cells of a group whose members exchange through global memory.
pub(super) fn inbox_cells(row_tile: RowTile, cells: u32, members: u32) -> u32 {
    if takes_turns(row_tile, cells, members) {
        // One for each owned cell and writer, then one for each cell of v.
        members * (members * cells.div_ceil(members) + cells)
    } else {
        members * members * cells
    }
}
