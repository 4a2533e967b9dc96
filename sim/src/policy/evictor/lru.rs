//! The adapter that was not used for longest goes.
//!
//! Source: Punica's artifact (a cache of 38 adapters in order of use), vLLM (slots and host cache), SGLang's default.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::policy::{Evictor, Idle, Tunable};
use crate::time::Time;

/// Least recently used: a use begins and ends with a sequence. Ties go to the lower id.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Lru {}

impl Tunable for Lru {
    const SOURCE: &'static str = "Punica artifact, gpu_executor (LRU of 38); vLLM; SGLang lora_eviction_policy = lru";
    const SUMMARY: &'static str = "the adapter that was not used for longest";
}

impl Evictor for Lru {
    fn victim(&mut self, _: Time, idle: &[Idle]) -> Option<usize> {
        (0..idle.len()).min_by_key(|&position| idle[position].last_used)
    }
}
