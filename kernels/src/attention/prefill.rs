//! Attention of runs of new tokens on a GPU.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, DevicePtr};

use super::layout::AttentionShape;
use super::operands::{self, BlockTable, Given, KvCache};
use super::plan::{PIECE_WORDS, PrefillForm, PrefillPlan};
use super::variant::{THREADS, Variant};
use crate::Error;
use crate::gpu::Overlap;
use crate::lora::launch::Matrix;
use crate::lora::plan::Chip;
use crate::program::{Compiler, Grid, Kernel};

/// Bytes of a piece in device memory.
const PIECE_BYTES: usize = PIECE_WORDS * 4;

/// What pieces of tiles leave for one another: memory for any number of plans of one shape whose launches run one after
/// the other, on one stream.
#[derive(Debug)]
pub struct PrefillScratch {
    shape: AttentionShape,
    /// Sums of the pieces of tiles that are cut, their softmax statistics, and arrival counters.
    partial: CudaSlice<f32>,
    statistics: CudaSlice<f32>,
    counters: CudaSlice<u32>,
}

impl PrefillScratch {
    /// Memory for the largest split launch that the compiler's GPU has for a shape.
    ///
    /// # Errors
    /// [`Error::Shape`] for a shape that the kernels do not serve; too little memory; driver errors.
    pub fn new(compiler: &Compiler, stream: &Arc<CudaStream>, shape: AttentionShape) -> Result<Self, Error> {
        shape.check()?;
        let gpu = compiler.gpu();
        let split = PrefillForm::ALL.into_iter().filter(|form| form.split);
        let size = |form: PrefillForm| (form.slots(&shape, gpu.chip()), 64 * form.fragments);
        let (blocks, places) =
            split.map(size).fold((0, 0), |(blocks, places), (most, each)| (blocks.max(most), places.max(most * each)));
        let mut counters = gpu.allocate::<u32>(stream, blocks as usize, "arrival counters")?;
        stream.memset_zeros(&mut counters).map_err(Error::driver("clearing arrival counters"))?;
        let partial = places as usize * shape.head_dim as usize;
        Ok(PrefillScratch {
            shape,
            partial: gpu.allocate(stream, partial, "partial sums of attention")?,
            statistics: gpu.allocate(stream, places as usize * 4, "partial statistics of attention")?,
            counters,
        })
    }
}

/// A prefill plan in device memory.
#[derive(Debug)]
pub struct PrefillAttention {
    kernel: Kernel,
    plan: PrefillPlan,
    capacity: u32,
    given: Given,
    pieces: CudaSlice<u8>,
    scratch: Arc<PrefillScratch>,
}

/// The same layout as `Arguments` in `prefill_attention.cu`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Arguments {
    pieces: u64,
    table: u64,
    cache: u64,
    q: u64,
    out: u64,
    partial: u64,
    statistics: u64,
    counters: u64,
    scale: f32,
    q_stride: u32,
    out_stride: u32,
    groups: u32,
    kv_heads: u32,
    packed: u32,
    sharing: u32,
    reserved: u32,
}

impl PrefillAttention {
    /// Compiles the plan's variant and copies the plan to the GPU. `capacity`: pieces that every launch has blocks for.
    ///
    /// # Errors
    /// [`Error::Shape`] if the plan has more pieces than `capacity`, or `scratch` is for another shape; compiler and driver
    /// errors.
    pub fn load(
        compiler: &Compiler,
        stream: &Arc<CudaStream>,
        plan: &PrefillPlan,
        capacity: u32,
        scratch: &Arc<PrefillScratch>,
    ) -> Result<Self, Error> {
        if scratch.shape != plan.shape {
            return Err(Error::shape("prefill scratch memory", "it is for another shape"));
        }
        let variant = plan.variant();
        let kernel = compiler.kernel(variant.source(), variant.defines(), variant.kernel())?;
        let capacity = self::capacity(plan, capacity, compiler.gpu().chip());
        let pieces = compiler.gpu().allocate(stream, capacity as usize * PIECE_BYTES, "a prefill plan")?;
        let (given, scratch) = (Given::nothing(), scratch.clone());
        let mut loaded = PrefillAttention { kernel, plan: plan.clone(), capacity, given, pieces, scratch };
        loaded.write(stream)?;
        Ok(loaded)
    }

