//! Every adapter has its replica, and always goes there.
//!
//! Source: rendezvous (highest random weight) hashing, Thaler and Ravishankar 1998; NVIDIA Dynamo's LoRA controller pins
//! adapters this way. A replica that comes or goes moves only the adapters that it wins or loses. Adapters stay warm, and
//! a popular one makes its replica hot: nobody else helps. The hashes are ranked at an adapter's first request.

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
    #[serde(skip)]
    #[schemars(skip)]
    ranked: Ranking,
}

impl Default for AffinityHard {
    fn default() -> AffinityHard {
        AffinityHard { replicas_per_adapter: 1, by: Load::Requests, ranked: Ranking::default() }
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

/// How high is the replica for the adapter? Different for each, so that there are no ties.
fn height(adapter: AdapterId, replica: ReplicaId) -> (u64, ReplicaId) {
    let key = mix(u64::from(adapter.0).wrapping_add(0x9e37_79b9_7f4a_7c15));
    (mix(key ^ mix(u64::from(replica.0) + 1)), replica)
}

/// The `count` replicas whose hash with the adapter is highest, best first.
fn winners(adapter: AdapterId, replicas: impl Iterator<Item = ReplicaId>, count: usize) -> Vec<ReplicaId> {
    let mut heights: Vec<(u64, ReplicaId)> = replicas.map(|replica| height(adapter, replica)).collect();
    if count < heights.len() {
        heights.select_nth_unstable_by(count, |a, b| b.cmp(a));
        heights.truncate(count);
    }
    heights.sort_unstable_by(|a, b| b.cmp(a));
    heights.into_iter().map(|(_, replica)| replica).collect()
}

/// So many more than are wanted are ranked at first, for when some are off.
const MORE: usize = 7;

/// The replicas whose hash with an adapter is highest, on or off, best first; by adapter, from its first request on. The
/// lists are as long as was needed so far.
#[derive(Clone, Debug, Default)]
struct Ranking(Vec<Vec<ReplicaId>>);

impl Ranking {
    /// The best `count` of those that are on, or all that are.
    fn best(&mut self, adapter: AdapterId, fleet: &Fleet<'_>, count: usize) -> Vec<ReplicaId> {
        if self.0.len() <= adapter.index() {
            self.0.resize(adapter.index() + 1, Vec::new());
        }
        let ranked = &mut self.0[adapter.index()];
        loop {
            let is_on = |replica: &ReplicaId| fleet.is_available(*replica);
            let on: Vec<ReplicaId> = ranked.iter().copied().filter(is_on).take(count).collect();
            if on.len() == count {
                return on;
            }
            let available = fleet.available();
            if available.len() <= ranked.len() {
                // So few are on that a look at each is no more than was looked at here.
                return winners(adapter, available.iter().copied(), count);
            }
            let length = (2 * ranked.len()).max(count + MORE);
            *ranked = winners(adapter, (0..fleet.len() as u32).map(ReplicaId), length);
        }
    }
}

impl Router for AffinityHard {
    fn route(&mut self, asked: &Asked<'_>, fleet: &Fleet<'_>, _: &mut Stream) -> Route {
        let chosen = match asked.request.adapter {
            Some(adapter) => {
                let pins = self.ranked.best(adapter, fleet, self.replicas_per_adapter as usize);
                least_of(fleet, self.by, pins.into_iter())
            }
            None => least_loaded(fleet, self.by),
        };
        chosen.map_or(Route::Hold, Route::To)
    }
}
