//! The policies that scenarios can name: what is registered here is what there is.

use std::sync::Arc;

use aril_sim::policy::{Batcher, Evictor, Ground, LoadPath, Migrator, Preemptor, Router, Scaler, Tunable};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::node::{Node, Value};
use crate::refused;
use crate::scenario::Choice;
use crate::source::{Origin, Source};
use crate::wrong::{Wrong, suggest};

/// What a policy needs to be registered: its TOML table is its own `Deserialize`, a copy of it serves each replica.
pub trait Tunables: Tunable + Clone + DeserializeOwned + Serialize + JsonSchema + Send + Sync + 'static {}

impl<P: Tunable + Clone + DeserializeOwned + Serialize + JsonSchema + Send + Sync + 'static> Tunables for P {}

/// Can a policy do its work there?
type Suits = dyn Fn(&Ground<'_>) -> Result<(), String> + Send + Sync;

/// A policy as a scenario chose it.
#[derive(Clone)]
pub struct Chosen<P: ?Sized> {
    make: Arc<dyn Fn() -> Box<P> + Send + Sync>,
    suits: Arc<Suits>,
    kind: &'static str,
    /// Where it was named.
    origin: Origin,
    /// Its name and all its tunables, defaults written out.
    pub choice: Choice,
}

impl<P: ?Sized + 'static> Chosen<P> {
    /// For a run: each call makes a fresh one.
    pub fn make(&self) -> Box<dyn Fn() -> Box<P> + Send + Sync> {
        let make = self.make.clone();
        Box::new(move || make())
    }

    /// Can it do its work there?
    ///
    /// # Errors
    /// What cannot be, told where the policy was named.
    pub fn suits(&self, ground: &Ground<'_>) -> Result<(), Wrong> {
        (self.suits)(ground).map_err(|problem| {
            Wrong::new(problem).within(&self.choice.name).within(self.kind).from_origin(&self.origin)
        })
    }
}

/// What lists say of a registered policy.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct About {
    /// Which kind: `router`, `batcher`, …
    pub kind: &'static str,
    /// What scenarios call it.
    pub name: String,
    /// The rule in one line.
    pub summary: &'static str,
    /// Where the rule comes from.
    pub source: &'static str,
    /// Its tunables and their defaults; none if some have no default.
    pub tunables: Option<toml::Table>,
}

type Read<P> = Box<dyn Fn(&str, &Node) -> Result<Chosen<P>, Wrong> + Send + Sync>;

struct Entry<P: ?Sized> {
    about: About,
    read: Read<P>,
    schema: fn(&mut SchemaGenerator) -> Schema,
}

/// The policies of one kind, in the order of their registration.
pub struct Kind<P: ?Sized> {
    kind: &'static str,
    entries: Vec<Entry<P>>,
}

impl<P: ?Sized + 'static> Kind<P> {
    fn new(kind: &'static str) -> Kind<P> {
        Kind { kind, entries: Vec::new() }
    }

    /// # Panics
    /// When the name is taken: two policies of one name are a mistake of the program.
    fn register<T: Tunables>(&mut self, name: &str, boxed: fn(T) -> Box<P>) {
        assert!(
            self.entries.iter().all(|entry| entry.about.name != name),
            "the {} `{name}` is registered twice",
            self.kind
        );
        assert!(name != "none", "`none` means that there is no {}", self.kind);
        let empty = empty_table(&Source::new(name, ""));
        let defaults = empty.read::<T>().ok().and_then(|policy| toml::Table::try_from(&policy).ok());
        let about = About {
            kind: self.kind,
            name: name.to_owned(),
            summary: T::SUMMARY,
            source: T::SOURCE,
            tunables: defaults,
        };
        let kind = self.kind;
        let read = move |name: &str, table: &Node| {
            let policy: T = table.read()?;
            policy.validate().map_err(|problem| Wrong::new(problem).from_origin(&table.origin))?;
            let tunables = toml::Table::try_from(&policy)
                .map_err(|error| Wrong::new(format!("its tunables cannot be written: {error}")))?;
            let choice = Choice { name: name.to_owned(), tunables };
            let judge = policy.clone();
            let suits = Arc::new(move |ground: &Ground<'_>| judge.suits(ground));
            Ok(Chosen {
                make: Arc::new(move || boxed(policy.clone())),
                suits,
                kind,
                origin: table.origin.clone(),
                choice,
            })
        };
        let schema = |generator: &mut SchemaGenerator| generator.subschema_for::<T>();
        self.entries.push(Entry { about, read: Box::new(read), schema });
    }

    /// The policy that a scenario names: a text, or a table with the name as its one key.
    ///
    /// # Errors
    /// An unknown name, with the registered ones, or whatever is wrong with its table.
    pub fn choose(&self, node: &Node) -> Result<Chosen<P>, Wrong> {
        let shape: Choice = node.read()?;
        let Some(entry) = self.entries.iter().find(|entry| entry.about.name == shape.name) else {
            let known = self.entries.iter().map(|entry| entry.about.name.as_str());
            let wrong = Wrong::new(format!("there is no {} `{}`", self.kind, shape.name));
            let origin = node.entry(&shape.name).map_or(&node.origin, |entry| &entry.origin);
            return Err(wrong.help(suggest(&shape.name, known, "registered")).from_origin(origin));
        };
        match node.entry(&shape.name) {
            Some(table) => (entry.read)(&shape.name, &table.node)
                .map_err(|wrong| wrong.from_origin(&table.origin).within(&shape.name)),
            None => {
                let empty = Node { value: Value::Table(Vec::new()), origin: node.origin.clone() };
                (entry.read)(&shape.name, &empty).map_err(|wrong| wrong.from_origin(&node.origin).within(&shape.name))
            }
        }
    }

    fn abouts(&self) -> impl Iterator<Item = &About> {
        self.entries.iter().map(|entry| &entry.about)
    }

    fn schema(&self, generator: &mut SchemaGenerator) -> serde_json::Value {
        let names: Vec<_> = self.entries.iter().map(|entry| entry.about.name.clone()).collect();
        let tables: Vec<_> = self
            .entries
            .iter()
            .map(|entry| {
                let name = entry.about.name.clone();
                let table = (entry.schema)(generator).to_value();
                serde_json::json!({
                    "type": "object",
                    "description": entry.about.summary,
                    "properties": { name.clone(): table },
                    "required": [name],
                    "additionalProperties": false,
                })
            })
            .collect();
        let mut any = vec![serde_json::json!({ "enum": names })];
        any.extend(tables);
        serde_json::json!({ "anyOf": any })
    }
}

