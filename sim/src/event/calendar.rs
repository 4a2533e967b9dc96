//! Numbers in order, of which the high bits are a time: those of the day at hand in a heap, later ones day by day.
//!
//! A heap of all that is to come would be read at a dozen places far apart for each event. Here most events wait in the unsorted
//! list of their day and are put in order, with the few others of it, when the day comes.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A day is this power of two, in picoseconds, long: 4.3 ms, about a step or less.
const DAY: u32 = 32;
/// Days with lists of their own; beyond them one heap serves, as it does for few.
const DAYS: usize = 1024;

/// Keys with the time, ps, in their high 64 bits.
#[derive(Debug)]
pub(super) struct Calendar {
    /// All of today and before.
    today: BinaryHeap<Reverse<u128>>,
    day: u64,
    /// Of the days after today, by day modulo their number; none is as far ahead as that.
    days: Vec<Vec<Reverse<u128>>>,
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
            today: BinaryHeap::new(),
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
            self.today.push(Reverse(key));
        } else if ahead < DAYS as u64 {
            let place = day(key) as usize % DAYS;
            self.days[place].push(Reverse(key));
            self.filled[place / 64] |= 1 << (place % 64);
        } else {
            self.later.push(Reverse(key));
        }
    }

    /// The least key, if its day is that of `until_ps` or before.
    pub(super) fn peek(&mut self, until_ps: u64) -> Option<u128> {
        if self.today.is_empty() {
            self.turn(until_ps >> DAY);
        }
        self.today.peek().map(|Reverse(key)| *key)
    }

    /// The next keys of today: the least first, then, in no order, those of which one will follow it, as far as is known now.
    pub(super) fn coming(&self) -> impl Iterator<Item = u128> + '_ {
        self.today.as_slice().iter().take(3).map(|Reverse(key)| *key)
    }

    /// Takes the key that was peeked at.
    pub(super) fn pop(&mut self) -> Option<u128> {
        self.today.pop().map(|Reverse(key)| key)
    }

    /// Today is over: the next day with keys is today, if it is not after `last`. A day too early would gather all that is to come
    /// before it.
    fn turn(&mut self, last: u64) {
        let near = self.next_filled();
        let far = self.later.peek().map(|Reverse(key)| day(*key));
        let Some(next) = near.into_iter().chain(far).min().filter(|next| *next <= last) else { return };
        self.day = next;
        if near == Some(next) {
            let place = next as usize % DAYS;
            self.filled[place / 64] &= !(1 << (place % 64));
            // The lists change hands, so that none is made anew.
            let empty = std::mem::take(&mut self.today).into_vec();
            self.today = std::mem::replace(&mut self.days[place], empty).into();
        }
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
