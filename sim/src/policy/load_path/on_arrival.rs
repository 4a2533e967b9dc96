//! The copy starts when the request is added to its GPU, and hides behind the steps that run meanwhile.
//!
//! Source: Punica (§5.2): an asynchronous copy is issued with the request, which joins the next batch after it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::policy::{LoadMode, LoadPath, Tunable};

/// Copies for everybody in the queue, beside the steps, as long as there is room.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OnArrival {}

impl Tunable for OnArrival {
    const SOURCE: &'static str = "Punica §5.2: loading LoRA weights on demand";
    const SUMMARY: &'static str = "the copy starts when the request is given to the replica";
}

impl LoadPath for OnArrival {
    fn mode(&self) -> LoadMode {
        LoadMode::Overlapped
    }

    fn ahead(&self) -> usize {
        usize::MAX
    }
}
