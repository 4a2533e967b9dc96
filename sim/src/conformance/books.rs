//! An outside checker: keeps books of its own from facts alone, and says where the engine's do not balance.

mod adapters;
mod life;
mod little;

use std::collections::BTreeMap;

use crate::fact::{End, Fact, Life, Observer, Power, Stretch};
use crate::settings::ClusterSettings;
use crate::time::Time;
use crate::workload::{Catalog, Offered, ReplicaId, RequestId};
use adapters::Adapters;
use life::{Phase, Progress};
use little::Little;

/// Watches a run and checks that every request is offered once and ends once, that its waits and tokens add up, that
/// steps of a replica and copies on a link do not overlap, that KV blocks, adapter memory and batch limits are kept, and
/// that Little's law holds, for every tenant. Memory follows what is in flight.
#[derive(Debug)]
pub struct Books<'a> {
    settings: &'a ClusterSettings,
    catalog: &'a Catalog,
    now: Time,
    offered: u64,
    ended: u64,
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
    last_end: Time,
    /// Who got a token at the end of its last stretch.
    batch: Vec<RequestId>,
    waiting: u32,
    running: u32,
    adapters: Adapters,
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
            last_end: Time::ZERO,
            batch: Vec::new(),
            waiting: 0,
            running: 0,
            adapters: Adapters::default(),
        };
        Books {
            settings,
            catalog,
            now: Time::ZERO,
            offered: 0,
            ended: 0,
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
            return Err(format!("request {} never ended: {progress:?}", request.0));
        }
        if self.offered != self.ended {
            return Err(format!("{} requests were offered and {} ended", self.offered, self.ended));
        }
        if self.in_system != self.sojourns {
            return Err(format!("Little's law: ∫N dt is {} ps, Σ sojourn is {} ps", self.in_system, self.sojourns));
        }
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
        match *fact {
            Fact::Offered(offered) => self.offer(offered),
            Fact::Held(request) => self.with_router(request),
            Fact::Routed { request, replica, recompute } => self.routed(request, replica, recompute),
            Fact::Scheduled { request, replica } => self.scheduled(request, replica),
            Fact::Preempted { request, replica, blocks } => self.preempted(request, replica, blocks),
            Fact::Migrated { request, from, to } => self.migrated(request, from, to),
            Fact::Stretch(ref stretch) => self.stretch(stretch),
            Fact::Ended(ref life) => self.end(life),
            Fact::Power { replica, power } => self.power(replica, power),
            Fact::LoadStarted { replica, adapter, from, bytes, start, done, .. } => {
                ensure(bytes == self.catalog.adapters[adapter.index()].bytes, || "a copy has other bytes".into())?;
                let settings = &self.settings.replicas[replica.index()];
                let adapters = &mut self.replicas[replica.index()].adapters;
                adapters.started(now, adapter, from, bytes, (start, done), settings)
            }
            Fact::LoadDone { replica, adapter, from, .. } => {
                self.replicas[replica.index()].adapters.done(now, adapter, from)
            }
            Fact::Evicted { replica, adapter, tier, bytes } => {
                self.replicas[replica.index()].adapters.evicted(adapter, tier, bytes)
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
    fn with_router(&mut self, request: RequestId) -> Result<(), String> {
        let progress = self.live.get_mut(&request).ok_or("the router has a request that is not in the system")?;
        match std::mem::replace(&mut progress.phase, Phase::Router) {
            Phase::Router => Ok(()),
            Phase::Running(_) => Err("the router has a request that runs".into()),
            Phase::Waiting(replica) => {
                let site = &mut self.replicas[replica.index()];
                site.waiting = site.waiting.checked_sub(1).ok_or("more leave the queue than wait")?;
                Ok(())
            }
        }
    }

    fn routed(&mut self, request: RequestId, replica: ReplicaId, recompute: u32) -> Result<(), String> {
        self.with_router(request)?;
        let site = &mut self.replicas[replica.index()];
        ensure(site.power == Power::On, || format!("replica {} is not on", replica.0))?;
        site.waiting += 1;
        let progress = self.live.get_mut(&request).ok_or("a request is routed that is not in the system")?;
        if progress.replica.is_none() {
            progress.hit = progress.adapter.map(|adapter| site.adapters.ready(adapter));
        }
        progress.routed(replica, recompute)
    }

    fn scheduled(&mut self, request: RequestId, replica: ReplicaId) -> Result<(), String> {
        let now = self.now;
        let site = &mut self.replicas[replica.index()];
        let progress = self.live.get_mut(&request).ok_or("a request is scheduled that is not in the system")?;
        progress.scheduled(now, replica)?;
        site.waiting = site.waiting.checked_sub(1).ok_or("more are scheduled than wait")?;
        site.running += 1;
        if let Some(adapter) = progress.adapter {
            site.adapters.used(adapter)?;
        }
        let most = self.settings.replicas[replica.index()].max_num_seqs;
        ensure(site.running <= most, || format!("{} sequences in a batch of {most}", site.running))
    }

    fn leaves_batch(&mut self, progress: &Progress, replica: ReplicaId) -> Result<(), String> {
        let site = &mut self.replicas[replica.index()];
        site.running = site.running.checked_sub(1).ok_or("more leave the batch than are in it")?;
        if let Some(adapter) = progress.adapter {
            site.adapters.unused(adapter)?;
        }
        Ok(())
    }

    fn preempted(&mut self, request: RequestId, replica: ReplicaId, blocks: u32) -> Result<(), String> {
        let block_size = self.settings.replicas[replica.index()].block_size;
        let progress = self.live(request)?;
        ensure(progress.phase == Phase::Running(replica), || "a request is preempted that does not run there".into())?;
        let held = progress.blocks(block_size);
        ensure(held == blocks, || format!("a preemption frees {blocks} blocks of {held}"))?;
        progress.preempted();
        let left = progress.clone();
        self.replicas[replica.index()].waiting += 1;
        self.leaves_batch(&left, replica)
    }

    /// Out of a queue or a batch; what is in flight of it goes on without it.
    fn withdrawn(&mut self, progress: &Progress) -> Result<(), String> {
        match progress.phase {
            Phase::Waiting(replica) => {
                let site = &mut self.replicas[replica.index()];
                site.waiting = site.waiting.checked_sub(1).ok_or("more leave the queue than wait")?;
            }
            Phase::Running(replica) => {
                self.ghosts.push(Ghost { replica, gone: self.now, progress: progress.clone() });
                self.leaves_batch(progress, replica)?;
            }
            Phase::Router => {}
        }
        Ok(())
    }

    fn migrated(&mut self, request: RequestId, from: ReplicaId, to: ReplicaId) -> Result<(), String> {
        ensure(self.replicas[to.index()].power == Power::On, || "a request moves to a replica that is not on".into())?;
        let progress = self.live(request)?;
        let here = matches!(progress.phase, Phase::Waiting(at) | Phase::Running(at) if at == from);
        ensure(here, || "a request moves from where it is not".into())?;
        let left = progress.clone();
        progress.migrated();
        self.withdrawn(&left)
    }

    fn end(&mut self, life: &Life<'_>) -> Result<(), String> {
        let id = life.offered.request.id;
        let progress = self.live.remove(&id).ok_or("a request ends twice, or ends before it is offered")?;
        self.ended += 1;
        let request = &life.offered.request;
        self.sojourns += u128::from(self.now.since(request.arrival).as_ps());
        self.little.went(self.now, request.tenant, self.now.since(request.arrival))?;
        if life.end == End::Finished {
            let Phase::Running(replica) = progress.phase else {
                return Err("a request finishes that does not run".into());
            };
            self.leaves_batch(&progress, replica)?;
        } else {
            self.withdrawn(&progress)?;
        }
        progress.ended(self.now, life)
    }

    fn power(&mut self, replica: ReplicaId, power: Power) -> Result<(), String> {
        let site = &mut self.replicas[replica.index()];
        let before = std::mem::replace(&mut site.power, power);
        let legal = matches!(
            (before, power),
            (Power::Off, Power::Starting)
                | (Power::Starting, Power::On | Power::Off)
                | (Power::On, Power::Draining)
                | (Power::Draining, Power::On | Power::Off)
        );
        ensure(legal, || format!("replica {} goes from {before:?} to {power:?}", replica.0))?;
        if power == Power::Off {
            ensure(site.waiting == 0 && site.running == 0, || "a replica goes off with work left".into())?;
            site.adapters.clear()?;
        }
        Ok(())
    }

    fn stretch(&mut self, stretch: &Stretch<'_>) -> Result<(), String> {
        let settings = &self.settings.replicas[stretch.replica.index()];
        let end = stretch.end();
        let site = &mut self.replicas[stretch.replica.index()];
        ensure(stretch.start >= site.last_end, || "two steps of a replica overlap".into())?;
        ensure(end > stretch.start + stretch.stall && end <= self.now, || {
            "a step takes no time, or is not over".into()
        })?;
        ensure(matches!(site.power, Power::On | Power::Draining), || "a replica that is not on takes a step".into())?;
        let before = std::mem::replace(&mut site.last_end, end);
        let emits = stretch.rows.iter().filter(|row| row.emits).map(|row| row.request).collect();
        let batch = std::mem::replace(&mut site.batch, emits);
        let same = stretch.same_rows as usize;
        ensure(batch.get(..same).is_some_and(|first| Some(first) == site.batch.get(..same)), || {
            format!("its first {same} rows are said to be those before, {batch:?}")
        })?;
        let goes_on = |row: crate::fact::Row| row.emits && !row.prefill && row.previous_token == Some(before);
        ensure(stretch.rows.iter().take(same).all(goes_on), || "somebody joins the same rows".into())?;
        let count = stretch.rows.len() as u32;
        ensure(count > 0 && count <= settings.max_num_seqs, || format!("{count} rows in a step"))?;
        let tokens: u32 = stretch.rows.iter().map(|row| row.tokens).sum();
        ensure(tokens <= settings.max_num_batched_tokens, || format!("{tokens} tokens in a step"))?;
        let mut adapters: Vec<_> = stretch.rows.iter().filter_map(|row| row.adapter).collect();
        adapters.sort_unstable();
        adapters.dedup();
        let distinct = adapters.len() as u32;
        ensure(distinct <= settings.max_loras, || format!("{distinct} adapters in a step"))?;
        // A batcher may count decode rows to one adapter that is not theirs.
        ensure(stretch.segments <= distinct + 1, || format!("{} segments are told", stretch.segments))?;
        for &adapter in &adapters {
            site.adapters.ready_by(adapter, stretch.start + stretch.stall)?;
        }
        let mut contexts = 0;
        for row in stretch.rows.iter() {
            let ghost = |ghost: &&mut Ghost| {
                ghost.progress.id == row.request && ghost.replica == stretch.replica && ghost.gone > stretch.start
            };
            let runs = |progress: &&mut Progress| progress.phase == Phase::Running(stretch.replica);
            let live = self.live.get_mut(&row.request).filter(runs);
            let progress = match self.ghosts.iter_mut().find(ghost) {
                Some(ghost) if !row.emits => &mut ghost.progress,
                _ => live.ok_or_else(|| format!("request {} is in a step and does not run there", row.request.0))?,
            };
            contexts += progress.step(stretch, &row)?;
        }
        let told = stretch.decode_context_sum;
        ensure(told >= contexts, || format!("{contexts} tokens of context in its first step, and {told} are told"))?;
        self.blocks(stretch)?;
        self.ghosts.retain(|ghost| ghost.replica != stretch.replica || ghost.gone > end);
        Ok(())
    }

    fn blocks(&self, stretch: &Stretch<'_>) -> Result<(), String> {
        let settings = &self.settings.replicas[stretch.replica.index()];
        let runs = |progress: &&Progress| progress.phase == Phase::Running(stretch.replica);
        let live: u32 = self.live.values().filter(runs).map(|progress| progress.blocks(settings.block_size)).sum();
        let in_step = |ghost: &&Ghost| {
            let row = |row: crate::fact::Row| row.request == ghost.progress.id && !row.emits;
            ghost.replica == stretch.replica && ghost.gone > stretch.start && stretch.rows.iter().any(row)
        };
        let ghosts = self.ghosts.iter().filter(in_step);
        let used = live + ghosts.map(|ghost| ghost.progress.blocks(settings.block_size)).sum::<u32>();
        ensure(used == stretch.kv_blocks_used && used <= settings.kv_blocks, || {
            format!("{used} KV blocks of {} are used, {} are told", settings.kv_blocks, stretch.kv_blocks_used)
        })
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
