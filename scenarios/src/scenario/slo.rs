//! What a good request is.

use std::path::PathBuf;

use aril_sim::time::Span;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a class of tenants was promised. A request is good if it is finished and meets every limit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Slo {
    /// Longest time to first token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttft: Option<Span>,
    /// Longest time per output token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tpot: Option<Span>,
    /// Share of the offered requests that shall be good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attainment: Option<f64>,
    /// A file with a tenant's name on each line. The one class without it takes all others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenants: Option<PathBuf>,
}
