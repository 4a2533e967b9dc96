//! A policy by its name: a plain text where its defaults will do, or a table with the name as its one key.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};

/// A policy by its name, and its tunables as far as they were set.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// As it is registered.
    pub name: String,
    /// Its table.
    pub tunables: toml::Table,
}

impl Serialize for Choice {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.tunables.is_empty() {
            return serializer.serialize_str(&self.name);
        }
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry(&self.name, &self.tunables)?;
        map.end()
    }
}

impl<'de> Deserialize<'de> for Choice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Choice, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Choice;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("the name of a policy, as a text or as the one key of a table")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<Choice, E> {
                Ok(Choice { name: name.to_owned(), tunables: toml::Table::new() })
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Choice, A::Error> {
                let Some((name, tunables)) = map.next_entry()? else {
                    return Err(de::Error::custom("the table is empty: its one key is the name of the policy"));
                };
                if let Some(second) = map.next_key::<String>()? {
                    return Err(de::Error::custom(format!(
                        "`{second}` beside `{name}`: a choice is one policy, its tunables in a table of its own"
                    )));
                }
                Ok(Choice { name, tunables })
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// A schema that takes any name; [`crate::registry`] puts the registered ones in its place.
impl JsonSchema for Choice {
    fn schema_name() -> Cow<'static, str> {
        "PolicyChoice".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A policy by its name, or a table whose one key is the name and whose value are its tunables.",
            "anyOf": [
                { "type": "string" },
                { "type": "object", "minProperties": 1, "maxProperties": 1, "additionalProperties": { "type": "object" } },
            ],
        })
    }
}
