//! What a router sees: signals that the replicas published, from the truth to what a scraper saw seconds ago.
//!
//! Signals are indexed as they are published, so that a router need not scan the fleet for every arrival.

mod board;
mod bounds;
mod forest;
mod levels;

use crate::fact::Power;
use crate::replica::Replica;
use crate::settings::ReplicaSettings;
use crate::time::Time;
use crate::workload::{AdapterId, ReplicaId, RequestId};
pub(crate) use board::Board;
pub use bounds::{Bounds, Group, Reads};
pub use forest::Search;

/// What a replica published of an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AdapterSignal {
    /// Not on the GPU, and nobody in the replica's queue wants it.
    Absent,
    /// Somebody in the queue wants it, and it is not on the GPU.
    Waiting,
    /// On the GPU or on its way, and idle.
    Resident,
    /// In use by the batch.
    Active,
}

/// What a replica published of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signals {
    /// Sequences in its batch.
    pub running: u32,
    /// Sequences in its queue.
    pub waiting: u32,
    /// KV blocks free.
    pub kv_blocks_free: u32,
    /// KV blocks that the prefills of its queue will take.
    pub kv_blocks_promised: u64,
    /// Distinct adapters in use by its batch.
    pub adapters_active: u32,
    /// Distinct adapters wanted by its queue.
    pub adapters_waiting: u32,
    /// Adapters on its GPU or on their way.
    pub adapters_resident: u32,
    /// Bytes of those.
    pub adapter_bytes_resident: u64,
}

impl Signals {
    /// Sequences that are the replica's responsibility: Punica's working set.
    pub fn working_set(&self) -> u32 {
        self.running + self.waiting
    }

    /// Free KV blocks that no prefill of the queue will take.
    pub fn kv_blocks_uncommitted(&self) -> u32 {
        u64::from(self.kv_blocks_free).saturating_sub(self.kv_blocks_promised) as u32
    }

    /// The share of its `kv_blocks` KV blocks that are in use or promised to its queue: above 1 where the queue wants more
    /// than there is.
    pub fn kv_share(&self, kv_blocks: u32) -> f64 {
        let blocks = f64::from(kv_blocks);
        (blocks - f64::from(self.kv_blocks_free) + self.kv_blocks_promised as f64).max(0.0) / blocks
    }

    /// Of `max_loras` adapter slots of its batch, is one left when all of its queue are in?
    pub fn has_lora_slot(&self, max_loras: u32) -> bool {
        self.adapters_active + self.adapters_waiting < max_loras
    }
}

/// A sequence on a replica, as a migrator sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Whose.
    pub request: RequestId,
    /// Its adapter.
    pub adapter: Option<AdapterId>,
    /// When its request reached the cluster.
    pub arrival: Time,
    /// Tokens that another replica would have to prefill: prompt and emitted output, what a preemptor cut left out.
    pub tokens: u32,
}

/// The replicas, as routers, migrators and scalers see them.
#[derive(Clone, Copy)]
pub struct Fleet<'a> {
    pub(crate) now: Time,
    /// So many replicas, by id, have had their turn to compose a step at this instant.
    pub(crate) composed: u32,
    pub(crate) replicas: &'a [Replica],
    pub(crate) board: &'a Board,
}

impl<'a> Fleet<'a> {
    /// What time is it?
    pub fn now(&self) -> Time {
        self.now
    }

    /// How many replicas are there, on or off?
    pub fn len(&self) -> usize {
        self.replicas.len()
    }

    /// Is there no replica at all?
    pub fn is_empty(&self) -> bool {
        self.replicas.is_empty()
    }

