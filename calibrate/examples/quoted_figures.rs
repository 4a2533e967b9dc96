//! Prints the table of quoted figures of a measured profile, as the README shows it.
//!
//! `cargo run -p aril-calibrate --example quoted_figures NAME`

use std::env;
use std::error::Error;
use std::path::Path;

use aril_calibrate::embedded::{find, recorded};
use aril_calibrate::page::markdown;
use aril_calibrate::recording::Recording;

fn main() -> Result<(), Box<dyn Error>> {
    let name = env::args().nth(1).ok_or("name a measured profile")?;
    let file = recorded(&Path::new(env!("CARGO_MANIFEST_DIR")).join("measurements"), &name);
    print!("{}", markdown(&find(&name)?.profile()?, &[Recording::read(&file)?])?);
    Ok(())
}
