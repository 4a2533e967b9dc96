//! The kernels of `baseline.cu`, compiled, and what a launch of them is given.

use std::sync::Arc;

use cudarc::driver::CudaStream;

use super::layout::RowMajorPlace;
use super::table::{Entries, Table};
use crate::compile::Unit;
use crate::gpu::Overlap;
use crate::lora::launch::{Intermediate, Matrix};
use crate::program::{self, Compiler, Kernel};
use crate::{Element, Error};

/// The compiled kernels of one number format.
#[derive(Debug)]
pub struct BaselineKernels {
    element: Element,
    pub(super) bgmv_shrink: Kernel,
    pub(super) bgmv_expand: Kernel,
    pub(super) zero_v: Kernel,
    pub(super) padded_shrink: Kernel,
    pub(super) padded_expand: Kernel,
    pub(super) gather_weights: Kernel,
}

/// Threads a block, of every kernel.
pub const THREADS: u32 = 128;

/// The same layout as `Arguments` in `baseline.cu`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Arguments {
    pub(super) segments: u64,
    pub(super) x: u64,
    pub(super) y: u64,
    pub(super) v: u64,
    pub(super) a_units: u64,
    pub(super) b_units: u64,
    pub(super) x_stride: u32,
    pub(super) y_stride: u32,
    pub(super) v_stride: u32,
    pub(super) inputs: u32,
    pub(super) outputs: u32,
    pub(super) tiles: [u32; 4],
}

/// What to compile for one number format and architecture (`sm_80`, `sm_90a`, …).
pub fn unit(element: Element, architecture: &str) -> Unit {
    let defines = vec![("ELEMENT", element.device_name().to_owned())];
    Unit { source: "baseline.cu", architecture: architecture.to_owned(), defines }
}

impl BaselineKernels {
    /// Compiles and loads the kernels.
    ///
    /// # Errors
    /// Compiler and driver errors.
    pub fn new(compiler: &Compiler, element: Element) -> Result<Self, Error> {
        let kernel = |name: &'static str| {
            let unit = unit(element, compiler.architecture());
            compiler.kernel(unit.source, unit.defines, name)
        };
        Ok(BaselineKernels {
            element,
            bgmv_shrink: kernel("bgmv_shrink")?,
            bgmv_expand: kernel("bgmv_expand")?,
            zero_v: kernel("zero_v")?,
            padded_shrink: kernel("padded_shrink")?,
            padded_expand: kernel("padded_expand")?,
            gather_weights: kernel("gather_weights")?,
        })
    }

    /// The number format.
    pub fn element(&self) -> Element {
        self.element
    }
}

/// # Safety
/// The arguments must describe live device memory of the shapes that were checked.
pub(super) unsafe fn launch(
    kernel: &Kernel,
    stream: &Arc<CudaStream>,
    arguments: &Arguments,
    grid: Grid,
    overlap: Overlap,
) -> Result<(), Error> {
    let blocks = u32::try_from(grid.blocks)
        .ok()
        .filter(|&blocks| blocks <= i32::MAX as u32)
        .ok_or_else(|| Error::shape("grid", format!("{} blocks are more than a launch can have", grid.blocks)))?;
    let grid = program::Grid { blocks, threads: THREADS, shared_bytes: grid.shared_bytes };
    // SAFETY: the kernels take one parameter of this layout; the rest is the caller's promise.
    unsafe { kernel.launch(stream, grid, arguments, overlap) }
}

/// Blocks of a launch and the shared memory of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    /// Blocks.
    pub blocks: u64,
    /// Dynamic shared memory of a block.
    pub shared_bytes: u32,
    /// How the kernel takes the block index apart: `tiles` of its arguments.
    pub tiles: [u32; 4],
}

/// What a launch is given beside the table: the projection, x, v and y; a kernel checks those that it uses.
pub(super) struct Operands<'a> {
    pub(super) table: &'a Table,
    pub(super) place: RowMajorPlace,
    pub(super) x: Option<Matrix>,
    pub(super) v: Option<Intermediate>,
    pub(super) y: Option<Matrix>,
}

impl Operands<'_> {
    /// Checks the operands and launches a kernel on them.
    ///
    /// # Safety
    /// The operands and the adapters must be live device memory of this GPU, laid out for `place`.
    pub(super) unsafe fn launch(
        &self,
        kernel: &Kernel,
        stream: &Arc<CudaStream>,
        grid: Grid,
        overlap: Overlap,
    ) -> Result<(), Error> {
        let arguments = self.arguments(stream, grid.tiles)?;
        // SAFETY: shapes were checked; the rest is the caller's promise.
        unsafe { launch(kernel, stream, &arguments, grid, overlap) }
    }

    pub(super) fn arguments(&self, stream: &Arc<CudaStream>, tiles: [u32; 4]) -> Result<Arguments, Error> {
        let Operands { table, place, x, v, y } = *self;
        let arguments = arguments(table.entries(), place, x, v, y)?;
        Ok(Arguments { segments: table.address(stream), tiles, ..arguments })
    }
}

