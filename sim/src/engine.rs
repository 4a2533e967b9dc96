//! The engine moves time and carries messages; it decides nothing and names no policy.

use std::collections::BTreeMap;
use std::fmt;

use crate::batch::{Coverage, Executor};
use crate::draft::Effects;
use crate::event::{Event, EventQueue, Kind, Tick};
use crate::fact::{End, Fact, Life, Observer, Power, RejectReason, Tier};
use crate::fleet::{Board, Fleet};
use crate::policy::{Asked, Migrator, Move, Policies, Route, Router, Scale, Scaler};
use crate::random::{self, Stream};
use crate::replica::{Mind, Replica, SequenceKey, Waiting};
use crate::residency::Presence;
use crate::sequence::{Place, Sequence, Sequences, Wait};
use crate::settings::ClusterSettings;
use crate::time::{Span, Time};
use crate::workload::{Arrivals, Catalog, Offered, ReplicaId, RequestId};

mod shape;
mod step;

use shape::Shape;

/// Clocks may tick so often without anything else to come before the run counts as stuck.
const IDLE_TICKS_MAX: u32 = 100_000;

/// How did the run end?
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// When: the last event, or the horizon.
    pub at: Time,
    /// Requests offered.
    pub offered: u64,
    /// How often each executor was asked.
    pub coverage: Vec<Coverage>,
}

/// Work is left and nothing will ever happen: who waits for what?
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stalled {
    /// Since when.
    pub at: Time,
    /// The first of those that wait, and what for.
    pub waiting: Vec<(RequestId, String)>,
    /// How many wait.
    pub count: usize,
}

impl fmt::Display for Stalled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the simulation is stuck at {}: {} requests wait and nothing will happen", self.at, self.count)?;
        for (request, what) in &self.waiting {
            write!(f, "; request {} {what}", request.0)?;
        }
        Ok(())
    }
}

impl std::error::Error for Stalled {}

/// Runs `arrivals` through a cluster under `policies`, steps priced or run by `executors`, facts told to `observer`.
///
/// # Errors
/// [`Stalled`] if requests are left that nothing will ever serve, as under a router that holds for ever.
///
/// # Panics
/// On broken invariants: an arrival out of order, or a policy that chooses what it was not offered.
pub fn run(
    settings: &ClusterSettings,
    catalog: &Catalog,
    policies: &Policies,
    executors: &mut [Box<dyn Executor + '_>],
    arrivals: &mut Arrivals<'_>,
    observer: &mut dyn Observer,
) -> Result<Ended, Stalled> {
    let replicas: Vec<Replica> =
        (0..).map(ReplicaId).zip(&settings.replicas).map(|(id, s)| Replica::new(id, s.clone())).collect();
    let board = Board::new(&replicas, catalog.adapters.len(), settings.signals_interval.is_zero());
    let mut engine = Engine {
        now: Time::ZERO,
        settings,
        catalog,
        executors,
        observer,
        minds: replicas.iter().map(|_| Mind::new(policies)).collect(),
        replicas,
        board,
        router: (policies.router)(),
        migrator: policies.migrator.as_ref().map(|make| make()),
        scaler: policies.scaler.as_ref().map(|make| make()),
        router_random: random::stream(settings.seed, "router"),
        migrator_random: random::stream(settings.seed, "migrator"),
        queue: BTreeMap::new(),
        sequences: Sequences::default(),
        events: EventQueue::default(),
        effects: Effects::default(),
        shape: Shape::default(),
        rows: Vec::new(),
        prefilled: Vec::new(),
        offered: 0,
        composed: (Time::ZERO, 0),
    };
    engine.start_clocks();
    engine.run(arrivals)
}

struct Engine<'a, 'x> {
    now: Time,
    settings: &'a ClusterSettings,
    catalog: &'a Catalog,
    executors: &'a mut [Box<dyn Executor + 'x>],
    observer: &'a mut dyn Observer,
    replicas: Vec<Replica>,
    minds: Vec<Mind>,
    board: Board,
    router: Box<dyn Router>,
    migrator: Option<Box<dyn Migrator>>,
    scaler: Option<Box<dyn Scaler>>,
    router_random: Stream,
    migrator_random: Stream,
    queue: BTreeMap<(u64, RequestId), SequenceKey>,
    sequences: Sequences,
    events: EventQueue,
    effects: Effects,
    shape: Shape,
    rows: Vec<crate::fact::Row>,
    prefilled: Vec<SequenceKey>,
    offered: u64,
    /// The last instant at which a step was composed, and how many replicas, by id, have had their turn in it: where a step
    /// of theirs ended at that instant, the next has begun.
    composed: (Time, u32),
}

