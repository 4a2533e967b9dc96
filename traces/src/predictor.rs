//! What may policies know of an output before it is there?

use aril_sim::random::Stream;
use rand_distr::{Distribution, StandardNormal};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::arrivals::not_negative;
use crate::choice::{choice, or_its_name};
use crate::error::TraceError;

/// A predictor of output lengths.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", rename_all = "kebab-case", deny_unknown_fields)]
#[schemars(transform = or_its_name)]
pub enum Predictor {
    /// The truth: a bound on what any predictor can give.
    Exact,
    /// The truth times a lognormal factor: right on average, wrong one by one.
    Noisy {
        /// Standard deviation of the prediction over the truth.
        relative_error: f64,
    },
}

choice!(Predictor);

impl Predictor {
    pub(crate) fn check(&self) -> Result<(), TraceError> {
        match self {
            Predictor::Exact => Ok(()),
            Predictor::Noisy { relative_error } => {
                not_negative("output_predictor.noisy.relative_error", *relative_error).map(|_| ())
            }
        }
    }

    /// A prediction, at least 1 token. Every request costs one draw, whatever the error.
    pub(crate) fn predict(&self, output_tokens: u32, stream: &mut Stream) -> u32 {
        match self {
            Predictor::Exact => output_tokens,
            Predictor::Noisy { relative_error } => {
                let z: f64 = StandardNormal.sample(stream);
                let variance = relative_error.mul_add(*relative_error, 1.0).ln();
                let factor = (variance.sqrt() * z - variance / 2.0).exp();
                ((f64::from(output_tokens) * factor).round() as u32).max(1)
            }
        }
    }
}
