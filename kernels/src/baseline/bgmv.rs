//! One block a (row, rank): the way of Punica's batched gather matrix-vector kernels.
//!
//! Rows of one adapter read it again each, from the L2 at best. Punica's originals are compiled for widths and ranks
//! (8 to 64, one rank a batch); these take any mix of ranks, blocks beyond a row's own leaving at once.

use std::sync::Arc;

use cudarc::driver::CudaStream;

use super::launch::{BaselineKernels, Grid, Operands, THREADS};
use super::layout::{GRANULE, RowMajorPlace};
use super::table::{Entries, Table};
use crate::Error;
use crate::gpu::Overlap;
use crate::lora::launch::{Intermediate, Matrix};

/// Columns of a thread of the expand.
const COLUMNS: u32 = 4;

/// The grid of the shrink of these entries, by row.
pub fn shrink_grid(entries: &Entries) -> Grid {
    let ranks = entries.stride_max();
    Grid { blocks: entries.entries().len() as u64 * u64::from(ranks), shared_bytes: 16, tiles: [ranks, 0, 0, 0] }
}

/// The grid of the expand to this many columns.
pub fn expand_grid(entries: &Entries, outputs: u32) -> Grid {
    let lanes = (entries.stride_max() / GRANULE).next_power_of_two();
    let tiles = outputs.div_ceil(COLUMNS * (THREADS / lanes));
    let blocks = entries.entries().len() as u64 * u64::from(tiles);
    Grid { blocks, shared_bytes: 0, tiles: [tiles, lanes, 0, 0] }
}

/// v = scale·x·A for each row of a table by row. v is zero from the rank to the adapter's stride; rows without an adapter
/// are not written.
///
/// # Errors
/// [`Error::Shape`] if the operands do not fit; [`Error::Driver`] if the launch is refused.
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
    let grid = shrink_grid(table.entries());
    let operands = Operands { table, place, x: Some(x), v: Some(v), y: None };
    // SAFETY: the caller's promise.
    unsafe { operands.launch(&kernels.bgmv_shrink, stream, grid, overlap) }
}

/// y += v·B for each row of a table by row.
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
    unsafe { operands.launch(&kernels.bgmv_expand, stream, grid, overlap) }
}
