//! Where the time goes of those who wait longest for their first token.

use std::ops::RangeInclusive;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::distribution::Distribution;
use crate::recorder::{Kept, kept};

/// The band of ranks around the 99th percentile.
const BAND: (f64, f64) = (0.985, 0.995);

/// The p99 of the time to first token taken apart: means over the requests around it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Tail {
    /// How many requests the means are over: those from the 98.5th to the 99.5th percentile of the time to first token.
    pub requests: u64,
    /// Their mean time to first token, seconds: the sum of the parts.
    pub ttft_s: Option<f64>,
    /// Its parts, seconds; none without requests.
    pub parts: Option<Parts>,
}

/// Where the time to first token went, seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Parts {
    /// In the cluster's queue.
    pub router: f64,
    /// In a replica's queue, for a place in the batch or KV memory.
    pub queue: f64,
    /// For an adapter slot.
    pub slot: f64,
    /// For the adapter's weights.
    pub load: f64,
    /// In prefill.
    pub prefill: f64,
    /// Preempted or migrated.
    pub preemption: f64,
}

impl Parts {
    /// The names of the parts, in order.
    pub const NAMES: [&'static str; 6] = ["router", "queue", "slot", "load", "prefill", "preemption"];

    /// The parts, in order.
    pub fn values(&self) -> [f64; 6] {
        [self.router, self.queue, self.slot, self.load, self.prefill, self.preemption]
    }

    /// From parts in order.
    pub fn from_values([router, queue, slot, load, prefill, preemption]: [f64; 6]) -> Parts {
        Parts { router, queue, slot, load, prefill, preemption }
    }
}

/// The parts of the requests in the band, while they are counted.
pub(crate) struct TailSums {
    /// The times to first token that are in it; none of no requests.
    band: Option<RangeInclusive<u64>>,
    found: u64,
    sums: [u128; 6],
}

impl TailSums {
    /// Of requests with these times to first token.
    pub(crate) fn new(ttft: &Distribution) -> TailSums {
        let band = ttft.quantile(BAND.0).zip(ttft.quantile(BAND.1)).map(|(low, high)| low..=high);
        TailSums { band, found: 0, sums: [0; 6] }
    }

    /// One of them.
    pub(crate) fn count(&mut self, request: &Kept, parts: &kept::Parts) {
        if self.band.as_ref().zip(request.ttft()).is_some_and(|(band, ttft)| band.contains(&ttft)) {
            self.found += 1;
            self.sums.iter_mut().zip(parts).for_each(|(sum, part)| *sum += u128::from(*part));
        }
    }

    /// All were counted.
    pub(crate) fn mean(&self) -> Tail {
        if self.found == 0 {
            return Tail::default();
        }
        let mean = self.sums.map(|sum| sum as f64 / self.found as f64 / 1e12);
        Tail { requests: self.found, ttft_s: Some(mean.iter().sum()), parts: Some(Parts::from_values(mean)) }
    }
}

impl Tail {
    /// The mean over several runs, each weighted with its requests.
    pub fn mean_of(runs: &[&Tail]) -> Tail {
        let requests = runs.iter().map(|run| run.requests).sum::<u64>();
        let mut mean = [0.0; 6];
        for (run, parts) in runs.iter().filter_map(|run| run.parts.map(|parts| (run, parts))) {
            let weight = run.requests as f64 / requests as f64;
            mean.iter_mut().zip(parts.values()).for_each(|(mean, part)| *mean += part * weight);
        }
        match requests {
            0 => Tail::default(),
            _ => Tail { requests, ttft_s: Some(mean.iter().sum()), parts: Some(Parts::from_values(mean)) },
        }
    }
}
