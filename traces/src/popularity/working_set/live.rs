//! Sessions that may go on, in the order of their last use.

/// Whose session it is, and with which adapter it goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Session {
    pub(super) tenant: u32,
    pub(super) adapter: u32,
}

/// Live sessions by last use: one list, because a session that is used becomes the last of it. Where it was it leaves a gap; gaps
/// are closed once they are as many as the sessions, so that memory follows those that live.
#[derive(Debug, Default)]
pub(super) struct Live {
    /// Last uses, ps, never decreasing.
    used: Vec<(u64, Session)>,
    /// A bit for each of them: does it live, or has it left a gap? Gaps come in long runs, at the ages at which sessions go on.
    bits: Vec<u64>,
    /// And a bit for each word of those that is not zero.
    words: Vec<u64>,
    /// The last use of the first of each 64: to find an instant is to read few lines of memory.
    begins: Vec<u64>,
    /// All before it are over.
    first: usize,
    count: usize,
}

impl Live {
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn lives(&self, position: usize) -> bool {
        self.bits[position / 64] >> (position % 64) & 1 == 1
    }

    /// Sessions that were last used before `oldest_ps` are over.
    pub(super) fn expire(&mut self, oldest_ps: u64) {
        while let Some((at, _)) = self.used.get(self.first)
            && *at < oldest_ps
        {
            self.count -= usize::from(self.lives(self.first));
            self.first += 1;
        }
    }

    /// The session is used at `now_ps`, later than any other was.
    pub(super) fn push(&mut self, now_ps: u64, session: Session) {
        if self.used.len() == self.used.capacity() {
            self.make_place();
        }
        let position = self.used.len();
        self.used.push((now_ps, session));
        self.mark(position);
        self.count += 1;
    }

    /// The position, one beyond the last, lives.
    fn mark(&mut self, position: usize) {
        let word = position / 64;
        self.bits.resize(word + 1, 0);
        self.words.resize(word / 64 + 1, 0);
        self.bits[word] |= 1 << (position % 64);
        self.words[word / 64] |= 1 << (word % 64);
        if position.is_multiple_of(64) {
            self.begins.push(self.used[position].0);
        }
    }

    /// The first that was used at `at_ps` or later, of those that are not over.
    fn place(&self, at_ps: u64) -> usize {
        // In the last 64 that begin before it, or at the begin of those that follow.
        let (from, after) = match near(&self.begins, |begin| *begin, at_ps) {
            0 => (0, 0),
            word => ((word - 1) * 64, (word * 64).min(self.used.len())),
        };
        (from + near(&self.used[from..after], |(at, _)| *at, at_ps)).max(self.first)
    }

    fn make_place(&mut self) {
        if 2 * self.count > self.used.len() {
            self.used.reserve_exact(self.used.len() / 2 + 64);
            return;
        }
        let mut kept = 0;
        for position in self.first..self.used.len() {
            if self.lives(position) {
                self.used[kept] = self.used[position];
                kept += 1;
            }
        }
        self.used.truncate(kept);
        self.used.reserve_exact(64);
        self.bits.clear();
        self.words.clear();
        self.begins.clear();
        (0..kept).for_each(|position| self.mark(position));
        self.first = 0;
    }

    /// The last that lives before `position`, of those that are not over.
    fn before(&self, position: usize) -> Option<usize> {
        let below = |words: &[u64], place: usize| {
            let bits = words.get(place / 64).map_or(0, |bits| bits & !(u64::MAX << (place % 64)));
            (bits != 0).then(|| place / 64 * 64 + 63 - bits.leading_zeros() as usize)
        };
        let last = |words: &[u64], word: usize| word * 64 + 63 - words[word].leading_zeros() as usize;
        let far = |word: usize| {
            let word = below(&self.words, word).or_else(|| {
                let least = self.first / 4096;
                let group = (least..word / 64).rev().find(|&group| self.words[group] != 0)?;
                Some(last(&self.words, group))
            })?;
            Some(last(&self.bits, word))
        };
        below(&self.bits, position).or_else(|| far(position / 64)).filter(|found| *found >= self.first)
    }

    /// The first that lives from `position` on.
    fn from(&self, position: usize) -> Option<usize> {
        let at_least = |words: &[u64], place: usize| {
            let bits = words.get(place / 64)? & (u64::MAX << (place % 64));
            (bits != 0).then(|| place / 64 * 64 + bits.trailing_zeros() as usize)
        };
        let first = |words: &[u64], word: usize| word * 64 + words[word].trailing_zeros() as usize;
        let far = |word: usize| {
            let word = at_least(&self.words, word).or_else(|| {
                let group = (word / 64 + 1..self.words.len()).find(|&group| self.words[group] != 0)?;
                Some(first(&self.words, group))
            })?;
            Some(first(&self.bits, word))
        };
        at_least(&self.bits, position).or_else(|| far(position / 64 + 1))
    }

