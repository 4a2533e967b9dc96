//! One adapter added to the weights of the base model: no cost a step, but all rows use it, and a switch rewrites
//! every weight.
//!
//! The sum is rounded to the 16-bit format, so a merge and an unmerge leave the base weights changed by about one
//! rounding each; a system that switches often keeps a copy to return to.

use super::layout::{RowMajorPlace, stride};
use crate::cublas::{Cublas, Operand, Product};
use crate::lora::launch::Matrix;
use crate::lora::layout::check_rank;
use crate::{Element, Error};

/// W += scale·(A·B)ᵀ for one projection, W\[outputs\]\[inputs\] as checkpoints keep it: the rank-`rank` update of a GEMM with
/// beta = 1. Unmerges with the scale negated. `adapter`: its address, at the stride of its rank.
///
/// # Errors
/// [`Error::Shape`] if the weights do not have the projection's shape or the rank is not in 1..=256, [`Error::Blas`].
///
/// # Safety
/// The weights and the adapter must be live device memory of this GPU, laid out for `place`; nothing else uses the
/// weights meanwhile.
pub unsafe fn merge(
    cublas: &mut Cublas,
    element: Element,
    place: RowMajorPlace,
    weights: Matrix,
    adapter: u64,
    rank: u32,
    scale: f32,
) -> Result<(), Error> {
    check_rank(rank)?;
    let shape = place.shape;
    if (weights.rows, weights.columns) != (shape.outputs, shape.inputs) {
        let why =
            format!("are {}×{}, the projection's {}×{}", weights.rows, weights.columns, shape.outputs, shape.inputs);
        return Err(Error::shape("base weights", why));
    }
    let stored = stride(rank);
    let product = Product {
        element,
        rows: shape.outputs,
        columns: shape.inputs,
        depth: rank,
        a: Operand::plain(adapter + 2 * place.b_units * u64::from(stored), stored),
        b: Operand::plain(adapter + 2 * place.a_units * u64::from(stored), shape.inputs),
        c: Operand::plain(weights.address, weights.stride),
        alpha: scale,
        beta: 1.0,
        batch: 1,
    };
    // SAFETY: the caller's promise.
    unsafe { cublas.multiply(&product) }
}
