//! The best of many replicas, found without a look at each.
//!
//! Replicas are the leaves of a tree, in order of id, and a node bounds what those below it published. A search goes down
//! where it hopes for most and leaves out what cannot be better than what it has found: where replicas differ, it looks at
//! few of them, whatever their number. Where they are alike it need not look either: a node knows how many below it are the
//! best, and any of those is found on one way down. What a replica publishes changes the nodes above it, up to the first
//! that stays as it was.
//!
//! Under perfect information KV blocks are a matter of the moment: steps take some, and nobody publishes it. What was
//! published bounds them until something is published again, and so does what a look found: it is written down, so that the
//! next search passes over a replica that was looked at in vain.

use std::cell::Cell;

use super::bounds::{Bounds, Reads};
use crate::workload::ReplicaId;

/// Who looks for the best of many replicas?
pub trait Search {
    /// How good a replica may be, more being better.
    type Hope: PartialOrd;

    /// How good may the best of these be, ids from the first to the last? None: not good enough to be looked at.
    fn hope(&self, bounds: &Bounds, first: ReplicaId, last: ReplicaId) -> Option<Self::Hope>;

    /// Looks at one of them, whose bounds are what it published.
    fn look(&mut self, replica: ReplicaId, bounds: &Bounds);

    /// Looks at none of these, ids from the first to the last, and notes that `bounds.best` of them are good enough, if
    /// those are surely as good as each other and better than the rest. Did it?
    fn take(&mut self, _bounds: &Bounds, _first: ReplicaId, _last: ReplicaId) -> bool {
        false
    }

    /// What does it read? The same for as long as it looks.
    fn reads(&self) -> Reads;
}

/// One tree for each group of replicas.
#[derive(Debug)]
pub(super) struct Forest {
    groups: u32,
    reads: Reads,
    /// Leaves of each tree, a power of two; those beyond the fleet are nobody.
    leaves: usize,
    /// Of each tree, the root at 1 and what is below node `n` at `2n` and `2n + 1`.
    nodes: Vec<Cell<Bounds>>,
}

impl Forest {
    /// For searches that read this. Replicas have these bounds.
    pub(super) fn new(groups: u32, reads: Reads, replicas: usize, of: impl Fn(usize) -> Bounds) -> Forest {
        let leaves = replicas.div_ceil(groups as usize).next_power_of_two();
        let nodes = vec![Cell::new(Bounds::NOBODY); groups as usize * 2 * leaves];
        let forest = Forest { groups, reads, leaves, nodes };
        for replica in 0..replicas {
            forest.set(ReplicaId(replica as u32), of(replica));
        }
        forest
    }

    pub(super) fn is_of(&self, groups: u32, reads: Reads) -> bool {
        (self.groups, self.reads) == (groups, reads)
    }

    pub(super) fn reads(&self) -> Reads {
        self.reads
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
            bounds = bounds.and(tree[node ^ 1].get(), self.reads);
            node /= 2;
        }
    }

    /// `kv_share` is what is true at this moment.
    pub(super) fn search(&self, group: u32, search: &mut impl Search, kv_share: impl Fn(ReplicaId) -> f64) {
        debug_assert_eq!(search.reads(), self.reads);
        let descent = Descent { tree: self.tree(group), group, groups: self.groups, reads: self.reads, kv_share };
        let root = Part { node: 1, first: 0, leaves: self.leaves };
        if descent.hope(search, root).is_some() {
            descent.go(search, root);
        }
    }

    /// Of the best of these, ids from the first to the last as a search took them, the one that `n` have a smaller id than.
    pub(super) fn nth_best(&self, first: ReplicaId, last: ReplicaId, mut n: u32) -> ReplicaId {
        let group = first.0 % self.groups;
        let (tree, leaf) = (self.tree(group), |replica: ReplicaId| (replica.0 / self.groups) as usize);
        let mut node = (self.leaves + leaf(first)) / (leaf(last) - leaf(first) + 1);
        while node < self.leaves {
            let low = tree[2 * node].get().best_of(&tree[node].get());
            node *= 2;
            if n >= low {
                (node, n) = (node + 1, n - low);
            }
        }
        ReplicaId((node - self.leaves) as u32 * self.groups + group)
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
    reads: Reads,
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
        let bounds = self.tree[node].get();
        if leaves > 1 && bounds.best > 0 && search.take(&bounds, self.id(first), self.id(first + leaves - 1)) {
            return;
        }
        if leaves == 1 || leaves <= LOOKED_AT_ONCE && !self.reads.kv_share {
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
        if self.reads.kv_share {
            let (place, low, high) = (&self.tree[node], self.tree[low.node].get(), self.tree[high.node].get());
            // A search changes nothing else.
            let share = || low.kv_share_min.min(high.kv_share_min);
            place.set(if self.reads.best { low.and(high, self.reads) } else { place.get().with_share_from(share()) });
        }
    }

    fn look(&self, search: &mut impl Search, leaf: usize) {
        let (place, replica) = (&self.tree[self.leaves() + leaf], self.id(leaf));
        let mut bounds = place.get();
        if self.reads.kv_share {
            let kv_share = (self.kv_share)(replica);
            debug_assert!(kv_share >= bounds.kv_share_min, "KV blocks were freed and not published");
            debug_assert!(kv_share == bounds.kv_share_min || bounds.best == 0, "KV blocks were taken by nobody");
            if kv_share != bounds.kv_share_min {
                bounds = bounds.with_share_from(kv_share);
                place.set(bounds);
            }
        }
        search.look(replica, &bounds);
    }
}

