//! Attention of runs of new tokens on a GPU.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, DevicePtr};

use super::operands::{self, BlockTable, Given, KvCache};
use super::plan::PrefillPlan;
use super::variant::{THREADS, Variant};
use crate::Error;
use crate::gpu::Overlap;
use crate::lora::launch::Matrix;
use crate::program::{Compiler, Grid, Kernel};

/// Bytes of a tile in device memory.
const TILE_BYTES: usize = 16;

/// A prefill plan in device memory.
#[derive(Debug)]
pub struct PrefillAttention {
    kernel: Kernel,
    plan: PrefillPlan,
    capacity: u32,
    given: Given,
    tiles: CudaSlice<u8>,
}

/// The same layout as `Arguments` in `prefill_attention.cu`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Arguments {
    tiles: u64,
    table: u64,
    cache: u64,
    q: u64,
    out: u64,
    scale: f32,
    q_stride: u32,
    out_stride: u32,
    heads: u32,
    kv_heads: u32,
    queries: u32,
}

impl PrefillAttention {
    /// Compiles the plan's variant and copies the plan to the GPU. `capacity`: tiles that every launch has blocks for.
    ///
    /// # Errors
    /// [`Error::Shape`] if the plan has more tiles than `capacity`; compiler and driver errors.
    pub fn load(
        compiler: &Compiler,
        stream: &Arc<CudaStream>,
        plan: &PrefillPlan,
        capacity: u32,
    ) -> Result<Self, Error> {
        let variant = plan.variant();
        let kernel = compiler.kernel(variant.source(), variant.defines(), variant.kernel())?;
        let tiles = compiler.gpu().allocate(stream, capacity as usize * TILE_BYTES, "a prefill plan")?;
        let mut loaded = PrefillAttention { kernel, plan: plan.clone(), capacity, given: Given::nothing(), tiles };
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
    /// must not overlap. With [`Overlap::Programmatic`] the plan and the table are read before the preceding kernel is
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
        let arguments = Arguments {
            tiles: self.tiles.device_ptr(stream).0,
            table: table.address,
            cache: cache.address,
            q: q.address,
            out: out.address,
            scale: scale * std::f32::consts::LOG2_E,
            q_stride: q.stride,
            out_stride: out.stride,
            heads: shape.heads,
            kv_heads: shape.kv_heads,
            queries: shape.queries(),
        };
        let shared_bytes = self.variant().shared_bytes(shape.queries());
        let grid = Grid { blocks: self.capacity * shape.heads, threads: THREADS, shared_bytes };
        // SAFETY: the struct is the kernel's; shapes were checked; the rest is the caller's promise.
        unsafe { self.kernel.launch(stream, grid, &arguments, overlap) }
    }

    /// Replaces the plan in place; launches captured with it then run the new one.
    ///
    /// # Errors
    /// [`Error::Shape`] if the new plan is for other heads or another height of tiles, larger than the capacity, or
    /// touches more than operands that it was launched with have.
    pub fn replace(&mut self, stream: &Arc<CudaStream>, plan: &PrefillPlan) -> Result<(), Error> {
        if plan.shape != self.plan.shape || plan.fragments != self.plan.fragments {
            return Err(Error::shape("replacing a plan", "it is for another shape or tile; load it as a new one"));
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

    /// Tiles that every launch has blocks for.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    fn write(&mut self, stream: &Arc<CudaStream>) -> Result<(), Error> {
        check_capacity(&self.plan, self.capacity)?;
        if self.capacity == 0 {
            return Ok(());
        }
        let tiles = self.plan.tile_bytes(self.capacity as usize);
        stream.memcpy_htod(&tiles, &mut self.tiles).map_err(Error::driver("copying a prefill plan"))
    }
}

fn check_capacity(plan: &PrefillPlan, capacity: u32) -> Result<(), Error> {
    let tiles = plan.tiles.len();
    if tiles > capacity as usize {
        return Err(Error::shape("plan", format!("{tiles} tiles do not fit a capacity of {capacity}")));
    }
    Ok(())
}
