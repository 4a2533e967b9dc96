//! CSV with a header.

use std::borrow::Cow;
use std::io::BufRead;
use std::path::{Path, PathBuf};

use crate::cell::Cell;
use crate::error::{Place, Position, TraceError, quoted};
use crate::input::TO_UTF8;
use crate::rows::Rows;

/// A field longer than this is no field of a trace: an open quote swallowed the file.
const FIELD_BYTES_MAX: usize = 4 << 20;

pub(crate) struct Csv {
    file: PathBuf,
    reader: csv::Reader<Box<dyn BufRead>>,
    columns: Vec<String>,
    record: csv::StringRecord,
}

impl Csv {
    pub(crate) fn new(file: &Path, text: Box<dyn BufRead>) -> Result<Csv, TraceError> {
        let mut reader = csv::ReaderBuilder::new().from_reader(text);
        let headers = match reader.headers() {
            Ok(headers) => headers,
            Err(error) => return Err(convert(file, error)),
        };
        let columns: Vec<String> = headers.iter().map(|name| name.trim().to_owned()).collect();
        Ok(Csv { file: file.to_owned(), reader, columns, record: csv::StringRecord::new() })
    }
}

impl Rows for Csv {
    fn columns(&self) -> &[String] {
        &self.columns
    }

    fn advance(&mut self) -> Result<bool, TraceError> {
        let more = self.reader.read_record(&mut self.record).map_err(|error| convert(&self.file, error))?;
        if more && self.record.as_slice().len() > FIELD_BYTES_MAX {
            return Err(TraceError::Malformed {
                place: Place { file: self.file.clone(), position: Some(self.position()) },
                problem: format!("a row of {} bytes", self.record.as_slice().len()),
                advice: "look for a quotation mark that is never closed".into(),
            });
        }
        Ok(more)
    }

    fn cell(&self, column: usize) -> Cell<'_> {
        match self.record.get(column) {
            None | Some("") => Cell::Missing,
            Some(text) => Cell::Text(Cow::Borrowed(text)),
        }
    }

    fn position(&self) -> Position {
        Position::Line(self.record.position().map_or(1, csv::Position::line))
    }
}

fn convert(file: &Path, error: csv::Error) -> TraceError {
    let at = |position: &Option<csv::Position>| match position {
        Some(position) => Place::line(file, position.line()),
        None => Place::file(file),
    };
    match error.kind() {
        csv::ErrorKind::Utf8 { pos, err } => TraceError::Encoding {
            place: at(pos),
            found: format!("field {} is not UTF-8", err.field() + 1),
            advice: TO_UTF8,
        },
        csv::ErrorKind::UnequalLengths { pos, expected_len, len } => TraceError::Malformed {
            place: at(pos),
            problem: format!("{len} fields where the header has {expected_len}"),
            advice: "if it is the last line, the file is truncated: fetch it again; else correct the row".into(),
        },
        _ => match error.into_kind() {
            csv::ErrorKind::Io(source) => TraceError::io(file, source),
            other => TraceError::Malformed {
                place: Place::file(file),
                problem: quoted(&format!("{other:?}")),
                advice: "write plain CSV with a header".into(),
            },
        },
    }
}
