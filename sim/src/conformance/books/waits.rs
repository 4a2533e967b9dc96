//! Where the time before a first token went, from facts alone.
//!
//! In steps, and on the way back to them, to the picosecond. Why a batcher leaves somebody in its queue is no fact; but nobody waits for
//! a copy of an adapter longer than there is one on its way, nor for a place for an adapter before there was none.

use super::life::{Phase, Progress};
use super::{Books, ensure};
use crate::fact::Waits;
use crate::time::{Span, Time};
use crate::workload::{AdapterId, ReplicaId};

/// Where a request without a first token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// With the router, for the first time.
    Router,
    /// In the queue of a replica, for the first time.
    Queue,
    /// In a batch.
    Step,
    /// Out of it again: nothing else is waited for until it is back.
    Return,
    /// It has its first token, or has ended.
    Over,
}

/// What became of the time of one request so far.
#[derive(Clone, Debug)]
pub(super) struct Account {
    stage: Stage,
    since: Time,
    /// When the copies are there that the step waits for which it has joined.
    begins: Time,
    /// Of the last copy of its adapter beside which it waited: since when, and when that is there.
    copy: (Time, Time),
    /// When there first was no place for its adapter.
    crowded: Option<Time>,
    copying: Span,
    placeless: Span,
    stalled: Span,
    prefill: Span,
    returning: Span,
}

impl Account {
    pub(super) fn new(now: Time) -> Account {
        Account {
            stage: Stage::Router,
            since: now,
            begins: now,
            copy: (now, now),
            crowded: None,
            copying: Span::ZERO,
            placeless: Span::ZERO,
            stalled: Span::ZERO,
            prefill: Span::ZERO,
            returning: Span::ZERO,
        }
    }

    fn becomes(&mut self, stage: Stage, now: Time) {
        match self.stage {
            Stage::Over => return,
            Stage::Router => {}
            Stage::Queue => {
                self.copies(now, now);
                self.placeless = self.crowded.map_or(Span::ZERO, |crowded| now.since(crowded));
            }
            Stage::Step => {
                let begins = self.begins.min(now);
                self.stalled += begins.since(self.since);
                self.prefill += now.since(begins);
            }
            Stage::Return => self.returning += now.since(self.since),
        }
        (self.stage, self.since) = (stage, now);
    }

    /// It has reached a replica.
    pub(super) fn queues(&mut self, now: Time) {
        if self.stage == Stage::Router {
            self.becomes(Stage::Queue, now);
            self.copy = (now, now);
        }
    }

    /// From now on a copy of its adapter is on its way.
    pub(super) fn copies(&mut self, now: Time, until: Time) {
        if self.stage == Stage::Queue {
            let (since, there) = self.copy;
            self.copying += there.min(now).since(since);
            self.copy = (now, until.max(now));
        }
    }

    /// There is no place for its adapter.
    pub(super) fn is_crowded(&mut self, now: Time) {
        if self.stage == Stage::Queue {
            self.crowded.get_or_insert(now);
        }
    }

    /// It joins a step that is composed now.
    pub(super) fn joins(&mut self, now: Time) {
        self.becomes(Stage::Step, now);
        self.begins = now;
    }

    /// The step that was composed now has its copies then.
    pub(super) fn stalls(&mut self, now: Time, until: Time) {
        if self.stage == Stage::Step && self.since == now {
            self.begins = until;
        }
    }

    /// It leaves, to return.
    pub(super) fn leaves(&mut self, now: Time) {
        self.becomes(Stage::Return, now);
    }

    /// It has its first token, or ends without.
    pub(super) fn is_over(&mut self, now: Time) {
        self.becomes(Stage::Over, now);
    }

    /// Is it told so?
    pub(super) fn check(&self, waits: &Waits) -> Result<(), String> {
        let ps = Span::as_ps;
        ensure(waits.preemption == self.returning, || format!("it waited {} ps to return", ps(self.returning)))?;
        ensure(waits.prefill == self.prefill, || format!("it was in steps for {} ps", ps(self.prefill)))?;
        ensure(waits.load >= self.stalled, || format!("its steps waited {} ps for copies", ps(self.stalled)))?;
        ensure(waits.load <= self.stalled + self.copying, || {
            format!("a copy for it was on its way for {} ps, and stalled it for {}", ps(self.copying), ps(self.stalled))
        })?;
        ensure(waits.slot <= self.placeless, || {
            format!("there was no place for its adapter for {} ps at most", ps(self.placeless))
        })
    }
}

impl Books<'_> {
    /// A copy for whoever waits there with this adapter.
    pub(super) fn copied(&mut self, replica: ReplicaId, adapter: AdapterId, until: Time) {
        let waits = |progress: &&mut Progress| progress.phase == Phase::Waiting(replica);
        for progress in self.live.values_mut().filter(waits).filter(|progress| progress.adapter() == Some(adapter)) {
            progress.account.copies(self.now, until);
        }
    }

    /// Copies for everybody who joined the step that is composed now.
    pub(super) fn stalled(&mut self, replica: ReplicaId) {
        let (now, until) = self.replicas[replica.index()].composed;
        for progress in self.live.values_mut().filter(|progress| progress.phase == Phase::Running(replica)) {
            progress.account.stalls(now, until);
        }
    }

    /// Who waits there, and has no place for an adapter?
    pub(super) fn crowded(&mut self, replica: ReplicaId) {
        let (now, settings) = (self.now, &self.settings.replicas[replica.index()]);
        let site = &self.replicas[replica.index()];
        let (at, gone) = &site.given_way;
        let gone = if *at == now { &gone[..] } else { &[] };
        let is_full = site.adapters.in_batch(gone) >= settings.max_loras;
        for progress in self.live.values_mut().filter(|progress| progress.phase == Phase::Waiting(replica)) {
            let Some(adapter) = progress.adapter().filter(|_| progress.account.crowded.is_none()) else { continue };
            let bytes = self.catalog.adapters[adapter.index()].bytes;
            if is_full && !site.adapters.is_used(adapter) || !site.adapters.has_room(adapter, bytes, settings) {
                progress.account.is_crowded(now);
            }
        }
    }
}
