//! What a run was: enough to repeat it byte for byte. The only file in which wall-clock times stand.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::document::Document;
use crate::error::ArilError;
use crate::node::{Node, Value};
use crate::plan::{Plan, beside};
use crate::scenario::Scenario;
use crate::wrong::Wrong;

/// The version of the format.
const SCHEMA: &str = "aril-manifest/1";

/// What `aril --version` and manifests say of this build.
pub fn build() -> Build {
    Build {
        version: env!("CARGO_PKG_VERSION"),
        commit: env!("ARIL_COMMIT"),
        rustc: env!("ARIL_RUSTC"),
        target: env!("ARIL_TARGET"),
    }
}

/// Which build made a run.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Build {
    /// Of the package.
    pub version: &'static str,
    /// Of the source, if it was built in a checkout.
    pub commit: &'static str,
    /// The compiler.
    pub rustc: &'static str,
    /// What it was built for.
    pub target: &'static str,
}

/// A file that a run was made from.
#[derive(Clone, Debug, Serialize)]
pub struct Input {
    /// As the scenario names it.
    pub name: String,
    /// SHA-256 of its bytes.
    pub sha256: String,
}

/// A profile that a run rests on.
#[derive(Clone, Debug, Serialize)]
struct ProfileEntry {
    /// The pool.
    pub pool: String,
    /// Its name.
    pub name: String,
    /// Measured, published or derived.
    pub provenance: &'static str,
    /// Where its figures come from.
    pub source: String,
    /// SHA-256 of its figures, as JSON.
    pub sha256: String,
}

/// When, how long, how.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Clock {
    /// When it began.
    pub started: String,
    /// How long it took.
    pub wall_seconds: f64,
    /// How long the simulation itself took, everything recorded; of a single run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loop_seconds: Option<f64>,
    /// On how many threads.
    pub threads: usize,
}

#[derive(Serialize)]
struct Manifest<'a> {
    manifest: Head<'a>,
    scenario: &'a Scenario,
}

#[derive(Serialize)]
struct Head<'a> {
    schema: &'static str,
    directory: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    point: Option<String>,
    clock: &'a Clock,
    build: Build,
    #[serde(skip_serializing_if = "<[Input]>::is_empty")]
    input: &'a [Input],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    profile: Vec<ProfileEntry>,
}

/// Writes the manifest of a whole run directory.
///
/// # Errors
/// Anything the file system refuses.
pub(crate) fn write_whole(path: &Path, plan: &Plan, inputs: &[Input], clock: &Clock) -> Result<(), ArilError> {
    let head = Head { profile: profiles(plan, 0, 0), ..head(plan, inputs, clock) };
    save(path, &Manifest { manifest: head, scenario: &plan.scenario })
}

/// Writes the manifest of one run, from which it alone is repeated.
///
/// # Errors
/// Anything the file system refuses.
pub(crate) fn write_run(
    path: &Path,
    plan: &Plan,
    run: (usize, usize, u64),
    inputs: &[Input],
    clock: &Clock,
) -> Result<(), ArilError> {
    let (point, policy, seed) = run;
    let scenario = plan.single(point, policy, seed);
    let label = plan.points[point].label();
    let head = Head {
        policy: Some(&plan.policies[policy]),
        seed: Some(seed),
        point: (!label.is_empty()).then_some(label),
        profile: profiles(plan, point, policy),
        ..head(plan, inputs, clock)
    };
    save(path, &Manifest { manifest: head, scenario: &scenario })
}

fn head<'a>(plan: &'a Plan, inputs: &'a [Input], clock: &'a Clock) -> Head<'a> {
    let directory = fs::canonicalize(&plan.directory).unwrap_or_else(|_| plan.directory.clone());
    Head {
        schema: SCHEMA,
        directory: directory.display().to_string(),
        policy: None,
        seed: None,
        point: None,
        clock,
        build: build(),
        input: inputs,
        profile: Vec::new(),
    }
}

