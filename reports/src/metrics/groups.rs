//! The same numbers by tenant, by adapter, and by how popular an adapter is.

use aril_sim::workload::Catalog;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Latency;
use crate::distribution::Gathering;
use crate::recorder::{Kept, NONE};

/// A tenant or an adapter: its measured requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Group {
    /// As the trace calls it.
    pub name: String,
    /// Rank of an adapter.
    pub rank: Option<u32>,
    /// Measured requests.
    pub offered: u64,
    /// Finished ones.
    pub finished: u64,
    /// Good ones.
    pub good: u64,
    /// Good of offered.
    pub attainment: f64,
    /// Output tokens received, by all measured requests.
    pub output_tokens: u64,
    /// Output tokens received, per second of the window.
    pub output_tokens_per_s: f64,
    /// Time to first token.
    pub ttft: Latency,
    /// Time per output token.
    pub tpot: Latency,
    /// Gaps between tokens; nothing counted if it was not recorded.
    pub itl: Latency,
    /// End to end.
    pub e2e: Latency,
    /// Requests that found their adapter ready, of those with an adapter that reached a replica.
    pub hit_rate: Option<f64>,
    /// Copies of the adapter from host to GPU, over the whole run; none of a tenant.
    pub loads: Option<u32>,
}

/// Adapters of neighbouring popularity.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PopularityClass {
    /// Rank of its most popular adapter, from 1.
    pub first: u64,
    /// Rank of its least popular adapter.
    pub last: u64,
    /// Measured requests.
    pub requests: u64,
    /// Time to first token.
    pub ttft: Latency,
    /// End to end.
    pub e2e: Latency,
    /// Requests that found their adapter ready.
    pub hit_rate: Option<f64>,
}

/// What is summed up over the measured requests of a group.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sums {
    pub(crate) offered: u64,
    finished: u32,
    good: u32,
    hits: u32,
    lookups: u32,
    pub(crate) tokens: u64,
}

impl Sums {
    fn count(&mut self, request: &Kept) {
        self.offered += 1;
        self.finished += u32::from(request.is_finished());
        self.good += u32::from(request.good);
        self.hits += u32::from(request.hit == Some(true));
        self.lookups += u32::from(request.hit.is_some());
        self.tokens += u64::from(request.emitted);
    }

    fn add(&mut self, other: &Sums) {
        self.offered += other.offered;
        self.hits += other.hits;
        self.lookups += other.lookups;
    }

    pub(crate) fn attainment(&self) -> f64 {
        f64::from(self.good) / self.offered as f64
    }

    fn hit_rate(&self) -> Option<f64> {
        (self.lookups > 0).then(|| f64::from(self.hits) / f64::from(self.lookups))
    }
}

/// The measured requests by group.
pub(crate) struct Grouped {
    sums: Vec<Sums>,
    /// Groups with a measured request, those with the most first, ties by id.
    ranked: Vec<u32>,
}

impl Grouped {
    pub(crate) fn new(groups: usize) -> Grouped {
        Grouped { sums: vec![Sums::default(); groups], ranked: Vec::new() }
    }

    /// A measured request of group `id`; [`NONE`] is no group.
    pub(crate) fn count(&mut self, id: u32, request: &Kept) {
        if let Some(sums) = self.sums.get_mut(id as usize) {
            sums.count(request);
        }
    }

    /// All requests were counted.
    pub(crate) fn rank(&mut self) {
        self.ranked = (0..self.sums.len() as u32).filter(|id| self.sums[*id as usize].offered > 0).collect();
        self.ranked.sort_by_key(|id| (std::cmp::Reverse(self.sums[*id as usize].offered), *id));
    }

    /// Groups with a measured request, those with the most first.
    pub(crate) fn ranked(&self) -> &[u32] {
        &self.ranked
    }

    /// The sums of each of [`Grouped::ranked`].
    pub(crate) fn each(&self) -> impl Iterator<Item = &Sums> {
        self.ranked.iter().map(|id| &self.sums[*id as usize])
    }

    /// The sums of group `id`.
    pub(crate) fn of(&self, id: u32) -> &Sums {
        &self.sums[id as usize]
    }

    /// Groups that there may be.
    pub(crate) fn len(&self) -> usize {
        self.sums.len()
    }
}

