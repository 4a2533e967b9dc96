//! The live progress of one request, and where its time went.

use crate::draft::Refusal;
use crate::fact::Waits;
use crate::replica::SequenceKey;
use crate::time::Time;
use crate::workload::{Offered, ReplicaId, RequestId};

/// Where a live sequence is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the cluster's queue, under this key.
    Held(u64),
    /// In a replica's queue.
    Waiting(ReplicaId),
    /// In a replica's batch.
    Running(ReplicaId),
    /// Between two places, within one event.
    Nowhere,
}

/// What a sequence waits for before its first token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    Router,
    Queue,
    Slot,
    /// A copy that ends then; from there on it waits like everybody in the queue.
    Load {
        until: Time,
    },
    Prefill,
    Preemption,
}

#[derive(Clone, Debug)]
pub(crate) struct Sequence {
    pub(crate) offered: Offered,
    pub(crate) place: Place,
    pub(crate) replica: Option<ReplicaId>,
    /// Output tokens emitted when it last left a batch.
    pub(crate) emitted: u32,
    pub(crate) last_token: Option<Time>,
    pub(crate) scheduled: Option<Time>,
    pub(crate) first_token: Option<Time>,
    pub(crate) adapter_hit: Option<bool>,
    pub(crate) preemptions: u32,
    pub(crate) migrations: u32,
    pub(crate) waits: Waits,
    wait: Wait,
    since: Time,
}

impl Sequence {
    pub(crate) fn new(offered: Offered) -> Sequence {
        let since = offered.request.arrival;
        Sequence {
            offered,
            place: Place::Nowhere,
            replica: None,
            emitted: 0,
            last_token: None,
            scheduled: None,
            first_token: None,
            adapter_hit: None,
            preemptions: 0,
            migrations: 0,
            waits: Waits::default(),
            wait: Wait::Router,
            since,
        }
    }

    pub(crate) fn id(&self) -> RequestId {
        self.offered.request.id
    }

    /// From `now` on it waits for something else. After the first token nothing is counted any more.
    pub(crate) fn waits_for(&mut self, now: Time, wait: Wait) {
        if self.first_token.is_some() {
            return;
        }
        if now < self.since {
            // It leaves a step that is still stalled: the rest of the stall, counted when the step began, is not waited for.
            self.waits.load -= self.since.since(now);
            self.since = now;
        }
        let span = now.since(self.since);
        match self.wait {
            Wait::Router => self.waits.router += span,
            Wait::Queue => self.waits.queue += span,
            Wait::Slot => self.waits.slot += span,
            Wait::Load { until } => {
                let copying = until.min(now).max(self.since).since(self.since);
                self.waits.load += copying;
                self.waits.queue += span - copying;
            }
            Wait::Prefill => self.waits.prefill += span,
            Wait::Preemption => self.waits.preemption += span,
        }
        self.wait = wait;
        self.since = now;
    }

    /// A draft refused it: is it for its adapter that it waits, whose copy ends at `ready`? A preempted sequence waits for its second
    /// chance, whatever the reason.
    pub(crate) fn refused(&mut self, now: Time, refusal: Refusal, ready: Time) {
        if self.wait == Wait::Preemption {
            return;
        }
        match refusal {
            Refusal::KvBlocks | Refusal::Tokens => self.waits_for(now, Wait::Queue),
            Refusal::BatchAdapters | Refusal::AdapterMemory => self.waits_for(now, Wait::Slot),
            Refusal::AdapterLoading => self.waits_for(now, Wait::Load { until: ready }),
            // A full batch tells nothing new: it is the same at every step until somebody leaves.
            Refusal::Sequences | Refusal::Taken => {}
        }
    }

    /// Its first token is there.
    pub(crate) fn first_token_at(&mut self, now: Time) {
        self.waits_for(now, Wait::Prefill);
        self.first_token = Some(now);
        debug_assert_eq!(self.waits.total(), now.since(self.offered.request.arrival));
    }
}

/// The live sequences: memory follows what is in flight.
#[derive(Debug, Default)]
pub(crate) struct Sequences {
    table: Vec<Option<Sequence>>,
    free: Vec<SequenceKey>,
}

impl Sequences {
    pub(crate) fn insert(&mut self, sequence: Sequence) -> SequenceKey {
        match self.free.pop() {
            Some(key) => {
                self.table[key as usize] = Some(sequence);
                key
            }
            None => {
                self.table.push(Some(sequence));
                (self.table.len() - 1) as SequenceKey
            }
        }
    }

    pub(crate) fn remove(&mut self, key: SequenceKey) {
        assert!(self.table[key as usize].is_some(), "a live sequence");
        self.free.push(key);
        self.table[key as usize] = None;
    }

    pub(crate) fn get(&self, key: SequenceKey) -> &Sequence {
        self.table[key as usize].as_ref().expect("a live sequence")
    }

    pub(crate) fn get_mut(&mut self, key: SequenceKey) -> &mut Sequence {
        self.table[key as usize].as_mut().expect("a live sequence")
    }

    /// The key, if the request is still alive under it.
    pub(crate) fn is_alive(&self, key: SequenceKey, request: RequestId) -> bool {
        self.table[key as usize].as_ref().is_some_and(|sequence| sequence.id() == request)
    }

    pub(crate) fn len(&self) -> usize {
        self.table.len() - self.free.len()
    }

    /// Live sequences in order of request.
    pub(crate) fn keys(&self) -> Vec<SequenceKey> {
        let live = |&key: &SequenceKey| self.table[key as usize].is_some();
        let mut keys: Vec<SequenceKey> = (0..self.table.len() as SequenceKey).filter(live).collect();
        keys.sort_unstable_by_key(|&key| self.get(key).id());
        keys
    }
}
