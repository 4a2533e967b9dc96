//! `aril list`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use aril_sim::gpu::Gpu;
use aril_sim::model::Model;
use serde::Serialize;

use super::{Format, Listed, output};
use crate::document::{Changes, Document};
use crate::error::ArilError;
use crate::node::Value;
use crate::registry::Registry;

/// A list: its headings and rows.
struct List {
    headings: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

pub(super) fn list(registry: &Registry, what: Listed, format: Format) -> Result<ExitCode, ArilError> {
    let list = match what {
        Listed::Policies => return policies(registry, format),
        Listed::Profiles => profiles(),
        Listed::Scenarios => scenarios(),
        Listed::Traces => traces(),
        Listed::Models => models(),
        Listed::Gpus => gpus(),
    };
    let headings: Vec<String> = list.headings.iter().map(|heading| (*heading).to_owned()).collect();
    match format {
        Format::Table => output::print(&output::table(&headings, &list.rows)),
        Format::Json => {
            let object = |row: &Vec<String>| {
                let fields =
                    list.headings.iter().zip(row).map(|(key, value)| ((*key).to_owned(), value.clone().into()));
                serde_json::Value::Object(fields.collect())
            };
            output::print(&output::json(&list.rows.iter().map(object).collect::<Vec<_>>())?)
        }
    }
}

fn policies(registry: &Registry, format: Format) -> Result<ExitCode, ArilError> {
    #[derive(Serialize)]
    struct Preset<'a> {
        name: &'a str,
        keys: &'a crate::node::Node,
    }
    let presets: Vec<_> = registry.presets().map(|(name, keys)| Preset { name, keys }).collect();
    if format == Format::Json {
        return output::print(&output::json(
            &serde_json::json!({ "policies": registry.abouts(), "presets": presets }),
        )?);
    }
    let mut text = String::new();
    let mut kind = "";
    for about in registry.abouts() {
        if about.kind != kind {
            kind = about.kind;
            text += &format!("{}[{kind}]\n", if text.is_empty() { "" } else { "\n" });
        }
        text += &format!("  {}: {}\n    source: {}\n", about.name, about.summary, about.source);
        match &about.tunables {
            Some(tunables) if !tunables.is_empty() => {
                let tunables: Vec<_> = tunables.iter().map(|(key, value)| format!("{key} = {value}")).collect();
                text += &format!("    {{ {} }}\n", tunables.join(", "));
            }
            Some(_) => {}
            None => text += "    some of its tunables have no default\n",
        }
    }
    text += "\n[preset]\n";
    for preset in &presets {
        let keys = preset.keys.entries().iter().map(|entry| format!("{} = {}", entry.key, entry.node.label()));
        text += &format!("  {}: {}\n", preset.name, keys.collect::<Vec<_>>().join(", "));
    }
    output::print(&text)
}

fn profiles() -> List {
    let rows = aril_calibrate::profiles()
        .iter()
        .filter_map(|shipped| {
            let profile = shipped.profile().ok()?;
            let kernels: Vec<&str> = profile.lora.keys().map(|kernel| kernel.as_str()).collect();
            Some(vec![
                shipped.family.to_owned(),
                shipped.model.to_owned(),
                shipped.tensor_parallel.to_string(),
                profile.gpu.name.clone(),
                profile.provenance.kind.as_str().to_owned(),
                kernels.join(", "),
                profile.provenance.source.clone(),
            ])
        })
        .collect();
    List { headings: vec!["profile", "model", "tensor_parallel", "gpu", "provenance", "lora_kernels", "source"], rows }
}

fn traces() -> List {
    let row = |shipped: &aril_traces::Shipped| {
        let text = |text: &str| text.to_owned();
        vec![
            text(shipped.name),
            shipped.rows.to_string(),
            text(shipped.description),
            text(shipped.licence),
            text(shipped.source),
        ]
    };
    List {
        headings: vec!["trace", "rows", "description", "licence", "source"],
        rows: aril_traces::shipped().iter().map(row).collect(),
    }
}

fn models() -> List {
    let row = |name: &'static str| {
        let model = Model::named(name)?;
        Some(vec![
            name.to_owned(),
            model.layers.to_string(),
            format!("{:.1}", model.parameters() as f64 / 1e9),
            format!("{:.1}", model.weight_bytes() as f64 / 1e9),
            (model.kv_bytes_per_token() / 1024).to_string(),
        ])
    };
    List {
        headings: vec!["model", "layers", "parameters_billion", "weights_gigabytes", "kv_kibibytes_per_token"],
        rows: Model::names().filter_map(row).collect(),
    }
}

fn gpus() -> List {
    let row = |name: &'static str| {
        let gpu = Gpu::named(name)?;
        Some(vec![
            name.to_owned(),
            format!("{:.1}", gpu.memory_bytes as f64 / 1e9),
            format!("{:.0}", gpu.gigabytes_per_second),
            format!("{:.0}", gpu.teraflops_16bit),
            gpu.source.clone(),
        ])
    };
    List {
        headings: vec!["gpu", "memory_gigabytes", "gigabytes_per_second", "teraflops_16bit", "source"],
        rows: Gpu::names().filter_map(row).collect(),
    }
}

/// The scenario files below `scenarios/`, from here or from where aril was built.
fn scenarios() -> List {
    let mut files = Vec::new();
    let built = Path::new(env!("CARGO_MANIFEST_DIR"));
    let here = Path::new("scenarios");
    for root in [here, built] {
        if root.is_dir() {
            find(root, &mut files);
            break;
        }
    }
    files.sort();
    let row = |path: PathBuf| {
        let document = Document::load(&path, &Changes::default()).ok()?;
        document.root.get(&["traffic"])?;
        let text = |key: &str| match document.root.get(&[key]).map(|node| &node.value) {
            Some(Value::String(text)) => text.clone(),
            _ => String::new(),
        };
        Some(vec![path.display().to_string(), text("name"), text("description")])
    };
    List { headings: vec!["file", "name", "description"], rows: files.into_iter().filter_map(row).collect() }
}

fn find(folder: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if path.is_dir() && !["src", "tests", "target"].contains(&name.as_str()) {
            find(&path, files);
        } else if name.ends_with(".toml") && name != "Cargo.toml" {
            files.push(path);
        }
    }
}
