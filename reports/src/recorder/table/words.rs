//! Columns of names: a dictionary of those that occur in the row group, and positions in it, so that no text is looked at row by row.

use std::io;

use aril_sim::workload::Catalog;
use polars::prelude::DataType;
use polars_parquet::write::{CompressedPage, Encoding};

use super::cell::{Cell, Column};
use super::integers::{pack_bits, varint};
use super::page::{Page, PageWriter, statistics};
use super::validity::{Validity, all_equal, each_present, present, side_by_side};
use super::word::Word;

/// Not in the dictionary.
const ABSENT: u32 = u32::MAX;

/// Which tenant's name; one that the catalog does not have is null.
#[derive(Clone, Copy)]
pub(crate) struct TenantName(pub(crate) u32);

/// Which adapter's name; [`u32::MAX`], like every one that the catalog does not have, is null.
#[derive(Clone, Copy)]
pub(crate) struct AdapterName(pub(crate) u32);

/// Positions in a dictionary, of those rows that have one.
#[derive(Default)]
struct Positions {
    validity: Validity,
    positions: Vec<u32>,
}

impl Positions {
    /// Takes in up to 128 rows; [`ABSENT`]: one without.
    fn append(&mut self, cells: impl Iterator<Item = u32>) {
        let (positions, rows) = side_by_side(cells, ABSENT);
        let which = present(&positions, ABSENT);
        if which == u128::MAX {
            self.positions.extend_from_slice(&positions);
        } else {
            self.positions.reserve(rows);
            each_present(&positions, which, |position| self.positions.push(position));
        }
        self.validity.append(which, rows);
    }

    /// The pages of a column with this dictionary.
    fn pages(
        &mut self,
        rows: usize,
        dictionary: &[&str],
        writer: &mut PageWriter<'_>,
    ) -> io::Result<Vec<CompressedPage>> {
        let mut page = Page::of(rows, Some(&self.validity));
        let largest = dictionary.len().saturating_sub(1) as u64;
        let width = (64 - largest.leading_zeros()).max(1);
        page.bytes.push(width as u8);
        match dictionary {
            [_] if width == 1 => all_equal(self.positions.len(), false, &mut page.bytes),
            _ => {
                let groups = self.positions.len().div_ceil(32);
                varint(&mut page.bytes, (groups as u64 * 4) << 1 | 1);
                for positions in self.positions.chunks(32) {
                    let mut group = [0; 32];
                    group.iter_mut().zip(positions).for_each(|(place, position)| *place = u64::from(*position));
                    pack_bits(&group, width, &mut page.bytes);
                }
            }
        }
        let bytes = |name: Option<&&str>| name.map(|name| name.as_bytes().to_vec());
        let ends = bytes(dictionary.iter().min()).zip(bytes(dictionary.iter().max()));
        let statistics = statistics(ends, self.validity.nulls());
        self.validity.clear();
        self.positions.clear();
        let mut texts = Vec::new();
        for name in dictionary {
            texts.extend_from_slice(&(name.len() as u32).to_le_bytes());
            texts.extend_from_slice(name.as_bytes());
        }
        page.with_dictionary(texts, dictionary.len()).finish(writer, Encoding::RleDictionary, statistics)
    }
}

/// A few names, known when the program is built.
pub(crate) struct Words {
    positions: Positions,
    dictionary: Vec<&'static str>,
    /// The position of each word in the dictionary, or [`ABSENT`].
    position_of: [u32; Word::COUNT],
}

impl Default for Words {
    fn default() -> Words {
        Words { positions: Positions::default(), dictionary: Vec::new(), position_of: [ABSENT; Word::COUNT] }
    }
}

impl Words {
    fn append(&mut self, cells: impl Iterator<Item = Option<Word>>) {
        let Words { positions, dictionary, position_of } = self;
        let mut position = |word: Word| {
            let position = &mut position_of[word as usize];
            if *position == ABSENT {
                *position = dictionary.len() as u32;
                dictionary.push(word.text());
            }
            *position
        };
        positions.append(cells.map(|cell| cell.map_or(ABSENT, &mut position)));
    }
}

impl Column for Words {
    fn pages(&mut self, rows: usize, writer: &mut PageWriter<'_>) -> io::Result<Vec<CompressedPage>> {
        let dictionary = std::mem::take(&mut self.dictionary);
        self.position_of = [ABSENT; Word::COUNT];
        self.positions.pages(rows, &dictionary, writer)
    }
}

impl Cell for Word {
    type Column = Words;
    const TYPE: DataType = DataType::String;

    fn append(column: &mut Words, cells: impl Iterator<Item = Word>) {
        column.append(cells.map(Some));
    }
}

impl Cell for Option<Word> {
    type Column = Words;
    const TYPE: DataType = DataType::String;

    fn append(column: &mut Words, cells: impl Iterator<Item = Option<Word>>) {
        column.append(cells);
    }
}

/// Names of the catalog, by id. `TENANTS`: tenants, or else adapters.
///
/// Ids are kept until a row group is full and looked up all at once, while the table of positions is near: between two steps of a run
/// it never is.
#[derive(Default)]
pub(crate) struct Ids<const TENANTS: bool> {
    /// Ids at first.
    positions: Positions,
    /// The position of each id in the dictionary, or [`ABSENT`].
    position_of: Vec<u32>,
}

impl<const TENANTS: bool> Ids<TENANTS> {
    fn append(&mut self, cells: impl Iterator<Item = u32>) {
        let known = self.position_of.len();
        self.positions.append(cells.map(|id| if (id as usize) < known { id } else { ABSENT }));
    }
}

impl<const TENANTS: bool> Column for Ids<TENANTS> {
    fn prepare(&mut self, catalog: &Catalog) {
        let known = if TENANTS { catalog.tenants.len() } else { catalog.adapters.len() };
        self.position_of = vec![ABSENT; known];
    }

    fn pages(&mut self, rows: usize, writer: &mut PageWriter<'_>) -> io::Result<Vec<CompressedPage>> {
        let Ids { positions, position_of } = self;
        positions.positions.iter().for_each(|id| position_of[*id as usize] = 0);
        let catalog = writer.catalog;
        let name = |id: usize| match TENANTS {
            true => catalog.tenants[id].name.as_str(),
            false => catalog.adapters[id].name.as_str(),
        };
        // In the order of the catalog: its names are read one after the other, and names that are alike lie side by side.
        let mut dictionary = Vec::new();
        for (id, position) in position_of.iter_mut().enumerate().filter(|(_, position)| **position != ABSENT) {
            *position = dictionary.len() as u32;
            dictionary.push(name(id));
        }
        positions.positions.iter_mut().for_each(|place| *place = position_of[*place as usize]);
        position_of.fill(ABSENT);
        positions.pages(rows, &dictionary, writer)
    }
}

impl Cell for TenantName {
    type Column = Ids<true>;
    const TYPE: DataType = DataType::String;

    fn append(column: &mut Ids<true>, cells: impl Iterator<Item = TenantName>) {
        column.append(cells.map(|tenant| tenant.0));
    }
}

impl Cell for AdapterName {
    type Column = Ids<false>;
    const TYPE: DataType = DataType::String;

    fn append(column: &mut Ids<false>, cells: impl Iterator<Item = AdapterName>) {
        column.append(cells.map(|adapter| adapter.0));
    }
}
