//! What happened: facts go out to observers, and nothing comes back.

use crate::time::{Span, Time};
use crate::workload::{AdapterId, Offered, ReplicaId, RequestId};

/// Where an adapter's weights are, nearest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// In GPU memory: usable.
    Gpu,
    /// In host memory of the replica's server.
    Host,
    /// On the server's disk, where every adapter is.
    Disk,
}

/// Why a load was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LoadCause {
    /// A request at the head of the queue needs it now.
    Demand,
    /// The load path fetches it ahead of need.
    Prefetch,
}

/// Why a request was turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RejectReason {
    /// Its prompt and output can never fit the KV memory of its replica.
    TooLong,
    /// Its adapter can never fit the adapter memory of its replica.
    AdapterTooLarge,
    /// The router refused it.
    Router,
}

/// How the life of a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    /// All its output tokens were emitted.
    Finished,
    /// Its client gave up.
    TimedOut,
    /// It was turned away.
    Rejected(RejectReason),
    /// The run ended first.
    Unfinished,
}

/// Where the time before the first token went; the parts add up to it exactly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waits {
    /// In the cluster's queue, before a replica was chosen.
    pub router: Span,
    /// In a replica's queue, for a place in the batch or for KV blocks.
    pub queue: Span,
    /// For an adapter slot, or for a place among the adapters of the batch.
    pub slot: Span,
    /// For its adapter's weights.
    pub load: Span,
    /// In prefill steps, or between the chunks of a prefill.
    pub prefill: Span,
    /// Preempted or migrated: waiting again, and computed again.
    pub preemption: Span,
}

impl Waits {
    /// The sum of the parts.
    pub fn total(&self) -> Span {
        self.router + self.queue + self.slot + self.load + self.prefill + self.preemption
    }
}

/// The whole life of a request, told at its end.
#[derive(Clone, Debug)]
pub struct Life<'a> {
    /// The request and its fate.
    pub offered: &'a Offered,
    /// How it ended. The fact's time says when.
    pub end: End,
    /// Where it was last; none if it never reached a replica.
    pub replica: Option<ReplicaId>,
    /// When a step first contained it.
    pub scheduled: Option<Time>,
    /// When its first output token was there.
    pub first_token: Option<Time>,
    /// Output tokens emitted. More than it was to have if a preemptor cut its prompt: what was cut is generated.
    pub emitted: u32,
    /// Where its time to first token went, or its whole time where there was none.
    pub waits: Waits,
    /// Did its adapter lie ready on the GPU when it reached the replica? None without adapter or replica.
    pub adapter_hit: Option<bool>,
    /// Times it was preempted.
    pub preemptions: u32,
    /// Times it was migrated.
    pub migrations: u32,
}

/// One sequence's part in a stretch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Whose.
    pub request: RequestId,
    /// Its adapter.
    pub adapter: Option<AdapterId>,
    /// When its previous output token was there; none before its first.
    pub previous_token: Option<Time>,
    /// Tokens of this sequence that each step computed.
    pub tokens: u32,
    /// Was it a prefill?
    pub prefill: bool,
    /// Did each step emit a token for it? False for a chunk that does not end its prefill, and for tokens that a cancel discarded.
    pub emits: bool,
}

/// Whose row it is, and with which adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Who {
    request: RequestId,
    /// [`BASE`]: none.
    adapter: u32,
}

/// In place of an adapter: the base model.
const BASE: u32 = u32::MAX;

impl Who {
    /// A request, and the adapter that it uses; none: the base model.
    pub fn new(request: RequestId, adapter: Option<AdapterId>) -> Who {
        Who { request, adapter: adapter.map_or(BASE, |adapter| adapter.0) }
    }

    /// Whose.
    pub fn request(&self) -> RequestId {
        self.request
    }

    /// Its adapter.
    pub fn adapter(&self) -> Option<AdapterId> {
        (self.adapter != BASE).then_some(AdapterId(self.adapter))
    }
}

/// The rows of a stretch, in order of admission.
#[derive(Clone, Copy, Debug)]
pub enum Rows<'a> {
    /// One by one.
    Listed(&'a [Row]),
    /// Nearly all go on: each step computes one token for them and emits one. What is told of them all at once need not be read of
    /// each.
    GoingOn {
        /// Everybody.
        who: &'a [Who],
        /// When those who go on had their previous token.
        previous_token: Time,
        /// Those who do not, or had their previous token at another time, by their position among all.
        apart: &'a [(u32, Row)],
    },
}

