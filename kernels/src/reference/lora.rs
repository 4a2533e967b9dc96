//! v = x·A and y += scale·(v·B) in float64, and how far the kernels may be from it.

use crate::Element;

/// One adapter's weights for one projection, row-major.
#[derive(Debug, Clone, Copy)]
pub struct Weights<'a> {
    /// A\[inputs\]\[rank\].
    pub a: &'a [f32],
    /// B\[rank\]\[outputs\].
    pub b: &'a [f32],
    /// Columns of A and rows of B.
    pub rank: usize,
}

/// v = x·A for rows of width `inputs`: \[rows\]\[rank\].
pub fn shrink(x: &[f32], inputs: usize, weights: Weights<'_>) -> Vec<f64> {
    let mut v = Vec::with_capacity(x.len() / inputs * weights.rank);
    for row in x.chunks_exact(inputs) {
        let mut sums = vec![0.0_f64; weights.rank];
        for (&value, ranks) in row.iter().zip(weights.a.chunks_exact(weights.rank)) {
            for (sum, &weight) in sums.iter_mut().zip(ranks) {
                *sum += f64::from(value) * f64::from(weight);
            }
        }
        v.extend(sums);
    }
    v
}

/// y + scale·(v·B) for rows of width `outputs`.
pub fn expand(y: &[f32], outputs: usize, v: &[f64], scale: f32, weights: Weights<'_>) -> Vec<f64> {
    let mut out = Vec::with_capacity(y.len());
    for (row, v_row) in y.chunks_exact(outputs).zip(v.chunks_exact(weights.rank)) {
        let mut delta = vec![0.0_f64; outputs];
        for (&value, columns) in v_row.iter().zip(weights.b.chunks_exact(outputs)) {
            for (sum, &weight) in delta.iter_mut().zip(columns) {
                *sum += value * f64::from(weight);
            }
        }
        out.extend(row.iter().zip(delta).map(|(&before, delta)| f64::from(before) + f64::from(scale) * delta));
    }
    out
}

/// How far from scale·v at most are the two 16-bit parts in which the expand multiplies it, of which y thereby gets
/// Σ |B_r| times as much over the ranks r, beside the rounding of fp32 sums and of y.
///
/// bf16: 2^-16 |scale·v|. fp16: the larger of 2^-22 |scale·v| and 2^-25, as far as 65,504; from there on
/// 2^-11 (|scale·v| - 65,504), at most 16; infinite from 131,024 on: there y becomes an infinity or NaN.
///
/// ```
/// use aril_kernels::{Element, reference::lora::split_error_max};
/// assert_eq!(split_error_max(Element::F16, 1.0), 2f64.powi(-22));
/// assert_eq!(split_error_max(Element::F16, 1e-5), 2f64.powi(-25));
/// assert_eq!(split_error_max(Element::F16, -131_024.0), f64::INFINITY);
/// assert_eq!(split_error_max(Element::Bf16, 131_072.0), 2.0);
/// ```
pub fn split_error_max(element: Element, scaled: f64) -> f64 {
    let (scaled, largest) = (scaled.abs(), 65_504.0);
    match element {
        Element::Bf16 => scaled * 2f64.powi(-16),
        Element::F16 if scaled <= largest => f64::max(scaled * 2f64.powi(-22), 2f64.powi(-25)),
        Element::F16 if scaled < 131_024.0 => (scaled - largest) * 2f64.powi(-11),
        Element::F16 => f64::INFINITY,
    }
}

/// W + scale·(A·B)ᵀ for W\[outputs\]\[inputs\].
pub fn merge(base: &[f32], inputs: usize, scale: f32, weights: Weights<'_>) -> Vec<f64> {
    let outputs = base.len() / inputs;
    let mut merged: Vec<f64> = base.iter().copied().map(f64::from).collect();
    for (output, line) in merged.chunks_exact_mut(inputs).enumerate() {
        for (value, ranks) in line.iter_mut().zip(weights.a.chunks_exact(weights.rank)) {
            let update: f64 = ranks
                .iter()
                .zip(weights.b[output..].iter().step_by(outputs))
                .map(|(&a, &b)| f64::from(a) * f64::from(b))
                .sum();
            *value += f64::from(scale) * update;
        }
    }
    merged
}

/// How far a result is from its reference.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Deviation {
    /// ‖result − reference‖ / ‖reference‖; NaN if the result holds one.
    pub relative_norm: f64,
    /// The largest absolute difference; NaN if the result holds one.
    pub element_max: f64,
}

impl Deviation {
    /// Compares a result with its reference, element by element.
    pub fn of(result: impl Iterator<Item = f64>, reference: &[f64]) -> Self {
        let (mut error, mut norm, mut element_max) = (0.0, 0.0, 0.0_f64);
        for (value, &expected) in result.zip(reference) {
            let difference = (value - expected).abs();
            error += difference * difference;
            norm += expected * expected;
            if difference > element_max || difference.is_nan() {
                element_max = difference;
            }
        }
        Deviation { relative_norm: (error / f64::max(norm, f64::MIN_POSITIVE)).sqrt(), element_max }
    }

    /// Whether both figures are below these bounds; false for NaN.
    pub fn within(self, relative_norm: f64, element: f64) -> bool {
        self.relative_norm < relative_norm && self.element_max < element
    }
}
