//! The GEMM of few rows and the adapters of the same projections in one launch, `gemm_with_adapters.cu`.

use std::sync::{Arc, PoisonError};

use cudarc::driver::CudaStream;

use super::{Arguments, FewRows, FewRowsPlan, GemmShape, THREADS, Tuning, Variant};
use crate::Error;
use crate::gpu::Overlap;
use crate::lora::launch::{LoadedPlan, PairArguments};
use crate::lora::plan::Chip;
use crate::lora::variant;
use crate::program::{Grid, Kernel};

/// The same layout as `Both` in `gemm_with_adapters.cu`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Both {
    gemm: Arguments,
    lora: PairArguments,
}

/// One shape, ready to be launched with any adapters.
#[derive(Debug, Clone)]
pub(crate) struct WithAdaptersPlan {
    gemm: FewRowsPlan,
    kernel: Kernel,
}

impl Variant {
    /// The definitions that select it together with the adapters' kernel.
    pub fn defines_with_adapters(self) -> Vec<(&'static str, String)> {
        let adapters = variant::Variant { element: self.element, rows: LoadedPlan::SHARED_LAUNCH };
        let rename = |name: &'static str, to| move |(define, value)| (if define == name { to } else { define }, value);
        let gemm = self.defines().into_iter().map(rename("NT", "GEMM_NT"));
        let lora = adapters.defines().into_iter().filter(|(name, _)| *name != "ELEMENT").map(rename("NT", "LORA_NT"));
        gemm.chain(lora).collect()
    }
}

impl FewRows {
    /// A plan for a shape.
    ///
    /// # Errors
    /// As [`FewRows::plan`].
    pub(crate) fn plan_with_adapters(&self, shape: GemmShape, tuning: Tuning) -> Result<WithAdaptersPlan, Error> {
        let gemm = self.plan_with(shape, tuning)?;
        let variant = gemm.variant;
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

    /// y = x·Wᵀ, and what the adapters of a loaded plan add, to the places in their arguments.
    ///
    /// # Errors
    /// As [`FewRows::launch`]; [`Error::Shape`] if the plan's blocks are more than find room at once.
    ///
    /// # Safety
    /// As [`FewRows::launch`] and [`LoadedPlan::pair`]; y overlaps no place that adapters write to.
    pub(crate) unsafe fn launch_with_adapters(
        &self,
        stream: &Arc<CudaStream>,
        plan: &WithAdaptersPlan,
        [weights, x, y]: [u64; 3],
        loaded: &LoadedPlan,
        lora: PairArguments,
        overlap: Overlap,
    ) -> Result<(), Error> {
        let multiprocessors = self.compiler.gpu().chip().multiprocessors;
        let blocks = plan.gemm.shares.blocks.max(loaded.capacity());
        if blocks > multiprocessors {
            let why = format!("{blocks} blocks, one a multiprocessor, of which there are {multiprocessors}");
            return Err(Error::shape("a GEMM with adapters", why));
        }
        let both = Both { gemm: self.arguments(stream, &plan.gemm, weights, x, y, None)?, lora };
        let shared_bytes = plan.gemm.shared_bytes + loaded.shared_bytes();
        let grid = Grid { blocks, threads: 2 * THREADS, shared_bytes };
        // SAFETY: the layout is the kernel's; the rest is the caller's promise.
        unsafe { plan.kernel.launch(stream, grid, &both, overlap) }
    }
}

impl WithAdaptersPlan {
    /// Shared memory that is left to adapters.
    pub(crate) fn shared_bytes_left(&self, chip: Chip) -> u32 {
        chip.shared_bytes_block_max.saturating_sub(self.gemm.shared_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deep_ring_for_adapters_finds_room_beside_every_variant_of_few_rows() {
        for variant in Variant::all().filter(|variant| variant.tiles <= 4) {
            // Eleven units a warp of eight, and the exchange of a small rank.
            assert!(variant.shared_bytes() + 11 * 8 * 1024 + 8 * 1024 <= 232_448, "{variant:?}");
        }
    }
}
