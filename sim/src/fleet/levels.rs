//! Replicas by working set: who has the least, who the most, who has fewer than so many?

use std::ops::Range;

use crate::workload::ReplicaId;

/// Sets of small numbers that know their next and their last member: a bit a number, and a bit for each 64 that are not all zero.
#[derive(Clone, Debug, Default)]
struct Bits {
    words: Vec<u64>,
    /// Which words have a bit.
    filled: Vec<u64>,
}

impl Bits {
    fn insert(&mut self, number: usize) {
        let word = number / 64;
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
            self.filled.resize(word / 64 + 1, 0);
        }
        self.words[word] |= 1 << (number % 64);
        self.filled[word / 64] |= 1 << (word % 64);
    }

    fn remove(&mut self, number: usize) {
        let word = number / 64;
        self.words[word] &= !(1 << (number % 64));
        if self.words[word] == 0 {
            self.filled[word / 64] &= !(1 << (word % 64));
        }
    }

    /// The least member that is not below `number`.
    fn at_least(&self, number: usize) -> Option<usize> {
        fn in_words(words: &[u64], from: usize) -> Option<usize> {
            let rest = words.get(from / 64)? & (u64::MAX << (from % 64));
            if rest != 0 {
                return Some(from / 64 * 64 + rest.trailing_zeros() as usize);
            }
            let word = (from / 64 + 1..words.len()).find(|&word| words[word] != 0)?;
            Some(word * 64 + words[word].trailing_zeros() as usize)
        }
        let word = number / 64;
        let rest = self.words.get(word)? & (u64::MAX << (number % 64));
        if rest != 0 {
            return Some(word * 64 + rest.trailing_zeros() as usize);
        }
        let word = in_words(&self.filled, word + 1)?;
        Some(word * 64 + self.words[word].trailing_zeros() as usize)
    }

    /// The greatest member below `number`.
    fn below(&self, number: usize) -> Option<usize> {
        fn in_words(words: &[u64], to: usize) -> Option<usize> {
            let rest = words.get(to / 64).map_or(0, |word| word & !(u64::MAX << (to % 64)));
            if rest != 0 {
                return Some(to / 64 * 64 + 63 - rest.leading_zeros() as usize);
            }
            let word = (0..(to / 64).min(words.len())).rev().find(|&word| words[word] != 0)?;
            Some(word * 64 + 63 - words[word].leading_zeros() as usize)
        }
        let number = number.min(self.words.len() * 64);
        let word = number / 64;
        let rest = self.words.get(word).map_or(0, |bits| bits & !(u64::MAX << (number % 64)));
        if rest != 0 {
            return Some(word * 64 + 63 - rest.leading_zeros() as usize);
        }
        let word = in_words(&self.filled, word)?;
        Some(word * 64 + 63 - self.words[word].leading_zeros() as usize)
    }
}

/// The replicas of one working set.
#[derive(Clone, Debug, Default)]
struct Level {
    count: u32,
    replicas: Bits,
}

/// Levels below this one keep their memory when nobody is on them: what batches hold. Queues may grow without end.
const KEPT: usize = 1024;

/// Replicas in order of (working set, id).
#[derive(Debug, Default)]
pub(super) struct Levels {
    levels: Vec<Level>,
    /// Which of them have replicas.
    occupied: Bits,
}

impl Levels {
    pub(super) fn insert(&mut self, working_set: u32, replica: ReplicaId) {
        let working_set = working_set as usize;
        if working_set >= self.levels.len() {
            self.levels.resize(working_set + 1, Level::default());
        }
        let level = &mut self.levels[working_set];
        level.replicas.insert(replica.index());
        level.count += 1;
        if level.count == 1 {
            self.occupied.insert(working_set);
        }
    }

    /// Takes out a replica that is there with this working set.
    pub(super) fn remove(&mut self, working_set: u32, replica: ReplicaId) {
        let working_set = working_set as usize;
        let level = &mut self.levels[working_set];
        level.replicas.remove(replica.index());
        level.count = level.count.checked_sub(1).expect("replicas by working set balance");
        if level.count == 0 {
            self.occupied.remove(working_set);
            if working_set >= KEPT {
                level.replicas = Bits::default();
            }
        }
    }

