//! A scenario file on its way in: read, changed by the command line, and not yet settings.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::ArilError;
use crate::node::{Node, Value, parse_assignment, parse_path};
use crate::refused;
use crate::source::{Origin, Source};
use crate::wrong::Wrong;

/// A scenario as a tree, and where its relative paths begin.
#[derive(Clone, Debug)]
pub struct Document {
    /// The tree.
    pub root: Node,
    /// Relative paths in the scenario begin here.
    pub directory: PathBuf,
    /// The `[manifest]` of a file that repeats an earlier run.
    pub manifest: Option<Node>,
}

/// What the command line changes.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// `path=value`, in order.
    pub set: Vec<String>,
    /// The first seed that is run.
    pub seed: Option<u64>,
    /// How many seeds.
    pub seeds: Option<u32>,
}

impl Document {
    /// Reads a scenario, or the manifest of a run.
    ///
    /// # Errors
    /// A file that cannot be read, is not TOML, or asks for what is not built.
    pub fn load(path: &Path, changes: &Changes) -> Result<Document, ArilError> {
        let text = read_text(path)?;
        let source = Source::new(path.display().to_string(), text);
        let mut root = Node::parse(&source)?;
        let mut directory = path.parent().map_or_else(|| PathBuf::from("."), Path::to_owned);
        let manifest = root.take("manifest").map(|entry| entry.node);
        if let Some(manifest) = &manifest {
            if let Some(Node { value: Value::String(recorded), .. }) = manifest.get(&["directory"]) {
                directory = PathBuf::from(recorded);
            }
            let scenario = root
                .take("scenario")
                .ok_or_else(|| Wrong::new("the manifest has no [scenario]").from_origin(&manifest.origin))?;
            root = scenario.node;
        }
        let mut document = Document { root, directory, manifest };
        document.change(changes)?;
        refused::check(&document.root)?;
        Ok(document)
    }

    fn change(&mut self, changes: &Changes) -> Result<(), Wrong> {
        for argument in &changes.set {
            let (path, node) = parse_assignment(argument)?;
            self.root.set(&path, node);
        }
        if let Some(count) = changes.seeds {
            self.set_seeds("--seeds", &count.to_string(), |_| Ok(Value::Integer(i64::from(count))))?;
        }
        let Some(first) = changes.seed else { return Ok(()) };
        // A list, and `seed` stays: it says which seed replays a trace as recorded, whichever of them are run.
        let count = match self.root.get(&["seeds"]).map(|node| &node.value) {
            Some(Value::Integer(count)) => u64::try_from(*count).unwrap_or(0).clamp(1, SEEDS_MAX),
            Some(Value::Array(list)) => list.len() as u64,
            _ => 1,
        };
        self.set_seeds("--seed", &first.to_string(), |origin| {
            let seed = |k: u64| {
                let value = first.checked_add(k).and_then(|seed| i64::try_from(seed).ok());
                let value = value.ok_or_else(|| Wrong::new("the number is too large").from_origin(origin))?;
                Ok(Node { value: Value::Integer(value), origin: origin.clone() })
            };
            Ok(Value::Array((0..count).map(seed).collect::<Result<_, _>>()?))
        })
    }

    /// Sets `seeds` as an option of the command line says.
    fn set_seeds(
        &mut self,
        option: &str,
        text: &str,
        value: impl FnOnce(&Origin) -> Result<Value, Wrong>,
    ) -> Result<(), Wrong> {
        let source = Source::new(option, text);
        let origin = Origin::new(&source, 0..text.len());
        let value = value(&origin)?;
        self.root.set(&[("seeds".to_owned(), origin.clone())], Node { value, origin });
        Ok(())
    }
}

/// The most seeds of a scenario.
const SEEDS_MAX: u64 = 10_000;

/// A file that a setting names, as text.
pub(crate) fn read_named(directory: &Path, file: &Path, key: &str) -> Result<String, ArilError> {
    let path = crate::plan::beside(directory, file);
    match text_of(&path, |_| String::new()) {
        Err(ArilError::Input { problem, help, .. }) if !path.is_file() => {
            let wrong = Wrong::at(key, format!("{}: {problem}", path.display()));
            Err(if help.is_empty() { wrong.help("paths are relative to the scenario file") } else { wrong }.into())
        }
        other => other,
    }
}

/// A TOML file as text, or what is wrong with it.
pub(crate) fn read_text(path: &Path) -> Result<String, ArilError> {
    text_of(path, near)
}

/// A file as text; `missing` helps where there is none.
fn text_of(path: &Path, missing: impl FnOnce(&Path) -> String) -> Result<String, ArilError> {
    let input =
        |problem: &str, help: String| ArilError::Input { path: path.to_owned(), problem: problem.to_owned(), help };
    if path.is_dir() {
        let scenarios = neighbours(path);
        let help = match scenarios.is_empty() {
            true => "name a .toml file".to_owned(),
            false => format!("name one of its files: {}", scenarios.join(", ")),
        };
        return Err(input("this is a folder, not a scenario", help));
    }
    let bytes = fs::read(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => input("there is no such file", missing(path)),
        _ => ArilError::Io { action: "read", path: path.to_owned(), source: error },
    })?;
    match String::from_utf8(bytes) {
        Ok(text) if text.contains('\0') => Err(input("this is not text: it contains zero bytes", String::new())),
        Ok(text) => Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text)),
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            let line = error.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
            Err(input(
                &format!("line {line}: this is not text in UTF-8 (byte {at} of the file)"),
                "save it as UTF-8".to_owned(),
            ))
        }
    }
}

fn neighbours(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut names: Vec<_> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.ends_with(".toml"))
        .collect();
    names.sort();
    names
}

fn near(path: &Path) -> String {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let names = neighbours(folder);
    match crate::wrong::nearest(&name, names.iter().map(String::as_str)) {
        Some(near) => format!("did you mean {}?", folder.join(near).display()),
        None if names.is_empty() => {
            "scenarios are TOML files; `aril list scenarios` names those that come with aril".to_owned()
        }
        None => format!("{} has: {}", folder.display(), names.join(", ")),
    }
}

/// Reads the key of a swept setting.
pub(crate) fn swept_path(key: &str, origin: &Origin) -> Result<crate::node::KeyPath, Wrong> {
    parse_path(key, origin)
}
