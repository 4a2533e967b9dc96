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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Span;

    /// Against all reservations ever made, each for itself: copies that follow at once are one, and everybody gets the same gap.
    #[test]
    fn whoever_is_ready_takes_the_first_gap() {
        let mut state = 11_u64;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        let mut lane = Lane::new(Link { latency: Span::from_ps(3), bytes_per_second: Some(1_000_000_000_000) });
        let mut all: Vec<(Time, Time)> = Vec::new();
        let mut now = 0;
        for _ in 0..2_000 {
            now += random(3) * random(40);
            let (earliest, bytes) = (Time::from_ps(now + random(2) * random(200)), random(5) * 10);
            let duration = lane.link.duration(bytes);
            let free = |start: Time| all.iter().all(|&(begin, end)| start + duration <= begin || end <= start);
            let starts = all.iter().map(|&(_, end)| end).filter(|end| *end > earliest).chain([earliest]);
            let start = starts.filter(|start| free(*start)).min().expect("after all others there is room");
            let taken = (start, start + duration);
            assert_eq!(lane.reserve(Time::from_ps(now), earliest, bytes), taken);
            assert!(lane.reserved.windows(2).all(|pair| pair[0].1 <= pair[1].0), "in order of time");
            all.push(taken);
        }
    }
}
