//! Replicas of one kind.

use aril_sim::time::Span;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Replicas of one kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    /// How many replicas.
    pub replicas: u32,
    /// Which GPU; the pool's name, unless set. `aril list gpus` names them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<String>,
    /// GPUs that share a replica's model.
    #[serde(default = "one")]
    pub tensor_parallel: u32,
    /// What steps cost: a shipped profile by its name (`aril list profiles`) or a file by its path. Without it, the measured
    /// profile of this GPU and model, or else the one derived from its data sheet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// What a GPU costs while it is held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usd_per_gpu_hour: Option<f64>,
    /// From being acquired to serving.
    #[serde(default)]
    pub startup: Span,
    /// How many replicas are held from the start; the others wait for a scaler. All, unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starts_on: Option<u32>,
}

impl Pool {
    /// So many replicas, all else as it is where a scenario does not say.
    pub fn of_replicas(replicas: u32) -> Pool {
        Pool {
            replicas,
            gpu: None,
            tensor_parallel: one(),
            profile: None,
            usd_per_gpu_hour: None,
            startup: Span::ZERO,
            starts_on: None,
        }
    }
}

fn one() -> u32 {
    1
}