impl Engine<'_, '_> {
    fn run(mut self, arrivals: &mut Arrivals<'_>) -> Result<Ended, Stalled> {
        let horizon = self.settings.horizon.map_or(Time::MAX, |span| Time::ZERO + span);
        let mut next = arrivals.next();
        let mut idle_ticks = 0;
        loop {
            if next.is_none() && self.sequences.len() == 0 {
                break;
            }
            let event = self.events.peek();
            let arrives = match (&next, event) {
                (Some(offered), Some(event)) => (offered.request.arrival, Kind::Arrival) < (event.time, event.kind),
                (Some(_), None) => true,
                (None, _) => false,
            };
            if arrives {
                let offered = next.take().expect("an arrival is next");
                if offered.request.arrival > horizon {
                    self.cut_at(horizon);
                    break;
                }
                next = arrivals.next();
                idle_ticks = 0;
                self.arrive(offered);
                continue;
            }
            let Some(event) = self.events.pop() else { return Err(self.stalled()) };
            if self.is_dead(&event) {
                // Neither time nor the end of the run depends on how often a stretch was cut short.
                continue;
            }
            if event.time > horizon {
                self.cut_at(horizon);
                break;
            }
            idle_ticks = if next.is_none() && self.events.only_clocks() && event.kind == Kind::Tick {
                idle_ticks + 1
            } else {
                0
            };
            if idle_ticks > IDLE_TICKS_MAX {
                return Err(self.stalled());
            }
            assert!(event.time >= self.now, "time runs backwards");
            self.now = event.time;
            self.handle(event);
        }
        for replica in &self.replicas {
            replica.check();
        }
        let coverage = self.executors.iter().map(|executor| executor.coverage()).collect();
        Ok(Ended { at: self.now, offered: self.offered, coverage })
    }

    /// Is it the end of a step that was cut short, or the patience of a client whose request is over?
    fn is_dead(&self, event: &Event) -> bool {
        match event.kind {
            Kind::StepDone => {
                let replica = &self.replicas[event.replica as usize];
                replica.generation != event.number || replica.in_flight.is_none()
            }
            Kind::Cancel => !self.sequences.is_alive(event.detail, RequestId(event.number)),
            _ => false,
        }
    }

    fn handle(&mut self, event: Event) {
        let r = event.replica as usize;
        match event.kind {
            Kind::StepDone => self.step_done(r),
            Kind::LoadDone => {
                let from = if event.detail == 0 { Tier::Disk } else { Tier::Host };
                self.load_done(r, crate::workload::AdapterId(event.number), from);
            }
            Kind::Cancel => self.time_out(event.detail),
            Kind::Arrival => unreachable!("arrivals are pulled from their source"),
            Kind::Tick => self.tick(event),
            Kind::StepStart => {
                self.replicas[r].start_pending = false;
                self.composed = (self.now, self.composed().max(event.replica + 1));
                if self.replicas[r].in_flight.is_none() {
                    self.compose(r);
                }
            }
        }
    }

