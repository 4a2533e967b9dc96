//! Reads a trace of any format into the canonical table.

use std::path::Path;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cell::{Instant, TimeUnit};
use crate::error::{Place, Position, TraceError, nearest};
use crate::format::{Columns, Format};
use crate::input::Source;
use crate::rows::Reader;
use crate::table::{Interner, Table};

/// How is a file read where it leaves a choice?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadOptions {
    /// The unit of arrivals; none: what the format says, else seconds or dates as they look.
    pub arrival_unit: Option<TimeUnit>,
    /// Sort by arrival? None: only where the order of a format has no meaning, else an unsorted file is refused.
    pub sort: Option<bool>,
    /// What becomes of requests without a prompt or without output.
    pub failures: Failures,
}

/// What becomes of a request that a trace lists without a prompt or without output: in BurstGPT, a failed one?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Failures {
    /// It is left out and counted.
    #[default]
    Drop,
    /// It counts as a request of one token.
    Keep,
    /// The trace is refused.
    Refuse,
}

/// Reads a trace: CSV, JSONL or Parquet, plain or compressed with gzip or zstd.
///
/// Without a `format` the header decides; names in `columns` go before those of the format.
///
/// # Errors
/// Whatever is wrong with the file, with its place: see [`TraceError`].
pub fn read(
    path: &Path,
    format: Option<Format>,
    columns: &Columns,
    options: &ReadOptions,
) -> Result<Table, TraceError> {
    read_source(&Source::file(path), format, columns, options)
}

pub(crate) fn read_source(
    source: &Source<'_>,
    format: Option<Format>,
    columns: &Columns,
    options: &ReadOptions,
) -> Result<Table, TraceError> {
    let mut reader = Reader::new(&source.name, source.open()?)?;
    let format = format.or_else(|| Format::detect(reader.columns()));
    let layout = match format {
        Some(format) => columns.over(format.columns(reader.columns())),
        None if columns.input_tokens.is_some() && columns.output_tokens.is_some() => columns.clone(),
        None => {
            return Err(TraceError::UnknownFormat {
                place: Place::file(&reader.file),
                columns: reader.columns().to_vec(),
            });
        }
    };
    let unit = options.arrival_unit.or_else(|| match (format, &columns.arrival) {
        // A column that the user names is in the user's unit, not in that of a format that happens to fit.
        (Some(format), named) if named.is_none() || *named == format.columns(reader.columns()).arrival => {
            format.time_unit(layout.arrival.as_deref())
        }
        _ => None,
    });
    let positions = Positions::new(&reader, &layout)?;
    reader.keep(positions.all())?;
    let mut builder = Builder::new(unit, options);
    while reader.advance()? {
        builder.push(&reader, &positions)?;
    }
    let sort = options.sort.unwrap_or(format.is_some_and(Format::is_unordered));
    if let (false, Some((place, now, above))) = (sort, &builder.disorder) {
        let before = said_at(source, positions.arrival, *above)?.into();
        return Err(TraceError::Unsorted { place: place.clone(), now: now.as_str().into(), before, above: *above });
    }
    let mut table = builder.finish(&reader, format)?;
    let used: Vec<usize> = positions.all().collect();
    // The canonical table numbers its rows.
    let is_number = |name: &str| format == Some(Format::Aril) && name == "request";
    let ignored = reader.columns().iter().enumerate().filter(|(at, name)| !used.contains(at) && !is_number(name));
    table.ignored = ignored.map(|(_, name)| name.clone()).collect();
    Ok(table)
}

/// What does the file say in a column of the row at this position? It is read again: what rows say is not kept.
fn said_at(source: &Source<'_>, column: Option<usize>, position: Position) -> Result<String, TraceError> {
    let mut reader = Reader::new(&source.name, source.open()?)?;
    reader.keep(column)?;
    while reader.advance()? && reader.position() != position {}
    Ok(column.map_or_else(String::new, |column| reader.field(column).cell.said()))
}

