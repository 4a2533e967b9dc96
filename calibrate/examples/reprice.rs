//! What does a profile say of the steps of a real run?
//!
//! `cargo run --release -p aril-calibrate --example reprice STEPS.csv[.gz] PROFILE`; the steps are those that `aril validate --steps` wrote.

use std::env;
use std::error::Error;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use aril_calibrate::executor::{RealStep, steps};
use aril_calibrate::find;
use aril_calibrate::probe::{Probe, Shape};
use aril_sim::batch::Sag;
use aril_sim::profile::lora::LoraKernel;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [file, name] = arguments.as_slice() else { return Err("name a file of steps and a profile".into()) };
    let mut text = String::new();
    if file.ends_with(".gz") {
        flate2::read::GzDecoder::new(File::open(file)?).read_to_string(&mut text)?;
    } else {
        text = fs::read_to_string(file)?;
    }
    let steps = steps::read(&text)?;
    let profile = match Path::new(name).exists() {
        true => aril_calibrate::read(name, &fs::read_to_string(name)?)?,
        false => find(name)?.profile()?,
    };
    let mut probe = Probe::new(&profile, LoraKernel::Segmented)?;
    let slots = steps.iter().map(|step| step.segments.len()).max().unwrap_or(0) as u32;
    let mut sag = Sag::NONE;
    let mut behind = |step: &RealStep, us: f64| {
        let Some(clocks) = &profile.clock_sag else { return us };
        let (longer_us, after) = clocks.behind(sag, step.rested_us, prompt_rows(step), us);
        sag = after;
        us + longer_us
    };
    let priced: Vec<(f64, &RealStep)> =
        steps.iter().map(|step| (behind(step, probe.us(&shape(step, slots))), step)).collect();
    for (kind, keep) in [
        ("all", (|_| true) as fn(&RealStep) -> bool),
        ("decode", |step| step.prompts.is_empty()),
        ("up to 256 prompt tokens", |step| (1..=256).contains(&prompt_rows(step))),
        ("257 to 1024", |step| (257..=1024).contains(&prompt_rows(step))),
        ("more", |step| prompt_rows(step) > 1024),
    ] {
        let mut errors: Vec<f64> =
            priced.iter().filter(|(_, step)| keep(step)).map(|(us, step)| (us / step.us - 1.0) * 100.0).collect();
        if errors.is_empty() {
            continue;
        }
        let mean = errors.iter().sum::<f64>() / errors.len() as f64;
        let (said, took) = priced
            .iter()
            .filter(|(_, step)| keep(step))
            .fold((0.0, 0.0), |(said, took), (us, step)| (said + us, took + step.us));
        errors.sort_by(|a, b| a.abs().total_cmp(&b.abs()));
        let at = |percent: usize| errors[(errors.len() - 1) * percent / 100].abs();
        println!(
            "{kind:<24} {:>6} steps: median {:.2} %, 95th percentile {:.2} %, mean {mean:+.2} %, all together {:+.2} %",
            errors.len(),
            at(50),
            at(95),
            (said / took - 1.0) * 100.0
        );
    }
    Ok(())
}

fn prompt_rows(step: &RealStep) -> u32 {
    step.prompts.iter().map(|prompt| prompt.chunk).sum()
}

/// The step as a cost model sees it: contexts of the same number, sum and longest.
fn shape(step: &RealStep, slots: u32) -> Shape {
    let rows = step.decode_rows;
    let mut contexts = Vec::with_capacity(rows as usize);
    if rows > 0 {
        contexts.push(step.context_max);
        let rest = step.context_sum - u64::from(step.context_max);
        for row in 1..rows {
            let (share, left) = (rest / u64::from(rows - 1), rest % u64::from(rows - 1));
            contexts.push(share as u32 + u32::from(u64::from(row) <= left));
        }
    }
    Shape {
        contexts,
        prefills: step.prompts.clone(),
        segments: step.segments.clone(),
        slots,
        rank_max: step.segments.iter().map(|segment| segment.rank).max().unwrap_or(0),
    }
}
