//! A peer's cost tables: the predictions that Vidur writes for one model on one GPU, one CSV file an operation.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use aril_sim::profile::vidur::{MS_MAX, Steps, VidurOperation, VidurTables};

use crate::error::{Place, TraceError};
use crate::input::{Content, Source};

/// Operations that depend on the tokens of the batch alone.
const OPERATIONS: [&str; 9] = [
    "input_layernorm",
    "attn_pre_proj",
    "attn_rope",
    "attn_post_proj",
    "post_attention_layernorm",
    "mlp_up_proj",
    "mlp_act",
    "mlp_down_proj",
    "add",
];

/// Tables by the tokens of the batch, by decode rows and context, and by context and chunk.
const SAVE: &str = "attn_kv_cache_save";
const DECODE: &str = "attn_decode";
const PREFILL: &str = "attn_prefill";

/// How a table may be stored.
const ENDINGS: [&str; 3] = ["csv", "csv.gz", "csv.zst"];

/// Contexts are tabulated in steps of so many tokens.
const CONTEXT_STEP: u32 = 64;

/// What do the layers of a model cost, by the tables in `folder`?
///
/// The folder holds a table for each operation, as Vidur's cache names it (`NAME_HASH_predictions.csv`) or by its name alone
/// (`NAME.csv`), plain or compressed (`.gz`, `.zst`): `num_tokens,prediction`, but `batch_size,kv_cache_size,prediction` for
/// `attn_decode` and `kv_cache_size,prefill_chunk_size_squared,prediction` for `attn_prefill`; predictions in milliseconds a layer.
///
/// # Errors
/// Files that are missing, all of them; one that is there twice, a column that is missing, a cell that is no number, a hole in a table:
/// with its place.
pub fn read_vidur_costs(folder: &Path) -> Result<VidurTables, TraceError> {
    let files = Files::find(folder)?;
    let operation = |name: &&str| {
        let cost = by_tokens(&files, name)?;
        Ok(VidurOperation { name: (*name).to_owned(), cost })
    };
    Ok(VidurTables {
        operations: OPERATIONS.iter().map(operation).collect::<Result<_, TraceError>>()?,
        kv_cache_save: by_tokens(&files, SAVE)?,
        decode: decode(&files)?,
        prefill: prefill(&files)?,
    })
}

/// One operation by tokens from 1 on.
fn by_tokens(files: &Files, name: &str) -> Result<Steps, TraceError> {
    let (path, mut rows) = files.read(name, ["num_tokens", "prediction"])?;
    rows.retain(|row| row[0] > 0.0);
    rows.sort_by(|a, b| a[0].total_cmp(&b[0]));
    whole(path, "num_tokens", 1, 1, rows.iter().map(|row| row[0] as u32))?;
    Ok(Steps::of(rows.iter().map(|row| (row[0] as u32, row[1]))))
}

/// Decode attention by rows from 1 on, then context from 0 on.
fn decode(files: &Files) -> Result<Vec<Steps>, TraceError> {
    let (path, mut rows) = files.read(DECODE, ["batch_size", "kv_cache_size", "prediction"])?;
    rows.retain(|row| row[0] > 0.0);
    rows.sort_by(|a, b| a[0].total_cmp(&b[0]).then(a[1].total_cmp(&b[1])));
    let groups: Vec<&[[f64; 3]]> = rows.chunk_by(|a, b| a[0] == b[0]).collect();
    whole(path, "batch_size", 1, 1, groups.iter().map(|group| group[0][0] as u32))?;
    let one = |group: &&[[f64; 3]]| {
        whole(path, "kv_cache_size", 0, CONTEXT_STEP, group.iter().map(|row| row[1] as u32))?;
        Ok(Steps::of(group.iter().map(|row| (row[1] as u32, row[2]))))
    };
    groups.iter().map(one).collect()
}

/// Prefill attention by context from 0 on, then chunk from 1 on: the file has its square.
fn prefill(files: &Files) -> Result<Vec<Steps>, TraceError> {
    let columns = ["kv_cache_size", "prefill_chunk_size_squared", "prediction"];
    let (path, mut rows) = files.read(PREFILL, columns)?;
    rows.retain(|row| row[1] > 0.0);
    rows.sort_by(|a, b| a[0].total_cmp(&b[0]).then(a[1].total_cmp(&b[1])));
    let groups: Vec<&[[f64; 3]]> = rows.chunk_by(|a, b| a[0] == b[0]).collect();
    whole(path, "kv_cache_size", 0, CONTEXT_STEP, groups.iter().map(|group| group[0][0] as u32))?;
    let chunk = |row: &[f64; 3]| row[1].sqrt().round() as u32;
    let one = |group: &&[[f64; 3]]| {
        whole(path, "prefill_chunk_size_squared (its root)", 1, 1, group.iter().map(chunk))?;
        Ok(Steps::of(group.iter().map(|row| (chunk(row), row[2]))))
    };
    groups.iter().map(one).collect()
}

/// Are these `first`, `first + step` and so on, without a hole and without a double?
fn whole(
    path: &Path,
    column: &str,
    first: u32,
    step: u32,
    arguments: impl Iterator<Item = u32>,
) -> Result<(), TraceError> {
    let expected = (0..).map(|i| first + i * step);
    match expected.zip(arguments).find(|(expected, found)| expected != found) {
        None => Ok(()),
        Some((expected, found)) => Err(TraceError::Malformed {
            place: Place::file(path),
            problem: format!(
                "where {column} should be {expected} it is {found}: the table has a hole, a double, or another step"
            ),
            advice: "write the table again".into(),
        }),
    }
}

