//! The live progress of one request, and where its time went.

use crate::draft::Refusal;
use crate::fact::Waits;
use crate::fetch;
use crate::policy::Asked;
use crate::replica::SequenceKey;
use crate::time::{Span, Time};
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

/// A live sequence: two lines of memory, what became of it and what it is. A step in which a prompt begins or ends looks at them, and in
/// between the run has looked at those of a hundred thousand others. What few sequences have is elsewhere.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub(crate) struct Sequence {
    /// When it began to wait for what it waits for. Nothing is waited for after the first token: then it is when that was there.
    since: Time,
    /// When a step first contained it. Before that, while it waits for a copy: when that ends.
    scheduled_or_copied: OnceTime,
    queue: Span,
    load: Span,
    prefill: Span,
    rare: Option<Box<Rare>>,
    /// Output tokens emitted when it last left a batch.
    pub(crate) emitted: u32,
    /// The last that had it; [`NO_REPLICA`]: none yet.
    replica: u32,
    stage: Stage,
    wait: Reason,
    has_first_token: bool,
    pub(crate) adapter_hit: Option<bool>,
    pub(crate) offered: Offered,
}

const _: () = assert!(size_of::<Option<Sequence>>() == 2 * 64);

/// In place of a replica.
const NO_REPLICA: u32 = u32::MAX;

/// What is known of a sequence that was held back, found no room for its adapter, or left a batch before its end.
#[derive(Clone, Debug)]
struct Rare {
    router: Span,
    slot: Span,
    preemption: Span,
    /// Its place in the cluster's queue.
    held: u64,
    last_token: OnceTime,
    preemptions: u32,
    migrations: u32,
    /// Tokens of its prompt that became output.
    cut: u32,
}

impl Default for Rare {
    fn default() -> Rare {
        let zero = Span::ZERO;
        let last_token = OnceTime::NEVER;
        Rare { router: zero, slot: zero, preemption: zero, held: 0, last_token, preemptions: 0, migrations: 0, cut: 0 }
    }
}

