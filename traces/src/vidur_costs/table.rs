//! One table of predictions: read, put in order and found whole. What is wrong with it is told with its line.

use std::path::{Path, PathBuf};

use aril_sim::profile::vidur::{MS_MAX, Steps};

use crate::error::{Place, Position, TraceError};
use crate::input::Source;
use crate::rows::Reader;

/// The column of the predictions, milliseconds a layer.
const PREDICTION: &str = "prediction";

/// What to do about a table that is not as Vidur writes it.
const WRITE_AGAIN: &str = "write the table again";

/// What a table is by: a column with `first`, `first + step` and so on.
#[derive(Clone, Copy)]
pub(super) struct Argument {
    pub(super) column: &'static str,
    /// Rows below it say nothing of a step, and are left out.
    pub(super) first: u32,
    pub(super) step: u32,
    /// Does the file have the square of each?
    pub(super) squared: bool,
}

impl Argument {
    /// The `i`-th, from 0.
    fn nth(&self, i: usize) -> u32 {
        self.first + i as u32 * self.step
    }

    /// The `i`-th, as the file has it.
    fn written(&self, i: usize) -> u64 {
        let nth = u64::from(self.nth(i));
        if self.squared { nth * nth } else { nth }
    }

    /// Is this the `i`-th? If not, rows are missing before it, or it is there twice.
    fn check(&self, i: usize, found: u64) -> Result<(), String> {
        let expected = self.written(i);
        if found == expected {
            return Ok(());
        }
        let hole = "the table has a hole, a double, or another step";
        Err(format!("where {} should be {expected} it is {found}: {hole}", self.column))
    }
}

/// A row where it is; the arguments as the file has them, the last one last: a table by one argument has zero before it.
struct Row {
    position: Position,
    arguments: [u64; 2],
    ms: f64,
}

/// A whole table.
pub(super) struct Table {
    file: PathBuf,
    /// What it says by the last argument, for each value of the one before.
    pub(super) steps: Vec<Steps>,
    /// Of its last row.
    end: Position,
}

impl Table {
    /// The table of `name` by one argument or two.
    pub(super) fn read(file: &Path, name: &str, arguments: &[Argument]) -> Result<Table, TraceError> {
        let mut rows = rows(file, name, arguments)?;
        rows.sort_by_key(|row| row.arguments);
        let groups: Vec<&[Row]> = rows.chunk_by(|a, b| a.arguments[0] == b.arguments[0]).collect();
        let wrong = |row: &Row, problem: String| malformed(file, Some(row.position), problem);
        let (last, before) = arguments.split_last().expect("a table has an argument");
        for (i, group) in groups.iter().enumerate() {
            if let Some(outer) = before.first() {
                outer.check(i, group[0].arguments[0]).map_err(|problem| wrong(&group[0], problem))?;
            }
            for (i, row) in group.iter().enumerate() {
                last.check(i, row.arguments[1]).map_err(|problem| wrong(row, problem))?;
            }
            if group.len() != groups[0].len() {
                let end = |group: &[Row]| format!("where {} is {}", last.column, last.written(group.len() - 1));
                let problem =
                    format!("it ends {}, but for the first {} {}", end(group), before[0].column, end(groups[0]));
                return Err(wrong(&group[group.len() - 1], problem));
            }
        }
        let steps = |group: &&[Row]| Steps::of(group.iter().enumerate().map(|(i, row)| (last.nth(i), row.ms)));
        let steps = groups.iter().map(steps).collect();
        Ok(Table { file: file.to_owned(), steps, end: rows[rows.len() - 1].position })
    }

    /// What a table by one argument says.
    pub(super) fn only(self) -> Steps {
        self.steps.into_iter().next().expect("a table has rows")
    }

    /// Do both, by tokens alone, end with the same number?
    pub(super) fn ends_like(&self, other: &Table) -> Result<(), TraceError> {
        let (own, others) = (self.steps[0].last(), other.steps[0].last());
        if own == others {
            return Ok(());
        }
        let other = other.file.file_name().unwrap_or_default().to_string_lossy();
        let problem = format!("it ends at {own} tokens, but {other} at {others}");
        Err(malformed(&self.file, Some(self.end), problem))
    }
}

fn malformed(file: &Path, position: Option<Position>, problem: String) -> TraceError {
    TraceError::Malformed { place: Place { file: file.to_owned(), position }, problem, advice: WRITE_AGAIN.to_owned() }
}

/// The rows that say something of a step, as the file has them.
fn rows(file: &Path, name: &str, arguments: &[Argument]) -> Result<Vec<Row>, TraceError> {
    let columns: Vec<&str> = arguments.iter().map(|argument| argument.column).chain([PREDICTION]).collect();
    let nothing = |what: &str| {
        let problem = format!("there is {what} in it; a table of `{name}` has the columns {}", columns.join(", "));
        malformed(file, None, format!("{problem}, and a row for each size"))
    };
    let content = Source::file(file).open().map_err(|error| match error {
        TraceError::Empty { .. } => nothing("nothing"),
        other => other,
    })?;
    let mut reader = Reader::new(file, content)?;
    let find = |column: &&str| {
        reader.find(column).ok_or_else(|| TraceError::MissingColumn {
            place: reader.place(),
            column: (*column).to_owned(),
            columns: reader.columns().to_vec(),
            nearest: "".into(),
            advice: format!("a table of `{name}` has the columns {}", columns.join(", ")).into(),
        })
    };
    let positions = columns.iter().map(find).collect::<Result<Vec<usize>, TraceError>>()?;
    let mut rows = Vec::new();
    while reader.advance()? {
        let mut row = Row { position: reader.position(), arguments: [0; 2], ms: 0.0 };
        let values = &mut row.arguments[2 - arguments.len()..];
        for (value, &position) in values.iter_mut().zip(&positions) {
            *value = size(&reader, position)?;
        }
        let counts = values.iter().zip(arguments).all(|(&value, argument)| value >= argument.written(0));
        row.ms = milliseconds(&reader, positions[arguments.len()])?;
        rows.extend(counts.then_some(row));
    }
    if rows.is_empty() {
        return Err(nothing("no row of a step"));
    }
    Ok(rows)
}

/// Tokens or sequences, or the square of such a number.
fn size(reader: &Reader, column: usize) -> Result<u64, TraceError> {
    let field = reader.field(column);
    let fits = |number: &f64| (0.0..=f64::from(u32::MAX)).contains(number) && number.fract() == 0.0;
    let expected = || format!("a whole number from 0 to {}", u32::MAX);
    field.number().filter(fits).map(|number| number as u64).ok_or_else(|| field.wrong(expected(), WRITE_AGAIN))
}

/// What a layer may take.
fn milliseconds(reader: &Reader, column: usize) -> Result<f64, TraceError> {
    let field = reader.field(column);
    let number = field.number().filter(|number| (0.0..=MS_MAX).contains(number));
    number.ok_or_else(|| field.wrong(format!("milliseconds from 0 to {MS_MAX}"), WRITE_AGAIN))
}
