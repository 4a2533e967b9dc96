//! Integer time: picoseconds, so that sums are exact and runs repeat to the last digit.

use std::borrow::Cow;
use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Mul, Sub, SubAssign};
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// When did it happen? Picoseconds since the start of the run; `u64` lasts 213 days.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Time(u64);

/// How long did it take? Picoseconds, never negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(u64);

/// What a panic says of a sum that the clock has no room for.
const BEYOND: &str =
    "simulated time is beyond 213 days, where its clock ends: does a step, a copy or a wait take days?";

impl Time {
    /// The start of the run.
    pub const ZERO: Time = Time(0);
    /// Later than any event.
    pub const MAX: Time = Time(u64::MAX);

    /// The instant `ps` picoseconds after the start.
    pub const fn from_ps(ps: u64) -> Time {
        Time(ps)
    }

    /// Picoseconds since the start.
    pub const fn as_ps(self) -> u64 {
        self.0
    }

    /// Seconds since the start, for reports only.
    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 / 1e12
    }

    /// The time from `earlier` to `self`.
    ///
    /// # Panics
    /// If `earlier` is later: time never runs backwards.
    pub fn since(self, earlier: Time) -> Span {
        Span(self.0.checked_sub(earlier.0).expect("time runs backwards"))
    }

    /// The instant `span` later, or the end of time where that is beyond it.
    pub fn saturating_add(self, span: Span) -> Time {
        Time(self.0.saturating_add(span.0))
    }
}

impl Span {
    /// No time at all.
    pub const ZERO: Span = Span(0);
    /// Longer than any run.
    pub const MAX: Span = Span(u64::MAX);
    /// The longest run that a scenario may ask for, 200 days: steps that begin before its end are over before the clock is.
    pub const RUN_MAX: Span = Span::from_secs(200 * 86_400);

    /// A span of `ps` picoseconds.
    pub const fn from_ps(ps: u64) -> Span {
        Span(ps)
    }

    /// A span of `ns` nanoseconds.
    pub const fn from_ns(ns: u64) -> Span {
        Span(ns * 1_000)
    }

    /// A span of `us` microseconds.
    pub const fn from_us(us: u64) -> Span {
        Span(us * 1_000_000)
    }

    /// A span of `ms` milliseconds.
    pub const fn from_ms(ms: u64) -> Span {
        Span(ms * 1_000_000_000)
    }

    /// A span of `s` whole seconds.
    pub const fn from_secs(s: u64) -> Span {
        Span(s * 1_000_000_000_000)
    }

    /// The nearest span to `s` seconds: the one place where a float becomes time.
    /// Negative and not-a-number become zero, too large becomes [`Span::MAX`].
    pub fn from_secs_f64(s: f64) -> Span {
        Span((s * 1e12).round() as u64)
    }

    /// Picoseconds.
    pub const fn as_ps(self) -> u64 {
        self.0
    }

    /// Seconds, for reports only.
    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 / 1e12
    }

    /// The difference, or zero where `other` is longer.
    pub fn saturating_sub(self, other: Span) -> Span {
        Span(self.0.saturating_sub(other.0))
    }

    /// Is it no time at all?
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }
}

impl Add<Span> for Time {
    type Output = Time;
    fn add(self, span: Span) -> Time {
        Time(self.0.checked_add(span.0).expect(BEYOND))
    }
}

impl AddAssign<Span> for Time {
    fn add_assign(&mut self, span: Span) {
        *self = *self + span;
    }
}

impl Add for Span {
    type Output = Span;
    fn add(self, other: Span) -> Span {
        Span(self.0.checked_add(other.0).expect(BEYOND))
    }
}

impl AddAssign for Span {
    fn add_assign(&mut self, other: Span) {
        *self = *self + other;
    }
}

impl Sub for Span {
    type Output = Span;
    fn sub(self, other: Span) -> Span {
        Span(self.0.checked_sub(other.0).expect("a span is negative"))
    }
}

impl SubAssign for Span {
    fn sub_assign(&mut self, other: Span) {
        *self = *self - other;
    }
}

impl Mul<u64> for Span {
    type Output = Span;
    fn mul(self, times: u64) -> Span {
        Span(self.0.checked_mul(times).expect(BEYOND))
    }
}

impl Sum for Span {
    fn sum<I: Iterator<Item = Span>>(spans: I) -> Span {
        spans.fold(Span::ZERO, Add::add)
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Span(self.0).fmt(f)
    }
}

