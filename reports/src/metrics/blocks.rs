//! The window in equal parts: what intervals rest on when there is only one seed.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::distribution::Gathering;
use crate::recorder::{Kept, Occupancy};
use crate::settings::Traffic;

/// Parts of a window.
pub(crate) const BLOCKS: usize = 20;

/// One part of the window: requests by arrival, tokens by completion.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Block {
    /// Measured requests that arrived in it.
    pub offered: u64,
    /// Good ones per second; in a closed loop, where all arrive at once, those that ended in it.
    pub goodput_per_s: f64,
    /// Good of offered.
    pub attainment: Option<f64>,
    /// TTFT of those that got a first token, seconds.
    pub ttft_p50: Option<f64>,
    /// TTFT of those that got a first token, seconds.
    pub ttft_p99: Option<f64>,
    /// TPOT of finished ones, seconds.
    pub tpot_p99: Option<f64>,
    /// End to end of finished ones, seconds.
    pub e2e_p99: Option<f64>,
    /// Output tokens of requests that finished in it, per second.
    pub output_tokens_per_s: f64,
    /// Prompt and output tokens of requests that finished in it, per second.
    #[serde(default)]
    pub total_tokens_per_s: f64,
    /// Requests that finished in it, per second.
    #[serde(default)]
    pub requests_per_s: f64,
    /// GPU-hours held in it.
    pub gpu_hours: f64,
    /// GPU-hours for a million output tokens.
    pub gpu_hours_per_million_tokens: Option<f64>,
    /// Dollars for a million output tokens.
    pub usd_per_million_tokens: Option<f64>,
}

/// The window cut into parts, while requests are counted.
pub(crate) struct Blocks {
    window: (u64, u64),
    /// Of a part, picoseconds.
    width: u64,
    traffic: Traffic,
    parts: Vec<Part>,
}

impl Blocks {
    /// Of the window from `start` to `end` (picoseconds); `keep` times of each part are kept one by one.
    pub(crate) fn new((start, end): (u64, u64), traffic: Traffic, keep: usize) -> Blocks {
        let width = (end - start) / BLOCKS as u64;
        let blocks = if width == 0 { 0 } else { BLOCKS };
        Blocks { window: (start, end), width, traffic, parts: (0..blocks).map(|_| Part::new(keep)).collect() }
    }

    fn part(&mut self, time: u64) -> &mut Part {
        &mut self.parts[((time.saturating_sub(self.window.0) / self.width) as usize).min(BLOCKS - 1)]
    }

    pub(crate) fn count(&mut self, request: &Kept, is_measured: bool) {
        if self.parts.is_empty() {
            return;
        }
        if is_measured {
            self.part(request.arrival).arrived(request);
            let counted = if self.traffic == Traffic::Closed { request.end } else { request.arrival };
            self.part(counted).good_counted += u64::from(request.good);
        }
        if request.is_finished() && (self.window.0..=self.window.1).contains(&request.end) {
            let part = self.part(request.end);
            part.finished += 1;
            part.tokens += u64::from(request.emitted);
            part.prompt_tokens += u64::from(request.prompt);
        }
    }

    /// `prices`: what a GPU of each replica costs an hour.
    pub(crate) fn measure(self, occupancy: &Occupancy, prices: Option<&[f64]>) -> Vec<Block> {
        let (start, width) = (self.window.0, self.width);
        let seconds = width as f64 / 1e12;
        let edges = (0..BLOCKS as u64).map(|block| (start + block * width, start + (block + 1) * width));
        self.parts.into_iter().zip(edges).map(|(part, edges)| part.measure(seconds, edges, occupancy, prices)).collect()
    }
}

struct Part {
    offered: u64,
    good: u64,
    good_counted: u64,
    finished: u64,
    tokens: u64,
    prompt_tokens: u64,
    ttft: Gathering,
    tpot: Gathering,
    e2e: Gathering,
}

impl Part {
    fn new(keep: usize) -> Part {
        let [ttft, tpot, e2e] = std::array::from_fn(|_| Gathering::new(keep));
        Part { offered: 0, good: 0, good_counted: 0, finished: 0, tokens: 0, prompt_tokens: 0, ttft, tpot, e2e }
    }

    fn arrived(&mut self, request: &Kept) {
        self.offered += 1;
        self.good += u64::from(request.good);
        self.ttft.record_if(request.ttft());
        self.tpot.record_if(request.tpot());
        self.e2e.record_if(request.e2e());
    }

    fn measure(mut self, seconds: f64, (from, to): (u64, u64), occupancy: &Occupancy, prices: Option<&[f64]>) -> Block {
        let hours: Vec<f64> =
            (0..occupancy.held.len()).map(|replica| occupancy.held_gpu_ps(replica, from, to) as f64 / 3.6e15).collect();
        let gpu_hours = hours.iter().sum::<f64>();
        let usd = prices.map(|prices| hours.iter().zip(prices).map(|(hours, price)| hours * price).sum::<f64>());
        let per_million = |amount: f64| (self.tokens > 0).then(|| amount / self.tokens as f64 * 1e6);
        let [ttft, tpot, e2e] = [&mut self.ttft, &mut self.tpot, &mut self.e2e].map(Gathering::latency);
        Block {
            offered: self.offered,
            goodput_per_s: self.good_counted as f64 / seconds,
            attainment: (self.offered > 0).then(|| self.good as f64 / self.offered as f64),
            output_tokens_per_s: self.tokens as f64 / seconds,
            total_tokens_per_s: (self.tokens + self.prompt_tokens) as f64 / seconds,
            requests_per_s: self.finished as f64 / seconds,
            gpu_hours,
            gpu_hours_per_million_tokens: per_million(gpu_hours),
            usd_per_million_tokens: usd.and_then(per_million),
            ttft_p50: ttft.p50,
            ttft_p99: ttft.p99,
            tpot_p99: tpot.p99,
            e2e_p99: e2e.p99,
        }
    }
}
