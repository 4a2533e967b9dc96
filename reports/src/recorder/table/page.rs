//! From encoded values to the pages of a column: levels, statistics, compression.

use std::io;

use aril_sim::workload::Catalog;
use polars_parquet::parquet::CowBuffer;
use polars_parquet::parquet::compression::Compression;
use polars_parquet::parquet::page::{CompressedDictPage, DataPageHeader, DataPageHeaderV1};
use polars_parquet::parquet::statistics::ParquetStatistics;
use polars_parquet::write::{CompressedDataPage, CompressedPage, Descriptor, Encoding};
use zstd::bulk::Compressor;

use super::validity::{Validity, all_equal};

/// Pages are compressed where a sample of this length shrinks by a fifth: packed numbers often have little left to take out.
const SAMPLE: usize = 1 << 14;

/// What it takes to make the pages of one column.
pub(crate) struct PageWriter<'a> {
    pub(super) descriptor: &'a Descriptor,
    pub(super) compressor: &'a mut Compressor<'static>,
    pub(super) catalog: &'a Catalog,
}

/// A page under construction.
pub(super) struct Page {
    rows: usize,
    /// Levels, then values.
    pub(super) bytes: Vec<u8>,
    /// Plain texts, and how many.
    dictionary: Option<(Vec<u8>, usize)>,
}

impl Page {
    /// Begins with which rows have a value; without a validity all have one.
    pub(super) fn of(rows: usize, validity: Option<&Validity>) -> Page {
        let mut bytes = vec![0; 4];
        match validity {
            Some(validity) => validity.levels(&mut bytes),
            None => all_equal(rows, true, &mut bytes),
        }
        let levels = (bytes.len() - 4) as u32;
        bytes[..4].copy_from_slice(&levels.to_le_bytes());
        Page { rows, bytes, dictionary: None }
    }

    /// With a dictionary of `len` texts before it.
    pub(super) fn with_dictionary(self, texts: Vec<u8>, len: usize) -> Page {
        Page { dictionary: Some((texts, len)), ..self }
    }

    /// Compresses it, where that pays.
    pub(super) fn finish(
        self,
        writer: &mut PageWriter<'_>,
        encoding: Encoding,
        statistics: ParquetStatistics,
    ) -> io::Result<Vec<CompressedPage>> {
        // All pages of a column are compressed or none is.
        let size = self.bytes.len();
        let packed = match &self.dictionary {
            Some(_) => Some(writer.compressor.compress(&self.bytes)?),
            None => shrunk(&self.bytes, writer.compressor)?,
        };
        let compression = if packed.is_some() { Compression::Zstd } else { Compression::Uncompressed };
        let mut pages = Vec::new();
        if let Some((texts, len)) = self.dictionary {
            let (size, texts) = (texts.len(), CowBuffer::Owned(writer.compressor.compress(&texts)?));
            pages.push(CompressedPage::Dict(CompressedDictPage::new(texts, compression, size, len, false)));
        }
        let header = DataPageHeaderV1 {
            num_values: self.rows as i32,
            encoding: encoding.into(),
            definition_level_encoding: Encoding::Rle.into(),
            repetition_level_encoding: Encoding::Rle.into(),
            statistics: Some(statistics),
        };
        pages.push(CompressedPage::Data(CompressedDataPage::new(
            DataPageHeader::V1(header),
            CowBuffer::Owned(packed.unwrap_or(self.bytes)),
            compression,
            size,
            writer.descriptor.clone(),
            self.rows,
        )));
        Ok(pages)
    }
}

/// Least and largest value, as bytes, and the number of rows without any.
pub(super) fn statistics(ends: Option<(Vec<u8>, Vec<u8>)>, nulls: usize) -> ParquetStatistics {
    let (least, largest) = ends.unzip();
    ParquetStatistics {
        min_value: least,
        max_value: largest,
        null_count: Some(nulls as i64),
        distinct_count: None,
        max: None,
        min: None,
        is_max_value_exact: None,
        is_min_value_exact: None,
    }
}

/// Compressed, if that pays. What is no longer than a sample is compressed once. The sample is from the middle: a page begins with who has a
/// value, which shrinks well.
fn shrunk(bytes: &[u8], compressor: &mut Compressor<'_>) -> io::Result<Option<Vec<u8>>> {
    let from = bytes.len().saturating_sub(SAMPLE) / 2;
    let sample = &bytes[from..bytes.len().min(from + SAMPLE)];
    let packed = compressor.compress(sample)?;
    if packed.len() > sample.len() - sample.len() / 5 {
        return Ok(None);
    }
    if sample.len() == bytes.len() { Ok(Some(packed)) } else { compressor.compress(bytes).map(Some) }
}
