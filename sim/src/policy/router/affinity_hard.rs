//! Every adapter has its replica, and always goes there.
//!
//! Source: rendezvous (highest random weight) hashing, Thaler and Ravishankar 1998; NVIDIA Dynamo's LoRA controller pins
//! adapters this way. A replica that comes or goes moves only the adapters that it wins or loses. Adapters stay warm, and
//! a popular one makes its replica hot: nobody else helps.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Load, least_loaded, least_of};
use crate::fleet::Fleet;
use crate::policy::{Asked, Route, Router, Tunable};
use crate::random::Stream;
use crate::workload::{AdapterId, ReplicaId};

/// The least loaded of the `replicas_per_adapter` replicas whose hash with the adapter is highest. Requests without adapter
/// go to the least loaded replica.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AffinityHard {
    /// To how many replicas each adapter is pinned.
    pub replicas_per_adapter: u32,
    /// What is load, where there is a choice?
    pub by: Load,
    /// Pins among all replicas, on or off, by adapter: they hold as long as those replicas are on.
    #[serde(skip)]
    #[schemars(skip)]
    pins: Vec<Vec<ReplicaId>>,
}

impl Default for AffinityHard {
    fn default() -> AffinityHard {
        AffinityHard { replicas_per_adapter: 1, by: Load::Requests, pins: Vec::new() }
    }
}

impl Tunable for AffinityHard {
    const SOURCE: &'static str = "rendezvous hashing, Thaler and Ravishankar 1998; NVIDIA Dynamo's LoRA controller";
    const SUMMARY: &'static str = "each adapter is pinned to its replica by rendezvous hashing";

    fn validate(&self) -> Result<(), String> {
        if self.replicas_per_adapter == 0 {
            return Err("`replicas_per_adapter` is 0: an adapter needs at least 1".to_owned());
        }
        Ok(())
    }
}

/// The finaliser of SplitMix64: every input bit reaches every output bit.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The `count` replicas whose hash with the adapter is highest, best first.
fn winners(adapter: AdapterId, replicas: impl Iterator<Item = ReplicaId>, count: usize) -> Vec<ReplicaId> {
    let key = mix(u64::from(adapter.0).wrapping_add(0x9e37_79b9_7f4a_7c15));
    let mut hashed: Vec<(u64, ReplicaId)> = replicas.map(|id| (mix(key ^ mix(u64::from(id.0) + 1)), id)).collect();
    hashed.sort_unstable_by(|a, b| b.cmp(a));
    hashed.truncate(count);
    hashed.into_iter().map(|(_, replica)| replica).collect()
}

impl AffinityHard {
    fn pinned(&mut self, adapter: AdapterId, fleet: &Fleet<'_>) -> &[ReplicaId] {
        let count = self.replicas_per_adapter as usize;
        if self.pins.len() <= adapter.index() {
            self.pins.resize(adapter.index() + 1, Vec::new());
        }
        let pins = &mut self.pins[adapter.index()];
        if pins.is_empty() {
            *pins = winners(adapter, (0..fleet.len() as u32).map(ReplicaId), count);
        }
        pins
    }
}

impl Router for AffinityHard {
    fn route(&mut self, asked: &Asked<'_>, fleet: &Fleet<'_>, _: &mut Stream) -> Route {
        let by = self.by;
        let Some(adapter) = asked.request.adapter else {
            return least_loaded(fleet, by).map_or(Route::Hold, Route::To);
        };
        let count = self.replicas_per_adapter as usize;
        let pins = self.pinned(adapter, fleet);
        let chosen = if pins.iter().all(|&replica| fleet.is_available(replica)) {
            least_of(fleet, by, pins.iter().copied())
        } else {
            // Some are off: the best of those that are on, which are the same as long as the others stay on.
            least_of(fleet, by, winners(adapter, fleet.available().iter().copied(), count).into_iter())
        };
        chosen.map_or(Route::Hold, Route::To)
    }
}
