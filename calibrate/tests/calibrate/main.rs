//! What profiles and their prices promise.

mod executed;
mod measured;
mod prices;
mod published;
mod quick;
mod roofline;
mod shipped;
mod text;

use std::io::Read;
use std::path::Path;

use aril_calibrate::published::TextgenRequest;
use aril_calibrate::published::textgen::read_requests;

/// The requests of the paper's benchmark, which ship with the traces.
fn requests() -> Vec<TextgenRequest> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../traces/data/punica_textgen_1024.csv.gz");
    let mut csv = String::new();
    let file = std::fs::File::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    flate2::read::GzDecoder::new(file).read_to_string(&mut csv).unwrap();
    read_requests(&path.display().to_string(), &csv).unwrap()
}

/// Where committed measurements lie.
fn measurements() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("measurements")
}
