//! Values to vary.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The values that one setting takes: a list, or steps between two numbers.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Axis {
    /// These.
    List(Vec<serde_json::Value>),
    /// Steps between two numbers.
    Steps(Steps),
}

/// Numbers from one to another.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Steps {
    /// The first.
    pub from: f64,
    /// The last.
    pub to: f64,
    /// How many, both ends included.
    pub points: u32,
    /// Equal differences, or equal ratios.
    #[serde(default)]
    pub spacing: Spacing,
}

/// How steps are spaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Spacing {
    /// Equal differences.
    #[default]
    Linear,
    /// Equal ratios.
    Log,
}

impl Steps {
    /// The values; ends exact, those between rounded to six digits.
    ///
    /// # Errors
    /// Steps that do not exist, in words.
    pub fn values(&self) -> Result<Vec<f64>, String> {
        let Steps { from, to, points, spacing } = *self;
        if points == 0 || points > 1000 {
            return Err(format!("{points} points: between 1 and 1000"));
        }
        if spacing == Spacing::Log && (from <= 0.0 || to <= 0.0) {
            return Err(format!("steps of equal ratio from {from} to {to}: both must be above 0"));
        }
        if points == 1 {
            return Ok(vec![from]);
        }
        let value = |k: u32| {
            let share = f64::from(k) / f64::from(points - 1);
            match spacing {
                _ if k == 0 => from,
                _ if k == points - 1 => to,
                Spacing::Linear => six_digits(from + (to - from) * share),
                Spacing::Log => six_digits(from * (to / from).powf(share)),
            }
        };
        Ok((0..points).map(value).collect())
    }
}

fn six_digits(value: f64) -> f64 {
    format!("{value:.5e}").parse().unwrap_or(value)
}

/// Kept as values: the tree it is applied to knows where each was written.
impl<'de> Deserialize<'de> for Axis {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Axis, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        match value {
            serde_json::Value::Array(items) => Ok(Axis::List(items)),
            other => serde_json::from_value(other).map(Axis::Steps).map_err(serde::de::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_reach_both_ends_and_keep_their_ratio() {
        let steps = Steps { from: 1.0, to: 32.0, points: 6, spacing: Spacing::Log };
        assert_eq!(steps.values().unwrap(), [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]);
        let steps = Steps { spacing: Spacing::Linear, from: 0.0, to: 1.0, points: 5 };
        assert_eq!(steps.values().unwrap(), [0.0, 0.25, 0.5, 0.75, 1.0]);
        assert!(Steps { from: 0.0, to: 1.0, points: 3, spacing: Spacing::Log }.values().is_err());
    }
}
