//! What a policy is: views in, a choice out. Policy proposes, mechanism disposes.
//!
//! Each trait answers one question. A policy is one file below this module, with its source and its tunables;
//! its TOML table is its own `Deserialize`. Policies keep no clock and no random numbers of their own: both are handed in.
//!
//! A run may advance many equal decode steps at once, so a policy is asked when something changed, and perhaps, perhaps
//! not, at the steps between: asked twice about the same state, it must answer the same.

pub mod batcher;
pub mod evictor;
pub mod load_path;
pub mod migrator;
pub mod preemptor;
pub mod router;
pub mod scaler;
mod tunable;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use tunable::{Ground, Tunable};

use crate::draft::Draft;
use crate::fleet::Fleet;
use crate::random::Stream;
use crate::time::{Span, Time};
use crate::workload::{AdapterId, ReplicaId, Request, RequestId};

/// A request that looks for a replica: a new one, or one that lost its place.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// What arrived.
    pub request: &'a Request,
    /// Output tokens that it has already emitted.
    pub emitted: u32,
    /// Tokens that its next replica must prefill: its prompt, or what a preemptor left of it, and what it has emitted.
    pub tokens: u32,
}

/// A router's choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// To this replica's queue.
    To(ReplicaId),
    /// Into the cluster's queue, until capacity is freed.
    Hold,
    /// Away: it ends as rejected.
    Reject,
}

/// Which replica takes the request?
pub trait Router {
    /// Where does `asked` go, as far as the published signals tell?
    ///
    /// A held request is asked about again whenever capacity was freed, in the order of [`Router::queue_key`]; the first
    /// that must still wait blocks those behind it.
    fn route(&mut self, asked: &Asked<'_>, fleet: &Fleet<'_>, random: &mut Stream) -> Route;

    /// Where does a held request stand in the cluster's queue? Smaller keys first, ties by request id. First come, first
    /// served by arrival at the cluster unless overridden, so that a preempted request keeps its place.
    fn queue_key(&self, asked: &Asked<'_>) -> u64 {
        asked.request.arrival.as_ps()
    }
}

/// What does the next step of a replica compute?
pub trait Batcher {
    /// Fills `draft`; whatever it refuses stays where it was. An empty draft leaves the replica idle until something changes.
    fn compose(&mut self, draft: &mut Draft<'_>);
}

/// An adapter that lies in a memory and that nobody uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Idle {
    /// Which adapter.
    pub adapter: AdapterId,
    /// Its size.
    pub bytes: u64,
    /// When its copy into this memory was started.
    pub loaded: Time,
    /// When a sequence last began or ended to use it; when it was loaded if none did.
    pub last_used: Time,
    /// How many sequences used it since it was loaded.
    pub uses: u64,
}

/// Which idle adapter makes room?
pub trait Evictor {
    /// Position in `idle` (never empty, ordered by adapter) of the one that goes, or none to refuse the newcomer.
    fn victim(&mut self, now: Time, idle: &[Idle]) -> Option<usize>;

    /// Does an adapter stay on the GPU when the last sequence of the batch that used it has left? If not, it goes at once, unless
    /// it was fetched for somebody in the queue.
    fn keeps_idle(&self) -> bool {
        true
    }
}

/// How the engine treats a missing adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LoadMode {
    /// The step that needs the adapter waits for the copy, and everybody in it too.
    Blocking,
    /// Steps go on; the request joins the batch when the copy is there.
    Overlapped,
}

/// How do adapters come to the GPU?
pub trait LoadPath {
    /// Does a step wait for a copy?
    fn mode(&self) -> LoadMode;

    /// For how many requests at the head of a replica's queue are copies started ahead of need? 0: on demand only.
    /// A copy ahead of need only ever takes free room or that of idle adapters which were not fetched for somebody in the
    /// queue.
    fn ahead(&self) -> usize {
        0
    }
}

