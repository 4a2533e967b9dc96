//! Parquet: only the columns that are asked for, whatever types stand beside them.

mod counts;

use std::borrow::Cow;
use std::cell::Cell as Flag;
use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};

use polars::prelude::{
    AnyValue, ArrowDataType, Column, DataType, ParallelStrategy, ParquetReader, PolarsResult, SerReader, Series,
    TimeUnit,
};
use polars_parquet::parquet::metadata::{FileMetadata, SchemaDescriptor};
use polars_parquet::parquet::schema::types::{ParquetType, PrimitiveConvertedType, PrimitiveLogicalType};

use crate::cell::Cell;
use crate::error::{Place, Position, TraceError};
use crate::rows::Rows;

pub(crate) struct Parquet {
    file: PathBuf,
    bytes: Cursor<Vec<u8>>,
    metadata: FileMetadata,
    /// Names and types, in the order of the file.
    columns: Vec<String>,
    types: Vec<ArrowDataType>,
    /// By column of the file: its values, of those that were asked for.
    values: Vec<Option<Column>>,
    height: usize,
    /// Rows read so far: the current one counts from 1.
    row: usize,
}

impl Parquet {
    pub(crate) fn new(file: &Path, mut bytes: Cursor<Vec<u8>>) -> Result<Parquet, TraceError> {
        let (metadata, schema) = guarded(file, || {
            let mut reader = ParquetReader::new(&mut bytes);
            let schema = reader.schema()?;
            Ok((FileMetadata::clone(reader.get_metadata()?), schema))
        })?;
        let columns: Vec<String> = schema.iter_names().map(|name| name.to_string()).collect();
        let types = schema.iter_values().map(|field| field.dtype().clone()).collect();
        let height = metadata.num_rows;
        let values = vec![None; columns.len()];
        Ok(Parquet { file: file.to_owned(), bytes, metadata, columns, types, values, height, row: 0 })
    }

    /// Reads these columns; `plain`: as what they are stored as, whatever they stand for.
    fn load(&mut self, wanted: &[usize], plain: bool) -> Result<(), TraceError> {
        if wanted.is_empty() {
            return Ok(());
        }
        let names: Vec<String> = wanted.iter().map(|column| self.columns[*column].clone()).collect();
        let metadata = if plain { stored(&self.metadata, wanted, &self.columns) } else { self.metadata.clone() };
        let bytes = Cursor::new(self.bytes.get_ref().as_slice());
        let mut frame = guarded(&self.file, || {
            counts::agree(bytes.get_ref(), &metadata, &names.iter().map(String::as_str).collect())?;
            let mut reader = ParquetReader::new(bytes).with_columns(Some(names)).read_parallel(ParallelStrategy::None);
            reader.set_metadata(Arc::new(metadata));
            reader.finish()
        })?;
        frame.rechunk_mut();
        self.height = frame.height();
        for column in wanted {
            self.values[*column] = frame.column(&self.columns[*column]).ok().cloned();
        }
        Ok(())
    }
}

impl Rows for Parquet {
    fn columns(&self) -> &[String] {
        &self.columns
    }

    fn keep(&mut self, columns: &[usize]) -> Result<(), TraceError> {
        let (mut as_written, mut as_stored) = (Vec::new(), Vec::new());
        for &column in columns {
            match &self.types[column] {
                kind if is_readable(kind) => as_written.push(column),
                // Small integers are stored as wider ones, and categories as the values that they stand for.
                ArrowDataType::Int8 | ArrowDataType::Int16 | ArrowDataType::UInt8 | ArrowDataType::UInt16 => {
                    as_stored.push(column);
                }
                ArrowDataType::Dictionary(_, values, _) if is_readable(values) => as_stored.push(column),
                other => {
                    return Err(TraceError::Malformed {
                        place: Place::file(&self.file),
                        problem: format!("column `{}` has the type {}", self.columns[column], named(other)),
                        advice: PLAIN.into(),
                    });
                }
            }
        }
        self.load(&as_written, false)?;
        self.load(&as_stored, true)
    }

