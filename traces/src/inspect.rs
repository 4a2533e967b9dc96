//! What is in a trace or a workload, in the figures by which traces are compared.

mod ids;
mod locality;
mod sessions;

use aril_sim::time::Time;
use serde::Serialize;

use crate::table::Table;
use crate::workload::Workload;

pub use ids::Ids;
pub use locality::{LRU_SLOTS, lru_hit_rates};
pub use sessions::{SESSION_GAP, SessionFigures};

/// Figures of a stream of requests.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Inspection {
    /// Requests.
    pub requests: u64,
    /// From the first arrival to the last, s; none if the trace has no arrivals or all come at once.
    pub span_s: Option<f64>,
    /// Requests a second over that span.
    pub rate_per_s: Option<f64>,
    /// Standard deviation of the gaps between arrivals over their mean; 1 for Poisson.
    pub gap_cv: Option<f64>,
    /// Variance over mean of the number of arrivals in bins: (bin in s, index of dispersion); 1 for Poisson.
    pub dispersion: Vec<(u64, f64)>,
    /// Most arrivals in a minute over the mean number.
    pub peak_to_mean_60s: Option<f64>,
    /// Prompt lengths, tokens.
    pub input_tokens: Spread,
    /// Output lengths, tokens.
    pub output_tokens: Spread,
    /// Adapters; requests to the base model are not counted.
    pub adapters: Ids,
    /// Tenants.
    pub tenants: Ids,
    /// Share of adapter uses that find theirs among the last so many distinct ones: (slots, hit rate). Requests to the base model are not counted.
    pub lru_hit_rate: Vec<(u32, f64)>,
    /// Sessions of tenants, where there are arrivals, tenants and adapters.
    pub sessions: Option<SessionFigures>,
    /// Blocks of prompts, where the trace has their hashes.
    pub prefix: Option<Prefix>,
}

/// A distribution of lengths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Spread {
    /// Mean.
    pub mean: f64,
    /// Half are at most this long.
    pub p50: u32,
    /// 90 % are at most this long.
    pub p90: u32,
    /// 99 % are at most this long.
    pub p99: u32,
    /// The longest.
    pub max: u32,
}

/// How much of the prompts was there before.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Prefix {
    /// Blocks of all prompts.
    pub blocks: u64,
    /// Share of them that a cache of unlimited size holds when they come.
    pub hit_rate: f64,
}

/// One request, as far as figures need it.
pub struct Sample<'a> {
    arrival: Option<Time>,
    input_tokens: u32,
    output_tokens: u32,
    tenant: Option<u32>,
    adapter: Option<u32>,
    prefix: Option<std::borrow::Cow<'a, [u64]>>,
}

/// What can be inspected.
pub trait Inspect {
    /// Its requests in order.
    fn samples(&self) -> Box<dyn Iterator<Item = Sample<'_>> + '_>;
}

impl Inspect for Table {
    fn samples(&self) -> Box<dyn Iterator<Item = Sample<'_>> + '_> {
        Box::new((0..self.len()).map(|row| Sample {
            arrival: self.arrivals_ps.as_ref().map(|arrivals| Time::from_ps(arrivals[row])),
            input_tokens: self.input_tokens[row],
            output_tokens: self.output_tokens[row],
            tenant: self.tenants.as_ref().and_then(|names| names.get(row)),
            adapter: self.adapters.as_ref().and_then(|names| names.get(row)),
            prefix: self.prefixes.as_ref().and_then(|p| p[row].as_deref()).map(Into::into),
        }))
    }
}

impl Inspect for Workload {
    fn samples(&self) -> Box<dyn Iterator<Item = Sample<'_>> + '_> {
        Box::new(self.arrivals().map(|offered| Sample {
            arrival: Some(offered.request.arrival),
            input_tokens: offered.request.prompt_tokens,
            output_tokens: offered.outcome.output_tokens,
            tenant: Some(offered.request.tenant.0),
            adapter: offered.request.adapter.map(|adapter| adapter.0),
            prefix: offered.request.prefix.map(|hashes| hashes.to_vec().into()),
        }))
    }
}