fn profiles(plan: &Plan, point: usize, policy: usize) -> Vec<ProfileEntry> {
    let setup = &plan.variant(point, policy).setup;
    setup
        .scenario
        .pool
        .names()
        .zip(setup.profiles.iter().zip(setup.profile_hashes()))
        .map(|(pool, (profile, sha256))| ProfileEntry {
            pool: pool.to_owned(),
            name: profile.name.clone(),
            provenance: profile.provenance.kind.as_str(),
            source: profile.provenance.source.clone(),
            sha256: sha256.clone(),
        })
        .collect()
}

fn save(path: &Path, manifest: &Manifest<'_>) -> Result<(), ArilError> {
    let text = toml::to_string(manifest).map_err(|error| {
        ArilError::io("write", path)(io::Error::other(format!("the manifest cannot be put into TOML: {error}")))
    })?;
    fs::write(path, text).map_err(ArilError::io("write", path))
}

/// The files that a scenario reads, each once, with their hashes.
///
/// # Errors
/// A file that cannot be read.
pub fn inputs(plan: &Plan) -> Result<Vec<Input>, ArilError> {
    let mut inputs: Vec<Input> = Vec::new();
    let mut add = |name: String, sha256: String| {
        if inputs.iter().all(|input| input.name != name) {
            inputs.push(Input { name, sha256 });
        }
    };
    for variant in &plan.variants {
        let scenario = &variant.setup.scenario;
        for shipped in scenario.traffic.shipped_inputs() {
            add(format!("shipped:{}", shipped.name), hex(&Sha256::digest(shipped.bytes)));
        }
        let mut files = scenario.traffic.inputs(Path::new(""));
        files.extend(scenario.slo.iter().filter_map(|(_, slo)| slo.tenants.clone()));
        files.extend(scenario.pool.iter().filter_map(|(_, pool)| pool.profile.as_ref()).map(PathBuf::from));
        files.extend(plan.scenario.expect.iter().map(|expect| expect.table.clone()));
        for file in files {
            let path = beside(&plan.directory, &file);
            if path.is_file() {
                add(file.display().to_string(), hash(&path)?);
            }
        }
    }
    Ok(inputs)
}

/// Are the files of an earlier run still what they were? Gives what a careful reader should know besides.
///
/// # Errors
/// A file that changed.
pub(crate) fn verify(document: &Document, inputs: &[Input]) -> Result<Vec<String>, Wrong> {
    let Some(manifest) = &document.manifest else { return Ok(Vec::new()) };
    let text = |node: &Node, key: &str| match node.get(&[key]).map(|node| &node.value) {
        Some(Value::String(text)) => text.clone(),
        _ => String::new(),
    };
    if let Some(Node { value: Value::Array(recorded), .. }) = manifest.get(&["input"]) {
        for entry in recorded {
            let (name, sha256) = (text(entry, "name"), text(entry, "sha256"));
            match inputs.iter().find(|input| input.name == name) {
                Some(input) if input.sha256 == sha256 => {}
                Some(_) => {
                    return Err(Wrong::new(format!(
                        "{name} is no longer the file of that run: its contents have changed"
                    ))
                    .from_origin(&entry.origin)
                    .help("bring the old file back, or run the scenario itself"));
                }
                None => {
                    return Err(Wrong::new(format!("{name}, which that run read, is not there"))
                        .from_origin(&entry.origin)
                        .help("bring the file back, or set `directory` to where the scenario lies"));
                }
            }
        }
    }
    let mut notes = Vec::new();
    if let Some(recorded) = manifest.get(&["build"]) {
        let now = build();
        if text(recorded, "version") != now.version || text(recorded, "commit") != now.commit {
            notes.push(format!(
                "that run was made by aril {} ({}), this is {} ({}): results may differ",
                text(recorded, "version"),
                text(recorded, "commit"),
                now.version,
                now.commit
            ));
        }
    }
    Ok(notes)
}

fn hash(path: &Path) -> Result<String, ArilError> {
    let mut file = File::open(path).map_err(ArilError::io("read", path))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read = file.read(&mut buffer).map_err(ArilError::io("read", path))?;
        if read == 0 {
            return Ok(hex(&hasher.finalize()));
        }
        hasher.update(&buffer[..read]);
    }
}

/// As hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
