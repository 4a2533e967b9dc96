//! Where the adapter is, unless that replica has too much to do.
//!
//! Source: the LoRA soft affinity of the Kubernetes Gateway API Inference Extension (its filter tree prefers pods with the
//! adapter over pods with a free slot with probability 0.999, `affinity_probability`), with the limits on imbalance that
//! cache-aware routers have; the default limit is ours.

use rand::RngExt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::fleet::Fleet;
use crate::policy::{Asked, Route, Router, Tunable, tunable};
use crate::random::Stream;
use crate::workload::ReplicaId;

/// The holder of the adapter with the smallest working set, unless it exceeds the smallest of all by more than
/// `imbalance_max`, or is full while another is not; then the smallest of all.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AffinitySoft {
    /// By how many sequences the holder's working set may exceed the smallest.
    pub imbalance_max: u32,
    /// Is a holder with `max_num_seqs` sequences passed over, if another replica has a place?
    pub skip_full: bool,
    /// How often the holder is preferred at all.
    pub affinity_probability: f64,
}

impl Default for AffinitySoft {
    fn default() -> AffinitySoft {
        AffinitySoft { imbalance_max: 16, skip_full: true, affinity_probability: 1.0 }
    }
}

impl Tunable for AffinitySoft {
    const SOURCE: &'static str = "Gateway API Inference Extension PR 423 (probability 0.999); imbalance limit: ours";
    const SUMMARY: &'static str = "the least loaded holder of the adapter, unless it has too much to do";

    fn validate(&self) -> Result<(), String> {
        tunable::fraction("affinity_probability", self.affinity_probability)
    }
}

/// The holder with the smallest working set below `limit`; ties to the lowest id. Who is looked for among the emptiest, where one of
/// many holders mostly is, and then among the holders: at most as many looks as twice the holders.
fn least_holder(holders: &[ReplicaId], fleet: &Fleet<'_>, limit: u32) -> Option<(u32, ReplicaId)> {
    let mut emptiest = fleet.with_working_set(0..limit);
    for _ in 0..holders.len() {
        let next = emptiest.next()?;
        if holders.binary_search(&next.1).is_ok() {
            return Some(next);
        }
    }
    let on = holders.iter().copied().filter(|&replica| fleet.is_available(replica));
    on.map(|replica| (fleet.working_set(replica), replica)).filter(|&(working_set, _)| working_set < limit).min()
}

impl Router for AffinitySoft {
    fn route(&mut self, asked: &Asked<'_>, fleet: &Fleet<'_>, random: &mut Stream) -> Route {
        let Some((least, emptiest)) = fleet.by_working_set().next() else { return Route::Hold };
        let holder = asked.request.adapter.and_then(|adapter| {
            let limit = least.saturating_add(self.imbalance_max).saturating_add(1);
            least_holder(fleet.holders(adapter), fleet, limit)
        });
        let Some((working_set, holder)) = holder else { return Route::To(emptiest) };
        let is_full = |working_set, replica| working_set >= fleet.settings(replica).max_num_seqs;
        if self.skip_full && is_full(working_set, holder) && !is_full(least, emptiest) {
            return Route::To(emptiest);
        }
        if self.affinity_probability < 1.0 && !random.random_bool(self.affinity_probability) {
            return Route::To(emptiest);
        }
        Route::To(holder)
    }
}
