//! What the time in a replica's queue is counted to, worked out once more from what a batcher was told.
//!
//! Why somebody is refused is no fact, so here the batcher itself writes it down. Whoever is refused waits for that from then on, unless
//! nothing happened since the batcher was last asked, and it had no prompts then: the first answer stands. That rule is here a second time,
//! from facts.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use aril_sim::conformance::{RandomPolicies, shrink};
use aril_sim::draft::{Draft, Refusal};
use aril_sim::fact::{End, Fact, Life, LoadCause, Observer, Power, Tier};
use aril_sim::policy::{Batcher, LoadMode, Policies};
use aril_sim::time::{Span, Time};
use aril_sim::workload::{AdapterId, ReplicaId, RequestId};

use super::case::Case;
use super::differential::soak_seeds;

/// What a request waits for in the first queue that it stands in.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Reason {
    /// It does not, or no longer.
    None,
    Queue,
    Slot,
    /// A copy, and in the queue when that is there.
    Load(Time),
}

#[derive(Debug)]
struct Waiter {
    adapter: Option<AdapterId>,
    reason: Reason,
    since: Time,
    queue: Span,
    slot: Span,
    load: Span,
    /// The copy that is kept for it.
    awaits: Option<u32>,
    came: bool,
}

impl Waiter {
    fn waits_for(&mut self, now: Time, reason: Reason) {
        let waited = now.since(self.since);
        match self.reason {
            Reason::None => {}
            Reason::Queue => self.queue += waited,
            Reason::Slot => self.slot += waited,
            Reason::Load(until) => {
                let copying = until.min(now).since(self.since.min(until));
                self.load += copying;
                self.queue += waited - copying;
            }
        }
        (self.reason, self.since) = (reason, now);
    }
}

/// An adapter on a GPU, or on its way there.
#[derive(Debug)]
struct Copy {
    number: u32,
    ready: Time,
    is_there: bool,
}

#[derive(Debug, Default)]
struct Site {
    places: usize,
    /// Has anything happened since the batcher was last asked, and had it then?
    changed: bool,
    tells: bool,
    queue: Vec<RequestId>,
    batch: Vec<RequestId>,
    gpu: BTreeMap<AdapterId, Copy>,
    /// When the load path may have looked at the queue. What it did is told after why it did.
    looked: Option<Time>,
}

/// How often was what seen?
#[derive(Debug, Default)]
struct Seen {
    ended: u64,
    slot: u64,
    load: u64,
    slot_after_load: u64,
}

struct Ledger {
    policies: RandomPolicies,
    sites: Vec<Site>,
    waiters: BTreeMap<RequestId, Waiter>,
    copies: u32,
    seen: Seen,
    problem: Option<String>,
}

impl Ledger {
    /// The batcher of this replica is asked for a step.
    fn asked(&mut self, replica: ReplicaId) {
        self.look();
        let site = &mut self.sites[replica.index()];
        site.tells = std::mem::take(&mut site.changed);
    }

    fn refused(&mut self, now: Time, replica: ReplicaId, request: RequestId, refusal: Refusal) {
        let site = &self.sites[replica.index()];
        let waiter = self.waiters.get_mut(&request).expect("it was offered");
        let reason = match refusal {
            Refusal::Sequences | Refusal::Taken => return,
            Refusal::KvBlocks | Refusal::Tokens => Reason::Queue,
            Refusal::BatchAdapters | Refusal::AdapterMemory => Reason::Slot,
            Refusal::AdapterLoading => {
                let copy = &site.gpu[&waiter.adapter.expect("it waits for one")];
                waiter.awaits = Some(copy.number);
                Reason::Load(copy.ready)
            }
        };
        if site.tells && waiter.reason != Reason::None {
            self.seen.slot_after_load += u64::from(reason == Reason::Slot && matches!(waiter.reason, Reason::Load(_)));
            waiter.waits_for(now, reason);
        }
    }

    /// The load path looked at the first of the queues: whose adapter is on its way by now waits for that.
    fn look(&mut self) {
        for site in &mut self.sites {
            let Some(now) = site.looked.take() else { continue };
            for request in site.queue.iter().take(self.policies.ahead) {
                let waiter = self.waiters.get_mut(request).expect("it was offered");
                let Some(adapter) = waiter.adapter else { continue };
                let Some(copy) = site.gpu.get(&adapter) else { break };
                if waiter.awaits == Some(copy.number) {
                    continue;
                }
                waiter.awaits = Some(copy.number);
                let waits = !copy.is_there && self.policies.load_mode == LoadMode::Overlapped;
                if waits && waiter.reason != Reason::None {
                    waiter.waits_for(now, Reason::Load(copy.ready));
                }
            }
        }
    }