/// The arguments of a launch on these entries, but for what only the launch knows.
fn arguments(
    entries: &Entries,
    place: RowMajorPlace,
    x: Option<Matrix>,
    v: Option<Intermediate>,
    y: Option<Matrix>,
) -> Result<Arguments, Error> {
    let shape = place.shape;
    shape.check()?;
    let mut arguments = Arguments {
        a_units: place.a_units,
        b_units: place.b_units,
        inputs: shape.inputs,
        outputs: shape.outputs,
        ..Arguments::default()
    };
    if let Some(x) = x {
        check_matrix("x", x, entries.rows_end(), shape.inputs)?;
        (arguments.x, arguments.x_stride) = (x.address, x.stride);
    }
    if let Some(y) = y {
        check_matrix("y", y, entries.rows_end(), shape.outputs)?;
        (arguments.y, arguments.y_stride) = (y.address, y.stride);
    }
    if let Some(v) = v {
        let aligned = v.address != 0 && v.address.is_multiple_of(16) && v.stride.is_multiple_of(4);
        if v.rows < entries.rows_end() || v.stride < entries.stride_max() || !aligned {
            let why = format!(
                "is {} rows × {} at {:#x}; {} rows of {} are needed, rows at multiples of 16 bytes",
                v.rows,
                v.stride,
                v.address,
                entries.rows_end(),
                entries.stride_max()
            );
            return Err(Error::shape("v", why));
        }
        (arguments.v, arguments.v_stride) = (v.address, v.stride);
    }
    Ok(arguments)
}

pub(super) fn check_matrix(what: &str, matrix: Matrix, rows: u32, columns: u32) -> Result<(), Error> {
    let why = if matrix.columns != columns {
        format!("has {} columns, the projection {columns}", matrix.columns)
    } else if matrix.rows < rows {
        format!("has {} rows, the batch {rows}", matrix.rows)
    } else if matrix.stride < matrix.columns || !matrix.stride.is_multiple_of(8) {
        format!("has a stride of {}; it must be a multiple of 8 and at least {}", matrix.stride, matrix.columns)
    } else if matrix.address == 0 || !matrix.address.is_multiple_of(16) {
        format!("address {:#x} is null or not a multiple of 16", matrix.address)
    } else {
        return Ok(());
    };
    Err(Error::shape(what, why))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lora::layout::ProjectionShape;
    use crate::lora::plan::Segment;

    #[test]
    fn operands_that_cannot_hold_the_batch_are_refused() {
        let segment = Segment { rows: 1..4, weights: 4096, rank: 12, scale: 1.0 };
        let entries = Entries::by_row(&[segment], 5).expect("a valid batch");
        let place = RowMajorPlace { shape: ProjectionShape { inputs: 64, outputs: 32 }, a_units: 3, b_units: 67 };
        let x = Matrix { address: 4096, rows: 5, columns: 64, stride: 72 };
        let y = Matrix { address: 8192, rows: 5, columns: 32, stride: 32 };
        let v = Intermediate { address: 16, rows: 5, stride: 16 };
        let check = |x, v, y| arguments(&entries, place, Some(x), Some(v), Some(y));
        let given = check(x, v, y).expect("they fit");
        assert_eq!((given.x, given.x_stride, given.y, given.y_stride), (4096, 72, 8192, 32));
        assert_eq!((given.v, given.v_stride, given.a_units, given.b_units), (16, 16, 3, 67));
        let refused = |x, v, y, what: &str| {
            let error = check(x, v, y).expect_err(what);
            assert!(matches!(&error, Error::Shape { what: of, .. } if of == &what[..1]), "{what}: {error}");
        };
        refused(Matrix { rows: 4, ..x }, v, y, "x has too few rows");
        refused(Matrix { columns: 56, ..x }, v, y, "x has too few columns");
        refused(Matrix { stride: 56, ..x }, v, y, "x has rows that overlap");
        refused(Matrix { stride: 68, ..x }, v, y, "x has misaligned rows");
        refused(Matrix { address: 8, ..x }, v, y, "x is misaligned");
        refused(Matrix { address: 0, ..x }, v, y, "x is null");
        refused(x, v, Matrix { rows: 4, ..y }, "y has too few rows");
        refused(x, v, Matrix { columns: 64, stride: 64, ..y }, "y has too many columns");
        refused(x, Intermediate { rows: 4, ..v }, y, "v has too few rows");
        refused(x, Intermediate { stride: 12, ..v }, y, "v has rows of less than the largest stride");
        refused(x, Intermediate { stride: 18, ..v }, y, "v has misaligned rows");
        refused(x, Intermediate { address: 0, ..v }, y, "v is null");
        refused(x, Intermediate { address: 8, ..v }, y, "v is misaligned");
        let narrow = RowMajorPlace { shape: ProjectionShape { inputs: 60, outputs: 32 }, ..place };
        assert!(arguments(&entries, narrow, None, None, None).is_err(), "a width that is no multiple of 8");
    }
}
