//! The GEMM of few rows, `gemm.cu`: up to 64 rows, bound by the bytes of the weights.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::{CudaSlice, CudaStream, DevicePtr, result::memset_d8_async};

use super::{GemmShape, WeightOrder};
use crate::gpu::{Overlap, Ready};
use crate::lora::plan::Chip;
use crate::program::{Compiler, Grid, Kernel};
use crate::{Element, Error};

/// The most rows that the kernel serves.
pub const ROWS_MAX: u32 = 64;

const TILE_OUTPUTS: u32 = 128;
const STEP_INPUTS: u32 = 64;
const THREADS: u32 = 256;
/// Blocks that the inbox has room for, a multiprocessor.
const BLOCKS_EACH_MAX: u32 = 2;

/// The compiled form: a number format and tiles of 8 rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Variant {
    /// Number format.
    pub element: Element,
    /// Tiles of 8 rows: 1, 2, 4 or 8.
    pub tiles: u32,
    /// Steps in flight and in use, a block.
    pub stages: u32,
    /// Whether the L2 fetches two steps of a row of W at once.
    pub wide: bool,
}

/// Choices of a plan, for measuring what they are worth. `None` leaves a choice to the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tuning {
    /// Blocks at most; no more than find room at once.
    pub blocks: Option<u32>,
    /// Steps in flight and in use, a block.
    pub stages: Option<u32>,
    /// Whether the L2 fetches two steps of a row of W at once.
    pub wide: Option<bool>,
}

impl Variant {
    /// Every variant.
    pub fn all() -> impl Iterator<Item = Variant> {
        Element::ALL.into_iter().flat_map(|element| [1, 2, 4, 8].map(|tiles| Variant::new(element, tiles)))
    }

    fn new(element: Element, tiles: u32) -> Self {
        // More than half of a multiprocessor's shared memory: of two launches that overlap, no two blocks of one may
        // meet on a multiprocessor while another has none, since every block has the same share of the work: with one
        // stage fewer a whole step takes a sixth longer. What is left holds a block of adapters.
        let stages = match tiles {
            1 => 7,
            8 => 5,
            _ => 6,
        };
        Variant { element, tiles, stages, wide: true }
    }

    /// The smallest variant that holds so many rows.
    pub fn of(element: Element, rows: u32) -> Self {
        Variant::new(element, rows.div_ceil(8).next_power_of_two())
    }

    /// The definitions that select it.
    pub fn defines(self) -> Vec<(&'static str, String)> {
        vec![
            ("ELEMENT", self.element.device_name().to_owned()),
            ("NT", self.tiles.to_string()),
            ("STAGES", self.stages.to_string()),
            ("WIDE", u32::from(self.wide).to_string()),
        ]
    }

    /// Dynamic shared memory a block.
    pub fn shared_bytes(self) -> u32 {
        let stage = (TILE_OUTPUTS + 8 * self.tiles) * STEP_INPUTS * 2;
        self.stages * stage + self.tiles.min(2) * THREADS * 16
    }
}

/// How a shape's steps are shared among blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shares {
    /// Steps of one tile of outputs.
    pub tile_steps: u32,
    /// Steps of all tiles.
    pub total_steps: u32,
    /// Steps of one block.
    pub block_steps: u32,
    /// Blocks.
    pub blocks: u32,
}

impl Shares {
    /// Equal shares, one block a multiprocessor; the fewest blocks that are as quick.
    pub fn new(inputs: u32, outputs: u32, multiprocessors: u32) -> Self {
        let tile_steps = inputs.div_ceil(STEP_INPUTS);
        let total_steps = tile_steps * outputs.div_ceil(TILE_OUTPUTS);
        let block_steps = total_steps.div_ceil(multiprocessors).max(1);
        Shares { tile_steps, total_steps, block_steps, blocks: total_steps.div_ceil(block_steps) }
    }
}

/// The same layout as `Arguments` in `gemm.cu`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Arguments {
    weights: u64,
    x: u64,
    y: u64,
    inbox: u64,
    x_stride: u32,
    y_stride: u32,
    rows: u32,
    inputs: u32,
    outputs: u32,
    tile_steps: u32,
    total_steps: u32,
    block_steps: u32,
    ready: u64,
    mark: u32,
    reserved: u32,
}

