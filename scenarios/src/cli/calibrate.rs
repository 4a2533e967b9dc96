//! `aril calibrate`.

use std::collections::BTreeMap;
use std::fs;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use aril_calibrate::CalibrateError;
use aril_calibrate::machine::gpu::LlamaGpu;
use aril_calibrate::machine::synthetic::SyntheticGpu;
use aril_calibrate::machine::{Machine, Question};
use aril_calibrate::measure::{Budget, Measured, Progress, measure};
use aril_calibrate::plan::{Plan, kind};
use aril_calibrate::recording::{Recording, Writer};
use aril_sim::gpu::Gpu;
use aril_sim::profile::lora::LoraKernel;
use aril_sim::time::Span;
use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};

use super::output;
use crate::error::ArilError;
use crate::manifest::build;
use crate::run::now;
use crate::wrong::Wrong;

#[derive(Debug, clap::Args)]
pub(super) struct CalibrateArguments {
    /// The model whose step is measured: llama-2-7b, llama-2-13b, llama-3.1-8b, or llama-3.1-70b with --tensor-parallel 8.
    #[arg(long)]
    model: String,
    /// GPUs that share the model; one GPU's part is measured.
    #[arg(long, default_value_t = 1)]
    tensor_parallel: u32,
    /// The folder for the measurements and the profile.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// How long the GPU may be used. What is left out then can be measured later with --resume.
    #[arg(long, default_value = "9m")]
    budget: Span,
    /// Go on with measurements that are there.
    #[arg(long)]
    resume: bool,
    /// Which random shapes are measured, and in which order.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// What is measured: the first GPU of this machine, or a made-up one, to try the command without any.
    #[arg(long, default_value = "gpu")]
    machine: MachineChoice,
    /// Draw no progress bar.
    #[arg(long)]
    quiet: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum MachineChoice {
    /// The first GPU.
    Gpu,
    /// A made-up H200 with Llama-2-7B, whose noise the seed decides.
    Synthetic,
}

pub(super) fn calibrate(arguments: &CalibrateArguments) -> Result<ExitCode, ArilError> {
    let mut machine: Box<dyn Machine> = match arguments.machine {
        MachineChoice::Gpu => Box::new(LlamaGpu::open(&arguments.model, arguments.tensor_parallel)?),
        MachineChoice::Synthetic => Box::new(made_up(&arguments.model, arguments.seed)?),
    };
    has_data_sheet(&machine.identity().gpu_name)?;
    fs::create_dir_all(&arguments.out).map_err(ArilError::io("create the folder", &arguments.out))?;
    let name = name(machine.as_ref(), arguments.machine);
    let file = arguments.out.join(format!("{name}.jsonl"));
    let (mut writer, already) = open(&file, arguments.resume)?;
    let plan = Plan::new(&machine.identity().clone(), &LoraKernel::ALL, arguments.seed);
    // A made-up machine has no day: the same seed gives the same bytes.
    let date = match arguments.machine {
        MachineChoice::Gpu => now().chars().take(10).collect(),
        MachineChoice::Synthetic => "2000-01-01".to_owned(),
    };
    let budget = Budget { seconds: arguments.budget.as_secs_f64(), date, commit: build().commit.to_owned() };
    let bar = bar(!arguments.quiet && std::io::stderr().is_terminal());
    let measured =
        measure(machine.as_mut(), &plan, already.as_ref(), &mut writer, &budget, &mut |progress: Progress| {
            bar.set_length(progress.of as u64);
            bar.set_position(progress.done as u64);
            bar.set_message(label(progress.question));
        })?;
    bar.finish_and_clear();
    drop((machine, writer));
    let recording = Recording::read(&file)?;
    let fitted = aril_calibrate::fit::fit(&recording, &name, &file.display().to_string())
        .map_err(|error| too_few(error, measured.missing.len(), &file))?;
    let profile = arguments.out.join(format!("{name}.toml"));
    fs::write(&profile, aril_calibrate::write(&fitted.profile)).map_err(ArilError::io("write", &profile))?;
    output::print(&told(&measured, &fitted, &recording, &file, &profile))
}

/// The machine that is made up, which computes one model.
fn made_up(model: &str, seed: u64) -> Result<SyntheticGpu, Wrong> {
    let gpu = SyntheticGpu::h200_llama_2_7b(seed);
    let known = &gpu.identity().model.name;
    if model != known {
        return Err(Wrong::new(format!("the made-up GPU has no `{model}`")).help(format!("it computes {known}")));
    }
    Ok(gpu)
}

/// Where questions are missing, more time is what helps.
fn too_few(error: CalibrateError, missing: usize, file: &Path) -> ArilError {
    if missing == 0 {
        return error.into();
    }
    ArilError::Input {
        path: file.to_owned(),
        problem: format!("{error}: {missing} questions are missing"),
        help: "what was measured is kept: go on with --resume".to_owned(),
    }
}

/// What bounds the operations of a GPU is in its data sheet: without one, nothing that was measured could be fitted.
fn has_data_sheet(gpu: &str) -> Result<(), Wrong> {
    if Gpu::named(gpu).is_some() {
        return Ok(());
    }
    let known: Vec<&str> = Gpu::names().collect();
    Err(Wrong::new(format!("there is no data sheet of the GPU `{gpu}`"))
        .help(format!("a calibration fits {}", known.join(", "))))
}

/// The family of measured profiles of this GPU, and its model: what scenarios find it by.
fn name(machine: &dyn Machine, choice: MachineChoice) -> String {
    let identity = machine.identity();
    let kind = if choice == MachineChoice::Gpu { "measured" } else { "synthetic" };
    let gpu: String =
        identity.gpu_name.to_lowercase().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    match identity.tensor_parallel {
        1 => format!("{kind}-{gpu}-{}", identity.model.name),
        degree => format!("{kind}-{gpu}-{}-tp{degree}", identity.model.name),
    }
}

fn open(file: &Path, resume: bool) -> Result<(Writer, Option<Recording>), ArilError> {
    match (file.exists(), resume) {
        (false, _) => Ok((Writer::create(file)?, None)),
        (true, true) => Writer::resume(file).map(|(writer, recording)| (writer, Some(recording))).map_err(Into::into),
        (true, false) => Err(ArilError::Input {
            path: file.to_owned(),
            problem: "there are measurements already".to_owned(),
            help: "go on with them with --resume, or choose another folder with --out".to_owned(),
        }),
    }
}

fn bar(draw: bool) -> ProgressBar {
    if !draw {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} {elapsed} {msg:40!}");
    ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// A question in a few words.
fn label(question: &Question) -> String {
    let rows = question.shape().map_or(0, |shape| shape.rows());
    match question {
        Question::Operation { operation, .. } => format!("{operation}, {rows} rows"),
        Question::Lora { kernel, .. } => format!("adapters, {kernel}, {rows} rows"),
        Question::Step { .. } => format!("a step of {rows} rows"),
        Question::Added { .. } => format!("adapters of a step of {rows} rows"),
        Question::Behind { .. } => format!("{rows} rows behind prompts"),
        Question::Served { steps, .. } => format!("{steps} steps of a run"),
        Question::Host { .. } => format!("the host's part of {rows} rows"),
        Question::Load { rank, .. } => format!("a load of rank {rank}"),
        Question::StepBesideLoad { .. } => "a step beside a load".to_owned(),
        Question::Switch { .. } => "a switch of merged weights".to_owned(),
        Question::Copy { .. } => "a copy".to_owned(),
    }
}

fn told(
    measured: &Measured,
    fitted: &aril_calibrate::fit::Fitted,
    recording: &Recording,
    file: &Path,
    profile: &Path,
) -> String {
    let mut text = format!(
        "{} points in {:.0} s, {} without an answer, {} missing\n",
        measured.points,
        measured.seconds,
        recording.skipped.len(),
        measured.missing.len()
    );
    if !measured.missing.is_empty() {
        let stage = measured.missing[0].stage;
        let seconds: f64 = measured.missing.iter().map(|planned| planned.seconds).sum();
        text += &format!("missing from stage {stage} on, about {seconds:.0} s of work: go on with --resume\n");
        let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
        measured.missing.iter().for_each(|planned| *kinds.entry(kind(&planned.question)).or_default() += 1);
        let kinds: Vec<String> = kinds.into_iter().map(|(kind, count)| format!("{kind}: {count}")).collect();
        text += &format!("missing by kind: {}\n", kinds.join("; "));
    }
    let headings =
        ["held out", "how", "shapes", "median %", "95th %", "mean %", "median us", "95th us"].map(str::to_owned);
    let rows: Vec<Vec<String>> = fitted
        .profile
        .held_out
        .iter()
        .map(|e| {
            let [median, p95] = [e.median_percent, e.p95_percent].map(|percent| format!("{percent:.2}"));
            let mean = format!("{:+.2}", e.mean_signed_percent);
            let [median_us, p95_us] =
                [e.median_us, e.p95_us].map(|us| us.map_or(String::new(), |us| format!("{us:.1}")));
            vec![e.of.clone(), e.split.clone(), e.shapes.to_string(), median, p95, mean, median_us, p95_us]
        })
        .collect();
    text += &output::table(&headings, &rows);
    text += "\nbias of whole steps that the fit had not seen\n";
    fitted.bias.iter().for_each(|bias| text += &format!("{bias}\n"));
    fitted.notes.iter().for_each(|note| text += &format!("note: {note}\n"));
    text += &format!("{}\n{}\n", file.display(), profile.display());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_that_nothing_could_be_fitted_for_is_refused_before_it_is_measured() {
        assert!(has_data_sheet("h200").is_ok());
        let refused = has_data_sheet("NVIDIA RTX A6000").unwrap_err().to_string();
        assert!(refused.contains("NVIDIA RTX A6000") && refused.contains("h100"), "{refused}");
    }
}
