//! What is true of many replicas at once, and how many of them are the best of those.

use crate::fact::Power;
use crate::fleet::Signals;
use crate::replica::Replica;
use crate::settings::{AdapterMemory, ReplicaSettings};

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

/// What is read of replicas? In what is not, their bounds say that all are alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reads {
    /// `waiting_min`.
    pub waiting: bool,
    /// `running_min`.
    pub running: bool,
    /// `working_set_min`.
    pub working_set: bool,
    /// `kv_share_min`.
    pub kv_share: bool,
    /// `lora_slot`.
    pub lora_slot: bool,
    /// `best` and `kv_share_next`.
    pub best: bool,
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
    /// The same of all those of whom it is not known that their share is `kv_share_min`.
    pub kv_share_next: f64,
    /// Would the batch of one of them have an adapter slot for one more, after all of its queue?
    pub lora_slot: bool,
    /// Has each of them every adapter in its host?
    pub host_has_all: bool,
    /// So many of them have the shortest queue, the fewest sequences, a slot if anybody has one, and for all that is known
    /// `kv_share_min`; the others are worse in one of these at least, or may be.
    pub best: u32,
}

impl Bounds {
    /// Of no replica at all.
    pub(super) const NOBODY: Bounds = Bounds {
        waiting_min: u32::MAX,
        waiting_max: 0,
        running_min: u32::MAX,
        working_set_min: u32::MAX,
        kv_share_min: f64::INFINITY,
        kv_share_next: f64::INFINITY,
        lora_slot: false,
        host_has_all: true,
        best: 0,
    };

