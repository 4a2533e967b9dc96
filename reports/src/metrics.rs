//! What one run measured: numbers with their definitions, and what figures need.
//!
//! *Measured* requests are those that arrive inside the [`Window`]. Percentiles are nearest-rank: values that were observed.

mod blocks;
mod groups;
mod latency;
mod measure;
mod saturation;
mod series;
mod tail;
mod worst;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::blocks::Block;
pub use self::groups::{Group, PopularityClass};
pub use self::latency::Latency;
pub(crate) use self::measure::measure;
pub use self::saturation::Saturation;
pub use self::series::{Heat, Series};
pub use self::tail::{Parts, Tail};
use crate::distribution::Distribution;
use crate::settings::SloClass;

/// One run, measured.
#[derive(Clone, Debug)]
pub struct RunResult {
    /// The numbers.
    pub metrics: RunMetrics,
    /// Durations for pooling over seeds, and for figures.
    pub distributions: Distributions,
    /// Quantities over time, for figures.
    pub series: Series,
    /// Batch size by replica and time, for the heat map.
    pub heat: Heat,
    /// What was promised.
    pub slo: Vec<SloClass>,
    /// Files in the folder of the run that the recorder wrote.
    pub files: Vec<String>,
    /// What part of the run its timeline shows; none if that is all of it, or there is none.
    pub timeline_shows: Option<String>,
}

/// Durations of the measured requests, picoseconds.
#[derive(Clone, Debug, Default)]
pub struct Distributions {
    /// Time to first token: of all requests that got one.
    pub ttft: Distribution,
    /// Time per output token: one value for each finished request of two tokens or more.
    pub tpot: Distribution,
    /// Gaps between consecutive tokens.
    pub itl: Distribution,
    /// End to end: of finished requests.
    pub e2e: Distribution,
    /// From arrival to the first step that contained the request.
    pub queueing: Distribution,
}

/// What part of a run counts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Window {
    /// Requests that arrive from here on are measured, seconds.
    pub start_s: f64,
    /// Requests that arrive until here are measured, seconds.
    pub end_s: f64,
    /// The rule that set both.
    pub rule: String,
    /// When the run ended, seconds.
    pub run_s: f64,
}

/// How many requests, and how they ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Counts {
    /// Reached the router.
    pub offered: u64,
    /// All tokens emitted.
    pub finished: u64,
    /// The client gave up.
    pub timed_out: u64,
    /// Turned away.
    pub rejected: u64,
    /// The run ended first.
    pub unfinished: u64,
    /// Finished within the limits of its class.
    pub good: u64,
}

/// How a promise was kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ClassMetrics {
    /// The class.
    pub name: String,
    /// Measured requests of its tenants.
    pub offered: u64,
    /// Good ones.
    pub good: u64,
    /// Their share.
    pub attainment: Option<f64>,
    /// What was promised.
    pub target: Option<f64>,
    /// Time to first token.
    #[serde(default)]
    pub ttft: Latency,
    /// Time per output token.
    #[serde(default)]
    pub tpot: Latency,
    /// Gaps between tokens; nothing counted if they were not recorded by tenant.
    #[serde(default)]
    pub itl: Latency,
    /// End to end.
    #[serde(default)]
    pub e2e: Latency,
}

/// Work per second inside the window, by the time of completion.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Throughput {
    /// Finished requests.
    pub requests_per_s: f64,
    /// Output tokens of finished requests.
    pub output_tokens_per_s: f64,
    /// Prompt and output tokens of finished requests.
    pub total_tokens_per_s: f64,
}

/// What adapters cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AdapterMetrics {
    /// Copies from host to GPU, over the whole run.
    pub loads: u64,
    /// Copies from disk to host, over the whole run.
    pub loads_from_disk: u64,
    /// Copies, from anywhere, that were started ahead of need.
    pub prefetches: u64,
    /// Gigabytes copied (10^9 bytes).
    pub gigabytes: f64,
    /// Adapters that made room on a GPU.
    pub evictions: u64,
    /// Measured requests that found their adapter ready when they reached their replica.
    pub hits: u64,
    /// Measured requests with an adapter that reached a replica.
    pub lookups: u64,
    /// Hits of look-ups.
    pub hit_rate: Option<f64>,
    /// GPU-seconds during which a blocking load held up a batch.
    pub stall_gpu_s: f64,
    /// Seconds that the measured requests waited for weights, altogether.
    pub load_wait_s: f64,
}

