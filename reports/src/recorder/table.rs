//! One Parquet file, written row group by row group.

pub(crate) mod cell;
pub(crate) mod integers;
mod page;
mod validity;
pub(crate) mod word;
pub(crate) mod words;

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use aril_sim::workload::Catalog;
use polars::io::parquet::write::BatchedWriter;
use polars::prelude::{Field, ParquetWriter, PolarsError, Schema};
use polars_parquet::write::Descriptor;
use zstd::bulk::Compressor;

use self::cell::Row;
use self::page::PageWriter;
use crate::ReportError;

/// Rows of a row group: what is held in memory, packed, before it is written.
pub(crate) const ROWS: usize = 1 << 16;
/// Rows that are gathered before each column takes its cells.
const STAGED: usize = 128;
/// One of the fast levels: files are a twentieth larger than at level 1, and their writing was a good part of what many adapters cost.
const LEVEL: i32 = -6;

/// A Parquet file under construction. Bytes depend on the rows alone.
///
/// Rows are packed column by column as they come in, [`STAGED`] at a time while they are in the nearest cache: nothing is copied,
/// hashed or looked at again when a row group is full.
pub(crate) struct Table<R: Row> {
    path: PathBuf,
    writer: BatchedWriter<Sink>,
    descriptors: Vec<Descriptor>,
    compressor: Compressor<'static>,
    staged: Vec<R>,
    columns: R::Columns,
    rows: usize,
    catalog: Arc<Catalog>,
    refusal: Arc<Mutex<Option<io::Error>>>,
}

impl<R: Row> Table<R> {
    /// Opens the file; names come from `catalog`.
    pub(crate) fn create(path: &Path, catalog: &Arc<Catalog>) -> Result<Table<R>, ReportError> {
        let file = File::create(path).map_err(ReportError::io("create", path))?;
        let refusal = Arc::new(Mutex::new(None));
        let sink = Sink { file: BufWriter::with_capacity(1 << 18, file), refusal: Arc::clone(&refusal) };
        let schema: Schema = R::schema().into_iter().map(|(name, kind)| Field::new(name.into(), kind)).collect();
        let mut writer = ParquetWriter::new(sink).set_parallel(false).batched(&schema).map_err(encoding(path))?;
        let columns = writer.parquet_schema().columns().iter();
        let descriptors = columns.map(|column| column.descriptor.clone()).collect();
        let mut columns = R::Columns::default();
        R::each(&mut columns).into_iter().for_each(|column| column.prepare(catalog));
        Ok(Table {
            path: path.to_owned(),
            writer,
            descriptors,
            compressor: Compressor::new(LEVEL).map_err(ReportError::io("compress", path))?,
            staged: Vec::with_capacity(STAGED),
            columns,
            rows: 0,
            catalog: Arc::clone(catalog),
            refusal,
        })
    }

    /// Takes in a row; writes a row group when it is full.
    pub(crate) fn push(&mut self, row: R) -> Result<(), ReportError> {
        self.staged.push(row);
        if self.staged.len() < STAGED { Ok(()) } else { self.unstage() }
    }

    fn unstage(&mut self) -> Result<(), ReportError> {
        let mut staged = std::mem::take(&mut self.staged);
        let taken = self.append(&staged);
        staged.clear();
        self.staged = staged;
        taken
    }

    /// Takes in up to [`STAGED`] rows; fewer only as the last ones. Writes a row group when it is full.
    pub(crate) fn append(&mut self, rows: &[R]) -> Result<(), ReportError> {
        R::append(&mut self.columns, rows);
        self.rows += rows.len();
        if self.rows >= ROWS { self.write() } else { Ok(()) }
    }

    /// Writes one row group.
    fn write(&mut self) -> Result<(), ReportError> {
        let mut pages = Vec::with_capacity(self.descriptors.len());
        for (column, descriptor) in R::each(&mut self.columns).into_iter().zip(&self.descriptors) {
            let mut writer = PageWriter { descriptor, compressor: &mut self.compressor, catalog: &self.catalog };
            pages.push(column.pages(self.rows, &mut writer).map_err(ReportError::io("compress", &self.path))?);
        }
        let rows = std::mem::take(&mut self.rows);
        let written = self.writer.write_row_group(rows as u64, &pages);
        written.map_err(|error| self.why(error))
    }

