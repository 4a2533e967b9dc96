//! One value of a foreign file and the few things that it can mean here; whatever it is not becomes an error with its place.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Place, TraceError, quoted};

/// A value as its file has it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Cell<'a> {
    Missing,
    Text(Cow<'a, str>),
    Integer(i128),
    Float(f64),
    /// Picoseconds since the Unix epoch.
    Instant(i128),
    Hashes(Vec<u64>),
    /// Something that no column of a trace can hold: what it is.
    Other(String),
}

impl Cell<'_> {
    /// What the file says, for messages.
    pub(crate) fn said(&self) -> String {
        match self {
            Cell::Missing => "nothing".to_owned(),
            Cell::Text(text) if text.is_empty() => "nothing".to_owned(),
            Cell::Text(text) => quoted(text),
            Cell::Integer(number) => number.to_string(),
            Cell::Float(number) => number.to_string(),
            Cell::Instant(ps) => date_text(*ps),
            Cell::Hashes(list) => format!("a list of {} numbers", list.len()),
            Cell::Other(what) => what.clone(),
        }
    }
}

/// In what are the arrival times of a file written?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TimeUnit {
    /// Seconds, with or without a fraction.
    S,
    /// Milliseconds.
    Ms,
    /// Microseconds.
    Us,
    /// Nanoseconds.
    Ns,
    /// Picoseconds.
    Ps,
    /// A date and a time of day: RFC 3339, or the same without a zone (UTC) or with a space in place of the T.
    Rfc3339,
}

impl TimeUnit {
    fn ps(self) -> i128 {
        match self {
            TimeUnit::S => 1_000_000_000_000,
            TimeUnit::Ms => 1_000_000_000,
            TimeUnit::Us => 1_000_000,
            TimeUnit::Ns => 1_000,
            TimeUnit::Ps | TimeUnit::Rfc3339 => 1,
        }
    }
}

/// An arrival as written: exact picoseconds, from the Unix epoch if it is a date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Instant {
    pub(crate) ps: i128,
    pub(crate) is_date: bool,
}

/// Numbers of seconds from here on (the year 2001) are read as times since the Unix epoch.
const UNIX_SECONDS_MIN: i128 = 1_000_000_000;
/// Numbers of seconds from here on (the year 5138) are surely in another unit.
const SECONDS_MAX: i128 = 100_000_000_000;

/// A cell with what a message needs to say where it is.
pub(crate) struct Field<'a> {
    pub(crate) cell: Cell<'a>,
    pub(crate) column: &'a str,
    pub(crate) place: Place,
}