    /// out\[row\]\[h\] = softmax(scale · q\[row\]\[h\] · Kᵀ) · V over the tokens up to and including the row's own, for
    /// every row of the plan, in one launch over one layer's cache.
    ///
    /// # Errors
    /// [`Error::Shape`] if the operands do not fit the plan; [`Error::Driver`] if the launch is refused.
    ///
    /// # Safety
    /// All operands must lie in live device memory of this GPU; `table` must hold what the plan was given; q and out
    /// must not overlap; no other launch of the same scratch memory may run at the same time. With [`Overlap::Programmatic`] the plan and the table are read before the preceding kernel is
    /// finished, see there; q and the cache are not.
    #[expect(clippy::too_many_arguments, reason = "the operands of attention")]
    pub unsafe fn launch(
        &self,
        stream: &Arc<CudaStream>,
        q: Matrix,
        cache: KvCache,
        table: BlockTable,
        out: Matrix,
        scale: f32,
        overlap: Overlap,
    ) -> Result<(), Error> {
        let shape = &self.plan.shape;
        operands::check(shape, self.plan.extent, &self.given, q, cache, table, out)?;
        let groups = self.plan.form.groups(shape);
        let arguments = Arguments {
            pieces: self.pieces.device_ptr(stream).0,
            table: table.address,
            cache: cache.address,
            q: q.address,
            out: out.address,
            partial: self.scratch.partial.device_ptr(stream).0,
            statistics: self.scratch.statistics.device_ptr(stream).0,
            counters: self.scratch.counters.device_ptr(stream).0,
            scale: scale * std::f32::consts::LOG2_E,
            q_stride: q.stride,
            out_stride: out.stride,
            groups,
            kv_heads: shape.kv_heads,
            packed: PrefillForm::packed(shape),
            sharing: groups / shape.kv_heads,
            reserved: 0,
        };
        let shared_bytes = self.variant().shared_bytes(shape.queries());
        let grid = Grid { blocks: self.capacity * groups, threads: THREADS, shared_bytes };
        // SAFETY: the struct is the kernel's; shapes were checked; the rest is the caller's promise.
        unsafe { self.kernel.launch(stream, grid, &arguments, overlap) }
    }

    /// Replaces the plan in place; launches captured with it then run the new one.
    ///
    /// # Errors
    /// [`Error::Shape`] if the new plan is for other heads or of another form, larger than the capacity, or
    /// touches more than operands that it was launched with have.
    pub fn replace(&mut self, stream: &Arc<CudaStream>, plan: &PrefillPlan) -> Result<(), Error> {
        if plan.shape != self.plan.shape || plan.form != self.plan.form {
            return Err(Error::shape("replacing a plan", "it is for another shape or form; load it as a new one"));
        }
        self.given.allows(plan.extent)?;
        check_capacity(plan, self.capacity)?;
        self.plan = plan.clone();
        self.write(stream)
    }

    /// The compiled form that runs it.
    pub fn variant(&self) -> Variant {
        self.plan.variant()
    }

    /// Pieces that every launch has blocks for.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    fn write(&mut self, stream: &Arc<CudaStream>) -> Result<(), Error> {
        check_capacity(&self.plan, self.capacity)?;
        if self.capacity == 0 {
            return Ok(());
        }
        let pieces = self.plan.piece_bytes(self.capacity as usize);
        stream.memcpy_htod(&pieces, &mut self.pieces).map_err(Error::driver("copying a prefill plan"))
    }
}

fn check_capacity(plan: &PrefillPlan, capacity: u32) -> Result<(), Error> {
    let pieces = plan.pieces.len();
    if pieces > capacity as usize {
        return Err(Error::shape("plan", format!("{pieces} pieces do not fit a capacity of {capacity}")));
    }
    Ok(())
}

/// As many pieces as are asked for; with a split no more than find room at once, since they wait for one another.
fn capacity(plan: &PrefillPlan, wanted: u32, chip: Chip) -> u32 {
    let PrefillPlan { shape, form, .. } = plan;
    if form.split { wanted.min(form.slots(shape, chip) / form.groups(shape)) } else { wanted }
}
