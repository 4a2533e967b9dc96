//! The less loaded of two replicas drawn at random.
//!
//! Source: Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing" (2001). Under stale signals it does not
//! herd: not everybody runs to the one replica that looked empty.

use rand::seq::index::sample;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Load, least_of};
use crate::fleet::Fleet;
use crate::policy::{Asked, Route, Router, Tunable};
use crate::random::Stream;

/// The least loaded of `choices` different replicas; ties to the lowest id.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PowerOfTwo {
    /// How many are drawn.
    pub choices: u32,
    /// What is load?
    pub by: Load,
}

impl Default for PowerOfTwo {
    fn default() -> PowerOfTwo {
        PowerOfTwo { choices: 2, by: Load::Requests }
    }
}

impl Tunable for PowerOfTwo {
    const SOURCE: &'static str = "Mitzenmacher 2001, the power of two choices";
    const SUMMARY: &'static str = "the least loaded of two drawn at random";

    fn validate(&self) -> Result<(), String> {
        if self.choices == 0 {
            return Err("`choices` is 0: draw at least 1; 2 is the usual number".to_owned());
        }
        Ok(())
    }
}

impl Router for PowerOfTwo {
    fn route(&mut self, _: &Asked<'_>, fleet: &Fleet<'_>, random: &mut Stream) -> Route {
        let available = fleet.available();
        let choices = (self.choices as usize).min(available.len());
        let drawn = sample(random, available.len(), choices);
        let drawn = drawn.into_iter().map(|position| available[position]);
        least_of(fleet, self.by, drawn).map_or(Route::Hold, Route::To)
    }
}
