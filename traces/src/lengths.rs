//! How long are prompts and outputs? Laws, each drawn from a stream of its own.

use aril_sim::random::Stream;
use rand::RngExt;
use rand_distr::{Distribution, Exp1, StandardNormal};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::arrivals::positive;
use crate::choice::{choice, or_its_name};
use crate::error::TraceError;

/// A law of lengths, tokens. A bare number is a fixed length.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", rename_all = "kebab-case", deny_unknown_fields)]
#[schemars(transform = or_a_number)]
pub enum Length {
    /// Always the same.
    Fixed(u32),
    /// Each whole number from the first up to, but not including, the second alike.
    Uniform([u32; 2]),
    /// `loc + scale · exp(s · N(0,1))`, cut off at `min` and `max`, without its fraction (SciPy's parameters).
    Lognormal {
        /// Standard deviation of the logarithm.
        s: f64,
        /// Shift, tokens.
        #[serde(default)]
        loc: f64,
        /// Median before the shift, tokens.
        scale: f64,
        /// Shortest.
        #[serde(default = "one")]
        min: u32,
        /// Longest.
        #[serde(default = "any")]
        max: u32,
    },
    /// Exponential, cut off at `min` and `max`, without its fraction.
    Exponential {
        /// Mean before the cut, tokens.
        mean: f64,
        /// Shortest.
        #[serde(default = "one")]
        min: u32,
        /// Longest.
        #[serde(default = "any")]
        max: u32,
    },
}

choice!(Length, Some("fixed"));

fn one() -> u32 {
    1
}

fn any() -> u32 {
    u32::MAX
}

fn or_a_number(schema: &mut schemars::Schema) {
    or_its_name(schema);
    if let Some(variants) = schema.get_mut("oneOf").and_then(|v| v.as_array_mut()) {
        variants.retain(|variant| variant.get("enum").is_none());
        variants.push(serde_json::json!({ "type": "integer", "minimum": 0, "description": "A fixed length, tokens." }));
    }
}

impl Length {
    /// Is it a law at all, and one whose lengths exist? `key` names it in errors; nothing of it is below `least` or, where it says
    /// how long it gets, above `most`: the simulator would quietly make something else of it.
    pub(crate) fn check(&self, key: &str, least: u32, most: u32) -> Result<(), TraceError> {
        match self {
            Length::Fixed(_) => {}
            Length::Uniform([low, high]) if low < high => {}
            Length::Uniform([low, high]) => {
                let problem = format!("no number lies from {low} up to but not including {high}");
                return Err(TraceError::setting(key, problem, "write [lowest, one above the highest]"));
            }
            Length::Lognormal { s, loc, scale, .. } => {
                positive(&format!("{key}.lognormal.s"), *s)?;
                positive(&format!("{key}.lognormal.scale"), *scale)?;
                if !loc.is_finite() {
                    return Err(TraceError::setting(key, "loc is no finite number", "write one"));
                }
            }
            Length::Exponential { mean, .. } => {
                positive(&format!("{key}.exponential.mean"), *mean)?;
            }
        }
        let (low, high) = self.bounds();
        if low > high {
            return Err(TraceError::setting(key, format!("min {low} is above max {high}"), "exchange them"));
        }
        if low < least {
            let problem = format!("lengths from {low} on: every prompt and every output has at least {least} token");
            return Err(TraceError::setting(key, problem, format!("begin at {least}")));
        }
        let typical = self.middle();
        let longest = if high == u32::MAX { typical } else { f64::from(high) };
        if longest > f64::from(most) {
            let what = if high == u32::MAX { "typical lengths of" } else { "lengths of up to" };
            let problem = format!("{what} {longest:.0} tokens, and the context of the model leaves room for {most}");
            let advice = "shorten them, or serve a model with a longer context (`max_model_len`)";
            return Err(TraceError::setting(key, problem, advice));
        }
        Ok(())
    }

    /// The shortest and the longest length that the law allows.
    fn bounds(&self) -> (u32, u32) {
        match *self {
            Length::Fixed(tokens) => (tokens, tokens),
            Length::Uniform([low, high]) => (low, high - 1),
            Length::Lognormal { min, max, .. } | Length::Exponential { min, max, .. } => (min, max),
        }
    }

    /// About the middle of the law before it is cut off, tokens.
    fn middle(&self) -> f64 {
        match *self {
            Length::Fixed(tokens) => f64::from(tokens),
            Length::Uniform([low, high]) => (f64::from(low) + f64::from(high)) / 2.0,
            Length::Lognormal { loc, scale, .. } => loc + scale,
            Length::Exponential { mean, .. } => mean,
        }
    }

    /// One draw, tokens; may be 0 where the law allows it.
    pub(crate) fn sample(&self, stream: &mut Stream) -> u32 {
        match self {
            Length::Fixed(tokens) => *tokens,
            Length::Uniform([low, high]) => stream.random_range(*low..*high),
            Length::Lognormal { s, loc, scale, min, max } => {
                let z: f64 = StandardNormal.sample(stream);
                cut(loc + scale * (s * z).exp(), *min, *max)
            }
            Length::Exponential { mean, min, max } => {
                let unit: f64 = Exp1.sample(stream);
                cut(mean * unit, *min, *max)
            }
        }
    }
}

fn cut(value: f64, min: u32, max: u32) -> u32 {
    // The cast saturates: what is negative becomes 0, what is too large the largest.
    (value as u32).clamp(min, max)
}
