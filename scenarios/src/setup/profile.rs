//! Which profile does a pool mean, and which LoRA kernel of it?

use std::path::Path;
use std::sync::Arc;

use aril_calibrate::{CalibrateError, profiles, resolve};
use aril_sim::cost::CompiledCost;
use aril_sim::gpu::Gpu;
use aril_sim::model::Model;
use aril_sim::profile::lora::LoraKernel;
use aril_sim::profile::{Profile, ProvenanceKind};

use crate::document::read_text;
use crate::error::ArilError;
use crate::scenario::{Engine, Pool};
use crate::wrong::{Wrong, listed, nearest, suggest};

/// The profile of a pool; writes its name into the pool.
pub(super) fn of(name: &str, pool: &mut Pool, model: &Model, directory: &Path) -> Result<Profile, Wrong> {
    let at = |key: &str, problem: String| Wrong {
        path: vec!["pool".to_owned(), name.to_owned(), key.to_owned()],
        ..Wrong::new(problem)
    };
    if pool.tensor_parallel == 0 {
        return Err(at("tensor_parallel", "0 GPUs cannot hold a model".to_owned()).help("write 1 or more"));
    }
    model.check_tensor_parallel(pool.tensor_parallel).map_err(|problem| at("tensor_parallel", problem))?;
    let gpu_name = pool.gpu.clone();
    let gpu = |named: &str| {
        let names: Vec<_> = Gpu::names().collect();
        Gpu::named(named).ok_or_else(|| {
            let key = if gpu_name.is_some() { "gpu" } else { "" };
            let mut wrong = at(key, format!("there is no GPU `{named}`"));
            wrong.path.retain(|key| !key.is_empty());
            let hint = suggest(named, names.iter().copied(), "known GPUs");
            wrong.help(if gpu_name.is_some() {
                hint
            } else {
                format!("call the pool after its GPU, or set `gpu`; {hint}")
            })
        })
    };
    let wanted = pool.gpu.clone().unwrap_or_else(|| name.to_owned());
    let what = format!("{} on {} × {wanted}", model.name, pool.tensor_parallel);
    let profile = match pool.profile.clone() {
        Some(file) if is_path(&file) => read(&file, directory).map_err(|(problem, help)| {
            let wrong = at("profile", problem);
            if help.is_empty() { wrong } else { wrong.help(help) }
        })?,
        Some(family) => {
            resolve(&family, model, pool.tensor_parallel).map_err(|error| unresolved(error, &what, &wanted, &at))?
        }
        None => {
            let gpu = gpu(&wanted)?;
            let family = default_family(&gpu, model, pool.tensor_parallel);
            pool.profile = Some(family.clone());
            resolve(&family, model, pool.tensor_parallel).map_err(|error| unresolved(error, &what, &wanted, &at))?
        }
    };
    if profile.model != *model {
        let (theirs, ours) = (describe(&profile.model), describe(model));
        return Err(at("profile", format!("this profile is for {theirs}, and the scenario's model is {ours}")));
    }
    if profile.tensor_parallel != pool.tensor_parallel {
        let problem =
            format!("this profile is for {} GPUs a replica, not {}", profile.tensor_parallel, pool.tensor_parallel);
        return Err(at("profile", problem));
    }
    // A pool that is called after no GPU takes the profile's.
    if (pool.gpu.is_some() || Gpu::named(&wanted).is_some()) && gpu(&wanted)?.name != profile.gpu.name {
        return Err(at("profile", format!("this profile is for {}, and the pool's GPU is {wanted}", profile.gpu.name)));
    }
    Ok(profile)
}

fn is_path(name: &str) -> bool {
    name.contains(['/', '\\']) || name.ends_with(".toml") || name.ends_with(".profile")
}

/// A profile in a file, or what is wrong with it and what to do.
fn read(file: &str, directory: &Path) -> Result<Profile, (String, &'static str)> {
    let path = directory.join(file);
    let text = read_text(&path).map_err(|error| match error {
        _ if !path.exists() => (
            format!("{}: there is no such file", path.display()),
            "paths are relative to the scenario file; `aril list profiles` names those that come with aril",
        ),
        ArilError::Input { problem, .. } => (format!("{}: {problem}", path.display()), "save it as UTF-8"),
        other => (other.to_string(), ""),
    })?;
    aril_calibrate::text::read(&path.display().to_string(), &text).map_err(|error| (error.to_string(), ""))
}