    fn fleet(&self) -> Fleet<'_> {
        Fleet { now: self.now, composed: self.composed(), replicas: &self.replicas, board: &self.board }
    }

    /// How many replicas have had their turn to compose a step at this instant?
    fn composed(&self) -> u32 {
        if self.composed.0 == self.now { self.composed.1 } else { 0 }
    }

    fn publish(&mut self, r: usize) {
        if self.settings.signals_interval.is_zero() {
            self.board.publish(&mut self.replicas[r], self.now);
        }
    }

    // ---- Requests come and go.

    fn arrive(&mut self, offered: Offered) {
        assert!(offered.request.arrival >= self.now, "arrivals are in order of time");
        assert_eq!(u64::from(offered.request.id.0), self.offered, "requests are numbered in order of arrival");
        assert!(offered.outcome.output_tokens > 0 && offered.request.prompt_tokens > 0, "a request has tokens");
        self.now = offered.request.arrival;
        self.offered += 1;
        self.observer.observe(self.now, &Fact::Offered(&offered));
        let id = offered.request.id;
        let key = self.sequences.insert(Sequence::new(offered));
        if let Some(timeout) = self.settings.client_timeout {
            let time = self.now.saturating_add(timeout);
            self.events.push(Event { time, kind: Kind::Cancel, replica: u32::MAX, number: id.0, detail: key });
        }
        self.place(key);
    }

    /// Finds a replica for a sequence that has none.
    fn place(&mut self, key: SequenceKey) {
        let sequence = self.sequences.get(key);
        let asked = Asked { request: &sequence.offered.request, emitted: sequence.emitted };
        if self.queue.is_empty() {
            let fleet =
                Fleet { now: self.now, composed: self.composed(), replicas: &self.replicas, board: &self.board };
            match self.router.route(&asked, &fleet, &mut self.router_random) {
                Route::To(replica) => return self.enqueue(key, replica),
                Route::Reject => return self.end(key, End::Rejected(RejectReason::Router)),
                Route::Hold => {}
            }
        }
        let queue_key = self.router.queue_key(&asked);
        let id = sequence.id();
        self.sequences.get_mut(key).place = Place::Held(queue_key);
        self.queue.insert((queue_key, id), key);
        self.observer.observe(self.now, &Fact::Held(id));
        let is_head = self.queue.first_key_value().is_some_and(|(_, &head)| head == key);
        if is_head && self.queue.len() > 1 {
            self.drain_queue();
        }
        self.ask_scaler();
    }

    /// Capacity was freed: who of the cluster's queue goes where? The first that must wait blocks those behind it.
    fn drain_queue(&mut self) {
        while let Some((&entry, &key)) = self.queue.first_key_value() {
            let sequence = self.sequences.get(key);
            let asked = Asked { request: &sequence.offered.request, emitted: sequence.emitted };
            let fleet =
                Fleet { now: self.now, composed: self.composed(), replicas: &self.replicas, board: &self.board };
            let route = self.router.route(&asked, &fleet, &mut self.router_random);
            if route == Route::Hold {
                return;
            }
            self.queue.remove(&entry);
            self.sequences.get_mut(key).place = Place::Nowhere;
            match route {
                Route::To(replica) => self.enqueue(key, replica),
                _ => self.end(key, End::Rejected(RejectReason::Router)),
            }
        }
    }

    /// Can this replica ever serve the sequence?
    fn misfit(&self, key: SequenceKey, r: usize) -> Option<RejectReason> {
        let offered = &self.sequences.get(key).offered;
        let replica = &self.replicas[r];
        // Nobody attends to the last token: its KV is never computed.
        let tokens = u64::from(offered.request.prompt_tokens) + u64::from(offered.outcome.output_tokens) - 1;
        let blocks = tokens.div_ceil(u64::from(replica.settings.block_size));
        if blocks + u64::from(self.minds[r].preemptor.reserve(1)) > u64::from(replica.settings.kv_blocks) {
            return Some(RejectReason::TooLong);
        }
        let adapter = &self.catalog.adapters[offered.request.adapter?.index()];
        let fits = adapter.rank <= replica.settings.max_lora_rank
            && replica.settings.max_loras > 0
            && replica.residency.could_hold(adapter.bytes);
        (!fits).then_some(RejectReason::AdapterTooLarge)
    }

    fn enqueue(&mut self, key: SequenceKey, to: ReplicaId) {
        let r = to.index();
        assert!(self.replicas[r].power == Power::On, "a policy chose replica {}, which is not on", to.0);
        if let Some(reason) = self.misfit(key, r) {
            return self.end(key, End::Rejected(reason));
        }
        let sequence = self.sequences.get_mut(key);
        let returns = sequence.preemptions + sequence.migrations > 0;
        sequence.waits_for(self.now, if returns { Wait::Preemption } else { Wait::Queue });
        sequence.place = Place::Waiting(to);
        let first = sequence.replica.is_none();
        sequence.replica = Some(to);
        let request = &sequence.offered.request;
        let fact = Fact::Routed { request: request.id, replica: to, recompute: sequence.emitted };
        self.observer.observe(self.now, &fact);
        let replica = &mut self.replicas[r];
        let waiting = Waiting {
            sequence: key,
            request: request.id,
            adapter: request.adapter,
            arrival: request.arrival,
            tokens: request.prompt_tokens + sequence.emitted,
            emitted: sequence.emitted,
            output: sequence.offered.outcome.output_tokens,
            last_token: sequence.last_token,
            since: self.now,
            awaits: None,
            taken: false,
        };
        if first && let Some(adapter) = request.adapter {
            sequence.adapter_hit = Some(replica.residency.presence(adapter) == Presence::Ready);
        }
        replica.put_waiting(waiting, false);
        let copies = self.prefetch(r);
        self.publish(r);
        // A full batch lets nobody in before somebody leaves, unless a copy beside it changes what its steps cost.
        let replica = &mut self.replicas[r];
        let asleep = replica.in_flight.is_none() && !replica.start_pending;
        if copies || !replica.is_full() || asleep {
            replica.changed = true;
            self.wake(r);
        }
    }

    /// Something changed on this replica: its next step is composed as soon as the step in flight is over.
    fn wake(&mut self, r: usize) {
        self.cut(r);
        let replica = &mut self.replicas[r];
        if replica.in_flight.is_none() && !replica.start_pending && !replica.is_empty() {
            replica.start_pending = true;
            self.events.push(Event { time: self.now, kind: Kind::StepStart, replica: r as u32, number: 0, detail: 0 });
        }
    }

    fn end(&mut self, key: SequenceKey, end: End) {
        let mut sequence = self.sequences.remove(key);
        sequence.waits_for(self.now, Wait::Router);
        let life = Life {
            offered: &sequence.offered,
            end,
            replica: sequence.replica,
            scheduled: sequence.scheduled,
            first_token: sequence.first_token,
            emitted: sequence.emitted,
            waits: sequence.waits,
            adapter_hit: sequence.adapter_hit,
            preemptions: sequence.preemptions,
            migrations: sequence.migrations,
        };
        self.observer.observe(self.now, &Fact::Ended(life));
    }

    fn time_out(&mut self, key: SequenceKey) {
        let replica = self.sequences.get(key).replica;
        self.withdraw(key);
        self.end(key, End::TimedOut);
        if let Some(replica) = replica {
            self.power_off_if_drained(replica.index());
        }
        self.drain_queue();
    }

    /// Takes a sequence from where it is. A step in flight goes on with it; its token of that step is discarded.
    fn withdraw(&mut self, key: SequenceKey) {
        match self.sequences.get(key).place {
            Place::Held(queue_key) => {
                let id = self.sequences.get(key).id();
                self.queue.remove(&(queue_key, id));
            }
            Place::Waiting(replica) => {
                let r = replica.index();
                // Whoever stood behind it may be next: the batcher is asked again. What is over is told while it still waits.
                self.split(r);
                let replica = &mut self.replicas[r];
                let position = replica.waiting.iter().position(|waiting| waiting.sequence == key);
                replica.take_waiting(position.expect("a waiting sequence is in its queue"));
                replica.changed = true;
                self.publish(r);
                self.wake(r);
            }
            Place::Running(replica) => {
                let r = replica.index();
                self.split(r);
                let replica = &mut self.replicas[r];
                let sequence = self.sequences.get_mut(key);
                let position = replica.rows.position(sequence.id()).expect("a running sequence is in its batch");
                sequence.emitted = replica.rows.running(position).emitted;
                sequence.last_token = replica.rows.last_token(position);
                if replica.in_flight.is_some() && replica.rows.drafted(position) > 0 {
                    replica.rows.make_ghost(position);
                } else {
                    replica.remove_row(self.now, position);
                }
                self.publish(r);
                self.wake(r);
            }
            Place::Nowhere => {}
        }
        self.sequences.get_mut(key).place = Place::Nowhere;
    }

    // ---- Clocks.

    fn start_clocks(&mut self) {
        let periods = [
            (Tick::Signals, (!self.settings.signals_interval.is_zero()).then_some(self.settings.signals_interval)),
            (Tick::Scaler, self.scaler.as_ref().map(|scaler| scaler.period())),
            (Tick::Migrator, self.migrator.as_ref().map(|migrator| migrator.period())),
        ];
        for (tick, period) in periods {
            if let Some(period) = period {
                self.set_clock(tick, period);
            }
        }
        for r in 0..self.replicas.len() {
            self.board.publish(&mut self.replicas[r], Time::ZERO);
        }
    }

    fn set_clock(&mut self, tick: Tick, period: Span) {
        assert!(!period.is_zero(), "a clock ticks without time passing");
        let time = self.now.saturating_add(period);
        self.events.push(Event { time, kind: Kind::Tick, replica: u32::MAX, number: tick as u32, detail: 0 });
    }

    fn tick(&mut self, event: Event) {
        match event.number {
            number if number == Tick::Ready as u32 => {
                let replica = &mut self.replicas[event.replica as usize];
                if replica.power == Power::Starting && replica.generation == event.detail {
                    self.set_power(event.replica as usize, Power::On);
                    self.drain_queue();
                }
            }
            number if number == Tick::Signals as u32 => {
                for replica in &mut self.replicas {
                    self.board.publish(replica, self.now);
                }
                self.drain_queue();
                self.set_clock(Tick::Signals, self.settings.signals_interval);
            }
            number if number == Tick::Scaler as u32 => {
                self.ask_scaler();
                let period = self.scaler.as_ref().expect("a scaler ticks").period();
                self.set_clock(Tick::Scaler, period);
            }
            _ => {
                let mut migrator = self.migrator.take().expect("a migrator ticks");
                let fleet =
                    Fleet { now: self.now, composed: self.composed(), replicas: &self.replicas, board: &self.board };
                let moves = migrator.plan(&fleet, &mut self.migrator_random);
                let period = migrator.period();
                self.migrator = Some(migrator);
                for each in moves {
                    self.migrate(each);
                }
                self.set_clock(Tick::Migrator, period);
            }
        }
    }

    fn migrate(&mut self, Move { request, from, to }: Move) {
        if from == to || self.replicas[to.index()].power != Power::On {
            return;
        }
        let replica = &self.replicas[from.index()];
        let in_batch = replica.rows.position(request).and_then(|position| replica.rows.sequence(position));
        let in_queue =
            || replica.waiting.iter().find(|waiting| waiting.request == request).map(|waiting| waiting.sequence);
        let Some(key) = in_batch.or_else(in_queue) else { return };
        if self.misfit(key, to.index()).is_some() {
            return;
        }
        self.withdraw(key);
        self.sequences.get_mut(key).migrations += 1;
        self.observer.observe(self.now, &Fact::Migrated { request, from, to });
        self.enqueue(key, to);
        self.power_off_if_drained(from.index());
        self.drain_queue();
    }

    fn ask_scaler(&mut self) {
        let Some(mut scaler) = self.scaler.take() else { return };
        let actions = scaler.plan(&self.fleet(), self.queue.len());
        self.scaler = Some(scaler);
        let available = self.board.available();
        for action in actions {
            match action {
                Scale::Acquire(replica) => self.acquire(replica.index()),
                Scale::Release(replica) => self.release(replica.index()),
            }
        }
        // A replica that was draining takes requests again at once.
        if self.board.available() > available {
            self.drain_queue();
        }
    }

    fn acquire(&mut self, r: usize) {
        match self.replicas[r].power {
            Power::Off => {
                self.set_power(r, Power::Starting);
                self.replicas[r].generation += 1;
                let event = Event {
                    time: self.now.saturating_add(self.replicas[r].settings.startup),
                    kind: Kind::Tick,
                    replica: r as u32,
                    number: Tick::Ready as u32,
                    detail: self.replicas[r].generation,
                };
                self.events.push(event);
            }
            Power::Draining => self.set_power(r, Power::On),
            Power::Starting | Power::On => {}
        }
    }

    fn release(&mut self, r: usize) {
        match self.replicas[r].power {
            Power::On => {
                self.set_power(r, Power::Draining);
                self.power_off_if_drained(r);
            }
            Power::Starting => self.set_power(r, Power::Off),
            Power::Off | Power::Draining => {}
        }
    }

    fn power_off_if_drained(&mut self, r: usize) {
        let replica = &self.replicas[r];
        let quiet = replica.is_empty() && replica.in_flight.is_none() && replica.residency.copies_in_flight() == 0;
        if replica.power == Power::Draining && quiet {
            self.replicas[r].residency.clear();
            self.set_power(r, Power::Off);
        }
    }

    fn set_power(&mut self, r: usize, power: Power) {
        self.replicas[r].power = power;
        self.board.power(&self.replicas[r]);
        self.board.publish_adapters(&mut self.replicas[r]);
        self.publish(r);
        self.observer.observe(self.now, &Fact::Power { replica: ReplicaId(r as u32), power });
    }

    // ---- The end.

    /// The horizon: steps that are over by then count, the step in flight does not.
    fn cut_at(&mut self, horizon: Time) {
        self.now = horizon;
        for r in 0..self.replicas.len() {
            self.split(r);
            self.replicas[r].in_flight = None;
            let rows = self.replicas[r].rows.len();
            for position in (0..rows).rev() {
                let row = self.replicas[r].remove_row(horizon, position);
                if let Some(key) = row.sequence {
                    let sequence = self.sequences.get_mut(key);
                    sequence.emitted = row.running.emitted;
                    sequence.last_token = row.last_token;
                }
            }
            while !self.replicas[r].waiting.is_empty() {
                self.replicas[r].take_waiting(0);
            }
        }
        for key in self.sequences.keys() {
            self.end(key, End::Unfinished);
        }
    }

    fn stalled(&self) -> Stalled {
        let what = |sequence: &Sequence| match sequence.place {
            Place::Held(_) => "waits in the cluster's queue: the router holds it".to_owned(),
            Place::Waiting(replica) => format!(
                "({} tokens, {}) waits in the queue of replica {}, which has {} of {} KV blocks free, {} sequences in its \
                 batch and {} adapters on its GPU: the batcher does not admit it",
                sequence.offered.request.prompt_tokens + sequence.emitted,
                match sequence.offered.request.adapter {
                    Some(adapter) => format!("adapter {}", self.catalog.adapters[adapter.index()].name),
                    None => "base model".to_owned(),
                },
                replica.0,
                self.replicas[replica.index()].kv_free,
                self.replicas[replica.index()].settings.kv_blocks,
                self.replicas[replica.index()].rows.len(),
                self.replicas[replica.index()].residency.resident(),
            ),
            Place::Running(replica) => format!("is in the batch of replica {}, whose batcher leaves it out", replica.0),
            Place::Nowhere => "is nowhere".to_owned(),
        };
        let keys = self.sequences.keys();
        let waiting = keys.iter().take(3).map(|&key| self.sequences.get(key)).map(|s| (s.id(), what(s))).collect();
        Stalled { at: self.now, waiting, count: keys.len() }
    }
}
