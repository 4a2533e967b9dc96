//! GPUs are held as Punica hints: one more when none is lightly loaded, one less when it has had no load for a while.
//!
//! Source: Punica (§5.1): "if no lightly loaded GPU exists, request more GPUs; a GPU server with no load can be returned".
//! The paper defines neither "lightly loaded" nor how long to wait, and does not evaluate it: `light_batch`, `idle_for`
//! and the rule below are ours. An idle replica is kept as long as it is the only lightly loaded one: else the first
//! hint would ask for it again at once.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::fact::Power;
use crate::fleet::Fleet;
use crate::policy::{Scale, Scaler, Tunable, tunable};
use crate::time::{Span, Time};
use crate::workload::ReplicaId;

/// Acquires when no replica is lightly loaded; releases what had no load for `idle_for`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PunicaHints {
    /// How often the fleet is looked at, besides whenever a request must be held.
    pub period: Span,
    /// The largest working set that counts as lightly loaded, sequences; 0: idle replicas alone.
    pub light_batch: u32,
    /// A replica that had no load at any look for so long is released.
    pub idle_for: Span,
    /// Replicas that are never released.
    pub min_on: u32,
    /// Since when idle replicas have been found so.
    #[serde(skip)]
    #[schemars(skip)]
    idle: BTreeMap<ReplicaId, Time>,
    /// Acquired, and not yet serving when it was last looked at.
    #[serde(skip)]
    #[schemars(skip)]
    starting: Vec<ReplicaId>,
}

impl Default for PunicaHints {
    fn default() -> PunicaHints {
        PunicaHints {
            period: Span::from_secs(10),
            light_batch: 8,
            idle_for: Span::from_secs(60),
            min_on: 1,
            idle: BTreeMap::new(),
            starting: Vec::new(),
        }
    }
}

impl Tunable for PunicaHints {
    const SOURCE: &'static str = "Punica §5.1, two hints; thresholds ours";
    const SUMMARY: &'static str =
        "one more GPU when none is lightly loaded, one less when it has had no load for a while";

    fn validate(&self) -> Result<(), String> {
        tunable::period("period", self.period)?;
        if self.min_on == 0 {
            return Err(
                "`min_on` is 0: with no GPU at all nobody is served until one has started; write at least 1".to_owned()
            );
        }
        Ok(())
    }
}

impl PunicaHints {
    /// Off replicas, the highest id first: the paper's ties go there too.
    fn acquire(&mut self, fleet: &Fleet<'_>, count: usize) -> Vec<Scale> {
        if count == 0 || fleet.available().len() + self.starting.len() >= fleet.len() {
            return Vec::new();
        }
        let off = |&replica: &ReplicaId| matches!(fleet.power(replica), Power::Off | Power::Draining);
        let chosen: Vec<ReplicaId> = (0..fleet.len() as u32).rev().map(ReplicaId).filter(off).take(count).collect();
        self.starting.extend(&chosen);
        chosen.into_iter().map(Scale::Acquire).collect()
    }

    /// Replicas that have been idle for long enough, the lowest id first, as long as another lightly loaded one remains.
    fn release(&mut self, fleet: &Fleet<'_>, light: usize) -> Vec<Scale> {
        let now = fleet.now();
        let mut on = fleet.available().len();
        let mut light = light;
        let mut actions = Vec::new();
        for (_, replica) in fleet.with_working_set(0..1) {
            let since = *self.idle.entry(replica).or_insert(now);
            if now < since.saturating_add(self.idle_for) || light <= 1 || on <= self.min_on as usize {
                continue;
            }
            self.idle.remove(&replica);
            actions.push(Scale::Release(replica));
            on -= 1;
            light -= 1;
        }
        actions
    }
}

impl Scaler for PunicaHints {
    fn period(&self) -> Span {
        self.period
    }

    fn plan(&mut self, fleet: &Fleet<'_>, held: usize) -> Vec<Scale> {
        self.idle.retain(|&replica, _| fleet.is_available(replica) && fleet.working_set(replica) == 0);
        self.starting.retain(|&replica| fleet.power(replica) == Power::Starting);
        let starting = self.starting.len();
        if held > 0 {
            // Whoever waits will take the places of the replicas that are starting; beyond them more are needed.
            let places = fleet.settings(ReplicaId(0)).max_num_seqs.max(1) as usize;
            return self.acquire(fleet, held.div_ceil(places).saturating_sub(starting));
        }
        let light = fleet.with_working_set(0..self.light_batch.saturating_add(1)).count();
        if light == 0 {
            return self.acquire(fleet, 1_usize.saturating_sub(starting));
        }
        self.release(fleet, light)
    }
}