fn describe(model: &Model) -> String {
    format!("{} ({:?} weights, {:?} KV cache)", model.name, model.weights, model.kv_cache).to_lowercase()
}

fn unresolved(error: CalibrateError, what: &str, gpu: &str, at: &dyn Fn(&str, String) -> Wrong) -> Wrong {
    match error {
        CalibrateError::Unknown { name, known, .. } => {
            // Of names that are as near, one for the pool's GPU.
            let all = || known.iter().map(String::as_str);
            let ours = all().filter(|known| known.contains(&gpu.to_lowercase()));
            let near = nearest(&name, ours).or_else(|| nearest(&name, all()));
            at("profile", format!("there is no profile `{name}`")).help(listed(near, all(), "known profiles"))
        }
        CalibrateError::DoesNotFit(problem) => at("replicas", format!("{what}: {problem}")),
        other => at("profile", other.to_string()),
    }
}

/// The measured profile of this GPU and model if one ships, else the one derived from its data sheet.
fn default_family(gpu: &Gpu, model: &Model, tensor_parallel: u32) -> String {
    let measured = profiles().iter().find(|shipped| {
        shipped.model == model.name
            && shipped.tensor_parallel == tensor_parallel
            && shipped.profile().is_ok_and(|profile| {
                profile.gpu.name == gpu.name
                    && profile.provenance.kind == ProvenanceKind::Measured
                    && profile.model == *model
            })
    });
    measured.map_or_else(|| format!("derived-{}", gpu.name), |shipped| shipped.family.to_owned())
}

/// One replica on the best GPU that this model was measured on, or on several of them: what a scenario means that names no pool.
pub(super) fn measured_pool(model: &Model) -> Option<(String, Pool)> {
    let measured = profiles().iter().filter(|shipped| shipped.model == model.name);
    let measured = measured.filter_map(|shipped| {
        let profile = shipped.profile().ok()?;
        (profile.provenance.kind == ProvenanceKind::Measured && profile.model == *model).then_some(profile)
    });
    let best = measured.max_by(|a, b| a.gpu.gigabytes_per_second.total_cmp(&b.gpu.gigabytes_per_second))?;
    Some((best.gpu.name, Pool { tensor_parallel: best.tensor_parallel, ..Pool::of_replicas(1) }))
}

/// The kernel that the engine names, or its usual one, as far as every profile has it; and every profile compiled for it.
pub(super) fn kernel(engine: &Engine, profiles: &[Arc<Profile>]) -> Result<(LoraKernel, Vec<CompiledCost>), Wrong> {
    let has =
        |kernel: LoraKernel| kernel.is_free() || profiles.iter().all(|profile| profile.lora.contains_key(&kernel));
    let known = LoraKernel::ALL.into_iter().filter(|kernel| has(*kernel)).map(LoraKernel::as_str);
    let key = format!("engine.{}.lora_kernel", engine.kind());
    let usual: &[LoraKernel] = match engine {
        Engine::Vllm(_) => &[LoraKernel::Padded, LoraKernel::Segmented, LoraKernel::Sgmv],
        Engine::Aril(_) => &[LoraKernel::Segmented, LoraKernel::Sgmv, LoraKernel::Padded],
    };
    let kernel = match engine.settings().lora_kernel {
        Some(kernel) if has(kernel) => kernel,
        Some(kernel) => {
            let names: Vec<_> = profiles.iter().map(|profile| profile.name.as_str()).collect();
            return Err(Wrong::at(
                &key,
                format!("profile `{}` has no figures for the kernel `{kernel}`", names.join("`, `")),
            )
            .help(suggest(kernel.as_str(), known, "it has")));
        }
        None => match usual.iter().copied().find(|kernel| has(*kernel)) {
            Some(kernel) => kernel,
            None => {
                return Err(Wrong::at(&key, "no usual LoRA kernel is in the profile: name one")
                    .help(suggest("", known, "it has")));
            }
        },
    };
    let compile =
        |profile: &Arc<Profile>| CompiledCost::compile(profile, kernel).map_err(|bad| Wrong::at(&key, bad.to_string()));
    Ok((kernel, profiles.iter().map(compile).collect::<Result<_, _>>()?))
}
