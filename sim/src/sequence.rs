//! The live progress of one request, and where its time went.

use crate::draft::Refusal;
use crate::fact::Waits;
use crate::fetch;
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

/// A live sequence: three lines of memory. A step in which a prompt begins or ends looks at the first two, and in between the run has
/// looked at those of a hundred thousand others.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub(crate) struct Sequence {
    pub(crate) waits: Waits,
    since: Time,
    first_token: OnceTime,
    /// When the copy ends that it waits for, if it is one.
    copied: Time,
    scheduled: OnceTime,
    last_token: OnceTime,
    pub(crate) place: Place,
    pub(crate) replica: Option<ReplicaId>,
    /// Output tokens emitted when it last left a batch.
    pub(crate) emitted: u32,
    pub(crate) preemptions: u32,
    pub(crate) migrations: u32,
    wait: Reason,
    pub(crate) adapter_hit: Option<bool>,
    pub(crate) offered: Offered,
}

const _: () = assert!(size_of::<Option<Sequence>>() == 3 * 64);

/// [`Wait`], without when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    Router,
    Queue,
    Slot,
    Load,
    Prefill,
    Preemption,
}

/// When something happened, if it did, in the room of a time.
#[derive(Clone, Copy, Debug)]
struct OnceTime(Time);

impl OnceTime {
    /// The end of time: no event is there.
    const NEVER: OnceTime = OnceTime(Time::MAX);

    fn get(self) -> Option<Time> {
        (self.0 != Time::MAX).then_some(self.0)
    }
}

impl Sequence {
    pub(crate) fn new(offered: Offered) -> Sequence {
        let since = offered.request.arrival;
        Sequence {
            waits: Waits::default(),
            since,
            first_token: OnceTime::NEVER,
            copied: Time::ZERO,
            scheduled: OnceTime::NEVER,
            last_token: OnceTime::NEVER,
            place: Place::Nowhere,
            replica: None,
            emitted: 0,
            preemptions: 0,
            migrations: 0,
            wait: Reason::Router,
            adapter_hit: None,
            offered,
        }
    }

    /// When did a step first contain it?
    pub(crate) fn scheduled(&self) -> Option<Time> {
        self.scheduled.get()
    }

    /// A step that begins now contains it.
    pub(crate) fn schedule(&mut self, now: Time) {
        if self.scheduled.get().is_none() {
            self.scheduled = OnceTime(now);
        }
    }

    /// When was its first token there?
    pub(crate) fn first_token(&self) -> Option<Time> {
        self.first_token.get()
    }

    /// When was its last token there, as of when it last left a batch?
    pub(crate) fn last_token(&self) -> Option<Time> {
        self.last_token.get()
    }

    /// It leaves a batch with so many tokens emitted, the last of them then.
    pub(crate) fn leave(&mut self, emitted: u32, last_token: Option<Time>) {
        self.emitted = emitted;
        self.last_token = last_token.map_or(OnceTime::NEVER, OnceTime);
    }

    pub(crate) fn id(&self) -> RequestId {
        self.offered.request.id
    }

    /// From `now` on it waits for something else. After the first token nothing is counted any more.
    pub(crate) fn waits_for(&mut self, now: Time, wait: Wait) {
        if self.first_token.get().is_some() {
            return;
        }
        if now < self.since {
            // It leaves a step that is still stalled: the rest of the stall, counted when the step began, is not waited for.
            self.waits.load -= self.since.since(now);
            self.since = now;
        }
        let span = now.since(self.since);
        match self.wait {
            Reason::Router => self.waits.router += span,
            Reason::Queue => self.waits.queue += span,
            Reason::Slot => self.waits.slot += span,
            Reason::Load => {
                let copying = self.copied.min(now).max(self.since).since(self.since);
                self.waits.load += copying;
                self.waits.queue += span - copying;
            }
            Reason::Prefill => self.waits.prefill += span,
            Reason::Preemption => self.waits.preemption += span,
        }
        self.wait = match wait {
            Wait::Router => Reason::Router,
            Wait::Queue => Reason::Queue,
            Wait::Slot => Reason::Slot,
            Wait::Load { until } => {
                self.copied = until;
                Reason::Load
            }
            Wait::Prefill => Reason::Prefill,
            Wait::Preemption => Reason::Preemption,
        };
        self.since = now;
    }

    /// A draft refused it: is it for its adapter that it waits, whose copy ends at `ready`? A preempted sequence waits for its second
    /// chance, whatever the reason.
    pub(crate) fn refused(&mut self, now: Time, refusal: Refusal, ready: Time) {
        if self.wait == Reason::Preemption {
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
        self.first_token = OnceTime(now);
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

    /// Asks for the memory of a sequence.
    pub(crate) fn fetch(&self, key: SequenceKey) {
        fetch::element(&self.table, key as usize);
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
