//! Which rows have a value, and truth values: a bit a row.

use std::io;

use polars_parquet::write::{CompressedPage, Encoding};

use super::cell::{Cell, Column};
use super::integers::varint;
use super::page::{Page, PageWriter, statistics};

/// Bits of a row group under construction.
#[derive(Default)]
pub(crate) struct Validity {
    bytes: Vec<u8>,
    rows: usize,
    set: usize,
}

impl Validity {
    /// Takes in the lowest `rows` bits, at most 128. After fewer than 128 nothing follows but [`Validity::clear`].
    pub(super) fn append(&mut self, bits: u128, rows: usize) {
        self.bytes.extend_from_slice(&bits.to_le_bytes()[..rows.div_ceil(8)]);
        self.rows += rows;
        self.set += bits.count_ones() as usize;
    }

    pub(super) fn clear(&mut self) {
        *self = Validity { bytes: std::mem::take(&mut self.bytes), ..Validity::default() };
        self.bytes.clear();
    }

    /// Rows whose bit is not set.
    pub(super) fn nulls(&self) -> usize {
        self.rows - self.set
    }

    /// As Parquet's levels of width one: one run where all are equal, the bits themselves otherwise.
    pub(super) fn levels(&self, out: &mut Vec<u8>) {
        if self.set == 0 || self.set == self.rows {
            return all_equal(self.rows, self.set > 0, out);
        }
        varint(out, (self.bytes.len() as u64) << 1 | 1);
        out.extend_from_slice(&self.bytes);
    }
}

/// `rows` levels that are all the same.
pub(super) fn all_equal(rows: usize, level: bool, out: &mut Vec<u8>) {
    varint(out, (rows as u64) << 1);
    out.push(u8::from(level));
}

/// Which of up to 128 rows have a cell, the first in the lowest bit, and how many rows are there? `each` takes what they have, in order.
pub(super) fn which<T>(mut cells: impl Iterator<Item = Option<T>>, mut each: impl FnMut(Option<T>)) -> (u128, usize) {
    let (mut words, mut rows) = ([0u64; 2], 0);
    for word in &mut words {
        // Half of them at a time: a processor has no word of 128 bits.
        let mut bits = 0;
        for (row, cell) in cells.by_ref().take(64).enumerate() {
            bits |= u64::from(cell.is_some()) << row;
            rows += 1;
            each(cell);
        }
        *word = bits;
    }
    (u128::from(words[0]) | u128::from(words[1]) << 64, rows)
}

/// Rows whose cells are looked at together.
pub(super) const TOGETHER: usize = 128;

/// Numbers of up to [`TOGETHER`] rows side by side, those of rows without one `none`, and how many rows there are.
pub(super) fn side_by_side<T: Copy>(cells: impl Iterator<Item = T>, none: T) -> ([T; TOGETHER], usize) {
    let (mut numbers, mut rows) = ([none; TOGETHER], 0);
    for (place, cell) in numbers.iter_mut().zip(cells) {
        *place = cell;
        rows += 1;
    }
    (numbers, rows)
}

/// Which rows have a number, the first in the lowest bit? Eight are compared at once.
pub(super) fn present<T: Copy + PartialEq>(numbers: &[T; TOGETHER], none: T) -> u128 {
    let (chunks, _) = numbers.as_chunks::<8>();
    let bits = |chunk: &[T; 8]| (0..8).fold(0, |bits, row| bits | u8::from(chunk[row] != none) << row);
    u128::from_le_bytes(std::array::from_fn(|byte| bits(&chunks[byte])))
}

/// Gives the numbers of these rows, in order.
pub(super) fn each_present<T: Copy>(numbers: &[T; TOGETHER], which: u128, mut each: impl FnMut(T)) {
    let (halves, _) = numbers.as_chunks::<64>();
    for (half, word) in halves.iter().zip([which as u64, (which >> 64) as u64]) {
        let mut left = word;
        while left != 0 {
            each(half[left.trailing_zeros() as usize]);
            left &= left - 1;
        }
    }
}

/// Truth values of a row group under construction; nulls have none.
#[derive(Default)]
pub(crate) struct Truths {
    validity: Validity,
    bytes: Vec<u8>,
    /// Bits that do not fill a byte yet.
    rest: u8,
    len: usize,
    set: usize,
}

impl Truths {
    /// Takes in up to 128 rows.
    fn append(&mut self, cells: impl Iterator<Item = Option<bool>>) {
        let Truths { validity, bytes, rest, len, set } = self;
        let (valid, rows) = which(cells, |cell| {
            let Some(truth) = cell else { return };
            *rest |= u8::from(truth) << (*len % 8);
            *set += usize::from(truth);
            *len += 1;
            if len.is_multiple_of(8) {
                bytes.push(std::mem::take(rest));
            }
        });
        validity.append(valid, rows);
    }
}

impl Column for Truths {
    fn pages(&mut self, rows: usize, writer: &mut PageWriter<'_>) -> io::Result<Vec<CompressedPage>> {
        let mut page = Page::of(rows, Some(&self.validity));
        page.bytes.extend_from_slice(&self.bytes);
        if !self.len.is_multiple_of(8) {
            page.bytes.push(self.rest);
        }
        let ends = (self.len > 0).then(|| (vec![u8::from(self.set == self.len)], vec![u8::from(self.set > 0)]));
        let statistics = statistics(ends, self.validity.nulls());
        *self = Truths::default();
        page.finish(writer, Encoding::Plain, statistics)
    }
}

impl Cell for bool {
    type Column = Truths;
    const TYPE: polars::prelude::DataType = polars::prelude::DataType::Boolean;

    fn append(column: &mut Truths, cells: impl Iterator<Item = bool>) {
        column.append(cells.map(Some));
    }
}

impl Cell for Option<bool> {
    type Column = Truths;
    const TYPE: polars::prelude::DataType = polars::prelude::DataType::Boolean;

    fn append(column: &mut Truths, cells: impl Iterator<Item = Option<bool>>) {
        column.append(cells);
    }
}
