//! Which runs a scenario asks for: every swept point, every policy, every seed.

mod written;

use std::path::{Path, PathBuf};

use crate::document::{Document, swept_path};
use crate::error::ArilError;
use crate::node::{Entry, KeyPath, Node, Value};
use crate::registry::Registry;
use crate::scenario::{BATCHER_KEYS, ENGINE_KEYS, Engine, POLICY_KEYS, Scenario, Seeds, Steps};
use crate::setup::Setup;
use crate::wrong::{UNKNOWN_KEY, Wrong, suggest};

/// The most runs that one command begins: more is a mistake in a sweep.
const RUNS_MAX: usize = 100_000;

/// What a scenario writes for the best opponent at each point.
pub const BEST: &str = "best";

/// What a policy is called where a scenario compares none.
pub const SOLE_POLICY: &str = "base";

/// All runs of a scenario.
pub struct Plan {
    /// The scenario as it stands, its own overlays and sweeps still in it.
    pub scenario: Scenario,
    /// Relative paths begin here.
    pub directory: PathBuf,
    /// The swept points, in order: the last axis changes fastest.
    pub points: Vec<Point>,
    /// The names of the policies, in the order of the file.
    pub policies: Vec<String>,
    /// By point, then by policy.
    pub variants: Vec<Variant>,
    /// The seeds.
    pub seeds: Vec<u64>,
}

/// One combination of swept values.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// Dotted path and value of each swept setting; empty where nothing is swept.
    pub values: Vec<(String, Node)>,
}

/// One policy at one point.
pub struct Variant {
    /// Position of its point.
    pub point: usize,
    /// Position of its policy.
    pub policy: usize,
    /// Everything resolved.
    pub setup: Setup,
}

impl Point {
    /// A name for people: `model.name = llama-2-7b, …`.
    pub fn label(&self) -> String {
        let part = |(path, node): &(String, Node)| format!("{path} = {}", node.label());
        self.values.iter().map(part).collect::<Vec<_>>().join(", ")
    }
}

impl Plan {
    /// Reads everything that can be read without running: every point under every policy.
    ///
    /// `only` keeps the policies of these names.
    ///
    /// # Errors
    /// Whatever is wrong, at whichever point, with its place.
    pub fn new(document: &Document, registry: &Registry, only: &[String]) -> Result<Plan, ArilError> {
        let mut tree = document.root.clone();
        check_names(&tree)?;
        let names = policy_names(&tree);
        let overlays = overlays(&mut tree, only)?;
        let axes = tree.take("sweep").map(axes).transpose()?.unwrap_or_default();
        let points = combinations(&axes)?;
        if points.len() * overlays.len() > RUNS_MAX {
            let problem =
                format!("{} points under {} policies are more than {RUNS_MAX} runs", points.len(), overlays.len());
            return Err(document.root.place(Wrong::at("sweep", problem)).into());
        }
        let mut variants = Vec::with_capacity(points.len() * overlays.len());
        let mut engines = Vec::with_capacity(points.len());
        for (point, values) in points.iter().enumerate() {
            let mut base = tree.clone();
            for ((path, _), (_, node)) in axes.iter().zip(&values.values) {
                base.set(path, node.clone());
            }
            for (policy, overlay) in overlays.iter().enumerate() {
                let mut flat = base.clone();
                if let Some(overlay) = &overlay.node {
                    apply(&mut flat, overlay, registry).map_err(|wrong| wrong.within(&overlay.key).within("policy"))?;
                }
                let setup = Setup::new(&flat, registry, &document.directory)?;
                variants.push(Variant { point, policy, setup });
            }
            // Every variant was read: the base below its overlays has an engine as well.
            engines.extend(base.get(&["engine"]).map(|engine| engine.read::<Engine>()).transpose()?);
        }
        let scenario = whole(document, &points, &axes)?;
        let seeds = match &scenario.seeds {
            Some(seeds) => seeds.from(scenario.seed),
            None => vec![scenario.seed],
        };
        let policies: Vec<String> = overlays.iter().map(|overlay| overlay.name.clone()).collect();
        check_baseline(&scenario, &names).map_err(|wrong| document.root.place(wrong))?;
        let mut plan = Plan { scenario, directory: document.directory.clone(), points, policies, variants, seeds };
        written::write_out(&mut plan, &engines, &overlays.iter().map(|o| o.node.as_ref()).collect::<Vec<_>>());
        Ok(plan)
    }

    /// The variant at a point under a policy.
    pub fn variant(&self, point: usize, policy: usize) -> &Variant {
        &self.variants[point * self.policies.len() + policy]
    }

    /// The scenario of one run alone: one policy, one seed, nothing swept, every default written out.
    pub fn single(&self, point: usize, policy: usize, seed: u64) -> Scenario {
        let setup = &self.variant(point, policy).setup;
        let mut scenario = setup.scenario.clone();
        scenario.seed = self.scenario.seed;
        scenario.seeds = Some(Seeds::List(vec![seed]));
        scenario.expect = None;
        scenario.compare = None;
        let name = &self.policies[policy];
        if *name != SOLE_POLICY {
            let overlay = setup.overlay(&scenario.engine, &scenario.pool, &|_| true);
            scenario.clear_choices();
            scenario.policy.0 = vec![(name.clone(), overlay)];
        }
        scenario
    }

