//! What a built-in policy says of itself.

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
