//! What lies in a regression folder.

use std::fs;
use std::path::{Path, PathBuf};

use aril_reports::change::{BASELINE_SUFFIX, HISTORY_SUFFIX, Rules, SpeedRules, Thresholds};
use serde::Deserialize;

use crate::error::ArilError;
use crate::node::Node;
use crate::source::Source;
use crate::wrong::suggest;

/// The rules of a folder.
const RULES: &str = "regress.toml";

/// What lies in a regression folder.
pub(super) struct Folder {
    /// Where it is.
    pub(super) path: PathBuf,
    /// How changes are judged.
    pub(super) rules: FolderRules,
    /// Its scenarios, by name.
    pub(super) scenarios: Vec<ScenarioFile>,
    /// Baselines and histories without a scenario.
    pub(super) orphans: Vec<String>,
}

/// A scenario and what belongs to it.
pub(super) struct ScenarioFile {
    /// Without the folder.
    pub(super) file: String,
    pub(super) path: PathBuf,
    pub(super) baseline: PathBuf,
    pub(super) history: PathBuf,
}

/// `regress.toml`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct FolderRules {
    /// The chance of a false alarm, over all comparisons of a scenario together.
    alpha: Option<f64>,
    /// The least changes that matter.
    thresholds: Thresholds,
    /// How speed is judged; never by the rules of behaviour.
    pub(super) speed: SpeedRules,
}

impl FolderRules {
    /// The rules of behaviour.
    pub(super) fn behaviour(&self) -> Rules {
        Rules { alpha: self.alpha.unwrap_or(Rules::default().alpha), thresholds: self.thresholds.clone() }
    }
}

impl Folder {
    /// Lists a folder; `only` keeps the scenarios of these names.
    ///
    /// # Errors
    /// A folder that is not there or holds no scenario; rules that cannot be read; a name that no scenario has.
    pub(super) fn read(path: &Path, only: &[String]) -> Result<Folder, ArilError> {
        let names = list(path)?;
        let stem = |name: &str, suffix: &str| name.strip_suffix(suffix).map(str::to_owned);
        let is_scenario =
            |name: &&String| name.ends_with(".toml") && !name.ends_with(BASELINE_SUFFIX) && *name != RULES;
        let mut stems: Vec<String> = names.iter().filter(is_scenario).filter_map(|name| stem(name, ".toml")).collect();
        let orphans: Vec<String> = names
            .iter()
            .filter(|name| {
                let stem = stem(name, BASELINE_SUFFIX).or_else(|| stem(name, HISTORY_SUFFIX));
                stem.is_some_and(|stem| !stems.contains(&stem))
            })
            .cloned()
            .collect();
        if stems.is_empty() && orphans.is_empty() {
            return Err(ArilError::Input {
                path: path.to_owned(),
                problem: "there is no scenario in this folder".to_owned(),
                help: "put NAME.toml into it, then run `aril regress --update`".to_owned(),
            });
        }
        for name in only {
            if !stems.contains(name) {
                return Err(ArilError::Input {
                    path: path.to_owned(),
                    problem: format!("--only {name}: there is no such scenario"),
                    help: suggest(name, stems.iter().map(String::as_str), "in this folder"),
                });
            }
        }
        if !only.is_empty() {
            stems.retain(|stem| only.contains(stem));
        }
        let scenario = |stem: &String| ScenarioFile {
            file: format!("{stem}.toml"),
            path: path.join(format!("{stem}.toml")),
            baseline: path.join(format!("{stem}{BASELINE_SUFFIX}")),
            history: path.join(format!("{stem}{HISTORY_SUFFIX}")),
        };
        Ok(Folder {
            path: path.to_owned(),
            rules: rules(&path.join(RULES))?,
            scenarios: stems.iter().map(scenario).collect(),
            // A single scenario was asked for: the others are somebody else's question.
            orphans: if only.is_empty() { orphans } else { Vec::new() },
        })
    }
}

pub(super) fn not_there(path: &Path) -> ArilError {
    ArilError::Input {
        path: path.to_owned(),
        problem: "there is no such folder".to_owned(),
        help: "name a folder of scenarios".to_owned(),
    }
}

fn list(path: &Path) -> Result<Vec<String>, ArilError> {
    if path.is_file() {
        return Err(ArilError::Input {
            path: path.to_owned(),
            problem: "this is a file, not a folder of scenarios".to_owned(),
            help: "name the folder; --only NAME runs one of its scenarios".to_owned(),
        });
    }
    let entries = fs::read_dir(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => not_there(path),
        _ => ArilError::io("read", path)(error),
    })?;
    let mut names: Vec<String> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.retain(|name| !name.starts_with('.'));
    names.sort();
    Ok(names)
}

fn rules(path: &Path) -> Result<FolderRules, ArilError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(FolderRules::default()),
        Err(error) => return Err(ArilError::io("read", path)(error)),
    };
    let node = Node::parse(&Source::new(path.display().to_string(), text))?;
    Ok(node.read::<FolderRules>().map_err(|wrong| node.place(wrong))?)
}
