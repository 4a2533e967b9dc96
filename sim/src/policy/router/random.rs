//! Any replica, all alike.

use rand::RngExt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::fleet::Fleet;
use crate::policy::{Asked, Route, Router, Tunable};
use crate::random::Stream;

/// Uniformly at random among the replicas that take requests.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Random {}

impl Tunable for Random {
    const SOURCE: &'static str = "the textbook rule";
    const SUMMARY: &'static str = "any replica, all alike";
}

impl Router for Random {
    fn route(&mut self, _: &Asked<'_>, fleet: &Fleet<'_>, random: &mut Stream) -> Route {
        match fleet.available() {
            [] => Route::Hold,
            available => Route::To(available[random.random_range(0..available.len())]),
        }
    }
}