impl<'a> Rows<'a> {
    /// How many are there?
    pub fn len(&self) -> usize {
        match self {
            Rows::Listed(rows) => rows.len(),
            Rows::GoingOn { who, .. } => who.len(),
        }
    }

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many go on together, and since when they had no token; the others are [`Rows::apart`].
    pub fn going_on(&self) -> (u32, Time) {
        match self {
            Rows::Listed(_) => (0, Time::ZERO),
            Rows::GoingOn { who, previous_token, apart } => ((who.len() - apart.len()) as u32, *previous_token),
        }
    }

    /// Those who are told one by one.
    pub fn apart(&self) -> impl Iterator<Item = &'a Row> + use<'a> {
        let (listed, apart) = match *self {
            Rows::Listed(rows) => (rows, &[][..]),
            Rows::GoingOn { apart, .. } => (&[][..], apart),
        };
        listed.iter().chain(apart.iter().map(|(_, row)| row))
    }

    /// Everybody.
    pub fn iter(&self) -> impl Iterator<Item = Row> + use<'a> {
        self.iter_from(0)
    }

    /// Everybody but so many who come first.
    pub fn iter_from(&self, first: usize) -> impl Iterator<Item = Row> + use<'a> {
        let (listed, who, apart, previous_token) = match *self {
            Rows::Listed(rows) => (&rows[first..], &[][..], &[][..], Time::ZERO),
            Rows::GoingOn { who, previous_token, apart } => {
                let before = apart.partition_point(|(at, _)| (*at as usize) < first);
                (&[][..], &who[first..], &apart[before..], previous_token)
            }
        };
        let mut apart = apart.iter().peekable();
        let going_on =
            (first as u32..).zip(who).map(move |(position, who)| match apart.next_if(|(at, _)| *at == position) {
                Some((_, row)) => *row,
                None => Row {
                    request: who.request(),
                    adapter: who.adapter(),
                    previous_token: Some(previous_token),
                    tokens: 1,
                    prefill: false,
                    emits: true,
                },
            });
        listed.iter().copied().chain(going_on)
    }
}

/// A step, or a run of decode steps of an unchanged batch.
///
/// Step `j` (from 0) ends `stall + Σ_{i ≤ j} (first + i × increment)` after `start`.
#[derive(Clone, Copy, Debug)]
pub struct Stretch<'a> {
    /// Where.
    pub replica: ReplicaId,
    /// When it began.
    pub start: Time,
    /// How long blocking loads held up its first step.
    pub stall: Span,
    /// How long the first step took, without the stall.
    pub first: Span,
    /// What each further step took longer than the one before it.
    pub increment: Span,
    /// How many steps.
    pub steps: u32,
    /// Who was in it.
    pub rows: Rows<'a>,
    /// So many of its first rows were the first of the last stretch of this replica, each with a token at the end of that and one in
    /// each step of this. There may be more than are said.
    pub same_rows: u32,
    /// Rows that computed nothing useful: the padding of static batches.
    pub padding_rows: u32,
    /// Distinct adapters in it.
    pub segments: u32,
    /// Sum of the attended tokens of its decode rows in the first step.
    pub decode_context_sum: u64,
    /// KV blocks in use at its end, before finished sequences let go of theirs.
    pub kv_blocks_used: u32,
    /// Sequences waiting at this replica just before its end.
    pub waiting: u32,
}

impl Stretch<'_> {
    /// When step `j` ended.
    pub fn step_end(&self, j: u32) -> Time {
        let k = u64::from(j) + 1;
        self.start + self.stall + self.first * k + self.increment * (k * (k - 1) / 2)
    }

    /// When the last step ended.
    pub fn end(&self) -> Time {
        self.step_end(self.steps - 1)
    }

    /// Decode rows, without padding.
    pub fn decode_rows(&self) -> u32 {
        let (going_on, _) = self.rows.going_on();
        going_on + self.rows.apart().filter(|row| !row.prefill).count() as u32
    }

    /// Prefill tokens of its one step; 0 for a stretch of decode steps.
    pub fn prefill_tokens(&self) -> u32 {
        self.rows.apart().filter(|row| row.prefill).map(|row| row.tokens).sum()
    }
}