/// A sequence in a replica's batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Running {
    /// Whose.
    pub request: RequestId,
    /// Its adapter.
    pub adapter: Option<AdapterId>,
    /// When its request reached the cluster.
    pub arrival: Time,
    /// Counts the admissions on this replica: larger is later.
    pub admitted: u64,
    /// Tokens whose KV is in memory.
    pub computed: u32,
    /// Prompt and recomputed tokens that must be computed before its next token.
    pub target: u32,
    /// Output tokens emitted.
    pub emitted: u32,
    /// The client's cap on its output tokens.
    pub max_tokens: u32,
    /// KV blocks it holds.
    pub kv_blocks: u32,
}

impl Running {
    /// Is its prefill over?
    pub fn decodes(&self) -> bool {
        self.computed >= self.target
    }
}

/// Where a preempted sequence waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Requeue {
    /// At the head of its replica's queue.
    Replica,
    /// With the router, which may send it anywhere.
    Cluster,
}

/// Who gives way when KV blocks run out?
pub trait Preemptor {
    /// Position in `running` (never empty) of the sequence that is preempted.
    fn victim(&mut self, running: &[Running]) -> usize;

    /// Where does it wait?
    fn requeue(&self) -> Requeue;

    /// How many blocks must at least be free before a step with `running` sequences takes its own?
    fn reserve(&self, running: u32) -> u32 {
        let _ = running;
        0
    }

    /// Must each sequence that decodes find a block free when its turn in a step comes, in order of arrival, also one whose last has room?
    fn each_finds_a_free_block(&self) -> bool {
        false
    }

    /// Does a sequence that gives way in the middle of its prefill keep as its prompt what it had computed, and generate the rest token by
    /// token, as more output?
    fn cuts_prompts(&self) -> bool {
        false
    }
}

/// A sequence that moves: cancelled where it is, added where it goes, its KV computed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// Which request.
    pub request: RequestId,
    /// Where it is.
    pub from: ReplicaId,
    /// Where it goes.
    pub to: ReplicaId,
}

/// Who moves where?
pub trait Migrator {
    /// How often is it asked?
    fn period(&self) -> Span;

    /// Which sequences move now? A move to a replica that is off or too small, or of a request that is not where it was said to be, is ignored.
    fn plan(&mut self, fleet: &Fleet<'_>, random: &mut Stream) -> Vec<Move>;
}

/// A change in the GPUs held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Acquire this replica: it serves after its start-up time.
    Acquire(ReplicaId),
    /// Let go of this replica: at once if it is empty, else when it has drained.
    Release(ReplicaId),
}

/// How many GPUs are held?
pub trait Scaler {
    /// How often is it asked? It is also asked whenever a request must be held.
    fn period(&self) -> Span;

    /// What changes now? `held` requests wait in the cluster's queue. Acquiring what is held and releasing what is off do nothing.
    fn plan(&mut self, fleet: &Fleet<'_>, held: usize) -> Vec<Scale>;
}

/// A maker of one kind of policy: called once for a cluster-wide policy, once a replica for the others.
pub type Make<P> = Box<dyn Fn() -> Box<P> + Send + Sync>;

/// The policies of one run.
pub struct Policies {
    /// Which replica takes the request?
    pub router: Make<dyn Router>,
    /// What does the next step compute?
    pub batcher: Make<dyn Batcher>,
    /// Which idle adapter makes room, on the GPU and in the host?
    pub evictor: Make<dyn Evictor>,
    /// How do adapters come to the GPU?
    pub load_path: Make<dyn LoadPath>,
    /// Who gives way when KV blocks run out?
    pub preemptor: Make<dyn Preemptor>,
    /// Who moves where? None: nobody.
    pub migrator: Option<Make<dyn Migrator>>,
    /// How many GPUs are held? None: those that are on from the start.
    pub scaler: Option<Make<dyn Scaler>>,
}
