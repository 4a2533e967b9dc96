//! Many numbers in one text, with a space between them: fifty thousand of them are read in a tenth of the time that as many items of a
//! list take. A list is read as well.

use std::fmt::{self, Display, Write};
use std::marker::PhantomData;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serializer};

/// What may stand in a file.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "only its schema is asked for")]
pub(super) enum Written<N> {
    Text(String),
    List(Vec<N>),
}

pub(super) fn serialize<N: Display, S: Serializer>(numbers: &[N], serializer: S) -> Result<S::Ok, S::Error> {
    let mut text = String::new();
    for number in numbers {
        let space = if text.is_empty() { "" } else { " " };
        write!(text, "{space}{number}").expect("a text takes all");
    }
    serializer.serialize_str(&text)
}

pub(super) fn deserialize<'de, N, D>(deserializer: D) -> Result<Vec<N>, D::Error>
where
    N: FromStr + Deserialize<'de>,
    D: Deserializer<'de>,
{
    deserializer.deserialize_any(Numbers(PhantomData))
}

struct Numbers<N>(PhantomData<N>);

impl<'de, N: FromStr + Deserialize<'de>> Visitor<'de> for Numbers<N> {
    type Value = Vec<N>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("numbers with a space between them, or a list of numbers")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Vec<N>, E> {
        let number =
            |word: &str| word.parse().map_err(|_| E::custom(format!("`{word}` is no number that may stand here")));
        text.split_ascii_whitespace().map(number).collect()
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<N>, A::Error> {
        let mut numbers = Vec::new();
        while let Some(number) = list.next_element()? {
            numbers.push(number);
        }
        Ok(numbers)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Steps;

    #[test]
    fn numbers_are_read_from_a_text_and_from_a_list_and_come_back_to_the_last_digit() {
        let steps = Steps { until: vec![1, 64, u32::MAX], ms: vec![0.0071079999999999624, 1e-9, 3.0] };
        let written = toml::to_string(&steps).unwrap();
        assert!(written.contains("until = \"1 64 4294967295\""), "{written}");
        assert_eq!(toml::from_str::<Steps>(&written).unwrap(), steps);
        let listed = "until = [1, 64, 4294967295]\nms = [0.0071079999999999624, 1e-9, 3.0]";
        assert_eq!(toml::from_str::<Steps>(listed).unwrap(), steps);
        let error = toml::from_str::<Steps>("until = \"1 x\"\nms = []").unwrap_err().to_string();
        assert!(error.contains("`x` is no number"), "{error}");
    }
}
