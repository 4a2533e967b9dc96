//! Small, rare and old adapters go first: they are the cheapest to bring back.
//!
//! Source: Chameleon (MICRO 2025), its adapter cache: `score = F × frequency + R × recency + S × size`, the lowest goes,
//! with (F, R, S) = (0.45, 0.10, 0.45). The paper leaves the scales open; here each term is divided by its largest value
//! among the candidates: uses since the load, nearness of the last use, bytes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::policy::{Evictor, Idle, Tunable, tunable};
use crate::time::Time;

/// The lowest `frequency × uses + recency × nearness + size × bytes`, each term scaled to 0..1 over the candidates.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SizeAware {
    /// Weight of the uses since the adapter was loaded.
    pub frequency: f64,
    /// Weight of how near its last use is: 1 for the nearest of the candidates, 0 for the farthest.
    pub recency: f64,
    /// Weight of its bytes.
    pub size: f64,
}

impl Default for SizeAware {
    fn default() -> SizeAware {
        SizeAware { frequency: 0.45, recency: 0.10, size: 0.45 }
    }
}

impl Tunable for SizeAware {
    const SOURCE: &'static str = "Chameleon (MICRO 2025), adapter cache, weights 0.45 / 0.10 / 0.45";
    const SUMMARY: &'static str = "the lowest weighted sum of frequency, recency and size";

    fn validate(&self) -> Result<(), String> {
        tunable::weight("frequency", self.frequency)?;
        tunable::weight("recency", self.recency)?;
        tunable::weight("size", self.size)
    }
}

impl Evictor for SizeAware {
    fn victim(&mut self, now: Time, idle: &[Idle]) -> Option<usize> {
        let age = |idle: &Idle| now.since(idle.last_used).as_ps() as f64;
        let uses = idle.iter().map(|idle| idle.uses).max()?.max(1) as f64;
        let bytes = idle.iter().map(|idle| idle.bytes).max()?.max(1) as f64;
        let oldest = idle.iter().map(age).fold(0.0, f64::max);
        let youngest = idle.iter().map(age).fold(f64::INFINITY, f64::min);
        let nearness = |idle: &Idle| if oldest > youngest { (oldest - age(idle)) / (oldest - youngest) } else { 1.0 };
        let score = |idle: &Idle| {
            self.frequency * idle.uses as f64 / uses
                + self.recency * nearness(idle)
                + self.size * idle.bytes as f64 / bytes
        };
        (0..idle.len()).min_by(|&a, &b| score(&idle[a]).total_cmp(&score(&idle[b])))
    }
}