impl Field<'_> {
    pub(crate) fn is_missing(&self) -> bool {
        match &self.cell {
            Cell::Missing => true,
            Cell::Text(text) => text.trim().is_empty(),
            _ => false,
        }
    }

    pub(crate) fn wrong(&self, expected: impl Into<String>, advice: impl Into<String>) -> TraceError {
        TraceError::Value {
            place: self.place.clone(),
            column: self.column.to_owned(),
            found: self.cell.said().into(),
            expected: expected.into().into(),
            advice: advice.into().into(),
        }
    }

    /// A number of tokens, or another count that fits 32 bits.
    pub(crate) fn count(&self, what: &str) -> Result<u32, TraceError> {
        let wrong = || {
            self.wrong(
                format!("{what}: a whole number from 0 to {}", u32::MAX),
                "correct the row, or name another column under `columns`",
            )
        };
        let whole = match &self.cell {
            Cell::Integer(number) => *number,
            Cell::Float(number) => exact_integer(*number).ok_or_else(wrong)?,
            Cell::Text(text) => {
                let text = text.trim();
                match text.parse::<i128>() {
                    Ok(number) => number,
                    Err(_) => text.parse::<f64>().ok().and_then(exact_integer).ok_or_else(wrong)?,
                }
            }
            _ => return Err(wrong()),
        };
        u32::try_from(whole).map_err(|_| wrong())
    }

    /// A number of any kind; none if it is something else.
    pub(crate) fn number(&self) -> Option<f64> {
        match &self.cell {
            Cell::Integer(number) => Some(*number as f64),
            Cell::Float(number) => Some(*number),
            Cell::Text(text) => text.trim().parse().ok(),
            _ => None,
        }
    }

    /// A number of bytes.
    pub(crate) fn bytes(&self) -> Result<u64, TraceError> {
        let number = match &self.cell {
            Cell::Integer(number) => u64::try_from(*number).ok(),
            Cell::Text(text) => text.trim().parse().ok(),
            Cell::Float(number) => exact_integer(*number).and_then(|n| u64::try_from(n).ok()),
            _ => None,
        };
        number.ok_or_else(|| self.wrong("a number of bytes", "write a whole number without a unit"))
    }

    /// A name; none where nothing stands.
    pub(crate) fn name(&self) -> Result<Option<Cow<'_, str>>, TraceError> {
        Ok(match &self.cell {
            _ if self.is_missing() => None,
            Cell::Text(text) if text.contains(is_no_text) => {
                return Err(
                    self.wrong("a name without control characters", "write names with letters, digits and spaces")
                );
            }
            Cell::Text(text) => Some(Cow::Borrowed(text.trim())),
            Cell::Integer(number) => Some(Cow::Owned(number.to_string())),
            _ => return Err(self.wrong("a name", "name another column under `columns`")),
        })
    }

    /// The hashes of a prompt's blocks: a list, or a text of whole numbers between spaces, commas or brackets.
    pub(crate) fn hashes(&self) -> Result<Option<Vec<u64>>, TraceError> {
        match &self.cell {
            Cell::Missing => Ok(None),
            Cell::Hashes(hashes) => Ok(Some(hashes.clone())),
            Cell::Integer(number) if u64::try_from(*number).is_ok() => Ok(Some(vec![*number as u64])),
            Cell::Text(text) => {
                let parts =
                    text.split(|c: char| c.is_whitespace() || ",;[]".contains(c)).filter(|part| !part.is_empty());
                let hashes: Result<Vec<u64>, _> = parts.map(str::parse).collect();
                match hashes {
                    Ok(hashes) => Ok((!hashes.is_empty()).then_some(hashes)),
                    Err(_) => Err(self.wrong_hashes()),
                }
            }
            _ => Err(self.wrong_hashes()),
        }
    }

    fn wrong_hashes(&self) -> TraceError {
        self.wrong(
            "a list of block hashes: whole numbers from 0 to 18446744073709551615",
            "hash the blocks to numbers, or leave out the column `prefix`",
        )
    }

    /// When did it arrive? Without a unit, a number is a number of seconds and a text with dashes or colons is a date.
    pub(crate) fn instant(&self, unit: Option<TimeUnit>) -> Result<Instant, TraceError> {
        let date = unit == Some(TimeUnit::Rfc3339);
        let number = match &self.cell {
            Cell::Instant(ps) => return Ok(Instant { ps: *ps, is_date: true }),
            Cell::Text(text) if date || (unit.is_none() && looks_like_date(text)) => {
                return date_ps(text.trim())
                    .map(|ps| Instant { ps, is_date: true })
                    .ok_or_else(|| self.wrong_instant("a date and time such as 2026-11-16T08:00:00.25Z"));
            }
            Cell::Integer(number) if !date => Cow::Owned(number.to_string()),
            // The shortest text that names this float is what the file said.
            Cell::Float(number) if !date => Cow::Owned(number.to_string()),
            Cell::Text(text) if !date => Cow::Borrowed(text.trim()),
            _ if date => return Err(self.wrong_instant("a date and time such as 2026-11-16T08:00:00.25Z")),
            _ => return Err(self.wrong_instant("a number or a date")),
        };
        let scale = unit.unwrap_or(TimeUnit::S).ps();
        let ps = decimal(&number, scale).ok_or_else(|| self.wrong_instant("a time: a finite number, or a date"))?;
        if ps < 0 {
            return Err(self.wrong("a time from 0 on", "correct the row: a trace cannot begin before its start"));
        }
        if matches!(unit, None | Some(TimeUnit::S)) && ps >= SECONDS_MAX * scale {
            return Err(self.wrong(
                "a number of seconds, and this would be beyond the year 5000",
                "say what the unit is: `arrival_unit = \"ms\"` (or us, ns, ps)",
            ));
        }
        Ok(Instant { ps, is_date: ps >= UNIX_SECONDS_MIN * TimeUnit::S.ps() && unit != Some(TimeUnit::Ps) })
    }

    fn wrong_instant(&self, expected: &str) -> TraceError {
        self.wrong(expected, "correct the row, or set `arrival_unit` to s, ms, us, ns, ps or rfc3339")
    }
}

/// Control characters other than white space: no page can show them, and XML not even hold them.
fn is_no_text(c: char) -> bool {
    c.is_control() && !matches!(c, '\t' | '\n' | '\r')
}

fn exact_integer(number: f64) -> Option<i128> {
    (number.is_finite() && number.fract() == 0.0 && number.abs() < 1e18).then_some(number as i128)
}

fn looks_like_date(text: &str) -> bool {
    let text = text.trim();
    text.contains(':')
        || text.char_indices().any(|(at, c)| c == '-' && at >= 4 && text.as_bytes()[at - 1].is_ascii_digit())
}

