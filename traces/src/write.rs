//! Writes the canonical table.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use polars::prelude::{Column, DataFrame, ListChunked, NamedFrom, ParquetCompression, ParquetWriter, Series};

use crate::error::{Place, TraceError};
use crate::table::Table;

/// How a table is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Csv,
    Jsonl,
    Parquet,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packing {
    None,
    Gzip,
    Zstd,
}

/// Writes a table that [`read()`](crate::read()) reads back as it is. The name decides: `.csv`, `.jsonl` or `.parquet`, and `.gz` or
/// `.zst` after the first two. Nothing half-written is left: the file gets its name when it is complete.
///
/// Columns: `request`, `arrival_s` (CSV, exact decimals) or `arrival_ps`, `tenant`, `adapter`, `rank`, `input_tokens`,
/// `output_tokens`, `max_tokens`, `prefix`; those that the table has.
///
/// # Errors
/// A name that says nothing of the kind, or a file that cannot be written.
pub fn write(path: &Path, table: &Table) -> Result<(), TraceError> {
    let (kind, packing) = kind(path)?;
    let unfinished = unfinished(path);
    let result = save(&unfinished, table, kind, packing, path)
        .and_then(|()| std::fs::rename(&unfinished, path).map_err(|e| TraceError::io(path, e)));
    if result.is_err() {
        // What is left is of no use; that it may not even exist does not matter.
        let _ = std::fs::remove_file(&unfinished);
    }
    result
}

fn kind(path: &Path) -> Result<(Kind, Packing), TraceError> {
    let name = path.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    let (stem, packing) = match name.rsplit_once('.') {
        Some((stem, "gz")) => (stem, Packing::Gzip),
        Some((stem, "zst")) => (stem, Packing::Zstd),
        _ => (name.as_str(), Packing::None),
    };
    match (stem.rsplit_once('.').map(|(_, extension)| extension), packing) {
        (Some("csv"), _) => Ok((Kind::Csv, packing)),
        (Some("jsonl" | "ndjson"), _) => Ok((Kind::Jsonl, packing)),
        (Some("parquet"), Packing::None) => Ok((Kind::Parquet, packing)),
        _ => Err(TraceError::Malformed {
            place: Place::file(path),
            problem: "the name does not say how to write it".into(),
            advice: "end it in .csv, .jsonl, .csv.gz, .jsonl.zst or the like, or .parquet".into(),
        }),
    }
}

fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.unfinished", std::process::id()));
    path.with_file_name(name)
}

fn save(to: &Path, table: &Table, kind: Kind, packing: Packing, path: &Path) -> Result<(), TraceError> {
    let io = |e| TraceError::io(path, e);
    let file = BufWriter::new(File::create(to).map_err(io)?);
    match packing {
        Packing::None => {
            let mut file = body(file, table, kind, path)?;
            file.flush().map_err(io)
        }
        Packing::Gzip => {
            let packed = body(flate2::write::GzEncoder::new(file, flate2::Compression::best()), table, kind, path)?;
            packed.finish().and_then(|mut file| file.flush()).map_err(io)
        }
        Packing::Zstd => {
            let encoder = zstd::stream::write::Encoder::new(file, 19).map_err(io)?;
            body(encoder, table, kind, path)?.finish().and_then(|mut file| file.flush()).map_err(io)
        }
    }
}

fn body<W: Write>(to: W, table: &Table, kind: Kind, path: &Path) -> Result<W, TraceError> {
    match kind {
        Kind::Csv => csv(to, table).map_err(|e| TraceError::io(path, e)),
        Kind::Jsonl => jsonl(to, table).map_err(|e| TraceError::io(path, e)),
        Kind::Parquet => parquet(to, table).map_err(|e| TraceError::io(path, std::io::Error::other(e))),
    }
}

fn csv<W: Write>(to: W, table: &Table) -> std::io::Result<W> {
    let mut writer = csv::Writer::from_writer(to);
    let columns = [
        ("request", true),
        ("arrival_s", table.arrivals_ps.is_some()),
        ("tenant", table.tenants.is_some()),
        ("adapter", table.adapters.is_some()),
        ("rank", has_ranks(table)),
        ("input_tokens", true),
        ("output_tokens", true),
        ("max_tokens", table.max_tokens.is_some()),
        ("prefix", table.prefixes.is_some()),
    ];
    writer.write_record(columns.iter().filter(|(_, there)| *there).map(|(name, _)| *name))?;
    for row in 0..table.len() {
        let name = |names: &Option<crate::table::Names>| {
            names.as_ref().and_then(|n| n.name(row)).unwrap_or_default().to_owned()
        };
        for (column, there) in &columns {
            if !there {
                continue;
            }
            let text = match *column {
                "request" => row.to_string(),
                "arrival_s" => seconds(arrival(table, row)),
                "tenant" => name(&table.tenants),
                "adapter" => name(&table.adapters),
                "rank" => rank(table, row).map(|rank| rank.to_string()).unwrap_or_default(),
                "input_tokens" => table.input_tokens[row].to_string(),
                "output_tokens" => table.output_tokens[row].to_string(),
                "max_tokens" => cap(table, row).map(|cap| cap.to_string()).unwrap_or_default(),
                _ => {
                    let hashes: Vec<String> = prefix(table, row).iter().map(u64::to_string).collect();
                    hashes.join(" ")
                }
            };
            writer.write_field(text)?;
        }
        writer.write_record(None::<&[u8]>)?;
    }
    writer.into_inner().map_err(|error| std::io::Error::other(error.to_string()))
}

