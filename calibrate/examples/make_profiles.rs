//! Makes every committed profile anew, from data sheets, published figures and committed measurements.
//!
//! `cargo run -p aril-calibrate --example make_profiles`

use std::error::Error;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use aril_calibrate::{embedded, published::textgen};

fn main() -> Result<(), Box<dyn Error>> {
    let home = Path::new(env!("CARGO_MANIFEST_DIR"));
    let data = home.join("../traces/data/punica_textgen_1024.csv.gz");
    let mut csv = String::new();
    flate2::read::GzDecoder::new(File::open(&data)?).read_to_string(&mut csv)?;
    let requests = textgen::read_requests(&data.display().to_string(), &csv)?;
    let mut made = embedded::make(&requests)?;
    for measured in embedded::profiles().iter().filter(|profile| profile.is_measured()) {
        let name = measured.name();
        made.push((name.clone(), embedded::make_measured(&name, &home.join("measurements"))?));
    }
    for (name, text) in made {
        fs::write(home.join("profiles").join(format!("{name}.toml")), text)?;
        println!("{name}");
    }
    Ok(())
}
