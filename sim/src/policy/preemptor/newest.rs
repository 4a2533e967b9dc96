//! The newest sequence gives way, so that first come stays first served.
//!
//! Source: Punica (§5.3): the newest request is cancelled and scheduled again like a new one, on any GPU
//! (`requeue = "cluster"`, newest by arrival). vLLM V1: the last of the running list is preempted and computed again on
//! the same replica (`requeue = "replica"`, newest by admission). Vidur: the same by arrival, a sequence whose last block has room
//! looks for a free one as well (`each_finds_a_free_block`), and who gives way in the middle of its prompt is left with the part that was
//! computed, and generates the rest (`cuts_prompts`; `Request.restart` there).

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
    /// Must each sequence find a KV block free when its turn in a step comes, also one whose last has room? Vidur's must.
    pub each_finds_a_free_block: bool,
    /// Is a prompt that was computed in part cut there, and its rest generated token by token, as more output? Vidur's is.
    pub cuts_prompts: bool,
}

impl Default for Newest {
    fn default() -> Newest {
        Newest { by: Age::Arrival, requeue: Requeue::Cluster, each_finds_a_free_block: false, cuts_prompts: false }
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

    fn each_finds_a_free_block(&self) -> bool {
        self.each_finds_a_free_block
    }

    fn cuts_prompts(&self) -> bool {
        self.cuts_prompts
    }
}
