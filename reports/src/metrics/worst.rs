//! Which groups fare worst?

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::groups::{Grouped, Sums};
use crate::histogram::nearest_rank;
use crate::recorder::{Kept, NONE};

/// So many of the worst.
const WORST: usize = 5;

/// The groups with the lowest attainment, while their times are counted.
pub(crate) struct Worst<'a> {
    of: &'a Grouped,
    /// Groups that are not beyond the limit, those with the most requests first.
    candidates: Vec<u32>,
    place_of: Vec<u32>,
    longest: Vec<Longest>,
}

/// The longest of the times to first token of a group, as many as it takes to know the 99th percentile of all.
struct Longest {
    times: BinaryHeap<Reverse<u64>>,
    keep: usize,
    count: u64,
}

impl Longest {
    fn count(&mut self, ttft: u64) {
        self.count += 1;
        if self.times.len() < self.keep {
            self.times.push(Reverse(ttft));
        } else if let Some(mut least) = self.times.peek_mut()
            && least.0 < ttft
        {
            *least = Reverse(ttft);
        }
    }

    fn p99(self) -> Option<u64> {
        let rank = nearest_rank(0.99, self.count)?;
        // In order of `Reverse`: the longest first.
        let longest = self.times.into_sorted_vec();
        longest.get((self.count - rank) as usize).map(|Reverse(ttft)| *ttft)
    }
}

impl<'a> Worst<'a> {
    pub(crate) fn new(of: &'a Grouped) -> Worst<'a> {
        let mut attainments: Vec<f64> = of.each().map(Sums::attainment).collect();
        attainments.sort_by(f64::total_cmp);
        let limit = attainments.get(WORST - 1).or(attainments.last()).copied().unwrap_or(0.0);
        // Those beyond the limit are not among the worst, whatever their times.
        let candidates: Vec<u32> = of.ranked().iter().copied().filter(|id| of.of(*id).attainment() <= limit).collect();
        let mut place_of = vec![NONE; of.len()];
        for (place, id) in (0..).zip(&candidates) {
            place_of[*id as usize] = place;
        }
        let longest =
            |id: &u32| Longest { times: BinaryHeap::new(), keep: of.of(*id).offered as usize / 100 + 2, count: 0 };
        Worst { of, longest: candidates.iter().map(longest).collect(), candidates, place_of }
    }

    /// A measured request of group `id`; [`NONE`] is no group.
    pub(crate) fn count(&mut self, id: u32, request: &Kept) {
        let place = self.place_of.get(id as usize).copied().unwrap_or(NONE);
        if let (Some(longest), Some(ttft)) = (self.longest.get_mut(place as usize), request.ttft()) {
            longest.count(ttft);
        }
    }

    /// The five with the lowest attainment, then the highest TTFT p99, then the most requests.
    pub(crate) fn choose(self) -> Vec<u32> {
        let of = self.of;
        let all = self.candidates.into_iter().zip(self.longest);
        let mut ranked: Vec<(f64, u64, u32)> =
            all.map(|(id, longest)| (of.of(id).attainment(), longest.p99().unwrap_or(u64::MAX), id)).collect();
        ranked.sort_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)));
        ranked.into_iter().take(WORST).map(|(_, _, id)| id).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_longest_tell_the_percentile_of_all(times in prop::collection::vec(0u64..500, 0..900), missing in 0usize..300) {
            let keep = (times.len() + missing) / 100 + 2;
            let mut longest = Longest { times: BinaryHeap::new(), keep, count: 0 };
            times.iter().for_each(|time| longest.count(*time));
            let mut sorted = times.clone();
            sorted.sort_unstable();
            let known = nearest_rank(0.99, times.len() as u64).map(|rank| sorted[rank as usize - 1]);
            prop_assert_eq!(longest.p99(), known);
        }
    }
}
