//! What is true of many replicas at once: the best of them is found without a look at each.
//!
//! Replicas are the leaves of a tree, in order of id, and a node bounds what those below it published. A search goes down
//! where it hopes for most and leaves out what cannot be better than what it has found: where replicas differ, it looks at
//! few of them, whatever their number. What a replica publishes changes the nodes above it, up to the first that stays as
//! it was.
//!
//! Under perfect information KV blocks are a matter of the moment: steps take some, and nobody publishes it. What was
//! published bounds them until something is published again, and so does what a look found: it is written down, so that the
//! next search passes over a replica that was looked at in vain.

use std::cell::Cell;

use crate::fact::Power;
use crate::fleet::Signals;
use crate::replica::Replica;
use crate::settings::ReplicaSettings;
use crate::workload::ReplicaId;

/// Replicas whose id, modulo `of`, is `number`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    /// Which group, below `of`.
    pub number: u32,
    /// How many groups there are.
    pub of: u32,
}

impl Group {
    /// The whole fleet.
    pub const ALL: Group = Group { number: 0, of: 1 };
}

/// What is true of each of some replicas that take requests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounds {
    /// The shortest of their queues, sequences.
    pub waiting_min: u32,
    /// The longest.
    pub waiting_max: u32,
    /// The fewest sequences in a batch beside the shortest queue.
    pub running_min: u32,
    /// The fewest in batch and queue.
    pub working_set_min: u32,
    /// No smaller share of KV blocks is in use or promised. Under perfect information the least may be larger: of one replica
    /// it is exact for who says that it reads it.
    pub kv_share_min: f64,
    /// Would the batch of one of them have an adapter slot for one more, after all of its queue?
    pub lora_slot: bool,
}

impl Bounds {
    /// Of no replica at all.
    const NOBODY: Bounds = Bounds {
        waiting_min: u32::MAX,
        waiting_max: 0,
        running_min: u32::MAX,
        working_set_min: u32::MAX,
        kv_share_min: f64::INFINITY,
        lora_slot: false,
    };

    pub(super) fn of(replica: &Replica, signals: &Signals) -> Bounds {
        if replica.power == Power::On { Bounds::of_one(&replica.settings, signals) } else { Bounds::NOBODY }
    }

    /// Of one that takes requests.
    #[inline]
    pub(super) fn of_one(settings: &ReplicaSettings, signals: &Signals) -> Bounds {
        Bounds {
            waiting_min: signals.waiting,
            waiting_max: signals.waiting,
            running_min: signals.running,
            working_set_min: signals.working_set(),
            kv_share_min: signals.kv_share(settings.kv_blocks),
            lora_slot: signals.has_lora_slot(settings.max_loras),
        }
    }

    fn is_nobody(&self) -> bool {
        self.waiting_min > self.waiting_max
    }

    fn and(self, other: Bounds) -> Bounds {
        let shortest = |bounds: &Bounds| (bounds.waiting_min, bounds.running_min);
        let (waiting_min, running_min) = shortest(&self).min(shortest(&other));
        Bounds {
            waiting_min,
            waiting_max: self.waiting_max.max(other.waiting_max),
            running_min,
            working_set_min: self.working_set_min.min(other.working_set_min),
            kv_share_min: self.kv_share_min.min(other.kv_share_min),
            lora_slot: self.lora_slot || other.lora_slot,
        }
    }
}

/// Who looks for the best of many replicas?
pub trait Search {
    /// How good a replica may be, more being better.
    type Hope: PartialOrd;

    /// How good may the best of these be, ids from the first to the last? None: not good enough to be looked at.
    fn hope(&self, bounds: &Bounds, first: ReplicaId, last: ReplicaId) -> Option<Self::Hope>;

    /// Looks at one of them, whose bounds are what it published.
    fn look(&mut self, replica: ReplicaId, bounds: &Bounds);

    /// Does it read `kv_share_min`?
    fn reads_kv(&self) -> bool;
}

/// One tree for each group of replicas.
#[derive(Debug)]
pub(super) struct Forest {
    groups: u32,
    /// Leaves of each tree, a power of two; those beyond the fleet are nobody.
    leaves: usize,
    /// Of each tree, the root at 1 and what is below node `n` at `2n` and `2n + 1`.
    nodes: Vec<Cell<Bounds>>,
}

