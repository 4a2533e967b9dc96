//! One after the other.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::fleet::Fleet;
use crate::policy::{Asked, Route, Router, Tunable};
use crate::random::Stream;
use crate::workload::ReplicaId;

/// The replica with the next id, from the first again after the last.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RoundRobin {
    /// The least id that has its turn.
    #[serde(skip)]
    #[schemars(skip)]
    next: u32,
}

impl Tunable for RoundRobin {
    const SOURCE: &'static str = "the textbook rule";
    const SUMMARY: &'static str = "one replica after the other";
}

impl Router for RoundRobin {
    fn route(&mut self, _: &Asked<'_>, fleet: &Fleet<'_>, _: &mut Stream) -> Route {
        let available = fleet.available();
        let position = available.partition_point(|replica| replica.0 < self.next);
        let Some(&replica) = available.get(position).or(available.first()) else { return Route::Hold };
        self.next = replica.0 + 1;
        Route::To(ReplicaId(replica.0))
    }
}
