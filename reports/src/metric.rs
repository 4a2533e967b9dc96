//! The metrics that runs are compared by.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::metrics::{Block, RunMetrics};

/// Which way is better?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    /// More.
    Higher,
    /// Less.
    Lower,
}

/// How a value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Per second.
    PerSecond,
    /// A share of one.
    Share,
    /// Seconds.
    Seconds,
    /// Dollars.
    Dollars,
    /// GPU-hours.
    GpuHours,
    /// A plain number.
    Count,
}

/// What runs are compared by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum Metric {
    #[default]
    Goodput,
    Attainment,
    TtftP99,
    TpotP99,
    UsdPerMillionTokens,
    GpuHoursPerMillionTokens,
    RequestThroughput,
    OutputTokenThroughput,
    TotalTokenThroughput,
    TtftMean,
    TtftP50,
    TtftP90,
    TpotMean,
    TpotP50,
    TpotP90,
    ItlP50,
    ItlP90,
    ItlP99,
    E2eMean,
    E2eP50,
    E2eP90,
    E2eP99,
    JainService,
    JainAttainment,
    AdapterHitRate,
    AdapterLoads,
    AdapterStall,
    Preemptions,
    Migrations,
    GpuHours,
    BatchSize,
}

impl Metric {
    /// All of them, the most asked for first.
    pub const ALL: [Metric; 31] = [
        Metric::Goodput,
        Metric::Attainment,
        Metric::TtftP99,
        Metric::TpotP99,
        Metric::UsdPerMillionTokens,
        Metric::GpuHoursPerMillionTokens,
        Metric::RequestThroughput,
        Metric::OutputTokenThroughput,
        Metric::TotalTokenThroughput,
        Metric::TtftMean,
        Metric::TtftP50,
        Metric::TtftP90,
        Metric::TpotMean,
        Metric::TpotP50,
        Metric::TpotP90,
        Metric::ItlP50,
        Metric::ItlP90,
        Metric::ItlP99,
        Metric::E2eMean,
        Metric::E2eP50,
        Metric::E2eP90,
        Metric::E2eP99,
        Metric::JainService,
        Metric::JainAttainment,
        Metric::AdapterHitRate,
        Metric::AdapterLoads,
        Metric::AdapterStall,
        Metric::Preemptions,
        Metric::Migrations,
        Metric::GpuHours,
        Metric::BatchSize,
    ];

