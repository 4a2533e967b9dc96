//! A choice in TOML: a plain string where the defaults will do, or a table with the name as its one key.
//!
//! Serde's own enums take `"zipf"` only for variants without fields. Here every choice may be written either way,
//! and errors keep the line that the TOML reader gives them.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::value::{MapAccessDeserializer, MapDeserializer, StrDeserializer};
use serde::de::{
    self, DeserializeSeed, Deserializer, EnumAccess, IgnoredAny, IntoDeserializer, MapAccess, VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;

/// Stands between a file and a derived enum; `NUMBER` is the variant that a bare number means, if any.
pub(crate) struct Choice<D> {
    pub(crate) inner: D,
    /// The variant that a bare number stands for.
    pub(crate) number: Option<&'static str>,
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Choice<D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_any(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.inner.deserialize_any(Either { visitor, variants, number: self.number })
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

struct Either<V> {
    visitor: V,
    variants: &'static [&'static str],
    number: Option<&'static str>,
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Either<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "one of `{}`, as a string or as the one key of a table", self.variants.join("`, `"))?;
        if self.number.is_some() { f.write_str(", or a number") } else { Ok(()) }
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<V::Value, E> {
        self.visitor.visit_enum(Named { name, number: None, error: PhantomData })
    }

    /// One key, and no other beside it: a second one would be read by nobody.
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<V::Value, A::Error> {
        let mut keys = Vec::new();
        let choice =
            self.visitor.visit_enum(MapAccessDeserializer::new(Remembered { map: &mut map, keys: &mut keys }))?;
        while let Some(key) = map.next_key::<String>()? {
            map.next_value::<IgnoredAny>()?;
            keys.push(key);
        }
        match keys.len() {
            0 | 1 => Ok(choice),
            n => Err(de::Error::custom(format!("{n} keys where one choice is wanted: {}", keys.join(", ")))),
        }
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<V::Value, E> {
        match self.number {
            Some(name) => self.visitor.visit_enum(Named { name, number: Some(number), error: PhantomData }),
            None => Err(E::invalid_type(de::Unexpected::Signed(number), &self)),
        }
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<V::Value, E> {
        match i64::try_from(number) {
            Ok(number) => self.visit_i64(number),
            Err(_) => Err(E::invalid_value(de::Unexpected::Unsigned(number), &self)),
        }
    }
}

/// The entries of a table, their keys kept for messages.
struct Remembered<'a, A> {
    map: &'a mut A,
    keys: &'a mut Vec<String>,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Remembered<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        self.map.next_key_seed(Kept { seed, keys: self.keys })
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.map.next_value_seed(seed)
    }
}

/// A key on its way to whoever reads it.
struct Kept<'a, S> {
    seed: S,
    keys: &'a mut Vec<String>,
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Kept<'_, S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<S::Value, D::Error> {
        let key = String::deserialize(deserializer)?;
        let value = self.seed.deserialize(key.as_str().into_deserializer());
        self.keys.push(key);
        value
    }
}

/// A variant by its name alone: its fields, if it has any, take their defaults.
struct Named<'a, E> {
    name: &'a str,
    number: Option<i64>,
    error: PhantomData<E>,
}

impl<'de, E: de::Error> EnumAccess<'de> for Named<'_, E> {
    type Error = E;
    type Variant = Defaults<E>;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Defaults<E>), E> {
        let name: StrDeserializer<'_, E> = self.name.into_deserializer();
        Ok((seed.deserialize(name)?, Defaults { number: self.number, error: PhantomData }))
    }
}

struct Defaults<E> {
    number: Option<i64>,
    error: PhantomData<E>,
}

impl<'de, E: de::Error> VariantAccess<'de> for Defaults<E> {
    type Error = E;

    fn unit_variant(self) -> Result<(), E> {
        Ok(())
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, E> {
        match self.number {
            Some(number) => seed.deserialize(number.into_deserializer()),
            None => seed.deserialize(empty()),
        }
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, E> {
        empty().deserialize_any(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], visitor: V) -> Result<V::Value, E> {
        empty().deserialize_any(visitor)
    }
}

fn empty<'de, E: de::Error>() -> MapDeserializer<'de, std::iter::Empty<(&'static str, &'static str)>, E> {
    MapDeserializer::new(std::iter::empty())
}

/// Lets a JSON schema say that every variant may be written as its name alone.
pub(crate) fn or_its_name(schema: &mut schemars::Schema) {
    let mut names = Vec::new();
    for variant in schema.get("oneOf").and_then(|v| v.as_array()).into_iter().flatten() {
        let required = variant.get("required").and_then(|v| v.as_array()).into_iter().flatten();
        names.extend(required.cloned());
    }
    if let Some(variants) = schema.get_mut("oneOf").and_then(|v| v.as_array_mut()) {
        variants.push(serde_json::json!({ "type": "string", "enum": names, "description": "With its defaults." }));
    }
}

/// Makes a derived enum (`#[serde(remote = "Self")]`) readable as a [`Choice`], and writable as serde writes enums.
macro_rules! choice {
    ($name:ident) => {
        choice!($name, None);
    };
    ($name:ident, $number:expr) => {
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<$name, D::Error> {
                $name::deserialize($crate::choice::Choice { inner: deserializer, number: $number })
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                $name::serialize(self, serializer)
            }
        }
    };
}
pub(crate) use choice;
