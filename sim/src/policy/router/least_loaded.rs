//! The replica with the least to do.
//!
//! An index finds it. By KV use it looks at the few whose steps took blocks since they published, besides.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Load, least_loaded};
use crate::fleet::Fleet;
use crate::policy::{Asked, Route, Router, Tunable};
use crate::random::Stream;

/// The least loaded replica; ties to the lowest id.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LeastLoaded {
    /// What is load?
    pub by: Load,
}

impl Tunable for LeastLoaded {
    const SOURCE: &'static str = "the textbook rule; Kubernetes gateways' least requests, least queue, least KV use";
    const SUMMARY: &'static str = "the replica with the least to do";
}

impl Router for LeastLoaded {
    fn route(&mut self, _: &Asked<'_>, fleet: &Fleet<'_>, _: &mut Stream) -> Route {
        least_loaded(fleet, self.by).map_or(Route::Hold, Route::To)
    }
}
