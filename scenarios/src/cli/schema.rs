//! `aril schema`.

use std::process::ExitCode;

use aril_sim::profile::Profile;
use schemars::SchemaGenerator;

use super::{Schema, output};
use crate::error::ArilError;
use crate::registry::Registry;
use crate::scenario::Scenario;

pub(super) fn schema(registry: &Registry, what: Schema) -> Result<ExitCode, ArilError> {
    let schema = match what {
        Schema::Scenario => scenario(registry),
        Schema::Summary => aril_reports::summary_schema().to_value(),
        Schema::Profile => schemars::schema_for!(Profile).to_value(),
    };
    output::print(&output::json(&schema)?)
}

/// The schema of scenario files, with the registered policies in their places.
fn scenario(registry: &Registry) -> serde_json::Value {
    let mut generator = SchemaGenerator::default();
    let kinds = registry.schemas(&mut generator);
    let mut schema = generator.into_root_schema_for::<Scenario>().to_value();
    let presets: Vec<&str> = registry.presets().map(|(name, _)| name).collect();
    let overlay = schema.pointer_mut("/$defs/PolicyOverlay/properties").and_then(|value| value.as_object_mut());
    if let Some(properties) = overlay {
        properties.insert("preset".to_owned(), serde_json::json!({ "enum": presets }));
        for (kind, choices) in &kinds {
            properties.insert((*kind).to_owned(), choices.clone());
        }
    }
    if let Some(properties) = schema.pointer_mut("/properties").and_then(|value| value.as_object_mut()) {
        for (kind, choices) in kinds {
            properties.insert(kind.to_owned(), choices);
        }
    }
    schema
}
