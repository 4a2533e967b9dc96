//! Decode attention regime by regime, as our kernel's plan chooses them: pieces that nobody cuts, pieces cut evenly whose parts are added up
//! at once or in two turns, and the line that is cut wherever its shares end.
//!
//! A cut leaves parts that the last block to come adds up; more than [`BUNDLE`] parts it adds up in two turns. A chip that is not yet full of
//! bytes takes them as they come, a full one at its bandwidth: two lines, of which the smaller counts.

use aril_kernels::attention::plan::{DECODE_CUT, DECODE_EMPTY, DECODE_UNITS_MIN};
use aril_sim::profile::attention::{DecodeAttention, DecodeBound, DecodeLimit, DecodeRegime};

use super::super::Sample;
use super::super::bounds::{self, Column};
use super::loss;
use super::rounds;
use super::ways::{self, BLOCK, EMPTY, ROUNDING, Sharing, UNCUT_TOKENS};

/// Parts that are added up at once.
const BUNDLE: f64 = 16.0;
/// The longest of contexts that are alike is at most so many tokens longer than their mean.
const ALIKE: f64 = 8.0;
/// Largest shares are told from here on.
const SUM_ALL: f64 = 1e12;
/// As many samples as a regime needs for lines of its own, and what is left for all others.
const SAMPLES_LEAST: usize = 8;
const WHOLE_LEAST: usize = 3;
const REST_LEAST: usize = 24;

/// The regimes of longer contexts, in the order in which they are tried.
const WHOLE: usize = 0;
const TWICE: usize = 1;
const ONCE: usize = 2;

/// Contexts of one round, then the regimes of longer ones, then the ways of the plan; each with lines of its own where there are samples.
pub(super) fn fit(samples: &[&Sample], sharing: Sharing) -> Option<DecodeAttention> {
    let all = ways::fit(samples, sharing)?;
    let [uncut, alike]: [DecodeRegime; 2] =
        all.regimes.clone().try_into().expect("those of short contexts and of alike ones");
    let rounds = rounds::fit(samples, sharing).unwrap_or_else(|| vec![uncut]);
    let first = rounds.len();
    let regimes = rounds.into_iter().chain(regimes(sharing)).chain([alike]).collect();
    let mut best = DecodeAttention { regimes, ..all.clone() };
    let last = best.regimes.len() - 1;
    let regime_of = |form: &DecodeAttention, sample: &Sample| {
        let shape = &sample.shape;
        form.regime(shape.decode_rows(), shape.context_sum(), shape.context_max())
    };
    let those = |is: &dyn Fn(&Sample) -> bool| -> Vec<&Sample> { samples.iter().filter(|s| is(s)).copied().collect() };
    // What no regime takes is told best by a fit to it alone, and to contexts of two rounds, beyond which they go on.
    let rest = those(&|sample| match regime_of(&best, sample) {
        Some(regime) => regime == last || regime < first && sample.shape.context_max() > UNCUT_TOKENS,
        None => true,
    });
    let alone = if rest.len() >= REST_LEAST { ways::fit(&rest, sharing) } else { None };
    if let Some(alone) = alone.filter(|alone| loss(alone, &rest) < loss(&all, &rest)) {
        (best.ways, best.bounds) = (alone.ways, alone.bounds);
        best.regimes[last] = alone.regimes[1].clone();
    }
    let known = best.clone();
    let mut cut: Option<[f64; 3]> = None;
    for index in [ONCE, TWICE, WHOLE] {
        let mine = those(&|sample| regime_of(&known, sample) == Some(first + index));
        let fitted = match (index, cut) {
            (WHOLE, Some(cut)) if mine.len() >= WHOLE_LEAST => Some(whole(&mine, sharing, cut)),
            (ONCE | TWICE, _) if mine.len() >= SAMPLES_LEAST => {
                let coefficients = lines(&mine, sharing);
                if index == ONCE {
                    cut = coefficients.last().copied();
                }
                let names = ["few bytes", "bandwidth"];
                Some(coefficients.iter().zip(names).map(|(x, name)| sharing.bound(name, *x, 0.0)).collect())
            }
            _ => None,
        };
        let regime = &mut best.regimes[first + index];
        match fitted {
            Some(ways) => regime.ways = ways,
            // Nobody knows better than the form of all.
            None => (regime.ways, regime.bounds) = (all.ways.clone(), all.bounds.clone()),
        }
    }
    Some(best)
}