    /// Writes the footer and makes sure that all of it reached the file.
    pub(crate) fn finish(mut self) -> Result<(), ReportError> {
        self.unstage()?;
        if self.rows > 0 {
            self.write()?;
        }
        let size = self.writer.finish().map_err(|error| self.why(error))?;
        drop(self.writer);
        if let Some(source) = self.refusal.lock().ok().and_then(|mut refusal| refusal.take()) {
            return Err(ReportError::io("write", &self.path)(source));
        }
        let written = self.path.metadata().map_err(ReportError::io("look at", &self.path))?.len();
        if written != size {
            let message = format!("{written} of {size} bytes reached the file");
            return Err(ReportError::Table { path: self.path, message });
        }
        Ok(())
    }

    /// The refusal of the file system, which the encoder turns into a text, or else the encoder's own.
    fn why(&self, error: PolarsError) -> ReportError {
        match self.refusal.lock().ok().and_then(|mut refusal| refusal.take()) {
            Some(source) => ReportError::io("write", &self.path)(source),
            None => encoding(&self.path)(error),
        }
    }
}

fn encoding(path: &Path) -> impl FnOnce(PolarsError) -> ReportError {
    let path = path.to_owned();
    move |error| ReportError::Table { path, message: error.to_string() }
}

/// A file that remembers what the system refused, also when it is flushed on its way out.
struct Sink {
    file: BufWriter<File>,
    refusal: Arc<Mutex<Option<io::Error>>>,
}

impl Sink {
    fn note<T>(&self, result: io::Result<T>) -> io::Result<T> {
        result.inspect_err(|error| {
            if let Ok(mut refusal) = self.refusal.lock() {
                // io::Error is not Clone; the system's code says it all.
                let copy = error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error);
                refusal.get_or_insert(copy);
            }
        })
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let result = self.file.write(bytes);
        self.note(result)
    }

    fn flush(&mut self) -> io::Result<()> {
        let result = self.file.flush();
        self.note(result)
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        let result = self.file.flush();
        let _ = self.note(result);
    }
}

#[cfg(test)]
mod tests {
    use aril_sim::workload::{Adapter, Tenant};
    use polars::prelude::{AnyValue, DataFrame, DataType, ParquetReader, SerReader};
    use proptest::prelude::*;

    use super::cell::{Cell, Column, row};
    use super::integers::{AdapterRank, OrNone};
    use super::word::Word;
    use super::words::{AdapterName, TenantName};
    use super::*;

    row! {
        /// One cell of every kind.
        Kinds, KindColumns {
            small: u32, large: u64, small_or_none: Option<u32>, large_or_none: Option<u64>, truth: bool, truth_or_none: Option<bool>,
            word: Word, word_or_none: Option<Word>, small_or_largest: OrNone<u32>, large_or_largest: OrNone<u64>, tenant: TenantName, adapter: AdapterName, rank: AdapterRank,
        }
    }

    const WORDS: [Word; 3] = [Word::Held, Word::Routed, Word::Load];

    fn catalog() -> Catalog {
        Catalog {
            tenants: (0..40).map(|i| Tenant { name: format!("t{i}"), weight: 1.0, slo_class: 0 }).collect(),
            adapters: (0..300)
                .map(|i| Adapter { name: format!("a{i}"), rank: 1 + i % 9, bytes: 1, owner: None })
                .collect(),
        }
    }

    fn write(path: &Path, rows: impl IntoIterator<Item = Kinds>) -> Result<(), ReportError> {
        let mut table = Table::<Kinds>::create(path, &Arc::new(catalog()))?;
        for row in rows {
            table.push(row)?;
        }
        table.finish()
    }

    fn read(path: &Path) -> DataFrame {
        ParquetReader::new(File::open(path).unwrap()).finish().unwrap()
    }

