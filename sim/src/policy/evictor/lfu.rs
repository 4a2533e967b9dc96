//! The adapter that served the fewest sequences goes.
//!
//! Source: the textbook rule, a baseline of cache studies. Uses are counted since the adapter was loaded.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::policy::{Evictor, Idle, Tunable};
use crate::time::Time;

/// Least frequently used since it was loaded; ties go to the least recently used, then to the lower id.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Lfu {}

impl Tunable for Lfu {
    const SOURCE: &'static str = "the textbook rule";
    const SUMMARY: &'static str = "the adapter that served the fewest sequences since it was loaded";
}

impl Evictor for Lfu {
    fn victim(&mut self, _: Time, idle: &[Idle]) -> Option<usize> {
        (0..idle.len()).min_by_key(|&position| (idle[position].uses, idle[position].last_used))
    }
}
