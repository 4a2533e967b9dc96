//! Who gives way when KV blocks run out? One rule a file.

mod newest;
mod oldest;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use newest::Newest;
pub use oldest::Oldest;

use super::Running;

/// What makes a sequence newer than another?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Age {
    /// Its request reached the cluster later.
    #[default]
    Arrival,
    /// It was admitted to the batch later; one that was preempted and came back is new again.
    Admission,
}

impl Age {
    /// Larger is newer.
    fn of(self, running: &Running) -> (u64, u32) {
        match self {
            Age::Arrival => (running.arrival.as_ps(), running.request.0),
            Age::Admission => (running.admitted, running.request.0),
        }
    }
}
