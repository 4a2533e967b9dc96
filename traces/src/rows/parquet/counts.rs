//! Do the counts of a Parquet file agree with each other?
//!
//! Its reader allocates by what the head of a page says of itself. A count that is damaged would ask for more memory than
//! there is, and that ends a process without a message; so the counts are compared before a value is read.

use std::collections::BTreeSet;
use std::io::Cursor;

use polars::prelude::{PolarsError, PolarsResult};
use polars_parquet::parquet::metadata::{ColumnChunkMetadata, FileMetadata};
use polars_parquet::parquet::read::{BasicDecompressor, PageReader};

/// An error where the pages of these columns, the column chunks, the row groups and the file do not say the same.
pub(super) fn agree(file: &[u8], metadata: &FileMetadata, columns: &BTreeSet<&str>) -> PolarsResult<()> {
    let rows = metadata.row_groups.iter().try_fold(0_usize, |sum, group| sum.checked_add(group.num_rows()));
    require(rows == Some(metadata.num_rows), "its row groups have another number of rows than the file")?;
    for group in metadata.row_groups.iter() {
        for chunk in group.parquet_columns() {
            let path = &chunk.descriptor().path_in_schema;
            if path.first().is_some_and(|name| columns.contains(name.as_str())) {
                let values = usize::try_from(chunk.num_values()).ok();
                // A list of no items has one value, which says so.
                let is_list = chunk.descriptor().descriptor.max_rep_level > 0;
                let fits = values.is_some_and(|n| if is_list { n >= group.num_rows() } else { n == group.num_rows() });
                require(fits, "a column has another number of values than its row group has rows")?;
                pages_agree(file, chunk)?;
            }
        }
    }
    Ok(())
}

fn pages_agree(file: &[u8], chunk: &ColumnChunkMetadata) -> PolarsResult<()> {
    let range = chunk.byte_range();
    let bytes = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
    let bytes = bytes.and_then(|(start, end)| file.get(start..end));
    require(bytes.is_some(), "a column lies beyond the end of the file")?;
    let pages = PageReader::new(Cursor::new(bytes.unwrap_or_default().to_vec().into()), chunk, Vec::new(), usize::MAX);
    let mut pages = BasicDecompressor::new(pages, Vec::new());
    if let Some(words) = pages.read_dict_page()? {
        // Each takes a byte at least.
        require(words.num_values <= words.buffer.len(), "a dictionary has more values than bytes")?;
    }
    let mut left = pages.total_num_values();
    for page in pages {
        let rest = left.checked_sub(page?.num_values());
        require(rest.is_some(), "a page has more values than its column")?;
        left = rest.unwrap_or_default();
    }
    // Where they have fewer, the reader of pages runs into their end.
    Ok(())
}

fn require(holds: bool, otherwise: &'static str) -> PolarsResult<()> {
    if holds { Ok(()) } else { Err(PolarsError::ComputeError(otherwise.into())) }
}