/// The kernels of one GPU and the inbox through which blocks exchange sums. Launches that share it must be ordered.
#[derive(Debug)]
pub struct FewRows {
    compiler: Compiler,
    loaded: Mutex<HashMap<Variant, Kernel>>,
    inbox: CudaSlice<u8>,
}

/// One shape, ready to be launched.
#[derive(Debug, Clone)]
pub struct FewRowsPlan {
    shape: GemmShape,
    kernel: Kernel,
    shared_bytes: u32,
    shares: Shares,
}

impl FewRows {
    /// Kernels for the compiler's GPU; `stream` empties the inbox.
    ///
    /// # Errors
    /// Too little memory, or [`Error::Driver`].
    pub fn new(compiler: &Compiler, stream: &Arc<CudaStream>) -> Result<Self, Error> {
        let blocks = compiler.gpu().chip().multiprocessors * BLOCKS_EACH_MAX;
        let bytes = blocks as usize * 2 * 8 * THREADS as usize * 16;
        let inbox = compiler.gpu().allocate::<u8>(stream, bytes, "the inbox of small GEMMs")?;
        let (address, guard) = inbox.device_ptr(stream);
        // SAFETY: the allocation is that long; all ones is the kernel's EMPTY.
        unsafe { memset_d8_async(address, 0xff, bytes, stream.cu_stream()) }
            .map_err(Error::driver("emptying the inbox of small GEMMs"))?;
        drop(guard);
        Ok(FewRows { compiler: compiler.clone(), loaded: Mutex::default(), inbox })
    }

    /// A plan for a shape.
    ///
    /// # Errors
    /// [`Error::Shape`] if the kernel does not serve it; compiler errors.
    pub fn plan(&self, shape: GemmShape) -> Result<FewRowsPlan, Error> {
        self.plan_with(shape, Tuning::default())
    }

    /// The same with some choices made.
    ///
    /// # Errors
    /// As [`FewRows::plan`]; also for more blocks than the inbox has room for.
    pub fn plan_with(&self, shape: GemmShape, tuning: Tuning) -> Result<FewRowsPlan, Error> {
        check(shape)?;
        let mut variant = Variant::of(shape.element, shape.rows);
        variant.stages = tuning.stages.unwrap_or(variant.stages);
        // Older GPUs have less shared memory.
        while variant.shared_bytes() > self.compiler.gpu().chip().shared_bytes_block_max && variant.stages > 2 {
            variant.stages -= 1;
        }
        variant.wide = tuning.wide.unwrap_or(variant.wide);
        let multiprocessors = self.compiler.gpu().chip().multiprocessors;
        let blocks = tuning.blocks.unwrap_or(multiprocessors);
        if blocks > multiprocessors * BLOCKS_EACH_MAX {
            let why = format!("{blocks} blocks are more than {BLOCKS_EACH_MAX} a multiprocessor");
            return Err(Error::shape(format!("{shape:?}"), why));
        }
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let kernel = match loaded.get(&variant) {
            Some(kernel) => kernel.clone(),
            None => {
                let kernel = self.compiler.kernel("gemm.cu", variant.defines(), "gemm_few_rows")?;
                loaded.insert(variant, kernel.clone());
                kernel
            }
        };
        let shares = Shares::new(shape.inputs, shape.outputs, blocks);
        Ok(FewRowsPlan { shape, kernel, shared_bytes: variant.shared_bytes(), shares })
    }

