//! One link, which copies one adapter after the other.

use crate::settings::Link;
use crate::time::Time;

/// A link's reservations from now on, in order of time: whoever is ready takes the first gap. Copies that follow at once are one.
#[derive(Debug)]
pub(super) struct Lane {
    link: Link,
    reserved: Vec<(Time, Time)>,
}

impl Lane {
    pub(super) fn new(link: Link) -> Lane {
        Lane { link, reserved: Vec::new() }
    }

    /// Takes memory for so many copies at a time.
    pub(super) fn expect(&mut self, copies: usize) {
        self.reserved.reserve(copies);
    }

    /// Takes the first gap from `earliest` on that holds a copy of `bytes`: when it begins and when it is done.
    pub(super) fn reserve(&mut self, now: Time, earliest: Time, bytes: u64) -> (Time, Time) {
        self.reserved.retain(|&(_, end)| end > now);
        let duration = self.link.duration(bytes);
        let mut start = earliest;
        let mut position = self.reserved.len();
        for (i, &(begin, end)) in self.reserved.iter().enumerate() {
            if start + duration <= begin {
                position = i;
                break;
            }
            start = start.max(end);
        }
        let end = start + duration;
        match position.checked_sub(1).map(|before| &mut self.reserved[before].1) {
            Some(before) if *before == start && end > start => *before = end,
            _ => self.reserved.insert(position, (start, end)),
        }
        (start, end)
    }
}
