//! An outside checker: keeps books of its own from facts alone, and says where the engine's do not balance.
//!
//! What it checks it checks by `ensure` or by `ok_or`, each with words of its own: for every one of them there is a lie in
//! `tests/truth/lies.rs` that it must name.

mod adapters;
mod life;
mod little;
mod steps;
mod waits;

use std::collections::BTreeMap;

use crate::fact::{End, Fact, Life, Observer, Power, Tier};
use crate::settings::ClusterSettings;
use crate::time::{Span, Time};
use crate::workload::{AdapterId, Catalog, Offered, ReplicaId, RequestId};
use adapters::Adapters;
use life::{Phase, Progress};
use little::Little;

/// Watches a run and checks that every request is offered once and ends once, that its waits and tokens add up, that
/// nobody waits for what is not short, that steps of a replica and copies on a link do not overlap, that KV blocks,
/// adapter memory and batch limits are kept, and that Little's law holds, for every tenant. Memory follows what is in
/// flight.
#[derive(Debug)]
pub struct Books<'a> {
    settings: &'a ClusterSettings,
    catalog: &'a Catalog,
    now: Time,
    offered: u64,
    live: BTreeMap<RequestId, Progress>,
    replicas: Vec<Site>,
    /// Tokens that gone requests may still have in the step in flight: request, replica, when they went, blocks.
    ghosts: Vec<Ghost>,
    /// ∫ N dt and Σ sojourn, in picoseconds.
    in_system: u128,
    sojourns: u128,
    little: Little,
    problem: Option<String>,
}

#[derive(Debug)]
struct Site {
    power: Power,
    /// Since when.
    switched: Time,
    last_end: Time,
    /// Who got a token at the end of its last stretch.
    batch: Vec<RequestId>,
    waiting: u32,
    running: u32,
    adapters: Adapters,
    /// When it last composed a step, and when the copies are there that this waits for.
    composed: (Time, Time),
    /// Adapters of those that gave way at an instant.
    given_way: (Time, Vec<AdapterId>),
}

#[derive(Debug)]
struct Ghost {
    replica: ReplicaId,
    gone: Time,
    progress: Progress,
}

