//! Where a fit is off: every held-out point of an operation, the worst first.
//!
//! `cargo run --release -p aril-calibrate --example residuals MEASUREMENTS.jsonl [OF [COUNT]]`; `OF` as in tables of errors, such as `step`;
//! `all`: every one of every operation, a line each with tabs between.

use std::env;
use std::error::Error;
use std::path::Path;

use aril_calibrate::fit::judge::{Residual, residuals};
use aril_calibrate::recording::Recording;

/// Characters of a question that are shown.
const WIDTH: usize = 180;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let file = arguments.first().ok_or("name a file of measurements")?;
    let of = arguments.get(1).map_or("step", String::as_str);
    let count: usize = arguments.get(2).map_or(Ok(30), |count| count.parse())?;
    let mut all = residuals(&Recording::read(Path::new(file))?, file)?;
    if of == "all" {
        // For whoever draws them.
        for Residual { of, measured_us, signed_percent, question } in &all {
            println!("{of}\t{measured_us}\t{signed_percent}\t{question}");
        }
        return Ok(());
    }
    all.retain(|residual| residual.of == of);
    all.sort_by(|a, b| b.signed_percent.abs().total_cmp(&a.signed_percent.abs()));
    for residual in all.iter().take(count) {
        println!(
            "{:+7.2} % of {:>10.1} us  {}",
            residual.signed_percent,
            residual.measured_us,
            residual.question.chars().take(WIDTH).collect::<String>()
        );
    }
    Ok(())
}
