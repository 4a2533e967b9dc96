//! Counts of durations in buckets of equal relative width.

/// How are many durations spread? Buckets are 2^-`BITS` of their value wide; count, sum, least and largest are exact.
/// Where only counts are known (`of_counts`) least and largest are the middles of their buckets.
///
/// Values below 2^(`BITS`+1) have a bucket each. The layout is that of an HDR histogram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLinear<const BITS: u32> {
    /// The first bucket that holds something.
    first: usize,
    /// Counts from there to the last bucket that holds something.
    buckets: Vec<u64>,
    count: u64,
    sum: u128,
    min: u64,
    max: u64,
}

impl<const BITS: u32> Default for LogLinear<BITS> {
    fn default() -> Self {
        LogLinear { first: 0, buckets: Vec::new(), count: 0, sum: 0, min: u64::MAX, max: 0 }
    }
}

/// Buckets around `value` are 2 to this power wide.
fn shift_of<const BITS: u32>(value: u64) -> u32 {
    (63 - (value | 1).leading_zeros()).saturating_sub(BITS)
}

/// The bucket of `value`.
pub(crate) fn bucket_of<const BITS: u32>(value: u64) -> usize {
    let shift = shift_of::<BITS>(value);
    ((u64::from(shift) << BITS) + (value >> shift)) as usize
}

/// The least and the largest value of a bucket.
pub(crate) fn bounds_of<const BITS: u32>(bucket: usize) -> (u64, u64) {
    let bucket = bucket as u64;
    let shift = (bucket >> BITS).saturating_sub(1);
    let base = bucket - (shift << BITS);
    let low = base << shift;
    (low, low + ((1u64 << shift) - 1))
}

/// The value that stands for a bucket.
fn middle_of<const BITS: u32>(bucket: usize) -> u64 {
    let (low, high) = bounds_of::<BITS>(bucket);
    low + (high - low) / 2
}

impl<const BITS: u32> LogLinear<BITS> {
    /// Counts `value` `times` times.
    pub fn record(&mut self, value: u64, times: u64) {
        if times == 0 {
            return;
        }
        self.note(value, value, u128::from(value) * u128::from(times), times);
        self.add(bucket_of::<BITS>(value), times);
    }

    /// Counts `first + i × increment` for every `i < steps`, each `times` times, at a cost that follows the buckets touched, not the steps.
    pub fn record_affine(&mut self, first: u64, increment: u64, steps: u64, times: u64) {
        if steps == 0 || times == 0 {
            return;
        }
        let last = first + increment * (steps - 1);
        // An affine run of whole numbers has a whole sum: the product is even.
        let sum = (u128::from(first) + u128::from(last)) * u128::from(steps) / 2 * u128::from(times);
        self.note(first, last, sum, steps * times);
        self.cover(bucket_of::<BITS>(first), bucket_of::<BITS>(last));
        let (from, buckets) = (self.first, self.buckets.as_mut_slice());
        for_each_affine_bucket::<BITS>(first, increment, steps, |bucket, count| {
            buckets[bucket - from] += count * times
        });
    }

    /// Adds the counts of another histogram.
    pub fn merge(&mut self, other: &Self) {
        if other.count == 0 {
            return;
        }
        self.note(other.min, other.max, other.sum, other.count);
        self.cover(other.first, other.first + other.buckets.len() - 1);
        let offset = other.first - self.first;
        self.buckets[offset..].iter_mut().zip(&other.buckets).for_each(|(bucket, count)| *bucket += count);
    }

    /// The same counts, sum and ends in buckets that are no narrower: each of these lies within one of them.
    pub(crate) fn widened<const OTHER: u32>(&self) -> LogLinear<OTHER> {
        assert!(OTHER <= BITS, "what is told in wide buckets is not known in narrow ones");
        let mut counts = LogLinear::<OTHER>::default();
        self.nonempty().for_each(|(middle, count)| counts.record(middle, count));
        let (min, max) = (self.min, self.max);
        if self.count == 0 { counts } else { LogLinear { sum: self.sum, min, max, ..counts } }
    }

    /// The same, of one that nobody needs any more.
    pub(crate) fn absorb(&mut self, other: Self) {
        if self.count == 0 { *self = other } else { self.merge(&other) }
    }

    /// A histogram of counts from bucket `first` on, of whose values only the sum is known exactly.
    pub(crate) fn of_counts(first: usize, mut counts: Vec<u64>, sum: u128) -> Self {
        let Some(last) = counts.iter().rposition(|count| *count > 0) else { return LogLinear::default() };
        counts.truncate(last + 1);
        let empty = counts.iter().take_while(|count| **count == 0).count();
        counts.drain(..empty);
        let [min, max] = [first + empty, first + last].map(middle_of::<BITS>);
        LogLinear { first: first + empty, count: counts.iter().sum(), buckets: counts, sum, min, max }
    }

    /// How many values?
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Their sum.
    pub fn sum(&self) -> u128 {
        self.sum
    }

    /// The least value; none of an empty histogram.
    pub fn min(&self) -> Option<u64> {
        (self.count > 0).then_some(self.min)
    }

    /// The largest value; none of an empty histogram.
    pub fn max(&self) -> Option<u64> {
        (self.count > 0).then_some(self.max)
    }

    /// The nearest-rank quantile, off by at most half a bucket; at both ends the least and the largest that are known.
    pub fn quantile(&self, q: f64) -> Option<u64> {
        let rank = nearest_rank(q, self.count)?;
        if rank == 1 {
            return self.min();
        }
        if rank == self.count {
            return self.max();
        }
        let mut seen = 0;
        let place = self.buckets.iter().position(|count| {
            seen += count;
            seen >= rank
        })?;
        Some(middle_of::<BITS>(self.first + place).clamp(self.min, self.max))
    }

