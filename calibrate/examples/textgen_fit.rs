//! What the two-figure fit makes of every cell of the paper's text generation table.
//!
//! `cargo run -p aril-calibrate --example textgen_fit`

use std::error::Error;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use aril_calibrate::published::table::table;
use aril_calibrate::published::{facts, textgen};

fn main() -> Result<(), Box<dyn Error>> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../traces/data/punica_textgen_1024.csv.gz");
    let mut csv = String::new();
    flate2::read::GzDecoder::new(File::open(&data)?).read_to_string(&mut csv)?;
    let requests = textgen::read_requests(&data.display().to_string(), &csv)?;
    print!("{}", table(&facts()?, &requests)?);
    Ok(())
}
