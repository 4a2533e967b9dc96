//! Prints a profile that ships, or how two of them differ.
//!
//! `cargo run -p aril-calibrate --example show_profile NAME [OTHER]`

use std::env;
use std::error::Error;

use aril_calibrate::{diff, find, show};

fn main() -> Result<(), Box<dyn Error>> {
    let names: Vec<String> = env::args().skip(1).collect();
    match names.as_slice() {
        [name] => print!("{}", show(&find(name)?.profile()?)?),
        [from, to] => print!("{}", diff(&find(from)?.profile()?, &find(to)?.profile()?)?),
        _ => return Err("name one profile, or two to compare".into()),
    }
    Ok(())
}
