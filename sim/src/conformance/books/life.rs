//! What is known of one request in the system.

use super::ensure;
use super::waits::Account;
use crate::fact::{End, Life, Row, Stretch};
use crate::time::Time;
use crate::workload::{AdapterId, Offered, ReplicaId, RequestId};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Between two places, for no time at all: when, and where it is to go if that was told.
    Nowhere { since: Time, to: Option<ReplicaId> },
    /// In the router's queue.
    Held,
    /// In a replica's queue.
    Waiting(ReplicaId),
    /// In a replica's batch.
    Running(ReplicaId),
}

#[derive(Clone, Debug)]
pub(super) struct Progress {
    pub(super) phase: Phase,
    pub(super) account: Account,
    /// As it came.
    offered: Offered,
    /// Where it was last.
    replica: Option<ReplicaId>,
    hit: Option<bool>,
    /// When it first reached a replica, and when it last did.
    first_routed: Option<Time>,
    waits_since: Time,
    /// When it was preempted, if nothing became of it since: the router may have it again.
    given_way: Option<Time>,
    scheduled: Option<Time>,
    first_token: Option<Time>,
    last_token: Option<Time>,
    emitted: u32,
    /// Tokens to compute before the next one, and those computed, on the replica where it runs.
    target: u32,
    computed: u32,
    /// Tokens of its prompt that became output.
    cut: u32,
    preemptions: u32,
    migrations: u32,
}

impl Progress {
    pub(super) fn new(offered: &Offered) -> Progress {
        let arrival = offered.request.arrival;
        Progress {
            phase: Phase::Nowhere { since: arrival, to: None },
            account: Account::new(arrival),
            offered: offered.clone(),
            replica: None,
            hit: None,
            first_routed: None,
            waits_since: arrival,
            given_way: None,
            scheduled: None,
            first_token: None,
            last_token: None,
            emitted: 0,
            target: 0,
            computed: 0,
            cut: 0,
            preemptions: 0,
            migrations: 0,
        }
    }

    pub(super) fn id(&self) -> RequestId {
        self.offered.request.id
    }

    pub(super) fn adapter(&self) -> Option<AdapterId> {
        self.offered.request.adapter
    }

    pub(super) fn arrival(&self) -> Time {
        self.offered.request.arrival
    }

    /// Since when it waits where it waits.
    pub(super) fn waits_since(&self) -> Time {
        self.waits_since
    }

    /// KV blocks that it holds: those of its whole prefill from the start, and one more when needed.
    pub(super) fn blocks(&self, block_size: u32) -> u32 {
        self.target.max(self.computed).div_ceil(block_size)
    }

    /// Something becomes of what the router has, or was not yet told to have again. Gives where it was.
    pub(super) fn leaves_router(&mut self, now: Time) -> Result<Phase, String> {
        let given_way = self.given_way.take();
        match self.phase {
            Phase::Nowhere { since, .. } => {
                ensure(since == now, || format!("since {since} nobody was told to have it"))?;
            }
            Phase::Held => {}
            Phase::Waiting(_) => ensure(given_way == Some(now), || "the router has what waits at a replica".into())?,
            Phase::Running(_) => ensure(false, || "the router has what runs".into())?,
        }
        Ok(self.phase)
    }

    pub(super) fn held(&mut self) -> Result<(), String> {
        ensure(self.phase != Phase::Held, || "it is held twice".into())?;
        self.phase = Phase::Held;
        Ok(())
    }

    pub(super) fn routed(&mut self, now: Time, replica: ReplicaId, recompute: u32) -> Result<(), String> {
        let elsewhere = matches!(self.phase, Phase::Nowhere { to: Some(to), .. } if to != replica);
        ensure(!elsewhere, || "it goes to another replica than it was to move to".into())?;
        ensure(recompute == self.emitted, || format!("{recompute} tokens are recomputed of {}", self.emitted))?;
        self.waits_since = now;
        self.first_routed.get_or_insert(now);
        Ok(())
    }

    /// It is there; is its adapter, or when will it be?
    pub(super) fn reaches(&mut self, now: Time, replica: ReplicaId, hit: Option<bool>, copied: Option<Time>) {
        self.account.queues(now);
        self.account.copies(now, copied.unwrap_or(now));
        self.phase = Phase::Waiting(replica);
        self.replica = Some(replica);
        self.hit = self.hit.or(hit);
    }

    pub(super) fn scheduled(&mut self, now: Time, replica: ReplicaId) -> Result<(), String> {
        ensure(self.phase == Phase::Waiting(replica), || "it is scheduled where it does not wait".into())?;
        self.phase = Phase::Running(replica);
        self.account.joins(now);
        self.given_way = None;
        self.scheduled.get_or_insert(now);
        (self.target, self.computed) = (self.offered.request.prompt_tokens + self.emitted - self.cut, 0);
        Ok(())
    }

