//! Some adapters never leave; another rule chooses among the rest.
//!
//! Source: pinned adapters of SGLang and of BLIS. A newcomer that would need the room of a pinned adapter is refused; if
//! the pinned adapters alone fill the memory, it waits for ever and the run says so.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Fifo, Lfu, Lru, SizeAware};
use crate::policy::{Evictor, Ground, Idle, Tunable};
use crate::time::Time;

/// Never one of `ids`; the rest by another rule.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Pinned {
    /// Positions of the pinned adapters in the catalogue.
    pub ids: Vec<u32>,
    /// The rule for all others.
    pub rest: Rest,
}

/// Who chooses among adapters that are not pinned?
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Rest {
    /// The least recently used.
    #[default]
    Lru,
    /// The first loaded.
    Fifo,
    /// The least frequently used.
    Lfu,
    /// The lowest weighted sum of frequency, recency and size.
    SizeAware(SizeAware),
}

impl Tunable for Pinned {
    const SOURCE: &'static str = "SGLang and BLIS: pinned adapters";
    const SUMMARY: &'static str = "never a pinned adapter; the rest by another rule";

    fn validate(&self) -> Result<(), String> {
        match &self.rest {
            Rest::SizeAware(rest) => rest.validate().map_err(|problem| format!("rest.size-aware: {problem}")),
            Rest::Lru | Rest::Fifo | Rest::Lfu => Ok(()),
        }
    }

    fn suits(&self, ground: &Ground<'_>) -> Result<(), String> {
        let adapters = ground.catalog.adapters.len();
        match self.ids.iter().find(|&&id| id as usize >= adapters) {
            Some(id) => Err(format!(
                "`ids` pins adapter {id}, and the traffic has {adapters}, counted from 0 in the order of the catalogue"
            )),
            None => Ok(()),
        }
    }
}

impl Evictor for Pinned {
    fn victim(&mut self, now: Time, idle: &[Idle]) -> Option<usize> {
        let free = |idle: &Idle| !self.ids.contains(&idle.adapter.0);
        let candidates: Vec<Idle> = idle.iter().copied().filter(free).collect();
        if candidates.is_empty() {
            return None;
        }
        let choice = match &mut self.rest {
            Rest::Lru => Lru {}.victim(now, &candidates),
            Rest::Fifo => Fifo {}.victim(now, &candidates),
            Rest::Lfu => Lfu {}.victim(now, &candidates),
            Rest::SizeAware(rest) => rest.victim(now, &candidates),
        };
        let adapter = candidates[choice?].adapter;
        idle.iter().position(|idle| idle.adapter == adapter)
    }
}