/// Positions of the columns in the file.
struct Positions {
    arrival: Option<usize>,
    tenant: Option<usize>,
    adapter: Option<usize>,
    rank: Option<usize>,
    input_tokens: usize,
    output_tokens: usize,
    max_tokens: Option<usize>,
    prefix: Option<usize>,
}

impl Positions {
    fn new(reader: &Reader, layout: &Columns) -> Result<Positions, TraceError> {
        let find = |name: &Option<String>| name.as_ref().map(|name| required(reader, name)).transpose();
        let must = |name: &Option<String>, key: &str| match name {
            Some(name) => required(reader, name),
            None => required(reader, key),
        };
        Ok(Positions {
            arrival: find(&layout.arrival)?,
            tenant: find(&layout.tenant)?,
            adapter: find(&layout.adapter)?,
            rank: find(&layout.rank)?,
            input_tokens: must(&layout.input_tokens, "input_tokens")?,
            output_tokens: must(&layout.output_tokens, "output_tokens")?,
            max_tokens: find(&layout.max_tokens)?,
            prefix: find(&layout.prefix)?,
        })
    }

    fn all(&self) -> impl Iterator<Item = usize> {
        let named = [self.arrival, self.tenant, self.adapter, self.rank, self.max_tokens, self.prefix];
        named.into_iter().flatten().chain([self.input_tokens, self.output_tokens])
    }
}

pub(crate) fn required(reader: &Reader, name: &str) -> Result<usize, TraceError> {
    reader.find(name).ok_or_else(|| TraceError::MissingColumn {
        place: Place::file(&reader.file),
        column: name.to_owned(),
        columns: reader.columns().to_vec(),
        nearest: nearest(name, reader.columns().iter().map(String::as_str)).into(),
        advice: "Name the right one under `columns`, or set the right `format`".into(),
    })
}

/// A table in the making.
struct Builder {
    unit: Option<TimeUnit>,
    failures: Failures,
    instants: Vec<Instant>,
    /// Where the last arrival is.
    above: Option<Position>,
    /// The first row that arrives before the one above it: its place, what it says, and where that one is.
    disorder: Option<(Place, String, Position)>,
    table: Table,
    tenants: Interner,
    adapters: Interner,
    max_tokens: Vec<u32>,
    prefixes: Vec<Option<Arc<[u64]>>>,
    failed: u64,
}

impl Builder {
    fn new(unit: Option<TimeUnit>, options: &ReadOptions) -> Builder {
        Builder {
            unit,
            failures: options.failures,
            instants: Vec::new(),
            above: None,
            disorder: None,
            table: Table::default(),
            tenants: Interner::default(),
            adapters: Interner::default(),
            max_tokens: Vec::new(),
            prefixes: Vec::new(),
            failed: 0,
        }
    }

    fn push(&mut self, reader: &Reader, at: &Positions) -> Result<(), TraceError> {
        let input_field = reader.field(at.input_tokens);
        let output_field = reader.field(at.output_tokens);
        let mut input = input_field.count("a prompt length in tokens")?;
        let mut output = output_field.count("an output length in tokens")?;
        if input == 0 || output == 0 {
            match self.failures {
                Failures::Drop => {
                    self.failed += 1;
                    return Ok(());
                }
                Failures::Keep => {
                    input = input.max(1);
                    output = output.max(1);
                }
                Failures::Refuse => {
                    let field = if input == 0 { &input_field } else { &output_field };
                    return Err(field.wrong("at least 1 token", "drop such requests with `failures = \"drop\"`"));
                }
            }
        }
        if let Some(column) = at.max_tokens {
            let field = reader.field(column);
            let cap = if field.is_missing() { u32::MAX } else { field.count("a cap on output tokens")? };
            if cap < output {
                return Err(field.wrong(
                    format!("at least the {output} tokens of the output"),
                    "correct the row, or read the trace without its column `max_tokens`",
                ));
            }
            self.max_tokens.push(cap);
        }
        if let Some(column) = at.arrival {
            let field = reader.field(column);
            let instant = field.instant(self.unit)?;
            let above = self.above.replace(reader.position());
            if self.disorder.is_none() && self.instants.last().is_some_and(|before| before.ps > instant.ps) {
                self.disorder = above.map(|above| (reader.place(), field.cell.said(), above));
            }
            self.instants.push(instant);
        }
        if let Some(column) = at.tenant {
            self.tenants.push(reader.field(column).name()?.as_deref());
        }
        if let Some(column) = at.adapter {
            let position = self.adapters.push(reader.field(column).name()?.as_deref());
            self.push_rank(reader, at, position)?;
        }
        if let Some(column) = at.prefix {
            self.prefixes.push(reader.field(column).hashes()?.map(Arc::from));
        }
        self.table.input_tokens.push(input);
        self.table.output_tokens.push(output);
        Ok(())
    }

