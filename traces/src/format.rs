//! The formats of public traces: which column means what, and how a file shows what it is.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cell::TimeUnit;

/// How is a trace written?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// The canonical table of this project: `arrival_s`, `arrival_ps` or `arrival` (seconds or dates), `input_tokens`, `output_tokens`, and `tenant`,
    /// `adapter`, `rank`, `max_tokens`, `prefix` where there are such.
    Aril,
    /// Azure LLM inference traces of 2023, 2024 and 2025.
    Azure,
    /// Mooncake (FAST '25): milliseconds, prompts as hashes of 512-token blocks.
    Mooncake,
    /// RAGPulse: seconds in text, prompts as hashes of their parts, two segments one after the other.
    Ragpulse,
    /// BurstGPT, versions 1 to 3.
    Burstgpt,
    /// Vidur's processed traces, with or without arrivals (`arrived_at`, or `arrived_at_s`): seconds since its run began.
    Vidur,
    /// Qwen-Bailian: seconds, prompts as hashes of 16-token blocks.
    Bailian,
    /// The requests of Punica's text generation benchmark, in the order of their queue.
    PunicaTextgen,
    /// ServeGen (Alibaba): rates and length histograms of clients, not requests. An archive or a folder.
    Servegen,
}

/// Which column of a file holds what? Names in the header of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Columns {
    /// When the request arrived.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arrival: Option<String>,
    /// Who asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// The adapter it wants; an empty value means the base model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<String>,
    /// The rank of that adapter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank: Option<String>,
    /// Length of the prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_tokens: Option<String>,
    /// True length of the output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_tokens: Option<String>,
    /// The client's cap on output tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<String>,
    /// Hashes of the prompt's blocks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
}

impl Columns {
    /// Is nothing named?
    pub fn is_empty(&self) -> bool {
        *self == Columns::default()
    }

    /// These names, and those of `format` where none is given.
    pub(crate) fn over(&self, format: Columns) -> Columns {
        Columns {
            arrival: self.arrival.clone().or(format.arrival),
            tenant: self.tenant.clone().or(format.tenant),
            adapter: self.adapter.clone().or(format.adapter),
            rank: self.rank.clone().or(format.rank),
            input_tokens: self.input_tokens.clone().or(format.input_tokens),
            output_tokens: self.output_tokens.clone().or(format.output_tokens),
            max_tokens: self.max_tokens.clone().or(format.max_tokens),
            prefix: self.prefix.clone().or(format.prefix),
        }
    }
}

impl Format {
    /// Which format has these columns?
    pub(crate) fn detect(columns: &[String]) -> Option<Format> {
        let has = |names: &[&str]| names.iter().all(|name| columns.iter().any(|column| column == name));
        if has(&["TIMESTAMP", "ContextTokens", "GeneratedTokens"]) {
            Some(Format::Azure)
        } else if has(&["Timestamp", "Request tokens", "Response tokens"]) {
            Some(Format::Burstgpt)
        } else if has(&["num_prefill_tokens", "num_decode_tokens"])
            || has(&["arrived_at_s", "prompt_tokens", "output_tokens"])
        {
            Some(Format::Vidur)
        } else if has(&["prompt_tokens", "output_tokens", "adapter_distinct"]) {
            Some(Format::PunicaTextgen)
        } else if has(&["chat_id", "timestamp", "input_length", "hash_ids"]) {
            Some(Format::Bailian)
        } else if has(&["timestamp", "input_length", "output_length", "hash_ids", "session_id"]) {
            Some(Format::Ragpulse)
        } else if has(&["timestamp", "input_length", "output_length", "hash_ids"]) {
            Some(Format::Mooncake)
        } else if has(&["input_tokens", "output_tokens"]) {
            Some(Format::Aril)
        } else {
            None
        }
    }

    /// The columns of the format, those that a file of it may lack included.
    pub(crate) fn columns(self, present: &[String]) -> Columns {
        let has = |name: &str| present.iter().any(|column| column == name);
        let named = |name: &str| Some(name.to_owned());
        let optional = |name: &str| has(name).then(|| name.to_owned());
        match self {
            Format::Aril => Columns {
                arrival: ["arrival_ps", "arrival_s", "arrival"].into_iter().find_map(optional),
                tenant: optional("tenant"),
                adapter: optional("adapter"),
                rank: optional("rank"),
                input_tokens: named("input_tokens"),
                output_tokens: named("output_tokens"),
                max_tokens: optional("max_tokens"),
                prefix: optional("prefix"),
            },
            Format::Azure => Columns {
                arrival: named("TIMESTAMP"),
                input_tokens: named("ContextTokens"),
                output_tokens: named("GeneratedTokens"),
                ..Columns::default()
            },
            Format::Mooncake | Format::Ragpulse | Format::Bailian => Columns {
                arrival: named("timestamp"),
                input_tokens: named("input_length"),
                output_tokens: named("output_length"),
                prefix: named("hash_ids"),
                ..Columns::default()
            },
            Format::Burstgpt => Columns {
                arrival: named("Timestamp"),
                input_tokens: named("Request tokens"),
                output_tokens: named("Response tokens"),
                ..Columns::default()
            },
            // Its traces, or a list of requests under plain names.
            Format::Vidur => Columns {
                arrival: optional("arrived_at").or_else(|| optional("arrived_at_s")),
                input_tokens: optional("num_prefill_tokens")
                    .or_else(|| optional("prompt_tokens"))
                    .or_else(|| named("num_prefill_tokens")),
                output_tokens: optional("num_decode_tokens")
                    .or_else(|| optional("output_tokens"))
                    .or_else(|| named("num_decode_tokens")),
                ..Columns::default()
            },
            Format::PunicaTextgen => Columns {
                adapter: named("adapter_distinct"),
                input_tokens: named("prompt_tokens"),
                output_tokens: named("output_tokens"),
                ..Columns::default()
            },
            Format::Servegen => Columns::default(),
        }
    }

    /// The unit of its arrivals, where the format fixes it.
    pub(crate) fn time_unit(self, arrival: Option<&str>) -> Option<TimeUnit> {
        match self {
            Format::Aril if arrival == Some("arrival_ps") => Some(TimeUnit::Ps),
            // Seconds or dates, as they look.
            Format::Aril if arrival == Some("arrival") => None,
            Format::Aril | Format::Ragpulse | Format::Burstgpt | Format::Vidur | Format::Bailian => Some(TimeUnit::S),
            Format::Azure => Some(TimeUnit::Rfc3339),
            Format::Mooncake => Some(TimeUnit::Ms),
            Format::PunicaTextgen | Format::Servegen => None,
        }
    }

    /// Has the order of its rows no meaning? RAGPulse is published as two weeks one after the other.
    pub(crate) fn is_unordered(self) -> bool {
        self == Format::Ragpulse
    }
}
