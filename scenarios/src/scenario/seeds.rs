//! Which seeds are run.

use schemars::JsonSchema;
use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

/// Which seeds are run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Seeds {
    /// So many, counted up from `seed`.
    Count(u32),
    /// These.
    List(Vec<u64>),
}

impl Seeds {
    /// The seeds, if the first is `first`.
    pub fn from(&self, first: u64) -> Vec<u64> {
        match self {
            Seeds::Count(count) => (0..u64::from(*count)).map(|k| first.wrapping_add(k)).collect(),
            Seeds::List(seeds) => seeds.clone(),
        }
    }
}

impl<'de> Deserialize<'de> for Seeds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Seeds, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Seeds;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("how many seeds, or a list of them")
            }

            fn visit_i64<E: de::Error>(self, count: i64) -> Result<Seeds, E> {
                match u32::try_from(count) {
                    Ok(count @ 1..=10_000) => Ok(Seeds::Count(count)),
                    _ => Err(E::custom(format!("{count} is no number of seeds: between 1 and 10000"))),
                }
            }

            fn visit_u64<E: de::Error>(self, count: u64) -> Result<Seeds, E> {
                self.visit_i64(i64::try_from(count).unwrap_or(i64::MAX))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Seeds, A::Error> {
                let mut seeds = Vec::new();
                while let Some(seed) = items.next_element()? {
                    if seeds.contains(&seed) {
                        return Err(de::Error::custom(format!("the seed {seed} is there twice")));
                    }
                    seeds.push(seed);
                }
                if seeds.is_empty() {
                    return Err(de::Error::custom("the list of seeds is empty"));
                }
                Ok(Seeds::List(seeds))
            }
        }
        deserializer.deserialize_any(Either)
    }
}
