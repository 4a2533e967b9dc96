//! The adapter that was loaded first goes.
//!
//! Source: SGLang, `lora_eviction_policy = fifo`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::policy::{Evictor, Idle, Tunable};
use crate::time::Time;

/// First in, first out, whatever was used since. Ties go to the lower id.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Fifo {}

impl Tunable for Fifo {
    const SOURCE: &'static str = "SGLang lora_eviction_policy = fifo";
    const SUMMARY: &'static str = "the adapter that was loaded first";
}

impl Evictor for Fifo {
    fn victim(&mut self, _: Time, idle: &[Idle]) -> Option<usize> {
        (0..idle.len()).min_by_key(|&position| idle[position].loaded)
    }
}
