//! The newest sequence gives way, so that first come stays first served.
//!
//! Source: Punica (§5.3): the newest request is cancelled and scheduled again like a new one, on any GPU
//! (`requeue = "cluster"`, newest by arrival). vLLM V1: the last of the running list is preempted and computed again on
//! the same replica (`requeue = "replica"`, newest by admission).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Age;
use crate::policy::{Preemptor, Requeue, Running, Tunable};

/// The newest of the batch.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Newest {
    /// What makes a sequence newer than another?
    pub by: Age,
    /// Where does it wait?
    pub requeue: Requeue,
}

impl Default for Newest {
    fn default() -> Newest {
        Newest { by: Age::Arrival, requeue: Requeue::Cluster }
    }
}

impl Tunable for Newest {
    const SOURCE: &'static str = "Punica §5.3 (to the cluster, by arrival); vLLM V1 (to its replica, by admission)";
    const SUMMARY: &'static str = "the newest sequence gives way";
}

impl Preemptor for Newest {
    fn victim(&mut self, running: &[Running]) -> usize {
        (0..running.len()).max_by_key(|&position| self.by.of(&running[position])).unwrap_or(0)
    }

    fn requeue(&self) -> Requeue {
        self.requeue
    }
}