/// A bundle of policies under one name.
struct Preset {
    name: String,
    node: Node,
}

/// All policies and presets that scenarios can name.
pub struct Registry {
    pub(crate) routers: Kind<dyn Router>,
    pub(crate) batchers: Kind<dyn Batcher>,
    pub(crate) evictors: Kind<dyn Evictor>,
    pub(crate) load_paths: Kind<dyn LoadPath>,
    pub(crate) preemptors: Kind<dyn Preemptor>,
    pub(crate) migrators: Kind<dyn Migrator>,
    pub(crate) scalers: Kind<dyn Scaler>,
    presets: Vec<Preset>,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $method:ident $field:ident $policy:ident;)*) => {
        impl Registry {
            /// Nothing yet.
            pub fn empty() -> Registry {
                Registry { $($field: Kind::new(stringify!($method)),)* presets: Vec::new() }
            }

            $($(#[$doc])*
            ///
            /// # Panics
            /// When the name is taken.
            pub fn $method<P: $policy + Tunables>(mut self, name: &str) -> Registry {
                self.$field.register::<P>(name, |policy| Box::new(policy));
                self
            })*

            /// Every registered policy, by kind.
            pub fn abouts(&self) -> Vec<&About> {
                let mut abouts = Vec::new();
                $(abouts.extend(self.$field.abouts());)*
                abouts
            }

            /// What a scenario may write for a kind of policy, for its schema.
            pub(crate) fn schemas(&self, generator: &mut SchemaGenerator) -> Vec<(&'static str, serde_json::Value)> {
                vec![$((stringify!($method), self.$field.schema(generator)),)*]
            }
        }
    };
}

kinds! {
    /// Registers a router: which replica takes a request?
    router routers Router;
    /// Registers a batcher: what does the next step compute?
    batcher batchers Batcher;
    /// Registers an evictor: which idle adapter makes room?
    evictor evictors Evictor;
    /// Registers a load path: how do adapters come to the GPU?
    load_path load_paths LoadPath;
    /// Registers a preemptor: who gives way when KV blocks run out?
    preemptor preemptors Preemptor;
    /// Registers a migrator: who moves where?
    migrator migrators Migrator;
    /// Registers a scaler: how many GPUs are held?
    scaler scalers Scaler;
}

impl Registry {
    /// Registers a preset: TOML with the keys that a `[policy]` overlay may have.
    ///
    /// # Panics
    /// When the name is taken or the text is not TOML: both are mistakes of the program.
    pub fn preset(mut self, name: &str, text: &str) -> Registry {
        assert!(self.presets.iter().all(|preset| preset.name != name), "the preset `{name}` is registered twice");
        let source = Source::new(format!("preset {name}"), text);
        let node = Node::parse(&source).unwrap_or_else(|wrong| panic!("the preset `{name}`: {wrong}"));
        self.presets.push(Preset { name: name.to_owned(), node });
        self
    }

    /// The keys of a preset.
    ///
    /// # Errors
    /// An unknown name, with the known ones.
    pub fn preset_named(&self, name: &str) -> Result<&Node, Wrong> {
        self.presets.iter().find(|preset| preset.name == name).map(|preset| &preset.node).ok_or_else(|| {
            if let Some(not_built) = refused::preset(name) {
                return not_built;
            }
            let known = self.presets.iter().map(|preset| preset.name.as_str());
            Wrong::new(format!("there is no preset `{name}`")).help(suggest(name, known, "registered"))
        })
    }

    /// Names and contents of the presets.
    pub fn presets(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.presets.iter().map(|preset| (preset.name.as_str(), &preset.node))
    }
}

fn empty_table(source: &Arc<Source>) -> Node {
    Node { value: Value::Table(Vec::new()), origin: Origin::new(source, 0..0) }
}
