//! A scenario as a tree that knows where each of its values was written.
//!
//! Overlays, sweeps and the command line change the tree; only then is it read into settings. So whatever is wrong is
//! told with the line that says so, whichever of them it came from.

mod read;

use std::sync::Arc;

use serde::Serialize;
use serde::ser::{SerializeMap, SerializeSeq, Serializer};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::source::{Origin, Source};
use crate::wrong::Wrong;

/// A value and where it was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// What it is.
    pub value: Value,
    /// Where it was written.
    pub origin: Origin,
}

/// A value of TOML.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Text.
    String(String),
    /// A whole number.
    Integer(i64),
    /// A number with a point.
    Float(f64),
    /// True or false.
    Boolean(bool),
    /// A date, a time, or both.
    Datetime(toml::value::Datetime),
    /// A list.
    Array(Vec<Node>),
    /// Keys and their values, in the order of the file.
    Table(Vec<Entry>),
}

/// A key and its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Where the key was written.
    pub origin: Origin,
    /// What it is set to.
    pub node: Node,
}

/// The keys of a dotted path, and where each was written.
pub type KeyPath = Vec<(String, Origin)>;

impl Node {
    /// Reads a text as TOML.
    pub fn parse(source: &Arc<Source>) -> Result<Node, Wrong> {
        let table = DeTable::parse(&source.text).map_err(|error| {
            let wrong = Wrong::new(format!("this is not TOML: {}", error.message().replace('\n', ", ")));
            match error.span() {
                Some(span) => wrong.from_origin(&Origin::new(source, span)),
                None => wrong,
            }
        })?;
        let origin = Origin::new(source, 0..0);
        Ok(Node { value: convert_table(source, table.into_inner())?, origin })
    }

    /// The value at these keys.
    pub fn get(&self, path: &[&str]) -> Option<&Node> {
        path.iter().try_fold(self, |node, key| node.entry(key).map(|entry| &entry.node))
    }

    /// This key of a table.
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries().iter().find(|entry| entry.key == key)
    }

    /// The entries of a table; none of anything else.
    pub fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Table(entries) => entries,
            _ => &[],
        }
    }

    /// Takes a key out of a table.
    pub fn take(&mut self, key: &str) -> Option<Entry> {
        let Value::Table(entries) = &mut self.value else { return None };
        let position = entries.iter().position(|entry| entry.key == key)?;
        Some(entries.remove(position))
    }

    /// Sets the value at a path; tables on the way come into being, other values on the way are replaced by tables.
    pub fn set(&mut self, path: &[(String, Origin)], node: Node) {
        let Some(((key, origin), rest)) = path.split_first() else {
            *self = node;
            return;
        };
        if !matches!(self.value, Value::Table(_)) {
            self.value = Value::Table(Vec::new());
            self.origin = origin.clone();
        }
        let Value::Table(entries) = &mut self.value else { unreachable!("it was made a table") };
        let position = entries.iter().position(|entry| entry.key == *key).unwrap_or_else(|| {
            let empty = Node { value: Value::Table(Vec::new()), origin: origin.clone() };
            entries.push(Entry { key: key.clone(), origin: origin.clone(), node: empty });
            entries.len() - 1
        });
        entries[position].origin = origin.clone();
        entries[position].node.set(rest, node);
    }

    /// Where the setting at `path` was written, or the nearest setting above it.
    pub fn locate(&self, path: &[String]) -> Option<Origin> {
        let mut node = self;
        let mut found = None;
        for key in path {
            let index = || key.parse::<usize>().ok();
            match &node.value {
                Value::Table(entries) => {
                    let Some(entry) = entries.iter().find(|entry| entry.key == *key) else { break };
                    found = Some(if entry.node.is_table() { &entry.origin } else { &entry.node.origin });
                    node = &entry.node;
                }
                Value::Array(items) => {
                    let Some(item) = index().and_then(|index| items.get(index)) else { break };
                    found = Some(&item.origin);
                    node = item;
                }
                _ => break,
            }
        }
        found.cloned()
    }

    /// A problem with its place in this tree.
    pub fn place(&self, mut wrong: Wrong) -> Wrong {
        if wrong.origin.is_none() {
            wrong.origin = self.locate(&wrong.path);
        }
        wrong
    }

    /// Is it a table?
    pub fn is_table(&self) -> bool {
        matches!(self.value, Value::Table(_))
    }

    /// As one line of TOML, short enough for a label.
    pub fn label(&self) -> String {
        match &self.value {
            Value::String(text) => text.clone(),
            Value::Integer(value) => value.to_string(),
            Value::Float(value) => value.to_string(),
            Value::Boolean(value) => value.to_string(),
            Value::Datetime(value) => value.to_string(),
            Value::Array(items) => items.iter().map(Node::label).collect::<Vec<_>>().join("+"),
            Value::Table(entries) => {
                let part = |entry: &Entry| match entry.node.is_table() {
                    true if entry.node.entries().is_empty() => entry.key.clone(),
                    true => format!("{}({})", entry.key, entry.node.label()),
                    false => format!("{}={}", entry.key, entry.node.label()),
                };
                entries.iter().map(part).collect::<Vec<_>>().join(",")
            }
        }
    }
}