    /// Takes out the session whose last use is nearest to an instant; the earlier one of two alike. None if nobody lives.
    pub(super) fn take_nearest(&mut self, at_ps: u64) -> Option<Session> {
        let place = self.place(at_ps);
        // Of sessions used at the same instant, the latest of those before and the first of those after.
        let position = match (self.before(place), self.from(place)) {
            (Some(before), Some(after)) if at_ps - self.used[before].0 <= self.used[after].0 - at_ps => before,
            (before, after) => after.or(before)?,
        };
        self.count -= 1;
        let word = position / 64;
        self.bits[word] &= !(1 << (position % 64));
        if self.bits[word] == 0 {
            self.words[word / 64] &= !(1 << (word % 64));
        }
        Some(self.used[position].1)
    }
}

/// How many of these, in order of time, are before `at_ps`? Uses come about evenly: where one is looked for is guessed from the first
/// and the last, and it is not far from there.
fn near<T>(all: &[T], time: impl Fn(&T) -> u64, at_ps: u64) -> usize {
    let (Some(first), Some(last)) = (all.first().map(&time), all.last().map(&time)) else { return 0 };
    if at_ps <= first {
        return 0;
    }
    if at_ps > last {
        return all.len();
    }
    let share = (at_ps - first) as f64 / (last - first) as f64;
    let guess = ((share * (all.len() - 1) as f64) as usize).min(all.len() - 1);
    let is_before = |position: usize| time(&all[position]) < at_ps;
    // Twice as far with each look, until it is between two of them.
    let mut reach = 1;
    let (low, high) = if is_before(guess) {
        let mut low = guess;
        while low + reach < all.len() && is_before(low + reach) {
            low += reach;
            reach *= 2;
        }
        (low + 1, (low + reach).min(all.len()))
    } else {
        let mut high = guess;
        while high >= reach && !is_before(high - reach) {
            high -= reach;
            reach *= 2;
        }
        (high.saturating_sub(reach), high)
    };
    low + all[low..high].partition_point(|each| time(each) < at_ps)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn session(tenant: u32) -> Session {
        Session { tenant, adapter: 0 }
    }

    #[test]
    fn the_nearest_is_the_earlier_of_two_alike_and_the_latest_of_those_at_one_instant() {
        let mut live = Live::default();
        for (at, tenant) in [(10, 0), (10, 1), (20, 2), (30, 3)] {
            live.push(at, session(tenant));
        }
        assert_eq!(live.take_nearest(15), Some(session(1)), "10 and 20 are as near");
        assert_eq!(live.take_nearest(16), Some(session(2)));
        assert_eq!(live.take_nearest(99), Some(session(3)));
        assert_eq!(live.take_nearest(0), Some(session(0)));
        assert_eq!(live.take_nearest(0), None);
    }

    #[test]
    fn how_many_are_before_an_instant_is_found_however_unevenly_they_come() {
        let mut times = vec![3_u64, 3, 4, 5, 5, 5, 6, 7, 100, 101, 1 << 40];
        times.extend((0..50).map(|i| (1 << 41) + i * i));
        for from in 0..times.len() {
            for to in from..times.len() {
                let all = &times[from..to];
                for at in all.iter().flat_map(|at| [at - 1, *at, at + 1]).chain([0, u64::MAX]) {
                    assert_eq!(near(all, |at| *at, at), all.partition_point(|each| *each < at), "{at} in {all:?}");
                }
            }
        }
    }

    /// Against an ordered map, through thousands of uses, gaps and ends.
    #[test]
    fn sessions_come_and_go_as_in_an_ordered_map() {
        let (mut live, mut map) = (Live::default(), BTreeMap::new());
        let mut state = 1_u64;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        let (mut now, mut most) = (0, 0);
        for serial in 0..20_000_u64 {
            now += random(3);
            let oldest = now.saturating_sub(400);
            live.expire(oldest);
            map.retain(|&(at, _), _| at >= oldest);
            assert_eq!(live.is_empty(), map.is_empty());
            if !map.is_empty() && random(4) > 0 {
                let at = now.saturating_sub(random(450));
                let before = map.range(..(at, 0)).next_back().map(|(key, _): (&(u64, u64), _)| *key);
                let after = map.range((at, 0)..).next().map(|(key, _)| *key);
                let key = match (before, after) {
                    (Some(before), Some(after)) if at - before.0 <= after.0 - at => before,
                    (before, after) => after.or(before).unwrap(),
                };
                assert_eq!(live.take_nearest(at), map.remove(&key));
            }
            live.push(now, session(serial as u32));
            map.insert((now, serial), session(serial as u32));
            most = most.max(map.len());
            assert!(live.used.capacity() <= 4 * most + 128, "{} for {most}", live.used.capacity());
        }
    }
}
