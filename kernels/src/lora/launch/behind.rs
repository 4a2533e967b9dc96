//! Adapters as the last blocks of a launch that does more: see `gemm_with_adapters.cu`.

use std::sync::Arc;

use cudarc::driver::CudaStream;

use super::operands::Arguments;
use super::{Inbox, LoadedPlan, Matrix};
use crate::Error;
use crate::lora::plan::{Job, Site};
use crate::lora::variant::RowTile;

/// What `lora_pair` is given where its blocks come behind others of the same launch.
#[repr(transparent)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct PairBehind(Arguments);

impl LoadedPlan {
    /// The form of the kernel that such a launch holds, and no other: plans must be made for it.
    pub(crate) const BEHIND: RowTile = RowTile::Rows8;

    /// The arguments of a pair whose first block is the launch's `first`.
    ///
    /// # Errors
    /// [`Error::Shape`] if the operands do not fit the plan, or if it is for another form or for clusters.
    pub(crate) fn pair_behind(
        &self,
        stream: &Arc<CudaStream>,
        site: &Site,
        inbox: &mut Inbox,
        x: Matrix,
        y: &[Matrix],
        first: u32,
    ) -> Result<PairBehind, Error> {
        if self.variant.rows != Self::BEHIND || self.cluster > 1 {
            let why = format!("of {:?} in clusters of {} cannot share a launch", self.variant.rows, self.cluster);
            return Err(Error::shape("plan", why));
        }
        self.check_inbox(inbox)?;
        let mut arguments = self.arguments(stream, site, Some(x), Some(inbox))?;
        self.set_outputs(&mut arguments, y)?;
        // Block `first` finds job 0; nobody reads before it.
        arguments.jobs = arguments.jobs.wrapping_sub(u64::from(first) * Job::BYTES as u64);
        arguments.job_count += first;
        Ok(PairBehind(arguments))
    }

    /// Shared memory that a block needs.
    pub(crate) fn shared_bytes(&self) -> u32 {
        self.shared_bytes
    }
}
