//! `aril profile import-vidur`: a peer's prediction tables become a profile, to the last digit.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use aril_calibrate::{derive, text};
use aril_sim::gpu::Gpu;
use aril_sim::model::Model;
use aril_sim::profile::vidur::VidurTables;
use aril_sim::profile::{Assumption, Profile, Provenance, ProvenanceKind};
use aril_traces::{TraceError, read_vidur_costs};
use sha2::{Digest, Sha256};

use crate::cli::output;
use crate::error::ArilError;
use crate::wrong::suggest;

/// What Vidur calls its devices, and what they are called here.
const DEVICES: [(&str, &str); 3] = [("a100", "a100-80gb"), ("h100", "h100"), ("a40", "a40")];

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct ImportVidurArguments {
    /// The folder with a table for each operation: NAME.csv or NAME_HASH_predictions.csv, plain or compressed.
    folder: PathBuf,
    /// The model, as `aril list models` calls it [default: the one that the folder is called after].
    #[arg(long)]
    model: Option<String>,
    /// The GPU, as `aril list gpus` calls it [default: the one that the folder is called after; Vidur's a100 has 80 GB].
    #[arg(long)]
    gpu: Option<String>,
    /// The file to write [default: vidur-GPU-MODEL.toml].
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Replace a file that is already there.
    #[arg(long)]
    force: bool,
}

pub(super) fn import(arguments: &ImportVidurArguments) -> Result<ExitCode, ArilError> {
    let folder = &arguments.folder;
    let refuse =
        |problem: String, help: &str| ArilError::Input { path: folder.clone(), problem, help: help.to_owned() };
    if !folder.is_dir() {
        return Err(refuse("this is no folder".to_owned(), "name the folder that holds Vidur's prediction tables"));
    }
    if is_raw(folder) {
        let help = "run Vidur once with these files: its predictions are then in its cache, `cache/*_predictions.csv`";
        return Err(refuse("these are Vidur's measurements, not the predictions it makes of them".to_owned(), help));
    }
    let tables = read_vidur_costs(folder).map_err(|error: TraceError| ArilError::Trace(error))?;
    let model = chosen(folder, "model", arguments.model.as_deref(), Model::names(), &[])?;
    let gpu = chosen(folder, "gpu", arguments.gpu.as_deref(), Gpu::names(), &DEVICES)?;
    let out = arguments.out.clone().unwrap_or_else(|| PathBuf::from(format!("vidur-{gpu}-{model}.toml")));
    if out.exists() && !arguments.force {
        return Err(ArilError::Input {
            path: out,
            problem: "this file is already there".to_owned(),
            help: "choose another name with --out, or replace it with --force".to_owned(),
        });
    }
    let profile = profile_of(&tables, &model, &gpu, &name_of(folder))?;
    profile.check().map_err(|bad| refuse(bad.to_string(), "write the tables again"))?;
    fs::write(&out, text::write(&profile)).map_err(ArilError::io("write", &out))?;
    output::print(&told(&profile, &out))
}

/// Does the folder hold a profile before Vidur's forests have seen it?
fn is_raw(folder: &Path) -> bool {
    ["mlp.csv", "attention.csv"].iter().any(|file| folder.join(file).exists())
}

