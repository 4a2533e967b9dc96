//! One Parquet file, written row group by row group.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use polars::io::parquet::write::BatchedWriter;
use polars::polars_utils::compression::ZstdLevel;
use polars::prelude::{Column, DataFrame, ParquetCompression, ParquetWriter, PolarsError};

use crate::ReportError;

/// Rows of a row group: what is held in memory before it is written.
pub(crate) const ROWS: usize = 1 << 17;

/// A Parquet file under construction. Bytes depend on the rows alone.
pub(crate) struct Table {
    path: PathBuf,
    writer: BatchedWriter<Sink>,
    refusal: Arc<Mutex<Option<io::Error>>>,
}

impl Table {
    /// Opens the file; `empty` tells the names and types of its columns.
    pub(crate) fn create(path: &Path, empty: Vec<Column>) -> Result<Table, ReportError> {
        let file = File::create(path).map_err(ReportError::io("create", path))?;
        let refusal = Arc::new(Mutex::new(None));
        let sink = Sink { file: BufWriter::with_capacity(1 << 20, file), refusal: Arc::clone(&refusal) };
        let frame = DataFrame::new(0, empty).map_err(encoding(path))?;
        let writer = ParquetWriter::new(sink)
            .with_compression(compression())
            .set_parallel(false)
            .batched(frame.schema())
            .map_err(encoding(path))?;
        Ok(Table { path: path.to_owned(), writer, refusal })
    }

    /// Writes one row group.
    pub(crate) fn write(&mut self, height: usize, columns: Vec<Column>) -> Result<(), ReportError> {
        if height == 0 {
            return Ok(());
        }
        let frame = DataFrame::new(height, columns).map_err(encoding(&self.path))?;
        self.writer.write_batch(&frame).map_err(|error| self.why(error))
    }

    /// Writes the footer and makes sure that all of it reached the file.
    pub(crate) fn finish(self) -> Result<(), ReportError> {
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

/// The fastest level: what higher ones save in bytes costs more time than the simulation.
fn compression() -> ParquetCompression {
    ParquetCompression::Zstd(ZstdLevel::try_new(1).ok())
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
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn a_full_disk_is_named_and_advised_upon() {
        // Every write to this device fails as on a full disk.
        let path = Path::new("/dev/full");
        let columns = |values: Vec<u64>| vec![Column::new("x".into(), values)];
        let mut table = Table::create(path, columns(Vec::new())).unwrap();
        let error = table.write(3, columns(vec![1, 2, 3])).and_then(|()| table.finish()).unwrap_err();
        assert!(
            matches!(&error, ReportError::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull),
            "{error}"
        );
        assert!(error.to_string().contains("make room"), "{error}");
    }
}
