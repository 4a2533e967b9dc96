//! Attention of one new token a sequence on a GPU.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, DevicePtr};

use super::operands::{self, Given};
use super::operands::{BlockTable, KvCache};
use super::plan::{DecodePlan, WORKER_BYTES};
use super::variant::{QUERIES_MAX, THREADS, Variant};
use crate::Error;
use crate::gpu::{Gpu, Overlap};
use crate::lora::launch::Matrix;
use crate::program::{Compiler, Grid, Kernel};

/// How much a loaded plan may grow when it is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeCapacity {
    /// Workers: the blocks that every launch has. [`DecodePlan::workers_max`] fits every step.
    pub workers: u32,
    /// Sequences.
    pub sequences: u32,
}

/// A decode plan in device memory, with the scratch memory of its launches: one after the other, on one stream.
#[derive(Debug)]
pub struct DecodeAttention {
    kernel: Kernel,
    plan: DecodePlan,
    capacity: DecodeCapacity,
    given: Given,
    workers: CudaSlice<u8>,
    sequences: CudaSlice<u8>,
    /// Sums of the parts of sequences that are cut, their softmax statistics, and arrival counters.
    partial: CudaSlice<f32>,
    statistics: CudaSlice<f32>,
    counters: CudaSlice<u32>,
}

/// The same layout as `Arguments` in `decode_attention.cu`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Arguments {
    workers: u64,
    sequences: u64,
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
    kv_heads: u32,
    queries: u32,
    tiles: u32,
}

impl DecodeAttention {
    /// Compiles the plan's variant and copies the plan to the GPU.
    ///
    /// # Errors
    /// [`Error::Shape`] if the plan is larger than `capacity`; compiler and driver errors.
    pub fn load(
        compiler: &Compiler,
        stream: &Arc<CudaStream>,
        plan: &DecodePlan,
        capacity: DecodeCapacity,
    ) -> Result<Self, Error> {
        let variant = plan.variant();
        let kernel = compiler.kernel(variant.source(), variant.defines(), variant.kernel())?;
        let gpu: &Gpu = compiler.gpu();
        let slots = 2 * capacity.workers.max(1) as usize;
        let queries = plan.shape.queries().min(QUERIES_MAX) as usize;
        let sums = slots * queries * plan.shape.head_dim as usize;
        let mut counters = gpu.allocate::<u32>(stream, capacity.workers as usize * 4, "arrival counters")?;
        stream.memset_zeros(&mut counters).map_err(Error::driver("clearing arrival counters"))?;
        let mut loaded = DecodeAttention {
            kernel,
            plan: plan.clone(),
            capacity,
            given: Given::nothing(),
            workers: gpu.allocate(stream, capacity.workers as usize * WORKER_BYTES, "a decode plan")?,
            sequences: gpu.allocate(stream, capacity.sequences as usize * 16, "a decode plan's sequences")?,
            partial: gpu.allocate(stream, sums, "partial sums of attention")?,
            statistics: gpu.allocate(stream, slots * QUERIES_MAX as usize * 4, "partial statistics of attention")?,
            counters,
        };
        loaded.write(stream)?;
        Ok(loaded)
    }

    /// out\[row\]\[h\] = softmax(scale · q\[row\]\[h\] · Kᵀ) · V for every sequence of the plan, in one launch over one
    /// layer's cache.
    ///
    /// # Errors
    /// [`Error::Shape`] if the operands do not fit the plan; [`Error::Driver`] if the launch is refused.
    ///
    /// # Safety
    /// All operands must lie in live device memory of this GPU; `table` must hold what the plan was given; q and out
    /// must not overlap; no other launch of this plan may run at the same time. With [`Overlap::Programmatic`] the plan
    /// and the table are read before the preceding kernel is finished, see there; q and the cache are not.
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
        let arguments = Arguments {
            workers: self.workers.device_ptr(stream).0,
            sequences: self.sequences.device_ptr(stream).0,
            table: table.address,
            cache: cache.address,
            q: q.address,
            out: out.address,
            partial: self.partial.device_ptr(stream).0,
            statistics: self.statistics.device_ptr(stream).0,
            counters: self.counters.device_ptr(stream).0,
            scale: scale * std::f32::consts::LOG2_E,
            q_stride: q.stride,
            out_stride: out.stride,
            kv_heads: shape.kv_heads,
            queries: shape.queries(),
            tiles: shape.queries().div_ceil(QUERIES_MAX),
        };
        let shared_bytes = self.variant().shared_bytes(shape.queries());
        let grid = Grid { blocks: self.capacity.workers, threads: THREADS, shared_bytes };
        // SAFETY: the struct is the kernel's; shapes were checked; the rest is the caller's promise.
        unsafe { self.kernel.launch(stream, grid, &arguments, overlap) }
    }

    /// Replaces the plan in place; launches captured with it then run the new one.
    ///
    /// # Errors
    /// [`Error::Shape`] if the new plan is for other heads or another ring, larger than the capacity, or touches more
    /// than operands that it was launched with have.
    pub fn replace(&mut self, stream: &Arc<CudaStream>, plan: &DecodePlan) -> Result<(), Error> {
        if plan.shape != self.plan.shape || plan.depth != self.plan.depth {
            return Err(Error::shape("replacing a plan", "it is for another shape; load it as a new one"));
        }
        self.given.allows(plan.extent)?;
        self.check_capacity(plan)?;
        self.plan = plan.clone();
        self.write(stream)
    }

    /// The compiled form that runs it.
    pub fn variant(&self) -> Variant {
        self.plan.variant()
    }

    /// How much a plan may grow.
    pub fn capacity(&self) -> DecodeCapacity {
        self.capacity
    }

    fn check_capacity(&self, plan: &DecodePlan) -> Result<(), Error> {
        let (workers, sequences) = (plan.workers.len(), plan.sequences.len());
        let DecodeCapacity { workers: workers_max, sequences: sequences_max } = self.capacity;
        if workers > workers_max as usize || sequences > sequences_max as usize {
            let why = format!(
                "{workers} workers and {sequences} sequences do not fit a capacity of {workers_max} and {sequences_max}"
            );
            return Err(Error::shape("plan", why));
        }
        Ok(())
    }

    fn write(&mut self, stream: &Arc<CudaStream>) -> Result<(), Error> {
        self.check_capacity(&self.plan)?;
        let copied = || Error::driver("copying a decode plan");
        let workers = self.plan.worker_bytes(self.capacity.workers as usize);
        if !workers.is_empty() {
            stream.memcpy_htod(&workers, &mut self.workers).map_err(copied())?;
        }
        let sequences = self.plan.sequence_bytes();
        if sequences.is_empty() {
            return Ok(());
        }
        stream.memcpy_htod(&sequences, &mut self.sequences).map_err(copied())
    }
}
