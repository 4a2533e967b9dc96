//! How often does each bucket occur in a part of a log? Asked of thousands of parts of the same log.

use std::ops::Range;

use super::{BUCKET_BITS, BUCKET_MASK, GROUP_BITS};

/// Sums are noted every so many entries of a log, or less often: there are no more than so many.
const EVERY: usize = 16;
const SUMS_MAX: usize = 1 << 12;
/// Sums are of so many buckets side by side, a quarter of an octave: most gaps are of steps that decode, all of about one length.
pub(super) const WINDOW: usize = 1 << (GROUP_BITS - 2);

/// The counts of a log up to every so many of its entries: what lies between two of them is a difference, bucket by bucket.
pub(super) struct Sums {
    buckets: Range<usize>,
    every: usize,
    /// The first bucket of the window.
    window: usize,
    /// One for each multiple of `every`; empty until they are asked for.
    sums: Vec<Sum>,
    /// The entries of the log whose buckets are not in the window.
    outside: Vec<u32>,
    /// How many come and go with each entry; zeros.
    changes: Vec<i32>,
}

/// What comes before some entry.
#[derive(Clone, Copy)]
struct Sum {
    /// May go around: nobody is there for 2^32 gaps.
    counts: [u32; WINDOW],
    /// Entries outside of the window.
    outside: u32,
}

impl Sums {
    /// For logs in whose entries these buckets occur, at least [`WINDOW`].
    pub(super) fn new(buckets: Range<usize>) -> Sums {
        let window = buckets.start;
        Sums { buckets, every: EVERY, window, sums: Vec::new(), outside: Vec::new(), changes: Vec::new() }
    }

    /// The next log has so many entries. Of one that is shorter than its buckets are many no sums are made: finding the window would cost more.
    pub(super) fn begin(&mut self, entries: usize) {
        let is_short = entries < self.buckets.len();
        self.every = if is_short { entries + 1 } else { EVERY.max(entries.div_ceil(SUMS_MAX)) };
        self.sums.clear();
    }

    /// What it takes to count a part, in entries read.
    pub(super) fn entries_read(&self, part: Range<usize>) -> usize {
        part.len().min(self.every + WINDOW / 4 + part.len() / 16)
    }

    /// Adds how often each bucket occurs in a part of the log.
    pub(super) fn add(&mut self, log: &[u32], part: Range<usize>, counts: &mut [u64]) {
        let (first, last) = (part.start.div_ceil(self.every), part.end / self.every);
        if self.entries_read(part.clone()) == part.len() || first >= last {
            return self.read(&log[part], counts);
        }
        if self.sums.is_empty() {
            self.note(log);
        }
        let (before, after) = (&self.sums[first], &self.sums[last]);
        let window = &mut counts[self.window - self.buckets.start..][..WINDOW];
        for ((count, before), after) in window.iter_mut().zip(&before.counts).zip(&after.counts) {
            *count += u64::from(after.wrapping_sub(*before));
        }
        self.read(&self.outside[before.outside as usize..after.outside as usize], counts);
        self.read(&log[part.start..first * self.every], counts);
        self.read(&log[last * self.every..part.end], counts);
    }

    /// The same for all of these parts, at a cost that follows the log and not the parts.
    pub(super) fn cover(&mut self, log: &[u32], parts: impl Iterator<Item = Range<usize>>, counts: &mut [u64]) {
        self.changes.resize(log.len() + 1, 0);
        for part in parts {
            self.changes[part.start] += 1;
            self.changes[part.end] -= 1;
        }
        let mut there = 0;
        for (entry, change) in log.iter().zip(&self.changes) {
            there += change;
            let (bucket, count) = bucket_and_count(entry);
            counts[bucket - self.buckets.start] += there as u64 * count;
        }
        self.changes.clear();
    }

    fn read(&self, entries: &[u32], counts: &mut [u64]) {
        for (bucket, count) in entries.iter().map(bucket_and_count) {
            counts[bucket - self.buckets.start] += count;
        }
    }

    fn note(&mut self, log: &[u32]) {
        self.window = self.fullest(log);
        self.outside.clear();
        let mut sum = Sum { counts: [0; WINDOW], outside: 0 };
        self.sums.push(sum);
        for entries in log.chunks_exact(self.every) {
            for entry in entries {
                let (bucket, count) = bucket_and_count(entry);
                match sum.counts.get_mut(bucket.wrapping_sub(self.window)) {
                    Some(sum) => *sum = sum.wrapping_add(count as u32),
                    None => self.outside.push(*entry),
                }
            }
            sum.outside = self.outside.len() as u32;
            self.sums.push(sum);
        }
    }

    /// Where does the window begin that has the most entries?
    fn fullest(&self, log: &[u32]) -> usize {
        let mut entries = vec![0usize; self.buckets.len()];
        log.iter().for_each(|entry| entries[bucket_and_count(entry).0 - self.buckets.start] += 1);
        let mut inside: usize = entries[..WINDOW].iter().sum();
        let (mut most, mut window) = (inside, 0);
        for first in 1..=entries.len() - WINDOW {
            inside = inside + entries[first + WINDOW - 1] - entries[first - 1];
            if inside > most {
                (most, window) = (inside, first);
            }
        }
        self.buckets.start + window
    }
}

/// Which bucket an entry of a log counts to, and how often.
pub(super) fn bucket_and_count(entry: &u32) -> (usize, u64) {
    ((entry & BUCKET_MASK) as usize, u64::from(entry >> BUCKET_BITS))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::recorder::group_gaps::COUNT_MAX;

    proptest! {
        #[test]
        fn a_part_counts_the_same_entry_by_entry_by_sums_and_covered(
            entries in prop::collection::vec((1000u32..1300, 1u32..1 << 17), 1..900),
            ends in prop::collection::vec((0usize..900, 0usize..900), 1..20),
        ) {
            let log: Vec<u32> = entries.iter().map(|(bucket, count)| count << BUCKET_BITS | bucket).collect();
            let mut sums = Sums::new(1000..1300);
            sums.begin(log.len());
            let parts = ends.iter().map(|&(one, other)| one.min(other).min(log.len())..one.max(other).min(log.len()));
            let (mut by_sums, mut by_entry) = ([0; 300], [0; 300]);
            for part in parts.clone() {
                sums.add(&log, part.clone(), &mut by_sums);
                entries[part].iter().for_each(|&(bucket, count)| by_entry[bucket as usize - 1000] += u64::from(count));
            }
            prop_assert_eq!(by_sums, by_entry);
            for _ in 0..2 {
                let mut covered = [0; 300];
                sums.cover(&log, parts.clone(), &mut covered);
                prop_assert_eq!(covered, by_entry);
            }
        }
    }

    #[test]
    fn a_part_in_whose_middle_a_sum_goes_around_counts_what_is_in_it() {
        let log = vec![COUNT_MAX << BUCKET_BITS | 1000; 33_000];
        let (part, mut sums, mut counts) = (32_500..33_000, Sums::new(1000..1000 + WINDOW), [0; WINDOW]);
        let before = |entry: usize| entry as u64 * u64::from(COUNT_MAX);
        assert!(before(part.start) < 1 << 32 && before(part.end) > 1 << 32);
        sums.begin(log.len());
        assert!(sums.entries_read(part.clone()) < part.len(), "it is counted by sums");
        sums.add(&log, part, &mut counts);
        assert_eq!(counts[0], before(500));
    }
}