    /// How many runs there are.
    pub fn runs(&self) -> usize {
        self.variants.len() * self.seeds.len()
    }
}

/// Names go into tables, pages and folders: no tabs, no line breaks, no zero bytes in them.
fn check_names(tree: &Node) -> Result<(), Wrong> {
    let refuse = |name: &str, origin: &crate::source::Origin, path: &str| match name.chars().find(|c| c.is_control()) {
        Some(c) => {
            Err(Wrong::at(path, format!("the name {name:?} has a control character in it (U+{:04X})", c as u32))
                .help("write it with letters, digits and spaces")
                .from_origin(origin))
        }
        None => Ok(()),
    };
    if let Some(Node { value: Value::String(name), origin }) = tree.get(&["name"]) {
        refuse(name, origin, "name")?;
    }
    for kind in ["policy", "pool", "slo"] {
        let entries = tree.get(&[kind]).map(|node| node.entries()).unwrap_or_default();
        entries.iter().try_for_each(|entry| refuse(&entry.key, &entry.origin, kind))?;
    }
    Ok(())
}

/// A policy of the scenario: its name and, unless it is the base alone, what it changes.
struct NamedOverlay {
    name: String,
    node: Option<Entry>,
}

fn overlays(tree: &mut Node, only: &[String]) -> Result<Vec<NamedOverlay>, Wrong> {
    let policies = tree.take("policy");
    if let Some(entry) = &policies
        && !entry.node.is_table()
    {
        return Err(Wrong::at("policy", "expected a table of named policies").from_origin(&entry.node.origin));
    }
    let mut overlays: Vec<NamedOverlay> = match policies {
        Some(entry) if !entry.node.entries().is_empty() => {
            let named = |entry: &Entry| NamedOverlay { name: entry.key.clone(), node: Some(entry.clone()) };
            entry.node.entries().iter().map(named).collect()
        }
        _ => vec![NamedOverlay { name: SOLE_POLICY.to_owned(), node: None }],
    };
    for name in only {
        if !overlays.iter().any(|overlay| overlay.name == *name) {
            let known = overlays.iter().map(|overlay| overlay.name.as_str());
            return Err(Wrong::new(format!("--policy {name}: the scenario has no such policy")).help(suggest(
                name,
                known,
                "its policies",
            )));
        }
    }
    if !only.is_empty() {
        overlays.retain(|overlay| only.contains(&overlay.name));
    }
    Ok(overlays)
}

/// A swept setting and its values.
type Swept = (KeyPath, Vec<Node>);

fn axes(sweep: Entry) -> Result<Vec<Swept>, Wrong> {
    let axis = |entry: &Entry| {
        let path = swept_path(&entry.key, &entry.origin)?;
        let values = match &entry.node.value {
            Value::Array(items) if items.is_empty() => Err(Wrong::new("the list is empty: give at least one value")),
            Value::Array(items) => Ok(items.clone()),
            Value::Table(_) => steps(&entry.node),
            _ => Err(Wrong::new("expected a list of values, or { from = …, to = …, points = … }")),
        };
        let values = values
            .and_then(distinct)
            .map_err(|wrong| wrong.from_origin(&entry.node.origin).within(&entry.key).within("sweep"))?;
        Ok((path, values))
    };
    sweep.node.entries().iter().map(axis).collect()
}

/// The same values, if they are different ones.
fn distinct(values: Vec<Node>) -> Result<Vec<Node>, Wrong> {
    for (at, value) in values.iter().enumerate() {
        let label = value.label();
        if values[..at].iter().any(|before| before.label() == label) {
            return Err(Wrong::new(format!("the value {label} is there twice: its runs would be the same"))
                .from_origin(&value.origin));
        }
    }
    Ok(values)
}

fn steps(node: &Node) -> Result<Vec<Node>, Wrong> {
    let steps: Steps = node.read()?;
    let values = steps.values().map_err(Wrong::new)?;
    let whole = values.iter().all(|value| value.fract() == 0.0 && value.abs() < 1e15);
    let value = |value: f64| if whole { Value::Integer(value as i64) } else { Value::Float(value) };
    Ok(values.into_iter().map(|number| Node { value: value(number), origin: node.origin.clone() }).collect())
}

fn combinations(axes: &[Swept]) -> Result<Vec<Point>, Wrong> {
    let mut points = vec![Point { values: Vec::new() }];
    for (path, values) in axes {
        let name = path.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>().join(".");
        if points.len() * values.len() > RUNS_MAX {
            return Err(Wrong::at("sweep", format!("the sweep has more than {RUNS_MAX} points")));
        }
        points = points
            .iter()
            .flat_map(|point| {
                values.iter().map(|value| {
                    let mut longer = point.clone();
                    longer.values.push((name.clone(), value.clone()));
                    longer
                })
            })
            .collect();
    }
    Ok(points)
}