    fn leaves(&mut self, now: Time, request: RequestId) {
        for site in &mut self.sites {
            for list in [&mut site.queue, &mut site.batch] {
                let before = list.len();
                list.retain(|other| *other != request);
                site.changed |= list.len() < before;
            }
        }
        let waiter = self.waiters.get_mut(&request).expect("it was offered");
        waiter.waits_for(now, Reason::None);
        waiter.awaits = None;
    }

    fn ends(&mut self, now: Time, life: &Life<'_>) {
        let request = life.offered.request.id;
        if life.end == End::Finished {
            let site = self.sites.iter_mut().find(|site| site.batch.contains(&request));
            site.expect("it runs").looked = Some(now);
        }
        self.leaves(now, request);
        let waiter = self.waiters.remove(&request).expect("it was offered");
        self.seen.ended += 1;
        self.seen.slot += u64::from(!waiter.slot.is_zero());
        self.seen.load += u64::from(!waiter.load.is_zero());
        let (queue, slot) = (life.waits.queue, life.waits.slot);
        if (queue, slot) != (waiter.queue, waiter.slot) {
            self.problem.get_or_insert(format!(
                "request {} is told to have waited {queue} in a queue and {slot} for a place, and was refused so that it waited {} and {}",
                request.0, waiter.queue, waiter.slot
            ));
        }
    }

    fn fact(&mut self, now: Time, fact: &Fact<'_>) {
        let one_look = |fact: &Fact<'_>| match fact {
            Fact::LoadStarted { .. } | Fact::Evicted { .. } => true,
            Fact::Ended(life) => life.end == End::Finished,
            _ => false,
        };
        if !one_look(fact) {
            self.look();
        }
        match *fact {
            Fact::Offered(offered) => {
                let (adapter, zero) = (offered.request.adapter, Span::ZERO);
                let waiter = Waiter {
                    adapter,
                    reason: Reason::None,
                    since: now,
                    queue: zero,
                    slot: zero,
                    load: zero,
                    awaits: None,
                    came: false,
                };
                self.waiters.insert(offered.request.id, waiter);
            }
            Fact::Routed { request, replica, .. } => {
                let site = &mut self.sites[replica.index()];
                site.queue.push(request);
                // A full batch lets nobody in.
                site.changed |= site.batch.len() < site.places;
                site.looked = Some(now);
                let waiter = self.waiters.get_mut(&request).expect("it was offered");
                if !std::mem::replace(&mut waiter.came, true) {
                    waiter.waits_for(now, Reason::Queue);
                }
            }
            Fact::Scheduled { request, replica } => {
                let site = &mut self.sites[replica.index()];
                site.queue.retain(|other| *other != request);
                site.batch.push(request);
                let waiter = self.waiters.get_mut(&request).expect("it was offered");
                waiter.waits_for(now, Reason::None);
                waiter.awaits = None;
            }
            Fact::Preempted { request, replica, .. } => {
                self.leaves(now, request);
                if !self.policies.requeue_to_cluster {
                    self.sites[replica.index()].queue.insert(0, request);
                }
            }
            Fact::Migrated { request, .. } => {
                self.leaves(now, request);
                self.waiters.get_mut(&request).expect("it was offered").came = true;
            }
            Fact::LoadStarted { replica, adapter, from: Tier::Host, done, cause, .. } => {
                let site = &mut self.sites[replica.index()];
                self.copies += 1;
                site.gpu.insert(adapter, Copy { number: self.copies, ready: done, is_there: false });
                // What is fetched beside a step changes what it costs.
                site.changed |= cause == LoadCause::Prefetch;
            }
            Fact::LoadDone { replica, adapter, from: Tier::Host, .. } => {
                let site = &mut self.sites[replica.index()];
                site.gpu.get_mut(&adapter).expect("it was copied").is_there = true;
                site.changed = true;
            }
            Fact::Evicted { replica, adapter, tier: Tier::Gpu, .. } => {
                self.sites[replica.index()].gpu.remove(&adapter);
            }
            Fact::Power { replica, power: Power::Off } => self.sites[replica.index()].gpu.clear(),
            Fact::Stretch(ref stretch) => {
                let site = &mut self.sites[stretch.replica.index()];
                // The prompts of one step leave others to the next.
                site.changed |= stretch.rows.apart().any(|row| row.prefill);
                // Who was withdrawn from the step leaves the batch at its end.
                if stretch.rows.iter().any(|row| !site.batch.contains(&row.request)) {
                    site.looked = Some(stretch.end());
                }
            }
            Fact::Ended(ref life) => self.ends(now, life),
            _ => {}
        }
    }
}

