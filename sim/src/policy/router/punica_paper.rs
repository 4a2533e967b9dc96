//! The replica with the largest working set that still has room: full GPUs stay full, idle ones stay idle.
//!
//! Source: Punica (§5.1, §5.3): of the GPUs below the largest batch with enough memory for the request's KvCache, the one
//! with the largest working set; ties to the highest UUID, here the highest id. If none fits, the request waits in the
//! cluster's queue, first come first served.
//!
//! The paper's scheduler knows what it placed: give it signals without delay, or it overfills what looked empty. Replicas
//! are tried from an index of working sets below the limit, so that full ones are never looked at.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{has_blocks, max_num_seqs};
use crate::fleet::Fleet;
use crate::policy::{Asked, Route, Router, Tunable};
use crate::random::Stream;
use crate::workload::ReplicaId;

/// The largest working set that fits; ties to the highest id; else the cluster's queue.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PunicaPaper {
    /// The largest working set, sequences; 0: `max_num_seqs` of each replica. The paper has 32 for both.
    pub working_set_max: u32,
    #[serde(skip)]
    #[schemars(skip)]
    limit: Option<u32>,
}

impl Tunable for PunicaPaper {
    const SOURCE: &'static str = "Punica (MLSys 2024) §5.1, §5.3";
    const SUMMARY: &'static str = "the largest working set that fits, ties to the highest id, else a queue";
}

/// May the replica's working set grow to one more?
pub(super) fn has_place(fleet: &Fleet<'_>, replica: ReplicaId, working_set: u32, working_set_max: u32) -> bool {
    let most = fleet.settings(replica).max_num_seqs;
    working_set < if working_set_max == 0 { most } else { working_set_max.min(most) }
}

impl Router for PunicaPaper {
    fn route(&mut self, asked: &Asked<'_>, fleet: &Fleet<'_>, _: &mut Stream) -> Route {
        let limit = *self.limit.get_or_insert_with(|| max_num_seqs(fleet));
        let tokens = asked.tokens;
        let fits = |&(working_set, replica): &(u32, ReplicaId)| {
            has_place(fleet, replica, working_set, self.working_set_max)
                && has_blocks(fleet, replica, fleet.kv_blocks_for(replica, tokens).into())
        };
        let chosen = fleet.with_working_set(0..limit).rev().find(fits);
        chosen.map_or(Route::Hold, |(_, replica)| Route::To(replica))
    }
}