/// Units from the largest to the smallest, in picoseconds.
const UNITS: [(&str, u64); 8] = [
    ("d", 86_400_000_000_000_000),
    ("h", 3_600_000_000_000_000),
    ("m", 60_000_000_000_000),
    ("s", 1_000_000_000_000),
    ("ms", 1_000_000_000),
    ("us", 1_000_000),
    ("ns", 1_000),
    ("ps", 1),
];

/// The exact span in the largest unit that needs no fraction: `1500ms`, `2h`; it parses back to itself.
impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("0s");
        }
        let (unit, ps) = UNITS.iter().find(|(_, ps)| self.0.is_multiple_of(*ps)).expect("every span is whole in ps");
        write!(f, "{}{unit}", self.0 / ps)
    }
}

/// Why a text is not a span.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpanError {
    /// It is no duration, or has no unit.
    NotADuration(String),
    /// The clock has no room for it.
    TooLong(String),
}

impl fmt::Display for SpanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SpanError::NotADuration(text) => write!(
                f,
                "`{text}` is not a duration: write a number and a unit, such as \"250ms\", \"1.5s\" or \"1h30m\" (units: d, h, m, s, ms, us, ns, ps)"
            ),
            SpanError::TooLong(text) => write!(f, "`{text}` is longer than 213 days, where the clock of a run ends"),
        }
    }
}

impl std::error::Error for SpanError {}

/// Reads `250ms`, `1.5s`, `1h30m`; a bare `0` is the only number that needs no unit.
impl FromStr for Span {
    type Err = SpanError;

    fn from_str(text: &str) -> Result<Span, SpanError> {
        let error = || SpanError::NotADuration(text.to_owned());
        let mut rest = text.trim();
        if rest == "0" {
            return Ok(Span::ZERO);
        }
        if rest.is_empty() {
            return Err(error());
        }
        let mut total: u128 = 0;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(error)?;
            let (number, tail) = rest.split_at(digits);
            let letters = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(letters);
            let unit = if unit == "min" { "m" } else { unit };
            let (_, ps) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(error)?;
            let part = decimal_times(number, *ps).ok_or_else(error)?;
            total = total.saturating_add(part);
            rest = tail.trim_start();
        }
        u64::try_from(total).map(Span).map_err(|_| SpanError::TooLong(text.to_owned()))
    }
}

/// `number × unit` exactly, fractions below a picosecond cut off; nothing if it is no number or beyond `u64` before its point.
fn decimal_times(number: &str, unit: u64) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') || fraction.len() > 18 {
        return None;
    }
    let whole: u128 = if whole.is_empty() { 0 } else { whole.parse::<u64>().ok()?.into() };
    let mut total = whole * u128::from(unit);
    if !fraction.is_empty() {
        let numerator: u128 = fraction.parse::<u64>().ok()?.into();
        total += numerator * u128::from(unit) / 10u128.pow(fraction.len() as u32);
    }
    Some(total)
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Span, D::Error> {
        struct Text;
        impl de::Visitor<'_> for Text {
            type Value = Span;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration with a unit, such as \"250ms\"")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Span, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Text)
    }
}

impl JsonSchema for Span {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "A duration with its unit: \"250ms\", \"1.5s\", \"1h30m\".",
            "pattern": r"^\s*(0|((\d+\.?\d*|\.\d+)(d|h|min|m|s|ms|us|ns|ps)\s*)+)\s*$",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_read_exactly_and_prints_as_what_it_reads() {
        for (text, ps) in [
            ("250ms", 250_000_000_000),
            ("1.5s", 1_500_000_000_000),
            ("1h30m", 5_400_000_000_000_000),
            ("0", 0),
            ("0.5ps", 0),
            ("1 h", 0),
        ] {
            match text.parse::<Span>() {
                Ok(span) => {
                    assert_eq!(span.as_ps(), ps, "{text}");
                    assert_eq!(span.to_string().parse::<Span>().unwrap(), span);
                }
                Err(_) => assert_eq!(text, "1 h"),
            }
        }
    }

    #[test]
    fn a_number_without_a_unit_is_refused() {
        for text in ["", "5", "1.2.3s", "-1s", "5 parsecs", "s"] {
            assert_eq!(text.parse::<Span>(), Err(SpanError::NotADuration(text.to_owned())));
        }
    }

    #[test]
    fn a_span_that_the_clock_has_no_room_for_is_refused_as_too_long() {
        assert_eq!("213d12h".parse::<Span>().unwrap().to_string(), "5124h");
        for text in ["214d", "213d13h", "1ps213d23h", "99999999999999d"] {
            assert_eq!(text.parse::<Span>(), Err(SpanError::TooLong(text.to_owned())));
        }
    }
}
