//! What the logs say about the groups that somebody asks for.

use std::collections::BTreeMap;
use std::ops::Range;

use super::chapter::{Chapter, Part, Stay};
use super::sums::{Sums, WINDOW};
use super::{BUCKET_MASK, GroupGaps, Histogram, NONE};
use crate::ReportError;

/// Gaps of the groups that were asked for.
#[derive(Default)]
pub(crate) struct Asked {
    /// All of them, where not all requests are measured.
    pub(crate) everybody: Option<Histogram>,
    pub(crate) tenants: BTreeMap<u32, Histogram>,
    pub(crate) adapters: BTreeMap<u32, Histogram>,
    /// By class of tenants.
    pub(crate) classes: Vec<Histogram>,
}

impl GroupGaps {
    /// The gaps of the requests that are measured, of these tenants and adapters, and of so many classes of tenants; `class_of` tells a
    /// tenant's, if it has one. No requests given: all are measured.
    ///
    /// # Errors
    /// What the file system refuses.
    pub(crate) fn finish(
        mut self,
        measured: Option<Range<u32>>,
        tenants: impl Iterator<Item = u32>,
        adapters: impl Iterator<Item = u32>,
        classes: usize,
        class_of: impl Fn(u32) -> Option<usize>,
    ) -> Result<Asked, ReportError> {
        let mut asked = Asked {
            everybody: measured.as_ref().map(|_| Histogram::default()),
            tenants: tenants.map(|id| (id, Histogram::default())).collect(),
            adapters: adapters.map(|id| (id, Histogram::default())).collect(),
            classes: vec![Histogram::default(); classes],
        };
        self.everybody_leaves();
        let logs = self.replicas.into_iter().map(|replica| replica.log).collect();
        let last = Chapter { logs, stays: self.stays, own: self.own };
        let measured = measured.unwrap_or(0..u32::MAX);
        let mut count = |chapter: &Chapter| asked.count(chapter, &measured, &class_of, self.dense);
        self.earlier.each(&mut count)?;
        count(&last);
        Ok(asked)
    }
}

impl Asked {
    /// Counts what a chapter has of those who are asked for.
    fn count(
        &mut self,
        chapter: &Chapter,
        measured: &Range<u32>,
        class_of: &dyn Fn(u32) -> Option<usize>,
        dense: usize,
    ) {
        let buckets = chapter.buckets();
        let mut targets = Targets::new(self, class_of, buckets.len());
        let stays = chapter.stays.iter().filter(|stay| measured.contains(&stay.request));
        let shares = targets.share_out(stays, chapter.logs.len());
        for own in chapter.own.iter().filter(|own| measured.contains(&own.request)) {
            targets.each(own.tenant, own.adapter, |target| target.histogram.record(own.gap, 1));
        }
        // One log after the other: each is near while it is read.
        let mut sums = Sums::new(buckets.clone());
        for (replica, log) in chapter.logs.iter().enumerate() {
            targets.count(log, shares.of(replica), &mut sums, dense);
        }
        targets.finish(buckets.start);
    }
}

impl Chapter {
    /// From the least to the largest bucket of the logs, or a window that holds them.
    fn buckets(&self) -> Range<usize> {
        let buckets = self.logs.iter().flatten().map(|entry| entry & BUCKET_MASK);
        let (least, most) =
            buckets.fold((BUCKET_MASK, 0), |(least, most), bucket| (least.min(bucket), most.max(bucket)));
        let least = least.min(most) as usize;
        least..(most as usize + 1).max(least + WINDOW)
    }
}

/// The histograms that were asked for, and who counts to which.
struct Targets<'a> {
    all: Vec<Target<'a>>,
    /// The position of everybody in `all`, if somebody asks for it.
    everybody: Option<usize>,
    /// The class of a tenant, which come first in `all`.
    class_of: &'a dyn Fn(u32) -> Option<usize>,
    classes: usize,
    /// Positions in `all` of each tenant and of each adapter, or [`NONE`].
    tenants: Vec<u32>,
    adapters: Vec<u32>,
    /// By target, what it takes to count its parts of a log; zeros between logs.
    entries: Vec<usize>,
}

/// Of a target whose parts of the log are counted.
const COVERED: usize = usize::MAX;

struct Target<'a> {
    histogram: &'a mut Histogram,
    /// How often each bucket of the logs occurs in its parts of them, and the sum of the gaps there.
    counts: Vec<u64>,
    sum: u128,
    /// Targets that they count to as well.
    also: [Option<usize>; 3],
}

/// A part of a replica's log counts to a target.
#[derive(Clone, Copy, Default)]
struct Share {
    target: u32,
    from: u32,
    to: u32,
}

impl Share {
    fn part(&self) -> Range<usize> {
        self.from as usize..self.to as usize
    }
}

/// The parts of all logs, replica by replica.
struct Shares {
    all: Vec<Share>,
    /// Where those of each replica begin, and where the last ones end.
    starts: Vec<usize>,
}

impl Shares {
    /// Room for so many parts of each replica's log.
    fn of_replicas(parts: &[usize]) -> Shares {
        let mut starts = vec![0];
        let mut sum = 0;
        starts.extend(parts.iter().map(|parts| {
            sum += parts;
            sum
        }));
        Shares { all: vec![Share::default(); sum], starts }
    }

    fn of(&self, replica: usize) -> &[Share] {
        &self.all[self.starts[replica]..self.starts[replica + 1]]
    }
}

/// Who uses an adapter?
#[derive(Clone, Copy, PartialEq, Eq)]
enum Users {
    Nobody,
    Tenant(u32),
    Tenants,
}