/// Is the replica paid for?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Power {
    /// Not held: costs nothing, serves nobody.
    Off,
    /// Held, not yet serving.
    Starting,
    /// Held and serving.
    On,
    /// Held and serving what it has; takes nothing new.
    Draining,
}

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Fact<'a> {
    /// A request reached the router.
    Offered(&'a Offered),
    /// A request waits in the cluster's queue.
    Held(RequestId),
    /// A request was given to a replica. `recompute`: tokens it had already emitted elsewhere or before.
    Routed {
        /// Which request.
        request: RequestId,
        /// To which replica.
        replica: ReplicaId,
        /// Output tokens it brings along; they are computed again with its prompt, or with what was left of that.
        recompute: u32,
    },
    /// A step contains the request for the first time since it was routed.
    Scheduled {
        /// Which request.
        request: RequestId,
        /// Where.
        replica: ReplicaId,
    },
    /// A copy was queued on its link and takes from `start` to `done`, which is known at once: links serve in order.
    LoadStarted {
        /// Where.
        replica: ReplicaId,
        /// Which adapter.
        adapter: AdapterId,
        /// From where: the copy ends one tier nearer.
        from: Tier,
        /// Bytes copied.
        bytes: u64,
        /// Why.
        cause: LoadCause,
        /// When the link begins with it.
        start: Time,
        /// When it is there.
        done: Time,
    },
    /// A copy is there.
    LoadDone {
        /// Where.
        replica: ReplicaId,
        /// Which adapter.
        adapter: AdapterId,
        /// From where it came.
        from: Tier,
        /// Bytes copied.
        bytes: u64,
    },
    /// An adapter made room.
    Evicted {
        /// Where.
        replica: ReplicaId,
        /// Which adapter.
        adapter: AdapterId,
        /// Out of which tier.
        tier: Tier,
        /// Bytes freed.
        bytes: u64,
    },
    /// A step or a stretch of steps is over.
    Stretch(Stretch<'a>),
    /// A sequence lost its KV to make room for others.
    Preempted {
        /// Which request.
        request: RequestId,
        /// Where.
        replica: ReplicaId,
        /// KV blocks freed.
        blocks: u32,
        /// Tokens of its prompt that it did not compute and will generate, as more output, where a preemptor cuts prompts.
        cut: u32,
    },
    /// A sequence was cancelled on one replica to be added to another.
    Migrated {
        /// Which request.
        request: RequestId,
        /// From where.
        from: ReplicaId,
        /// To where.
        to: ReplicaId,
    },
    /// A replica's power changed.
    Power {
        /// Which replica.
        replica: ReplicaId,
        /// To what.
        power: Power,
    },
    /// The life of a request is over.
    Ended(Life<'a>),
}

/// Who watches a run. Watching changes nothing: a run with and without observers is the same run.
pub trait Observer {
    /// What happened, and when. Times never decrease but for [`Stretch::start`].
    fn observe(&mut self, now: Time, fact: &Fact<'_>);

    /// A stretch of this replica will be told soon, most likely: whoever keeps something of each of thousands of replicas can ask for that
    /// memory now, by [`crate::fetch`]. Nothing may depend on it but how long that takes.
    fn expect(&self, _replica: ReplicaId, _soon: &Soon<'_>) {}
}

/// What of a replica is near enough to be looked at, some events before a stretch of it is told.
#[derive(Clone, Copy, Debug)]
pub enum Soon<'a> {
    /// Nothing yet.
    Replica,
    /// What [`Soon::Replica`] asked for.
    Lists,
    /// What [`Soon::Lists`] asked for: these will be the rows, and the first `same` of them [`Stretch::same_rows`].
    Rows {
        /// Everybody.
        who: &'a [Who],
        /// How many.
        same: usize,
    },
}

/// Nobody watches.
impl Observer for () {
    fn observe(&mut self, _: Time, _: &Fact<'_>) {}
}

/// Two watch.
impl<A: Observer, B: Observer> Observer for (A, B) {
    fn observe(&mut self, now: Time, fact: &Fact<'_>) {
        self.0.observe(now, fact);
        self.1.observe(now, fact);
    }

    fn expect(&self, replica: ReplicaId, soon: &Soon<'_>) {
        self.0.expect(replica, soon);
        self.1.expect(replica, soon);
    }
}

impl<O: Observer + ?Sized> Observer for &mut O {
    fn observe(&mut self, now: Time, fact: &Fact<'_>) {
        (**self).observe(now, fact);
    }

    fn expect(&self, replica: ReplicaId, soon: &Soon<'_>) {
        (**self).expect(replica, soon);
    }
}