fn name_of(folder: &Path) -> String {
    let absolute = fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
    absolute.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

/// The one that was named, or else the one that the folder is called after.
fn chosen(
    folder: &Path,
    what: &str,
    named: Option<&str>,
    known: impl Iterator<Item = &'static str>,
    devices: &[(&'static str, &'static str)],
) -> Result<String, ArilError> {
    let known: Vec<&str> = known.collect();
    let refuse = |problem: String, help: String| ArilError::Input { path: folder.to_owned(), problem, help };
    if let Some(named) = named {
        return known.iter().find(|name| **name == named).map(|name| (*name).to_owned()).ok_or_else(|| {
            refuse(
                format!("--{what} {named}: there is no such {what}"),
                suggest(named, known.iter().copied(), "known are"),
            )
        });
    }
    let plain = |text: &str| text.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase();
    let of_folder = plain(&name_of(folder));
    let mut found: Vec<&str> = known.iter().copied().filter(|name| of_folder.contains(&plain(name))).collect();
    let by_device = devices.iter().filter(|(device, name)| of_folder.contains(device) && known.contains(name));
    found.extend(by_device.map(|(_, name)| name));
    // Of two names of which one contains the other, the longer one is meant.
    let longest = found.iter().map(|name| name.len()).max();
    found.retain(|name| Some(name.len()) == longest);
    found.dedup();
    match found.as_slice() {
        [only] => Ok((*only).to_owned()),
        _ => Err(refuse(
            format!("which {what} are these tables of? The folder's name does not say"),
            format!("say it with --{what}; {}", suggest("", known.iter().copied(), "known are")),
        )),
    }
}

fn profile_of(tables: &VidurTables, model: &str, gpu: &str, folder: &str) -> Result<Profile, ArilError> {
    let (model, gpu) = (Model::named(model).expect("it is known"), Gpu::named(gpu).expect("it is known"));
    let name = format!("vidur-{}-{}", gpu.name, model.name);
    // Vidur has no adapters: how they come to the GPU is what the data sheet says.
    let load = derive(&gpu, &model, 1)?.load;
    let assumption = |value: f64, unit: &str| Assumption {
        value,
        unit: unit.to_owned(),
        source: "Vidur has no adapters: the GPU's data sheet, as in the derived profile".to_owned(),
    };
    let assumptions = [
        ("load_us", assumption(load.us, "us")),
        ("load_pinned", assumption(load.pinned_gigabytes_per_second, "GB/s")),
        ("load_pageable", assumption(load.pageable_gigabytes_per_second, "GB/s")),
    ];
    let provenance = Provenance {
        kind: ProvenanceKind::Published,
        source: format!(
            "Vidur (Agrawal et al., MLSys 2024): prediction tables `{folder}`, sha256 of their figures {}",
            digest(tables)
        ),
        gpu: None,
        driver: None,
        cuda: None,
        clocks: None,
        kernel_source_hash: None,
        commit: None,
        date: None,
        note: Some(
            "Predictions of Vidur's forests, not measurements. Nothing is in them for embedding, LM head, sampling and the \
             host, nor for adapters: `lora_kernel = \"none\"`, or figures of a kernel added under `lora`."
                .to_owned(),
        ),
    };
    let mut profile = Profile::of_vidur(name, provenance, model, gpu, load, tables.clone());
    profile.assumptions = assumptions.into_iter().map(|(name, assumption)| (name.to_owned(), assumption)).collect();
    Ok(profile)
}

/// The figures in sixteen letters, in whatever files they came.
fn digest(tables: &VidurTables) -> String {
    let mut hash = Sha256::new();
    let operations = tables.operations.iter().map(|operation| &operation.cost);
    let all = operations.chain([&tables.kv_cache_save]).chain(&tables.decode).chain(&tables.prefill);
    for steps in all {
        steps.until.iter().for_each(|until| hash.update(until.to_le_bytes()));
        steps.ms.iter().for_each(|ms| hash.update(ms.to_le_bytes()));
    }
    hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

fn told(profile: &Profile, out: &Path) -> String {
    let tables = profile.vidur.as_ref().expect("it was made of them");
    let contexts = tables.decode.first().map_or(0, |row| row.last());
    format!(
        "{} ({}) in {}\n\
         {} on {}: steps of up to {} tokens, {} decode rows, contexts of {contexts} tokens\n\
         source: {}\n\
         use it: [pool.{}] profile = \"{}\", and lora_kernel = \"none\" in the engine\n",
        profile.name,
        profile.provenance.kind.as_str(),
        out.display(),
        profile.model.name,
        profile.gpu.name,
        tables.kv_cache_save.last(),
        tables.decode.len(),
        profile.provenance.source,
        profile.gpu.name,
        out.display(),
    )
}