    fn advance(&mut self) -> Result<bool, TraceError> {
        self.row += 1;
        Ok(self.row <= self.height)
    }

    fn cell(&self, column: usize) -> Cell<'_> {
        let Some(values) = &self.values[column] else { return Cell::Missing };
        match values.get(self.row - 1) {
            Ok(value) => convert(value, values.dtype()),
            Err(_) => Cell::Missing,
        }
    }

    fn position(&self) -> Position {
        Position::Row(self.row as u64)
    }
}

const PLAIN: &str = "write it again with plain integer, float, string, timestamp and list columns";

/// Does the reader know it as it is?
fn is_readable(kind: &ArrowDataType) -> bool {
    use ArrowDataType::{
        Boolean, Date32, Duration, Float32, Float64, Int32, Int64, LargeList, LargeUtf8, List, Null, Timestamp, UInt32,
        UInt64, Utf8, Utf8View,
    };
    match kind {
        Null | Boolean | Int32 | Int64 | UInt32 | UInt64 | Float32 | Float64 | Utf8 | LargeUtf8 | Utf8View | Date32 => {
            true
        }
        Timestamp(..) | Duration(_) => true,
        List(item) | LargeList(item) => is_readable(item.dtype()),
        _ => false,
    }
}

/// The type without what it holds: `Decimal`, not all its digits.
fn named(kind: &ArrowDataType) -> String {
    let text = format!("{kind:?}");
    text.split(['(', ' ', '{']).next().unwrap_or_default().to_lowercase()
}

/// The same file, as if these columns were declared as nothing but their bytes: integers of 32 or 64 bits, or text.
fn stored(metadata: &FileMetadata, columns: &[usize], names: &[String]) -> FileMetadata {
    let mut metadata = metadata.clone();
    let is_one = |name: &str| columns.iter().any(|column| names[*column] == name);
    let mut fields = metadata.schema_descr.fields().to_vec();
    for field in fields.iter_mut().filter(|field| is_one(field.name())) {
        if let ParquetType::PrimitiveType(primitive) = field
            && matches!(primitive.logical_type, Some(PrimitiveLogicalType::Integer(_)) | None)
            && !matches!(primitive.converted_type, Some(PrimitiveConvertedType::Utf8))
        {
            primitive.logical_type = None;
            primitive.converted_type = None;
        }
    }
    metadata.schema_descr = SchemaDescriptor::new(metadata.schema_descr.name().into(), fields);
    // What Arrow wrote of its own types.
    metadata.key_value_metadata = None;
    metadata
}

thread_local! {
    /// Is this thread reading a file that may make its reader panic?
    static EXPECTED: Flag<bool> = const { Flag::new(false) };
}

/// Runs a reader that panics on some damaged files, which is one more way to say so: quietly, and as an error.
fn guarded<T>(file: &Path, read: impl FnOnce() -> PolarsResult<T>) -> Result<T, TraceError> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let others = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !EXPECTED.get() {
                others(info);
            }
        }));
    });
    EXPECTED.set(true);
    let result = catch_unwind(AssertUnwindSafe(read));
    EXPECTED.set(false);
    let problem = match result {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "its pages are damaged".to_owned(),
    };
    Err(TraceError::Malformed {
        place: Place::file(file),
        problem: format!("not a readable Parquet file: {problem}"),
        advice: format!("fetch it again, or {PLAIN}"),
    })
}

fn convert<'a>(value: AnyValue<'a>, kind: &DataType) -> Cell<'a> {
    match value {
        AnyValue::Null => Cell::Missing,
        AnyValue::String(text) => Cell::Text(Cow::Borrowed(text)),
        AnyValue::StringOwned(text) => Cell::Text(Cow::Owned(text.to_string())),
        AnyValue::UInt32(n) => Cell::Integer(n.into()),
        AnyValue::UInt64(n) => Cell::Integer(n.into()),
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
        _ => Cell::Other(format!("a value of type {kind}")),
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
