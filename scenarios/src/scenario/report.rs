//! What a run writes, and what its averages leave out.

use aril_sim::time::Span;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a run writes, and what its averages leave out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// Write `requests.parquet`, `steps.parquet` and `events.parquet` of each run?
    #[serde(default = "yes")]
    pub tables: bool,
    /// Write a timeline of so many events of each run, for Perfetto. 0: none.
    #[serde(default = "events")]
    pub timeline_events: u32,
    /// Requests that arrive before count for nothing but the load they are. Without it, the warm-up of `traffic.window`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warmup: Option<Span>,
    /// Requests that arrive in this last part of the arrivals count for nothing but the load they are.
    #[serde(default)]
    pub drain: Span,
    /// So many tenants, and so many adapters, get a row of their own, those with the most requests first.
    #[serde(default = "groups")]
    pub groups: u32,
}

fn yes() -> bool {
    true
}

fn events() -> u32 {
    10_000
}

fn groups() -> u32 {
    200
}

impl Default for Report {
    fn default() -> Report {
        Report { tables: yes(), timeline_events: events(), warmup: None, drain: Span::ZERO, groups: groups() }
    }
}