/// What GPUs did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GpuMetrics {
    /// GPU-hours held, over the whole run.
    pub hours_held: f64,
    /// GPU-hours held inside the window.
    pub hours_held_window: f64,
    /// GPU-hours spent in steps, over the whole run.
    pub hours_busy: f64,
    /// Share of the held time spent in steps.
    pub busy: Option<f64>,
    /// Hours spent in steps of so many rows, by rows from 0; adds up to `hours_busy`.
    pub busy_hours_by_rows: Vec<f64>,
    /// Mean rows of a step, weighted with its time.
    pub rows_mean: Option<f64>,
    /// Largest batch that the engine allows.
    pub rows_max: u32,
    /// Forward passes.
    pub steps: u64,
    /// Runs of equal steps, as the simulator advances them.
    pub stretches: u64,
    /// Rows of padding, over all steps.
    pub padding_row_steps: u64,
    /// KV blocks in use while a step ran: mean over the time of all steps, with what held them up.
    pub kv_blocks_mean: Option<f64>,
    /// Largest number of KV blocks in use on one replica.
    pub kv_blocks_peak: u32,
    /// Share of the KV blocks in use while a step ran, where the size of the memory is known.
    pub kv_use_mean: Option<f64>,
    /// Largest share of the KV blocks of one replica in use.
    pub kv_use_peak: Option<f64>,
}

impl GpuMetrics {
    /// Share of the time in steps that was spent in steps of at least `rows` rows; none if there was no step.
    pub fn busy_at_least(&self, rows: usize) -> Option<f64> {
        let total: f64 = self.busy_hours_by_rows.iter().sum();
        (total > 0.0).then(|| self.busy_hours_by_rows.iter().skip(rows).sum::<f64>() / total)
    }
}

/// What it costs: held GPU time inside the window, over the output tokens of requests that finished inside it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Cost {
    /// GPU-hours for a million output tokens.
    pub gpu_hours_per_million_tokens: Option<f64>,
    /// Dollars for a million output tokens, if every pool has a price.
    pub usd_per_million_tokens: Option<f64>,
    /// Dollars an hour for what was held, on average over the window.
    pub usd_per_hour: Option<f64>,
}

/// How evenly tenants are served.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Fairness {
    /// Jain's index over tenants of output tokens received over the tenant's weight.
    pub jain_service: Option<f64>,
    /// Jain's index over tenants of attainment.
    pub jain_attainment: Option<f64>,
    /// The five tenants with the lowest attainment, then the highest TTFT p99.
    pub worst: Vec<Group>,
    /// Tenants with a measured request.
    pub tenants: usize,
}

/// Little's law, held exactly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Little {
    /// ∫N dt, which equals the sum of all stays to the picosecond; request-seconds.
    pub request_seconds: f64,
    /// Requests in the system, mean over the run.
    pub in_system_mean: f64,
}

/// The numbers of one run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunMetrics {
    /// What counts.
    pub window: Window,
    /// All requests of the run.
    pub all: Counts,
    /// Measured requests.
    pub measured: Counts,
    /// Offered requests per second of the window.
    pub offered_per_s: f64,
    /// Work per second.
    pub throughput: Throughput,
    /// Good measured requests per second of the window.
    pub goodput_per_s: f64,
    /// Good of all measured requests: rejected, timed out and unfinished ones count as not good.
    pub attainment: Option<f64>,
    /// By SLO class.
    pub classes: Vec<ClassMetrics>,
    /// Time to first token.
    pub ttft: Latency,
    /// Time per output token.
    pub tpot: Latency,
    /// Gaps between tokens.
    pub itl: Latency,
    /// End to end.
    pub e2e: Latency,
    /// Arrival to first step.
    pub queueing: Latency,
    /// The p99 of the time to first token taken apart.
    pub tail: Tail,
    /// Between tenants.
    pub fairness: Fairness,
    /// Adapters.
    pub adapters: AdapterMetrics,
    /// Sequences that lost their KV, over the whole run.
    pub preemptions: u64,
    /// Sequences moved, over the whole run.
    pub migrations: u64,
    /// GPUs.
    pub gpu: GpuMetrics,
    /// Money.
    pub cost: Cost,
    /// Did the cluster keep up? None in a closed loop, where there is nothing to keep up with.
    pub saturation: Option<Saturation>,
    /// Little's law.
    pub little: Little,
    /// The window in equal parts, for intervals with a single seed.
    pub blocks: Vec<Block>,
    /// Tenants with the most measured requests, most first.
    pub by_tenant: Vec<Group>,
    /// Adapters with the most measured requests, most first.
    pub by_adapter: Vec<Group>,
    /// Adapters by popularity rank: 1, 2-3, 4-7, 8-15, …
    pub by_popularity: Vec<PopularityClass>,
}