    /// The replicas that take requests, by id.
    pub fn available(&self) -> &'a [ReplicaId] {
        &self.board.available
    }

    /// Does the replica take requests?
    pub fn is_available(&self, replica: ReplicaId) -> bool {
        self.replicas[replica.index()].power == Power::On
    }

    /// Is the replica paid for, and is it serving?
    pub fn power(&self, replica: ReplicaId) -> Power {
        self.replicas[replica.index()].power
    }

    /// How is the replica set?
    pub fn settings(&self, replica: ReplicaId) -> &'a ReplicaSettings {
        &self.replicas[replica.index()].settings
    }

    /// What did the replica publish?
    pub fn signals(&self, replica: ReplicaId) -> Signals {
        let mut signals = self.board.counts[replica.index()];
        if self.board.truth {
            let bound = signals.kv_blocks_free;
            signals.kv_blocks_free = self.replicas[replica.index()].kv_free_at(self.now, replica.0 < self.composed);
            debug_assert!(signals.kv_blocks_free <= bound, "blocks were freed and not published");
        }
        signals
    }

    /// All signals, but under perfect information a bound in place of the free KV blocks: there are no more. Cheaper, for
    /// rules that look at many replicas and need the blocks of few.
    pub fn counts(&self, replica: ReplicaId) -> &'a Signals {
        &self.board.counts[replica.index()]
    }

    /// Sequences in its batch and in its queue; cheaper than all signals.
    pub fn working_set(&self, replica: ReplicaId) -> u32 {
        self.board.counts[replica.index()].working_set()
    }

    /// KV blocks that `tokens` tokens take on the replica.
    pub fn kv_blocks_for(&self, replica: ReplicaId, tokens: u32) -> u32 {
        self.replicas[replica.index()].blocks(tokens)
    }

    /// What did the replica publish of the adapter?
    pub fn adapter(&self, replica: ReplicaId, adapter: AdapterId) -> AdapterSignal {
        if !self.board.truth {
            let published = &self.board.adapters[replica.index()];
            return match published.binary_search_by_key(&adapter, |&(adapter, _)| adapter) {
                Ok(position) => published[position].1,
                Err(_) => AdapterSignal::Absent,
            };
        }
        let replica = &self.replicas[replica.index()];
        if replica.residency.is_active(adapter) {
            AdapterSignal::Active
        } else if replica.residency.holds(adapter) {
            AdapterSignal::Resident
        } else if replica.waiting_adapters.count(adapter) > 0 {
            AdapterSignal::Waiting
        } else {
            AdapterSignal::Absent
        }
    }

    /// Is the adapter in the replica's host memory? Always the truth: what is in a host changes slowly.
    pub fn is_in_host(&self, replica: ReplicaId, adapter: AdapterId) -> bool {
        self.replicas[replica.index()].residency.in_host(adapter)
    }

    /// How many sequences of the replica, in its batch and in its queue, use the adapter? Always the truth: for schedulers
    /// that place every request themselves and therefore know.
    pub fn sequences_with(&self, replica: ReplicaId, adapter: AdapterId) -> u32 {
        let replica = &self.replicas[replica.index()];
        replica.residency.users(adapter) + replica.waiting_adapters.count(adapter)
    }

    /// Replicas, available or not, that published the adapter as on the GPU or on its way there, by id.
    pub fn holders(&self, adapter: AdapterId) -> &'a [ReplicaId] {
        self.board.holders(adapter, self.replicas)
    }

    /// Available replicas by (working set, id), smallest first; reverse it for the largest.
    pub fn by_working_set(&self) -> impl DoubleEndedIterator<Item = (u32, ReplicaId)> + 'a {
        self.board.by_working_set.all()
    }

    /// Available replicas whose working set is in the range, by (working set, id).
    pub fn with_working_set(
        &self,
        range: std::ops::Range<u32>,
    ) -> impl DoubleEndedIterator<Item = (u32, ReplicaId)> + 'a {
        self.board.by_working_set.range(range)
    }

    /// What is true of each available replica of the group, as far as it is read; none if there is none.
    pub fn bounds(&self, group: Group, reads: Reads) -> Option<Bounds> {
        self.board.forest(group.of, reads, self.replicas).root(group.number)
    }

    /// What is true of one replica that takes requests, that of its KV blocks if it is read.
    #[inline]
    pub(crate) fn bounds_of(&self, replica: ReplicaId, reads_kv: bool) -> Bounds {
        let signals = if reads_kv { &self.signals(replica) } else { self.counts(replica) };
        Bounds::of_one(self.settings(replica), signals)
    }

    /// Looks for the best of the group's available replicas, at as few as it can.
    pub fn search(&self, group: Group, search: &mut impl Search) {
        let kv_share = |replica| self.bounds_of(replica, true).kv_share_min;
        self.board.forest(group.of, search.reads(), self.replicas).search(group.number, search, kv_share);
    }

    /// Of the best of the group's replicas from the first to the last, as a search with these reads has just taken them, the
    /// one that `n` have a smaller id than.
    pub fn nth_best(&self, group: Group, reads: Reads, (first, last): (ReplicaId, ReplicaId), n: u32) -> ReplicaId {
        self.board.forest(group.of, reads, self.replicas).nth_best(first, last, n)
    }

    /// The sequences of the replica: its batch in order of admission, then its queue. The truth at this moment.
    pub fn sequences(&self, replica: ReplicaId) -> impl Iterator<Item = Placed> + 'a {
        let replica = &self.replicas[replica.index()];
        let done = replica.in_flight.as_ref().map_or(0, |flight| flight.steps_done(self.now));
        let rows = replica.rows.live().map(move |(running, in_step, anew)| Placed {
            request: running.request,
            adapter: running.adapter,
            arrival: running.arrival,
            tokens: anew + if in_step { done } else { 0 },
        });
        rows.chain(replica.waiting.iter().map(|waiting| Placed {
            request: waiting.request,
            adapter: waiting.adapter,
            arrival: waiting.arrival,
            tokens: waiting.tokens,
        }))
    }
}
