//! The canonical table: what every importer produces and every replay consumes.

use std::collections::HashMap;
use std::sync::Arc;

/// Requests of a trace in order of arrival, by column.
///
/// All columns that are there have the same length.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    /// Arrival of each request, ps from the start of the trace; none if the trace has lengths alone.
    pub arrivals_ps: Option<Vec<u64>>,
    /// The start of the trace, ps since the Unix epoch, where its times are dates.
    pub origin_unix_ps: Option<i128>,
    /// Prompt lengths, tokens, at least 1.
    pub input_tokens: Vec<u32>,
    /// True output lengths, tokens, at least 1.
    pub output_tokens: Vec<u32>,
    /// The clients' caps on output tokens, where the trace has them.
    pub max_tokens: Option<Vec<u32>>,
    /// Who asked, where the trace says so.
    pub tenants: Option<Names>,
    /// Which adapter, where the trace says so.
    pub adapters: Option<Names>,
    /// Rank of each adapter of `adapters`, by its position there; 0: the trace does not say.
    pub ranks: Vec<u32>,
    /// Hashes of the prompt's blocks, where the trace has them.
    pub prefixes: Option<Vec<Option<Arc<[u64]>>>>,
    /// What the importer left out, assumed or repaired, in sentences for the report.
    pub notes: Vec<String>,
    /// Columns of the file that nothing was read from.
    pub ignored: Vec<String>,
}

/// A column of names, each stored once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Names {
    /// The distinct names in order of first appearance.
    pub names: Vec<String>,
    /// For each row the position of its name; [`Names::NONE`] where nothing stands.
    pub rows: Vec<u32>,
}

impl Names {
    /// No name in this row.
    pub const NONE: u32 = u32::MAX;

    /// The position of the name in `row`.
    pub fn get(&self, row: usize) -> Option<u32> {
        Some(self.rows[row]).filter(|position| *position != Names::NONE)
    }

    /// The name in `row`.
    pub fn name(&self, row: usize) -> Option<&str> {
        self.get(row).map(|position| self.names[position as usize].as_str())
    }

    fn select(&self, rows: &[usize]) -> Names {
        Names { names: self.names.clone(), rows: rows.iter().map(|row| self.rows[*row]).collect() }
    }
}

/// Gathers a column of names.
#[derive(Debug, Default)]
pub(crate) struct Interner {
    names: Names,
    positions: HashMap<String, u32>,
}

impl Interner {
    /// Appends a row; returns the position of its name.
    pub(crate) fn push(&mut self, name: Option<&str>) -> u32 {
        let position = match name {
            None => Names::NONE,
            Some(name) => match self.positions.get(name) {
                Some(position) => *position,
                None => {
                    let position = self.names.names.len() as u32;
                    self.names.names.push(name.to_owned());
                    self.positions.insert(name.to_owned(), position);
                    position
                }
            },
        };
        self.names.rows.push(position);
        position
    }

    pub(crate) fn finish(self) -> Names {
        self.names
    }
}

impl Table {
    /// The number of requests.
    pub fn len(&self) -> usize {
        self.input_tokens.len()
    }

    /// Are there none?
    pub fn is_empty(&self) -> bool {
        self.input_tokens.is_empty()
    }

    /// The arrival of the last request, ps from the start; 0 where there are no arrivals.
    pub fn span_ps(&self) -> u64 {
        self.arrivals_ps.as_ref().and_then(|arrivals| arrivals.last().copied()).unwrap_or(0)
    }

    /// These rows of it, in this order.
    pub(crate) fn select(&self, rows: &[usize]) -> Table {
        let pick = |column: &Vec<u32>| rows.iter().map(|row| column[*row]).collect::<Vec<u32>>();
        Table {
            arrivals_ps: self.arrivals_ps.as_ref().map(|column| rows.iter().map(|row| column[*row]).collect()),
            origin_unix_ps: self.origin_unix_ps,
            input_tokens: pick(&self.input_tokens),
            output_tokens: pick(&self.output_tokens),
            max_tokens: self.max_tokens.as_ref().map(pick),
            tenants: self.tenants.as_ref().map(|names| names.select(rows)),
            adapters: self.adapters.as_ref().map(|names| names.select(rows)),
            ranks: self.ranks.clone(),
            prefixes: self.prefixes.as_ref().map(|column| rows.iter().map(|row| column[*row].clone()).collect()),
            notes: self.notes.clone(),
            ignored: self.ignored.clone(),
        }
    }

    /// The same requests sorted by arrival, equal ones in the order they had.
    pub(crate) fn sorted(&self) -> Table {
        let Some(arrivals) = &self.arrivals_ps else { return self.clone() };
        let mut rows: Vec<usize> = (0..self.len()).collect();
        rows.sort_by_key(|row| arrivals[*row]);
        self.select(&rows)
    }
}
