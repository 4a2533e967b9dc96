//! Quantities over time in a bounded number of equal bins, for runs whose length nobody knows beforehand.

/// More bins than this are merged in pairs.
const BINS_MAX: usize = 512;
/// Where bins start: a millisecond each.
const WIDTH_START_PS: u64 = 1_000_000_000;

/// How much in each stretch of time? Several series over the same bins.
///
/// All series share one bin width, which doubles whenever the run outgrows the bins: totals stay exact. What all series have in one bin
/// lies together: at any time a run looks at one or two bins of many series. A level that lasts for many bins is put down where it begins
/// and where it ends.
#[derive(Clone, Debug)]
pub(crate) struct TimeBins {
    width: u64,
    /// How many series.
    series: usize,
    /// Bin by bin, the series of each.
    amounts: Vec<u128>,
    /// By how much levels change with each bin, wrapping, laid out as the amounts: what they amount to over whole bins is not among those
    /// yet. Shorter where no level changed.
    changes: Vec<u64>,
    /// Bins that each series has something in, or before something in it.
    lens: Vec<u32>,
    /// The bin that was looked up last and where it begins: time goes on slowly, and a division is dear.
    last: (usize, u64),
}

impl TimeBins {
    pub(crate) fn new(series: usize) -> TimeBins {
        TimeBins {
            width: WIDTH_START_PS,
            series,
            amounts: Vec::new(),
            changes: Vec::new(),
            lens: vec![0; series],
            last: (0, 0),
        }
    }

    /// Adds `amount` at the instant `at`.
    pub(crate) fn count(&mut self, series: usize, at: u64, amount: u128) {
        let bin = self.bin(at);
        self.add(series, bin, amount);
    }

    /// Adds `level` times the time spent in each bin between two instants.
    pub(crate) fn integrate(&mut self, series: usize, from: u64, to: u64, level: u64) {
        if to <= from || level == 0 {
            return;
        }
        let last = self.bin(to - 1);
        let begins = self.last.1;
        self.add(series, last, u128::from(to - from.max(begins)) * u128::from(level));
        if from < begins {
            self.integrate_before(series, from, last, level);
        }
    }

    /// The same up to the beginning of bin `until`.
    fn integrate_before(&mut self, series: usize, from: u64, until: usize, level: u64) {
        let first = (from / self.width) as usize;
        let ends = (first as u64 + 1) * self.width;
        self.amounts[first * self.series + series] += u128::from(ends - from) * u128::from(level);
        if first + 1 < until {
            self.change(series, first + 1, level);
            self.change(series, until, level.wrapping_neg());
        }
    }

    /// Spreads `amount` evenly over the time between two instants, to the last unit.
    pub(crate) fn spread(&mut self, series: usize, from: u64, to: u64, amount: u64) {
        if to <= from {
            return self.count(series, from, amount.into());
        }
        let last = self.bin(to - 1);
        let mut left = amount;
        if from < self.last.1 {
            left -= self.spread_before(series, (from, to - from), last, amount);
        }
        self.add(series, last, left.into());
    }

    /// Puts down what falls into the bins before `until` of an amount that is spread over some time from an instant on, and gives it. By
    /// the end of each bin it is all that is due by then, rounded down: a bin's share and its remainder carry over, and are divided once.
    fn spread_before(&mut self, series: usize, (from, length): (u64, u64), until: usize, amount: u64) -> u64 {
        let first = (from / self.width) as usize;
        let ends = (first as u64 + 1) * self.width;
        let (mut share, mut rest) = divided(amount, ends - from, length);
        let (whole, more) = if first + 1 < until { divided(amount, self.width, length) } else { (0, 0) };
        let mut spread = 0;
        // The bins are there from here on.
        self.add(series, until - 1, 0);
        let bins = self.amounts[first * self.series..until * self.series].chunks_exact_mut(self.series);
        for bin in bins {
            bin[series] += u128::from(share);
            spread += share;
            let carries = rest >= length - more;
            rest = if carries { rest - (length - more) } else { rest + more };
            share = whole + u64::from(carries);
        }
        spread
    }

    /// Bin width, picoseconds, and the series, each as long as it has something in it.
    pub(crate) fn finish(mut self) -> (u64, Vec<Vec<u128>>) {
        self.settle();
        let of = |series: usize| {
            let amounts = self.amounts.iter().skip(series).step_by(self.series);
            amounts.take(self.lens[series] as usize).copied().collect()
        };
        (self.width, (0..self.series).map(of).collect())
    }

    fn add(&mut self, series: usize, bin: usize, amount: u128) {
        let place = bin * self.series + series;
        if place >= self.amounts.len() {
            self.amounts.resize((bin + 1) * self.series, 0);
        }
        self.amounts[place] += amount;
        let len = &mut self.lens[series];
        *len = (*len).max(bin as u32 + 1);
    }

