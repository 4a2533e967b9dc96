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
/// Blocks that the inbox and the registers have room for, a multiprocessor.
const BLOCKS_EACH_MAX: u32 = 2;
/// One step that is read and one that is filled.
const STAGES_MIN: u32 = 2;

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
    /// Blocks at most, one or more; no more than find room at once.
    pub blocks: Option<u32>,
    /// Steps in flight and in use, a block: two or more, fewer where a block has no room for them.
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
        self.stages * self.stage_bytes() + self.exchange_bytes()
    }

    fn stage_bytes(self) -> u32 {
        (TILE_OUTPUTS + 8 * self.tiles) * STEP_INPUTS * 2
    }

    fn exchange_bytes(self) -> u32 {
        self.tiles.min(2) * THREADS * 16
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
    /// Equal shares for so many blocks at most; the fewest blocks that are as quick.
    ///
    /// # Errors
    /// [`Error::Shape`] for no blocks, or more steps than the kernel can count.
    pub fn new(inputs: u32, outputs: u32, blocks_max: u32) -> Result<Self, Error> {
        let refuse = |why: String| Err(Error::shape(format!("shares of {inputs}→{outputs}"), why));
        if blocks_max == 0 {
            return refuse("there must be a block".to_owned());
        }
        let tile_steps = inputs.div_ceil(STEP_INPUTS);
        // The kernel adds a share to its end.
        let total_steps = match tile_steps.checked_mul(outputs.div_ceil(TILE_OUTPUTS)) {
            Some(steps) if steps <= u32::MAX / 2 => steps,
            _ => return refuse(format!("has more than {} steps of {TILE_OUTPUTS}×{STEP_INPUTS}", u32::MAX / 2)),
        };
        let block_steps = total_steps.div_ceil(blocks_max).max(1);
        Ok(Shares { tile_steps, total_steps, block_steps, blocks: total_steps.div_ceil(block_steps) })
    }
}

