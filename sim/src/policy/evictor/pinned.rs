//! Some adapters never leave; another rule chooses among the rest.
//!
//! Source: pinned adapters of SGLang and of BLIS. A newcomer that would need the room of a pinned adapter is refused; if
//! the pinned adapters alone fill the memory, it waits for ever and the run says so.

use std::fmt;

use schemars::JsonSchema;
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize};

use super::{Fifo, Lfu, Lru, SizeAware};
use crate::policy::{Evictor, Ground, Idle, Tunable};
use crate::time::Time;

/// Never one of `ids`; the rest by another rule.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Pinned {
    /// The pinned adapters by their numbers, not their names: 0 is the first of the adapters file or, without one, the first that the
    /// trace names; a law counts from its most popular one.
    #[serde(deserialize_with = "numbers")]
    #[schemars(with = "Vec<u32>")]
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

/// A list of adapters by number; a name is refused with what to write.
fn numbers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u32>, D::Error> {
    struct Number(u32);
    impl<'de> Deserialize<'de> for Number {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Number, D::Error> {
            deserializer.deserialize_any(AnyNumber)
        }
    }
    struct AnyNumber;
    impl Visitor<'_> for AnyNumber {
        type Value = Number;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("the number of an adapter, not its name: 0 is the first of the adapters file, or the first that the trace names")
        }

        fn visit_u64<E: de::Error>(self, number: u64) -> Result<Number, E> {
            u32::try_from(number).map(Number).map_err(|_| E::invalid_value(de::Unexpected::Unsigned(number), &self))
        }

        fn visit_i64<E: de::Error>(self, number: i64) -> Result<Number, E> {
            u32::try_from(number).map(Number).map_err(|_| E::invalid_value(de::Unexpected::Signed(number), &self))
        }
    }
    Ok(Vec::<Number>::deserialize(deserializer)?.into_iter().map(|number| number.0).collect())
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
            Some(id) => {
                let name = |at: usize| ground.catalog.adapters.get(at).map_or("", |adapter| adapter.name.as_str());
                let range = match adapters {
                    0 => "none".to_owned(),
                    1 => format!("one: 0 is `{}`", name(0)),
                    n => format!("{n}: 0 is `{}`, {} is `{}`", name(0), n - 1, name(n - 1)),
                };
                Err(format!("`ids` pins adapter {id} by its number, and the traffic has {range}"))
            }
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
