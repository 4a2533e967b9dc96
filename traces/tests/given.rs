//! What the tests stand on: contexts, temporary files, and traces that lie beside the repository on some machines.

use std::path::{Path, PathBuf};

use aril_sim::workload::Offered;
use aril_traces::{Context, TraceError, Traffic, Workload};

/// A seed like any other.
pub(crate) const SEED: u64 = 20_261_123;

/// `[traffic]` as TOML.
pub(crate) fn traffic(text: &str) -> Traffic {
    toml::from_str(text).unwrap_or_else(|error| panic!("{error}"))
}

/// Builds with a roomy model; replica 0 replays a trace as recorded.
pub(crate) fn try_build(text: &str, base: &Path, seed: u64, replica: u32) -> Result<Workload, TraceError> {
    traffic(text).build(&Context {
        base,
        seed,
        as_recorded: replica == 0,
        adapter_bytes: &|rank| u64::from(rank) * 1_000_000,
        max_model_len: 200_000,
    })
}

pub(crate) fn build(text: &str) -> Workload {
    try_build(text, Path::new("."), SEED, 0).unwrap_or_else(|error| panic!("{error}"))
}

pub(crate) fn requests(text: &str) -> Vec<Offered> {
    build(text).arrivals().collect()
}

/// The error that a scenario's traffic is refused with.
pub(crate) fn refusal(text: &str) -> TraceError {
    match try_build(text, Path::new("."), SEED, 0) {
        Ok(_) => panic!("accepted: {text}"),
        Err(error) => error,
    }
}

/// A folder of real traces beside the repository, or none with a message.
pub(crate) fn beside(file: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared").join(file);
    if path.exists() {
        return Some(path);
    }
    eprintln!("skipped: {} is not there", path.display());
    None
}

/// A file with this content in a folder that lasts as long as the first value.
pub(crate) fn file(name: &str, content: impl AsRef<[u8]>) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join(name);
    std::fs::write(&path, content).expect("a temporary file");
    (folder, path)
}
