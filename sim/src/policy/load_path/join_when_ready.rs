//! The copy starts when the request's turn has come; steps go on, and it joins the first one after the copy.
//!
//! Source: SGLang with `enable_lora_overlap_loading`; vLLM pull request 31941.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::policy::{LoadMode, LoadPath, Tunable};

/// Copies on demand, beside the steps.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct JoinWhenReady {}

impl Tunable for JoinWhenReady {
    const SOURCE: &'static str = "SGLang enable_lora_overlap_loading; vLLM PR 31941";
    const SUMMARY: &'static str = "steps go on; a request joins when its adapter is there";
}

impl LoadPath for JoinWhenReady {
    fn mode(&self) -> LoadMode {
        LoadMode::Overlapped
    }
}
