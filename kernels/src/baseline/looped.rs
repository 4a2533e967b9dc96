//! Two GEMMs an adapter, one adapter after the other: what a framework without a kernel for it does.

use super::launch::check_matrix;
use super::layout::{RowMajorPlace, stride};
use crate::cublas::{Cublas, Operand, Product};
use crate::lora::launch::Matrix;
use crate::lora::plan::Segment;
use crate::{Element, Error};

/// y += scale·(x·A)·B for each segment, v rounded to the 16-bit format in between; weights at the stride of their rank.
/// `v` has room for the largest rank.
///
/// # Errors
/// [`Error::Shape`] if the operands do not fit, [`Error::Blas`].
///
/// # Safety
/// The matrices and the adapters must be live device memory of this GPU, laid out for `place`, none overlapping another.
pub unsafe fn pair(
    cublas: &mut Cublas,
    element: Element,
    place: RowMajorPlace,
    segments: &[Segment],
    x: Matrix,
    v: Matrix,
    y: Matrix,
) -> Result<(), Error> {
    for segment in segments {
        // SAFETY: the caller's promise.
        unsafe {
            shrink(cublas, element, place, segment, x, v)?;
            expand(cublas, element, place, segment, v, y)?;
        }
    }
    Ok(())
}

/// v = x·A for one segment.
///
/// # Errors
/// As [`pair`].
///
/// # Safety
/// As [`pair`].
pub unsafe fn shrink(
    cublas: &mut Cublas,
    element: Element,
    place: RowMajorPlace,
    segment: &Segment,
    x: Matrix,
    v: Matrix,
) -> Result<(), Error> {
    let inputs = place.shape.inputs;
    check_matrix("x", x, segment.rows.end, inputs)?;
    check_intermediate(segment, v)?;
    let stored = u64::from(stride(segment.rank));
    let product = Product {
        element,
        rows: segment.rows.end - segment.rows.start,
        columns: segment.rank,
        depth: inputs,
        a: Operand::plain(row(x, segment), x.stride),
        b: Operand::transposed(segment.weights + 2 * place.a_units * stored, inputs),
        c: Operand::plain(row(v, segment), v.stride),
        alpha: 1.0,
        beta: 0.0,
        batch: 1,
    };
    // SAFETY: the caller's promise.
    unsafe { cublas.multiply(&product) }
}

/// y += scale·v·B for one segment.
///
/// # Errors
/// As [`pair`].
///
/// # Safety
/// As [`pair`].
pub unsafe fn expand(
    cublas: &mut Cublas,
    element: Element,
    place: RowMajorPlace,
    segment: &Segment,
    v: Matrix,
    y: Matrix,
) -> Result<(), Error> {
    let outputs = place.shape.outputs;
    check_matrix("y", y, segment.rows.end, outputs)?;
    check_intermediate(segment, v)?;
    let stored = stride(segment.rank);
    let product = Product {
        element,
        rows: segment.rows.end - segment.rows.start,
        columns: outputs,
        depth: segment.rank,
        a: Operand::plain(row(v, segment), v.stride),
        b: Operand::transposed(segment.weights + 2 * place.b_units * u64::from(stored), stored),
        c: Operand::plain(row(y, segment), y.stride),
        alpha: segment.scale,
        beta: 1.0,
        batch: 1,
    };
    // SAFETY: the caller's promise.
    unsafe { cublas.multiply(&product) }
}

fn check_intermediate(segment: &Segment, v: Matrix) -> Result<(), Error> {
    if v.columns < segment.rank {
        return Err(Error::shape("v", format!("has {} columns, an adapter has rank {}", v.columns, segment.rank)));
    }
    check_matrix("v", v, segment.rows.end, v.columns)
}

fn row(matrix: Matrix, segment: &Segment) -> u64 {
    matrix.address + 2 * u64::from(segment.rows.start) * u64::from(matrix.stride)
}
