//! Which measured decode attention took less than a part of itself? Prices never fall with more rows or longer contexts, so that one of such a pair is
//! missed by half of what lies between them, whatever the form.
//!
//! `cargo run --release -p aril-calibrate --example out_of_order MEASUREMENTS.jsonl[.gz] [COUNT]`: how many shapes are in a pair that no such price meets
//! within 3 % and 8 %, and the worst pairs: the part, then the whole.

use std::env;
use std::error::Error;
use std::path::Path;

use aril_calibrate::machine::{Part, Question, StepShape};
use aril_calibrate::recording::Recording;
use statrs::statistics::{Data, OrderStatistics};

/// Decode attention of one shape.
struct Measured {
    /// The longest first.
    contexts: Vec<u32>,
    us: f64,
}

impl Measured {
    fn of(shape: &StepShape, us: &[f64]) -> Measured {
        let mut contexts: Vec<u32> = shape.contexts().collect();
        contexts.sort_unstable_by(|a, b| b.cmp(a));
        Measured { contexts, us: Data::new(us.to_vec()).median() }
    }

    /// Every row of this is one of `whole`'s, or shorter.
    fn is_part_of(&self, whole: &Measured) -> bool {
        self.contexts.len() <= whole.contexts.len()
            && self.contexts.iter().zip(&whole.contexts).all(|(mine, its)| mine <= its)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let file = arguments.first().ok_or("name a file of measurements")?;
    let count: usize = arguments.get(1).map_or(Ok(5), |count| count.parse())?;
    let recording = Recording::read(Path::new(file))?;
    let measured: Vec<Measured> = recording
        .sound()
        .into_iter()
        .filter_map(|point| match &point.question {
            Question::Operation { operation: Part::DecodeAttention, shape } => Some(Measured::of(shape, &point.us)),
            _ => None,
        })
        .collect();
    let mut missed = vec![0.0_f64; measured.len()];
    let mut pairs = Vec::new();
    for (i, part) in measured.iter().enumerate() {
        for (j, whole) in measured.iter().enumerate() {
            if part.us > whole.us && part.is_part_of(whole) {
                let percent = (part.us - whole.us) / (part.us + whole.us) * 100.0;
                (missed[i], missed[j]) = (missed[i].max(percent), missed[j].max(percent));
                pairs.push((percent, part, whole));
            }
        }
    }
    let beyond = |most: f64| missed.iter().filter(|percent| **percent > most).count();
    println!("{} shapes: {} missed by more than 3 %, {} by more than 8 %", missed.len(), beyond(3.0), beyond(8.0));
    pairs.sort_by(|a, b| b.0.total_cmp(&a.0));
    for (percent, part, whole) in pairs.into_iter().take(count) {
        let told = |of: &Measured| {
            let mean = of.contexts.iter().map(|context| f64::from(*context)).sum::<f64>() / of.contexts.len() as f64;
            format!("{} rows of {mean:.0} tokens, {:.2} us", of.contexts.len(), of.us)
        };
        println!("{percent:5.1} %: {}; {}", told(part), told(whole));
    }
    Ok(())
}
