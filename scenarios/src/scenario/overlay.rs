//! A policy by name: what it does differently from the base.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};

use super::{Choice, EngineSettings};

/// The seven kinds of policy, as keys of a scenario.
pub const POLICY_KEYS: [&str; 7] = ["router", "batcher", "evictor", "load_path", "preemptor", "migrator", "scaler"];

/// The keys of an engine that an overlay may set.
pub const ENGINE_KEYS: [&str; 14] = [
    "max_num_seqs",
    "max_num_batched_tokens",
    "max_model_len",
    "block_size",
    "gpu_memory_utilization",
    "kv_cache",
    "max_loras",
    "max_lora_rank",
    "max_cpu_loras",
    "gpu_adapters",
    "host_adapters",
    "host_link",
    "disk_link",
    "lora_kernel",
];

/// Tunables of a batcher that an overlay may set beside it.
pub const BATCHER_KEYS: [&str; 2] = ["gc_every", "faults"];

/// What a policy does differently from the base: a preset, then policies one by one, then keys of the engine, the profile
/// of all pools, and `gc_every` and `faults` of its batcher.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Overlay {
    /// Its keys and values, already checked when the overlay was applied.
    pub keys: Vec<(String, toml::Value)>,
}

impl Serialize for Overlay {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.keys.len()))?;
        for (key, value) in &self.keys {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Overlay {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Overlay, D::Error> {
        struct Table;
        impl<'de> Visitor<'de> for Table {
            type Value = Overlay;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a table")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Overlay, A::Error> {
                let mut keys = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    keys.push(entry);
                }
                Ok(Overlay { keys })
            }
        }
        deserializer.deserialize_map(Table)
    }
}

impl JsonSchema for Overlay {
    fn schema_name() -> Cow<'static, str> {
        "PolicyOverlay".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut properties = serde_json::Map::new();
        properties.insert("preset".to_owned(), serde_json::json!({ "type": "string" }));
        properties.insert("profile".to_owned(), serde_json::json!({ "type": "string" }));
        properties.insert("gc_every".to_owned(), serde_json::json!({ "type": "integer", "minimum": 0 }));
        properties.insert("faults".to_owned(), serde_json::json!({ "type": "array", "items": { "type": "string" } }));
        for key in POLICY_KEYS {
            properties.insert(key.to_owned(), generator.subschema_for::<Choice>().to_value());
        }
        let engine = EngineSettings::json_schema(generator);
        if let Some(keys) = engine.get("properties").and_then(|value| value.as_object()) {
            properties.extend(keys.clone());
        }
        json_schema!({ "type": "object", "properties": properties, "additionalProperties": false })
    }
}
