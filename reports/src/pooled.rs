//! The runs of one policy over its seeds, put together.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::compare::PolicyRuns;
use crate::distribution::Distribution;
use crate::metrics::{Distributions, Group, Latency, PopularityClass, RunMetrics, Tail};

/// Tenants, and adapters, of a pooled policy: what a page shows. Each run has more of its own.
pub(crate) const GROUPS: usize = 20;

/// A policy over its seeds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Pooled {
    /// Axes and values of the point; empty without a sweep.
    pub point: Vec<(String, String)>,
    /// The policy.
    pub policy: String,
    /// Is it a bound?
    pub bound: bool,
    /// Runs.
    pub runs: usize,
    /// Time to first token, over the measured requests of all runs.
    pub ttft: Latency,
    /// Time per output token.
    pub tpot: Latency,
    /// Gaps between tokens.
    pub itl: Latency,
    /// End to end.
    pub e2e: Latency,
    /// Arrival to first step.
    pub queueing: Latency,
    /// The p99 of the time to first token taken apart: each run's own, weighted with its requests.
    pub tail: Tail,
    /// The twenty tenants with the most requests: counts are sums, the rest means over the runs that have them.
    pub by_tenant: Vec<Group>,
    /// The twenty adapters with the most requests: counts are sums, the rest means over the runs that have them.
    pub by_adapter: Vec<Group>,
    /// The five worst of the tenants that are among the worst of a run.
    pub worst: Vec<Group>,
    /// Adapters by popularity: counts are sums, the rest means over the runs.
    pub by_popularity: Vec<PopularityClass>,
}

impl Pooled {
    /// Puts the runs of a policy together.
    pub(crate) fn of(point: &[(String, String)], policy: &PolicyRuns<'_>) -> Pooled {
        let runs: Vec<&RunMetrics> = policy.runs.iter().map(|(_, run)| &run.metrics).collect();
        let latency = |what: fn(&Distributions) -> &Distribution, own: fn(&RunMetrics) -> Latency| match runs.as_slice()
        {
            // A run knows its own percentiles exactly, even where only a histogram was retained.
            [only] => own(only),
            _ => Latency::of(&Pooled::distribution(policy, what)),
        };
        let mut worst = merge(runs.iter().map(|run| run.fairness.worst.as_slice()));
        worst.sort_by(|a, b| {
            let p99 = |group: &Group| group.ttft.p99.unwrap_or(f64::INFINITY);
            a.attainment.total_cmp(&b.attainment).then(p99(b).total_cmp(&p99(a)))
        });
        worst.truncate(5);
        Pooled {
            point: point.to_vec(),
            policy: policy.policy.to_owned(),
            bound: policy.bound,
            runs: runs.len(),
            ttft: latency(|d| &d.ttft, |run| run.ttft),
            tpot: latency(|d| &d.tpot, |run| run.tpot),
            itl: latency(|d| &d.itl, |run| run.itl),
            e2e: latency(|d| &d.e2e, |run| run.e2e),
            queueing: latency(|d| &d.queueing, |run| run.queueing),
            tail: Tail::mean_of(&runs.iter().map(|run| &run.tail).collect::<Vec<_>>()),
            by_tenant: merge(runs.iter().map(|run| run.by_tenant.as_slice())),
            by_adapter: merge(runs.iter().map(|run| run.by_adapter.as_slice())),
            worst,
            by_popularity: merge_classes(&runs),
        }
    }

    /// One of the distributions over all runs.
    pub(crate) fn distribution(policy: &PolicyRuns<'_>, what: fn(&Distributions) -> &Distribution) -> Distribution {
        Distribution::pooled(policy.runs.iter().map(|(_, run)| what(&run.distributions)))
    }
}

/// Groups of several runs by name, in order of their requests.
fn merge<'a>(runs: impl Iterator<Item = &'a [Group]>) -> Vec<Group> {
    let mut by_name: std::collections::BTreeMap<&str, Vec<&Group>> = std::collections::BTreeMap::new();
    runs.flatten().for_each(|group| by_name.entry(&group.name).or_default().push(group));
    let mut merged: Vec<Group> = by_name.into_values().map(|groups| merge_one(&groups)).collect();
    // Stable, and by name before: the order does not depend on anything else.
    merged.sort_by_key(|group| std::cmp::Reverse(group.offered));
    merged.truncate(GROUPS);
    merged
}

fn merge_one(groups: &[&Group]) -> Group {
    let sum = |field: fn(&Group) -> u64| groups.iter().map(|group| field(group)).sum::<u64>();
    let latency =
        |field: fn(&Group) -> Latency| Latency::mean_of(&groups.iter().map(|group| field(group)).collect::<Vec<_>>());
    let (offered, good) = (sum(|group| group.offered), sum(|group| group.good));
    let loads: Vec<u32> = groups.iter().filter_map(|group| group.loads).collect();
    Group {
        name: groups[0].name.clone(),
        rank: groups[0].rank,
        offered,
        finished: sum(|group| group.finished),
        good,
        attainment: if offered > 0 { good as f64 / offered as f64 } else { 0.0 },
        output_tokens: sum(|group| group.output_tokens),
        output_tokens_per_s: groups.iter().map(|group| group.output_tokens_per_s).sum::<f64>() / groups.len() as f64,
        ttft: latency(|group| group.ttft),
        tpot: latency(|group| group.tpot),
        itl: latency(|group| group.itl),
        e2e: latency(|group| group.e2e),
        hit_rate: mean(groups.iter().filter_map(|group| group.hit_rate)),
        loads: (!loads.is_empty()).then(|| loads.iter().sum()),
    }
}

fn merge_classes(runs: &[&RunMetrics]) -> Vec<PopularityClass> {
    let longest = runs.iter().map(|run| run.by_popularity.len()).max().unwrap_or(0);
    (0..longest)
        .map(|index| {
            let classes: Vec<&PopularityClass> = runs.iter().filter_map(|run| run.by_popularity.get(index)).collect();
            PopularityClass {
                first: classes[0].first,
                last: classes.iter().map(|class| class.last).max().unwrap_or(0),
                requests: classes.iter().map(|class| class.requests).sum(),
                ttft: Latency::mean_of(&classes.iter().map(|class| class.ttft).collect::<Vec<_>>()),
                e2e: Latency::mean_of(&classes.iter().map(|class| class.e2e).collect::<Vec<_>>()),
                hit_rate: mean(classes.iter().filter_map(|class| class.hit_rate)),
            }
        })
        .collect()
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0), |(sum, count), value| (sum + value, count + 1));
    (count > 0).then(|| sum / f64::from(count))
}
