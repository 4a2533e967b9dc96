//! A peer's cost tables: the predictions that Vidur writes for one model on one GPU, one CSV file an operation.

mod table;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use aril_sim::profile::vidur::{VidurOperation, VidurTables};

use crate::error::{Place, TraceError};
use table::{Argument, Table};

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

/// What the tables are by.
const TOKENS: Argument = Argument { column: "num_tokens", first: 1, step: 1, squared: false };
const SEQUENCES: Argument = Argument { column: "batch_size", first: 1, step: 1, squared: false };
const CONTEXT: Argument = Argument { column: "kv_cache_size", first: 0, step: 64, squared: false };
const CHUNK: Argument = Argument { column: "prefill_chunk_size_squared", first: 1, step: 1, squared: true };

/// What do the layers of a model cost, by the tables in `folder`?
///
/// The folder holds a table for each operation, as Vidur's cache names it (`NAME_HASH_predictions.csv`) or by its name alone
/// (`NAME.csv`), plain or compressed (`.gz`, `.zst`): `num_tokens,prediction`, but `batch_size,kv_cache_size,prediction` for
/// `attn_decode` and `kv_cache_size,prefill_chunk_size_squared,prediction` for `attn_prefill`; predictions in milliseconds a layer.
///
/// # Errors
/// Files that are missing, all of them; one that is there twice, a column that is missing, a cell that is no number, a hole in a table,
/// one that ends before another: with its place.
pub fn read_vidur_costs(folder: &Path) -> Result<VidurTables, TraceError> {
    let files = Files::find(folder)?;
    let by_tokens = |name: &str| files.read(name, &[TOKENS]);
    let save = by_tokens(SAVE)?;
    let operation = |name: &&str| {
        let table = by_tokens(name)?;
        table.ends_like(&save)?;
        Ok(VidurOperation { name: (*name).to_owned(), cost: table.only() })
    };
    Ok(VidurTables {
        operations: OPERATIONS.iter().map(operation).collect::<Result<_, TraceError>>()?,
        kv_cache_save: save.only(),
        decode: files.read(DECODE, &[SEQUENCES, CONTEXT])?.steps,
        prefill: files.read(PREFILL, &[CONTEXT, CHUNK])?.steps,
    })
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

    fn read(&self, name: &str, arguments: &[Argument]) -> Result<Table, TraceError> {
        Table::read(&self.0[name], name, arguments)
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
