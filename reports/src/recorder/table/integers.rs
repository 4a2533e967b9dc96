//! Columns of whole numbers, packed while rows come in: Parquet's DELTA_BINARY_PACKED encoding.
//!
//! A header with the first value, then blocks of 128 differences to the value before, less the least of them, in four groups of 32
//! that have as many bits each as their largest needs. Times that follow each other, small counts and constants shrink to what they
//! tell, at about two nanoseconds a value.

use std::io;
use std::ops::{BitOr, BitXor};

use aril_sim::workload::Catalog;
use polars::prelude::DataType;
use polars_parquet::parquet::statistics::ParquetStatistics;
use polars_parquet::write::{CompressedPage, Encoding};

use super::cell::{Cell, Column};
use super::page::{Page, PageWriter, statistics};
use super::validity::{TOGETHER, Validity, each_present, present, side_by_side, which};

/// Differences of a block.
pub(super) const BLOCK: usize = TOGETHER;
/// Differences that share a width.
const GROUP: usize = 32;

/// A whole number as Parquet stores it. What many of them take is done in their own width: that is how many a processor does at once.
pub(crate) trait Integer:
    Copy + Default + Ord + BitOr<Output = Self> + BitXor<Output = Self> + Into<u64>
{
    /// The largest one.
    const LARGEST: Self;

    /// Little-endian bytes, for statistics.
    fn bytes(self) -> Vec<u8>;
    /// As the signed number of the same width that Parquet stores.
    fn signed(self) -> i64;
    /// The difference, in the arithmetic of the width.
    fn since(self, before: Self) -> Self;
    /// The lesser one as signed numbers.
    fn lesser(self, other: Self) -> Self;
}

macro_rules! integer {
    ($($unsigned:ty, $signed:ty);+ $(;)?) => {
        $(impl Integer for $unsigned {
            const LARGEST: $unsigned = <$unsigned>::MAX;

            fn bytes(self) -> Vec<u8> {
                self.to_le_bytes().to_vec()
            }

            fn signed(self) -> i64 {
                i64::from(self as $signed)
            }

            fn since(self, before: $unsigned) -> $unsigned {
                self.wrapping_sub(before)
            }

            fn lesser(self, other: $unsigned) -> $unsigned {
                (self as $signed).min(other as $signed) as $unsigned
            }
        })+
    };
}

integer!(u32, i32; u64, i64);

/// Numbers of a row group under construction; nulls have no number.
pub(crate) struct Integers<T> {
    /// The last number of the block before, then the numbers of this block. There is room for one block more than fits.
    pending: [T; 2 * BLOCK + 1],
    len: usize,
    first: T,
    least: T,
    largest: T,
    count: usize,
    blocks: Vec<u8>,
}

impl<T: Integer> Default for Integers<T> {
    fn default() -> Self {
        Integers {
            pending: [T::default(); 2 * BLOCK + 1],
            len: 0,
            first: T::default(),
            least: T::default(),
            largest: T::default(),
            count: 0,
            blocks: Vec::new(),
        }
    }
}

impl<T: Integer> Integers<T> {
    /// Takes in up to 128 rows; gives which of them have a number, the first in the lowest bit, and how many they are.
    fn append(&mut self, cells: impl Iterator<Item = Option<T>>) -> (u128, usize) {
        let mut len = self.len;
        let which = which(cells, |cell| {
            self.pending[len] = cell.unwrap_or_default();
            len += usize::from(cell.is_some());
        });
        self.appended(len);
        which
    }

    /// Takes in the numbers of these rows of 128.
    fn append_present(&mut self, numbers: &[T; BLOCK], which: u128) {
        let mut len = self.len;
        if which == u128::MAX {
            self.pending[len..len + BLOCK].copy_from_slice(numbers);
            len += BLOCK;
        } else {
            each_present(numbers, which, |number| {
                self.pending[len] = number;
                len += 1;
            });
        }
        self.appended(len);
    }

    /// Takes in up to 128 numbers.
    fn append_all(&mut self, cells: impl Iterator<Item = T>) {
        let mut len = self.len;
        for (place, cell) in self.pending[len..].iter_mut().zip(cells.take(BLOCK)) {
            *place = cell;
            len += 1;
        }
        self.appended(len);
    }

