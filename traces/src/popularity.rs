//! Which adapter does a request want, and whose is it?

mod chooser;
mod counts;
mod working_set;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::choice::{choice, or_its_name};

pub(crate) use chooser::{Chooser, Law};
pub use counts::{geometric_counts, uniform_sqrt_counts};
pub use working_set::WorkingSet;

/// Adapters of a law that is told no number of them.
pub(crate) const ADAPTERS: u32 = 512;

/// How requests spread over adapters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", rename_all = "kebab-case", deny_unknown_fields)]
#[schemars(transform = or_its_name)]
pub enum Popularity {
    /// As the trace says; a trace without adapters asks for the base model only.
    Trace,
    /// No adapters: all requests go to the base model.
    Base,
    /// One adapter for each tenant of the trace.
    Tenant,
    /// A new adapter for each request (Punica's Distinct).
    Distinct,
    /// One adapter for all (Punica's Identical).
    Identical,
    /// ⌈√n⌉ adapters for n requests, each with the same number, shuffled (Punica's Uniform).
    UniformSqrt,
    /// Adapters whose numbers of requests grow by a ratio, the remainder as one more, shuffled (Punica's Skewed).
    #[serde(alias = "geometric-1.5")]
    Geometric {
        /// From one adapter to the next more popular one.
        #[serde(default = "punica_ratio")]
        ratio: f64,
    },
    /// Each adapter alike, independently for each request.
    Uniform {
        /// How many adapters; without it, as many as the adapters file lists, or 512.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        adapters: Option<u32>,
    },
    /// The k-th adapter with a probability like k⁻ˢ, independently for each request.
    Zipf {
        /// The exponent.
        #[serde(default = "zipf_exponent")]
        s: f64,
        /// How many adapters; without it, as many as the adapters file lists, or 512.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        adapters: Option<u32>,
    },
    /// Adapter ⌊n · U^(1/α)⌋ for a uniform U, independently for each request (S-LoRA). α = 1 is uniform; near 0, it is like Zipf with s = 1 − α.
    Power {
        /// The exponent α.
        alpha: f64,
        /// How many adapters; without it, as many as the adapters file lists, or 512.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        adapters: Option<u32>,
    },
    /// Tenants in sessions, with adapters that stick, out of a working set that drifts from day to day.
    WorkingSet(WorkingSet),
}

choice!(Popularity);

fn punica_ratio() -> f64 {
    1.5
}

fn zipf_exponent() -> f64 {
    0.9
}