/// Puts a policy over the base: its preset first, then its own keys.
fn apply(tree: &mut Node, overlay: &Entry, registry: &Registry) -> Result<(), Wrong> {
    if !overlay.node.is_table() {
        return Err(
            Wrong::new("expected a table, such as { preset = \"punica-paper\" }").from_origin(&overlay.node.origin)
        );
    }
    if let Some(preset) = overlay.node.entry("preset") {
        let Value::String(name) = &preset.node.value else {
            return Err(Wrong::new("expected the name of a preset").from_origin(&preset.node.origin).within("preset"));
        };
        let keys = registry.preset_named(name).map_err(|w| w.from_origin(&preset.node.origin).within("preset"))?;
        let mut keys = keys.clone();
        // What is wrong with it is wrong where it was chosen.
        keys.relocate(&preset.node.origin);
        apply_keys(tree, &keys)?;
    }
    apply_keys(tree, &overlay.node)
}

fn apply_keys(tree: &mut Node, keys: &Node) -> Result<(), Wrong> {
    let engine = tree.entry("engine").and_then(|entry| entry.node.entries().first()).map(|entry| entry.key.clone());
    // Policies first: tunables of the batcher may stand before it.
    let (policies, others): (Vec<_>, Vec<_>) =
        keys.entries().iter().partition(|entry| POLICY_KEYS.contains(&entry.key.as_str()));
    for Entry { key, origin, node } in policies.into_iter().chain(others) {
        let one = |key: &str| (key.to_owned(), origin.clone());
        match key.as_str() {
            "preset" => {}
            key if POLICY_KEYS.contains(&key) => {
                tree.take(key);
                tree.set(&[one(key)], node.clone());
            }
            key if ENGINE_KEYS.contains(&key) => {
                let Some(engine) = &engine else { continue };
                tree.set(&[one("engine"), one(engine), one(key)], node.clone());
            }
            "profile" => {
                let pools: Vec<String> = tree
                    .get(&["pool"])
                    .map(|pools| pools.entries().iter().map(|pool| pool.key.clone()).collect())
                    .unwrap_or_default();
                for pool in pools {
                    tree.set(&[one("pool"), one(&pool), one("profile")], node.clone());
                }
            }
            key if BATCHER_KEYS.contains(&key) => set_in_batcher(tree, one(key), node)?,
            key => {
                let known = ["preset", "profile"].into_iter().chain(POLICY_KEYS).chain(BATCHER_KEYS).chain(ENGINE_KEYS);
                return Err(Wrong::new(format!("{UNKNOWN_KEY}`{key}`"))
                    .help(suggest(key, known, "a policy may set"))
                    .from_origin(origin)
                    .within(key));
            }
        }
    }
    Ok(())
}

/// Sets a tunable of the batcher that the tree has by now.
fn set_in_batcher(tree: &mut Node, key: (String, crate::source::Origin), node: &Node) -> Result<(), Wrong> {
    let name = match tree.get(&["batcher"]) {
        Some(Node { value: Value::String(name), .. }) => name.clone(),
        Some(Node { value: Value::Table(entries), .. }) if entries.len() == 1 => entries[0].key.clone(),
        _ => {
            return Err(Wrong::new("this is set on a batcher, and none is named")
                .help("name the batcher beside it")
                .from_origin(&key.1)
                .within(key.0));
        }
    };
    let one = |name: &str| (name.to_owned(), key.1.clone());
    if tree.get(&["batcher"]).is_some_and(|batcher| !batcher.is_table()) {
        tree.take("batcher");
    }
    tree.set(&[one("batcher"), one(&name), key.clone()], node.clone());
    Ok(())
}

/// The policies of the file, whichever of them are run.
fn policy_names(tree: &Node) -> Vec<String> {
    let named =
        tree.get(&["policy"]).map(|policies| policies.entries().iter().map(|entry| entry.key.clone()).collect());
    named.unwrap_or_default()
}

/// The whole file as settings, with the first point's values in their places.
fn whole(document: &Document, points: &[Point], axes: &[Swept]) -> Result<Scenario, Wrong> {
    let mut tree = document.root.clone();
    for ((path, _), (_, node)) in axes.iter().zip(&points[0].values) {
        tree.set(path, node.clone());
    }
    let scenario: Scenario = tree.read().map_err(|wrong| tree.place(wrong))?;
    Ok(scenario)
}

fn check_baseline(scenario: &Scenario, policies: &[String]) -> Result<(), Wrong> {
    let Some(baseline) = scenario.compare.as_ref().and_then(|compare| compare.baseline.as_ref()) else { return Ok(()) };
    if baseline == BEST || policies.contains(baseline) {
        return Ok(());
    }
    Err(Wrong::at("compare.baseline", format!("there is no policy `{baseline}`")).help(suggest(
        baseline,
        policies.iter().map(String::as_str),
        "policies of this scenario",
    )))
}

/// A path as the scenario means it.
pub fn beside(directory: &Path, path: &Path) -> PathBuf {
    if path.is_absolute() { path.to_owned() } else { directory.join(path) }
}
