//! Latency, throughput and resources by policy.

use maud::{Markup, html};

use super::{Point, plain_table, policy_name, seconds, share};
use crate::compare::PolicyRuns;
use crate::format;
use crate::metric::Metric;
use crate::metrics::{Latency, RunMetrics};
use crate::pooled::Pooled;

/// A latency by name.
type Named = (&'static str, fn(&Pooled) -> &Latency);

const LATENCIES: [Named; 5] = [
    ("TTFT", |policy| &policy.ttft),
    ("TPOT", |policy| &policy.tpot),
    ("ITL", |policy| &policy.itl),
    ("E2E", |policy| &policy.e2e),
    ("to first step", |policy| &policy.queueing),
];

pub(super) fn latencies(point: &Point<'_>) -> Markup {
    html! {
        section {
            h2 { "Latency" }
            p.note { "Pooled over seeds." }
            div.scroll {
                table {
                    thead { tr { @for heading in ["policy", "", "count", "mean", "p50", "p90", "p99", "max"] { th scope="col" { (heading) } } } }
                    tbody {
                        @for (policy, row) in point.pooled.iter().zip(&point.comparison.policies) {
                            @for (index, (name, of)) in LATENCIES.iter().enumerate() {
                                @let latency = of(policy);
                                tr.off[policy.bound || row.is_saturated()] {
                                    @if index == 0 { th scope="rowgroup" rowspan=(LATENCIES.len()) { (policy_name(&policy.policy, policy.bound, row.is_saturated())) } }
                                    td.text { (name) }
                                    td { (format::count(latency.count)) }
                                    @for value in [latency.mean, latency.p50, latency.p90, latency.p99, latency.max] { td { (seconds(value)) } }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// A mean over runs.
fn mean(policy: &PolicyRuns<'_>, of: impl Fn(&RunMetrics) -> Option<f64>) -> Option<f64> {
    let values: Vec<f64> = policy.runs.iter().filter_map(|(_, run)| of(&run.metrics)).collect();
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

pub(super) fn resources(point: &Point<'_>) -> Markup {
    let policies = &point.policies;
    let headings = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let number = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), format::number);
    let of = |metric: Metric, policy: &PolicyRuns<'_>| {
        policy.mean(metric).map_or_else(|| "–".to_owned(), |value| format::value(metric, value))
    };
    let work: Vec<Vec<String>> = policies
        .iter()
        .map(|policy| {
            vec![
                policy.policy.to_owned(),
                number(mean(policy, |run| Some(run.offered_per_s))),
                of(Metric::RequestThroughput, policy),
                of(Metric::OutputTokenThroughput, policy),
                of(Metric::TotalTokenThroughput, policy),
                number(mean(policy, |run| Some(run.measured.finished as f64))),
                number(mean(policy, |run| Some(run.measured.rejected as f64))),
                number(mean(policy, |run| Some(run.measured.timed_out as f64))),
                number(mean(policy, |run| Some(run.measured.unfinished as f64))),
            ]
        })
        .collect();
    let gpus: Vec<Vec<String>> = policies
        .iter()
        .map(|policy| {
            vec![
                policy.policy.to_owned(),
                of(Metric::GpuHours, policy),
                number(mean(policy, |run| Some(run.gpu.hours_busy))),
                share(mean(policy, |run| run.gpu.busy)),
                number(mean(policy, |run| run.gpu.rows_mean)),
                number(mean(policy, |run| Some(run.gpu.steps as f64))),
                kv(policy),
                of(Metric::Preemptions, policy),
                of(Metric::Migrations, policy),
                of(Metric::GpuHoursPerMillionTokens, policy),
                of(Metric::UsdPerMillionTokens, policy),
                number(mean(policy, |run| Some(run.little.in_system_mean))),
            ]
        })
        .collect();
    html! {
        section {
            h2 { "Work and resources" }
            p.note { "Means over seeds." }
            (plain_table(&headings(&["policy", "offered per s", "finished", "output tokens", "all tokens", "finished, measured", "rejected", "timed out", "unfinished"]), &work))
            (plain_table(&headings(&["policy", "held", "busy GPU-h", "busy", "mean batch", "steps", "KV use (peak)", "preemptions", "migrations", "GPU-h per M tokens", "cost per M tokens", "in the system"]), &gpus))
        }
    }
}

fn kv(policy: &PolicyRuns<'_>) -> String {
    match (mean(policy, |run| run.gpu.kv_use_mean), mean(policy, |run| run.gpu.kv_use_peak)) {
        (Some(use_mean), Some(peak)) => format!("{} ({})", format::share(use_mean), format::share(peak)),
        _ => mean(policy, |run| run.gpu.kv_blocks_mean)
            .map_or_else(|| "–".to_owned(), |blocks| format!("{} blocks", format::number(blocks))),
    }
}