fn jsonl<W: Write>(mut to: W, table: &Table) -> std::io::Result<W> {
    use serde_json::{Map, Value, to_writer};
    for row in 0..table.len() {
        let mut object = Map::new();
        let mut put = |key: &str, value: Value| object.insert(key.to_owned(), value);
        put("request", row.into());
        if table.arrivals_ps.is_some() {
            put("arrival_ps", arrival(table, row).into());
        }
        // The first row shows the columns of the file, so what is nowhere named stays out and what is empty is null.
        for (key, names) in [("tenant", &table.tenants), ("adapter", &table.adapters)] {
            if let Some(names) = names {
                put(key, names.name(row).into());
            }
        }
        if has_ranks(table) {
            put("rank", rank(table, row).into());
        }
        put("input_tokens", table.input_tokens[row].into());
        put("output_tokens", table.output_tokens[row].into());
        if table.max_tokens.is_some() {
            put("max_tokens", cap(table, row).into());
        }
        if table.prefixes.is_some() {
            let hashes = prefix(table, row);
            put("prefix", if hashes.is_empty() { Value::Null } else { hashes.into() });
        }
        to_writer(&mut to, &object)?;
        to.write_all(b"\n")?;
    }
    Ok(to)
}

fn parquet<W: Write>(mut to: W, table: &Table) -> polars::prelude::PolarsResult<W> {
    let rows = 0..table.len();
    let requests: Vec<u32> = rows.clone().map(|row| row as u32).collect();
    let mut columns: Vec<Column> = vec![Series::new("request".into(), requests).into()];
    if let Some(arrivals) = &table.arrivals_ps {
        columns.push(Series::new("arrival_ps".into(), arrivals).into());
    }
    for (key, names) in [("tenant", &table.tenants), ("adapter", &table.adapters)] {
        if let Some(names) = names {
            let texts: Vec<Option<&str>> = rows.clone().map(|row| names.name(row)).collect();
            columns.push(Series::new(key.into(), texts).into());
        }
    }
    if has_ranks(table) {
        let ranks: Vec<Option<u32>> = rows.clone().map(|row| rank(table, row)).collect();
        columns.push(Series::new("rank".into(), ranks).into());
    }
    columns.push(Series::new("input_tokens".into(), &table.input_tokens).into());
    columns.push(Series::new("output_tokens".into(), &table.output_tokens).into());
    if table.max_tokens.is_some() {
        let caps: Vec<Option<u32>> = rows.clone().map(|row| cap(table, row)).collect();
        columns.push(Series::new("max_tokens".into(), caps).into());
    }
    if table.prefixes.is_some() {
        let lists: ListChunked = rows
            .map(|row| Some(prefix(table, row)).filter(|hashes| !hashes.is_empty()).map(|h| Series::new("".into(), h)))
            .collect();
        use polars::prelude::IntoSeries;
        columns.push(lists.into_series().with_name("prefix".into()).into());
    }
    let mut frame = DataFrame::new(table.len(), columns)?;
    ParquetWriter::new(&mut to).with_compression(ParquetCompression::Zstd(None)).finish(&mut frame)?;
    Ok(to)
}

fn has_ranks(table: &Table) -> bool {
    table.ranks.iter().any(|rank| *rank > 0)
}

fn arrival(table: &Table, row: usize) -> u64 {
    table.arrivals_ps.as_ref().map_or(0, |arrivals| arrivals[row])
}

fn rank(table: &Table, row: usize) -> Option<u32> {
    let adapter = table.adapters.as_ref()?.get(row)?;
    table.ranks.get(adapter as usize).copied().filter(|rank| *rank > 0)
}

/// `u32::MAX`: the client sent none.
fn cap(table: &Table, row: usize) -> Option<u32> {
    table.max_tokens.as_ref().map(|caps| caps[row]).filter(|cap| *cap < u32::MAX)
}

fn prefix(table: &Table, row: usize) -> &[u64] {
    table.prefixes.as_ref().and_then(|prefixes| prefixes[row].as_ref()).map_or(&[], Arc::as_ref)
}

/// Exact seconds of a number of picoseconds.
fn seconds(ps: u64) -> String {
    let (whole, fraction) = (ps / 1_000_000_000_000, ps % 1_000_000_000_000);
    let text = format!("{whole}.{fraction:012}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}