impl Forest {
    pub(super) fn new(groups: u32, replicas: usize, of: impl Fn(usize) -> Bounds) -> Forest {
        let leaves = replicas.div_ceil(groups as usize).next_power_of_two();
        let forest = Forest { groups, leaves, nodes: vec![Cell::new(Bounds::NOBODY); groups as usize * 2 * leaves] };
        for replica in 0..replicas {
            forest.set(ReplicaId(replica as u32), of(replica));
        }
        forest
    }

    pub(super) fn groups(&self) -> u32 {
        self.groups
    }

    fn tree(&self, group: u32) -> &[Cell<Bounds>] {
        &self.nodes[group as usize * 2 * self.leaves..][..2 * self.leaves]
    }

    /// All of a group; none if nobody of it takes requests.
    pub(super) fn root(&self, group: u32) -> Option<Bounds> {
        Some(self.tree(group)[1].get()).filter(|bounds| !bounds.is_nobody())
    }

    pub(super) fn set(&self, replica: ReplicaId, mut bounds: Bounds) {
        let tree = self.tree(replica.0 % self.groups);
        let mut node = self.leaves + (replica.0 / self.groups) as usize;
        while tree[node].get() != bounds {
            tree[node].set(bounds);
            if node == 1 {
                return;
            }
            bounds = bounds.and(tree[node ^ 1].get());
            node /= 2;
        }
    }

    /// `kv_share` is what is true at this moment.
    pub(super) fn search(&self, group: u32, search: &mut impl Search, kv_share: impl Fn(ReplicaId) -> f64) {
        let descent = Descent { tree: self.tree(group), group, groups: self.groups, kv_share };
        let root = Part { node: 1, first: 0, leaves: self.leaves };
        if descent.hope(search, root).is_some() {
            descent.go(search, root);
        }
    }
}

/// A node, and which leaves are below it.
#[derive(Clone, Copy)]
struct Part {
    node: usize,
    first: usize,
    leaves: usize,
}

/// So few are looked at without a bound on each, where a look is no more than a bound is: KV use is not read.
const LOOKED_AT_ONCE: usize = 4;

/// A search in one tree.
struct Descent<'a, F> {
    tree: &'a [Cell<Bounds>],
    group: u32,
    groups: u32,
    kv_share: F,
}

impl<F: Fn(ReplicaId) -> f64> Descent<'_, F> {
    fn leaves(&self) -> usize {
        self.tree.len() / 2
    }

    fn id(&self, leaf: usize) -> ReplicaId {
        ReplicaId(leaf as u32 * self.groups + self.group)
    }

    fn hope<S: Search>(&self, search: &S, Part { node, first, leaves }: Part) -> Option<S::Hope> {
        let bounds = self.tree[node].get();
        if bounds.is_nobody() {
            return None;
        }
        search.hope(&bounds, self.id(first), self.id(first + leaves - 1))
    }

    fn go<S: Search>(&self, search: &mut S, Part { node, first, leaves }: Part) {
        if leaves == 1 || leaves <= LOOKED_AT_ONCE && !search.reads_kv() {
            let there = |leaf: &usize| !self.tree[self.leaves() + leaf].get().is_nobody();
            return (first..first + leaves).filter(there).for_each(|leaf| self.look(search, leaf));
        }
        let leaves = leaves / 2;
        let low = Part { node: 2 * node, first, leaves };
        let high = Part { node: 2 * node + 1, first: first + leaves, leaves };
        let hopes = (self.hope(search, low), self.hope(search, high));
        let (better, other) = if hopes.1 > hopes.0 { (high, low) } else { (low, high) };
        if hopes.0.is_some() || hopes.1.is_some() {
            self.go(search, better);
        }
        // What was found there may leave nothing to hope for here.
        if hopes.0.is_some() && hopes.1.is_some() && self.hope(search, other).is_some() {
            self.go(search, other);
        }
        if search.reads_kv() {
            self.tree[node].set(self.tree[low.node].get().and(self.tree[high.node].get()));
        }
    }

    fn look(&self, search: &mut impl Search, leaf: usize) {
        let (place, replica) = (&self.tree[self.leaves() + leaf], self.id(leaf));
        let mut bounds = place.get();
        if search.reads_kv() {
            let kv_share = (self.kv_share)(replica);
            debug_assert!(kv_share >= bounds.kv_share_min, "KV blocks were freed and not published");
            bounds.kv_share_min = kv_share;
            place.set(bounds);
        }
        search.look(replica, &bounds);
    }
}

