//! One adapter added to the weights of the base model: no cost a step, but all rows use it, and a switch rewrites
//! every weight.
//!
//! The sum is rounded to the 16-bit format, so a merge and an unmerge leave the base weights changed by about one
//! rounding each; a system that switches often keeps a copy to return to.
//!
//! The kernel is the quicker one at small ranks, the GEMM at large ones; `measurements/prices-h100.md` says by how much.

use std::sync::Arc;

use cudarc::driver::CudaStream;

use super::launch::check_matrix;
use super::layout::{RowMajorPlace, stride};
use crate::compile::Unit;
use crate::cublas::{Cublas, Operand, Product};
use crate::gpu::Overlap;
use crate::lora::launch::Matrix;
use crate::lora::layout::{ProjectionShape, check_rank};
use crate::program::{Compiler, Grid, Kernel};
use crate::{Element, Error};

/// Threads a block.
pub const THREADS: u32 = 256;
/// Outputs and inputs of a block.
const TILE: u32 = 128;

/// The compiled kernel of one number format.
#[derive(Debug)]
pub struct MergeKernel {
    element: Element,
    kernel: Kernel,
}

/// The same layout as `MergeArguments` in `merge.cu`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Arguments {
    weights: u64,
    a: u64,
    b: u64,
    w_stride: u32,
    inputs: u32,
    outputs: u32,
    ranks: u32,
    input_tiles: u32,
    scale: f32,
}

/// What to compile for one number format and architecture (`sm_80`, `sm_90a`, …).
pub fn unit(element: Element, architecture: &str) -> Unit {
    let defines = vec![("ELEMENT", element.device_name().to_owned())];
    Unit { source: "merge.cu", architecture: architecture.to_owned(), defines }
}

/// Blocks and shared memory of a merge.
pub fn grid(shape: ProjectionShape, rank: u32) -> Grid {
    Grid {
        blocks: shape.inputs.div_ceil(TILE) * shape.outputs.div_ceil(TILE),
        threads: THREADS,
        shared_bytes: rank.next_multiple_of(16) * (TILE + 8) * 2,
    }
}

impl MergeKernel {
    /// Compiles and loads the kernel.
    ///
    /// # Errors
    /// Compiler and driver errors.
    pub fn new(compiler: &Compiler, element: Element) -> Result<Self, Error> {
        let unit = unit(element, compiler.architecture());
        Ok(MergeKernel { element, kernel: compiler.kernel(unit.source, unit.defines, "merge_adapter")? })
    }

    /// The number format.
    pub fn element(&self) -> Element {
        self.element
    }

    /// W += scale·(A·B)ᵀ for one projection, W\[outputs\]\[inputs\] as checkpoints keep it; with the scale negated, takes the
    /// adapter out again. `adapter`: its address, at the stride of its rank.
    ///
    /// # Errors
    /// [`Error::Shape`] if the weights do not have the projection's shape or the rank is not in 1..=256,
    /// [`Error::Driver`] if the launch is refused.
    ///
    /// # Safety
    /// The weights and the adapter must be live device memory of this GPU, laid out for `place`; nothing else uses the
    /// weights meanwhile.
    #[expect(clippy::too_many_arguments, reason = "where, what and how much of it")]
    pub unsafe fn merge(
        &self,
        stream: &Arc<CudaStream>,
        place: RowMajorPlace,
        weights: Matrix,
        adapter: u64,
        rank: u32,
        scale: f32,
        overlap: Overlap,
    ) -> Result<(), Error> {
        check(place, weights, adapter, rank)?;
        let (shape, ranks) = (place.shape, stride(rank));
        let arguments = Arguments {
            weights: weights.address,
            a: adapter + 2 * place.a_units * u64::from(ranks),
            b: adapter + 2 * place.b_units * u64::from(ranks),
            w_stride: weights.stride,
            inputs: shape.inputs,
            outputs: shape.outputs,
            ranks,
            input_tiles: shape.inputs.div_ceil(TILE),
            scale,
        };
        // SAFETY: shapes were checked; the rest is the caller's promise.
        unsafe { self.kernel.launch(stream, grid(shape, rank), &arguments, overlap) }
    }
}

/// The same by a GEMM of depth `rank` with beta = 1.
///
/// # Errors
/// As [`MergeKernel::merge`], [`Error::Blas`].
///
/// # Safety
/// As [`MergeKernel::merge`].
pub unsafe fn merge(
    cublas: &mut Cublas,
    element: Element,
    place: RowMajorPlace,
    weights: Matrix,
    adapter: u64,
    rank: u32,
    scale: f32,
) -> Result<(), Error> {
    check(place, weights, adapter, rank)?;
    let (shape, ranks) = (place.shape, stride(rank));
    let product = Product {
        element,
        rows: shape.outputs,
        columns: shape.inputs,
        depth: rank,
        a: Operand::plain(adapter + 2 * place.b_units * u64::from(ranks), ranks),
        b: Operand::plain(adapter + 2 * place.a_units * u64::from(ranks), shape.inputs),
        c: Operand::plain(weights.address, weights.stride),
        alpha: scale,
        beta: 1.0,
        batch: 1,
    };
    // SAFETY: the caller's promise.
    unsafe { cublas.multiply(&product) }
}

fn check(place: RowMajorPlace, weights: Matrix, adapter: u64, rank: u32) -> Result<(), Error> {
    check_rank(rank)?;
    place.shape.check()?;
    if weights.rows != place.shape.outputs {
        let why = format!("have {} rows, the projection {} outputs", weights.rows, place.shape.outputs);
        return Err(Error::shape("base weights", why));
    }
    if adapter == 0 || !adapter.is_multiple_of(16) {
        return Err(Error::shape("adapter", format!("address {adapter:#x} is null or no multiple of 16")));
    }
    check_matrix("base weights", weights, place.shape.outputs, place.shape.inputs)
}
