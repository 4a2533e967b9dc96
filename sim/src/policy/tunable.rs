//! What a built-in policy says of itself.

use crate::settings::ClusterSettings;
use crate::time::Span;
use crate::workload::Catalog;

/// What a policy is to work in: known before the run, and the same for all policies of a scenario but for the settings.
#[derive(Clone, Copy, Debug)]
pub struct Ground<'a> {
    /// The replicas, and which of them are on at the start.
    pub cluster: &'a ClusterSettings,
    /// Tenants and adapters.
    pub catalog: &'a Catalog,
    /// Is there a scaler that could switch replicas on?
    pub scaled: bool,
}

/// A policy whose fields are its tunables, read from its table in a scenario.
pub trait Tunable {
    /// Where the rule comes from: a paper's section, a system and its version, or "ours".
    const SOURCE: &'static str;

    /// The rule in one line, as lists of policies print it.
    const SUMMARY: &'static str;

    /// Are the tunables possible?
    ///
    /// # Errors
    /// What is wrong with which tunable, and what it may be.
    fn validate(&self) -> Result<(), String> {
        Ok(())
    }

    /// Can the policy do its work on this ground?
    ///
    /// # Errors
    /// What cannot be, and what would help.
    fn suits(&self, _: &Ground<'_>) -> Result<(), String> {
        Ok(())
    }
}

/// Refuses a fraction outside 0 to 1.
pub(crate) fn fraction(name: &str, value: f64) -> Result<(), String> {
    if (0.0..=1.0).contains(&value) { Ok(()) } else { Err(format!("`{name}` is {value}: it must be between 0 and 1")) }
}

/// Refuses a weight that is negative or no number.
pub(crate) fn weight(name: &str, value: f64) -> Result<(), String> {
    if value.is_finite() && value >= 0.0 {
        Ok(())
    } else {
        Err(format!("`{name}` is {value}: a weight is a number, zero or more"))
    }
}

/// Refuses a clock that ticks more often than steps begin: it would cost the run its time and tell nobody anything new.
pub(crate) fn period(name: &str, value: Span) -> Result<(), String> {
    if value >= Span::from_ms(1) {
        return Ok(());
    }
    Err(format!("`{name}` is {value}: steps take milliseconds; write 1ms or more, such as \"10s\""))
}