#[cfg(test)]
mod tests {
    use rand::RngExt;

    use super::*;
    use crate::random::stream;

    /// The least KV share, ties to the lowest id, and how often it looks.
    struct Least {
        found: Option<(f64, ReplicaId)>,
        looks: u32,
    }

    impl Search for Least {
        type Hope = f64;

        fn hope(&self, bounds: &Bounds, first: ReplicaId, _: ReplicaId) -> Option<f64> {
            let least = (bounds.kv_share_min, first);
            self.found.is_none_or(|found| least < found).then_some(-bounds.kv_share_min)
        }

        fn look(&mut self, replica: ReplicaId, bounds: &Bounds) {
            self.looks += 1;
            let share = (bounds.kv_share_min, replica);
            self.found = Some(self.found.map_or(share, |found| if share < found { share } else { found }));
        }

        fn reads_kv(&self) -> bool {
            true
        }
    }

    fn least(forest: &Forest, group: u32, shares: &[f64]) -> Least {
        let mut least = Least { found: None, looks: 0 };
        forest.search(group, &mut least, |replica| shares[replica.index()]);
        least
    }

    fn on(kv_share_min: f64) -> Bounds {
        let nobody = Bounds::NOBODY;
        Bounds { waiting_min: 0, running_min: 0, working_set_min: 0, kv_share_min, lora_slot: true, ..nobody }
    }

    #[test]
    fn a_search_finds_what_a_look_at_all_finds() {
        let mut random = stream(7, "bounds");
        for (replicas, groups) in [(1, 1), (2, 1), (63, 1), (64, 1), (65, 1), (100, 7), (100, 100), (5, 3)] {
            // Those without a share are off; others have at least what they published.
            let mut shares = vec![f64::INFINITY; replicas as usize];
            let forest = Forest::new(groups, replicas as usize, |_| Bounds::NOBODY);
            for _ in 0..2_000 {
                let replica = random.random_range(0..replicas);
                let published = f64::from(random.random_range(0..20));
                let share = &mut shares[replica as usize];
                match random.random_range(0..4) {
                    0 => (*share, _) = (f64::INFINITY, forest.set(ReplicaId(replica), Bounds::NOBODY)),
                    1 if share.is_finite() => *share += 1.0,
                    _ => {
                        *share = published + f64::from(random.random_range(0..5));
                        forest.set(ReplicaId(replica), on(published));
                    }
                }
                let group = random.random_range(0..groups);
                let members = (group..replicas).step_by(groups as usize).map(|id| (shares[id as usize], ReplicaId(id)));
                let known = members.filter(|(share, _)| share.is_finite()).min_by(|a, b| a.partial_cmp(b).unwrap());
                assert_eq!(least(&forest, group, &shares).found, known);
                assert_eq!(forest.root(group).is_some(), known.is_some());
            }
        }
    }

    #[test]
    fn what_was_looked_at_in_vain_is_passed_over_the_next_time() {
        let mut random = stream(7, "shares");
        let shares: Vec<f64> = (0..4_096).map(|_| f64::from(random.random_range(0..1_000_000))).collect();
        let forest = Forest::new(1, shares.len(), |_| on(0.0));
        assert_eq!(least(&forest, 0, &shares).looks, 4_096, "nothing is known of anybody");
        assert_eq!(least(&forest, 0, &shares).looks, 1);
        forest.set(ReplicaId(77), on(0.0));
        // It promised most: on the way back from it one beside it may be looked at on each level.
        assert!((2..=13).contains(&least(&forest, 0, &shares).looks), "77 published what is true no more");
        assert_eq!(least(&forest, 0, &shares).looks, 1);
    }
}
