//! The `[traffic]` table of a scenario: what a user writes, and nothing yet of what it becomes.

mod parts;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use aril_sim::time::Span;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::arrivals::ArrivalLaw;
use crate::cell::TimeUnit;
use crate::format::{Columns, Format};
use crate::lengths::Length;
use crate::popularity::Popularity;
use crate::predictor::Predictor;
use crate::read::Failures;
use crate::servegen::Servegen;
use crate::shipped::{self, Shipped};

pub use parts::{Client, ClosedLoop, LengthsFrom, MaxTokens, Rank, Resample, Start, TooLong, Window};

/// Who asks for what, and when: a trace to replay, laws to draw from, or both.
///
/// A trace gives arrivals, lengths, tenants, adapters and prefixes, as far as it has them. What else stands here takes
/// the place of what the trace says. All times are trace time: `rate_scale` squeezes the finished stream.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Traffic {
    /// A shipped trace by its name, or a file by its path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
    /// How the file is written; without it, its header decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// Which column holds what, where it is not as the format has it.
    #[serde(default, skip_serializing_if = "Columns::is_empty")]
    pub columns: Columns,
    /// The unit of the trace's arrivals, where the file does not show it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arrival_unit: Option<TimeUnit>,
    /// A table of adapters: `adapter`, and `tenant`, `rank`, `bytes` where there are such. A file by its path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapters: Option<PathBuf>,
    /// Sort the trace by arrival? Without it, an unsorted file is refused, unless its format has no order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sort: Option<bool>,
    /// What becomes of requests without a prompt or without output.
    #[serde(default, skip_serializing_if = "is_default")]
    pub failures: Failures,
    /// What becomes of requests of a trace whose prompt leaves the model no room for output.
    #[serde(default, skip_serializing_if = "is_default")]
    pub too_long: TooLong,
    /// Spread arrivals over the tick of the trace's clock: each is moved later by up to this (Mooncake's tick is 3 s).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jitter: Option<Span>,
    /// The part of the traffic that is offered.
    #[serde(default, skip_serializing_if = "is_default")]
    pub window: Window,
    /// Requests come so many times as fast; their order and content stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_scale: Option<f64>,
    /// How many requests at most; needed where neither a trace nor a window ends the traffic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<u64>,
    /// When requests arrive; without it, when the trace says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arrivals: Option<ArrivalLaw>,
    /// A full queue at the start and nothing after it: short for `arrivals = "closed"` with what belongs to it.
    #[serde(default, rename = "closed-loop", skip_serializing_if = "Option::is_none")]
    pub closed_loop: Option<ClosedLoop>,
    /// Prompt and output lengths, drawn together from the rows of another trace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lengths: Option<LengthsFrom>,
    /// Prompt lengths.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_tokens: Option<Length>,
    /// Output lengths.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_tokens: Option<Length>,
    /// Prompt and output together: the output is max(prompt + 2, total) − prompt (Punica).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_tokens: Option<Length>,
    /// What clients send as their cap on output tokens, where the trace does not say.
    #[serde(default, skip_serializing_if = "is_default")]
    pub max_tokens: MaxTokens,
    /// Which adapter a request wants; without it, what the trace says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub popularity: Option<Popularity>,
    /// Share of adapters by rank, where no file says the rank: `{ 8 = 0.4, 64 = 0.6 }`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ranks: BTreeMap<Rank, f64>,
    /// Share of requests that go to the base model in place of the adapter they would have.
    #[serde(default, skip_serializing_if = "is_default")]
    pub base_share: f64,
    /// Tenants that share the drawn adapters among them; without it, each drawn adapter is a tenant of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenants: Option<u32>,
    /// What policies may know of output lengths.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_predictor: Option<Predictor>,
    /// How clients behave.
    #[serde(default, skip_serializing_if = "is_default")]
    pub client: Client,
    /// How requests are drawn, if the trace is ServeGen's.
    #[serde(default, skip_serializing_if = "is_default")]
    pub servegen: Servegen,
    /// How the other seeds of a replayed trace are made from it: all but the scenario's `seed`, which replays it as recorded.
    #[serde(default, skip_serializing_if = "is_default")]
    pub resample: Resample,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A folder's files by name; a file, or what is not there, as it is.
fn files_of(path: PathBuf) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(&path) else { return vec![path] };
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_file()).collect();
    files.sort();
    files
}

impl Traffic {
    /// The files that the traffic is read from, those of a folder each; absolute or relative as `base` is. Shipped traces are in
    /// [`Traffic::shipped_inputs`].
    pub fn inputs(&self, base: &Path) -> Vec<PathBuf> {
        let files = self.traces().filter(|name| shipped::find(name).is_none()).map(|name| base.join(name));
        files.chain(self.adapters.iter().map(|path| base.join(path))).flat_map(files_of).collect()
    }

    /// The shipped traces that the traffic is read from.
    pub fn shipped_inputs(&self) -> Vec<&'static Shipped> {
        self.traces().filter_map(|name| shipped::find(name)).collect()
    }

    fn traces(&self) -> impl Iterator<Item = &String> {
        self.trace.iter().chain(self.lengths.iter().map(|lengths| &lengths.trace))
    }

    /// How much of the start is cut from averages, in run time: the window's warm-up, squeezed like all else.
    pub fn warmup(&self) -> Span {
        match self.rate_scale {
            None => self.window.warmup,
            Some(scale) => Span::from_secs_f64(self.window.warmup.as_secs_f64() / scale),
        }
    }

    /// How long a client waits before it gives up, in run time.
    pub fn client_timeout(&self) -> Option<Span> {
        self.client.timeout
    }
}
