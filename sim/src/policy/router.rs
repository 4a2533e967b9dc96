//! Which replica takes the request? One rule a file.

mod affinity_hard;
mod affinity_soft;
mod dedicated;
mod least_loaded;
mod power_of_two;
mod punica_artifact;
mod punica_paper;
mod random;
mod round_robin;
mod scorers;

use std::cmp::Reverse;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use affinity_hard::AffinityHard;
pub use affinity_soft::AffinitySoft;
pub use dedicated::{Assignment, Dedicated};
pub use least_loaded::LeastLoaded;
pub use power_of_two::PowerOfTwo;
pub use punica_artifact::PunicaArtifact;
pub use punica_paper::PunicaPaper;
pub use random::Random;
pub use round_robin::RoundRobin;
pub use scorers::{Picker, Scorers};

use crate::fleet::{Bounds, Fleet, Group, Reads, Search};
use crate::workload::ReplicaId;

/// What is load?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Load {
    /// Sequences in the batch and in the queue.
    #[default]
    Requests,
    /// Sequences in the queue, then those in the batch.
    Waiting,
    /// The share of KV blocks in use or promised to the queue.
    Kv,
}

impl Load {
    /// Of a replica that takes requests: smaller is less loaded.
    fn of(self, fleet: &Fleet<'_>, replica: ReplicaId) -> (u64, u64) {
        // Asked apart, so that a share that nobody reads is not worked out.
        match self {
            Load::Kv => self.bound(&fleet.bounds_of(replica, true)),
            Load::Requests | Load::Waiting => self.bound(&fleet.bounds_of(replica, false)),
        }
    }

    /// No replica within these bounds is less loaded.
    fn bound(self, bounds: &Bounds) -> (u64, u64) {
        match self {
            Load::Requests => (u64::from(bounds.working_set_min), 0),
            Load::Waiting => (u64::from(bounds.waiting_min), u64::from(bounds.running_min)),
            // Positive floats are ordered as their bits are.
            Load::Kv => (bounds.kv_share_min.to_bits(), u64::from(bounds.working_set_min)),
        }
    }

    /// What of these bounds is that?
    fn reads(self) -> Reads {
        let nothing = Reads::default();
        match self {
            Load::Requests => Reads { working_set: true, ..nothing },
            Load::Waiting => Reads { waiting: true, running: true, ..nothing },
            Load::Kv => Reads { kv_share: true, working_set: true, ..nothing },
        }
    }
}

/// Has the replica so many KV blocks free that no prefill of its queue will take? Most that have not are told so by a
/// count that needs no look at the step in flight.
fn has_blocks(fleet: &Fleet<'_>, replica: ReplicaId, blocks: u64) -> bool {
    u64::from(fleet.counts(replica).kv_blocks_uncommitted()) >= blocks
        && u64::from(fleet.signals(replica).kv_blocks_uncommitted()) >= blocks
}

/// The least loaded of some replicas that take requests, by a look at each; ties to the lowest id.
fn least_of(fleet: &Fleet<'_>, load: Load, replicas: impl Iterator<Item = ReplicaId>) -> Option<ReplicaId> {
    replicas.min_by_key(|&replica| (load.of(fleet, replica), replica))
}

/// The least loaded replica that takes requests; ties to the lowest id.
fn least_loaded(fleet: &Fleet<'_>, load: Load) -> Option<ReplicaId> {
    match load {
        Load::Requests => fleet.by_working_set().next().map(|(_, replica)| replica),
        Load::Waiting | Load::Kv => least_in(fleet, load, Group::ALL),
    }
}

/// The least loaded replica of a group that takes requests; ties to the lowest id.
fn least_in(fleet: &Fleet<'_>, load: Load, group: Group) -> Option<ReplicaId> {
    let mut least = Least { load, found: None };
    fleet.search(group, &mut least);
    least.found.map(|(_, replica)| replica)
}

/// A search for the least loaded.
struct Least {
    load: Load,
    found: Option<((u64, u64), ReplicaId)>,
}

impl Search for Least {
    type Hope = Reverse<((u64, u64), ReplicaId)>;

    fn hope(&self, bounds: &Bounds, first: ReplicaId, _: ReplicaId) -> Option<Self::Hope> {
        let least = (self.load.bound(bounds), first);
        self.found.is_none_or(|found| least < found).then_some(Reverse(least))
    }

    fn look(&mut self, replica: ReplicaId, bounds: &Bounds) {
        let load = (self.load.bound(bounds), replica);
        self.found = Some(self.found.map_or(load, |found| found.min(load)));
    }

    fn reads(&self) -> Reads {
        self.load.reads()
    }
}

/// The largest batch of any replica of the fleet: replicas with more are full, whatever their settings.
fn max_num_seqs(fleet: &Fleet<'_>) -> u32 {
    (0..fleet.len() as u32).map(|id| fleet.settings(ReplicaId(id)).max_num_seqs).max().unwrap_or(0)
}