/// The form and the shares of a shape on a chip.
fn choose(shape: GemmShape, tuning: Tuning, chip: Chip) -> Result<(Variant, Shares), Error> {
    chip.check()?;
    let refuse = |why: String| Err(Error::shape(format!("{shape:?}"), why));
    let mut variant = Variant::of(shape.element, shape.rows);
    variant.wide = tuning.wide.unwrap_or(variant.wide);
    let wanted = tuning.stages.unwrap_or(variant.stages);
    // Older GPUs have less shared memory.
    let room = chip.shared_bytes_block_max.saturating_sub(variant.exchange_bytes()) / variant.stage_bytes();
    variant.stages = wanted.min(room);
    if variant.stages < STAGES_MIN {
        let why =
            format!("{wanted} stages, of which {room} find room in a block's shared memory; {STAGES_MIN} at least");
        return refuse(why);
    }
    // Blocks wait for one another, so all of them must find room at once. One occupies 1 KiB beyond what it asks for, and a
    // multiprocessor has that much more than a block may have.
    let fit = (chip.shared_bytes_block_max + 1024) / (variant.shared_bytes() + 1024);
    let blocks_max = chip.multiprocessors * fit.min(BLOCKS_EACH_MAX);
    let blocks = tuning.blocks.unwrap_or(chip.multiprocessors);
    if blocks > blocks_max {
        return refuse(format!("{blocks} blocks; {blocks_max} of {} stages find room at once", variant.stages));
    }
    Ok((variant, Shares::new(shape.inputs, shape.outputs, blocks)?))
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
    /// [`Error::Shape`] if the kernel does not serve it, or the GPU has too little shared memory; compiler errors.
    pub fn plan(&self, shape: GemmShape) -> Result<FewRowsPlan, Error> {
        self.plan_with(shape, Tuning::default())
    }

    /// The same with some choices made.
    ///
    /// # Errors
    /// As [`FewRows::plan`]; also for no blocks, for more than find room at once, and for fewer than two stages.
    pub fn plan_with(&self, shape: GemmShape, tuning: Tuning) -> Result<FewRowsPlan, Error> {
        check(shape)?;
        let (variant, shares) = choose(shape, tuning, self.compiler.gpu().chip())?;
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let kernel = match loaded.get(&variant) {
            Some(kernel) => kernel.clone(),
            None => {
                let kernel = self.compiler.kernel("gemm.cu", variant.defines(), "gemm_few_rows")?;
                loaded.insert(variant, kernel.clone());
                kernel
            }
        };
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

    const CHIP: Chip = Chip { multiprocessors: 132, shared_bytes_block_max: 232_448, cluster_max: 16 };

    #[test]
    fn shares_cover_all_steps_and_fit_the_chip_at_once() {
        for (inputs, outputs) in [(4096, 4096), (4096, 12288), (11008, 4096), (4096, 22016), (8, 8), (200, 72)] {
            for multiprocessors in [1, 14, 132] {
                let shares = Shares::new(inputs, outputs, multiprocessors).expect("few steps");
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
    fn no_blocks_and_more_steps_than_can_be_counted_are_refused() {
        for (inputs, outputs, blocks) in [(4096, 4096, 0), (u32::MAX, u32::MAX, 132), (1 << 22, 1 << 22, 132)] {
            let shares = Shares::new(inputs, outputs, blocks);
            assert!(matches!(shares, Err(Error::Shape { .. })), "{inputs}→{outputs}: {shares:?}");
        }
        // One step fewer in each tile.
        let most = Shares::new((1 << 22) - 64, 1 << 22, u32::MAX).expect("as many as can be counted");
        assert_eq!((most.total_steps, most.block_steps), ((1 << 31) - (1 << 15), 1));
    }

    #[test]
    fn a_plan_has_no_more_blocks_than_find_room_at_once() {
        for rows in [1, 16, 32, 64] {
            // Few outputs and many inputs: every block of a tile waits for all others.
            let shape = GemmShape::dense(Element::Bf16, rows, 1 << 20, 128);
            let blocks = |blocks, stages| {
                let tuning = Tuning { blocks, stages, wide: None };
                choose(shape, tuning, CHIP).map(|(_, shares)| shares.blocks)
            };
            assert_eq!(blocks(None, None).expect("one a multiprocessor"), 132);
            assert_eq!(blocks(Some(7), None).expect("a few"), 7);
            // Of the usual stages one block fits a multiprocessor, of four two.
            for (count, stages) in
                [(Some(0), None), (Some(133), None), (Some(264), None), (Some(265), Some(4)), (Some(u32::MAX), Some(2))]
            {
                let found = blocks(count, stages);
                assert!(matches!(found, Err(Error::Shape { .. })), "{count:?} of {stages:?}: {found:?}");
            }
            assert!(blocks(Some(264), Some(4)).expect("two a multiprocessor") > 132);
        }
    }

    #[test]
    fn stages_fit_the_chip_and_are_two_at_least() {
        for variant in Variant::all() {
            let shape = GemmShape::dense(variant.element, 8 * variant.tiles, 4096, 4096);
            let on = |shared_bytes_block_max, stages| {
                let chip = Chip { shared_bytes_block_max, ..CHIP };
                choose(shape, Tuning { stages, ..Tuning::default() }, chip).map(|(variant, _)| variant)
            };
            assert_eq!(on(CHIP.shared_bytes_block_max, None).expect("it fits"), variant);
            let two = Variant { stages: 2, ..variant }.shared_bytes();
            assert_eq!(on(two, None).expect("two fit").stages, 2);
            for shared_bytes in [101_376, 166_912, CHIP.shared_bytes_block_max, 1 << 24] {
                for stages in [Some(2), None, Some(4), Some(8), Some(u32::MAX)] {
                    let found = on(shared_bytes, stages).expect("two fit");
                    assert!(found.stages >= 2 && found.shared_bytes() <= shared_bytes, "{found:?} in {shared_bytes}");
                    assert!(found.stages <= stages.unwrap_or(variant.stages));
                }
            }
            for (shared_bytes, stages) in [
                (two - 1, None),
                (two - 1, Some(2)),
                (1, None),
                (u32::MAX, None),
                (1 << 24, Some(0)),
                (1 << 24, Some(1)),
            ] {
                let found = on(shared_bytes, stages);
                assert!(matches!(found, Err(Error::Shape { .. })), "{found:?} in {shared_bytes}");
            }
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