    /// As headings say it.
    pub fn title(self) -> &'static str {
        self.row().0
    }

    /// How its values are written.
    pub fn unit(self) -> Unit {
        self.row().1
    }

    /// Which way is better?
    pub fn better(self) -> Better {
        self.row().2
    }

    fn row(self) -> (&'static str, Unit, Better) {
        use Better::{Higher, Lower};
        use Unit::{Count, Dollars, GpuHours, PerSecond, Seconds, Share};
        match self {
            Metric::Goodput => ("goodput", PerSecond, Higher),
            Metric::Attainment => ("attainment", Share, Higher),
            Metric::TtftP99 => ("TTFT p99", Seconds, Lower),
            Metric::TpotP99 => ("TPOT p99", Seconds, Lower),
            Metric::UsdPerMillionTokens => ("cost per million output tokens", Dollars, Lower),
            Metric::GpuHoursPerMillionTokens => ("GPU-hours per million output tokens", GpuHours, Lower),
            Metric::RequestThroughput => ("requests finished", PerSecond, Higher),
            Metric::OutputTokenThroughput => ("output tokens", PerSecond, Higher),
            Metric::TotalTokenThroughput => ("prompt and output tokens", PerSecond, Higher),
            Metric::TtftMean => ("TTFT mean", Seconds, Lower),
            Metric::TtftP50 => ("TTFT p50", Seconds, Lower),
            Metric::TtftP90 => ("TTFT p90", Seconds, Lower),
            Metric::TpotMean => ("TPOT mean", Seconds, Lower),
            Metric::TpotP50 => ("TPOT p50", Seconds, Lower),
            Metric::TpotP90 => ("TPOT p90", Seconds, Lower),
            Metric::ItlP50 => ("ITL p50", Seconds, Lower),
            Metric::ItlP90 => ("ITL p90", Seconds, Lower),
            Metric::ItlP99 => ("ITL p99", Seconds, Lower),
            Metric::E2eMean => ("E2E mean", Seconds, Lower),
            Metric::E2eP50 => ("E2E p50", Seconds, Lower),
            Metric::E2eP90 => ("E2E p90", Seconds, Lower),
            Metric::E2eP99 => ("E2E p99", Seconds, Lower),
            Metric::JainService => ("fairness of service", Share, Higher),
            Metric::JainAttainment => ("fairness of attainment", Share, Higher),
            Metric::AdapterHitRate => ("adapter hit rate", Share, Higher),
            Metric::AdapterLoads => ("adapter loads", Count, Lower),
            Metric::AdapterStall => ("GPU time stalled by loads", Seconds, Lower),
            Metric::Preemptions => ("preemptions", Count, Lower),
            Metric::Migrations => ("migrations", Count, Lower),
            Metric::GpuHours => ("GPU-hours held", GpuHours, Lower),
            Metric::BatchSize => ("batch size", Count, Higher),
        }
    }

    /// Its value in a run; none if the run has none, such as a percentile of nothing.
    pub fn of(self, run: &RunMetrics) -> Option<f64> {
        match self {
            Metric::Goodput => Some(run.goodput_per_s),
            Metric::Attainment => run.attainment,
            Metric::TtftP99 => run.ttft.p99,
            Metric::TpotP99 => run.tpot.p99,
            Metric::UsdPerMillionTokens => run.cost.usd_per_million_tokens,
            Metric::GpuHoursPerMillionTokens => run.cost.gpu_hours_per_million_tokens,
            Metric::RequestThroughput => Some(run.throughput.requests_per_s),
            Metric::OutputTokenThroughput => Some(run.throughput.output_tokens_per_s),
            Metric::TotalTokenThroughput => Some(run.throughput.total_tokens_per_s),
            Metric::TtftMean => run.ttft.mean,
            Metric::TtftP50 => run.ttft.p50,
            Metric::TtftP90 => run.ttft.p90,
            Metric::TpotMean => run.tpot.mean,
            Metric::TpotP50 => run.tpot.p50,
            Metric::TpotP90 => run.tpot.p90,
            Metric::ItlP50 => run.itl.p50,
            Metric::ItlP90 => run.itl.p90,
            Metric::ItlP99 => run.itl.p99,
            Metric::E2eMean => run.e2e.mean,
            Metric::E2eP50 => run.e2e.p50,
            Metric::E2eP90 => run.e2e.p90,
            Metric::E2eP99 => run.e2e.p99,
            Metric::JainService => run.fairness.jain_service,
            Metric::JainAttainment => run.fairness.jain_attainment,
            Metric::AdapterHitRate => run.adapters.hit_rate,
            Metric::AdapterLoads => Some(run.adapters.loads as f64),
            Metric::AdapterStall => Some(run.adapters.stall_gpu_s),
            Metric::Preemptions => Some(run.preemptions as f64),
            Metric::Migrations => Some(run.migrations as f64),
            Metric::GpuHours => Some(run.gpu.hours_held),
            Metric::BatchSize => run.gpu.rows_mean,
        }
    }

    /// Its value in one block of a window; none if blocks do not have it.
    pub fn of_block(self, block: &Block) -> Option<f64> {
        match self {
            Metric::Goodput => Some(block.goodput_per_s),
            Metric::Attainment => block.attainment,
            Metric::TtftP50 => block.ttft_p50,
            Metric::TtftP99 => block.ttft_p99,
            Metric::TpotP99 => block.tpot_p99,
            Metric::E2eP99 => block.e2e_p99,
            Metric::RequestThroughput => Some(block.requests_per_s),
            Metric::OutputTokenThroughput => Some(block.output_tokens_per_s),
            Metric::TotalTokenThroughput => Some(block.total_tokens_per_s),
            Metric::UsdPerMillionTokens => block.usd_per_million_tokens,
            Metric::GpuHoursPerMillionTokens => block.gpu_hours_per_million_tokens,
            Metric::GpuHours => Some(block.gpu_hours),
            _ => None,
        }
    }
}
