//! How far are two recordings from each other on the questions that both answered? No form can be nearer to one of them than that.
//!
//! `cargo run --release -p aril-calibrate --example repeated MEASUREMENTS.jsonl[.gz] MEASUREMENTS.jsonl[.gz]`: by kind of question the median and the 95th
//! percentile of |second / first − 1|, and the mean of second / first − 1.

use std::collections::BTreeMap;
use std::env;
use std::error::Error;
use std::path::Path;

use aril_calibrate::plan::kind;
use aril_calibrate::recording::{Point, Recording};
use statrs::statistics::{Data, Distribution, OrderStatistics};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [first, second] = arguments.as_slice() else { return Err("name two files of measurements".into()) };
    let (first, second) = (Recording::read(Path::new(first))?, Recording::read(Path::new(second))?);
    let again: BTreeMap<String, f64> =
        second.sound().into_iter().map(|point| (point.question.key(), median(point))).collect();
    let mut percents: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for point in first.sound() {
        if let Some(us) = again.get(&point.question.key())
            && median(point) > 0.0
        {
            percents.entry(kind(&point.question)).or_default().push((us / median(point) - 1.0) * 100.0);
        }
    }
    for (kind, signed) in percents {
        let mean = Data::new(signed.clone()).mean().unwrap_or(0.0);
        let mut sizes = Data::new(signed.iter().map(|percent| percent.abs()).collect::<Vec<_>>());
        println!(
            "{kind:<36} {:>4} questions: median {:.2} %, 95th percentile {:.2} %, mean {mean:+.2} %",
            signed.len(),
            sizes.median(),
            sizes.percentile(95)
        );
    }
    Ok(())
}

/// The median of a question's answers, microseconds.
fn median(point: &Point) -> f64 {
    Data::new(point.us.clone()).median()
}
