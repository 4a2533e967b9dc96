//! What is known of one request in the system.

use super::ensure;
use crate::fact::{End, Life, Row, Stretch};
use crate::time::Time;
use crate::workload::{AdapterId, Offered, ReplicaId, RequestId};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// With the router.
    Router,
    /// In a replica's queue.
    Waiting(ReplicaId),
    /// In a replica's batch.
    Running(ReplicaId),
}

#[derive(Clone, Debug)]
pub(super) struct Progress {
    pub(super) id: RequestId,
    pub(super) adapter: Option<AdapterId>,
    pub(super) phase: Phase,
    /// Where it was last.
    pub(super) replica: Option<ReplicaId>,
    pub(super) hit: Option<bool>,
    arrival: Time,
    prompt: u32,
    output: u32,
    scheduled: Option<Time>,
    first_token: Option<Time>,
    last_token: Option<Time>,
    emitted: u32,
    /// Tokens to compute before the next one, and those computed, on the replica where it runs.
    target: u32,
    computed: u32,
    preemptions: u32,
    migrations: u32,
}

impl Progress {
    pub(super) fn new(offered: &Offered) -> Progress {
        let request = &offered.request;
        Progress {
            id: request.id,
            adapter: request.adapter,
            phase: Phase::Router,
            replica: None,
            hit: None,
            arrival: request.arrival,
            prompt: request.prompt_tokens,
            output: offered.outcome.output_tokens,
            scheduled: None,
            first_token: None,
            last_token: None,
            emitted: 0,
            target: 0,
            computed: 0,
            preemptions: 0,
            migrations: 0,
        }
    }

    /// KV blocks that it holds: those of its whole prefill from the start, and one more when needed.
    pub(super) fn blocks(&self, block_size: u32) -> u32 {
        self.target.max(self.computed).div_ceil(block_size)
    }

    pub(super) fn routed(&mut self, replica: ReplicaId, recompute: u32) -> Result<(), String> {
        ensure(recompute == self.emitted, || format!("it has emitted {} tokens", self.emitted))?;
        self.phase = Phase::Waiting(replica);
        self.replica = Some(replica);
        Ok(())
    }

    pub(super) fn scheduled(&mut self, now: Time, replica: ReplicaId) -> Result<(), String> {
        ensure(self.phase == Phase::Waiting(replica), || "it does not wait there".into())?;
        self.phase = Phase::Running(replica);
        self.scheduled.get_or_insert(now);
        (self.target, self.computed) = (self.prompt + self.emitted, 0);
        Ok(())
    }

    pub(super) fn preempted(&mut self) {
        if let Phase::Running(replica) = self.phase {
            self.phase = Phase::Waiting(replica);
        }
        self.preemptions += 1;
    }

    pub(super) fn migrated(&mut self) {
        self.phase = Phase::Router;
        self.migrations += 1;
    }

    /// Takes part in a stretch. Gives the context of its first step, if it decodes.
    pub(super) fn step(&mut self, stretch: &Stretch<'_>, row: &Row) -> Result<u64, String> {
        let me = || format!("request {}", row.request.0);
        ensure(row.adapter == self.adapter, || format!("{} has another adapter", me()))?;
        ensure(row.previous_token == self.last_token, || {
            format!("{} had its last token at {:?}", me(), self.last_token)
        })?;
        let prefill = self.computed < self.target;
        ensure(row.prefill == prefill, || format!("{} has {} tokens of {}", me(), self.computed, self.target))?;
        ensure(row.tokens > 0 && (prefill || row.tokens == 1), || format!("{} has {} tokens", me(), row.tokens))?;
        ensure(!prefill || stretch.steps == 1, || "a prefill is advanced by more than a step".into())?;
        let context = if prefill { 0 } else { u64::from(self.computed) + 1 };
        self.computed += row.tokens * stretch.steps;
        ensure(!prefill || self.computed <= self.target, || format!("{} computes more than its prompt", me()))?;
        if row.emits {
            ensure(self.computed >= self.target, || format!("{} emits in the middle of its prefill", me()))?;
            self.emitted += stretch.steps;
            ensure(self.emitted <= self.output, || {
                format!("{} emits {} tokens of {}", me(), self.emitted, self.output)
            })?;
            self.last_token = Some(stretch.end());
            self.first_token.get_or_insert(stretch.end());
        }
        Ok(context)
    }

    /// Is its whole life told as it was?
    pub(super) fn ended(&self, now: Time, life: &Life<'_>) -> Result<(), String> {
        let until = self.first_token.unwrap_or(now);
        let total = life.waits.total();
        ensure(total == until.since(self.arrival), || {
            format!("its waits sum to {} ps of {} ps", total.as_ps(), until.since(self.arrival).as_ps())
        })?;
        ensure(life.emitted == self.emitted, || format!("it emitted {}", self.emitted))?;
        ensure((life.end == End::Finished) == (self.emitted == self.output), || "finished is not what it is".into())?;
        ensure(life.end != End::Finished || self.last_token == Some(now), || "it ends after its last token".into())?;
        ensure(life.scheduled == self.scheduled, || format!("it was scheduled at {:?}", self.scheduled))?;
        ensure(life.first_token == self.first_token, || format!("its first token was at {:?}", self.first_token))?;
        ensure(life.replica == self.replica, || format!("it was at {:?}", self.replica))?;
        ensure(life.preemptions == self.preemptions, || format!("{} preemptions", self.preemptions))?;
        ensure(life.migrations == self.migrations, || format!("{} migrations", self.migrations))?;
        ensure(life.adapter_hit == self.hit, || format!("hit: {:?}", self.hit))
    }
}
