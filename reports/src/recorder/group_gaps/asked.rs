//! What the logs say about the groups that somebody asks for.

use std::collections::BTreeMap;
use std::ops::Range;

use aril_sim::fetch;

use super::{BUCKET_BITS, BUCKET_MASK, Counted, GroupGaps, Histogram, Part, Stay};
use crate::recorder::NONE;

/// So many parts ahead their memory is asked for.
const AHEAD: usize = 6;

/// Gaps of the groups that were asked for.
#[derive(Default)]
pub(crate) struct Asked {
    pub(crate) tenants: BTreeMap<u32, Histogram>,
    pub(crate) adapters: BTreeMap<u32, Histogram>,
    /// By class of tenants.
    pub(crate) classes: Vec<Histogram>,
}

impl GroupGaps {
    /// The gaps of these tenants and adapters, and of so many classes of tenants; `class_of` tells a tenant's, if it has one.
    pub(crate) fn finish(
        mut self,
        tenants: impl Iterator<Item = u32>,
        adapters: impl Iterator<Item = u32>,
        classes: usize,
        class_of: impl Fn(u32) -> Option<usize>,
    ) -> Asked {
        let mut counted = self.counted.take();
        let mut take = |of: fn(&mut Counted) -> &mut Vec<Histogram>, id: u32| {
            let counted = counted.as_mut().and_then(|counted| of(counted).get_mut(id as usize));
            (id, counted.cloned().unwrap_or_default())
        };
        let mut asked = Asked {
            tenants: tenants.map(|id| take(|counted| &mut counted.tenants, id)).collect(),
            adapters: adapters.map(|id| take(|counted| &mut counted.adapters, id)).collect(),
            classes: vec![Histogram::default(); classes],
        };
        for (tenant, histogram) in (0..).zip(counted.iter().flat_map(|counted| &counted.tenants)) {
            if let Some(class) = class_of(tenant).and_then(|class| asked.classes.get_mut(class)) {
                class.merge(histogram);
            }
        }
        self.everybody_leaves();
        let mut targets = Targets::new(&self, &mut asked, class_of);
        targets.share_out(&self.stays);
        for own in &self.own {
            targets.each(own.tenant, own.adapter, |target| Gaps::Own(own.gap).add_to(target.histogram));
        }
        let mut counts = vec![0; 1 << BUCKET_BITS];
        let used = self.buckets();
        for place in 0..targets.all.len() {
            let target = &targets.all[place];
            if target.parts.is_empty() {
                continue;
            }
            // Of a group that was nearly everywhere it is counted how many were there for each entry, then the logs are read once.
            if target.entries > self.dense * self.entries {
                self.cover(&target.parts, &mut counts);
            } else {
                self.read(&target.parts, &mut counts);
            }
            let counts = &mut counts[used.clone()];
            let nonempty = used.clone().zip(counts.iter().copied()).filter(|(_, count)| *count > 0);
            let sum = target.sum;
            for place in target.also.into_iter().flatten().chain([place]) {
                targets.all[place].histogram.add_all(nonempty.clone(), sum);
            }
            counts.fill(0);
        }
        asked
    }

    /// From the least to the largest bucket of the logs.
    fn buckets(&self) -> Range<usize> {
        let buckets = self.replicas.iter().flat_map(|replica| &replica.log).map(|entry| entry & BUCKET_MASK);
        let (least, most) =
            buckets.fold((BUCKET_MASK, 0), |(least, most), bucket| (least.min(bucket), most.max(bucket)));
        least.min(most) as usize..most as usize + 1
    }

    /// Adds how often each bucket occurs in the parts of the logs that these stays have.
    fn read(&self, parts: &[Part], counts: &mut [u64]) {
        for (place, part) in parts.iter().enumerate() {
            // Each lies somewhere else.
            parts.get(place + AHEAD).into_iter().for_each(|part| fetch::list(self.part(*part)));
            for (bucket, count) in self.part(*part).iter().map(bucket_and_count) {
                counts[bucket] += count;
            }
        }
    }

    /// The same, at a cost that follows the logs and not the stays.
    fn cover(&self, parts: &[Part], counts: &mut [u64]) {
        let mut starts = Vec::with_capacity(self.replicas.len());
        let mut len = 0;
        for replica in &self.replicas {
            starts.push(len);
            len += replica.log.len() + 1;
        }
        let mut changes = vec![0i32; len];
        for part in parts {
            let start = starts[part.replica as usize];
            changes[start + part.from as usize] += 1;
            changes[start + part.to as usize] -= 1;
        }
        for (replica, start) in self.replicas.iter().zip(starts) {
            let mut there = 0;
            for (entry, change) in replica.log.iter().zip(&changes[start..]) {
                there += change;
                let (bucket, count) = bucket_and_count(entry);
                counts[bucket] += there as u64 * count;
            }
        }
    }

