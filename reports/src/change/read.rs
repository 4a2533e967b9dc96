//! From a run directory to a recording.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::baseline::{self, Baseline};
use super::fact_digest::digest_of;
use super::recording::{Identity, Recorded, Recording};
use crate::ReportError;
use crate::run_dir::MARKER;
use crate::summary::{SCHEMA, Summary};

const RUN_AGAIN: &str = "run the scenario again, with `aril run`, and compare the new run directory";
const WHAT_IT_TAKES: &str = "name a run directory of `aril run`, its summary.json, or a baseline of `aril regress`";
/// What a scenario may differ in and still be the same question.
const NOT_THE_QUESTION: [&str; 4] = ["seed", "seeds", "description", "report"];

impl Recording {
    /// Reads a run directory, its `summary.json`, or a baseline.
    ///
    /// # Errors
    /// [`ReportError::Unusable`] for whatever is missing, cut short, or of another version.
    pub fn read(path: &Path) -> Result<Recording, ReportError> {
        if path.is_file() && path.file_name().is_some_and(|name| name.to_string_lossy().ends_with(baseline::SUFFIX)) {
            return Ok(Baseline::read(path)?.recording(path));
        }
        let (folder, file) = match path.is_dir() {
            true => (path.to_owned(), path.join(MARKER)),
            false => (path.parent().map_or_else(PathBuf::new, Path::to_owned), path.to_owned()),
        };
        let summary = summary(path, &file)?;
        let manifest = manifest(&folder.join("manifest.toml"))?;
        let mut identity = manifest.as_ref().map(identity).unwrap_or_default();
        identity.name.clone_from(&summary.name);
        if identity.profiles.is_empty() {
            identity.profiles =
                summary.trust.profiles.iter().map(|profile| (profile.name.clone(), String::new())).collect();
        }
        let runs = summary.runs.iter().map(|run| Recorded::of(&run.run, &run.metrics, None)).collect();
        Ok(Recording { place: path.display().to_string(), identity, runs })
    }
}

fn unusable(path: &Path, problem: String, help: &'static str) -> ReportError {
    ReportError::Unusable { path: path.to_owned(), problem, help }
}

fn summary(given: &Path, file: &Path) -> Result<Summary, ReportError> {
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let problem = match given.is_dir() {
                true => format!("this folder has no {MARKER}: it is no run directory, or one that was cut short"),
                false => "there is no such file or folder".to_owned(),
            };
            return Err(unusable(given, problem, WHAT_IT_TAKES));
        }
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            return Err(unusable(file, "this is not text".to_owned(), WHAT_IT_TAKES));
        }
        Err(error) => return Err(ReportError::io("read", file)(error)),
    };
    let value: serde_json::Value = serde_json::from_str(&text).map_err(|error| {
        let what = if error.is_eof() { "the file is cut short" } else { "this is no summary of a run" };
        unusable(file, format!("{what}: {error}"), if error.is_eof() { RUN_AGAIN } else { WHAT_IT_TAKES })
    })?;
    match value.get("schema").and_then(|schema| schema.as_str()) {
        Some(SCHEMA) => {}
        Some(other) => {
            return Err(unusable(file, format!("its schema is `{other}`, this aril reads `{SCHEMA}`"), RUN_AGAIN));
        }
        None => {
            return Err(unusable(
                file,
                "this is JSON, but no summary of a run: it names no schema".to_owned(),
                WHAT_IT_TAKES,
            ));
        }
    }
    let summary: Summary =
        serde_json::from_value(value).map_err(|error| unusable(file, format!("{error}"), RUN_AGAIN))?;
    if summary.runs.is_empty() {
        return Err(unusable(file, "it holds no run".to_owned(), RUN_AGAIN));
    }
    Ok(summary)
}

/// The manifest, if there is one: a summary can be compared without, but what it was made of is then not known.
fn manifest(path: &Path) -> Result<Option<Table>, ReportError> {
    match fs::read_to_string(path) {
        Ok(text) => match text.parse() {
            Ok(table) => Ok(Some(table)),
            Err(error) => Err(unusable(path, format!("the manifest cannot be read: {error}"), RUN_AGAIN)),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ReportError::io("read", path)(error)),
    }
}

fn identity(whole: &Table) -> Identity {
    let head = whole.get("manifest").and_then(Value::as_table);
    let list = |key: &str| head.and_then(|head| head.get(key)).and_then(Value::as_array).cloned().unwrap_or_default();
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut profiles: Vec<(String, String)> = list("profile")
        .iter()
        .map(|profile| (text(profile, "name"), text(profile, "sha256").chars().take(16).collect()))
        .collect();
    profiles.sort();
    profiles.dedup();
    let build = head.and_then(|head| head.get("build")).map(|build| {
        let parts = ["version", "commit", "target"].map(|key| text(build, key));
        parts.iter().filter(|part| !part.is_empty()).cloned().collect::<Vec<_>>().join(" ")
    });
    let scenario = whole.get("scenario").and_then(Value::as_table).map(|scenario| {
        let inputs: Vec<String> =
            list("input").iter().map(|input| format!("{} {}", text(input, "name"), text(input, "sha256"))).collect();
        scenario_digest(scenario, &inputs)
    });
    Identity { name: String::new(), scenario, profiles, build }
}

/// A scenario and the files it reads in sixteen letters: equal if the same is asked, whatever the seeds and the extent of the report.
pub fn scenario_digest(scenario: &Table, inputs: &[String]) -> String {
    let mut asked = scenario.clone();
    NOT_THE_QUESTION.iter().for_each(|key| {
        asked.remove(*key);
    });
    // Profiles are an aspect of their own, and so are the files that they are read from.
    let mut profiles: Vec<String> = Vec::new();
    for key in ["pool", "policy"] {
        let tables = asked.get_mut(key).and_then(Value::as_table_mut);
        for (_, table) in tables.into_iter().flatten() {
            let profile = table.as_table_mut().and_then(|table| table.remove("profile"));
            profiles.extend(profile.and_then(|profile| profile.as_str().map(str::to_owned)));
        }
    }
    let is_profile = |input: &&String| {
        profiles.iter().any(|name| input.strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with(' ')))
    };
    let inputs: Vec<&str> = inputs.iter().filter(|input| !is_profile(input)).map(String::as_str).collect();
    digest_of(&format!("{asked}\n{}", inputs.join("\n")))
}
