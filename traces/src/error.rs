//! What can be wrong with a trace or with a description of traffic: what, where, and what to do about it.

use std::fmt;
use std::path::{Path, PathBuf};

/// Where in a file is it? Lines and rows count from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file, or the name of a shipped trace.
    pub file: PathBuf,
    /// The line of a text file, or the row of a columnar one; none if it concerns the whole file.
    pub position: Option<Position>,
}

/// A line of a text file or a row of a columnar one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// Line of a CSV or JSONL file, from 1.
    Line(u64),
    /// Row of a Parquet file, from 1.
    Row(u64),
}

impl Place {
    /// The whole file.
    pub fn file(file: &Path) -> Place {
        Place { file: file.to_owned(), position: None }
    }

    /// A line of a text file.
    pub fn line(file: &Path, line: u64) -> Place {
        Place { file: file.to_owned(), position: Some(Position::Line(line)) }
    }

    /// A row of a columnar file.
    pub fn row(file: &Path, row: u64) -> Place {
        Place { file: file.to_owned(), position: Some(Position::Row(row)) }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        match self.position {
            Some(Position::Line(line)) => write!(f, ":{line}"),
            Some(row @ Position::Row(_)) => write!(f, ", {row}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Position::Line(line) => write!(f, "line {line}"),
            Position::Row(row) => write!(f, "row {row}"),
        }
    }
}

/// Why is there no workload?
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// A file cannot be read or written.
    #[error("{file}: {source}{advice}", file = file.display())]
    Io {
        /// Which file.
        file: PathBuf,
        /// What the system says.
        source: std::io::Error,
        /// What to do, with a leading separator, where there is something to say.
        advice: &'static str,
    },
    /// A file is not text in UTF-8, or no text at all.
    #[error("{place}: {found}; {advice}")]
    Encoding {
        /// Where.
        place: Place,
        /// What was found.
        found: String,
        /// What to do.
        advice: &'static str,
    },
    /// A line or a row does not have the form of its format.
    #[error("{place}: {problem}; {advice}")]
    Malformed {
        /// Where.
        place: Place,
        /// What is wrong.
        problem: String,
        /// What to do.
        advice: String,
    },
    /// A value is not what its column holds.
    #[error("{place}: column `{column}`: found {found}, expected {expected}; {advice}")]
    Value {
        /// Where.
        place: Place,
        /// In which column.
        column: String,
        /// What was found.
        found: Box<str>,
        /// What should stand there.
        expected: Box<str>,
        /// What to do.
        advice: Box<str>,
    },
    /// A trace has no rows.
    #[error("{place}: no requests in it{detail}", place = place)]
    Empty {
        /// Which file.
        place: Place,
        /// Why, where it is known, with a leading separator.
        detail: String,
    },
    /// A column is needed and not there.
    #[error("{place}: there is no column `{column}`{nearest}; it has: {}. {advice}", .columns.join(", "))]
    MissingColumn {
        /// Which file.
        place: Place,
        /// Which column.
        column: String,
        /// The columns it has.
        columns: Vec<String>,
        /// The nearest name, as `, did you mean …?`.
        nearest: Box<str>,
        /// What to do.
        advice: Box<str>,
    },
    /// Nobody knows this format.
    #[error("{place}: the format is not recognised (columns: {}); set `format`, or name the columns with `columns = {{ arrival = …, input_tokens = …, output_tokens = … }}`", .columns.join(", "))]
    UnknownFormat {
        /// Which file.
        place: Place,
        /// The columns it has.
        columns: Vec<String>,
    },
    /// Arrivals go backwards.
    #[error(
        "{place}: the arrival {now} is before the one above it, {before} in {above}; set `sort = true` if the order of the file has no meaning"
    )]
    Unsorted {
        /// Where.
        place: Place,
        /// This arrival, as the file says it.
        now: Box<str>,
        /// The arrival above it, as the file says it.
        before: Box<str>,
        /// Where that one is.
        above: Position,
    },
    /// No file and no shipped trace of that name.
    #[error("trace `{name}`: there is no such file ({path}) and no shipped trace of that name{nearest}; shipped are: {}", .shipped.join(", "), path = path.display())]
    UnknownTrace {
        /// As written.
        name: String,
        /// Where a file was looked for.
        path: PathBuf,
        /// The nearest shipped name, as `, did you mean …?`.
        nearest: String,
        /// The shipped names.
        shipped: Vec<&'static str>,
    },
    /// A setting of `[traffic]` is out of range, missing, or contradicts another.
    #[error("traffic.{key}: {problem}; {advice}")]
    Setting {
        /// Which key, from `[traffic]` on.
        key: String,
        /// What is wrong.
        problem: String,
        /// What to do.
        advice: String,
    },
}

impl TraceError {
    /// The file that it is about, or the name of a shipped trace; none if it is about a setting.
    pub fn file(&self) -> Option<&Path> {
        match self {
            TraceError::Io { file, .. } => Some(file),
            TraceError::Encoding { place, .. }
            | TraceError::Malformed { place, .. }
            | TraceError::Value { place, .. }
            | TraceError::Empty { place, .. }
            | TraceError::MissingColumn { place, .. }
            | TraceError::UnknownFormat { place, .. }
            | TraceError::Unsorted { place, .. } => Some(&place.file),
            TraceError::UnknownTrace { .. } | TraceError::Setting { .. } => None,
        }
    }

    /// A setting that cannot be.
    pub(crate) fn setting(key: impl Into<String>, problem: impl Into<String>, advice: impl Into<String>) -> TraceError {
        TraceError::Setting { key: key.into(), problem: problem.into(), advice: advice.into() }
    }

    /// A file that the system refuses.
    pub(crate) fn io(file: &Path, source: std::io::Error) -> TraceError {
        let advice = match source.kind() {
            std::io::ErrorKind::UnexpectedEof => "; the compressed file stops in the middle: fetch it again",
            std::io::ErrorKind::InvalidData | std::io::ErrorKind::InvalidInput => {
                "; the compressed file is damaged: fetch it again"
            }
            std::io::ErrorKind::NotFound => "; paths are relative to the scenario file",
            _ => "",
        };
        TraceError::Io { file: file.to_owned(), source, advice }
    }
}

/// `, did you mean "…"?` if a candidate is near enough, else nothing.
pub(crate) fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    candidates
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(&name.to_lowercase(), &candidate.to_lowercase()), candidate))
        .filter(|(score, _)| *score > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| format!(", did you mean `{candidate}`?"))
        .unwrap_or_default()
}

/// A foreign text as it may stand in a message: in quotes, escaped, not too long.
pub(crate) fn quoted(text: &str) -> String {
    const SHOWN: usize = 60;
    let short: String = text.chars().take(SHOWN).collect();
    let dots = if short.len() < text.len() { "…" } else { "" };
    format!("{short:?}{dots}")
}