    /// A level is so much higher from the beginning of a bin on.
    fn change(&mut self, series: usize, bin: usize, by: u64) {
        let place = bin * self.series + series;
        if place >= self.changes.len() {
            self.changes.resize((bin + 1) * self.series, 0);
        }
        self.changes[place] = self.changes[place].wrapping_add(by);
    }

    /// Adds what levels amount to over whole bins.
    fn settle(&mut self) {
        let mut levels = vec![0_u64; self.series];
        let bins = self.amounts.chunks_mut(self.series.max(1)).zip(self.changes.chunks(self.series.max(1)));
        for (amounts, changes) in bins {
            for ((amount, change), level) in amounts.iter_mut().zip(changes).zip(&mut levels) {
                *level = level.wrapping_add(*change);
                *amount += u128::from(*level) * u128::from(self.width);
            }
        }
        self.changes.clear();
    }

    fn bin(&mut self, at: u64) -> usize {
        if at.checked_sub(self.last.1).is_some_and(|into| into < self.width) {
            return self.last.0;
        }
        self.turn(at)
    }

    /// Another bin than the last time.
    #[cold]
    fn turn(&mut self, at: u64) -> usize {
        while at / self.width >= BINS_MAX as u64 {
            self.double();
        }
        let bin = at / self.width;
        self.last = (bin as usize, bin * self.width);
        bin as usize
    }

    fn double(&mut self) {
        self.settle();
        self.width *= 2;
        let bins = self.amounts.len() / self.series.max(1);
        for bin in 0..bins {
            for series in 0..self.series {
                let amount = self.amounts[bin * self.series + series];
                let into = &mut self.amounts[bin / 2 * self.series + series];
                *into = if bin % 2 == 0 { amount } else { *into + amount };
            }
        }
        self.amounts.truncate(bins.div_ceil(2) * self.series);
        self.lens.iter_mut().for_each(|len| *len = len.div_ceil(2));
    }
}

/// `amount` times `part` of `whole`, and the remainder. Mostly the product fits into 64 bits, whose division is cheap.
fn divided(amount: u64, part: u64, whole: u64) -> (u64, u64) {
    match amount.checked_mul(part) {
        Some(product) => (product / whole, product % whole),
        None => {
            let (product, whole) = (u128::from(amount) * u128::from(part), u128::from(whole));
            ((product / whole) as u64, (product % whole) as u64)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_survive_every_doubling() {
        let mut bins = TimeBins::new(2);
        let mut total = 0;
        for i in 0..1000u64 {
            let (from, to) = (i * 7_000_000_123, i * 7_000_000_123 + 20_000_000_777);
            bins.integrate(0, from, to, i % 5);
            total += u128::from(to - from) * u128::from(i % 5);
            bins.spread(1, from, to, 3);
        }
        let (width, series) = bins.finish();
        assert_eq!(series[0].iter().sum::<u128>(), total);
        assert_eq!(series[1].iter().sum::<u128>(), 3000);
        assert!(width.is_power_of_two() || width % WIDTH_START_PS == 0);
        assert!(series[0].len() <= BINS_MAX && series[0].len() > BINS_MAX / 4);
    }

    /// Long and short, in order or not, while bins grow: what is in each bin in the end is what would be, had they been as wide from the start.
    #[test]
    fn bins_hold_what_each_instant_had() {
        let mut state = 5_u64;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 20) % below
        };
        let mut bins = TimeBins::new(3);
        let mut told = Vec::new();
        for i in 0..3000_u64 {
            let from = (i * 3_000_000_007 + random(50_000_000_000)).saturating_sub(random(40_000_000_000));
            let long = [1, 1_000_000_000, 100_000_000_000, i * 2_000_000_000 + 1][random(4) as usize];
            let (to, amount) = (from + random(long), [random(5), random(1 << 40)][usize::from(i % 50 == 0)]);
            bins.integrate(i as usize % 2, from, to, amount);
            bins.spread(2, from, to, amount);
            told.push((i as usize % 2, from, to, amount));
        }
        let (width, series) = bins.finish();
        let mut expected: Vec<Vec<u128>> = series.iter().map(|amounts| vec![0; amounts.len()]).collect();
        for (of, from, to, amount) in told {
            let due = |at: u64| u128::from(amount) * u128::from(at - from) / u128::from((to - from).max(1));
            for bin in from / width..=to.max(from + 1).saturating_sub(1) / width {
                let (low, high) = (from.max(bin * width), to.min((bin + 1) * width));
                if to > from && amount > 0 {
                    expected[of][bin as usize] += u128::from(high - low) * u128::from(amount);
                }
                expected[2][bin as usize] += if to > from { due(high) - due(low) } else { amount.into() };
            }
        }
        assert!(series == expected && series.iter().all(|amounts| amounts.len() > BINS_MAX / 4));
    }
}
