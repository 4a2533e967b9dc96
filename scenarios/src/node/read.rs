//! Reads settings out of a tree with serde; an error knows its keys and its place.

use serde::Deserialize;
use serde::de::{self, DeserializeSeed, Deserializer, EnumAccess, MapAccess, SeqAccess, VariantAccess, Visitor};
use serde::forward_to_deserialize_any;

use super::{Entry, Node, Value};
use crate::source::Origin;
use crate::wrong::Wrong;

/// What `toml`'s own date type asks for and is given.
const DATETIME_STRUCT: &str = "$__toml_private_Datetime";
const DATETIME_FIELD: &str = "$__toml_private_datetime";

impl Node {
    /// Reads settings of any kind.
    ///
    /// # Errors
    /// What is wrong, with its keys from here on and its place.
    pub fn read<'de, T: Deserialize<'de>>(&'de self) -> Result<T, Wrong> {
        T::deserialize(self)
    }
}

impl<'de> Deserializer<'de> for &'de Node {
    type Error = Wrong;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        match &self.value {
            Value::String(text) => visitor.visit_borrowed_str(text),
            Value::Integer(value) => visitor.visit_i64(*value),
            Value::Float(value) => visitor.visit_f64(*value),
            Value::Boolean(value) => visitor.visit_bool(*value),
            Value::Datetime(value) => visitor.visit_string(value.to_string()),
            Value::Array(items) => visitor.visit_seq(Items { items: items.iter(), index: 0 }),
            Value::Table(entries) => visitor.visit_map(Entries { entries: entries.iter(), current: None }),
        }
        .map_err(|wrong: Wrong| wrong.from_origin(&self.origin))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Wrong> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        match &self.value {
            Value::Datetime(value) if name == DATETIME_STRUCT => {
                visitor.visit_map(de::value::MapDeserializer::new([(DATETIME_FIELD, value.to_string())].into_iter()))
            }
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        match &self.value {
            Value::String(name) => visitor.visit_enum(Variant { name, origin: &self.origin, node: None }),
            Value::Table(entries) => match entries.as_slice() {
                [Entry { key, origin, node }] => visitor.visit_enum(Variant { name: key, origin, node: Some(node) }),
                _ => Err(Wrong::new(format!("{} keys where one choice is wanted", entries.len()))
                    .help(format!("one of `{}`, as a text or as the one key of a table", variants.join("`, `")))),
            },
            _ => Err(Wrong::new("this is no choice")
                .help(format!("one of `{}`, as a text or as the one key of a table", variants.join("`, `")))),
        }
        .map_err(|wrong| wrong.from_origin(&self.origin))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map identifier ignored_any
    }
}

struct Items<'de> {
    items: std::slice::Iter<'de, Node>,
    index: usize,
}

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = Wrong;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Wrong> {
        let Some(node) = self.items.next() else { return Ok(None) };
        let index = self.index;
        self.index += 1;
        seed.deserialize(node).map(Some).map_err(|wrong| wrong.from_origin(&node.origin).within(index.to_string()))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len())
    }
}

struct Entries<'de> {
    entries: std::slice::Iter<'de, Entry>,
    current: Option<&'de Entry>,
}

impl<'de> MapAccess<'de> for Entries<'de> {
    type Error = Wrong;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Wrong> {
        self.current = self.entries.next();
        let Some(entry) = self.current else { return Ok(None) };
        let key = Key { key: &entry.key };
        seed.deserialize(key).map(Some).map_err(|wrong| wrong.from_origin(&entry.origin).within(&entry.key))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Wrong> {
        let entry = self.current.take().expect("a value follows its key");
        seed.deserialize(&entry.node).map_err(|wrong| wrong.from_origin(&entry.node.origin).within(&entry.key))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.entries.len())
    }
}

/// A key, read as text or, where a map is keyed by numbers, as a number.
struct Key<'de> {
    key: &'de str,
}

impl Key<'_> {
    fn number<T: std::str::FromStr>(&self) -> Result<T, Wrong> {
        self.key.parse().map_err(|_| Wrong::new(format!("the key `{}` is not a number", self.key)))
    }
}

macro_rules! number_keys {
    ($($method:ident $visit:ident,)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
            visitor.$visit(self.number()?)
        })*
    };
}

impl<'de> Deserializer<'de> for Key<'de> {
    type Error = Wrong;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        visitor.visit_borrowed_str(self.key)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Wrong> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        visitor.visit_enum(de::value::BorrowedStrDeserializer::new(self.key))
    }

    number_keys! {
        deserialize_u8 visit_u8,
        deserialize_u16 visit_u16,
        deserialize_u32 visit_u32,
        deserialize_u64 visit_u64,
        deserialize_i32 visit_i32,
        deserialize_i64 visit_i64,
        deserialize_f64 visit_f64,
    }

    forward_to_deserialize_any! {
        bool i8 i16 i128 u128 f32 char str string bytes byte_buf option unit unit_struct seq tuple tuple_struct map
        struct identifier ignored_any
    }
}

struct Variant<'de> {
    name: &'de str,
    origin: &'de Origin,
    node: Option<&'de Node>,
}

impl<'de> EnumAccess<'de> for Variant<'de> {
    type Error = Wrong;
    type Variant = Content<'de>;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Content<'de>), Wrong> {
        let value = seed.deserialize(Key { key: self.name }).map_err(|wrong| wrong.from_origin(self.origin))?;
        Ok((value, Content { name: self.name, node: self.node }))
    }
}

struct Content<'de> {
    name: &'de str,
    node: Option<&'de Node>,
}

impl<'de> Content<'de> {
    fn node(&self) -> Result<&'de Node, Wrong> {
        self.node.ok_or_else(|| {
            Wrong::new(format!("`{}` needs its settings", self.name)).help(format!("write {{ {} = … }}", self.name))
        })
    }
}

impl<'de> VariantAccess<'de> for Content<'de> {
    type Error = Wrong;

    fn unit_variant(self) -> Result<(), Wrong> {
        match self.node {
            Some(node) if !node.is_table() || !node.entries().is_empty() => {
                Err(Wrong::new(format!("`{}` has no settings", self.name))
                    .help(format!("write \"{}\"", self.name))
                    .from_origin(&node.origin))
            }
            _ => Ok(()),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Wrong> {
        let node = self.node()?;
        seed.deserialize(node).map_err(|wrong| wrong.from_origin(&node.origin).within(self.name))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Wrong> {
        self.node()?.deserialize_any(visitor).map_err(|wrong| wrong.within(self.name))
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], visitor: V) -> Result<V::Value, Wrong> {
        self.node()?.deserialize_any(visitor).map_err(|wrong| wrong.within(self.name))
    }
}
