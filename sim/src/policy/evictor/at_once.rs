//! An adapter leaves the GPU with the last sequence that used it.
//!
//! Source: S-LoRA (arXiv 2311.03285, §5.3 and its code): only the adapters of the running batch are in GPU memory, there is no
//! cache of idle ones. Punica's paper does not say; its artifact keeps 38.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::policy::{Evictor, Idle, Tunable};
use crate::time::Time;

/// No cache. Where room is needed before that, as for what was fetched ahead of need, the least recently used goes.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AtOnce {}

impl Tunable for AtOnce {
    const SOURCE: &'static str = "S-LoRA (arXiv 2311.03285): adapters without a running request are offloaded";
    const SUMMARY: &'static str = "every adapter as soon as the batch no longer uses it";
}

impl Evictor for AtOnce {
    fn victim(&mut self, _: Time, idle: &[Idle]) -> Option<usize> {
        (0..idle.len()).min_by_key(|&position| idle[position].last_used)
    }

    fn keeps_idle(&self) -> bool {
        false
    }
}