/// The file of each table.
struct Files(BTreeMap<&'static str, PathBuf>);

impl Files {
    fn find(folder: &Path) -> Result<Files, TraceError> {
        let entries = std::fs::read_dir(folder).map_err(|error| TraceError::io(folder, error))?;
        let mut all: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        all.sort();
        let mut files = BTreeMap::new();
        let mut missing = Vec::new();
        for name in OPERATIONS.into_iter().chain([SAVE, DECODE, PREFILL]) {
            let file =
                |path: &&PathBuf| path.file_name().and_then(|file| file.to_str()).is_some_and(|f| is_of(f, name));
            let found: Vec<&PathBuf> = all.iter().filter(file).collect();
            match found.as_slice() {
                [] => missing.push(format!("{name}.csv")),
                [only] => drop(files.insert(name, (*only).clone())),
                [first, ..] => return Err(ambiguous(name, first, &found)),
            }
        }
        if missing.is_empty() {
            return Ok(Files(files));
        }
        Err(TraceError::Malformed {
            place: Place::file(folder),
            problem: format!("tables are missing: {}", missing.join(", ")),
            advice: "each may also be compressed, or called NAME_HASH_predictions.csv as in Vidur's cache".to_owned(),
        })
    }
}

fn ambiguous(name: &str, first: &Path, found: &[&PathBuf]) -> TraceError {
    let names: Vec<_> = found.iter().filter_map(|path| path.file_name()).map(|file| file.to_string_lossy()).collect();
    TraceError::Malformed {
        place: Place::file(first),
        problem: format!("there are {} tables of `{name}`: {}", found.len(), names.join(", ")),
        advice: "leave one of them, or copy those of one model and its settings into a folder of their own".to_owned(),
    }
}

/// Is this the file of a table, as Vidur's cache or its user named it?
fn is_of(file: &str, name: &str) -> bool {
    let Some(rest) = file.strip_prefix(name) else { return false };
    let ends = |rest: &str, before: &str| ENDINGS.iter().any(|ending| rest.ends_with(&format!("{before}.{ending}")));
    let by_name = ENDINGS.iter().any(|ending| rest.strip_prefix('.') == Some(ending));
    // The hash has no underscore: `attn_prefill_…` is no file of `attn`.
    let cached = rest.starts_with('_') && ends(rest, "_predictions") && rest.matches('_').count() == 2;
    by_name || cached
}

impl Files {
    /// The named columns of one table, checked: sizes whole and below 2³², and in the last milliseconds that a layer may take.
    fn read<const N: usize>(&self, name: &str, columns: [&str; N]) -> Result<(&Path, Vec<[f64; N]>), TraceError> {
        let path = self.0[name].as_path();
        Ok((path, rows(path, name, columns)?))
    }
}

fn rows<const N: usize>(path: &Path, name: &str, columns: [&str; N]) -> Result<Vec<[f64; N]>, TraceError> {
    let Content::Text(text) = Source::file(path).open()? else {
        return Err(TraceError::Encoding {
            place: Place::file(path),
            found: "this is no text".into(),
            advice: "Vidur's tables are CSV files, plain or compressed",
        });
    };
    let mut reader = csv::Reader::from_reader(text);
    let malformed = |line: u64, problem: String| TraceError::Malformed {
        place: Place::line(path, line),
        problem,
        advice: "write the table again".into(),
    };
    let header = reader.headers().map_err(|e| malformed(1, e.to_string()))?.clone();
    let mut positions = [0; N];
    for (position, column) in positions.iter_mut().zip(columns) {
        *position = header.iter().position(|name| name.trim() == column).ok_or_else(|| TraceError::MissingColumn {
            place: Place::file(path),
            column: column.to_owned(),
            columns: header.iter().map(str::to_owned).collect(),
            nearest: "".into(),
            advice: format!("a table of `{name}` has the columns {}", columns.join(", ")).into(),
        })?;
    }
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|e| malformed(e.position().map_or(0, csv::Position::line), e.to_string()))?;
        let line = record.position().map_or(0, csv::Position::line);
        let mut row = [0.0; N];
        for (i, (value, position)) in row.iter_mut().zip(positions).enumerate() {
            let cell = record.get(position).unwrap_or_default().trim();
            let is_size = i + 1 < N;
            let fits = |v: f64| if is_size { v <= f64::from(u32::MAX) && v.fract() == 0.0 } else { v <= MS_MAX };
            *value = cell.parse().ok().filter(|&v: &f64| v >= 0.0 && fits(v)).ok_or_else(|| TraceError::Value {
                place: Place::line(path, line),
                column: columns[i].to_owned(),
                found: format!("`{cell}`").into(),
                expected: match is_size {
                    true => "a whole number".into(),
                    false => format!("milliseconds from 0 to {MS_MAX}").into(),
                },
                advice: "write the table again".into(),
            })?;
        }
        rows.push(row);
    }
    if rows.is_empty() {
        return Err(TraceError::Empty { place: Place::file(path), detail: String::new() });
    }
    Ok(rows)
}
