//! Every now and then the smallest working set is moved onto busier replicas, if all of it fits.
//!
//! Ours. Punica (§1, §3) says that requests are migrated periodically to consolidate them and gives neither period nor
//! rule; its artifact has none. Targets are chosen as the paper chooses for a new request: the largest working set that
//! fits, ties to the highest id; a replica that this plan fills is counted with what it was promised, and an idle one is no
//! target. Moves are the paper's: cancelled here, added there, prompt and output computed again.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::fleet::Fleet;
use crate::policy::{Migrator, Move, Tunable, tunable};
use crate::random::Stream;
use crate::time::Span;
use crate::workload::ReplicaId;

/// Every `period`, all of the smallest working set moves to larger ones, or nobody does.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PunicaConsolidate {
    /// How often.
    pub period: Span,
    /// The largest working set that is moved, sequences.
    pub light_batch: u32,
    /// How many replicas are emptied at a time, at most.
    pub replicas_per_period: u32,
    /// KV blocks that a target must keep free for each of its sequences, so that nobody is preempted for the newcomers.
    pub spare_blocks_per_sequence: u32,
}

impl Default for PunicaConsolidate {
    fn default() -> PunicaConsolidate {
        PunicaConsolidate {
            period: Span::from_secs(10),
            light_batch: 8,
            replicas_per_period: 1,
            spare_blocks_per_sequence: 1,
        }
    }
}

impl Tunable for PunicaConsolidate {
    const SOURCE: &'static str = "ours, for what Punica §1 and §3 claim and leave open";
    const SUMMARY: &'static str = "every period the smallest working set moves to larger ones, if all of it fits";

    fn validate(&self) -> Result<(), String> {
        tunable::period("period", self.period)?;
        if self.light_batch == 0 || self.replicas_per_period == 0 {
            return Err("`light_batch` or `replicas_per_period` is 0: nobody would ever move".to_owned());
        }
        Ok(())
    }
}

/// What this plan has promised to a replica.
#[derive(Clone, Copy)]
struct Promise {
    replica: ReplicaId,
    sequences: u32,
    blocks: u32,
}

/// The moves so far, and what they promise.
#[derive(Default)]
struct Plan {
    moves: Vec<Move>,
    promises: Vec<Promise>,
    sources: Vec<ReplicaId>,
}

impl PunicaConsolidate {
    /// Can the replica take one more sequence, on top of what it was promised?
    fn fits(&self, fleet: &Fleet<'_>, replica: ReplicaId, promised: (u32, u32), tokens: u32) -> bool {
        let sequences = fleet.working_set(replica) + promised.0;
        if sequences >= fleet.settings(replica).max_num_seqs {
            return false;
        }
        let spare = u64::from(self.spare_blocks_per_sequence) * (u64::from(sequences) + 1);
        let needed = u64::from(promised.1) + u64::from(fleet.kv_blocks_for(replica, tokens)) + spare;
        u64::from(fleet.counts(replica).kv_blocks_uncommitted()) >= needed
            && u64::from(fleet.signals(replica).kv_blocks_uncommitted()) >= needed
    }

    /// The largest working set, promises included, that takes the sequence; ties to the highest id.
    fn target(&self, fleet: &Fleet<'_>, plan: &Plan, promises: &[Promise], tokens: u32) -> Option<ReplicaId> {
        let promised = promises.iter().filter(|p| self.fits(fleet, p.replica, (p.sequences, p.blocks), tokens));
        let promised = promised.map(|p| (fleet.working_set(p.replica) + p.sequences, p.replica)).max();
        let most = fleet.by_working_set().next_back().map_or(0, |(working_set, _)| working_set + 1);
        let other = |&(_, replica): &(u32, ReplicaId)| {
            !plan.sources.contains(&replica)
                && !promises.iter().any(|promise| promise.replica == replica)
                && self.fits(fleet, replica, (0, 0), tokens)
        };
        let other = fleet.with_working_set(1..most).rev().find(other);
        promised.max(other).map(|(_, replica)| replica)
    }

    /// Adds the moves that empty `source`; says whether all of it fits elsewhere. If not, the plan stays as it was.
    fn empty(&self, fleet: &Fleet<'_>, source: ReplicaId, plan: &mut Plan) -> bool {
        let mut promises = plan.promises.clone();
        let mut moves = Vec::new();
        plan.sources.push(source);
        for placed in fleet.sequences(source) {
            let Some(to) = self.target(fleet, plan, &promises, placed.tokens) else {
                plan.sources.pop();
                return false;
            };
            let blocks = fleet.kv_blocks_for(to, placed.tokens);
            match promises.iter_mut().find(|promise| promise.replica == to) {
                Some(promise) => {
                    promise.sequences += 1;
                    promise.blocks += blocks;
                }
                None => promises.push(Promise { replica: to, sequences: 1, blocks }),
            }
            moves.push(Move { request: placed.request, from: source, to });
        }
        plan.promises = promises;
        plan.moves.extend(moves);
        true
    }
}

impl Migrator for PunicaConsolidate {
    fn period(&self) -> Span {
        self.period
    }

    fn plan(&mut self, fleet: &Fleet<'_>, _: &mut Stream) -> Vec<Move> {
        let mut plan = Plan::default();
        for (_, source) in fleet.with_working_set(1..self.light_batch.saturating_add(1)) {
            let emptied = plan.sources.len() as u32;
            let is_target = plan.promises.iter().any(|promise| promise.replica == source);
            if emptied >= self.replicas_per_period || is_target || !self.empty(fleet, source, &mut plan) {
                break;
            }
        }
        plan.moves
    }
}
