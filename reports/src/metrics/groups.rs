//! The same numbers by tenant, by adapter, and by how popular an adapter is.

use aril_sim::workload::Catalog;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Latency;
use crate::recorder::{Kept, KeptAll, NONE};

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

/// Positions of the measured requests by group, groups with the most requests first, ties by id.
pub(crate) struct Grouped {
    positions: Vec<u32>,
    /// Group id and its range of positions.
    groups: Vec<(u32, std::ops::Range<usize>)>,
}

impl Grouped {
    /// Groups the measured requests by `key`; requests whose key is [`NONE`] are in no group.
    pub(crate) fn by(
        kept: &KeptAll,
        groups: usize,
        is_measured: impl Fn(&Kept) -> bool,
        key: impl Fn(&Kept) -> u32,
    ) -> Grouped {
        let mut starts = vec![0usize; groups + 1];
        let keyed = |request: &Kept| {
            let key = key(request);
            (key != NONE && is_measured(request)).then_some(key)
        };
        kept.iter().filter_map(keyed).for_each(|key| starts[key as usize + 1] += 1);
        (1..starts.len()).for_each(|i| starts[i] += starts[i - 1]);
        let mut next = starts.clone();
        let mut positions = vec![0; starts[groups]];
        for (position, request) in kept.iter().enumerate() {
            if let Some(key) = keyed(request) {
                positions[next[key as usize]] = position as u32;
                next[key as usize] += 1;
            }
        }
        let mut groups: Vec<_> =
            starts.windows(2).enumerate().map(|(id, pair)| (id as u32, pair[0]..pair[1])).collect();
        groups.retain(|(_, range)| !range.is_empty());
        groups.sort_by_key(|(id, range)| (std::cmp::Reverse(range.len()), *id));
        Grouped { positions, groups }
    }

    /// How many groups have a measured request?
    pub(crate) fn len(&self) -> usize {
        self.groups.len()
    }

    /// The groups, those with the most requests first: id and requests.
    pub(crate) fn iter<'a>(&'a self, kept: &'a KeptAll) -> impl Iterator<Item = (u32, Members<'a>)> {
        self.groups.iter().map(move |(id, range)| (*id, Members { kept, positions: &self.positions[range.clone()] }))
    }

    /// Adapters in classes of popularity, each twice as wide as the one before.
    pub(crate) fn by_popularity(&self, kept: &KeptAll) -> Vec<PopularityClass> {
        let mut classes = Vec::new();
        let mut first = 0;
        while first < self.groups.len() {
            let last = (2 * first + 1).min(self.groups.len());
            let mut members: Vec<u32> = Vec::new();
            self.groups[first..last]
                .iter()
                .for_each(|(_, range)| members.extend_from_slice(&self.positions[range.clone()]));
            let members = Members { kept, positions: &members };
            classes.push(PopularityClass {
                first: first as u64 + 1,
                last: last as u64,
                requests: members.positions.len() as u64,
                ttft: members.latency(Kept::ttft),
                e2e: members.latency(Kept::e2e),
                hit_rate: members.hit_rate(),
            });
            first = last;
        }
        classes
    }
}

/// The measured requests of a group.
#[derive(Clone, Copy)]
pub(crate) struct Members<'a> {
    kept: &'a KeptAll,
    positions: &'a [u32],
}

impl<'a> Members<'a> {
    pub(crate) fn iter(self) -> impl Iterator<Item = &'a Kept> {
        self.positions.iter().map(move |position| self.kept.at(*position))
    }

    pub(crate) fn tokens(self) -> u64 {
        self.iter().map(|request| u64::from(request.emitted)).sum()
    }

    pub(crate) fn attainment(self) -> f64 {
        self.iter().filter(|request| request.good).count() as f64 / self.positions.len() as f64
    }

    pub(crate) fn latency(self, what: fn(&Kept) -> Option<u64>) -> Latency {
        Latency::of_values(&mut self.iter().filter_map(what).collect::<Vec<_>>())
    }

    fn hit_rate(self) -> Option<f64> {
        let (hits, lookups) = hits_of(self.iter());
        (lookups > 0).then(|| hits as f64 / lookups as f64)
    }

    /// All numbers of the group; token gaps and loads are counted elsewhere.
    pub(crate) fn measure(self, name: &str, window_s: f64) -> Group {
        let tokens = self.tokens();
        Group {
            name: name.to_owned(),
            rank: None,
            offered: self.positions.len() as u64,
            finished: self.iter().filter(|request| request.is_finished()).count() as u64,
            good: self.iter().filter(|request| request.good).count() as u64,
            attainment: self.attainment(),
            output_tokens: tokens,
            output_tokens_per_s: tokens as f64 / window_s,
            ttft: self.latency(Kept::ttft),
            tpot: self.latency(Kept::tpot),
            itl: Latency::default(),
            e2e: self.latency(Kept::e2e),
            hit_rate: self.hit_rate(),
            loads: None,
        }
    }
}

/// Hits and look-ups among requests.
pub(crate) fn hits_of<'a>(requests: impl Iterator<Item = &'a Kept>) -> (u64, u64) {
    requests.filter_map(|request| request.hit).fold((0, 0), |(hits, all), hit| (hits + u64::from(hit), all + 1))
}

/// The name of a tenant, also of one that the catalog does not have.
pub(crate) fn tenant_name(catalog: &Catalog, tenant: u32) -> &str {
    catalog.tenants.get(tenant as usize).map_or("?", |tenant| tenant.name.as_str())
}
