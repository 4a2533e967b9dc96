//! The weights of each row copied next to one another, then two batched GEMMs: gather + bmm.
//!
//! It moves each row's weights three times: read, written, read again by the GEMM.

use std::sync::Arc;

use cudarc::driver::CudaStream;

use super::launch::{BaselineKernels, Grid, Operands, THREADS, check_matrix, launch};
use super::layout::{GRANULE, RowMajorPlace};
use super::table::{Entries, Table};
use crate::Error;
use crate::cublas::{Cublas, Operand, Product};
use crate::gpu::Overlap;
use crate::lora::launch::Matrix;
use crate::lora::layout::ProjectionShape;

/// Vectors of 16 bytes that a thread copies.
const VECTORS: u32 = 8;

/// 16-bit elements of the gathered weights of these entries, by row.
pub fn elements(entries: &Entries, shape: ProjectionShape) -> usize {
    entries.entries().len() * row_elements(entries, shape) as usize
}

fn row_elements(entries: &Entries, shape: ProjectionShape) -> u64 {
    u64::from(entries.stride_max()) * (u64::from(shape.inputs) + u64::from(shape.outputs))
}

/// The grid of the gather of these entries, by row.
pub fn grid(entries: &Entries, shape: ProjectionShape) -> Grid {
    let pieces = (row_elements(entries, shape) / u64::from(GRANULE)).div_ceil(u64::from(VECTORS * THREADS));
    let blocks = entries.entries().len() as u64 * pieces;
    Grid { blocks, shared_bytes: 0, tiles: [pieces as u32, entries.stride_max(), 0, 0] }
}

/// y += scale·(x·A)·B for each row of a table by row, through `gathered`, [`elements`] long. All rows must have one scale;
/// rows without an adapter get zero weights. v is 16-bit and has room for the largest stride.
///
/// # Errors
/// [`Error::Shape`] if the operands do not fit or scales differ, [`Error::Blas`], [`Error::Driver`].
///
/// # Safety
/// The operands and the adapters must be live device memory of this GPU, laid out for `place`, none overlapping
/// another, and `cublas` must be on `stream`.
#[expect(clippy::too_many_arguments, reason = "two libraries, a stream and the operands of a pair")]
pub unsafe fn pair(
    kernels: &BaselineKernels,
    cublas: &mut Cublas,
    stream: &Arc<CudaStream>,
    table: &Table,
    place: RowMajorPlace,
    gathered: u64,
    x: Matrix,
    v: Matrix,
    y: Matrix,
) -> Result<(), Error> {
    let entries = table.entries();
    let (rows, ranks, shape) = (entries.rows_end(), entries.stride_max(), place.shape);
    let mut scales = entries.entries().iter().filter(|entry| entry.rows > 0).map(|entry| entry.scale);
    let scale = scales.next().unwrap_or(1.0);
    if let Some(other) = scales.find(|&other| other.to_bits() != scale.to_bits()) {
        return Err(Error::shape("gathered batch", format!("one GEMM has one scale, not {scale} and {other}")));
    }
    if gathered == 0 || !gathered.is_multiple_of(16) {
        return Err(Error::shape("gathered weights", format!("address {gathered:#x} is null or no multiple of 16")));
    }
    check_matrix("x", x, rows, shape.inputs)?;
    if v.columns < ranks {
        return Err(Error::shape("v", format!("has {} columns, the largest stride is {ranks}", v.columns)));
    }
    check_matrix("v", v, rows, v.columns)?;
    check_matrix("y", y, rows, shape.outputs)?;
    let grid = grid(entries, shape);
    let mut arguments = Operands { table, place, x: None, v: None, y: None }.arguments(stream, grid.tiles)?;
    arguments.y = gathered;
    let every = row_elements(entries, shape);
    let product = Product {
        element: kernels.element(),
        rows: 1,
        columns: ranks,
        depth: shape.inputs,
        a: Operand::plain(x.address, x.stride).every(u64::from(x.stride)),
        b: Operand::transposed(gathered, shape.inputs).every(every),
        c: Operand::plain(v.address, v.stride).every(u64::from(v.stride)),
        alpha: 1.0,
        beta: 0.0,
        batch: rows,
    };
    let b = gathered + 2 * u64::from(ranks) * u64::from(shape.inputs);
    let expand = Product {
        columns: shape.outputs,
        depth: ranks,
        a: product.c,
        b: Operand::transposed(b, ranks).every(every),
        c: Operand::plain(y.address, y.stride).every(u64::from(y.stride)),
        alpha: scale,
        beta: 1.0,
        ..product
    };
    // SAFETY: shapes were checked; the rest is the caller's promise.
    unsafe {
        launch(&kernels.gather_weights, stream, &arguments, grid, Overlap::None)?;
        cublas.multiply(&product)?;
        cublas.multiply(&expand)
    }
}