    /// The buckets that hold something: their middle and their count, in order.
    pub fn nonempty(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let nonempty = self.buckets.iter().enumerate().filter(|(_, count)| **count > 0);
        nonempty.map(|(place, count)| (middle_of::<BITS>(self.first + place).clamp(self.min, self.max), *count))
    }

    /// Counts into a bucket found by [`bucket_of`], without keeping the exact sum and ends up to date: [`LogLinear::note`] does.
    fn add(&mut self, bucket: usize, count: u64) {
        match self.buckets.get_mut(bucket.wrapping_sub(self.first)) {
            Some(place) => *place += count,
            None => {
                self.cover(bucket, bucket);
                self.buckets[bucket - self.first] += count;
            }
        }
    }

    /// Makes sure that there are buckets from `low` to `high`.
    fn cover(&mut self, low: usize, high: usize) {
        if self.buckets.is_empty() {
            self.first = low;
        }
        if low < self.first {
            self.buckets.splice(0..0, std::iter::repeat_n(0, self.first - low));
            self.first = low;
        }
        if high - self.first >= self.buckets.len() {
            self.buckets.resize(high - self.first + 1, 0);
        }
    }

    /// Keeps count, sum and ends up to date for values counted into buckets.
    fn note(&mut self, low: u64, high: u64, sum: u128, count: u64) {
        self.count += count;
        self.sum += sum;
        self.min = self.min.min(low);
        self.max = self.max.max(high);
    }
}

/// Calls `each(bucket, count)` for the buckets that `first + i × increment`, `i < steps`, falls into.
pub(crate) fn for_each_affine_bucket<const BITS: u32>(
    first: u64,
    increment: u64,
    steps: u64,
    mut each: impl FnMut(usize, u64),
) {
    if increment == 0 {
        return each(bucket_of::<BITS>(first), steps);
    }
    let (low, high) = bounds_of::<BITS>(bucket_of::<BITS>(first));
    if increment > (high - low) / 2 {
        // Few steps share a bucket: finding how many costs more than counting them one by one.
        let (mut value, mut left) = (first, steps);
        while left > 0 {
            let shift = shift_of::<BITS>(value);
            // Up to there buckets are equally wide.
            let last = u64::MAX >> (63 - BITS - shift);
            let base = u64::from(shift) << BITS;
            while left > 0 && value <= last {
                each((base + (value >> shift)) as usize, 1);
                value = value.saturating_add(increment);
                left -= 1;
            }
        }
        return;
    }
    // At most one less than a quotient by the increment, without a division for each bucket.
    let per_increment = u64::MAX / increment;
    let (mut bucket, mut value, mut left) = (bucket_of::<BITS>(first), first, steps);
    while left > 0 {
        let high = value | ((1u64 << shift_of::<BITS>(value)) - 1);
        let rest = high - value;
        let mut more = ((u128::from(rest) * u128::from(per_increment)) >> 64) as u64;
        more += u64::from((more + 1) * increment <= rest);
        let here = (more + 1).min(left);
        each(bucket, here);
        left -= here;
        value += here * increment;
        bucket += 1;
    }
}

/// The rank, from 1, of the nearest-rank quantile `q` of `count` values; none of no values.
pub(crate) fn nearest_rank(q: f64, count: u64) -> Option<u64> {
    if count == 0 {
        return None;
    }
    // A quantile such as 0.99 × 100 must be 99, not 100 for a rounding error above 99.
    let exact = q * count as f64;
    Some(((exact - exact.abs() * 1e-12).ceil() as u64).clamp(1, count))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn buckets_tile_the_whole_range_and_are_never_too_wide() {
        for value in (0..64).flat_map(|bit| [1u64 << bit, (1 << bit) + 1, (1 << bit) - 1]).chain([u64::MAX, 0]) {
            let (low, high) = bounds_of::<11>(bucket_of::<11>(value));
            assert!(low <= value && value <= high, "{value}: {low}..={high}");
            assert!((high - low) as f64 <= low as f64 * 0.0005, "{low}..={high}");
            if high < u64::MAX {
                assert_eq!(bucket_of::<11>(high + 1), bucket_of::<11>(high) + 1);
            }
        }
    }

    proptest! {
        #[test]
        fn an_affine_run_counts_the_same_as_its_values_one_by_one(
            first in 0u64..1 << 40, increment in 0u64..1 << 30, steps in 1u64..400, times in 1u64..40,
        ) {
            let (mut run, mut single) = (LogLinear::<11>::default(), LogLinear::<11>::default());
            run.record_affine(first, increment, steps, times);
            (0..steps).for_each(|i| single.record(first + i * increment, times));
            prop_assert_eq!(run, single);
        }

        #[test]
        fn a_quantile_is_within_half_a_bucket_of_the_exact_one(
            mut values in prop::collection::vec(0u64..1 << 45, 1..300), q in 0.0f64..=1.0,
        ) {
            let mut histogram = LogLinear::<11>::default();
            values.iter().for_each(|value| histogram.record(*value, 1));
            values.sort_unstable();
            let exact = values[nearest_rank(q, values.len() as u64).unwrap() as usize - 1];
            let found = histogram.quantile(q).unwrap();
            prop_assert!(found.abs_diff(exact) as f64 <= exact as f64 * 0.00025 + 1.0, "{} {}", found, exact);
            prop_assert_eq!(histogram.sum(), values.iter().map(|v| u128::from(*v)).sum::<u128>());
        }
    }
}