    /// An adapter has one rank: a second one is an error.
    fn push_rank(&mut self, reader: &Reader, at: &Positions, position: u32) -> Result<(), TraceError> {
        let Some(column) = at.rank.filter(|_| position != crate::table::Names::NONE) else { return Ok(()) };
        let field = reader.field(column);
        let rank = if field.is_missing() { 0 } else { field.count("a rank")? };
        let position = position as usize;
        if position == self.table.ranks.len() {
            self.table.ranks.push(rank);
        } else if self.table.ranks[position] != rank {
            return Err(field.wrong(
                format!("the rank {} that this adapter has above", self.table.ranks[position]),
                "give an adapter of another rank another name",
            ));
        }
        Ok(())
    }

    fn finish(mut self, reader: &Reader, format: Option<Format>) -> Result<Table, TraceError> {
        let place = Place::file(&reader.file);
        if self.table.is_empty() {
            let detail = match self.failed {
                0 => "; there is only a header".to_owned(),
                n => format!("; all {n} rows are without prompt or output: `failures = \"keep\"` reads them"),
            };
            return Err(TraceError::Empty { place, detail });
        }
        if self.failed > 0 {
            self.table
                .notes
                .push(format!("{} requests without prompt or output (failures) were left out", self.failed));
        }
        let (tenants, adapters) = (self.tenants.finish(), self.adapters.finish());
        self.table.tenants = (!tenants.rows.is_empty()).then_some(tenants);
        self.table.adapters = (!adapters.rows.is_empty()).then_some(adapters);
        self.table.max_tokens = (!self.max_tokens.is_empty()).then_some(self.max_tokens);
        self.table.prefixes = (!self.prefixes.is_empty()).then_some(self.prefixes);
        if self.instants.is_empty() {
            return Ok(self.table);
        }
        // Vidur's seconds are counted from the start of its run, and so are its results.
        let exact = matches!(format, Some(Format::Aril | Format::Vidur)) && !self.instants[0].is_date;
        set_arrivals(&mut self.table, &self.instants, exact, &place)?;
        if self.disorder.is_some() {
            self.table.notes.push("the rows were sorted by arrival".into());
            return Ok(self.table.sorted());
        }
        Ok(self.table)
    }
}

/// Counts arrivals from the first one; canonical tables are already counted and stay as they are.
fn set_arrivals(table: &mut Table, instants: &[Instant], exact: bool, place: &Place) -> Result<(), TraceError> {
    let first = instants.iter().min_by_key(|instant| instant.ps).copied().unwrap_or(Instant { ps: 0, is_date: false });
    let zero = if exact && first.ps >= 0 { 0 } else { first.ps };
    let arrivals: Option<Vec<u64>> = instants.iter().map(|instant| u64::try_from(instant.ps - zero).ok()).collect();
    table.arrivals_ps = Some(arrivals.ok_or_else(|| TraceError::Malformed {
        place: place.clone(),
        problem: "its arrivals span more than 213 days".into(),
        advice: "cut the file, or correct `arrival_unit`".into(),
    })?);
    table.origin_unix_ps = first.is_date.then_some(zero);
    Ok(())
}
