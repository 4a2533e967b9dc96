//! The GEMM of few rows and the adapters of the same projections in one launch, `gemm_with_adapters.cu`.

use std::sync::{Arc, PoisonError};

use cudarc::driver::CudaStream;

use super::{Arguments, FewRows, FewRowsPlan, GemmShape, THREADS, Tuning, Variant};
use crate::Error;
use crate::gpu::Overlap;
use crate::lora::launch::{LoadedPlan, PairBehind};
use crate::lora::variant;
use crate::program::{Grid, Kernel};

/// The same layout as `Both` in `gemm_with_adapters.cu`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Both {
    gemm: Arguments,
    lora: PairBehind,
    gemm_blocks: u32,
    reserved: u32,
}

/// One shape, ready to be launched with any adapters.
#[derive(Debug, Clone)]
pub(crate) struct WithAdaptersPlan {
    gemm: FewRowsPlan,
    kernel: Kernel,
}

impl Variant {
    /// The same with so few stages that two blocks share a multiprocessor.
    #[must_use]
    pub fn beside_adapters(mut self) -> Self {
        while 2 * (self.shared_bytes() + BLOCK_RESERVED) > MULTIPROCESSOR_SHARED && self.stages > 2 {
            self.stages -= 1;
        }
        self
    }

    /// The definitions that select it together with the adapters' kernel.
    pub fn defines_with_adapters(self) -> Vec<(&'static str, String)> {
        let adapters = variant::Variant { element: self.element, rows: LoadedPlan::BEHIND };
        let rename = |name: &'static str, to| move |(define, value)| (if define == name { to } else { define }, value);
        let gemm = self.defines().into_iter().map(rename("NT", "GEMM_NT"));
        let lora = adapters.defines().into_iter().filter(|(name, _)| *name != "ELEMENT").map(rename("NT", "LORA_NT"));
        gemm.chain(lora).collect()
    }
}

/// Shared memory of a Hopper multiprocessor, and what the driver keeps of it for each block.
const MULTIPROCESSOR_SHARED: u32 = 233_472;
const BLOCK_RESERVED: u32 = 1024;

impl FewRows {
    /// A plan for a shape.
    ///
    /// # Errors
    /// As [`FewRows::plan`].
    pub(crate) fn plan_with_adapters(&self, shape: GemmShape, tuning: Tuning) -> Result<WithAdaptersPlan, Error> {
        let variant = Variant::of(shape.element, shape.rows.max(1)).beside_adapters();
        let stages = tuning.stages.unwrap_or(variant.stages);
        let gemm = self.plan_with(shape, Tuning { stages: Some(stages), ..tuning })?;
        let variant = Variant { stages, wide: tuning.wide.unwrap_or(variant.wide), ..variant };
        let mut loaded = self.with_adapters.lock().unwrap_or_else(PoisonError::into_inner);
        let kernel = match loaded.get(&variant) {
            Some(kernel) => kernel.clone(),
            None => {
                let defines = variant.defines_with_adapters();
                let kernel = self.compiler.kernel("gemm_with_adapters.cu", defines, "gemm_with_adapters")?;
                loaded.insert(variant, kernel.clone());
                kernel
            }
        };
        Ok(WithAdaptersPlan { gemm, kernel })
    }

    /// y = x·Wᵀ, and what the adapters add, to the places that `adapters` makes arguments for when told the first of their
    /// blocks.
    ///
    /// # Errors
    /// As [`FewRows::launch`]; what `adapters` returns.
    ///
    /// # Safety
    /// As [`FewRows::launch`] and [`LoadedPlan::pair`]; y overlaps no place that adapters write to.
    #[expect(clippy::too_many_arguments, reason = "the operands of a GEMM, and its companion")]
    pub(crate) unsafe fn launch_with_adapters(
        &self,
        stream: &Arc<CudaStream>,
        plan: &WithAdaptersPlan,
        [weights, x, y]: [u64; 3],
        loaded: &LoadedPlan,
        adapters: impl FnOnce(u32) -> Result<PairBehind, Error>,
        overlap: Overlap,
    ) -> Result<(), Error> {
        let gemm_blocks = plan.gemm.shares.blocks;
        let gemm = self.arguments(stream, &plan.gemm, weights, x, y, None)?;
        let both = Both { gemm, lora: adapters(gemm_blocks)?, gemm_blocks, reserved: 0 };
        let grid = Grid {
            blocks: gemm_blocks + loaded.capacity(),
            threads: THREADS,
            shared_bytes: plan.gemm.shared_bytes.max(loaded.shared_bytes()),
        };
        // SAFETY: the layout is the kernel's; the rest is the caller's promise.
        unsafe { plan.kernel.launch(stream, grid, &both, overlap) }
    }
}

impl WithAdaptersPlan {
    /// Shared memory that each block has in any case, and adapters may use.
    pub(crate) fn shared_bytes(&self) -> u32 {
        self.gemm.shared_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_blocks_of_every_variant_beside_adapters_fit_a_hopper_multiprocessor() {
        for variant in Variant::all().filter(|variant| variant.tiles <= 4).map(Variant::beside_adapters) {
            assert!(2 * (variant.shared_bytes() + 1024) <= 233_472, "{variant:?}");
            assert!(variant.stages >= 5, "{variant:?}");
        }
    }
}