    /// y = x·Wᵀ. Bitwise reproducible. `ready` becomes its mark when x is complete.
    ///
    /// # Errors
    /// [`Error::Shape`] for a misaligned address; [`Error::Driver`] if the launch is refused.
    ///
    /// # Safety
    /// The addresses must be live matrices of the plan's shape until the launch is complete, and no other launch may use
    /// this inbox until then, unless it is ordered after it. With [`Overlap::Programmatic`], see there: the weights are
    /// read early.
    #[expect(clippy::too_many_arguments, reason = "the operands of a GEMM, and whom it tells")]
    pub unsafe fn launch(
        &self,
        stream: &Arc<CudaStream>,
        plan: &FewRowsPlan,
        weights: u64,
        x: u64,
        y: u64,
        ready: Option<Ready>,
        overlap: Overlap,
    ) -> Result<(), Error> {
        for (what, address) in [("weights", weights), ("x", x), ("y", y)] {
            if address == 0 || !address.is_multiple_of(16) {
                return Err(Error::shape(what, format!("address {address:#x} is null or not a multiple of 16")));
            }
        }
        let FewRowsPlan { shape, shares, .. } = plan;
        let arguments = Arguments {
            weights,
            x,
            y,
            inbox: self.inbox.device_ptr(stream).0,
            x_stride: shape.x_stride,
            y_stride: shape.y_stride,
            rows: shape.rows,
            inputs: shape.inputs,
            outputs: shape.outputs,
            tile_steps: shares.tile_steps,
            total_steps: shares.total_steps,
            block_steps: shares.block_steps,
            ready: ready.map_or(0, |ready| ready.address),
            mark: ready.map_or(0, |ready| ready.mark),
            reserved: 0,
        };
        let grid = Grid { blocks: shares.blocks, threads: THREADS, shared_bytes: plan.shared_bytes };
        // SAFETY: the layout is the kernel's; the rest is the caller's promise.
        unsafe { plan.kernel.launch(stream, grid, &arguments, overlap) }
    }
}

/// Whether the kernel serves a shape.
fn check(shape: GemmShape) -> Result<(), Error> {
    let refuse = |why: String| Err(Error::shape(format!("{shape:?}"), why));
    if shape.rows == 0 || shape.rows > ROWS_MAX {
        return refuse(format!("rows must be 1 to {ROWS_MAX}"));
    }
    if shape.weights != WeightOrder::OutputsInputs {
        return refuse("weights must lie as [outputs][inputs]".to_owned());
    }
    let widths = [shape.inputs, shape.outputs, shape.x_stride, shape.y_stride];
    if widths.iter().any(|&width| width == 0 || width % 8 != 0) {
        return refuse("widths and strides must be positive multiples of 8".to_owned());
    }
    if shape.x_stride < shape.inputs || shape.y_stride < shape.outputs {
        return refuse("a stride is shorter than its row".to_owned());
    }
    Ok(())
}

impl FewRowsPlan {
    /// Shared memory that a block of another launch may have to find room beside each of this one's: of what a
    /// multiprocessor has, 1 KiB more than a block can ask for, the driver keeps 1 KiB a block.
    pub(crate) fn shared_bytes_left(&self, chip: Chip) -> u32 {
        chip.shared_bytes_block_max.saturating_sub(self.shared_bytes + 1024)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_cover_all_steps_and_fit_the_chip_at_once() {
        for (inputs, outputs) in [(4096, 4096), (4096, 12288), (11008, 4096), (4096, 22016), (8, 8), (200, 72)] {
            for multiprocessors in [1, 14, 132] {
                let shares = Shares::new(inputs, outputs, multiprocessors);
                assert!(shares.blocks <= multiprocessors, "{shares:?}");
                assert!(shares.blocks * shares.block_steps >= shares.total_steps, "{shares:?}");
                assert!((shares.blocks - 1) * shares.block_steps < shares.total_steps, "{shares:?}");
            }
        }
    }

    #[test]
    fn a_shape_that_the_kernel_does_not_serve_is_refused() {
        let good = GemmShape { x_stride: 80, y_stride: 48, ..GemmShape::dense(Element::Bf16, 64, 72, 40) };
        check(good).expect("64 rows, strides longer than rows");
        for bad in [
            GemmShape { rows: 0, ..good },
            GemmShape { rows: 65, ..good },
            GemmShape { weights: WeightOrder::InputsOutputs, ..good },
            GemmShape { inputs: 68, ..good },
            GemmShape { outputs: 36, ..good },
            GemmShape { outputs: 0, ..good },
            GemmShape { x_stride: 84, ..good },
            GemmShape { y_stride: 44, ..good },
            GemmShape { x_stride: 64, ..good },
            GemmShape { y_stride: 32, ..good },
        ] {
            assert!(matches!(check(bad), Err(Error::Shape { .. })), "{bad:?}");
        }
    }

    #[test]
    fn one_block_of_every_variant_fits_a_hopper_multiprocessor_and_two_do_not() {
        for variant in Variant::all() {
            let occupied = variant.shared_bytes() + 1024;
            assert!(occupied <= 233_472 && 2 * occupied > 233_472, "{variant:?}");
        }
    }
}