#[cfg(test)]
mod tests {
    use rand::RngExt;

    use super::*;
    use crate::random::stream;

    const KV: Reads =
        Reads { waiting: false, running: false, working_set: false, kv_share: true, lora_slot: false, best: false };

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

        fn reads(&self) -> Reads {
            KV
        }
    }

    fn least(forest: &Forest, group: u32, shares: &[f64]) -> Least {
        let mut least = Least { found: None, looks: 0 };
        forest.search(group, &mut least, |replica| shares[replica.index()]);
        least
    }

    fn on(kv_share_min: f64) -> Bounds {
        let one = Bounds { waiting_max: 0, kv_share_min, lora_slot: true, ..Bounds::NOBODY };
        one.read(KV)
    }

    #[test]
    fn a_search_finds_what_a_look_at_all_finds() {
        let mut random = stream(7, "bounds");
        for (replicas, groups) in [(1, 1), (2, 1), (63, 1), (64, 1), (65, 1), (100, 7), (100, 100), (5, 3)] {
            // Those without a share are off; others have at least what they published.
            let mut shares = vec![f64::INFINITY; replicas as usize];
            let forest = Forest::new(groups, KV, replicas as usize, |_| Bounds::NOBODY);
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
        let forest = Forest::new(1, KV, shares.len(), |_| on(0.0));
        assert_eq!(least(&forest, 0, &shares).looks, 4_096, "nothing is known of anybody");
        assert_eq!(least(&forest, 0, &shares).looks, 1);
        forest.set(ReplicaId(77), on(0.0));
        // It promised most: on the way back from it one beside it may be looked at on each level.
        assert!((2..=13).contains(&least(&forest, 0, &shares).looks), "77 published what is true no more");
        assert_eq!(least(&forest, 0, &shares).looks, 1);
    }

    /// The least sum of queue and KV share, how many have it, where, and how often it looks.
    struct Fewest {
        sum: f64,
        ties: Vec<(ReplicaId, ReplicaId, u32)>,
        looks: u32,
    }

    impl Fewest {
        fn found(&mut self, bounds: &Bounds, (first, last): (ReplicaId, ReplicaId)) {
            let sum = f64::from(bounds.waiting_min) + bounds.kv_share_min;
            if sum < self.sum {
                (self.sum, self.ties) = (sum, Vec::new());
            }
            if sum == self.sum {
                self.ties.push((first, last, if first == last { 1 } else { bounds.best }));
            }
        }
    }

    impl Search for Fewest {
        type Hope = f64;

        fn hope(&self, bounds: &Bounds, _: ReplicaId, _: ReplicaId) -> Option<f64> {
            let sum = f64::from(bounds.waiting_min) + bounds.kv_share_min;
            (sum <= self.sum).then_some(-sum)
        }

        fn look(&mut self, replica: ReplicaId, bounds: &Bounds) {
            self.looks += 1;
            self.found(bounds, (replica, replica));
        }

        fn take(&mut self, bounds: &Bounds, first: ReplicaId, last: ReplicaId) -> bool {
            let taken = bounds.kv_share_next > bounds.kv_share_min;
            if taken {
                self.found(bounds, (first, last));
            }
            taken
        }

        fn reads(&self) -> Reads {
            QUEUE_AND_KV
        }
    }

    const QUEUE_AND_KV: Reads = Reads { waiting: true, best: true, ..KV };

    /// Those with the least sum, by id, and after how many looks.
    fn fewest(forest: &Forest, group: u32, shares: &[f64]) -> (Vec<ReplicaId>, u32) {
        let mut fewest = Fewest { sum: f64::INFINITY, ties: Vec::new(), looks: 0 };
        forest.search(group, &mut fewest, |replica| shares[replica.index()]);
        fewest.ties.sort_unstable();
        let each = |&(first, last, count): &(ReplicaId, ReplicaId, u32)| {
            (0..count).map(move |n| forest.nth_best(first, last, n))
        };
        (fewest.ties.iter().flat_map(each).collect(), fewest.looks)
    }

    fn with_queue(waiting: u32, kv_share_min: f64) -> Bounds {
        Bounds { waiting_min: waiting, waiting_max: waiting, kv_share_min, best: 1, ..Bounds::NOBODY }
    }

    #[test]
    fn the_best_that_are_counted_are_those_that_a_look_at_all_finds() {
        let mut random = stream(7, "ties");
        let (mut looks, mut ties) = (0, 0);
        for (replicas, groups) in [(1, 1), (2, 1), (63, 1), (64, 1), (65, 1), (100, 7), (100, 100), (5, 3)] {
            // Queue and share; those without are off.
            let mut truth = vec![None; replicas as usize];
            let mut shares = vec![f64::INFINITY; replicas as usize];
            let forest = Forest::new(groups, QUEUE_AND_KV, replicas as usize, |_| Bounds::NOBODY);
            for _ in 0..3_000 {
                let replica = random.random_range(0..replicas);
                let (waiting, share) = (random.random_range(0..3) / 2, f64::from(random.random_range(0..3) / 2));
                let one = with_queue(waiting, share);
                let (bounds, more) = match random.random_range(0..6) {
                    0 => (Bounds::NOBODY, f64::INFINITY),
                    1 => (one.with_share_from(share).read(QUEUE_AND_KV), f64::from(random.random_range(0..2))),
                    _ => (one.read(QUEUE_AND_KV), 0.0),
                };
                truth[replica as usize] = more.is_finite().then_some(f64::from(waiting) + share + more);
                shares[replica as usize] = share + more;
                forest.set(ReplicaId(replica), bounds);
                let group = random.random_range(0..groups);
                let sums =
                    || (group..replicas).step_by(groups as usize).filter_map(|id| Some((truth[id as usize]?, id)));
                let least = sums().map(|(sum, _)| sum).fold(f64::INFINITY, f64::min);
                let known = sums().filter(|&(sum, _)| sum == least).map(|(_, id)| ReplicaId(id));
                let (found, looked) = fewest(&forest, group, &shares);
                assert!(found.iter().copied().eq(known), "{found:?}");
                (looks, ties) = (looks + looked, ties + found.len());
            }
        }
        assert!(ties > 4 * looks as usize, "{looks} looks for {ties}");
    }

    #[test]
    fn who_is_surely_the_best_is_not_looked_at() {
        let shares = vec![0.0; 4_096];
        let idle = with_queue(0, 0.0);
        let forest = Forest::new(1, QUEUE_AND_KV, shares.len(), |_| idle);
        let all = (0..4_096).map(ReplicaId);
        assert_eq!(fewest(&forest, 0, &shares), (all.clone().collect(), 0));
        forest.set(ReplicaId(77), with_queue(1, 0.0));
        forest.set(ReplicaId(78), Bounds::NOBODY);
        let others = all.clone().filter(|replica| !matches!(replica.0, 77 | 78));
        assert_eq!(fewest(&forest, 0, &shares), (others.collect(), 0));
        forest.set(ReplicaId(78), idle.with_share_from(0.0));
        assert_eq!(
            fewest(&forest, 0, &shares),
            (all.filter(|replica| replica.0 != 77).collect(), 2),
            "and one beside it"
        );
    }
}