    /// Of one: `exact` where no step of its takes KV blocks before it publishes again.
    pub(super) fn of(replica: &Replica, signals: &Signals, exact: bool, reads: Reads) -> Bounds {
        if replica.power != Power::On {
            return Bounds::NOBODY;
        }
        let bounds = Bounds::of_one(&replica.settings, signals);
        if exact { bounds.read(reads) } else { bounds.with_share_from(bounds.kv_share_min).read(reads) }
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
            kv_share_next: f64::INFINITY,
            lora_slot: signals.has_lora_slot(settings.max_loras),
            host_has_all: settings.host_adapters == AdapterMemory::Unbounded,
            best: 1,
        }
    }

    /// The same, but this is all that is known of their shares of KV blocks.
    #[inline]
    pub(super) fn with_share_from(self, kv_share_min: f64) -> Bounds {
        Bounds { kv_share_min, kv_share_next: kv_share_min, best: 0, ..self }
    }

    /// The same of one, as if it were like all the others in what is not read.
    pub(super) fn read(self, reads: Reads) -> Bounds {
        let of_kv = if reads.kv_share {
            self
        } else {
            Bounds { kv_share_min: 0.0, kv_share_next: f64::INFINITY, best: 1, ..self }
        };
        let bounds = Bounds {
            waiting_min: if reads.waiting { self.waiting_min } else { 0 },
            running_min: if reads.running { self.running_min } else { 0 },
            working_set_min: if reads.working_set { self.working_set_min } else { 0 },
            lora_slot: self.lora_slot || !reads.lora_slot,
            ..of_kv
        };
        if reads.best { bounds } else { bounds.with_share_from(bounds.kv_share_min) }
    }

    pub(super) fn is_nobody(&self) -> bool {
        self.waiting_min > self.waiting_max
    }

    /// Of all of these. The best are counted if that is read.
    #[inline]
    pub(super) fn and(self, other: Bounds, reads: Reads) -> Bounds {
        let shortest = |bounds: &Bounds| (bounds.waiting_min, bounds.running_min);
        let (waiting_min, running_min) = shortest(&self).min(shortest(&other));
        let kv_share_min = self.kv_share_min.min(other.kv_share_min);
        let all = Bounds {
            waiting_min,
            waiting_max: self.waiting_max.max(other.waiting_max),
            running_min,
            working_set_min: self.working_set_min.min(other.working_set_min),
            kv_share_min,
            kv_share_next: kv_share_min,
            lora_slot: self.lora_slot || other.lora_slot,
            host_has_all: self.host_has_all && other.host_has_all,
            best: 0,
        };
        if !reads.best {
            return all;
        }
        Bounds {
            kv_share_next: self.next_of(&all).min(other.next_of(&all)),
            best: self.best_of(&all) + other.best_of(&all),
            ..all
        }
    }

    /// No smaller share has who is one of these and not known to have the least of all.
    fn next_of(&self, all: &Bounds) -> f64 {
        if self.kv_share_min > all.kv_share_min { self.kv_share_min } else { self.kv_share_next }
    }

    /// How many of these are among the best of all?
    pub(super) fn best_of(&self, all: &Bounds) -> u32 {
        let mine = (self.waiting_min, self.working_set_min, self.kv_share_min, self.lora_slot);
        let least = (all.waiting_min, all.working_set_min, all.kv_share_min, all.lora_slot);
        if mine == least { self.best } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use rand::RngExt;

    use super::*;
    use crate::random::{Stream, stream};

    const ALL: Reads =
        Reads { waiting: true, running: true, working_set: true, kv_share: true, lora_slot: true, best: true };

    fn one(random: &mut Stream) -> Bounds {
        let mut below = |n: u32| random.random_range(0..n);
        let (waiting, running, kv_share) = (below(2), below(2), f64::from(below(2)) / 4.0);
        let one = Bounds {
            waiting_min: waiting,
            waiting_max: waiting,
            running_min: running,
            working_set_min: waiting + running,
            kv_share_min: kv_share,
            lora_slot: below(4) > 0,
            best: 1,
            ..Bounds::NOBODY
        };
        if below(4) == 0 { one.with_share_from(kv_share) } else { one }
    }

    #[test]
    fn the_best_are_those_who_are_known_to_be_best_in_everything() {
        let mut random = stream(7, "best");
        let mut counted = 0;
        for _ in 0..20_000 {
            let each: Vec<Bounds> = (0..random.random_range(1..8)).map(|_| one(&mut random)).collect();
            let (low, high) = each.split_at(random.random_range(0..each.len()));
            let of = |part: &[Bounds]| part.iter().copied().fold(Bounds::NOBODY, |all, one| all.and(one, ALL));
            let all = of(low).and(of(high), ALL);
            let has_least = |one: &&Bounds| one.best == 1 && one.kv_share_min == all.kv_share_min;
            let others = each.iter().filter(|one| !has_least(one)).map(|one| one.kv_share_min);
            assert_eq!(all.kv_share_next, others.fold(f64::INFINITY, f64::min), "{each:?}");
            let is_best = |one: &&Bounds| {
                let of_queue = one.waiting_min == all.waiting_min && one.working_set_min == all.working_set_min;
                of_queue && one.lora_slot == all.lora_slot
            };
            let best = each.iter().filter(has_least).filter(is_best).count() as u32;
            assert_eq!(all.best, best, "{each:?}");
            counted += u32::from(best > 1);
        }
        assert!(counted > 1_000, "{counted} with more than one");
    }

    #[test]
    fn in_what_is_not_read_all_are_alike() {
        let mut random = stream(7, "reads");
        for _ in 0..1_000 {
            let each = [one(&mut random), one(&mut random)];
            let read = |reads: Reads| {
                each.map(|one| one.read(reads)).into_iter().fold(Bounds::NOBODY, |all, one| all.and(one, ALL))
            };
            let queues = each.map(|one| one.waiting_min);
            let nothing = Reads::default();
            assert_eq!(read(Reads { best: true, ..nothing }).best, 2);
            let shortest = queues.iter().filter(|&queue| queue == queues.iter().min().unwrap()).count();
            assert_eq!(read(Reads { waiting: true, best: true, ..nothing }).best, shortest as u32);
            assert_eq!(read(Reads { best: false, ..ALL }).best, 0, "nobody asks for them");
        }
    }
}