    pub(super) fn preempted(&mut self, now: Time, replica: ReplicaId, cut: u32) -> Result<(), String> {
        let left = self.target.saturating_sub(self.computed);
        ensure(cut == 0 || (cut == left && self.computed > 0), || format!("{cut} tokens are cut of {left}"))?;
        self.cut += cut;
        self.phase = Phase::Waiting(replica);
        self.account.leaves(now);
        (self.waits_since, self.given_way) = (now, Some(now));
        self.preemptions += 1;
        Ok(())
    }

    /// Tokens after which it is done: its output, and what was cut of its prompt.
    fn output(&self) -> u32 {
        self.offered.outcome.output_tokens + self.cut
    }

    pub(super) fn migrated(&mut self, now: Time, to: ReplicaId) {
        self.phase = Phase::Nowhere { since: now, to: Some(to) };
        self.account.leaves(now);
        self.migrations += 1;
    }

    /// Takes part in a stretch. Gives the context of its first step, if it decodes.
    pub(super) fn step(&mut self, stretch: &Stretch<'_>, row: &Row) -> Result<u64, String> {
        let me = || format!("request {}", row.request.0);
        ensure(row.adapter == self.adapter(), || format!("{} has another adapter", me()))?;
        ensure(row.previous_token == self.last_token, || {
            format!("{} had its last token at {:?}", me(), self.last_token)
        })?;
        let prefill = self.computed < self.target;
        ensure(row.prefill == prefill, || format!("{} has computed {} of {}", me(), self.computed, self.target))?;
        ensure(row.tokens > 0 && (prefill || row.tokens == 1), || {
            format!("{} computes {} tokens at once", me(), row.tokens)
        })?;
        ensure(!prefill || stretch.steps == 1, || "a prefill is advanced by more than a step".into())?;
        let context = if prefill { 0 } else { u64::from(self.computed) + 1 };
        self.computed += row.tokens * stretch.steps;
        ensure(!prefill || self.computed <= self.target, || format!("{} computes more than its prompt", me()))?;
        if row.emits {
            ensure(self.computed >= self.target, || format!("{} emits in the middle of its prefill", me()))?;
            self.emitted += stretch.steps;
            let output = self.output();
            ensure(self.emitted <= output, || {
                format!("{} emits more than its output: {} of {output}", me(), self.emitted)
            })?;
            self.last_token = Some(stretch.end());
            if self.first_token.is_none() {
                self.first_token = Some(stretch.end());
                self.account.is_over(stretch.end());
            }
        }
        Ok(context)
    }

    /// Is its whole life told as it was?
    pub(super) fn ended(&mut self, now: Time, life: &Life<'_>) -> Result<(), String> {
        let Life { waits, .. } = life;
        let until = self.first_token.unwrap_or(now);
        let (total, stay) = (waits.total(), until.since(self.arrival()));
        ensure(total == stay, || format!("its waits sum to {} ps of {} ps", total.as_ps(), stay.as_ps()))?;
        let router = self.first_routed.unwrap_or(now).since(self.arrival());
        ensure(waits.router == router, || format!("it waited {} ps for the router", router.as_ps()))?;
        self.account.is_over(now);
        self.account.check(waits)?;
        let output = self.output();
        ensure(life.emitted == self.emitted, || format!("it emitted {}", self.emitted))?;
        ensure((life.end == End::Finished) == (self.emitted == output), || "finished is not what it is".into())?;
        ensure(life.end != End::Finished || self.last_token == Some(now), || "it ends after its last token".into())?;
        ensure(life.scheduled == self.scheduled, || format!("it was scheduled at {:?}", self.scheduled))?;
        ensure(life.first_token == self.first_token, || format!("its first token was at {:?}", self.first_token))?;
        ensure(life.replica == self.replica, || format!("it was last at {:?}", self.replica))?;
        ensure(life.preemptions == self.preemptions, || format!("it was preempted {} times", self.preemptions))?;
        ensure(life.migrations == self.migrations, || format!("it was moved {} times", self.migrations))?;
        ensure(life.adapter_hit == self.hit, || format!("its adapter was there: {:?}", self.hit))?;
        // Whose it was and when it came is for Little's law to say.
        let mut told = life.offered.clone();
        (told.request.tenant, told.request.arrival) = (self.offered.request.tenant, self.arrival());
        ensure(told == self.offered, || format!("it was offered as {:?}", self.offered))
    }
}
