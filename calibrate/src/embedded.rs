//! The profiles that ship with the program.

use std::path::{Path, PathBuf};

use aril_sim::gpu::Gpu;
use aril_sim::model::Model;
use aril_sim::profile::Profile;

use crate::derive::derive;
use crate::error::CalibrateError;
use crate::fit::fit;
use crate::recording::Recording;
use crate::text;

/// A profile that ships with the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Embedded {
    /// What scenarios call it, together with its siblings for other models: `punica-a100-80gb`.
    pub family: &'static str,
    /// The model it is for.
    pub model: &'static str,
    /// The GPUs that share the model.
    pub tensor_parallel: u32,
    /// The TOML as committed.
    pub text: &'static str,
}

impl Embedded {
    /// Its own name: the family, the model, and `-tp8` where 8 GPUs share it.
    pub fn name(&self) -> String {
        full_name(self.family, self.model, self.tensor_parallel)
    }

    /// Did a GPU measure it?
    pub fn is_measured(&self) -> bool {
        self.family.starts_with("measured-")
    }

    /// The profile.
    ///
    /// # Errors
    /// Never for what ships: a test reads every one.
    pub fn profile(&self) -> Result<Profile, CalibrateError> {
        text::read(&self.name(), self.text)
    }
}

macro_rules! embedded {
    ($($family:literal: $($model:literal $degree:literal $file:literal),+;)*) => {
        &[$($(Embedded {
            family: $family,
            model: $model,
            tensor_parallel: $degree,
            text: include_str!(concat!("../profiles/", $file, ".toml")),
        }),+),*]
    };
}

const PROFILES: &[Embedded] = embedded! {
    "measured-h200":
        "llama-2-7b" 1 "measured-h200-llama-2-7b",
        "llama-2-13b" 1 "measured-h200-llama-2-13b",
        "llama-3.1-8b" 1 "measured-h200-llama-3.1-8b",
        "llama-3.1-70b" 8 "measured-h200-llama-3.1-70b-tp8";
    "measured-h100":
        "llama-2-7b" 1 "measured-h100-llama-2-7b";
    "punica-a100-80gb":
        "llama-2-7b" 1 "punica-a100-80gb-llama-2-7b",
        "llama-2-13b" 1 "punica-a100-80gb-llama-2-13b";
    "punica-a100-80gb-vllm":
        "llama-2-7b" 1 "punica-a100-80gb-vllm-llama-2-7b",
        "llama-2-13b" 1 "punica-a100-80gb-vllm-llama-2-13b";
    "punica-a100-80gb-fastertransformer":
        "llama-2-7b" 1 "punica-a100-80gb-fastertransformer-llama-2-7b",
        "llama-2-13b" 1 "punica-a100-80gb-fastertransformer-llama-2-13b";
    "punica-a100-80gb-deepspeed":
        "llama-2-7b" 1 "punica-a100-80gb-deepspeed-llama-2-7b",
        "llama-2-13b" 1 "punica-a100-80gb-deepspeed-llama-2-13b";
    "punica-a100-80gb-hf":
        "llama-2-7b" 1 "punica-a100-80gb-hf-llama-2-7b",
        "llama-2-13b" 1 "punica-a100-80gb-hf-llama-2-13b";
    "punica-a100-40gb":
        "llama-2-7b" 1 "punica-a100-40gb-llama-2-7b",
        "llama-2-13b" 1 "punica-a100-40gb-llama-2-13b";
    "derived-a100-40gb":
        "llama-2-7b" 1 "derived-a100-40gb-llama-2-7b",
        "llama-2-13b" 1 "derived-a100-40gb-llama-2-13b",
        "llama-3.1-8b" 1 "derived-a100-40gb-llama-3.1-8b",
        "llama-3.1-70b" 8 "derived-a100-40gb-llama-3.1-70b-tp8";
    "derived-a100-80gb":
        "llama-2-7b" 1 "derived-a100-80gb-llama-2-7b",
        "llama-2-13b" 1 "derived-a100-80gb-llama-2-13b",
        "llama-3.1-8b" 1 "derived-a100-80gb-llama-3.1-8b",
        "llama-3.1-70b" 8 "derived-a100-80gb-llama-3.1-70b-tp8";
    "derived-h100":
        "llama-2-7b" 1 "derived-h100-llama-2-7b",
        "llama-2-13b" 1 "derived-h100-llama-2-13b",
        "llama-3.1-8b" 1 "derived-h100-llama-3.1-8b",
        "llama-3.1-70b" 8 "derived-h100-llama-3.1-70b-tp8";
    "derived-h200":
        "llama-2-7b" 1 "derived-h200-llama-2-7b",
        "llama-2-13b" 1 "derived-h200-llama-2-13b",
        "llama-3.1-8b" 1 "derived-h200-llama-3.1-8b",
        "llama-3.1-70b" 8 "derived-h200-llama-3.1-70b-tp8";
};

