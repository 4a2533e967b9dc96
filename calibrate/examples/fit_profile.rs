//! Fits a profile to a file of measurements, prints how far it is from what it never saw, and writes it.
//!
//! `cargo run --release -p aril-calibrate --example fit_profile MEASUREMENTS.jsonl NAME [OUT.toml [unjudged]]`; without a file: a made-up GPU.
//! `unjudged`: a tenth of the time, and no errors.

use std::env;
use std::error::Error;
use std::fs;
use std::path::Path;

use aril_calibrate::fit::{fit, unjudged};
use aril_calibrate::machine::Machine;
use aril_calibrate::machine::synthetic::SyntheticGpu;
use aril_calibrate::measure::{Budget, measure};
use aril_calibrate::plan::Plan;
use aril_calibrate::recording::{Recording, Writer};
use aril_sim::profile::lora::LoraKernel;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let (recording, name) = match arguments.as_slice() {
        [file, name, ..] => (Recording::read(Path::new(file))?, name.as_str()),
        _ => (made_up()?, "synthetic-h200-llama-2-7b"),
    };
    if let [file, name, out, how] = arguments.as_slice()
        && how == "unjudged"
    {
        fs::write(out, aril_calibrate::write(&unjudged(&recording, name, file)?))?;
        return Ok(());
    }
    let began = std::time::Instant::now();
    let fitted = fit(&recording, name, name)?;
    println!("fitted and judged in {:.1} s", began.elapsed().as_secs_f64());
    for e in &fitted.profile.held_out {
        println!(
            "{:<36} {:<44} {:>4}: median {:>6.2} %, p95 {:>6.2} %, mean {:+6.2} %",
            e.of, e.split, e.shapes, e.median_percent, e.p95_percent, e.mean_signed_percent
        );
    }
    fitted.bias.iter().for_each(|bias| println!("{bias}"));
    fitted.notes.iter().for_each(|note| println!("note: {note}"));
    if let Some(out) = arguments.get(2) {
        fs::write(out, aril_calibrate::write(&fitted.profile))?;
    } else {
        let text = aril_calibrate::write(&fitted.profile);
        println!("{} bytes", text.len());
        println!("{:?}", fitted.profile.whole_step);
    }
    Ok(())
}

fn made_up() -> Result<Recording, Box<dyn Error>> {
    let mut gpu = SyntheticGpu::h200_llama_2_7b(1);
    let plan = Plan::new(&gpu.identity().clone(), &LoraKernel::ALL, 1);
    let path = env::temp_dir().join(format!("aril-synthetic-{}.jsonl", std::process::id()));
    let mut writer = Writer::create(&path)?;
    let budget = Budget { seconds: 600.0, date: "2000-01-01".to_owned(), commit: "none".to_owned() };
    let measured = measure(&mut gpu, &plan, None, &mut writer, &budget, &mut |_| {})?;
    println!(
        "{} points, {} missing, {:.0} s; plan {:.0} s",
        measured.points,
        measured.missing.len(),
        measured.seconds,
        plan.seconds()
    );
    let recording = Recording::read(&path)?;
    println!("{} bytes of measurements", fs::metadata(&path)?.len());
    fs::remove_file(&path)?;
    Ok(recording)
}
