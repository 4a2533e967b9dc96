//! Quantities over time in a bounded number of equal bins, for runs whose length nobody knows beforehand.

/// More bins than this are merged in pairs.
const BINS_MAX: usize = 512;
/// Where bins start: a millisecond each.
const WIDTH_START_PS: u64 = 1_000_000_000;

/// How much in each stretch of time? Several series over the same bins.
///
/// All series share one bin width, which doubles whenever the run outgrows the bins: totals stay exact. What all series have in one bin
/// lies together: at any time a run looks at one or two bins of many series.
#[derive(Clone, Debug)]
pub(crate) struct TimeBins {
    width: u64,
    /// How many series.
    series: usize,
    /// Bin by bin, the series of each.
    amounts: Vec<u128>,
    /// Bins that each series has something in, or before something in it.
    lens: Vec<u32>,
    /// The bin that was looked up last and where it begins: time goes on slowly, and a division is dear.
    last: (usize, u64),
}

impl TimeBins {
    pub(crate) fn new(series: usize) -> TimeBins {
        TimeBins { width: WIDTH_START_PS, series, amounts: Vec::new(), lens: vec![0; series], last: (0, 0) }
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
        if from >= self.last.1 {
            return self.add(series, last, u128::from(to - from) * u128::from(level));
        }
        for bin in (from / self.width) as usize..=last {
            let low = from.max(bin as u64 * self.width);
            let high = to.min((bin as u64 + 1).saturating_mul(self.width));
            self.add(series, bin, u128::from(high - low) * u128::from(level));
        }
    }

    /// Spreads `amount` evenly over the time between two instants, to the last unit.
    pub(crate) fn spread(&mut self, series: usize, from: u64, to: u64, amount: u64) {
        if to <= from {
            return self.count(series, from, amount.into());
        }
        let bin = self.bin(to - 1);
        if from >= self.last.1 {
            return self.add(series, bin, amount.into());
        }
        let (length, mut done, mut at) = (to - from, 0, from);
        while at < to {
            let next = to.min((at / self.width + 1).saturating_mul(self.width));
            let until = share(amount, next - from, length);
            self.count(series, at, until - done);
            (done, at) = (until, next);
        }
    }

    /// Bin width, picoseconds, and the series, each as long as it has something in it.
    pub(crate) fn finish(self) -> (u64, Vec<Vec<u128>>) {
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

/// What falls into `part` of `whole`, rounded down. Mostly the product fits into 64 bits, whose division is cheap.
fn share(amount: u64, part: u64, whole: u64) -> u128 {
    match amount.checked_mul(part) {
        Some(product) => u128::from(product / whole),
        None => u128::from(amount) * u128::from(part) / u128::from(whole),
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
}
