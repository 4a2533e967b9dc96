//! As Punica's cluster code routes: the largest batch, then the adapter, then the tightest memory.
//!
//! Source: Punica's artifact (punica-server-experimental 3886f27, `get_gpu_for_new_request`): a GPU must be below the
//! largest batch and have `ceil(tokens / 16) + batch + 1` free blocks, one to spare for each sequence including the new
//! one; of those, the largest (batch, sequences with the same adapter, fewest free blocks, UUID). Held requests are tried in
//! order of arrival and the first that fits nowhere blocks the others.
//!
//! Like the paper's scheduler it knows what it placed: give it signals without delay.

use std::cmp::Reverse;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::punica_paper::has_place;
use super::{has_blocks, max_num_seqs};
use crate::fleet::Fleet;
use crate::policy::{Asked, Route, Router, Tunable};
use crate::random::Stream;
use crate::workload::ReplicaId;

/// The largest batch that fits with blocks to spare; ties to the same adapter, to the fewest free blocks, to the highest id.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PunicaArtifact {
    /// The largest working set, sequences; 0: `max_num_seqs` of each replica. The artifact has 32 for both.
    pub working_set_max: u32,
    /// KV blocks that must be free for each sequence, the new one included, beyond the request's own.
    pub spare_blocks_per_sequence: u32,
    #[serde(skip)]
    #[schemars(skip)]
    limit: Option<u32>,
}

impl Default for PunicaArtifact {
    fn default() -> PunicaArtifact {
        PunicaArtifact { working_set_max: 0, spare_blocks_per_sequence: 1, limit: None }
    }
}

impl Tunable for PunicaArtifact {
    const SOURCE: &'static str = "Punica artifact, rust/src/scheduler/scheduler.rs (3886f27)";
    const SUMMARY: &'static str = "largest batch, then same adapter, fewest free blocks, highest id; blocks to spare";
}

impl Router for PunicaArtifact {
    fn route(&mut self, asked: &Asked<'_>, fleet: &Fleet<'_>, _: &mut Stream) -> Route {
        let limit = *self.limit.get_or_insert_with(|| max_num_seqs(fleet));
        let tokens = asked.tokens;
        let mut best: Option<(u32, Reverse<u32>, ReplicaId)> = None;
        let mut best_working_set = None;
        for (working_set, replica) in fleet.with_working_set(0..limit).rev() {
            // Replicas come by working set, largest first: the other keys decide only within the first that fits.
            if best_working_set.is_some_and(|best| best != working_set) {
                break;
            }
            if !has_place(fleet, replica, working_set, self.working_set_max) {
                continue;
            }
            let spare = u64::from(self.spare_blocks_per_sequence) * (u64::from(working_set) + 1);
            if !has_blocks(fleet, replica, u64::from(fleet.kv_blocks_for(replica, tokens)) + spare) {
                continue;
            }
            let free = fleet.signals(replica).kv_blocks_uncommitted();
            let same = asked.request.adapter.map_or(0, |adapter| fleet.sequences_with(replica, adapter));
            let key = (same, Reverse(free), replica);
            if best.is_none_or(|best| key > best) {
                best = Some(key);
            }
            best_working_set = Some(working_set);
        }
        best.map_or(Route::Hold, |(_, _, replica)| Route::To(replica))
    }
}