/// All profiles that ship with the program.
pub fn profiles() -> &'static [Embedded] {
    PROFILES
}

/// The profile of exactly this name.
///
/// # Errors
/// When there is none; the error names the nearest and all.
pub fn find(name: &str) -> Result<&'static Embedded, CalibrateError> {
    let known = || PROFILES.iter().map(Embedded::name);
    PROFILES.iter().find(|profile| profile.name() == name).ok_or_else(|| unknown(name, known().collect()))
}

/// The profile that a scenario means by a name, for its model and number of GPUs.
///
/// The name is that of a family (`punica-a100-80gb`) or of one profile of it. A family `derived-GPU` of any known GPU is
/// made on the spot where it does not ship for the model.
///
/// # Errors
/// When there is no such name, or none for this model and number of GPUs, or when the model does not fit.
pub fn resolve(name: &str, model: &Model, tensor_parallel: u32) -> Result<Profile, CalibrateError> {
    let wanted = |profile: &&Embedded| profile.model == model.name && profile.tensor_parallel == tensor_parallel;
    let named: Vec<_> = PROFILES.iter().filter(|profile| profile.family == name || profile.name() == name).collect();
    if let Some(profile) = named.iter().copied().find(wanted) {
        let profile = profile.profile()?;
        // Other precisions than those of the committed profile are another profile.
        if profile.model == *model {
            return Ok(profile);
        }
    }
    if let Some(gpu) = name.strip_prefix("derived-").and_then(Gpu::named) {
        return derive(&gpu, model, tensor_parallel);
    }
    if named.is_empty() {
        let mut families: Vec<_> = PROFILES.iter().map(|profile| profile.family.to_owned()).collect();
        families.dedup();
        families.extend(
            Gpu::names().map(|gpu| format!("derived-{gpu}")).filter(|name| !PROFILES.iter().any(|p| p.family == name)),
        );
        return Err(unknown(name, families));
    }
    Err(CalibrateError::NotForModel {
        family: name.to_owned(),
        model: format!("{} ({:?} weights, {:?} KV)", model.name, model.weights, model.kv_cache),
        tensor_parallel,
        known: named.iter().map(|profile| format!("{} on {}", profile.model, profile.tensor_parallel)).collect(),
    })
}

/// The name of one profile of a family.
pub(crate) fn full_name(family: &str, model: &str, tensor_parallel: u32) -> String {
    match tensor_parallel {
        1 => format!("{family}-{model}"),
        degree => format!("{family}-{model}-tp{degree}"),
    }
}

/// The committed measurements of a profile: `NAME.jsonl.gz`, or `NAME.jsonl`.
pub fn recorded(measurements: &Path, name: &str) -> PathBuf {
    let packed = measurements.join(format!("{name}.jsonl.gz"));
    if packed.is_file() { packed } else { measurements.join(format!("{name}.jsonl")) }
}

/// Every committed profile that no GPU measured, made anew: its name and its TOML.
///
/// # Errors
/// When the published figures cannot be read or met.
pub fn make(requests: &[crate::published::TextgenRequest]) -> Result<Vec<(String, String)>, CalibrateError> {
    let facts = crate::published::facts()?;
    let mut made = Vec::new();
    for profile in PROFILES.iter().filter(|profile| !profile.is_measured()) {
        let profile = match profile.family.strip_prefix("derived-").and_then(Gpu::named) {
            Some(gpu) => derive(&gpu, &named(profile.model)?, profile.tensor_parallel)?,
            None => crate::published::profile(&facts, requests, profile.family, &named(profile.model)?)?,
        };
        made.push((profile.name.clone(), text::write(&profile)));
    }
    Ok(made)
}

/// A measured profile, fitted anew to what is [`recorded`] in `measurements`, and judged.
///
/// # Errors
/// When the measurements are missing or damaged.
pub fn make_measured(name: &str, measurements: &Path) -> Result<String, CalibrateError> {
    let file = recorded(measurements, name);
    let fitted = fit(&Recording::read(&file)?, name, &file.display().to_string())?;
    Ok(text::write(&fitted.profile))
}

fn named(model: &str) -> Result<Model, CalibrateError> {
    Model::named(model).ok_or_else(|| unknown(model, Model::names().map(str::to_owned).collect()))
}

fn unknown(name: &str, known: Vec<String>) -> CalibrateError {
    let nearest = known
        .iter()
        .map(|known| (strsim::jaro_winkler(name, known), known))
        .filter(|(similarity, _)| *similarity > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, known)| known.clone());
    CalibrateError::Unknown { name: name.to_owned(), nearest, known }
}