impl<'a> Targets<'a> {
    fn new(asked: &'a mut Asked, class_of: &'a dyn Fn(u32) -> Option<usize>, buckets: usize) -> Targets<'a> {
        let target = |histogram| Target { histogram, counts: vec![0; buckets], sum: 0, also: [None; 3] };
        let all: Vec<Target<'a>> = asked.classes.iter_mut().map(target).collect();
        let (tenants, adapters, entries) = (Vec::new(), Vec::new(), Vec::new());
        let mut targets = Targets { everybody: None, class_of, classes: all.len(), all, tenants, adapters, entries };
        let Targets { all, tenants, adapters, .. } = &mut targets;
        for (places, groups) in [(tenants, &mut asked.tenants), (adapters, &mut asked.adapters)] {
            places.resize(groups.keys().next_back().map_or(0, |last| *last as usize + 1), NONE);
            for (id, histogram) in groups {
                places[*id as usize] = all.len() as u32;
                all.push(target(histogram));
            }
        }
        if let Some(histogram) = &mut asked.everybody {
            targets.everybody = Some(targets.all.len());
            targets.all.push(target(histogram));
        }
        targets.entries = vec![0; targets.all.len()];
        targets
    }

    /// Everybody, the class of a tenant and the tenant itself, as far as somebody asks for them.
    fn of_tenant(&self, tenant: u32) -> [Option<usize>; 3] {
        let class = if self.classes == 0 { None } else { (self.class_of)(tenant) };
        [self.everybody, class.filter(|class| *class < self.classes), place(&self.tenants, tenant)]
    }

    /// Gives each stay to those that it counts to. Where an adapter is one tenant's own, its stays are looked up once, for the adapter,
    /// and count to the tenant and its class as well.
    fn share_out<'s>(&mut self, stays: impl Iterator<Item = &'s Stay> + Clone, replicas: usize) -> Shares {
        let mut users = vec![Users::Nobody; self.all.len()];
        for stay in stays.clone() {
            let Some(adapter) = place(&self.adapters, stay.adapter) else { continue };
            users[adapter] = match users[adapter] {
                Users::Nobody => Users::Tenant(stay.tenant),
                Users::Tenant(tenant) if tenant == stay.tenant => continue,
                _ => Users::Tenants,
            };
        }
        for (adapter, users) in users.iter().enumerate() {
            if let Users::Tenant(tenant) = users {
                self.all[adapter].also = self.of_tenant(*tenant);
            }
        }
        // Twice over all stays: a list of what they count to, to be sorted, would be longer than theirs.
        let mut parts = vec![0; replicas];
        for stay in stays.clone() {
            parts[stay.part.replica as usize] += self.of_stay(stay, &users).count();
        }
        let mut shares = Shares::of_replicas(&parts);
        let mut next = shares.starts.clone();
        for stay in stays {
            let Part { replica, from, to } = stay.part;
            let next = &mut next[replica as usize];
            for target in self.of_stay(stay, &users) {
                shares.all[*next] = Share { target: target as u32, from, to };
                *next += 1;
                self.all[target].sum += u128::from(stay.sum);
            }
        }
        shares
    }

    /// Whom a stay counts to, but for those who get it from its adapter.
    fn of_stay(&self, stay: &Stay, users: &[Users]) -> impl Iterator<Item = usize> + use<> {
        let adapter = place(&self.adapters, stay.adapter);
        let is_counted = adapter.is_some_and(|adapter| users[adapter] != Users::Tenants);
        let others = if is_counted { [None; 3] } else { self.of_tenant(stay.tenant) };
        others.into_iter().chain([adapter]).flatten()
    }

    /// Counts these parts of a log. Of a target that was nearly everywhere it is counted how many were there for each entry, then the log is
    /// read once.
    fn count(&mut self, log: &[u32], shares: &[Share], sums: &mut Sums, dense: usize) {
        let Targets { all, entries, .. } = self;
        sums.begin(log.len());
        shares.iter().for_each(|share| entries[share.target as usize] += sums.entries_read(share.part()));
        for share in shares {
            let (target, read) = (share.target as usize, entries[share.target as usize]);
            if read <= dense * log.len() {
                sums.add(log, share.part(), &mut all[target].counts);
            } else if read != COVERED {
                entries[target] = COVERED;
                let parts = shares.iter().filter(|other| other.target == share.target).map(Share::part);
                sums.cover(log, parts, &mut all[target].counts);
            }
        }
        shares.iter().for_each(|share| entries[share.target as usize] = 0);
    }

    /// Everything is counted, from this bucket on.
    fn finish(&mut self, first: usize) {
        for place in 0..self.all.len() {
            let Target { counts, sum, also, .. } = &mut self.all[place];
            let (gaps, also) = (Histogram::of_counts(first, std::mem::take(counts), *sum), *also);
            for place in also.into_iter().flatten() {
                self.all[place].histogram.merge(&gaps);
            }
            self.all[place].histogram.absorb(gaps);
        }
    }

    fn each(&mut self, tenant: u32, adapter: u32, mut each: impl FnMut(&mut Target<'a>)) {
        let adapter = place(&self.adapters, adapter);
        self.of_tenant(tenant).into_iter().chain([adapter]).flatten().for_each(|place| each(&mut self.all[place]));
    }
}

/// Where a group's target is, if somebody asks for it.
fn place(places: &[u32], group: u32) -> Option<usize> {
    places.get(group as usize).copied().filter(|place| *place != NONE).map(|place| place as usize)
}