    /// The first from a place on.
    fn from(&self, (level, id): Place) -> Option<Place> {
        if let Some(id) = self.levels.get(level)?.replicas.at_least(id) {
            return Some((level, id));
        }
        let level = self.occupied.at_least(level + 1)?;
        Some((level, self.levels[level].replicas.at_least(0).expect("an occupied level has a replica")))
    }

    /// The last before a place.
    fn before(&self, (level, id): Place) -> Option<Place> {
        if let Some(id) = self.levels.get(level).and_then(|level| level.replicas.below(id)) {
            return Some((level, id));
        }
        let level = self.occupied.below(level)?;
        Some((level, self.levels[level].replicas.below(usize::MAX).expect("an occupied level has a replica")))
    }

    /// All whose working set is in the range.
    pub(super) fn range(&self, working_sets: Range<u32>) -> Replicas<'_> {
        Replicas { levels: self, front: (working_sets.start as usize, 0), back: (working_sets.end as usize, 0) }
    }

    /// All of them.
    pub(super) fn all(&self) -> Replicas<'_> {
        Replicas { levels: self, front: (0, 0), back: (self.levels.len(), 0) }
    }
}

/// Working set and id.
type Place = (usize, usize);

/// Replicas between two places, the first included, the second not.
#[derive(Clone, Debug)]
pub(super) struct Replicas<'a> {
    levels: &'a Levels,
    front: Place,
    back: Place,
}

fn told((level, id): Place) -> (u32, ReplicaId) {
    (level as u32, ReplicaId(id as u32))
}

impl Iterator for Replicas<'_> {
    type Item = (u32, ReplicaId);

    fn next(&mut self) -> Option<(u32, ReplicaId)> {
        let place = self.levels.from(self.front).filter(|place| *place < self.back)?;
        self.front = (place.0, place.1 + 1);
        Some(told(place))
    }
}

impl DoubleEndedIterator for Replicas<'_> {
    fn next_back(&mut self) -> Option<(u32, ReplicaId)> {
        let place = self.levels.before(self.back).filter(|place| *place >= self.front)?;
        self.back = place;
        Some(told(place))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::RngExt;

    use super::*;
    use crate::random::stream;

    /// Against an ordered set, for fleets that fill a word, a summary, and more.
    #[test]
    fn levels_are_an_ordered_set() {
        let mut random = stream(7, "levels");
        for replicas in [1, 5, 64, 65, 4_096, 5_000] {
            let (mut levels, mut set) = (Levels::default(), BTreeSet::new());
            let mut at: Vec<Option<u32>> = vec![None; replicas];
            for _ in 0..3_000 {
                let id = random.random_range(0..replicas);
                let replica = ReplicaId(id as u32);
                if let Some(working_set) = at[id].take() {
                    levels.remove(working_set, replica);
                    set.remove(&(working_set, replica));
                } else {
                    let most = if random.random_ratio(1, 10) { 3_000 } else { 40 };
                    let working_set = random.random_range(0..most);
                    levels.insert(working_set, replica);
                    set.insert((working_set, replica));
                    at[id] = Some(working_set);
                }
                let (low, high) = (random.random_range(0..50), random.random_range(0..3_500));
                let inside = |&&(working_set, _): &&(u32, ReplicaId)| (low..high).contains(&working_set);
                let some = |entries: Vec<(u32, ReplicaId)>| entries.into_iter().take(5).collect::<Vec<_>>();
                let known: Vec<_> = set.iter().filter(inside).copied().collect();
                assert_eq!(levels.range(low..high).take(5).collect::<Vec<_>>(), some(known.clone()));
                let reversed: Vec<_> = known.into_iter().rev().collect();
                assert_eq!(levels.range(low..high).rev().take(5).collect::<Vec<_>>(), some(reversed));
            }
            assert_eq!(levels.all().collect::<Vec<_>>(), set.iter().copied().collect::<Vec<_>>());
            assert_eq!(levels.all().rev().collect::<Vec<_>>(), set.iter().rev().copied().collect::<Vec<_>>());
            let mut ends = levels.all();
            while ends.next().is_some() {
                ends.next_back();
            }
            assert_eq!(ends.next_back(), None);
        }
    }
}
