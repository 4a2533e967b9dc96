//! The oldest sequence gives way.
//!
//! Source: Punica's artifact (scheduler.rs of 2023-10-21), against its own comment, which says newest: when a GPU has
//! fewer free blocks than running requests, the first of the set ordered by arrival goes back to the scheduler, at the
//! front of its queue.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Age;
use crate::policy::{Preemptor, Requeue, Running, Tunable};

/// The oldest of the batch, before blocks run out if `reserve_per_sequence` is set.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Oldest {
    /// What makes a sequence older than another?
    pub by: Age,
    /// Where does it wait?
    pub requeue: Requeue,
    /// KV blocks for each running sequence that must be free before a step; 0: only those that the step needs.
    pub reserve_per_sequence: u32,
}

impl Default for Oldest {
    fn default() -> Oldest {
        Oldest { by: Age::Arrival, requeue: Requeue::Cluster, reserve_per_sequence: 1 }
    }
}

impl Tunable for Oldest {
    const SOURCE: &'static str = "Punica artifact, rust/src/scheduler/scheduler.rs (3886f27)";
    const SUMMARY: &'static str = "the oldest sequence gives way";
}

impl Preemptor for Oldest {
    fn victim(&mut self, running: &[Running]) -> usize {
        (0..running.len()).min_by_key(|&position| self.by.of(&running[position])).unwrap_or(0)
    }

    fn requeue(&self) -> Requeue {
        self.requeue
    }

    fn reserve(&self, running: u32) -> u32 {
        running.saturating_mul(self.reserve_per_sequence)
    }
}