/// Picoseconds since the Unix epoch of a date and time; UTC where no zone stands.
pub(crate) fn date_ps(text: &str) -> Option<i128> {
    let mut text = text.to_owned();
    if !text.is_char_boundary(10) {
        return None;
    }
    if text.len() == 10 {
        text.push_str("T00:00:00");
    }
    if text.as_bytes()[10] == b' ' {
        text.replace_range(10..11, "T");
    }
    let has_zone = text.ends_with(['Z', 'z']) || text[10..].contains(['+', '-']);
    if !has_zone {
        text.push('Z');
    }
    let date = chrono::DateTime::parse_from_rfc3339(&text).ok()?;
    Some(i128::from(date.timestamp()) * 1_000_000_000_000 + i128::from(date.timestamp_subsec_nanos()) * 1_000)
}

/// The date and time so many picoseconds after the Unix epoch.
pub(crate) fn date_text(ps: i128) -> String {
    let ns = (ps.rem_euclid(1_000_000_000_000) / 1_000) as u32;
    let seconds = i64::try_from(ps.div_euclid(1_000_000_000_000)).unwrap_or(i64::MAX);
    match chrono::DateTime::from_timestamp(seconds, ns) {
        Some(date) => date.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true),
        None => format!("{ps}ps"),
    }
}

/// `text × scale` exactly, rounded to nearest below 1; none if it is no finite decimal number or too large.
pub(crate) fn decimal(text: &str, scale: i128) -> Option<i128> {
    let (mantissa, exponent) = match text.find(['e', 'E']) {
        Some(at) => (&text[..at], text[at + 1..].parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (negative, digits) = match mantissa.as_bytes().first()? {
        b'-' => (true, &mantissa[1..]),
        b'+' => (false, &mantissa[1..]),
        _ => (false, mantissa),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.len() + fraction.len() == 0 || !whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit()) {
        return None;
    }
    let fraction = fraction.trim_end_matches('0');
    let joined = format!("{whole}{fraction}");
    let joined = joined.trim_start_matches('0');
    if joined.is_empty() {
        return Some(0);
    }
    if joined.len() > 25 {
        // More digits than any clock has: the float nearest to it will do.
        let number = text.parse::<f64>().ok()? * scale as f64;
        return (number.abs() < 1e30).then_some(number.round() as i128);
    }
    let value: i128 = joined.parse::<i128>().ok()?.checked_mul(scale)?;
    let shift = exponent.checked_sub(i32::try_from(fraction.len()).ok()?)?;
    let value = if shift >= 0 {
        value.checked_mul(10i128.checked_pow(u32::try_from(shift).ok()?)?)?
    } else {
        match 10i128.checked_pow(shift.unsigned_abs()) {
            Some(divisor) => (value + divisor / 2) / divisor,
            None => 0,
        }
    };
    Some(if negative { -value } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_become_picoseconds_without_a_float_in_between() {
        const S: i128 = 1_000_000_000_000;
        for (text, ps) in [
            ("4.314579", 4_314_579_000_000),
            ("0.1", 100_000_000_000),
            ("19440110.0", 19_440_110 * S),
            ("-2", -2 * S),
            ("1e3", 1000 * S),
            ("2.5E-12", 3),
            (".5", S / 2),
            ("0000", 0),
        ] {
            assert_eq!(decimal(text, S), Some(ps), "{text}");
        }
        for text in ["", "nan", "NaN", "inf", "1.2.3", "--1", "1e", "1e999", "0x10", "-", "."] {
            assert_eq!(decimal(text, S), None, "{text}");
        }
    }

    #[test]
    fn dates_of_every_azure_release_are_read_to_the_last_digit() {
        let base = date_ps("2023-11-16T18:17:03Z").unwrap();
        assert_eq!(base, 1_700_158_623_000_000_000_000);
        assert_eq!(date_ps("2023-11-16 18:17:03.9799600"), Some(base + 979_960_000_000));
        assert_eq!(date_ps("2023-11-16 18:17:03.979960+00:00"), Some(base + 979_960_000_000));
        assert_eq!(date_ps("2023-11-16T19:17:03.980+01:00"), Some(base + 980_000_000_000));
        assert_eq!(date_ps("2023-11-16T18:17:03.980Z"), Some(base + 980_000_000_000));
        for text in ["2023-13-01 00:00:00", "2023-11-16 25:00:00", "yesterday", "2023-11-16 1", "éééééééééé"]
        {
            assert_eq!(date_ps(text), None, "{text}");
        }
    }
}