impl<'a> Books<'a> {
    /// Empty books for a run with these settings.
    pub fn new(settings: &'a ClusterSettings, catalog: &'a Catalog) -> Books<'a> {
        let site = |replica: &crate::settings::ReplicaSettings| Site {
            power: if replica.starts_on { Power::On } else { Power::Off },
            switched: Time::ZERO,
            last_end: Time::ZERO,
            batch: Vec::new(),
            waiting: 0,
            running: 0,
            adapters: Adapters::default(),
            composed: (Time::ZERO, Time::ZERO),
            given_way: (Time::ZERO, Vec::new()),
        };
        Books {
            settings,
            catalog,
            now: Time::ZERO,
            offered: 0,
            live: BTreeMap::new(),
            replicas: settings.replicas.iter().map(site).collect(),
            ghosts: Vec::new(),
            in_system: 0,
            sojourns: 0,
            little: Little::default(),
            problem: None,
        }
    }

    /// The first thing that did not balance; to be asked when the run is over without [`crate::engine::Stalled`].
    ///
    /// # Errors
    /// What was wrong, and when.
    pub fn close(self) -> Result<(), String> {
        if let Some(problem) = self.problem {
            return Err(problem);
        }
        if let Some((request, progress)) = self.live.first_key_value() {
            ensure(false, || format!("request {} never ended: {progress:?}", request.0))?;
        }
        ensure(self.in_system == self.sojourns, || {
            format!("Little's law: ∫N dt is {} ps, Σ sojourn is {} ps", self.in_system, self.sojourns)
        })?;
        self.replicas.iter().try_for_each(|site| site.adapters.close(self.now))?;
        self.little.check()
    }

    /// The first thing that did not balance so far.
    pub fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    fn check(&mut self, now: Time, fact: &Fact<'_>) -> Result<(), String> {
        ensure(now >= self.now, || format!("time runs backwards, from {} ps", self.now.as_ps()))?;
        self.in_system += u128::from(now.since(self.now).as_ps()) * self.live.len() as u128;
        self.now = now;
        if let Fact::LoadStarted { adapter, bytes, .. }
        | Fact::LoadDone { adapter, bytes, .. }
        | Fact::Evicted { adapter, bytes, .. } = *fact
        {
            let own = self.catalog.adapters[adapter.index()].bytes;
            ensure(bytes == own, || format!("adapter {} has {own} bytes, and other bytes are told", adapter.0))?;
        }
        match *fact {
            Fact::Offered(offered) => self.offer(offered),
            Fact::Held(request) => self.held(request),
            Fact::Routed { request, replica, recompute } => self.routed(request, replica, recompute),
            Fact::Scheduled { request, replica } => self.scheduled(request, replica),
            Fact::Preempted { request, replica, blocks, cut } => self.preempted(request, replica, blocks, cut),
            Fact::Migrated { request, from, to } => self.migrated(request, from, to),
            Fact::Stretch(ref stretch) => self.stretch(stretch),
            Fact::Ended(ref life) => self.end(life),
            Fact::Power { replica, power } => self.power(replica, power),
            Fact::LoadStarted { replica, adapter, from, bytes, start, done, .. } => {
                let settings = &self.settings.replicas[replica.index()];
                let adapters = &mut self.replicas[replica.index()].adapters;
                adapters.started(now, adapter, from, bytes, (start, done), settings)?;
                if from == Tier::Host {
                    self.copied(replica, adapter, done);
                    self.crowded(replica);
                }
                Ok(())
            }
            Fact::LoadDone { replica, adapter, from, .. } => {
                self.replicas[replica.index()].adapters.done(now, adapter, from)
            }
            Fact::Evicted { replica, adapter, tier, .. } => {
                self.replicas[replica.index()].adapters.evicted(adapter, tier)?;
                self.crowded(replica);
                Ok(())
            }
        }
    }

    fn live(&mut self, request: RequestId) -> Result<&mut Progress, String> {
        self.live.get_mut(&request).ok_or_else(|| format!("request {} is not in the system", request.0))
    }

    fn offer(&mut self, offered: &Offered) -> Result<(), String> {
        let request = &offered.request;
        ensure(u64::from(request.id.0) == self.offered, || "requests are not offered in order".into())?;
        ensure(request.arrival == self.now, || "a request is not offered when it arrives".into())?;
        self.offered += 1;
        self.little.came(self.now, request.tenant);
        self.live.insert(request.id, Progress::new(offered));
        Ok(())
    }

    /// A preempted request is told as waiting at its replica until the router is told to have it.
    fn taken_from_router(&mut self, request: RequestId) -> Result<&mut Progress, String> {
        let now = self.now;
        let progress = self.live(request)?;
        if let Phase::Waiting(replica) = progress.leaves_router(now)? {
            self.replicas[replica.index()].waiting -= 1;
        }
        self.live(request)
    }

    fn held(&mut self, request: RequestId) -> Result<(), String> {
        self.taken_from_router(request)?.held()
    }

    fn routed(&mut self, request: RequestId, replica: ReplicaId, recompute: u32) -> Result<(), String> {
        let now = self.now;
        self.taken_from_router(request)?.routed(now, replica, recompute)?;
        let site = &mut self.replicas[replica.index()];
        ensure(site.power == Power::On, || format!("replica {} takes a request and is not on", replica.0))?;
        site.waiting += 1;
        let adapter = self.live[&request].adapter();
        let hit = adapter.map(|adapter| site.adapters.ready(adapter));
        let copied = adapter.and_then(|adapter| site.adapters.coming(adapter));
        self.live(request)?.reaches(now, replica, hit, copied);
        self.crowded(replica);
        Ok(())
    }

    fn scheduled(&mut self, request: RequestId, replica: ReplicaId) -> Result<(), String> {
        let now = self.now;
        let progress = self.live(request)?;
        progress.scheduled(now, replica)?;
        let adapter = progress.adapter();
        let site = &mut self.replicas[replica.index()];
        site.waiting -= 1;
        site.running += 1;
        if site.composed.0 != now {
            site.composed = (now, now);
        }
        if let Some(adapter) = adapter {
            site.adapters.used(adapter)?;
            site.composed.1 = site.composed.1.max(site.adapters.there(adapter)?);
        }
        self.stalled(replica);
        self.crowded(replica);
        let site = &self.replicas[replica.index()];
        let most = self.settings.replicas[replica.index()].max_num_seqs;
        ensure(site.running <= most, || format!("{} sequences in a batch of {most}", site.running))
    }

    fn leaves_batch(&mut self, progress: &Progress, replica: ReplicaId) {
        let site = &mut self.replicas[replica.index()];
        site.running -= 1;
        if let Some(adapter) = progress.adapter() {
            site.adapters.unused(adapter);
        }
    }

    fn preempted(&mut self, request: RequestId, replica: ReplicaId, blocks: u32, cut: u32) -> Result<(), String> {
        let (now, block_size) = (self.now, self.settings.replicas[replica.index()].block_size);
        let progress = self.live(request)?;
        ensure(progress.phase == Phase::Running(replica), || "a request is preempted that does not run there".into())?;
        let held = progress.blocks(block_size);
        ensure(held == blocks, || format!("a preemption frees {blocks} blocks of {held}"))?;
        progress.preempted(now, replica, cut)?;
        let left = progress.clone();
        let site = &mut self.replicas[replica.index()];
        site.waiting += 1;
        if site.given_way.0 != now {
            site.given_way = (now, Vec::new());
        }
        site.given_way.1.extend(left.adapter());
        self.leaves_batch(&left, replica);
        Ok(())
    }

    /// Out of a queue or a batch; what is in flight of it goes on without it.
    fn withdrawn(&mut self, progress: &Progress) {
        match progress.phase {
            Phase::Waiting(replica) => self.replicas[replica.index()].waiting -= 1,
            Phase::Running(replica) => {
                self.ghosts.push(Ghost { replica, gone: self.now, progress: progress.clone() });
                self.leaves_batch(progress, replica);
            }
            Phase::Nowhere { .. } | Phase::Held => {}
        }
    }

    fn migrated(&mut self, request: RequestId, from: ReplicaId, to: ReplicaId) -> Result<(), String> {
        ensure(self.replicas[to.index()].power == Power::On, || "a request moves to a replica that is not on".into())?;
        let now = self.now;
        let progress = self.live(request)?;
        let here = matches!(progress.phase, Phase::Waiting(at) | Phase::Running(at) if at == from);
        ensure(here && from != to, || "a request moves from where it is not, or nowhere".into())?;
        let left = progress.clone();
        progress.migrated(now, to);
        self.withdrawn(&left);
        Ok(())
    }

    fn end(&mut self, life: &Life<'_>) -> Result<(), String> {
        let (now, request) = (self.now, &life.offered.request);
        let mut progress = self.live.remove(&request.id).ok_or("a request ends twice, or ends before it is offered")?;
        ensure(request.arrival <= now, || "a request ends before it arrives".into())?;
        let stay = now.since(request.arrival);
        self.sojourns += u128::from(stay.as_ps());
        self.little.went(now, request.tenant, stay)?;
        let due = |after: Option<Span>, from: Time| after.is_some_and(|span| now == from + span);
        match life.end {
            End::Finished => {
                let Phase::Running(replica) = progress.phase else {
                    return ensure(false, || "a request finishes that does not run".into());
                };
                self.leaves_batch(&progress, replica);
            }
            End::Rejected(_) => progress.clone().leaves_router(now).map(|_| ())?,
            End::TimedOut => ensure(due(self.settings.client_timeout, progress.arrival()), || {
                "a client gives up, and not when its time is over".into()
            })?,
            End::Unfinished => {
                ensure(due(self.settings.horizon, Time::ZERO), || "a run is cut, and not at its horizon".into())?;
            }
        }
        if life.end != End::Finished {
            self.withdrawn(&progress);
        }
        progress.ended(now, life)
    }

    fn power(&mut self, replica: ReplicaId, power: Power) -> Result<(), String> {
        let (now, startup) = (self.now, self.settings.replicas[replica.index()].startup);
        let site = &mut self.replicas[replica.index()];
        let before = std::mem::replace(&mut site.power, power);
        let since = std::mem::replace(&mut site.switched, now);
        let legal = match (before, power) {
            (Power::Starting, Power::On) => now == since.saturating_add(startup),
            (Power::Off, Power::Starting)
            | (Power::Starting, Power::Off)
            | (Power::On, Power::Draining)
            | (Power::Draining, Power::On | Power::Off) => true,
            _ => false,
        };
        ensure(legal, || format!("replica {} goes from {before:?} since {since} to {power:?}", replica.0))?;
        if power == Power::Off {
            ensure(site.waiting == 0 && site.running == 0, || "a replica goes off with work left".into())?;
            site.adapters.clear()?;
        }
        Ok(())
    }
}

impl Observer for Books<'_> {
    fn observe(&mut self, now: Time, fact: &Fact<'_>) {
        if self.problem.is_none()
            && let Err(problem) = self.check(now, fact)
        {
            self.problem = Some(format!("at {} ps, {fact:?}: {problem}", now.as_ps()));
        }
    }
}

fn ensure(holds: bool, problem: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(problem()) }
}