    /// A row out of a few random bits: numbers from nothing to the largest, and now and then none.
    fn kinds(bits: u64, spread: u32) -> Kinds {
        let large = bits.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (64 - spread.min(63)) as u64;
        let some = bits % 7 > 2;
        let adapter = if some { (bits % 310) as u32 } else { u32::MAX };
        Kinds {
            small: large as u32,
            large,
            small_or_none: some.then_some(!large as u32),
            large_or_none: bits.is_multiple_of(3).then_some(!large),
            truth: bits % 5 < 2,
            truth_or_none: some.then_some(bits.is_multiple_of(2)),
            word: WORDS[(bits % 3) as usize],
            word_or_none: bits.is_multiple_of(2).then_some(WORDS[(bits % 11 % 3) as usize]),
            small_or_largest: if some { OrNone(large as u32 / 2) } else { OrNone::NONE },
            large_or_largest: if bits.is_multiple_of(3) { OrNone(large / 2) } else { OrNone::NONE },
            tenant: TenantName((bits % 41) as u32),
            adapter: AdapterName(adapter),
            rank: AdapterRank(adapter),
        }
    }

    fn check(frame: &DataFrame, rows: &[Kinds]) {
        assert_eq!(frame.height(), rows.len());
        let catalog = catalog();
        let cell = |column: usize, row: usize| frame.columns()[column].get(row).unwrap();
        let text = |name: Option<&str>| name.map_or(AnyValue::Null, |name| AnyValue::StringOwned(name.into()));
        let or_null = |number: Option<AnyValue<'static>>| number.unwrap_or(AnyValue::Null);
        for (at, row) in rows.iter().enumerate() {
            let tenant = catalog.tenants.get(row.tenant.0 as usize).map(|tenant| tenant.name.as_str());
            let adapter = catalog.adapters.get(row.adapter.0 as usize);
            let expected = [
                AnyValue::UInt32(row.small),
                AnyValue::UInt64(row.large),
                or_null(row.small_or_none.map(AnyValue::UInt32)),
                or_null(row.large_or_none.map(AnyValue::UInt64)),
                AnyValue::Boolean(row.truth),
                or_null(row.truth_or_none.map(AnyValue::Boolean)),
                text(Some(row.word.text())),
                text(row.word_or_none.map(Word::text)),
                or_null((row.small_or_largest != OrNone::NONE).then_some(AnyValue::UInt32(row.small_or_largest.0))),
                or_null((row.large_or_largest != OrNone::NONE).then_some(AnyValue::UInt64(row.large_or_largest.0))),
                text(tenant),
                text(adapter.map(|adapter| adapter.name.as_str())),
                or_null(adapter.map(|adapter| AnyValue::UInt32(adapter.rank))),
            ];
            for (column, expected) in expected.iter().enumerate() {
                assert_eq!(&cell(column, at), expected, "column {column} of row {at}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]
        #[test]
        fn every_cell_is_read_back(bits in prop::collection::vec(any::<u64>(), 0..700), spread in 1u32..64) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("kinds.parquet");
            write(&path, bits.iter().map(|bits| kinds(*bits, spread))).unwrap();
            check(&read(&path), &bits.iter().map(|bits| kinds(*bits, spread)).collect::<Vec<_>>());
        }
    }

    #[test]
    fn row_groups_begin_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kinds.parquet");
        let row = |i: usize| kinds((i as u64).wrapping_mul(6_364_136_223_846_793_005), 44);
        let rows = 2 * ROWS + 77;
        write(&path, (0..rows).map(row)).unwrap();
        let frame = read(&path);
        assert_eq!(frame.height(), rows);
        for from in [0, ROWS - 300, 2 * ROWS - 300, 2 * ROWS] {
            let len = 377.min(rows - from);
            check(&frame.slice(from as i64, len), &(from..from + len).map(row).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_table_without_rows_has_its_columns() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kinds.parquet");
        write(&path, []).unwrap();
        let types: Vec<_> = read(&path).columns().iter().map(|column| column.dtype().clone()).collect();
        let expected = Kinds::schema().into_iter().map(|(_, kind)| kind).collect::<Vec<_>>();
        assert_eq!(types, expected);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_full_disk_is_named_and_advised_upon() {
        // Every write to this device fails as on a full disk.
        let error = write(Path::new("/dev/full"), (0..3).map(|bits| kinds(bits, 9))).unwrap_err();
        assert!(
            matches!(&error, ReportError::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull),
            "{error}"
        );
        assert!(error.to_string().contains("make room"), "{error}");
    }
}
