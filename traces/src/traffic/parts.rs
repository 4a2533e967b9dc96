//! The tables inside `[traffic]`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use aril_sim::time::Span;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::cell::{date_ps, date_text};
use crate::choice::{choice, or_its_name};
use crate::format::{Columns, Format};
use crate::lengths::Length;
use crate::popularity::Popularity;

/// The part of the traffic that is offered, in trace time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// Where it begins: a duration from the start of the trace, or a date where the trace has dates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<Start>,
    /// How long it is; without it, to the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<Span>,
    /// How much of it is cut from averages.
    #[serde(default, skip_serializing_if = "no_time")]
    pub warmup: Span,
}

/// Where a window begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// So long after the trace does.
    After(Span),
    /// At a date: ps since the Unix epoch.
    Date(i128),
}

impl<'de> Deserialize<'de> for Start {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Start, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Date(toml::value::Datetime),
            Text(String),
        }
        let expected =
            || de::Error::custom("expected a duration such as \"10m\", or a date such as 2026-11-16T08:00:00Z");
        let text = match Either::deserialize(deserializer).map_err(|_| expected())? {
            Either::Date(date) => date.to_string(),
            Either::Text(text) => text,
        };
        match text.parse() {
            Ok(span) => Ok(Start::After(span)),
            Err(_) => date_ps(&text).map(Start::Date).ok_or_else(expected),
        }
    }
}

impl fmt::Display for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Start::After(span) => span.fmt(f),
            Start::Date(ps) => f.write_str(&date_text(*ps)),
        }
    }
}

impl Serialize for Start {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for Start {
    fn schema_name() -> Cow<'static, str> {
        "WindowStart".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "A duration from the start of the trace, or a date: \"10m\", 2026-11-16T08:00:00Z.",
        })
    }
}

/// A rank as the key of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank(pub u32);

impl<'de> Deserialize<'de> for Rank {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Rank, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.parse() {
            Ok(rank) if rank > 0 => Ok(Rank(rank)),
            _ => Err(de::Error::custom(format!(
                "`{text}` is not a rank: write a whole number from 1 on, as in {{ 16 = 1.0 }}"
            ))),
        }
    }
}

impl Serialize for Rank {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl JsonSchema for Rank {
    fn schema_name() -> Cow<'static, str> {
        "Rank".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[1-9][0-9]*$" })
    }
}

/// Requests that all wait at the start.
///
/// Each key means what it means in `[traffic]` itself, where it may stand as well. They are written out in both: serde refuses
/// unknown keys only of tables that share no part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClosedLoop {
    /// How many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<u64>,
    /// Prompt lengths.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_tokens: Option<Length>,
    /// Output lengths.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_tokens: Option<Length>,
    /// Prompt and output together: the output is max(prompt + 2, total) − prompt (Punica).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_tokens: Option<Length>,
    /// Which adapter a request wants. One that stands under `[traffic]` itself goes before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub popularity: Option<Popularity>,
    /// Share of adapters by rank.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ranks: BTreeMap<Rank, f64>,
}

/// A trace whose rows are drawn, with replacement, for their lengths alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LengthsFrom {
    /// A shipped trace by its name, or a file by its path.
    pub trace: String,
    /// How the file is written; without it, its header decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// Which column holds what, where it is not as the format has it.
    #[serde(default, skip_serializing_if = "Columns::is_empty")]
    pub columns: Columns,
}

/// What clients send as `max_tokens`. A bare number is the same for all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", rename_all = "kebab-case", deny_unknown_fields)]
#[schemars(transform = or_its_name)]
pub enum MaxTokens {
    /// Nothing: the cap is what the model's context leaves after the prompt.
    #[default]
    Model,
    /// The true output length, as benchmarks do that force exact lengths. Tells policies what only fate knows.
    Output,
    /// This many; outputs end there.
    Fixed(u32),
}

choice!(MaxTokens, Some("fixed"));

/// What becomes of requests of a trace whose prompt leaves the model no room for output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TooLong {
    /// The scenario is refused.
    #[default]
    Refuse,
    /// They are left out and counted.
    Drop,
    /// Their prompt is cut to what the model takes, and they are counted.
    Clip,
}

/// How clients behave.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Client {
    /// After how long, from its arrival, a request that is not finished is cancelled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
    /// How often a client tries again.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub retries: u32,
    /// How long it waits before it tries again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff: Option<Span>,
}

fn no_time(span: &Span) -> bool {
    span.is_zero()
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// How further seeds of a replayed trace are made: blocks of it in another order, with their ids (circular block bootstrap).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Resample {
    /// Length of a block.
    pub block: Span,
    /// How far from its own place a block may come from, so that the day keeps its shape; without it, from anywhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reach: Option<Span>,
}

impl Default for Resample {
    fn default() -> Resample {
        Resample { block: Span::from_secs(60), reach: None }
    }
}