#[derive(Clone)]
struct Notes(Arc<Mutex<Ledger>>);

impl Notes {
    fn of(case: &Case) -> Notes {
        let replicas = case.scenario.settings.replicas.iter();
        let sites = replicas.map(|replica| Site { places: replica.max_num_seqs as usize, ..Site::default() });
        Notes(Arc::new(Mutex::new(Ledger {
            policies: case.policies.clone(),
            sites: sites.collect(),
            waiters: BTreeMap::new(),
            copies: 0,
            seen: Seen::default(),
            problem: None,
        })))
    }

    fn open(&self) -> MutexGuard<'_, Ledger> {
        self.0.lock().expect("nobody panicked over it")
    }
}

impl Observer for Notes {
    fn observe(&mut self, now: Time, fact: &Fact<'_>) {
        self.open().fact(now, fact);
    }
}

/// Admits as it is told to, and writes down who was refused.
struct Noting {
    replica: ReplicaId,
    policies: RandomPolicies,
    notes: Notes,
}

impl Noting {
    fn admit(&self, draft: &mut Draft<'_>, chunk: u32) {
        let mut admitted = 0;
        for position in 0..draft.waiting_len() {
            let Some(queued) = draft.waiting(position) else { continue };
            if admitted == self.policies.admit_max {
                return;
            }
            let is_whole = self.policies.chunk == 0 && queued.tokens <= draft.settings().max_num_batched_tokens;
            let answer = if is_whole { draft.admit(position) } else { draft.admit_chunk(position, chunk) };
            match answer {
                Ok(_) => admitted += 1,
                Err(refusal) => {
                    self.notes.open().refused(draft.now(), self.replica, queued.request, refusal);
                    if self.policies.stop_at_refusal {
                        return;
                    }
                }
            }
        }
    }
}

impl Batcher for Noting {
    fn compose(&mut self, draft: &mut Draft<'_>) {
        self.notes.open().asked(self.replica);
        if self.policies.decode_first {
            draft.decode_all();
        }
        let chunk = if self.policies.chunk > 0 { self.policies.chunk } else { u32::MAX };
        for position in 0..draft.running_len() {
            let _ = draft.prefill(position, chunk);
        }
        self.admit(draft, chunk);
        let is_alone = self.policies.prefill_alone && draft.tokens() > 0;
        if !self.policies.decode_first && !is_alone {
            draft.decode_all();
        }
    }
}

/// The case with a batcher that notes, many steps at once or one by one.
fn noted(case: &Case, stretches: bool) -> Result<Seen, String> {
    let notes = Notes::of(case);
    let (made, policies, of_batchers) = (Mutex::new(0..), case.policies.clone(), notes.clone());
    let batcher = move || -> Box<dyn Batcher> {
        let replica = ReplicaId(made.lock().expect("a count").next().expect("a number"));
        Box::new(Noting { replica, policies: policies.clone(), notes: of_batchers.clone() })
    };
    let policies = Policies { batcher: Box::new(batcher), ..case.policies.make() };
    // One that is stuck has told what it had to tell.
    let _ = case.scenario.run(&policies, stretches, &mut notes.clone());
    let mut ledger = notes.open();
    ledger.problem.take().map_or_else(|| Ok(std::mem::take(&mut ledger.seen)), Err)
}

/// Panics at the first case in which somebody is told to have waited for something else.
fn compare(seeds: Range<u64>) -> Seen {
    let fails = |case: &Case| [true, false].into_iter().find_map(|stretches| noted(case, stretches).err());
    let mut all = Seen::default();
    for case in seeds.map(Case::draw) {
        if let Some(problem) = fails(&case) {
            let (case, problem) = shrink(case, problem, Case::smaller, fails);
            panic!("{problem}\n{}", case.to_toml());
        }
        let seen = noted(&case, true).expect("it did not fail");
        all.ended += seen.ended;
        all.slot += seen.slot;
        all.load += seen.load;
        all.slot_after_load += seen.slot_after_load;
    }
    all
}

#[test]
#[ignore = "a soak for idle hours: set ARIL_SOAK_SEEDS=from..to"]
fn soak_of_reasons() {
    println!("{:?}", compare(soak_seeds()));
}

#[test]
fn everybody_waits_for_what_they_were_refused_for() {
    let all = compare(1..4_000);
    assert!(all.ended > 30_000 && all.load > 4_000 && all.slot > 1_500 && all.slot_after_load > 200, "{all:?}");
}
