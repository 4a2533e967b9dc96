//! Which rows use which adapter, in device memory: one entry a row or one entry an adapter.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, DevicePtr};

use super::layout::{GRANULE, stride};
use crate::Error;
use crate::gpu::Gpu;
use crate::lora::layout::{check_rank, check_scale};
use crate::lora::plan::Segment;

/// One entry; the same fields as `Segment` in `baseline.cu`.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Entry {
    /// Device address of the adapter.
    pub weights: u64,
    /// First row.
    pub row: u32,
    /// Rows; none for an entry without an adapter.
    pub rows: u32,
    /// Rank of the adapter.
    pub rank: u32,
    /// Ranks that it is stored with.
    pub stride: u32,
    /// What x·A is multiplied by.
    pub scale: f32,
}

impl Entry {
    /// Bytes of an entry on the device.
    pub const BYTES: usize = 32;

    /// The entry as the device reads it.
    pub fn to_bytes(self) -> [u8; Entry::BYTES] {
        let mut bytes = [0; Entry::BYTES];
        bytes[..8].copy_from_slice(&self.weights.to_le_bytes());
        let words = [self.row, self.rows, self.rank, self.stride, self.scale.to_bits()];
        for (slot, word) in bytes[8..28].chunks_exact_mut(4).zip(words) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }
}

/// The entries of a step, and what a launch must know of them.
#[derive(Debug, Clone, PartialEq)]
pub struct Entries {
    pub(super) entries: Vec<Entry>,
    /// One past the last row that is touched.
    pub(super) rows_end: u32,
    /// The largest stride.
    pub(super) stride_max: u32,
}

impl Entries {
    /// One entry for each of the rows `0..rows`; the weights of segments lie at the stride of their rank. Rows in no
    /// segment have an entry without an adapter.
    ///
    /// # Errors
    /// [`Error::Shape`] if a segment's rows are not below `rows` or overlap another's, or a rank or address is invalid.
    pub fn by_row(segments: &[Segment], rows: u32) -> Result<Self, Error> {
        let mut entries: Vec<Entry> = (0..rows).map(|row| Entry { row, ..Entry::default() }).collect();
        let mut stride_max = GRANULE;
        for segment in segments {
            check(segment, rows)?;
            for row in segment.rows.clone() {
                let entry = &mut entries[row as usize];
                if entry.rows > 0 {
                    return Err(Error::shape("segments", format!("two of them have row {row}")));
                }
                let (rank, scale) = (segment.rank, segment.scale);
                *entry = Entry { weights: segment.weights, row, rows: 1, rank, stride: stride(rank), scale };
                stride_max = stride_max.max(stride(rank));
            }
        }
        Ok(Entries { entries, rows_end: rows, stride_max })
    }

    /// One entry for each segment, empty ones too; the weights of all lie at a stride of `stride`, at least the
    /// largest rank.
    ///
    /// # Errors
    /// [`Error::Shape`] if the stride is no multiple of 8 or below a rank, or as [`Entries::by_row`].
    pub fn by_adapter(segments: &[Segment], rows: u32, stride: u32) -> Result<Self, Error> {
        Entries::by_row(segments, rows)?;
        if !stride.is_multiple_of(GRANULE) || stride == 0 {
            return Err(Error::shape("padded adapters", format!("a stride of {stride} is no multiple of {GRANULE}")));
        }
        let mut entries = Vec::with_capacity(segments.len());
        for segment in segments {
            if segment.rank > stride {
                let why = format!("rank {} does not fit a stride of {stride}", segment.rank);
                return Err(Error::shape("padded adapters", why));
            }
            let rows = segment.rows.end - segment.rows.start;
            let (weights, rank, scale) = (segment.weights, segment.rank, segment.scale);
            entries.push(Entry { weights, row: segment.rows.start, rows, rank, stride, scale });
        }
        Ok(Entries { entries, rows_end: rows, stride_max: stride })
    }

    /// The entries, in order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// One past the last row.
    pub fn rows_end(&self) -> u32 {
        self.rows_end
    }

    /// The largest stride: what a row of v must have room for.
    pub fn stride_max(&self) -> u32 {
        self.stride_max
    }
}

fn check(segment: &Segment, rows: u32) -> Result<(), Error> {
    check_rank(segment.rank)?;
    check_scale(segment.scale)?;
    let range = &segment.rows;
    if range.start > range.end || range.end > rows {
        return Err(Error::shape("segment", format!("rows {}..{} of {rows}", range.start, range.end)));
    }
    if segment.weights == 0 || !segment.weights.is_multiple_of(16) {
        let why = format!("weights at {:#x}, which is null or no multiple of 16", segment.weights);
        return Err(Error::shape("segment", why));
    }
    Ok(())
}

/// Entries in device memory.
#[derive(Debug)]
pub struct Table {
    entries: Entries,
    memory: CudaSlice<u8>,
}

impl Table {
    /// Copies the entries to the device.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] or [`Error::Driver`].
    pub fn load(gpu: &Gpu, stream: &Arc<CudaStream>, entries: Entries) -> Result<Self, Error> {
        let bytes: Vec<u8> = entries.entries.iter().flat_map(|entry| entry.to_bytes()).collect();
        let mut memory = gpu.allocate::<u8>(stream, bytes.len(), "the adapters of a step")?;
        if !bytes.is_empty() {
            stream.memcpy_htod(&bytes, &mut memory).map_err(Error::driver("copying the adapters of a step"))?;
        }
        Ok(Table { entries, memory })
    }

    /// What was copied.
    pub fn entries(&self) -> &Entries {
        &self.entries
    }

    pub(super) fn address(&self, stream: &Arc<CudaStream>) -> u64 {
        self.memory.device_ptr(stream).0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(rows: std::ops::Range<u32>, rank: u32) -> Segment {
        Segment { rows, weights: 4096, rank, scale: 1.0 }
    }

    #[test]
    fn rows_without_an_adapter_have_an_entry_without_one() {
        let entries = Entries::by_row(&[segment(1..3, 5), segment(4..4, 16)], 5).expect("a valid batch");
        let rows: Vec<(u32, u32)> = entries.entries().iter().map(|entry| (entry.rows, entry.stride)).collect();
        assert_eq!(rows, [(0, 0), (1, 8), (1, 8), (0, 0), (0, 0)]);
        assert_eq!(entries.stride_max(), 8);
    }

    #[test]
    fn bad_batches_are_refused() {
        let misaligned = Segment { weights: 8, ..segment(0..1, 8) };
        for bad in [
            vec![segment(0..6, 8)],
            vec![segment(0..2, 8), segment(1..3, 8)],
            vec![segment(0..1, 300)],
            vec![misaligned],
            vec![Segment { scale: f32::NAN, ..segment(0..1, 8) }],
        ] {
            assert!(matches!(Entries::by_row(&bad, 5), Err(Error::Shape { .. })), "{bad:?}");
            assert!(matches!(Entries::by_adapter(&bad, 5, 256), Err(Error::Shape { .. })), "{bad:?}");
        }
        let padded = Entries::by_adapter(&[segment(0..1, 17)], 5, 16);
        assert!(matches!(padded, Err(Error::Shape { .. })), "17 ranks in 16");
    }
}
