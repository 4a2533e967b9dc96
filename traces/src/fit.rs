//! Fits a working set to a measured stream: the parameters that no trace shows directly are searched for.

use aril_sim::random::stream;
use aril_sim::time::Span;
use rand::RngExt;
use rand_distr::{Distribution, StandardNormal};
use serde::Serialize;

use crate::build::Context;
use crate::error::TraceError;
use crate::inspect::{Inspection, inspect};
use crate::popularity::{Popularity, WorkingSet};
use crate::traffic::Traffic;

/// What a stream shows of its locality.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Locality {
    /// LRU hit rate by slots.
    pub lru_hit_rate: Vec<(u32, f64)>,
    /// Distinct adapters used.
    pub adapters: u64,
    /// Sessions of tenants.
    pub sessions: u64,
    /// Share of a tenant's uses that repeat its last adapter.
    pub repeats: f64,
}

/// The LoRA uses of the timed part of GenTD26 (Alibaba, cluster-trace-v2026-GenAI): 4,858 uses of 389 adapters in 23 days.
/// Sessions and repeats are those of its 4,494 requests with LoRA. Image generation, not text.
pub const GENTD26: Measured = Measured {
    lru_hit_rate: [(1, 0.299), (2, 0.506), (4, 0.716), (8, 0.796), (16, 0.831), (32, 0.855), (64, 0.880), (128, 0.904)],
    adapters: 389,
    sessions: 642,
    repeats: 0.682,
};

/// [`Locality`] as a constant.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    lru_hit_rate: [(u32, f64); 8],
    adapters: u64,
    sessions: u64,
    repeats: f64,
}

impl From<Measured> for Locality {
    fn from(measured: Measured) -> Locality {
        Locality {
            lru_hit_rate: measured.lru_hit_rate.to_vec(),
            adapters: measured.adapters,
            sessions: measured.sessions,
            repeats: measured.repeats,
        }
    }
}

impl Locality {
    /// What these figures say of it; none for a stream without tenants, adapters or arrivals.
    pub fn of(figures: &Inspection) -> Option<Locality> {
        let sessions = figures.sessions?;
        Some(Locality {
            lru_hit_rate: figures.lru_hit_rate.clone(),
            adapters: figures.adapters.distinct,
            sessions: sessions.sessions,
            repeats: sessions.repeats,
        })
    }

    /// The mean of several.
    fn mean(all: &[Locality]) -> Locality {
        let n = all.len() as f64;
        let mean = |of: &dyn Fn(&Locality) -> f64| all.iter().map(of).sum::<f64>() / n;
        let slots = all[0].lru_hit_rate.iter().enumerate();
        Locality {
            lru_hit_rate: slots.map(|(i, (slots, _))| (*slots, mean(&|one| one.lru_hit_rate[i].1))).collect(),
            adapters: mean(&|one| one.adapters as f64).round() as u64,
            sessions: mean(&|one| one.sessions as f64).round() as u64,
            repeats: mean(&|one| one.repeats),
        }
    }

    /// Largest difference of the hit rates at any number of slots.
    pub fn hit_rate_error(&self, other: &Locality) -> f64 {
        let pairs = self.lru_hit_rate.iter().zip(&other.lru_hit_rate);
        pairs.map(|((_, a), (_, b))| (a - b).abs()).fold(0.0, f64::max)
    }

    /// What the search makes small: hit rates first, then that as many adapters, sessions and repeats are seen.
    fn distance(&self, other: &Locality) -> f64 {
        let ratio = |a: u64, b: u64| (a.max(1) as f64 / b.max(1) as f64).ln().abs();
        self.hit_rate_error(other)
            + 0.3 * ratio(self.adapters, other.adapters)
            + 0.2 * (self.repeats - other.repeats).abs()
            + 0.2 * ratio(self.sessions, other.sessions)
    }
}

/// A fitted working set and what it gives.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Fit {
    /// The parameters.
    pub law: WorkingSet,
    /// The locality of streams drawn with them, the mean over the seeds.
    pub locality: Locality,
}

/// Searches for `drift_per_day`, `session_requests`, `returning`, `fresh`, `pause` and `pause_sigma`; the other
/// parameters stay as they are in `start`.
///
/// `traffic` says when requests come and how many; its popularity is replaced. Each of `rounds` changes the best
/// parameters so far a little and keeps the change if the streams of `seeds` come nearer to `measured`: a random local
/// search with common random numbers, the same each time.
///
/// # Errors
/// If `traffic` cannot be built, or its streams have no arrivals.
pub fn fit(
    traffic: &Traffic,
    start: &WorkingSet,
    measured: &Locality,
    seeds: &[u64],
    rounds: u32,
) -> Result<Fit, TraceError> {
    let mut random = stream(0, "traffic.fit");
    let mut best = Fit { law: *start, locality: drawn(traffic, start, seeds)? };
    for _ in 0..rounds {
        let mut step = |size: f64| {
            let z: f64 = StandardNormal.sample(&mut random);
            if random.random::<bool>() { size * z } else { 0.0 }
        };
        // Three digits are more than the streams can tell apart.
        let rounded = |value: f64| (value * 1e3).round() / 1e3;
        let share = |value: f64| rounded(value.clamp(0.0, 1.0));
        let old = best.law;
        let law = WorkingSet {
            drift_per_day: share(old.drift_per_day + step(0.2)),
            session_requests: rounded((old.session_requests + step(1.0)).max(1.0)),
            returning: share(old.returning + step(0.1)),
            fresh: share(old.fresh + step(0.1)),
            pause: Span::from_secs_f64((old.pause.as_secs_f64() * step(0.4).exp()).clamp(1.0, 1e6).round()),
            pause_sigma: rounded((old.pause_sigma + step(0.3)).max(0.0)),
            ..old
        };
        let locality = drawn(traffic, &law, seeds)?;
        if locality.distance(measured) < best.locality.distance(measured) {
            best = Fit { law, locality };
        }
    }
    Ok(best)
}

/// The mean locality of the streams of these seeds.
fn drawn(traffic: &Traffic, law: &WorkingSet, seeds: &[u64]) -> Result<Locality, TraceError> {
    let traffic = Traffic { popularity: Some(Popularity::WorkingSet(*law)), ..traffic.clone() };
    let one = |seed: &u64| {
        let context = Context {
            base: std::path::Path::new("."),
            seed: *seed,
            as_recorded: true,
            adapter_bytes: &|_| 0,
            max_model_len: u32::MAX,
        };
        Locality::of(&inspect(&traffic.build(&context)?)).ok_or_else(|| {
            TraceError::setting("arrivals", "the stream shows no sessions", "let requests come over time")
        })
    };
    let all: Vec<Locality> = seeds.iter().map(one).collect::<Result<_, _>>()?;
    if all.is_empty() {
        return Err(TraceError::setting("popularity.working-set", "no seeds to fit with", "give at least one"));
    }
    Ok(Locality::mean(&all))
}