    fn appended(&mut self, len: usize) {
        if self.count == 0 && len > 0 {
            (self.first, self.least, self.largest) = (self.pending[0], self.pending[0], self.pending[0]);
        }
        self.count += len - self.len;
        self.len = len;
        if self.len > BLOCK {
            self.pack(BLOCK);
            self.pending.copy_within(BLOCK..self.len, 0);
            self.len -= BLOCK;
        }
    }

    /// Writes a block of the first `len` differences.
    fn pack(&mut self, len: usize) {
        let values: &[T; BLOCK + 1] = self.pending.first_chunk().expect("a block fits");
        let (before, values) = (values[0], &values[1..=len]);
        let changes = values.iter().fold(T::default(), |all, value| all | (*value ^ before));
        if changes == T::default() {
            // What never changes is most of what a table holds: no least difference, no widths.
            (self.least, self.largest) = (self.least.min(before), self.largest.max(before));
            return self.blocks.extend([0; 1 + BLOCK / GROUP]);
        }
        let mut differences = [T::default(); BLOCK];
        for (difference, pair) in differences.iter_mut().zip(self.pending.windows(2)).take(len) {
            *difference = pair[1].since(pair[0]);
        }
        self.least = values.iter().fold(self.least, |least, value| least.min(*value));
        self.largest = values.iter().fold(self.largest, |largest, value| largest.max(*value));
        let differences = &mut differences[..len];
        let least = differences.iter().fold(differences[0], |least, difference| least.lesser(*difference));
        let mut above = [0u64; BLOCK];
        for (above, difference) in above.iter_mut().zip(differences) {
            *above = difference.since(least).into();
        }
        varint(&mut self.blocks, zigzag(least.signed()));
        let (groups, _) = above.as_chunks::<GROUP>();
        let widths: [u32; BLOCK / GROUP] =
            std::array::from_fn(|group| 64 - groups[group].iter().fold(0, |all, value| all | value).leading_zeros());
        self.blocks.extend(widths.map(|width| width as u8));
        for (group, width) in groups.iter().zip(widths) {
            pack_bits(group, width, &mut self.blocks);
        }
    }

    /// The page's values, and the least and the largest of them; none if there are none. Ready for the next row group afterwards.
    fn finish(&mut self, page: &mut Vec<u8>) -> Option<(T, T)> {
        if self.len > 1 {
            self.pack(self.len - 1);
        }
        if self.count > 0 {
            varint(page, BLOCK as u64);
            varint(page, (BLOCK / GROUP) as u64);
            varint(page, self.count as u64);
            varint(page, zigzag(self.first.signed()));
            page.extend_from_slice(&self.blocks);
        }
        let ends = (self.count > 0).then_some((self.least, self.largest));
        (self.len, self.count) = (0, 0);
        self.blocks.clear();
        ends
    }
}

impl<T: Integer> Column for Integers<T> {
    fn pages(&mut self, rows: usize, writer: &mut PageWriter<'_>) -> io::Result<Vec<CompressedPage>> {
        let mut page = Page::of(rows, None);
        let ends = self.finish(&mut page.bytes);
        page.finish(writer, Encoding::DeltaBinaryPacked, numbers(ends, 0))
    }
}

/// Numbers that may be missing.
#[derive(Default)]
pub(crate) struct Sparse<T: Integer> {
    values: Integers<T>,
    validity: Validity,
}

impl<T: Integer> Column for Sparse<T> {
    fn pages(&mut self, rows: usize, writer: &mut PageWriter<'_>) -> io::Result<Vec<CompressedPage>> {
        let mut page = Page::of(rows, Some(&self.validity));
        let nulls = self.validity.nulls();
        self.validity.clear();
        let ends = self.values.finish(&mut page.bytes);
        // A page of nulls alone has no first value to begin with.
        let encoding = if ends.is_some() { Encoding::DeltaBinaryPacked } else { Encoding::Plain };
        page.finish(writer, encoding, numbers(ends, nulls))
    }
}

