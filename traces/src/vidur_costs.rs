//! A peer's cost tables: the predictions that Vidur writes for one model on one GPU, one CSV file an operation.

use std::path::{Path, PathBuf};

use aril_sim::profile::vidur::{Steps, VidurOperation, VidurTables};

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

/// Contexts are tabulated in steps of so many tokens.
const CONTEXT_STEP: u32 = 64;

/// What do the layers of a model cost, by the tables in `folder`?
///
/// The folder holds a table for each operation, as Vidur's cache names it (`NAME_HASH_predictions.csv`) or by its name alone
/// (`NAME.csv`), plain or compressed (`.gz`, `.zst`): `num_tokens,prediction`, but `batch_size,kv_cache_size,prediction` for
/// `attn_decode` and `kv_cache_size,prefill_chunk_size_squared,prediction` for `attn_prefill`; predictions in milliseconds a layer.
///
/// # Errors
/// A file that is missing or there twice, a column that is missing, a cell that is no number, a hole in a table: with its place.
pub fn read_vidur_costs(folder: &Path) -> Result<VidurTables, TraceError> {
    let operation = |name: &&str| {
        let cost = by_tokens(folder, name)?;
        Ok(VidurOperation { name: (*name).to_owned(), cost })
    };
    Ok(VidurTables {
        operations: OPERATIONS.iter().map(operation).collect::<Result<_, TraceError>>()?,
        kv_cache_save: by_tokens(folder, "attn_kv_cache_save")?,
        decode: decode(folder)?,
        prefill: prefill(folder)?,
    })
}

/// One operation by tokens from 1 on.
fn by_tokens(folder: &Path, name: &str) -> Result<Steps, TraceError> {
    let (path, mut rows) = read(folder, name, ["num_tokens", "prediction"])?;
    rows.retain(|row| row[0] > 0.0);
    rows.sort_by(|a, b| a[0].total_cmp(&b[0]));
    whole(&path, "num_tokens", 1, 1, rows.iter().map(|row| row[0] as u32))?;
    Ok(Steps::of(rows.iter().map(|row| (row[0] as u32, row[1]))))
}

/// Decode attention by rows from 1 on, then context from 0 on.
fn decode(folder: &Path) -> Result<Vec<Steps>, TraceError> {
    let (path, mut rows) = read(folder, "attn_decode", ["batch_size", "kv_cache_size", "prediction"])?;
    rows.retain(|row| row[0] > 0.0);
    rows.sort_by(|a, b| a[0].total_cmp(&b[0]).then(a[1].total_cmp(&b[1])));
    let groups: Vec<&[[f64; 3]]> = rows.chunk_by(|a, b| a[0] == b[0]).collect();
    whole(&path, "batch_size", 1, 1, groups.iter().map(|group| group[0][0] as u32))?;
    let one = |group: &&[[f64; 3]]| {
        whole(&path, "kv_cache_size", 0, CONTEXT_STEP, group.iter().map(|row| row[1] as u32))?;
        Ok(Steps::of(group.iter().map(|row| (row[1] as u32, row[2]))))
    };
    groups.iter().map(one).collect()
}

/// Prefill attention by context from 0 on, then chunk from 1 on: the file has its square.
fn prefill(folder: &Path) -> Result<Vec<Steps>, TraceError> {
    let columns = ["kv_cache_size", "prefill_chunk_size_squared", "prediction"];
    let (path, mut rows) = read(folder, "attn_prefill", columns)?;
    rows.retain(|row| row[1] > 0.0);
    rows.sort_by(|a, b| a[0].total_cmp(&b[0]).then(a[1].total_cmp(&b[1])));
    let groups: Vec<&[[f64; 3]]> = rows.chunk_by(|a, b| a[0] == b[0]).collect();
    whole(&path, "kv_cache_size", 0, CONTEXT_STEP, groups.iter().map(|group| group[0][0] as u32))?;
    let chunk = |row: &[f64; 3]| row[1].sqrt().round() as u32;
    let one = |group: &&[[f64; 3]]| {
        whole(&path, "prefill_chunk_size_squared (its root)", 1, 1, group.iter().map(chunk))?;
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

/// The file of a table, as Vidur's cache or its user named it.
fn find(folder: &Path, name: &str) -> Result<PathBuf, TraceError> {
    let by_name = ["csv", "csv.gz", "csv.zst"].map(|ext| folder.join(format!("{name}.{ext}")));
    if let Some(path) = by_name.iter().find(|path| path.exists()) {
        return Ok(path.clone());
    }
    let is_cached = |file: &str| {
        let rest = file.strip_prefix(name).and_then(|rest| rest.strip_prefix('_'));
        let stem =
            |rest: &str| ["csv", "csv.gz", "csv.zst"].iter().any(|ext| rest.ends_with(&format!("_predictions.{ext}")));
        // The hash has no underscore: `attn_prefill_…` is no file of `attn`.
        rest.is_some_and(|rest| stem(rest) && rest.matches('_').count() == 1)
    };
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut cached: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    cached.retain(|path| path.file_name().and_then(|file| file.to_str()).is_some_and(is_cached));
    cached.sort();
    match cached.as_slice() {
        [] => Ok(by_name[0].clone()),
        [only] => Ok(only.clone()),
        [first, ..] => Err(TraceError::Malformed {
            place: Place::file(first),
            problem: format!("there are {} tables of `{name}` beside it, of several models or settings", cached.len()),
            advice: "copy those of one model into a folder of their own".into(),
        }),
    }
}

/// The named columns of one table, checked to be finite, not negative and, but for the last, below 2³².
fn read<const N: usize>(folder: &Path, name: &str, columns: [&str; N]) -> Result<(PathBuf, Vec<[f64; N]>), TraceError> {
    let path = &find(folder, name)?;
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
            let limit = if i + 1 < N { f64::from(u32::MAX) } else { f64::MAX };
            *value =
                cell.parse().ok().filter(|&v: &f64| (0.0..=limit).contains(&v)).ok_or_else(|| TraceError::Value {
                    place: Place::line(path, line),
                    column: columns[i].to_owned(),
                    found: format!("`{cell}`").into(),
                    expected: "a number that is not negative".into(),
                    advice: "write the table again".into(),
                })?;
        }
        rows.push(row);
    }
    if rows.is_empty() {
        return Err(TraceError::Empty { place: Place::file(path), detail: String::new() });
    }
    Ok((path.clone(), rows))
}