/// The limits of longer contexts' regimes, without figures. `w` are pieces, `W` workers.
fn regimes(sharing: Sharing) -> Vec<DecodeRegime> {
    let (workers, groups) = (f64::from(sharing.workers), f64::from(sharing.groups));
    let [block, cut, units_min] = [BLOCK, DECODE_CUT, DECODE_UNITS_MIN].map(f64::from);
    let most = f64::from(sharing.rows_max());
    // Rows where anything changes: not beyond those that have a worker each.
    let mut rows: Vec<f64> = (1..=most.min(40.0) as u32).map(f64::from).collect();
    rows.extend((5..).map(|n| f64::from(n) * 8.0).take_while(|rows| *rows < most).filter(|rows| *rows > 40.0));
    if rows.last().is_some_and(|last| *last < most) {
        rows.push(most);
    }
    rows.push(most + 1.0);
    let limit = |sum: &dyn Fn(f64) -> f64, longest: &dyn Fn(f64) -> f64, most: &dyn Fn(f64) -> f64| DecodeLimit {
        rows: rows.clone(),
        sum: rows.iter().map(|&rows| sum(rows)).collect(),
        longest: rows.iter().map(|&rows| longest(rows)).collect(),
        most: rows.iter().map(|&rows| most(rows)).collect(),
    };
    let zero = |_: f64| 0.0;
    let one = |_: f64| 1.0;
    let pieces = |rows: f64| rows * groups;
    // Workers that are left when the last of each piece is half full.
    let full = |rows: f64| workers - pieces(rows) / 2.0;
    // No more rows than there are workers for.
    let served = |rows: f64| if rows > most { -1.0 } else { SUM_ALL };
    // A piece with a worker of its own: the longest is not much more than a share of all.
    let whole = limit(&|_| -groups / workers, &one, &|rows| match pieces(rows) / workers {
        share if share > 0.5 && rows <= most => block * (EMPTY * share + ROUNDING + 2.0 * cut),
        _ => -SUM_ALL,
    });
    // Cut evenly where that is no longer than the line's shares with a cut at either end.
    let even = limit(&one, &zero, &|rows| {
        if rows > most {
            return -1.0;
        }
        let apart = cut + ROUNDING + EMPTY * pieces(rows) / workers;
        let by_shares = apart * workers * full(rows) / (pieces(rows) / 2.0);
        let by_least = (units_min + f64::from(DECODE_EMPTY) + cut) * full(rows);
        by_shares.max(by_least) * block / groups
    });
    // Of contexts that differ the longest are cut.
    let alike = limit(&|rows| -1.0 / rows, &one, &|_| ALIKE);
    let long = limit(&zero, &|_| -1.0, &|_| -(BUNDLE * units_min * block) - 1.0);
    let parts = limit(&one, &|rows| -full(rows) / (groups * BUNDLE), &|rows| served(rows).min(-1.0));
    let regime = |name: &str, limits: Vec<DecodeLimit>| DecodeRegime {
        name: name.to_owned(),
        limits,
        bounds: Vec::new(),
        ways: Vec::new(),
    };
    vec![
        regime("whole", vec![whole, alike]),
        regime("cut, two turns", vec![even.clone(), long, parts]),
        regime("cut", vec![even]),
    ]
}

impl Sharing {
    /// How many workers nobody needs who has a piece for himself, share of all.
    fn idle(&self, rows: f64) -> f64 {
        (1.0 - rows * f64::from(self.groups) / f64::from(self.workers)).max(0.0)
    }