/// A number in no more memory than that, or none: the largest stands for it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct OrNone<T>(pub(crate) T);

impl<T: Integer> OrNone<T> {
    /// No number.
    pub(crate) const NONE: OrNone<T> = OrNone(T::LARGEST);
}

/// Which adapter's rank; null like its name.
#[derive(Clone, Copy)]
pub(crate) struct AdapterRank(pub(crate) u32);

/// Ranks of adapters. They are looked up for many rows at once: one at a time, each would wait for memory that is far away.
#[derive(Default)]
pub(crate) struct Ranks {
    of: Vec<u32>,
    cells: Sparse<u32>,
}

impl Column for Ranks {
    fn prepare(&mut self, catalog: &Catalog) {
        self.of = catalog.adapters.iter().map(|adapter| adapter.rank).collect();
    }

    fn pages(&mut self, rows: usize, writer: &mut PageWriter<'_>) -> io::Result<Vec<CompressedPage>> {
        self.cells.pages(rows, writer)
    }
}

impl Cell for AdapterRank {
    type Column = Ranks;
    const TYPE: DataType = DataType::UInt32;

    fn append(column: &mut Ranks, cells: impl Iterator<Item = AdapterRank>) {
        let Ranks { of, cells: ranks } = column;
        Cell::append(ranks, cells.map(|adapter| of.get(adapter.0 as usize).copied()));
    }
}

fn numbers<T: Integer>(ends: Option<(T, T)>, nulls: usize) -> ParquetStatistics {
    statistics(ends.map(|(least, largest)| (least.bytes(), largest.bytes())), nulls)
}

macro_rules! numbers {
    ($($kind:ty, $type:ident);+ $(;)?) => {
        $(impl Cell for $kind {
            type Column = Integers<$kind>;
            const TYPE: DataType = DataType::$type;

            fn append(column: &mut Integers<$kind>, cells: impl Iterator<Item = $kind>) {
                column.append_all(cells);
            }
        }

        impl Cell for Option<$kind> {
            type Column = Sparse<$kind>;
            const TYPE: DataType = DataType::$type;

            fn append(column: &mut Sparse<$kind>, cells: impl Iterator<Item = Option<$kind>>) {
                let (valid, rows) = column.values.append(cells);
                column.validity.append(valid, rows);
            }
        }

        impl Cell for OrNone<$kind> {
            type Column = Sparse<$kind>;
            const TYPE: DataType = DataType::$type;

            fn append(column: &mut Sparse<$kind>, cells: impl Iterator<Item = OrNone<$kind>>) {
                let (numbers, rows) = side_by_side(cells.map(|cell| cell.0), <$kind>::LARGEST);
                let which = present(&numbers, <$kind>::LARGEST);
                column.values.append_present(&numbers, which);
                column.validity.append(which, rows);
            }
        })+
    };
}

numbers!(u32, UInt32; u64, UInt64);

/// Appends 32 numbers of `width` bits each, lowest bits first.
pub(super) fn pack_bits(values: &[u64; GROUP], width: u32, out: &mut Vec<u8>) {
    if width == 0 {
        return;
    }
    let mut values = *values;
    let (mut count, mut joined) = (GROUP, width);
    while joined <= 32 && count > 1 {
        // Two narrow numbers are one of twice the width.
        count /= 2;
        for pair in 0..count {
            values[pair] = values[2 * pair] | values[2 * pair + 1] << joined;
        }
        joined *= 2;
    }
    let (mut bits, mut filled) = (0u64, 0u32);
    let mut words = [0u64; GROUP];
    let mut at = 0;
    for &value in &values[..count] {
        bits |= value << filled;
        filled += joined;
        if filled >= 64 {
            words[at] = bits;
            at += 1;
            filled -= 64;
            // What did not fit into the word that is full.
            bits = if filled == 0 { 0 } else { value >> (joined - filled) };
        }
    }
    words[at.min(GROUP - 1)] |= bits;
    let bytes = words.map(u64::to_le_bytes);
    out.extend_from_slice(&bytes.as_flattened()[..4 * width as usize]);
}

/// Seven bits a byte, lowest first.
pub(super) fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Small numbers of either sign become small numbers.
fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}
