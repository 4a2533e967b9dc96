//! Copies for the next requests of the queue start before their turn has come.
//!
//! Source: S-LoRA (§5.3), which prefetches the adapters of the next batch of its queue while the current one decodes,
//! and waits for what is missing. A copy ahead of need never takes the room of an adapter that somebody uses or awaits.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::policy::{LoadMode, LoadPath, Tunable};

/// Copies for the first `depth` requests of each queue, beside the steps.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NextInQueue {
    /// For how many requests at the head of the queue.
    pub depth: u32,
    /// What happens where a copy is not there in time.
    pub late: LoadMode,
}

impl Default for NextInQueue {
    fn default() -> NextInQueue {
        NextInQueue { depth: 8, late: LoadMode::Overlapped }
    }
}

impl Tunable for NextInQueue {
    const SOURCE: &'static str = "S-LoRA (arXiv 2311.03285), prefetching; its depth there is one batch";
    const SUMMARY: &'static str = "copies ahead of need for the head of the queue";

    fn validate(&self) -> Result<(), String> {
        if self.depth == 0 {
            return Err("`depth` is 0: write at least 1, or use `join-when-ready` or `blocking`".to_owned());
        }
        Ok(())
    }
}

impl LoadPath for NextInQueue {
    fn mode(&self) -> LoadMode {
        self.late
    }

    fn ahead(&self) -> usize {
        self.depth as usize
    }
}