    /// A line: once, by rows, by tokens, and by tokens of the longest as far as workers are idle.
    fn bound(&self, name: &str, [once, row, token]: [f64; 3], longest: f64) -> DecodeBound {
        let ends = [1.0, f64::from(self.rows_max()).max(2.0)];
        DecodeBound {
            name: name.to_owned(),
            rows: ends.to_vec(),
            us: ends.map(|rows| once + row * rows).to_vec(),
            us_per_token: vec![token; 2],
            us_per_longest_token: ends.map(|rows| longest * self.idle(rows)).to_vec(),
        }
    }
}

/// Two lines of a regime: what a chip takes that is not full of bytes, and what a full one takes, of which a token costs more.
fn lines(samples: &[&Sample], sharing: Sharing) -> Vec<[f64; 3]> {
    let us: Vec<f64> = samples.iter().map(|sample| sample.us).collect();
    let of = |value: &dyn Fn(&Sample) -> f64| -> Vec<f64> { samples.iter().map(|sample| value(sample)).collect() };
    let sums = of(&|s| s.shape.context_sum() as f64);
    let columns = vec![
        Column::new(vec![1.0; us.len()]),
        Column::new(of(&|s| f64::from(s.shape.decode_rows()))),
        Column { values: sums.clone(), lower: sharing.least_us_per_token },
    ];
    let starts: Vec<Vec<usize>> =
        bounds::starts_by(&sums).into_iter().chain([vec![0; us.len()], vec![1; us.len()]]).collect();
    let fit = bounds::fit_least(&[columns.clone(), columns], &us, &starts);
    let mut lines: Vec<[f64; 3]> = fit.coefficients.iter().map(|x| [x[0], x[1], x[2]]).collect();
    lines.sort_by(|a, b| a[2].total_cmp(&b[2]));
    lines
}

/// Pieces with a worker each: the bytes of pieces that are cut, without adding up; a multiprocessor with two pieces, where others have one,
/// keeps them waiting.
fn whole(samples: &[&Sample], sharing: Sharing, [_, row, token]: [f64; 3]) -> Vec<DecodeBound> {
    let us: Vec<f64> = samples.iter().map(|sample| sample.us).collect();
    let of = |value: &dyn Fn(&Sample) -> f64| -> Vec<f64> { samples.iter().map(|sample| value(sample)).collect() };
    let rows = |s: &Sample| f64::from(s.shape.decode_rows());
    let bytes = of(&|s| row * rows(s) + token * s.shape.context_sum() as f64);
    let columns = [
        Column::new(vec![1.0; us.len()]),
        Column { values: bytes, lower: sharing.least_us_per_token / token.max(sharing.least_us_per_token) },
        Column::new(of(&|s| f64::from(s.shape.context_max()) * sharing.idle(rows(s)))),
    ];
    let x = bounds::robust(&columns, &us);
    vec![sharing.bound("bandwidth", [x[0], row * x[1], token * x[1]], x[2])]
}

#[cfg(test)]
mod tests {
    use aril_sim::profile::lora::LoraKernel;

    use super::*;
    use crate::machine::StepShape;

    /// Whichever start finds them, and however the samples lie: the form of whole pieces reads the last.
    #[test]
    fn the_line_of_a_full_chip_is_the_last() {
        let sharing = Sharing { groups: 32, workers: 264, least_us_per_token: 1e-4 };
        let (few, full) = ([9.0, 0.0, 0.001], [4.0, 0.0, 0.004]);
        let us = |[once, row, token]: [f64; 3], rows: f64, sum: f64| once + row * rows + token * sum;
        // Seen from each side: where few bytes are cheaper, where the bandwidth is, and both.
        for contexts in [300..1600_u32, 1700..12_000, 300..12_000] {
            let samples: Vec<Sample> = contexts
                .step_by(97)
                .map(|context| {
                    let shape = StepShape::decode(2, context);
                    let sum = shape.context_sum() as f64;
                    let us = us(few, 2.0, sum).min(us(full, 2.0, sum));
                    Sample { shape, kernel: LoraKernel::None, us, parts: Vec::new() }
                })
                .collect();
            let found = lines(&samples.iter().collect::<Vec<_>>(), sharing);
            assert!(found[0][2] <= found[1][2], "{found:?}");
        }
    }
}
