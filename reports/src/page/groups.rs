//! By adapter and by tenant.

use maud::{Markup, html};

use super::{Point, plain_table, seconds, share};
use crate::format;
use crate::metric::Metric;
use crate::metrics::Group;

use crate::pooled::GROUPS as ROWS;

pub(super) fn adapters(point: &Point<'_>) -> Markup {
    let headings = [
        "policy",
        "loads",
        "from disk",
        "ahead of need",
        "evictions",
        "GB copied",
        "hit rate",
        "look-ups",
        "GPU time stalled",
        "waited for weights",
    ];
    let rows: Vec<Vec<String>> = point
        .policies
        .iter()
        .map(|policy| {
            let runs = policy.runs.len().max(1) as f64;
            let mean = |of: fn(&crate::metrics::AdapterMetrics) -> f64| {
                policy.runs.iter().map(|(_, run)| of(&run.metrics.adapters)).sum::<f64>() / runs
            };
            vec![
                policy.policy.to_owned(),
                format::number(mean(|adapters| adapters.loads as f64)),
                format::number(mean(|adapters| adapters.loads_from_disk as f64)),
                format::number(mean(|adapters| adapters.prefetches as f64)),
                format::number(mean(|adapters| adapters.evictions as f64)),
                format::number(mean(|adapters| adapters.gigabytes)),
                share(policy.mean(Metric::AdapterHitRate)),
                format::number(mean(|adapters| adapters.lookups as f64)),
                format::seconds(mean(|adapters| adapters.stall_gpu_s)),
                format::seconds(mean(|adapters| adapters.load_wait_s)),
            ]
        })
        .collect();
    html! {
        section {
            h2 { "Adapters" }
            p.note { "Means over seeds." }
            (plain_table(&headings.map(str::to_owned), &rows))
            (by_group(point, "adapters", |pooled| &pooled.by_adapter))
        }
    }
}

pub(super) fn tenants(point: &Point<'_>) -> Markup {
    html! {
        section { h2 { "Tenants" } (by_group(point, "tenants", |pooled| &pooled.by_tenant)) }
    }
}

pub(super) fn fairness(point: &Point<'_>) -> Markup {
    let headings = ["policy", "tenants", "Jain, service", "Jain, attainment"].map(str::to_owned);
    let rows: Vec<Vec<String>> = point
        .policies
        .iter()
        .map(|policy| {
            let tenants = policy.runs.iter().map(|(_, run)| run.metrics.fairness.tenants).max().unwrap_or(0);
            let jain = |metric| policy.mean(metric).map_or_else(|| "–".to_owned(), |value| format!("{value:.3}"));
            vec![policy.policy.to_owned(), tenants.to_string(), jain(Metric::JainService), jain(Metric::JainAttainment)]
        })
        .collect();
    let classes: Vec<Vec<String>> = point.policies.iter().flat_map(class_rows).collect();
    html! {
        section {
            h2 { "Fairness" }
            (plain_table(&headings, &rows))
            @if !classes.is_empty() {
                h3 { "Promises" }
                (plain_table(&["policy", "class", "measured requests", "attainment", "promised"].map(str::to_owned), &classes))
            }
            h3 { "The five worst-served tenants" }
            @for pooled in &point.pooled {
                @if !pooled.worst.is_empty() { p { b { (pooled.policy) } } (group_table(&pooled.worst, 5)) }
            }
        }
    }
}

fn class_rows(policy: &crate::compare::PolicyRuns<'_>) -> Vec<Vec<String>> {
    let Some((_, first)) = policy.runs.first() else { return Vec::new() };
    let row = |(index, class): (usize, &crate::metrics::ClassMetrics)| {
        let of_runs = || policy.runs.iter().filter_map(|(_, run)| run.metrics.classes.get(index));
        let (offered, good) = of_runs().fold((0, 0), |sum, class| (sum.0 + class.offered, sum.1 + class.good));
        vec![
            policy.policy.to_owned(),
            class.name.clone(),
            format::count(offered),
            if offered > 0 { format::share(good as f64 / offered as f64) } else { "–".to_owned() },
            share(class.target),
        ]
    };
    first.metrics.classes.iter().enumerate().map(row).collect()
}

fn by_group(point: &Point<'_>, what: &str, of: fn(&crate::pooled::Pooled) -> &Vec<Group>) -> Markup {
    html! {
        @for pooled in &point.pooled {
            @let groups = of(pooled);
            @if !groups.is_empty() {
                details.data {
                    summary { (pooled.policy) ": " (groups.len().min(ROWS)) " " (what) " with the most requests" }
                    (group_table(groups, ROWS))
                    p.note { "Counts are sums over seeds, the rest means over the seeds in which it occurred. More are in " a href="summary.json" { "summary.json" } ", all in each run's requests.parquet." }
                }
            }
        }
    }
}

fn group_table(groups: &[Group], rows: usize) -> Markup {
    let ranks = groups.iter().any(|group| group.rank.is_some());
    html! {
        div.scroll {
            table {
                thead { tr {
                    th scope="col" { "name" }
                    @if ranks { th scope="col" { "rank" } th scope="col" { "loads" } th scope="col" { "hit rate" } }
                    @for heading in ["requests", "finished", "attainment", "output tokens per s", "TTFT p50 / p90 / p99", "TPOT p50 / p90 / p99", "ITL p50 / p90 / p99", "E2E p50 / p90 / p99"] { th scope="col" { (heading) } }
                } }
                tbody {
                    @for group in groups.iter().take(rows) {
                        tr {
                            th scope="row" title=(group.name) { (group.name) }
                            @if ranks {
                                td { @if let Some(rank) = group.rank { (rank) } }
                                td { @if let Some(loads) = group.loads { (format::count(loads.into())) } }
                                td { (share(group.hit_rate)) }
                            }
                            td { (format::count(group.offered)) }
                            td { (format::count(group.finished)) }
                            td { (format::share(group.attainment)) }
                            td { (format::number(group.output_tokens_per_s)) }
                            @for latency in [&group.ttft, &group.tpot, &group.itl, &group.e2e] {
                                td title={ (format::count(latency.count)) " values" } { (seconds(latency.p50)) " / " (seconds(latency.p90)) " / " (seconds(latency.p99)) }
                            }
                        }
                    }
                }
            }
        }
    }
}
