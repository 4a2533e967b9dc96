//! A peer's cost tables: the predictions that Vidur writes for one model on one GPU, one CSV file an operation.

use std::path::Path;

use aril_sim::cost::vidur::VidurTables;

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

/// What do the steps of a model with so many layers cost, by the tables in `folder`?
///
/// The folder holds `NAME.csv`, `.csv.gz` or `.csv.zst` for each operation: `num_tokens,prediction`, but
/// `batch_size,kv_cache_size,prediction` for `attn_decode` and `kv_cache_size,prefill_chunk_size_squared,prediction` for
/// `attn_prefill`; predictions in milliseconds a layer.
///
/// # Errors
/// A file that is missing, a column that is missing, a cell that is no number: with its place.
pub fn read_vidur_costs(folder: &Path, layers: u32) -> Result<VidurTables, TraceError> {
    Ok(VidurTables {
        layers,
        operations: OPERATIONS.iter().map(|name| by_tokens(folder, name)).collect::<Result<_, _>>()?,
        kv_cache_save: by_tokens(folder, "attn_kv_cache_save")?,
        decode: by_pair(folder, "attn_decode", "batch_size", "kv_cache_size")?,
        prefill: by_pair(folder, "attn_prefill", "kv_cache_size", "prefill_chunk_size_squared")?,
    })
}

/// One operation by tokens from 0 on; what the file does not have is not a number.
fn by_tokens(folder: &Path, name: &str) -> Result<Vec<f64>, TraceError> {
    let rows = read(folder, name, ["num_tokens", "prediction"])?;
    let mut times = vec![f64::NAN; rows.len() + 1];
    times[0] = 0.0;
    for [tokens, ms] in rows {
        // A table without holes has no larger entry than it has rows.
        if let Some(time) = times.get_mut(tokens as usize) {
            *time = ms;
        }
    }
    Ok(times)
}

fn by_pair(folder: &Path, name: &str, first: &str, second: &str) -> Result<Vec<(u32, u32, f64)>, TraceError> {
    let rows = read(folder, name, [first, second, "prediction"])?;
    Ok(rows.into_iter().map(|[a, b, ms]| (a as u32, b as u32, ms)).collect())
}

/// The named columns of one table, checked to be finite, not negative and, but for the last, below 2³².
fn read<const N: usize>(folder: &Path, name: &str, columns: [&str; N]) -> Result<Vec<[f64; N]>, TraceError> {
    let names = ["csv", "csv.gz", "csv.zst"].map(|ext| folder.join(format!("{name}.{ext}")));
    let path = names.iter().find(|path| path.exists()).unwrap_or(&names[0]);
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
    Ok(rows)
}