/// [`Place`], without which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Held,
    Waiting,
    Running,
    Nowhere,
}

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
        Sequence {
            since: offered.request.arrival,
            scheduled_or_copied: OnceTime::NEVER,
            queue: Span::ZERO,
            load: Span::ZERO,
            prefill: Span::ZERO,
            rare: None,
            emitted: 0,
            replica: NO_REPLICA,
            stage: Stage::Nowhere,
            wait: Reason::Router,
            has_first_token: false,
            adapter_hit: None,
            offered,
        }
    }

    fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// Where is it?
    pub(crate) fn place(&self) -> Place {
        match self.stage {
            Stage::Held => Place::Held(self.rare.as_ref().map_or(0, |rare| rare.held)),
            Stage::Waiting => Place::Waiting(ReplicaId(self.replica)),
            Stage::Running => Place::Running(ReplicaId(self.replica)),
            Stage::Nowhere => Place::Nowhere,
        }
    }

    /// It is somewhere else now.
    pub(crate) fn put(&mut self, place: Place) {
        self.stage = match place {
            Place::Held(key) => {
                self.rare().held = key;
                Stage::Held
            }
            Place::Waiting(replica) => {
                self.replica = replica.0;
                Stage::Waiting
            }
            Place::Running(replica) => {
                self.replica = replica.0;
                Stage::Running
            }
            Place::Nowhere => Stage::Nowhere,
        };
    }

    /// Where was it last? None: it never reached a replica.
    pub(crate) fn replica(&self) -> Option<ReplicaId> {
        (self.replica != NO_REPLICA).then_some(ReplicaId(self.replica))
    }

    /// Where its time to first token went, so far.
    pub(crate) fn waits(&self) -> Waits {
        let Sequence { queue, load, prefill, .. } = *self;
        let (router, slot, preemption) =
            self.rare.as_ref().map_or_else(Default::default, |rare| (rare.router, rare.slot, rare.preemption));
        Waits { router, queue, slot, load, prefill, preemption }
    }

    /// When did a step first contain it?
    pub(crate) fn scheduled(&self) -> Option<Time> {
        if self.wait == Reason::Load { None } else { self.scheduled_or_copied.get() }
    }

    /// A step that begins now contains it, and waits so long for adapters first.
    pub(crate) fn schedule(&mut self, now: Time, stall: Span) {
        self.waits_for(now, Wait::Prefill);
        if self.scheduled_or_copied.get().is_none() {
            self.scheduled_or_copied = OnceTime(now);
        }
        if !self.has_first_token {
            self.load += stall;
            self.since = now + stall;
        }
    }

    /// When was its first token there?
    pub(crate) fn first_token(&self) -> Option<Time> {
        self.has_first_token.then_some(self.since)
    }

    /// When was its last token there, as of when it last left a batch?
    pub(crate) fn last_token(&self) -> Option<Time> {
        self.rare.as_ref().and_then(|rare| rare.last_token.get())
    }

    /// It leaves a batch with so many tokens emitted, the last of them then.
    pub(crate) fn leave(&mut self, emitted: u32, last_token: Option<Time>) {
        self.emitted = emitted;
        self.rare().last_token = last_token.map_or(OnceTime::NEVER, OnceTime);
    }

    /// How often was it preempted?
    pub(crate) fn preemptions(&self) -> u32 {
        self.rare.as_ref().map_or(0, |rare| rare.preemptions)
    }

    /// How often was it migrated?
    pub(crate) fn migrations(&self) -> u32 {
        self.rare.as_ref().map_or(0, |rare| rare.migrations)
    }

    /// It is preempted once more, and so many tokens of its prompt become output.
    pub(crate) fn preempt(&mut self, cut: u32) {
        let rare = self.rare();
        rare.preemptions += 1;
        rare.cut += cut;
    }

    /// Tokens of its prompt that became output.
    pub(crate) fn cut(&self) -> u32 {
        self.rare.as_ref().map_or(0, |rare| rare.cut)
    }

    /// As a router sees it.
    pub(crate) fn asked(&self) -> Asked<'_> {
        Asked { request: &self.offered.request, emitted: self.emitted, tokens: self.tokens() }
    }

    /// Tokens to prefill before its next one: its prompt and what it had emitted when it last left a batch.
    pub(crate) fn tokens(&self) -> u32 {
        // What was cut of the prompt is in the output, as far as that is there.
        self.offered.request.prompt_tokens + self.emitted - self.cut()
    }

    /// It is migrated once more.
    pub(crate) fn migrate(&mut self) {
        self.rare().migrations += 1;
    }

    pub(crate) fn id(&self) -> RequestId {
        self.offered.request.id
    }

    /// From `now` on it waits for something else. After the first token nothing is counted any more.
    pub(crate) fn waits_for(&mut self, now: Time, wait: Wait) {
        if self.has_first_token {
            return;
        }
        if now < self.since {
            // It leaves a step that is still stalled: the rest of the stall, counted when the step began, is not waited for.
            self.load -= self.since.since(now);
            self.since = now;
        }
        let span = now.since(self.since);
        match self.wait {
            // Most are routed at once.
            Reason::Router if span.is_zero() => {}
            Reason::Router => self.rare().router += span,
            Reason::Queue => self.queue += span,
            Reason::Slot => self.rare().slot += span,
            Reason::Load => {
                let copied = std::mem::replace(&mut self.scheduled_or_copied, OnceTime::NEVER).0;
                let copying = copied.min(now).max(self.since).since(self.since);
                self.load += copying;
                self.queue += span - copying;
            }
            Reason::Prefill => self.prefill += span,
            Reason::Preemption => self.rare().preemption += span,
        }
        self.wait = match wait {
            Wait::Router => Reason::Router,
            Wait::Queue => Reason::Queue,
            Wait::Slot => Reason::Slot,
            Wait::Load { until } => {
                debug_assert!(
                    self.scheduled_or_copied.get().is_none(),
                    "whoever was in a step waits for its second chance"
                );
                self.scheduled_or_copied = OnceTime(until);
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
            // Of these nobody is told.
            Refusal::Sequences | Refusal::Taken => {}
        }
    }

    /// Its first token is there.
    pub(crate) fn first_token_at(&mut self, now: Time) {
        self.waits_for(now, Wait::Prefill);
        self.has_first_token = true;
        debug_assert_eq!(self.waits().total(), now.since(self.offered.request.arrival));
    }
}

/// The live sequences: memory follows what is in flight.
#[derive(Debug)]
pub(crate) struct Sequences {
    table: Vec<Option<Sequence>>,
    free: Vec<SequenceKey>,
}

impl Sequences {
    /// Takes memory for so many at once: lists that grow are copied, and what they leave behind is lost.
    pub(crate) fn expecting(sequences: usize) -> Sequences {
        Sequences { table: Vec::with_capacity(sequences), free: Vec::new() }
    }

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
        assert!(self.table[key as usize].take().is_some(), "a live sequence");
        self.free.push(key);
    }

    /// Asks for the memory of the next who comes.
    pub(crate) fn fetch_next(&self) {
        match self.free.last() {
            Some(key) => self.fetch(*key),
            None => fetch::end(&self.table),
        }
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
