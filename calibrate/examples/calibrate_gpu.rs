//! Calibrates the GPU of this machine: writes the measurements, and nothing else, for time on a GPU is dear; `fit_profile` fits them anywhere.
//!
//! `calibrate_gpu MODEL TENSOR_PARALLEL MEASUREMENTS.jsonl SECONDS DATE COMMIT`; goes on with a file that is there.

use std::env;
use std::error::Error;
use std::path::Path;

use aril_calibrate::machine::Machine;
use aril_calibrate::machine::gpu::LlamaGpu;
use aril_calibrate::measure::{Budget, measure};
use aril_calibrate::plan::Plan;
use aril_calibrate::recording::Writer;
use aril_sim::profile::lora::LoraKernel;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [model, degree, file, seconds, date, commit] = arguments.as_slice() else {
        return Err("MODEL TENSOR_PARALLEL MEASUREMENTS.jsonl SECONDS DATE COMMIT".into());
    };
    let path = Path::new(file);
    let mut gpu = LlamaGpu::open(model, degree.parse()?)?;
    println!("{} opened in {:.1} s", gpu.identity().gpu, gpu.seconds());
    let plan = Plan::new(&gpu.identity().clone(), &LoraKernel::ALL, 1);
    let (mut writer, already) = match path.exists() {
        true => Writer::resume(path).map(|(writer, recording)| (writer, Some(recording)))?,
        false => (Writer::create(path)?, None),
    };
    let budget =
        Budget { seconds: seconds.parse::<f64>()? - gpu.seconds(), date: date.clone(), commit: commit.clone() };
    let mut last = (0, 0.0);
    let measured = measure(&mut gpu, &plan, already.as_ref(), &mut writer, &budget, &mut |progress| {
        if progress.done >= last.0 + 200 {
            println!(
                "{} of {} after {:.1} s ({})",
                progress.done,
                progress.of,
                progress.seconds,
                progress.question.key()
            );
            last = (progress.done, progress.seconds);
        }
    });
    gpu.gemm_plans().iter().for_each(|plan| println!("{plan}"));
    match measured {
        Ok(measured) => {
            println!(
                "{} points, {} missing, {:.1} s of an estimated {:.1}",
                measured.points,
                measured.missing.len(),
                measured.seconds,
                plan.seconds()
            );
            let mut skipped: Vec<String> = measured.skipped.into_iter().map(|(_, why)| why).collect();
            skipped.dedup();
            skipped.iter().take(20).for_each(|why| println!("skipped: {why}"));
        }
        Err(error) => println!("cut short: {error}"),
    }
    Ok(())
}
