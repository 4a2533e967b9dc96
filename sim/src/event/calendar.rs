//! Numbers in order, of which the high bits are a time: those of the day at hand sorted, later ones day by day.
//!
//! A heap of all that is to come would be read at a dozen places far apart for each event. Here most events wait in the unsorted
//! list of their day and are put in order, with the few others of it, when the day comes.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A day is this power of two, in picoseconds, long: 4.3 ms, about a step or less.
const DAY: u32 = 32;
/// Days with lists of their own; beyond them one heap serves, as it does for few.
const DAYS: usize = 1024;

/// Tomorrow is put in order when today has fewer keys left than this, so that the next ones are always known.
const KNOWN: usize = 20;

/// Keys with the time, ps, in their high 64 bits.
#[derive(Debug)]
pub(super) struct Calendar {
    /// Keys of today and before in order, the least last.
    today: Vec<u128>,
    /// Those that came when the list was in order already.
    late: BinaryHeap<Reverse<u128>>,
    /// Was the last key that was taken one of the list?
    moved: bool,
    day: u64,
    /// Of the days after today, by day modulo their number; none is as far ahead as that.
    days: Vec<Vec<u128>>,
    /// Which lists have keys.
    filled: [u64; DAYS / 64],
    later: BinaryHeap<Reverse<u128>>,
}

fn day(key: u128) -> u64 {
    (key >> 64) as u64 >> DAY
}

impl Default for Calendar {
    fn default() -> Calendar {
        Calendar {
            today: Vec::new(),
            late: BinaryHeap::new(),
            moved: false,
            day: 0,
            days: vec![Vec::new(); DAYS],
            filled: [0; DAYS / 64],
            later: BinaryHeap::new(),
        }
    }
}

impl Calendar {
    pub(super) fn push(&mut self, key: u128) {
        let ahead = day(key).saturating_sub(self.day);
        if ahead == 0 {
            self.late.push(Reverse(key));
        } else if ahead < DAYS as u64 {
            let place = day(key) as usize % DAYS;
            self.days[place].push(key);
            self.filled[place / 64] |= 1 << (place % 64);
        } else {
            self.later.push(Reverse(key));
        }
    }

    /// The least key, if its day is that of `until_ps` or before.
    pub(super) fn peek(&mut self, until_ps: u64) -> Option<u128> {
        if self.today.is_empty() && self.late.is_empty() {
            self.turn(until_ps >> DAY);
        }
        self.least()
    }

    fn least(&self) -> Option<u128> {
        match (self.today.last(), self.late.peek()) {
            (Some(&listed), Some(&Reverse(late))) => Some(listed.min(late)),
            (Some(&listed), None) => Some(listed),
            (None, late) => late.map(|Reverse(late)| *late),
        }
    }

    /// The key that comes after `count` others, as far as is known now.
    pub(super) fn after(&self, count: usize) -> Option<u128> {
        self.today.len().checked_sub(count + 1).map(|position| self.today[position])
    }

    /// Has the last key that was taken moved those of [`Calendar::after`] on by one?
    pub(super) fn moved(&self) -> bool {
        self.moved
    }

    /// Takes the key that was peeked at.
    pub(super) fn pop(&mut self) -> Option<u128> {
        let least = self.least()?;
        self.moved = self.today.last() == Some(&least);
        if !self.moved {
            self.late.pop();
            return Some(least);
        }
        self.today.pop();
        if self.today.len() < KNOWN && self.is_filled(self.day + 1) {
            self.add_day(self.day + 1);
        }
        Some(least)
    }

    /// Today is over: the next day with keys is today, if it is not after `last`. A day too early would gather all that is to come
    /// before it.
    fn turn(&mut self, last: u64) {
        let near = self.next_filled();
        let far = self.later.peek().map(|Reverse(key)| day(*key));
        let Some(next) = near.into_iter().chain(far).min().filter(|next| *next <= last) else { return };
        if near == Some(next) {
            return self.add_day(next);
        }
        self.day = next;
        self.fetch_later();
    }

    fn is_filled(&self, day: u64) -> bool {
        let place = day as usize % DAYS;
        self.filled[place / 64] & (1 << (place % 64)) != 0
    }

    /// The next day that has a list belongs to today.
    fn add_day(&mut self, next: u64) {
        self.day = next;
        let place = next as usize % DAYS;
        self.filled[place / 64] &= !(1 << (place % 64));
        // The lists change hands, so that none is made anew.
        let mut list = std::mem::take(&mut self.days[place]);
        list.sort_unstable_by_key(|key| Reverse(*key));
        list.append(&mut self.today);
        self.days[place] = std::mem::replace(&mut self.today, list);
        self.fetch_later();
    }

    /// Puts what is no longer far ahead on the list of its day.
    fn fetch_later(&mut self) {
        while let Some(Reverse(key)) = self.later.peek()
            && day(*key) - self.day < DAYS as u64
        {
            let key = *key;
            self.later.pop();
            self.push(key);
        }
    }

    /// The first day after today that has a list with keys.
    fn next_filled(&self) -> Option<u64> {
        let today = self.day as usize % DAYS;
        let words = self.filled.len();
        // From the bit after today's round to it again: the first word is looked at twice, for its high and for its low bits.
        let from = (today + 1) % DAYS;
        (0..=words).find_map(|turned| {
            let word = (from / 64 + turned) % words;
            let mask = match turned {
                0 => u64::MAX << (from % 64),
                turned if turned == words => !(u64::MAX << (from % 64)),
                _ => u64::MAX,
            };
            let bits = self.filled[word] & mask;
            let place = word * 64 + bits.trailing_zeros() as usize;
            (bits != 0).then(|| self.day + ((place + DAYS - today) % DAYS) as u64)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against a heap: near and far, in bursts and in gaps of many days, asked with and without a bound.
    #[test]
    fn a_calendar_is_a_heap() {
        let mut state = 3_u64;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 24) % below
        };
        let (mut calendar, mut heap) = (Calendar::default(), BinaryHeap::new());
        let mut now = 0_u64;
        for serial in 0..60_000_u64 {
            let spread = [1 << 20, 1 << 33, 1 << 40, 1 << 46][random(4) as usize];
            for _ in 0..random(3) {
                let key = u128::from(now + random(spread)) << 64 | u128::from(serial);
                calendar.push(key);
                heap.push(Reverse(key));
            }
            let until = now + random(1 << 42);
            let least = heap.peek().map(|Reverse(key)| *key);
            let seen = calendar.peek(until);
            if seen != least {
                assert!(
                    seen.is_none() && least.is_some_and(|key| (key >> 64) as u64 > until),
                    "what comes by then is seen"
                );
                continue;
            }
            if let Some(key) = least {
                now = (key >> 64) as u64;
                heap.pop();
                assert_eq!(calendar.pop(), Some(key));
            }
        }
        while let Some(Reverse(key)) = heap.pop() {
            assert_eq!((calendar.peek(u64::MAX), calendar.pop()), (Some(key), Some(key)));
        }
        assert_eq!(calendar.peek(u64::MAX), None);
    }
}
