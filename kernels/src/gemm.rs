//! y = x·Wᵀ on a GPU, planned once for a shape.
//!
//! Two ways: [`cublaslt`], whose algorithm is chosen by timing candidates on cold weights, and [`few_rows`], a kernel of
//! this crate for the rows of a decode step, which loads weights before the preceding kernel is finished. A plan holds
//! everything; a call allocates nothing, waits for nothing and can be captured.

use crate::Element;

pub mod cublaslt;
pub mod few_rows;

/// The shape of y\[rows\]\[outputs\] = x\[rows\]\[inputs\] · W, all row-major and 16-bit; sums in fp32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GemmShape {
    /// Number format of x, W and y.
    pub element: Element,
    /// Rows of x and y.
    pub rows: u32,
    /// Columns of x.
    pub inputs: u32,
    /// Columns of y.
    pub outputs: u32,
    /// How W lies in memory.
    pub weights: WeightOrder,
    /// Elements from one row of x to the next.
    pub x_stride: u32,
    /// Elements from one row of y to the next.
    pub y_stride: u32,
}

/// How a weight matrix lies in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WeightOrder {
    /// \[outputs\]\[inputs\], as the layers of a checkpoint.
    OutputsInputs,
    /// \[inputs\]\[outputs\], as A and B of an adapter in this crate's references.
    InputsOutputs,
}

impl GemmShape {
    /// Dense x and y, W as in a checkpoint.
    pub fn dense(element: Element, rows: u32, inputs: u32, outputs: u32) -> Self {
        let weights = WeightOrder::OutputsInputs;
        GemmShape { element, rows, inputs, outputs, weights, x_stride: inputs, y_stride: outputs }
    }

    /// The fewest bytes that it moves.
    pub fn bytes(&self) -> u64 {
        let (rows, inputs, outputs) = (u64::from(self.rows), u64::from(self.inputs), u64::from(self.outputs));
        2 * (inputs * outputs + rows * (inputs + outputs))
    }
}
