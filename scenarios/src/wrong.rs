//! What is wrong with a scenario, where it stands, and what to do about it.

use std::fmt;

use crate::source::{Origin, printable};

/// What is wrong with a scenario.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// What is wrong.
    pub problem: String,
    /// Which setting: its keys from the top.
    pub path: Vec<String>,
    /// Where it was written, if it was.
    pub origin: Option<Origin>,
    /// What to do.
    pub help: Option<String>,
}

impl Wrong {
    /// Something is wrong somewhere.
    pub fn new(problem: impl Into<String>) -> Wrong {
        Wrong { problem: problem.into(), path: Vec::new(), origin: None, help: None }
    }

    /// Something is wrong with the setting at this dotted path.
    pub fn at(path: &str, problem: impl Into<String>) -> Wrong {
        Wrong { path: path.split('.').map(str::to_owned).collect(), ..Wrong::new(problem) }
    }

    /// With what to do about it.
    pub fn help(mut self, help: impl Into<String>) -> Wrong {
        self.help = Some(help.into());
        self
    }

    /// With where it was written, unless that is known.
    pub fn from_origin(mut self, origin: &Origin) -> Wrong {
        self.origin.get_or_insert_with(|| origin.clone());
        self
    }

    /// The same, seen from one level further up.
    pub fn within(mut self, key: impl Into<String>) -> Wrong {
        self.path.insert(0, key.into());
        self
    }

    /// The setting's keys, joined by dots.
    pub fn key(&self) -> String {
        join(&self.path)
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let problem = printable(&self.problem);
        match self.path.split_last() {
            // The key is in the message: the path says where it stands.
            Some((_, above)) if problem.starts_with(UNKNOWN_KEY) => {
                f.write_str(&problem)?;
                if !above.is_empty() {
                    write!(f, " in `{}`", printable(&join(above)))?;
                }
            }
            Some(_) => write!(f, "`{}`: {problem}", printable(&self.key()))?,
            None => f.write_str(&problem)?,
        }
        if let Some(origin) = &self.origin {
            write!(f, "\n{}", origin.excerpt())?;
        }
        if let Some(help) = &self.help {
            write!(f, "\n  = help: {}", printable(help))?;
        }
        Ok(())
    }
}

impl std::error::Error for Wrong {}

/// How a message about a key that nobody knows begins.
pub(crate) const UNKNOWN_KEY: &str = "unknown key ";

fn join(path: &[String]) -> String {
    path.iter().map(|key| quote_key(key)).collect::<Vec<_>>().join(".")
}

/// Errors of serde, told as people need them.
impl serde::de::Error for Wrong {
    fn custom<T: fmt::Display>(message: T) -> Wrong {
        Wrong::new(message.to_string())
    }

    fn invalid_type(found: serde::de::Unexpected<'_>, expected: &dyn serde::de::Expected) -> Wrong {
        Wrong::new(format!("expected {}, found {}", readable(expected), found_as(&found)))
    }

    fn invalid_value(found: serde::de::Unexpected<'_>, expected: &dyn serde::de::Expected) -> Wrong {
        Wrong::invalid_type(found, expected)
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Wrong {
        let wrong = Wrong::new(format!("{UNKNOWN_KEY}`{field}`"));
        if expected.is_empty() {
            return wrong.help("there are no keys here");
        }
        wrong.help(suggest(field, expected.iter().copied(), "known keys"))
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Wrong {
        Wrong::new(format!("`{variant}` is not a choice here")).help(suggest(
            variant,
            expected.iter().copied(),
            "choices",
        ))
    }

    fn missing_field(field: &'static str) -> Wrong {
        Wrong::new(format!("the key `{field}` is missing"))
    }

    fn duplicate_field(field: &'static str) -> Wrong {
        Wrong::new(format!("the key `{field}` is there twice"))
    }
}

/// The nearest of the known names if one is near, and all of them.
pub fn suggest<'a>(name: &str, known: impl Iterator<Item = &'a str> + Clone, what: &str) -> String {
    listed(nearest(name, known.clone()), known, what)
}

/// All of the known names, the one that was probably meant first.
pub(crate) fn listed<'a>(near: Option<&str>, known: impl Iterator<Item = &'a str>, what: &str) -> String {
    let list = known.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    match near {
        Some(near) => format!("did you mean `{near}`? {what}: {list}"),
        None => format!("{what}: {list}"),
    }
}

/// Which known name looks most like `name`, if any does?
pub fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let lower = name.to_lowercase();
    known
        .map(|candidate| (strsim::normalized_damerau_levenshtein(&lower, &candidate.to_lowercase()), candidate))
        .filter(|(likeness, _)| *likeness >= 0.5)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// A key as TOML writes it.
pub fn quote_key(key: &str) -> String {
    let bare = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    if bare { key.to_owned() } else { format!("{key:?}") }
}

fn readable(expected: &dyn serde::de::Expected) -> String {
    match expected.to_string().as_str() {
        "u8" => "a whole number from 0 to 255".to_owned(),
        "u16" => "a whole number from 0 to 65535".to_owned(),
        "u32" => "a whole number from 0 to 4294967295".to_owned(),
        "u64" | "usize" => "a whole number, not negative".to_owned(),
        "i64" => "a whole number".to_owned(),
        "f64" => "a number".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "a string" => "a text in quotes".to_owned(),
        "a map" => "a table".to_owned(),
        "a sequence" => "a list in brackets".to_owned(),
        other => match other.strip_prefix("struct ") {
            Some(_) => "a table".to_owned(),
            None => other.to_owned(),
        },
    }
}

fn found_as(found: &serde::de::Unexpected<'_>) -> String {
    use serde::de::Unexpected;
    match found {
        Unexpected::Bool(value) => format!("`{value}`"),
        Unexpected::Signed(value) => format!("the number {value}"),
        Unexpected::Unsigned(value) => format!("the number {value}"),
        Unexpected::Float(value) => format!("the number {value}"),
        Unexpected::Str(value) => format!("the text {value:?}"),
        Unexpected::Seq => "a list".to_owned(),
        Unexpected::Map => "a table".to_owned(),
        other => other.to_string(),
    }
}
