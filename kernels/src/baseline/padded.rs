//! Every adapter padded to the largest rank: the way of vLLM's Triton kernels.
//!
//! The grid has a slot for each adapter and each row tile of the *whole* batch, so that a captured launch serves any
//! split of the rows among the adapters; slots without rows leave after one look. The shrink splits the inputs and
//! adds the parts atomically into a v that was zeroed, so its sums are in no fixed order. Tile sizes and splits are
//! vLLM's defaults.

use std::sync::Arc;

use cudarc::driver::CudaStream;

use super::launch::{BaselineKernels, Grid, Operands, THREADS};
use super::layout::RowMajorPlace;
use super::table::{Entries, Table};
use crate::Error;
use crate::gpu::Overlap;
use crate::lora::launch::{Intermediate, Matrix};

const SHRINK_ROWS: u32 = 32;
const SHRINK_RANKS: u32 = 16;
const EXPAND_ROWS: u32 = 64;
const EXPAND_COLUMNS: u32 = 128;
/// Inputs of a tile of the shrink.
const TILE: u32 = 32;
/// Input tiles of a split while the batch has fewer than [`ROWS_MANY`] rows, and the most splits then.
const SPLIT_TILES: u32 = 8;
const SPLITS_MAX: u32 = 64;
/// Rows from which on the inputs are split in [`SPLITS_OF_MANY`].
const ROWS_MANY: u32 = 128;
const SPLITS_OF_MANY: u32 = 8;

/// The grid of the shrink of these entries, by adapter.
pub fn shrink_grid(entries: &Entries, inputs: u32) -> Grid {
    let tiles = inputs.div_ceil(TILE);
    let splits = if entries.rows_end() < ROWS_MANY { SPLITS_MAX } else { SPLITS_OF_MANY };
    let split_tiles = tiles.div_ceil(splits).max(SPLIT_TILES);
    let splits = tiles.div_ceil(split_tiles);
    let row_tiles = entries.rows_end().div_ceil(SHRINK_ROWS);
    let rank_tiles = entries.stride_max().div_ceil(SHRINK_RANKS);
    let slots = entries.entries().len() as u64 * u64::from(row_tiles);
    Grid {
        blocks: slots * u64::from(rank_tiles) * u64::from(splits),
        shared_bytes: 4 * SHRINK_ROWS * SHRINK_RANKS * 4,
        tiles: [splits, split_tiles, row_tiles, rank_tiles],
    }
}

/// The grid of the expand to this many columns.
pub fn expand_grid(entries: &Entries, outputs: u32) -> Grid {
    let (tiles, row_tiles) = (outputs.div_ceil(EXPAND_COLUMNS), entries.rows_end().div_ceil(EXPAND_ROWS));
    let slots = entries.entries().len() as u64 * u64::from(row_tiles);
    Grid { blocks: slots * u64::from(tiles), shared_bytes: 0, tiles: [tiles, 0, row_tiles, 0] }
}

/// The grid that zeroes v.
pub fn zero_grid(entries: &Entries, v_stride: u32) -> Grid {
    let vectors = entries.rows_end() * v_stride / 4;
    Grid { blocks: u64::from(vectors.div_ceil(THREADS)), shared_bytes: 0, tiles: [vectors, 0, 0, 0] }
}

/// v = scale·x·A for each entry of a table by adapter, in two launches: all of v\[rows\]\[stride\] is zeroed first.
///
/// # Errors
/// [`Error::Shape`] if the operands do not fit; [`Error::Driver`] if a launch is refused.
///
/// # Safety
/// The operands and the adapters must be live device memory of this GPU, laid out for `place`; v overlaps no other.
pub unsafe fn shrink(
    kernels: &BaselineKernels,
    stream: &Arc<CudaStream>,
    table: &Table,
    place: RowMajorPlace,
    x: Matrix,
    v: Intermediate,
    overlap: Overlap,
) -> Result<(), Error> {
    let operands = Operands { table, place, x: Some(x), v: Some(v), y: None };
    let zero = zero_grid(table.entries(), v.stride);
    let grid = shrink_grid(table.entries(), place.shape.inputs);
    // SAFETY: the caller's promise.
    unsafe {
        operands.launch(&kernels.zero_v, stream, zero, overlap)?;
        operands.launch(&kernels.padded_shrink, stream, grid, overlap)
    }
}

/// y += v·B for each entry of a table by adapter.
///
/// # Errors
/// As [`shrink`].
///
/// # Safety
/// As [`shrink`]; y overlaps no other operand.
pub unsafe fn expand(
    kernels: &BaselineKernels,
    stream: &Arc<CudaStream>,
    table: &Table,
    place: RowMajorPlace,
    v: Intermediate,
    y: Matrix,
    overlap: Overlap,
) -> Result<(), Error> {
    let grid = expand_grid(table.entries(), place.shape.outputs);
    let operands = Operands { table, place, x: None, v: Some(v), y: Some(y) };
    // SAFETY: the caller's promise.
    unsafe { operands.launch(&kernels.padded_expand, stream, grid, overlap) }
}
