//! The facts of a run, kept, and told to the books again with changes.

use aril_sim::conformance::Books;
use aril_sim::fact::{Fact, Life, Observer, Power, Row, Rows, Stretch};
use aril_sim::settings::AdapterMemory;
use aril_sim::time::Time;
use aril_sim::workload::{Offered, ReplicaId, RequestId};

use super::super::case::Case;

/// A case, and what was told of it.
#[derive(Clone)]
pub(super) struct Run {
    pub(super) case: Case,
    pub(super) facts: Vec<(Time, Fact<'static>)>,
}

/// Where a request is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum At {
    Router,
    Queue(ReplicaId),
    Batch(ReplicaId),
}

#[derive(Default)]
struct Kept(Vec<(Time, Fact<'static>)>);

impl Observer for Kept {
    fn observe(&mut self, now: Time, fact: &Fact<'_>) {
        self.0.push((now, kept(fact)));
    }
}

/// For good: a test is over soon.
fn kept(fact: &Fact<'_>) -> Fact<'static> {
    match *fact {
        Fact::Offered(offered) => Fact::Offered(leaked(offered.clone())),
        Fact::Ended(ref life) => Fact::Ended(Life { offered: leaked(life.offered.clone()), ..life.clone() }),
        Fact::Stretch(stretch) => Fact::Stretch(Stretch { rows: listed(stretch.rows.iter().collect()), ..stretch }),
        Fact::Held(request) => Fact::Held(request),
        Fact::Routed { request, replica, recompute } => Fact::Routed { request, replica, recompute },
        Fact::Scheduled { request, replica } => Fact::Scheduled { request, replica },
        Fact::LoadStarted { replica, adapter, from, bytes, cause, start, done } => {
            Fact::LoadStarted { replica, adapter, from, bytes, cause, start, done }
        }
        Fact::LoadDone { replica, adapter, from, bytes } => Fact::LoadDone { replica, adapter, from, bytes },
        Fact::Evicted { replica, adapter, tier, bytes } => Fact::Evicted { replica, adapter, tier, bytes },
        Fact::Preempted { request, replica, blocks, cut } => Fact::Preempted { request, replica, blocks, cut },
        Fact::Migrated { request, from, to } => Fact::Migrated { request, from, to },
        Fact::Power { replica, power } => Fact::Power { replica, power },
    }
}

fn leaked<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}

fn listed(rows: Vec<Row>) -> Rows<'static> {
    Rows::Listed(rows.leak())
}

impl Run {
    /// What the engine tells of the case.
    pub(super) fn of(case: &Case) -> Run {
        let mut kept = Kept::default();
        // A run that is stuck tells no lies up to there, but nobody closes its books.
        let ended = case.scenario.run(&case.policies.make(), true, &mut kept);
        Run { case: case.clone(), facts: if ended.is_ok() { kept.0 } else { Vec::new() } }
    }

    /// What the books say to it.
    pub(super) fn problem(&self) -> Option<String> {
        let mut books = Books::new(&self.case.scenario.settings, &self.case.scenario.catalog);
        self.facts.iter().for_each(|(now, fact)| books.observe(*now, fact));
        books.close().err()
    }

    pub(super) fn at(&self, place: usize) -> (Time, &Fact<'static>) {
        (self.facts[place].0, &self.facts[place].1)
    }

    /// When the last fact was told.
    pub(super) fn end(&self) -> Time {
        self.facts.last().map_or(Time::ZERO, |(now, _)| *now)
    }

    /// Without this fact.
    pub(super) fn without(&self, place: usize) -> Run {
        let mut run = self.clone();
        run.facts.remove(place);
        run
    }

    /// This fact twice.
    pub(super) fn twice(&self, place: usize) -> Run {
        self.then(place, self.facts[place].1.clone())
    }

    /// Another fact in place of this.
    pub(super) fn with(&self, place: usize, fact: Fact<'static>) -> Run {
        let mut run = self.clone();
        run.facts[place].1 = fact;
        run
    }

    /// This fact, and one more at the same instant.
    pub(super) fn then(&self, place: usize, fact: Fact<'static>) -> Run {
        let mut run = self.clone();
        run.facts.insert(place + 1, (self.facts[place].0, fact));
        run
    }

    /// Another stretch in place of this, if it is one and `change` can.
    pub(super) fn stretch(
        &self,
        place: usize,
        change: impl FnOnce(&mut Stretch<'_>, &mut Vec<Row>) -> Option<()>,
    ) -> Option<Run> {
        let Fact::Stretch(mut stretch) = self.facts[place].1 else { return None };
        let mut rows: Vec<Row> = stretch.rows.iter().collect();
        change(&mut stretch, &mut rows)?;
        Some(self.with(place, Fact::Stretch(Stretch { rows: listed(rows), ..stretch })))
    }

    /// Another row in place of the first of this stretch of which `change` can make one.
    pub(super) fn row(&self, place: usize, change: impl FnMut(&mut Row) -> Option<()>) -> Option<Run> {
        self.stretch(place, |_, rows| rows.iter_mut().find_map(change))
    }

    /// Another life in place of this end, if it is one and `change` can.
    pub(super) fn life(
        &self,
        place: usize,
        change: impl FnOnce(&mut Life<'_>, &mut Offered) -> Option<()>,
    ) -> Option<Run> {
        let Fact::Ended(ref life) = self.facts[place].1 else { return None };
        let (mut life, mut offered) = (life.clone(), life.offered.clone());
        change(&mut life, &mut offered)?;
        Some(self.with(place, Fact::Ended(Life { offered: leaked(offered), ..life })))
    }

    /// The request offered here as another one, which it is until its end.
    pub(super) fn offered(&self, place: usize, change: impl Fn(&mut Offered) -> Option<()>) -> Option<Run> {
        let Fact::Offered(offered) = self.facts[place].1 else { return None };
        let mut other = offered.clone();
        change(&mut other)?;
        let other: &'static Offered = leaked(other);
        let mut run = self.with(place, Fact::Offered(other));
        for (_, fact) in &mut run.facts {
            if let Fact::Ended(life) = fact
                && life.offered.request.id == offered.request.id
            {
                life.offered = other;
            }
        }
        Some(run)
    }

    /// Is the replica on just before this fact, or how is it?
    pub(super) fn power(&self, place: usize, replica: ReplicaId) -> Power {
        let told = self.facts[..place].iter().rev().find_map(|(_, fact)| match fact {
            Fact::Power { replica: of, power } if *of == replica => Some(*power),
            _ => None,
        });
        let starts_on = self.case.scenario.settings.replicas[replica.index()].starts_on;
        told.unwrap_or(if starts_on { Power::On } else { Power::Off })
    }

    /// Another replica than this one, that is on, or is not.
    pub(super) fn other(&self, place: usize, than: ReplicaId, is_on: bool) -> Option<ReplicaId> {
        let all = (0..self.case.scenario.settings.replicas.len() as u32).map(ReplicaId);
        all.filter(|other| *other != than).find(|other| (self.power(place, *other) == Power::On) == is_on)
    }

    /// Where is the request just before this fact, if it is in the system?
    pub(super) fn whereabouts(&self, place: usize, of: RequestId) -> Option<At> {
        let mut at = None;
        for (_, fact) in &self.facts[..place] {
            match *fact {
                Fact::Offered(offered) if offered.request.id == of => at = Some(At::Router),
                Fact::Held(request) | Fact::Migrated { request, .. } if request == of => at = Some(At::Router),
                Fact::Routed { request, replica, .. } | Fact::Preempted { request, replica, .. } if request == of => {
                    at = Some(At::Queue(replica));
                }
                Fact::Scheduled { request, replica } if request == of => at = Some(At::Batch(replica)),
                Fact::Ended(ref life) if life.offered.request.id == of => at = None,
                _ => {}
            }
        }
        at
    }
}

/// Nobody's number.
pub(super) const NOBODY: RequestId = RequestId(10_000);

/// Less memory.
pub(super) fn less(memory: AdapterMemory) -> AdapterMemory {
    match memory {
        AdapterMemory::Slots(slots) => AdapterMemory::Slots(slots.saturating_sub(1)),
        AdapterMemory::Bytes(bytes) => AdapterMemory::Bytes(bytes / 2),
        AdapterMemory::Unbounded => AdapterMemory::Slots(1),
    }
}
