//! The step that needs an adapter waits for its copy, and everybody in the batch too.
//!
//! Source: vLLM, where a worker copies missing adapters before it runs the step.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::policy::{LoadMode, LoadPath, Tunable};

/// Copies on demand, in the step.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Blocking {}

impl Tunable for Blocking {
    const SOURCE: &'static str = "vLLM: adapters are activated before the step, synchronously";
    const SUMMARY: &'static str = "the step waits for the copies that it needs";
}

impl LoadPath for Blocking {
    fn mode(&self) -> LoadMode {
        LoadMode::Blocking
    }
}
