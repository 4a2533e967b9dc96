//! Bytes with a unit.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A number of bytes, written with its unit: `"4GiB"`, `"80MB"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

const UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Bytes, String> {
        let bad = || {
            format!(
                "`{text}` is no number of bytes: write a number and a unit, such as \"4GiB\" (units: B, kB, MB, GB, TB, KiB, MiB, GiB, TiB)"
            )
        };
        let trimmed = text.trim();
        let (number, unit) =
            UNITS.iter().find_map(|(unit, bytes)| Some((trimmed.strip_suffix(unit)?, *bytes))).ok_or_else(bad)?;
        let number: f64 = number.trim().parse().map_err(|_| bad())?;
        let bytes = number * unit as f64;
        if !(bytes.is_finite() && (0.0..1e18).contains(&bytes)) {
            return Err(bad());
        }
        Ok(Bytes(bytes.round() as u64))
    }
}

/// In the largest unit that needs no fraction; it parses back to itself.
impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, bytes) =
            UNITS.iter().find(|(_, bytes)| self.0 > 0 && self.0.is_multiple_of(*bytes)).unwrap_or(&("B", 1));
        write!(f, "{}{unit}", self.0 / bytes)
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        struct Text;
        impl de::Visitor<'_> for Text {
            type Value = Bytes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes with a unit, such as \"4GiB\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Bytes, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Text)
    }
}

impl JsonSchema for Bytes {
    fn schema_name() -> Cow<'static, str> {
        "Bytes".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": r"^\s*[0-9.]+\s*([kMGT]?B|[KMGT]iB)\s*$" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_with_their_unit_and_print_as_what_they_read() {
        for (text, bytes) in [("4GiB", 4 << 30), ("80 MB", 80_000_000), ("1.5kB", 1500), ("0B", 0)] {
            let read: Bytes = text.parse().unwrap();
            assert_eq!(read.0, bytes, "{text}");
            assert_eq!(read.to_string().parse::<Bytes>().unwrap(), read);
        }
        for text in ["", "4", "4 parsecs", "-1GB", "1e99GB", "nanB"] {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
    }
}
