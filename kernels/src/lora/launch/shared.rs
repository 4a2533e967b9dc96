//! Adapters as the other half of each block of a launch that does more: see `gemm_with_adapters.cu`.

use std::sync::Arc;

use cudarc::driver::CudaStream;

use super::operands::Arguments;
use super::{Inbox, LoadedPlan, Matrix};
use crate::Error;
use crate::lora::plan::Site;
use crate::lora::variant::RowTile;

/// What `lora_pair` is given where it is a part of another kernel.
#[repr(transparent)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct PairArguments(Arguments);

impl LoadedPlan {
    /// The form of the kernel that such a launch holds, and no other: plans must be made for it.
    pub(crate) const SHARED_LAUNCH: RowTile = RowTile::Rows8;

    /// The arguments of a pair that is launched as a part of something else.
    ///
    /// # Errors
    /// [`Error::Shape`] if the operands do not fit the plan, or if it is for another form or for clusters.
    pub(crate) fn pair_arguments(
        &self,
        stream: &Arc<CudaStream>,
        site: &Site,
        inbox: &mut Inbox,
        x: Matrix,
        y: &[Matrix],
    ) -> Result<PairArguments, Error> {
        if self.variant.rows != Self::SHARED_LAUNCH || self.cluster > 1 {
            let why = format!("of {:?} in clusters of {} cannot share a launch", self.variant.rows, self.cluster);
            return Err(Error::shape("plan", why));
        }
        let mut arguments = self.arguments(stream, site, Some(x), Some(inbox))?;
        self.set_outputs(&mut arguments, y)?;
        Ok(PairArguments(arguments))
    }

    /// Shared memory that a block needs.
    pub(crate) fn shared_bytes(&self) -> u32 {
        self.shared_bytes
    }
}
