//! The window in equal parts: what intervals rest on when there is only one seed.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::histogram::nearest_rank;
use crate::recorder::{Kept, KeptAll, Occupancy};
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

/// Cuts the window from `start` to `end` (picoseconds) into blocks; `price` is what a replica's GPU costs an hour.
pub(crate) fn blocks(
    kept: &KeptAll,
    occupancy: &Occupancy,
    (start, end): (u64, u64),
    prices: Option<&[f64]>,
    traffic: Traffic,
    is_measured: impl Fn(&Kept) -> bool,
) -> Vec<Block> {
    let width = (end - start) / BLOCKS as u64;
    if width == 0 {
        return Vec::new();
    }
    let block_of = |time: u64| (((time.saturating_sub(start)) / width) as usize).min(BLOCKS - 1);
    let mut parts: Vec<Part> = (0..BLOCKS).map(|_| Part::default()).collect();
    for request in kept.iter() {
        if is_measured(request) {
            parts[block_of(request.arrival)].arrived(request);
            let counted = if traffic == Traffic::Closed { request.end } else { request.arrival };
            parts[block_of(counted)].good_counted += u64::from(request.good);
        }
        if request.is_finished() && (start..=end).contains(&request.end) {
            let part = &mut parts[block_of(request.end)];
            part.finished += 1;
            part.tokens += u64::from(request.emitted);
            part.prompt_tokens += u64::from(request.prompt);
        }
    }
    let seconds = width as f64 / 1e12;
    let edges = (0..BLOCKS as u64).map(|block| (start + block * width, start + (block + 1) * width));
    parts.into_iter().zip(edges).map(|(part, edges)| part.measure(seconds, edges, occupancy, prices)).collect()
}

#[derive(Default)]
struct Part {
    offered: u64,
    good: u64,
    good_counted: u64,
    finished: u64,
    tokens: u64,
    prompt_tokens: u64,
    ttft: Vec<u64>,
    tpot: Vec<u64>,
    e2e: Vec<u64>,
}

impl Part {
    fn arrived(&mut self, request: &Kept) {
        self.offered += 1;
        self.good += u64::from(request.good);
        self.ttft.extend(request.ttft());
        self.tpot.extend(request.tpot());
        self.e2e.extend(request.e2e());
    }

    fn measure(mut self, seconds: f64, (from, to): (u64, u64), occupancy: &Occupancy, prices: Option<&[f64]>) -> Block {
        let hours: Vec<f64> =
            (0..occupancy.held.len()).map(|replica| occupancy.held_gpu_ps(replica, from, to) as f64 / 3.6e15).collect();
        let gpu_hours = hours.iter().sum::<f64>();
        let usd = prices.map(|prices| hours.iter().zip(prices).map(|(hours, price)| hours * price).sum::<f64>());
        let per_million = |amount: f64| (self.tokens > 0).then(|| amount / self.tokens as f64 * 1e6);
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
            ttft_p50: quantile(&mut self.ttft, 0.5),
            ttft_p99: quantile(&mut self.ttft, 0.99),
            tpot_p99: quantile(&mut self.tpot, 0.99),
            e2e_p99: quantile(&mut self.e2e, 0.99),
        }
    }
}

fn quantile(values: &mut [u64], q: f64) -> Option<f64> {
    let rank = nearest_rank(q, values.len() as u64)? as usize;
    let (_, value, _) = values.select_nth_unstable(rank - 1);
    Some(*value as f64 / 1e12)
}
