//! What the replicas published, and its indexes. Those that not every router reads are kept from the first time that
//! anybody asks.

use std::cell::{OnceCell, RefCell};
use std::rc::Rc;

use super::bounds::{Bounds, Reads};
use super::forest::Forest;
use super::levels::Levels;
use super::{AdapterSignal, Signals};
use crate::fact::Power;
use crate::fetch;
use crate::replica::Replica;
use crate::time::Time;
use crate::workload::{AdapterId, ReplicaId};

/// Published signals and their indexes.
#[derive(Debug)]
pub(crate) struct Board {
    pub(super) truth: bool,
    pub(super) counts: Vec<Signals>,
    /// Replicas that take requests, by id.
    pub(super) available: Vec<ReplicaId>,
    pub(super) by_working_set: Levels,
    /// Adapters of the catalogue.
    catalog: usize,
    /// Replicas that published an adapter as on the GPU, kept from the first time that anybody asks.
    holders: OnceCell<Vec<Vec<ReplicaId>>>,
    /// Bounds by group, one for each number of groups and each way to read them that anybody asked for, kept from then on.
    bounds: RefCell<Vec<Rc<Forest>>>,
    /// Stale boards keep the adapters that were published: (adapter, signal), by adapter.
    pub(super) adapters: Vec<Vec<(AdapterId, AdapterSignal)>>,
}

impl Board {
    pub(crate) fn new(replicas: &[Replica], adapters: usize, truth: bool) -> Board {
        let mut board = Board {
            truth,
            counts: vec![Signals::default(); replicas.len()],
            available: Vec::new(),
            by_working_set: Levels::default(),
            catalog: adapters,
            holders: OnceCell::new(),
            bounds: RefCell::default(),
            adapters: vec![Vec::new(); replicas.len()],
        };
        for replica in replicas {
            board.power(replica);
        }
        board
    }

    /// Asks for the memory that publishing is about to change.
    pub(crate) fn fetch(&self, replica: usize) {
        fetch::element(&self.counts, replica);
    }

    /// How many replicas take requests?
    pub(crate) fn available(&self) -> usize {
        self.available.len()
    }

    /// A replica was acquired or let go of. Everybody knows at once.
    pub(crate) fn power(&mut self, replica: &Replica) {
        let working_set = self.counts[replica.id.index()].working_set();
        match (replica.power == Power::On, self.available.binary_search(&replica.id)) {
            (true, Err(position)) => {
                self.available.insert(position, replica.id);
                self.by_working_set.insert(working_set, replica.id);
            }
            (false, Ok(position)) => {
                self.available.remove(position);
                self.by_working_set.remove(working_set, replica.id);
            }
            _ => {}
        }
        self.bound(replica);
    }

    /// The indexes learn what the replica published, those that anybody reads.
    fn bound(&mut self, replica: &Replica) {
        let (signals, exact) = (&self.counts[replica.id.index()], self.is_exact(replica));
        for forest in self.bounds.get_mut() {
            forest.set(replica.id, Bounds::of(replica, signals, exact, forest.reads()));
        }
    }

    /// Are the KV blocks that it published those that it has until it publishes again? Steps take some, but not of who has
    /// no batch.
    fn is_exact(&self, replica: &Replica) -> bool {
        !self.truth || replica.rows.is_empty()
    }

    /// The index of so many groups for who reads this, from now on if not from before.
    pub(super) fn forest(&self, groups: u32, reads: Reads, replicas: &[Replica]) -> Rc<Forest> {
        let mut forests = self.bounds.borrow_mut();
        if let Some(forest) = forests.iter().find(|forest| forest.is_of(groups, reads)) {
            return Rc::clone(forest);
        }
        let of = |replica: usize| {
            let replica = &replicas[replica];
            Bounds::of(replica, &self.counts[replica.id.index()], self.is_exact(replica), reads)
        };
        let forest = Rc::new(Forest::new(groups, reads, replicas.len(), of));
        forests.push(Rc::clone(&forest));
        forest
    }

    /// What entered and left the GPU memory of the replica is indexed, if anybody reads the index.
    fn publish_adapters(&mut self, replica: &mut Replica) {
        let changes = replica.residency.changes.drain(..);
        let Some(holders) = self.holders.get_mut() else { return };
        for (adapter, entered) in changes {
            hold(&mut holders[adapter.index()], replica.id, entered);
        }
    }

    /// Who published the adapter as on the GPU or on its way there, by id.
    pub(super) fn holders(&self, adapter: AdapterId, replicas: &[Replica]) -> &[ReplicaId] {
        &self.holders.get_or_init(|| self.index(replicas))[adapter.index()]
    }

    /// The index as it would be, had it been kept from the start: what is on the GPUs, less what was not published yet.
    fn index(&self, replicas: &[Replica]) -> Vec<Vec<ReplicaId>> {
        let mut holders = vec![Vec::new(); self.catalog];
        for replica in replicas {
            for (adapter, _) in replica.residency.on_gpu() {
                hold(&mut holders[adapter.index()], replica.id, true);
            }
            for &(adapter, entered) in replica.residency.changes.iter().rev() {
                hold(&mut holders[adapter.index()], replica.id, !entered);
            }
        }
        holders
    }

    /// The replica publishes what is true of it now.
    pub(crate) fn publish(&mut self, replica: &mut Replica, now: Time) {
        let signals = Signals {
            running: replica.rows.len() as u32 - replica.rows.ghosts(),
            waiting: replica.waiting.len() as u32,
            // Under perfect information it is read when it is asked for: it falls with every step, and rises only with
            // what is published, so that this is a bound.
            kv_blocks_free: if self.truth { replica.kv_free } else { replica.kv_free_at(now, false) },
            kv_blocks_promised: replica.waiting_blocks,
            adapters_active: replica.residency.active(),
            adapters_waiting: replica.waiting_adapters.len() as u32,
            adapters_resident: replica.residency.resident(),
            adapter_bytes_resident: replica.residency.resident_bytes(),
        };
        let before = std::mem::replace(&mut self.counts[replica.id.index()], signals);
        if before.working_set() != signals.working_set() && replica.power == Power::On {
            self.by_working_set.remove(before.working_set(), replica.id);
            self.by_working_set.insert(signals.working_set(), replica.id);
        }
        self.bound(replica);
        self.publish_adapters(replica);
        if !self.truth {
            let published = &mut self.adapters[replica.id.index()];
            published.clear();
            published.extend(replica.residency.on_gpu().map(|(adapter, active)| {
                (adapter, if active { AdapterSignal::Active } else { AdapterSignal::Resident })
            }));
            published.extend(
                replica
                    .waiting_adapters
                    .adapters()
                    .filter(|&adapter| !replica.residency.holds(adapter))
                    .map(|adapter| (adapter, AdapterSignal::Waiting)),
            );
            published.sort_unstable_by_key(|&(adapter, _)| adapter);
        }
    }
}

/// A replica begins or ends to hold an adapter, one of whose holders, by id, these are.
fn hold(holders: &mut Vec<ReplicaId>, replica: ReplicaId, begins: bool) {
    match (begins, holders.binary_search(&replica)) {
        (true, Err(position)) => holders.insert(position, replica),
        (false, Ok(position)) => {
            holders.remove(position);
        }
        _ => {}
    }
}
