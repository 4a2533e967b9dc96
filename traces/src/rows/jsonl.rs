//! One JSON object a line.

use std::borrow::Cow;
use std::io::{BufRead, Read};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::cell::Cell;
use crate::error::{Place, Position, TraceError};
use crate::input::TO_UTF8;
use crate::rows::Rows;

/// A longer line is no line of a trace.
const LINE_BYTES_MAX: u64 = 16 << 20;
/// Lists inside an object that stands where a list of hashes is expected, in the order of the prompt (RAGPulse).
const PROMPT_PARTS: [&str; 5] = ["sys_prompt", "passages_ids", "history", "web_search", "user_input"];

pub(crate) struct Jsonl {
    file: PathBuf,
    text: Box<dyn BufRead>,
    columns: Vec<String>,
    buffer: Vec<u8>,
    line: u64,
    object: Map<String, Value>,
    /// The first object was read to learn the columns and still counts as a row.
    pending: bool,
}

impl Jsonl {
    pub(crate) fn new(file: &Path, text: Box<dyn BufRead>) -> Result<Jsonl, TraceError> {
        let mut rows = Jsonl {
            file: file.to_owned(),
            text,
            columns: Vec::new(),
            buffer: Vec::new(),
            line: 0,
            object: Map::new(),
            pending: false,
        };
        rows.pending = rows.read()?;
        rows.columns = rows.object.keys().cloned().collect();
        Ok(rows)
    }

    fn read(&mut self) -> Result<bool, TraceError> {
        loop {
            self.buffer.clear();
            self.line += 1;
            let place = || Place::line(&self.file, self.line);
            let read = (&mut self.text).take(LINE_BYTES_MAX).read_until(b'\n', &mut self.buffer);
            if read.map_err(|e| TraceError::io(&self.file, e))? == 0 {
                return Ok(false);
            }
            if self.buffer.len() as u64 == LINE_BYTES_MAX {
                return Err(malformed(place(), "a line of more than 16 MiB".into()));
            }
            if self.buffer.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            if let Err(error) = std::str::from_utf8(&self.buffer) {
                let byte = self.buffer[error.valid_up_to()];
                return Err(TraceError::Encoding {
                    place: place(),
                    found: format!("byte {} of the line, 0x{byte:02x}, is not UTF-8", error.valid_up_to() + 1),
                    advice: TO_UTF8,
                });
            }
            match serde_json::from_slice(&self.buffer) {
                Ok(object) => self.object = object,
                Err(error) if error.is_eof() => {
                    return Err(TraceError::Malformed {
                        place: place(),
                        problem: "the line stops in the middle of its object".into(),
                        advice: "if it is the last line, the file is truncated: fetch it again".into(),
                    });
                }
                Err(error) => return Err(malformed(place(), format!("column {}: {}", error.column(), reason(&error)))),
            }
            return Ok(true);
        }
    }
}

impl Rows for Jsonl {
    fn columns(&self) -> &[String] {
        &self.columns
    }

    fn advance(&mut self) -> Result<bool, TraceError> {
        if std::mem::take(&mut self.pending) { Ok(true) } else { self.read() }
    }

    fn cell(&self, column: usize) -> Cell<'_> {
        match self.object.get(&self.columns[column]) {
            None | Some(Value::Null) => Cell::Missing,
            Some(Value::String(text)) => Cell::Text(Cow::Borrowed(text)),
            Some(Value::Number(number)) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
                (Some(number), _, _) => Cell::Integer(number.into()),
                (_, Some(number), _) => Cell::Integer(number.into()),
                (_, _, Some(number)) => Cell::Float(number),
                _ => Cell::Other("a number that is too large".into()),
            },
            Some(Value::Array(list)) => hashes([list.as_slice()]),
            Some(Value::Object(parts)) if PROMPT_PARTS.iter().any(|part| parts.contains_key(*part)) => {
                let lists = PROMPT_PARTS.iter().filter_map(|part| parts.get(*part)?.as_array());
                hashes(lists.map(Vec::as_slice))
            }
            Some(Value::Object(_)) => Cell::Other("an object".into()),
            Some(Value::Bool(value)) => Cell::Other(value.to_string()),
        }
    }

    fn position(&self) -> Position {
        Position::Line(self.line)
    }
}

fn hashes<'a>(lists: impl IntoIterator<Item = &'a [Value]>) -> Cell<'static> {
    let hashes: Option<Vec<u64>> = lists.into_iter().flatten().map(Value::as_u64).collect();
    hashes.map_or_else(|| Cell::Other("a list with something else than whole numbers in it".into()), Cell::Hashes)
}

fn malformed(place: Place, problem: String) -> TraceError {
    TraceError::Malformed { place, problem, advice: "write one JSON object a line".into() }
}

/// What is wrong, without serde's own line count: every line is parsed alone.
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split(" at line ").next().unwrap_or(&text).to_owned()
}