/// Times of the measured requests of some groups.
pub(crate) struct Shown<'a> {
    of: &'a Grouped,
    place_of: Vec<u32>,
    /// Time to first token, time per output token, end to end.
    times: Vec<[Gathering; 3]>,
    keep: usize,
}

impl<'a> Shown<'a> {
    /// Of these groups; one may be named twice. `keep` times of each are kept one by one.
    pub(crate) fn new(of: &'a Grouped, ids: impl Iterator<Item = u32>, keep: usize) -> Shown<'a> {
        let mut shown = Shown { of, place_of: vec![NONE; of.sums.len()], times: Vec::new(), keep };
        for id in ids {
            let place = &mut shown.place_of[id as usize];
            if *place == NONE {
                *place = shown.times.len() as u32;
                shown.times.push(std::array::from_fn(|_| Gathering::new(shown.keep)));
            }
        }
        shown
    }

    /// A measured request of group `id`.
    pub(crate) fn count(&mut self, id: u32, request: &Kept) {
        let place = self.place_of.get(id as usize).copied().unwrap_or(NONE);
        if let Some([ttft, tpot, e2e]) = self.times.get_mut(place as usize) {
            ttft.record_if(request.ttft());
            tpot.record_if(request.tpot());
            e2e.record_if(request.e2e());
        }
    }

    /// All numbers of one of them; token gaps and loads are counted elsewhere.
    pub(crate) fn measure(&mut self, id: u32, name: &str, window_s: f64) -> Group {
        let sums = &self.of.sums[id as usize];
        let [ttft, tpot, e2e] = self.times[self.place_of[id as usize] as usize].each_mut().map(Gathering::latency);
        Group {
            name: name.to_owned(),
            rank: None,
            offered: sums.offered,
            finished: sums.finished.into(),
            good: sums.good.into(),
            attainment: sums.attainment(),
            output_tokens: sums.tokens,
            output_tokens_per_s: sums.tokens as f64 / window_s,
            ttft,
            tpot,
            itl: Latency::default(),
            e2e,
            hit_rate: sums.hit_rate(),
            loads: None,
        }
    }
}

/// Times of the measured requests by the popularity of their adapter: ranks 1, 2-3, 4-7, 8-15, …
pub(crate) struct Popularity<'a> {
    of: &'a Grouped,
    class_of: Vec<u8>,
    /// Time to first token, end to end.
    times: Vec<[Gathering; 2]>,
}

impl<'a> Popularity<'a> {
    /// `keep` times of each class are kept one by one.
    pub(crate) fn new(of: &'a Grouped, keep: usize) -> Popularity<'a> {
        let mut class_of = vec![u8::MAX; of.sums.len()];
        for (rank, id) in of.ranked.iter().enumerate() {
            class_of[*id as usize] = (rank + 1).ilog2() as u8;
        }
        let classes = of.ranked.len().checked_ilog2().map_or(0, |last| last as usize + 1);
        Popularity { of, class_of, times: vec![[Gathering::new(keep), Gathering::new(keep)]; classes] }
    }

    /// A measured request with an adapter, or [`NONE`].
    pub(crate) fn count(&mut self, adapter: u32, request: &Kept) {
        let class = self.class_of.get(adapter as usize).copied().unwrap_or(u8::MAX);
        if let Some([ttft, e2e]) = self.times.get_mut(class as usize) {
            ttft.record_if(request.ttft());
            e2e.record_if(request.e2e());
        }
    }

    pub(crate) fn measure(mut self) -> Vec<PopularityClass> {
        let mut classes = Vec::new();
        for (class, times) in self.times.iter_mut().enumerate() {
            let first = (1 << class) - 1;
            let last = (2 * first + 1).min(self.of.ranked.len());
            let mut sums = Sums::default();
            self.of.ranked[first..last].iter().for_each(|id| sums.add(&self.of.sums[*id as usize]));
            let [ttft, e2e] = times.each_mut().map(Gathering::latency);
            classes.push(PopularityClass {
                first: first as u64 + 1,
                last: last as u64,
                requests: sums.offered,
                ttft,
                e2e,
                hit_rate: sums.hit_rate(),
            });
        }
        classes
    }
}

/// The name of a tenant, also of one that the catalog does not have.
pub(crate) fn tenant_name(catalog: &Catalog, tenant: u32) -> &str {
    catalog.tenants.get(tenant as usize).map_or("?", |tenant| tenant.name.as_str())
}
