//! What the logs say about the groups that somebody asks for.

use std::collections::BTreeMap;
use std::ops::Range;

use super::sums::{Sums, WINDOW, bucket_and_count};
use super::{BUCKET_MASK, Counted, GroupGaps, Histogram, Stay};
use crate::recorder::NONE;

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
        let buckets = self.buckets();
        let mut targets = Targets::new(&self, &mut asked, class_of, buckets.len());
        let shares = targets.share_out(&self.stays, self.replicas.len());
        for own in &self.own {
            targets.each(own.tenant, own.adapter, |target| Gaps::Own(own.gap).add_to(target.histogram));
        }
        // One log after the other: each is near while it is read.
        let mut sums = Sums::new(buckets.clone());
        for (index, replica) in self.replicas.iter().enumerate() {
            targets.count(&replica.log, shares.of(index), &mut sums, self.dense);
        }
        targets.finish(buckets);
        asked
    }

    /// From the least to the largest bucket of the logs, or a window that holds them.
    fn buckets(&self) -> Range<usize> {
        let buckets = self.replicas.iter().flat_map(|replica| &replica.log).map(|entry| entry & BUCKET_MASK);
        let (least, most) =
            buckets.fold((BUCKET_MASK, 0), |(least, most), bucket| (least.min(bucket), most.max(bucket)));
        let least = least.min(most) as usize;
        least..(most as usize + 1).max(least + WINDOW)
    }

    pub(super) fn shared(&self, stay: &Stay) -> Gaps<'_> {
        let part = stay.part;
        Gaps::Shared {
            log: &self.replicas[part.replica as usize].log[part.from as usize..part.to as usize],
            sum: stay.sum,
        }
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
    /// How often each bucket of the logs occurs in its parts of them, and the sum of the gaps there.
    counts: Vec<u64>,
    sum: u128,
    /// Targets that they count to as well.
    also: [Option<usize>; 2],
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
    fn of(&self, replica: usize) -> &[Share] {
        &self.all[self.starts[replica]..self.starts[replica + 1]]
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
    fn new(
        gaps: &GroupGaps,
        asked: &'a mut Asked,
        class_of: impl Fn(u32) -> Option<usize>,
        buckets: usize,
    ) -> Targets<'a> {
        let target = |histogram| Target { histogram, counts: vec![0; buckets], sum: 0, also: [None; 2] };
        let classes = asked.classes.len();
        let class = |tenant| class_of(tenant).filter(|class| *class < classes).map_or(NONE, |class| class as u32);
        let mut targets = Targets {
            all: asked.classes.iter_mut().map(target).collect(),
            class_of: (0..gaps.tenants as u32).map(class).collect(),
            tenants: vec![NONE; gaps.tenants],
            adapters: vec![NONE; gaps.adapters],
        };
        let groups = asked.tenants.iter_mut().map(|asked| (true, asked));
        for (is_tenant, (id, histogram)) in groups.chain(asked.adapters.iter_mut().map(|asked| (false, asked))) {
            let places = if is_tenant { &mut targets.tenants } else { &mut targets.adapters };
            if let Some(place) = places.get_mut(*id as usize) {
                *place = targets.all.len() as u32;
                targets.all.push(target(histogram));
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
    fn share_out(&mut self, stays: &[Stay], replicas: usize) -> Shares {
        let mut users = vec![Users::Nobody; self.adapters.len()];
        for stay in stays {
            let Some(users) = users.get_mut(stay.adapter as usize) else { continue };
            *users = match *users {
                Users::Nobody => Users::Tenant(stay.tenant),
                Users::Tenant(tenant) if tenant == stay.tenant => continue,
                _ => Users::Tenants,
            };
        }
        for (adapter, users) in (0..).zip(&users) {
            if let (Some(place), Users::Tenant(tenant)) = (place(&self.adapters, adapter), users) {
                self.all[place].also = self.of_tenant(*tenant);
            }
        }
        let mut starts = vec![0; replicas + 1];
        for stay in stays {
            starts[stay.part.replica as usize + 1] += self.of(stay, &users).count();
        }
        let mut sum = 0;
        starts.iter_mut().for_each(|start| {
            sum += *start;
            *start = sum;
        });
        let mut next = starts.clone();
        let mut all = vec![Share::default(); sum];
        for stay in stays {
            let next = &mut next[stay.part.replica as usize];
            for target in self.of(stay, &users) {
                all[*next] = Share { target: target as u32, from: stay.part.from, to: stay.part.to };
                *next += 1;
                self.all[target].sum += u128::from(stay.sum);
            }
        }
        Shares { all, starts }
    }

    /// The targets that look a stay up.
    fn of(&self, stay: &Stay, users: &[Users]) -> impl Iterator<Item = usize> + use<> {
        let adapter = place(&self.adapters, stay.adapter);
        let once = adapter.is_some() && matches!(users.get(stay.adapter as usize), Some(Users::Tenant(_)));
        let [class, tenant] = if once { [None; 2] } else { self.of_tenant(stay.tenant) };
        [class, tenant, adapter].into_iter().flatten()
    }

    /// Counts these parts of a log. Of a target that was nearly everywhere it is counted how many were there for each entry, then the log is
    /// read once.
    fn count(&mut self, log: &[u32], shares: &[Share], sums: &mut Sums, dense: usize) {
        let mut entries = vec![0; self.all.len()];
        sums.begin(log.len());
        shares.iter().for_each(|share| entries[share.target as usize] += sums.entries_read(share.part()));
        let is_dense = |target: usize| entries[target] > dense * log.len();
        for share in shares.iter().filter(|share| !is_dense(share.target as usize)) {
            sums.add(log, share.part(), &mut self.all[share.target as usize].counts);
        }
        for target in (0..self.all.len()).filter(|target| is_dense(*target)) {
            let parts = shares.iter().filter(|share| share.target as usize == target).map(Share::part);
            sums.cover(log, parts, &mut self.all[target].counts);
        }
    }

    /// Everything is counted, in these buckets.
    fn finish(&mut self, buckets: Range<usize>) {
        for place in 0..self.all.len() {
            let counts = std::mem::take(&mut self.all[place].counts);
            let nonempty = buckets.clone().zip(counts.iter().copied()).filter(|(_, count)| *count > 0);
            if nonempty.clone().next().is_none() {
                continue;
            }
            let Target { sum, also, .. } = self.all[place];
            for place in also.into_iter().flatten().chain([place]) {
                self.all[place].histogram.add_all(nonempty.clone(), sum);
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