/// What is in a table or a workload?
pub fn inspect(of: &impl Inspect) -> Inspection {
    let (mut arrivals, mut inputs, mut outputs) = (Vec::new(), Vec::new(), Vec::new());
    let (mut adapters, mut tenants, mut uses) = (Vec::new(), Vec::new(), Vec::new());
    let (mut blocks, mut known, mut seen) = (0_u64, 0_u64, std::collections::HashSet::new());
    for sample in of.samples() {
        arrivals.extend(sample.arrival.map(Time::as_ps));
        inputs.push(sample.input_tokens);
        outputs.push(sample.output_tokens);
        adapters.extend(sample.adapter);
        tenants.extend(sample.tenant);
        if let (Some(at), Some(tenant), Some(adapter)) = (sample.arrival, sample.tenant, sample.adapter) {
            uses.push((at, tenant, adapter));
        }
        for hash in sample.prefix.iter().flat_map(|hashes| hashes.iter()) {
            blocks += 1;
            known += u64::from(!seen.insert(*hash));
        }
    }
    let span_s =
        arrivals.first().zip(arrivals.last()).map(|(first, last)| (last - first) as f64 / 1e12).filter(|s| *s > 0.0);
    Inspection {
        requests: inputs.len() as u64,
        span_s,
        rate_per_s: span_s.map(|span| (arrivals.len() - 1) as f64 / span),
        gap_cv: span_s.map(|_| gap_cv(&arrivals)),
        dispersion: [1, 10, 60]
            .into_iter()
            .filter_map(|bin| Some((bin, dispersion(&counts(&arrivals, bin))?)))
            .collect(),
        peak_to_mean_60s: peak_to_mean(&counts(&arrivals, 60)),
        input_tokens: Spread::of(inputs),
        output_tokens: Spread::of(outputs),
        lru_hit_rate: if adapters.is_empty() { Vec::new() } else { lru_hit_rates(&adapters, &LRU_SLOTS) },
        adapters: Ids::of(&adapters),
        tenants: Ids::of(&tenants),
        sessions: sessions::sessions(&uses),
        prefix: (blocks > 0).then(|| Prefix { blocks, hit_rate: known as f64 / blocks as f64 }),
    }
}

impl Spread {
    fn of(mut lengths: Vec<u32>) -> Spread {
        lengths.sort_unstable();
        let Some(max) = lengths.last().copied() else { return Spread::default() };
        let at = |share: f64| lengths[((lengths.len() as f64 * share).ceil() as usize).max(1) - 1];
        let mean = lengths.iter().map(|length| f64::from(*length)).sum::<f64>() / lengths.len() as f64;
        Spread { mean, p50: at(0.5), p90: at(0.9), p99: at(0.99), max }
    }
}

fn gap_cv(arrivals: &[u64]) -> f64 {
    let gaps: Vec<f64> = arrivals.windows(2).map(|pair| (pair[1] - pair[0]) as f64).collect();
    let (mean, variance) = moments(&gaps);
    variance.sqrt() / mean
}

/// Arrivals in each full bin of `bin_s` from the first one on.
fn counts(arrivals: &[u64], bin_s: u64) -> Vec<f64> {
    let Some((first, last)) = arrivals.first().zip(arrivals.last()) else { return Vec::new() };
    let bin = bin_s * 1_000_000_000_000;
    let mut counts = vec![0.0; usize::try_from((last - first) / bin).unwrap_or(0)];
    for at in arrivals {
        if let Some(count) = counts.get_mut(((at - first) / bin) as usize) {
            *count += 1.0;
        }
    }
    counts
}

fn dispersion(counts: &[f64]) -> Option<f64> {
    if counts.len() < 2 {
        return None;
    }
    let (mean, variance) = moments(counts);
    (mean > 0.0).then(|| variance / mean)
}

fn peak_to_mean(counts: &[f64]) -> Option<f64> {
    let mean = counts.iter().sum::<f64>() / counts.len() as f64;
    (mean > 0.0).then(|| counts.iter().copied().fold(0.0, f64::max) / mean)
}

/// Mean and population variance.
fn moments(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    (mean, values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / n)
}
