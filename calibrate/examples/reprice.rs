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
use aril_sim::profile::StepRows;
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
    // No step of many prompt tokens has been: as if the last was an hour ago.
    let mut ago_ms = 3.6e6;
    let mut priced = Vec::with_capacity(steps.len());
    for step in &steps {
        let mut us = probe.us(&shape(step, slots));
        if let Some(clocks) = &profile.clock_sag {
            let rows = StepRows { prompt_tokens: prompt_rows(step), decode_rows: step.decode_rows };
            let (longer_us, after) = clocks.behind(sag, step.rested_us, rows, us);
            us += longer_us;
            sag = after;
        }
        ago_ms += step.rested_us * 1e-3;
        priced.push(Priced { us, ago_ms, step });
        ago_ms = if prompt_rows(step) >= MANY { 0.0 } else { ago_ms + step.us * 1e-3 };
    }
    for (kind, keep) in [
        ("all", (|_| true) as fn(&Priced<'_>) -> bool),
        ("decode", |p| p.is_decode()),
        ("decode, up to 20 ms behind prompts", |p| p.is_decode() && p.ago_ms < 20.0),
        ("20 to 40 ms behind", |p| p.is_decode() && (20.0..40.0).contains(&p.ago_ms)),
        ("40 to 80 ms behind", |p| p.is_decode() && (40.0..80.0).contains(&p.ago_ms)),
        ("later", |p| p.is_decode() && p.ago_ms >= 80.0),
        ("up to 256 prompt tokens", |p| (1..=256).contains(&prompt_rows(p.step))),
        ("257 to 1024", |p| (257..=1024).contains(&prompt_rows(p.step))),
        ("more", |p| prompt_rows(p.step) > 1024),
        ("prompts up to 40 ms behind others", |p| !p.is_decode() && p.ago_ms < 40.0),
    ] {
        let kept: Vec<&Priced<'_>> = priced.iter().filter(|priced| keep(priced)).collect();
        let mut errors: Vec<f64> = kept.iter().map(|p| (p.us / p.step.us - 1.0) * 100.0).collect();
        if errors.is_empty() {
            continue;
        }
        let mean = errors.iter().sum::<f64>() / errors.len() as f64;
        let (said, took) = kept.iter().fold((0.0, 0.0), |(said, took), p| (said + p.us, took + p.step.us));
        errors.sort_by(|a, b| a.abs().total_cmp(&b.abs()));
        let at = |percent: usize| errors[(errors.len() - 1) * percent / 100].abs();
        println!(
            "{kind:<36} {:>6} steps: median {:.2} %, 95th percentile {:.2} %, mean {mean:+.2} %, all together {:+.2} %",
            errors.len(),
            at(50),
            at(95),
            (said / took - 1.0) * 100.0
        );
    }
    Ok(())
}

/// Prompt tokens of a step that clocks are known to sag under.
const MANY: u32 = 512;

/// A step, what a profile says of it, and how long ago one of many prompt tokens was over.
struct Priced<'a> {
    us: f64,
    ago_ms: f64,
    step: &'a RealStep,
}

impl Priced<'_> {
    fn is_decode(&self) -> bool {
        self.step.prompts.is_empty()
    }
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
