//! A foreign file, row by row: CSV, JSONL and Parquet look the same from here on.

mod csv;
mod jsonl;
mod parquet;

use std::path::{Path, PathBuf};

use crate::cell::{Cell, Field};
use crate::error::{Place, Position, TraceError};
use crate::input::Content;

/// A cursor over the rows of a file.
pub(crate) trait Rows {
    /// The names of the columns, in the order of the file.
    fn columns(&self) -> &[String];
    /// Which columns will be looked at: to be said before the first row. Others may then read as missing.
    fn keep(&mut self, _columns: &[usize]) -> Result<(), TraceError> {
        Ok(())
    }
    /// Goes to the next row; false at the end.
    fn advance(&mut self) -> Result<bool, TraceError>;
    /// The value of a column in this row.
    fn cell(&self, column: usize) -> Cell<'_>;
    /// Where this row is.
    fn position(&self) -> Position;
}

/// A cursor and the file it is over.
pub(crate) struct Reader {
    pub(crate) file: PathBuf,
    rows: Box<dyn Rows>,
}

impl Reader {
    /// Text that begins with a brace is JSONL, other text is CSV with a header.
    pub(crate) fn new(file: &Path, content: Content) -> Result<Reader, TraceError> {
        let rows: Box<dyn Rows> = match content {
            Content::Parquet(bytes) => Box::new(parquet::Parquet::new(file, bytes)?),
            Content::Tar(_) => {
                return Err(TraceError::Malformed {
                    place: Place::file(file),
                    problem: "a tar archive is not a table".into(),
                    advice: "only ServeGen's data comes as an archive: set `format = \"servegen\"`".into(),
                });
            }
            Content::Text(mut text) => {
                let head = text.fill_buf().map_err(|e| TraceError::io(file, e))?;
                if head.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{') {
                    Box::new(jsonl::Jsonl::new(file, text)?)
                } else {
                    Box::new(csv::Csv::new(file, text)?)
                }
            }
        };
        Ok(Reader { file: file.to_owned(), rows })
    }

    pub(crate) fn columns(&self) -> &[String] {
        self.rows.columns()
    }

    /// The position of the column of this name.
    pub(crate) fn find(&self, name: &str) -> Option<usize> {
        self.columns().iter().position(|column| column == name)
    }

    /// Only these columns will be looked at.
    pub(crate) fn keep(&mut self, columns: impl IntoIterator<Item = usize>) -> Result<(), TraceError> {
        self.rows.keep(&columns.into_iter().collect::<std::collections::BTreeSet<_>>().into_iter().collect::<Vec<_>>())
    }

    pub(crate) fn advance(&mut self) -> Result<bool, TraceError> {
        self.rows.advance()
    }

    pub(crate) fn field(&self, column: usize) -> Field<'_> {
        Field { cell: self.rows.cell(column), column: &self.columns()[column], place: self.place() }
    }

    pub(crate) fn position(&self) -> Position {
        self.rows.position()
    }

    pub(crate) fn place(&self) -> Place {
        Place { file: self.file.clone(), position: Some(self.position()) }
    }
}
