//! Parquet.

use std::borrow::Cow;
use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use polars::prelude::{AnyValue, DataFrame, DataType, ParquetReader, SerReader, Series, TimeUnit};

use crate::cell::Cell;
use crate::error::{Place, Position, TraceError};
use crate::rows::Rows;

pub(crate) struct Parquet {
    frame: DataFrame,
    columns: Vec<String>,
    /// Rows read so far: the current one counts from 1.
    row: usize,
}

impl Parquet {
    pub(crate) fn new(file: &Path, bytes: Cursor<Vec<u8>>) -> Result<Parquet, TraceError> {
        let malformed = |problem: String| TraceError::Malformed {
            place: Place::file(file),
            problem: format!("not a readable Parquet file: {problem}"),
            advice: "fetch it again, or write it again with plain integer, float, string, timestamp and list columns"
                .into(),
        };
        // The reader panics on some damaged files; for us that is one more way to say so.
        let read = catch_unwind(AssertUnwindSafe(|| ParquetReader::new(bytes).finish()));
        let mut frame = match read {
            Ok(Ok(frame)) => frame,
            Ok(Err(error)) => return Err(malformed(error.to_string())),
            Err(_) => return Err(malformed("its pages are damaged".into())),
        };
        frame.rechunk_mut();
        let columns = frame.get_column_names_owned().into_iter().map(|name| name.to_string()).collect();
        Ok(Parquet { frame, columns, row: 0 })
    }
}

impl Rows for Parquet {
    fn columns(&self) -> &[String] {
        &self.columns
    }

    fn advance(&mut self) -> Result<bool, TraceError> {
        self.row += 1;
        Ok(self.row <= self.frame.height())
    }

    fn cell(&self, column: usize) -> Cell<'_> {
        match self.frame.columns()[column].get(self.row - 1) {
            Ok(value) => convert(value),
            Err(_) => Cell::Missing,
        }
    }

    fn position(&self) -> Position {
        Position::Row(self.row as u64)
    }
}

fn convert(value: AnyValue<'_>) -> Cell<'_> {
    match value {
        AnyValue::Null => Cell::Missing,
        AnyValue::String(text) => Cell::Text(Cow::Borrowed(text)),
        AnyValue::StringOwned(text) => Cell::Text(Cow::Owned(text.to_string())),
        AnyValue::UInt8(n) => Cell::Integer(n.into()),
        AnyValue::UInt16(n) => Cell::Integer(n.into()),
        AnyValue::UInt32(n) => Cell::Integer(n.into()),
        AnyValue::UInt64(n) => Cell::Integer(n.into()),
        AnyValue::Int8(n) => Cell::Integer(n.into()),
        AnyValue::Int16(n) => Cell::Integer(n.into()),
        AnyValue::Int32(n) => Cell::Integer(n.into()),
        AnyValue::Int64(n) => Cell::Integer(n.into()),
        AnyValue::Float32(n) => Cell::Float(n.into()),
        AnyValue::Float64(n) => Cell::Float(n),
        AnyValue::Datetime(at, unit, _) | AnyValue::DatetimeOwned(at, unit, _) => {
            let ps = match unit {
                TimeUnit::Nanoseconds => 1_000,
                TimeUnit::Microseconds => 1_000_000,
                TimeUnit::Milliseconds => 1_000_000_000,
            };
            Cell::Instant(i128::from(at) * ps)
        }
        AnyValue::List(series) => {
            hashes(&series).map_or_else(|| Cell::Other(format!("a list of {}", series.dtype())), Cell::Hashes)
        }
        other => Cell::Other(format!("a value of type {}", other.dtype())),
    }
}

/// Signed hashes keep their bits: 64-bit hashes are often stored so.
fn hashes(series: &Series) -> Option<Vec<u64>> {
    match series.dtype() {
        DataType::UInt64 => series.u64().ok()?.iter().collect(),
        DataType::Int64 => series.i64().ok()?.iter().map(|hash| hash.map(|hash| hash as u64)).collect(),
        DataType::UInt32 => series.u32().ok()?.iter().map(|hash| hash.map(u64::from)).collect(),
        DataType::Int32 => series.i32().ok()?.iter().map(|hash| hash.map(|hash| hash as u32 as u64)).collect(),
        DataType::Null => Some(Vec::new()),
        _ => None,
    }
}