/// Reads a dotted path, such as `engine.vllm.max_loras` or `pool."my gpu".replicas`.
///
/// # Errors
/// A text that is no path, told with its origin.
pub fn parse_path(text: &str, origin: &Origin) -> Result<KeyPath, Wrong> {
    let bad = || Wrong::new(format!("`{text}` is no path of keys joined by dots")).from_origin(origin);
    let document = format!("{text} = 0");
    let table = DeTable::parse(&document).map_err(|_| bad())?;
    let mut keys = Vec::new();
    let mut table = table.get_ref();
    loop {
        if table.len() != 1 {
            return Err(bad());
        }
        let (key, value) = table.iter().next().ok_or_else(bad)?;
        keys.push((key.get_ref().to_string(), origin.clone()));
        match value.get_ref() {
            DeValue::Table(inner) => table = inner,
            DeValue::Integer(_) => return Ok(keys),
            _ => return Err(bad()),
        }
    }
}

/// Reads `path=value` of the command line: the value is TOML, or else taken as text.
///
/// # Errors
/// When there is no `=`, or what is before it is no path.
pub fn parse_assignment(argument: &str) -> Result<(KeyPath, Node), Wrong> {
    let source = Source::new(format!("--set {argument:?}"), argument);
    let Some((path, value)) = argument.split_once('=') else {
        return Err(Wrong::new(format!("`--set {argument}` has no `=`"))
            .help("write --set path=value, such as --set engine.vllm.max_loras=16"));
    };
    let keys = parse_path(path.trim(), &Origin::new(&source, 0..path.len()))?;
    let span = path.len() + 1..argument.len();
    let node = match DeValue::parse(value.trim()) {
        Ok(parsed) => {
            // Its spans count from the value, not from the whole argument.
            let of_argument = |wrong: Wrong| {
                let wrong = Wrong { origin: Some(Origin::new(&source, span.clone())), ..wrong };
                keys.iter().rev().fold(wrong, |wrong, (key, _)| wrong.within(key))
            };
            let mut node = convert(&source, parsed).map_err(of_argument)?;
            node.relocate(&Origin::new(&source, span));
            node
        }
        Err(_) => Node { value: Value::String(value.trim().to_owned()), origin: Origin::new(&source, span) },
    };
    Ok((keys, node))
}

impl Node {
    /// Says of everything in it that it was written there.
    pub(crate) fn relocate(&mut self, origin: &Origin) {
        self.origin = origin.clone();
        match &mut self.value {
            Value::Array(items) => items.iter_mut().for_each(|item| item.relocate(origin)),
            Value::Table(entries) => entries.iter_mut().for_each(|entry| {
                entry.origin = origin.clone();
                entry.node.relocate(origin);
            }),
            _ => {}
        }
    }
}

fn convert_table(source: &Arc<Source>, table: DeTable<'_>) -> Result<Value, Wrong> {
    let mut entries = Vec::with_capacity(table.len());
    for (key, value) in table {
        let origin = Origin::new(source, key.span());
        let mut node = convert(source, value).map_err(|wrong| wrong.within(key.get_ref().as_ref()))?;
        // A table under a header is shown by its name, one in braces by itself.
        let braced = source.text.get(node.origin.span.clone()).is_some_and(|text| text.starts_with(['{', '[']));
        if node.is_table() && (!braced || source.text[node.origin.span.start..].starts_with('[')) {
            node.origin = origin.clone();
        }
        entries.push(Entry { key: key.into_inner().into_owned(), origin, node });
    }
    entries.sort_by_key(|entry| entry.origin.span.start);
    Ok(Value::Table(entries))
}

fn convert(source: &Arc<Source>, value: Spanned<DeValue<'_>>) -> Result<Node, Wrong> {
    let origin = Origin::new(source, value.span());
    let value = match value.into_inner() {
        DeValue::String(text) => Value::String(text.into_owned()),
        DeValue::Integer(number) => {
            let parsed = i64::from_str_radix(number.as_str(), number.radix());
            let Ok(number) = parsed else {
                return Err(Wrong::new(format!("the number {number} is too large")).from_origin(&origin));
            };
            Value::Integer(number)
        }
        DeValue::Float(number) => match number.as_str().parse::<f64>() {
            Ok(parsed) if parsed.is_finite() => Value::Float(parsed),
            _ => return Err(Wrong::new(format!("{number} is not a finite number")).from_origin(&origin)),
        },
        DeValue::Boolean(value) => Value::Boolean(value),
        DeValue::Datetime(value) => Value::Datetime(value),
        DeValue::Array(items) => {
            Value::Array(items.into_iter().map(|item| convert(source, item)).collect::<Result<_, _>>()?)
        }
        DeValue::Table(table) => convert_table(source, table)?,
    };
    Ok(Node { value, origin })
}

/// As TOML; the origins are left out.
impl Serialize for Node {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.value {
            Value::String(text) => serializer.serialize_str(text),
            Value::Integer(value) => serializer.serialize_i64(*value),
            Value::Float(value) => serializer.serialize_f64(*value),
            Value::Boolean(value) => serializer.serialize_bool(*value),
            Value::Datetime(value) => value.serialize(serializer),
            Value::Array(items) => {
                let mut seq = serializer.serialize_seq(Some(items.len()))?;
                for item in items {
                    seq.serialize_element(item)?;
                }
                seq.end()
            }
            Value::Table(entries) => {
                let mut map = serializer.serialize_map(Some(entries.len()))?;
                for entry in entries {
                    map.serialize_entry(&entry.key, &entry.node)?;
                }
                map.end()
            }
        }
    }
}