    pub(super) fn shared(&self, stay: &Stay) -> Gaps<'_> {
        Gaps::Shared { log: self.part(stay.part), sum: stay.sum }
    }

    fn part(&self, part: Part) -> &[u32] {
        &self.replicas[part.replica as usize].log[part.from as usize..part.to as usize]
    }
}

/// The histograms that were asked for, and who counts to which.
struct Targets<'a> {
    all: Vec<Target<'a>>,
    /// Positions in `all` of the tenant's class, of each tenant and of each adapter, or [`NONE`].
    class_of: Vec<u32>,
    tenants: Vec<u32>,
    adapters: Vec<u32>,
}

struct Target<'a> {
    histogram: &'a mut Histogram,
    /// Of the logs, and the sum of the gaps there.
    parts: Vec<Part>,
    sum: u128,
    /// Entries of those parts.
    entries: usize,
    /// Targets that they count to as well.
    also: [Option<usize>; 2],
}

impl<'a> Target<'a> {
    fn new(histogram: &'a mut Histogram) -> Target<'a> {
        Target { histogram, parts: Vec::new(), sum: 0, entries: 0, also: [None; 2] }
    }

    fn take(&mut self, stay: &Stay) {
        self.parts.push(stay.part);
        self.sum += u128::from(stay.sum);
        self.entries += (stay.part.to - stay.part.from) as usize;
    }
}

/// Who uses an adapter?
#[derive(Clone, Copy)]
enum Users {
    Nobody,
    Tenant(u32),
    Tenants,
}

impl<'a> Targets<'a> {
    fn new(gaps: &GroupGaps, asked: &'a mut Asked, class_of: impl Fn(u32) -> Option<usize>) -> Targets<'a> {
        let classes = asked.classes.len();
        let class = |tenant| class_of(tenant).filter(|class| *class < classes).map_or(NONE, |class| class as u32);
        let mut targets = Targets {
            all: asked.classes.iter_mut().map(Target::new).collect(),
            class_of: (0..gaps.tenants as u32).map(class).collect(),
            tenants: vec![NONE; gaps.tenants],
            adapters: vec![NONE; gaps.adapters],
        };
        let groups = asked.tenants.iter_mut().map(|asked| (true, asked));
        for (is_tenant, (id, histogram)) in groups.chain(asked.adapters.iter_mut().map(|asked| (false, asked))) {
            let places = if is_tenant { &mut targets.tenants } else { &mut targets.adapters };
            if let Some(place) = places.get_mut(*id as usize) {
                *place = targets.all.len() as u32;
                targets.all.push(Target::new(histogram));
            }
        }
        targets
    }

    /// The class of a tenant and the tenant itself, as far as somebody asks for them.
    fn of_tenant(&self, tenant: u32) -> [Option<usize>; 2] {
        [&self.class_of, &self.tenants].map(|places| place(places, tenant))
    }

    /// Gives each stay to those that it counts to. Where an adapter is one tenant's own, its stays are looked up once, for the adapter,
    /// and count to the tenant and its class as well.
    fn share_out(&mut self, stays: &[Stay]) {
        let mut users = vec![Users::Nobody; self.adapters.len()];
        for stay in stays {
            let Some(users) = users.get_mut(stay.adapter as usize) else { continue };
            *users = match *users {
                Users::Nobody => Users::Tenant(stay.tenant),
                Users::Tenant(tenant) if tenant == stay.tenant => continue,
                _ => Users::Tenants,
            };
        }
        for stay in stays {
            match (place(&self.adapters, stay.adapter), users.get(stay.adapter as usize)) {
                (Some(adapter), Some(Users::Tenant(tenant))) => {
                    self.all[adapter].also = self.of_tenant(*tenant);
                    self.all[adapter].take(stay);
                }
                _ => self.each(stay.tenant, stay.adapter, |target| target.take(stay)),
            }
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

/// Which bucket an entry of a log counts to, and how often.
fn bucket_and_count(entry: &u32) -> (usize, u64) {
    ((entry & BUCKET_MASK) as usize, u64::from(entry >> BUCKET_BITS))
}

/// Gaps of one sequence.
pub(super) enum Gaps<'a> {
    /// Shared with its batch: the log, and their sum.
    Shared {
        log: &'a [u32],
        sum: u64,
    },
    Own(u64),
}

impl Gaps<'_> {
    pub(super) fn add_to(&self, group: &mut Histogram) {
        match self {
            Gaps::Own(gap) => group.record(*gap, 1),
            Gaps::Shared { log, sum } => {
                group.add_all(log.iter().map(bucket_and_count), u128::from(*sum));
            }
        }
    }
}
