//! Profiles as TOML: read with the line of every mistake, written so that they read back the same.

use aril_sim::profile::{Profile, SCHEMA, SCHEMA_OLDEST};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::error::CalibrateError;

/// Reads a profile and checks every figure.
///
/// `origin` is the path or the name that errors show.
///
/// # Errors
/// When it is no TOML, has an unknown or missing key, another format version, or impossible figures.
pub fn read(origin: &str, text: &str) -> Result<Profile, CalibrateError> {
    check_version(origin, text)?;
    let profile: Profile = parse(origin, text)?;
    profile.check().map_err(|problem| CalibrateError::Figures { origin: origin.to_owned(), problem })?;
    Ok(profile)
}

/// The profile as TOML; [`read`] gives it back.
pub fn write(profile: &Profile) -> String {
    toml::to_string(profile).expect("a profile has only tables, lists, numbers and texts")
}

/// The JSON schema of the format, for editors.
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(Profile).to_value()
}

/// Reads TOML of any kind; a mistake keeps its line and column.
pub(crate) fn parse<T: DeserializeOwned>(origin: &str, text: &str) -> Result<T, CalibrateError> {
    toml::from_str(text).map_err(|error| {
        let (line, column) = error.span().map_or((1, 1), |span| place(text, span.start));
        CalibrateError::Text { origin: origin.to_owned(), line, column, message: error.message().to_owned() }
    })
}

/// Another version would fail on some key; it is better to say that it is another version.
fn check_version(origin: &str, text: &str) -> Result<(), CalibrateError> {
    #[derive(Deserialize)]
    struct Version {
        schema: Option<toml::Spanned<i64>>,
    }
    // The version stands before the first table: the rest, which may be long, is read once, below.
    let head = if text.starts_with('[') { 0 } else { text.find("\n[").map_or(text.len(), |end| end + 1) };
    let Ok(version) = parse::<Version>(origin, &text[..head]) else { return Ok(()) };
    match version.schema {
        Some(schema) if !(i64::from(SCHEMA_OLDEST)..=i64::from(SCHEMA)).contains(schema.get_ref()) => {
            Err(CalibrateError::Version {
                origin: origin.to_owned(),
                line: place(text, schema.span().start).0,
                found: *schema.get_ref(),
            })
        }
        _ => Ok(()),
    }
}

/// Line and column, from 1, of a byte.
fn place(text: &str, byte: usize) -> (usize, usize) {
    let before = &text.as_bytes()[..byte.min(text.len())];
    let line = before.iter().filter(|&&b| b == b'\n').count() + 1;
    let column = before.iter().rev().take_while(|&&b| b != b'\n').count() + 1;
    (line, column)
}
