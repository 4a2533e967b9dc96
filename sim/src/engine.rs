//! The engine moves time and carries messages; it decides nothing and names no policy.

use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;

use crate::batch::{Coverage, Executor};
use crate::draft::Effects;
use crate::event::{Event, EventQueue, Kind};
use crate::fact::{Observer, Tier};
use crate::fleet::{Board, Fleet};
use crate::policy::{Migrator, Policies, Route, Router, Scaler};
use crate::random::{self, Stream};
use crate::replica::{Mind, Replica, SequenceKey};
use crate::residency::Weights;
use crate::rows::Told;
use crate::sequence::Sequences;
use crate::settings::ClusterSettings;
use crate::time::Time;
use crate::workload::{AdapterId, Arrivals, Catalog, ReplicaId, RequestId};

mod ahead;
mod clock;
mod end;
mod place;
mod power;
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
    let mut replicas: Vec<Replica> = Vec::with_capacity(settings.replicas.len());
    for (id, own) in (0..).map(ReplicaId).zip(&settings.replicas) {
        let alike = replicas.last().map(|last| &last.settings).filter(|last| ***last == *own).cloned();
        replicas.push(Replica::new(id, alike.unwrap_or_else(|| Rc::new(own.clone()))));
    }
    let sequences = Sequences::expecting(replicas.iter().map(Replica::usual_rows).sum());
    let board = Board::new(&replicas, catalog.adapters.len(), settings.signals_interval.is_zero());
    let mut engine = Engine {
        now: Time::ZERO,
        settings,
        catalog,
        weights: Weights::new(catalog),
        executors,
        observer,
        minds: replicas.iter().map(|_| Mind::new(policies)).collect(),
        generations: vec![0; replicas.len()],
        replicas,
        board,
        router: (policies.router)(),
        migrator: policies.migrator.as_ref().map(|make| (make(), random::stream(settings.seed, "migrator"))),
        scaler: policies.scaler.as_ref().map(|make| make()),
        router_random: random::stream(settings.seed, "router"),
        queue: BTreeMap::new(),
        sequences,
        events: EventQueue::default(),
        effects: Effects::default(),
        shape: Shape::default(),
        told: Told::default(),
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
    weights: Weights,
    executors: &'a mut [Box<dyn Executor + 'x>],
    observer: &'a mut dyn Observer,
    replicas: Vec<Replica>,
    minds: Vec<Mind>,
    /// Of each replica: tells the event of the step in flight from those of steps that were cut short. Side by side, because most of those
    /// are asked for nothing else.
    generations: Vec<u32>,
    board: Board,
    router: Box<dyn Router>,
    migrator: Option<(Box<dyn Migrator>, Stream)>,
    scaler: Option<Box<dyn Scaler>>,
    router_random: Stream,
    queue: BTreeMap<(u64, RequestId), SequenceKey>,
    sequences: Sequences,
    events: EventQueue,
    effects: Effects,
    shape: Shape,
    told: Told,
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
            let until = next.as_ref().map_or(Time::MAX, |offered| offered.request.arrival);
            let arrives = match (&next, self.events.peek(until)) {
                (Some(offered), Some(event)) => (offered.request.arrival, Kind::Arrival) < event,
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
                self.sequences.fetch_next();
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
            if event.kind != Kind::StepStart && self.events.moved() {
                self.look_ahead();
            }
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
            Kind::StepDone => self.generations[event.replica as usize] != event.number,
            Kind::Cancel => !self.sequences.is_alive(event.detail, RequestId(event.number)),
            _ => false,
        }
    }

    /// The step in flight is another one from now on, or there is none.
    fn next_generation(&mut self, r: usize) -> u32 {
        self.generations[r] += 1;
        self.generations[r]
    }

    fn handle(&mut self, event: Event) {
        let r = event.replica as usize;
        match event.kind {
            Kind::StepDone => self.step_done(r),
            Kind::LoadDone => {
                let from = if event.detail == 0 { Tier::Disk } else { Tier::Host };
                self.load_done(r, AdapterId(event.number), from);
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
        fleet(self.now, self.composed, &self.replicas, &self.board)
    }

    /// What does the router say to a sequence that has no replica?
    fn ask_router(&mut self, key: SequenceKey) -> Route {
        let sequence = self.sequences.get(key);
        let asked = sequence.asked();
        let fleet = fleet(self.now, self.composed, &self.replicas, &self.board);
        self.router.route(&asked, &fleet, &mut self.router_random)
    }

    /// How many replicas have had their turn to compose a step at this instant?
    fn composed(&self) -> u32 {
        at_this_instant(self.now, self.composed)
    }

    fn publish(&mut self, r: usize) {
        if self.settings.signals_interval.is_zero() {
            self.board.publish(&mut self.replicas[r], self.now);
        }
    }
}

fn at_this_instant(now: Time, (at, count): (Time, u32)) -> u32 {
    if at == now { count } else { 0 }
}

/// Policies see the replicas while they may change themselves.
fn fleet<'a>(now: Time, composed: (Time, u32), replicas: &'a [Replica], board: &'a Board) -> Fleet<'a> {
    Fleet { now, composed: at_this_instant(now, composed), replicas, board }
}
