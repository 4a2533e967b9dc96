//! Decode attention as the plan of our kernel shares it out: every (sequence, KV head) is a piece of work, cut evenly by blocks of its own while
//! there are enough of them, or all pieces in one line that is cut wherever its share ends, whichever the plan takes to be quicker.
//!
//! Pieces of up to [`UNCUT_TOKENS`] tokens have one round of a block's warps, are never cut and take as long as each other. Where others are longer,
//! the block with the shortest contexts has most pieces, and the launch waits for it if they take more than the line gives them room.
//!
//! Contexts that differ take more than as many tokens in contexts that are alike: their last KV blocks are read whole, and shares of the line end
//! anywhere in them. From [`APART`] tokens between the longest and the mean on that is so much a piece, before in proportion.

use aril_kernels::attention::layout::BLOCK_TOKENS;
use aril_kernels::attention::plan::{DECODE_EMPTY, DECODE_GRAIN};
use aril_sim::profile::attention::{DecodeAttention, DecodeBound, DecodeLimit, DecodeRegime};

use super::super::Sample;
use super::super::bounds::{self, Column};

/// What the plan knows of chip and model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in super::super) struct Sharing {
    /// Pieces of one sequence.
    pub(in super::super) groups: u32,
    /// Blocks that the chip computes at once.
    pub(in super::super) workers: u32,
    /// A token's keys and values at the peak bandwidth, microseconds.
    pub(in super::super) least_us_per_token: f64,
}

/// Tokens of a KV block.
pub(super) const BLOCK: u32 = BLOCK_TOKENS;
/// Up to so many tokens no piece is cut.
pub(super) const UNCUT_TOKENS: u32 = BLOCK * DECODE_GRAIN;
/// Places that the plan leaves empty at a piece: before it, and on average behind it.
pub(super) const EMPTY: f64 = DECODE_EMPTY as f64 + ROUNDING;
/// What rounding up to whole rounds adds on average, in places.
pub(super) const ROUNDING: f64 = (DECODE_GRAIN - 1) as f64 / 2.0;
/// A context is on average so much of a KV block longer than its full ones.
const LAST_BLOCK: f64 = 0.5;

/// Row counts at which coefficients are given beside those where a cut changes.
const ROWS: [u32; 15] = [48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512];
/// Below, at every one.
const ROWS_EACH: u32 = 40;

/// Coefficients of all lines, microseconds.
const TOKEN: usize = 0;
const UNCUT_START: usize = 1;
const WHOLE_START: usize = 2;
const CUT_START: usize = 3;
const DENSE_START: usize = 4;
const DENSE_PIECE: usize = 5;
const PIECES_START: usize = 6;
const PIECE: usize = 7;
const BOTH_START: usize = 8;
const BOTH_PIECE: usize = 9;
const BOTH_TOKEN: usize = 10;
const UNEVEN_START: usize = 11;
const PLACE: usize = 12;
const BOTH_APART: usize = 13;
const DENSE_APART: usize = 14;
const COUNT: usize = 15;

/// First guesses, but for the token: what an H200 needs about.
const GUESS: [f64; COUNT] = [0.0, 2.5, 3.0, 4.0, 6.5, 0.15, 1.5, 1.6, 1.0, 1.0, 0.0, 3.0, 0.32, 0.4, 0.2];
/// What both together need at least of their sum, where they are equal: between the larger and all of it.
const BOTH: f64 = 0.63;

/// The longest of contexts that differ in full is so many tokens longer than their mean.
const APART: f64 = 64.0;

/// How much of each coefficient a line has.
type Line = [f64; COUNT];

/// The lines of a batch: the ways, of which the quickest counts, and the bounds.
struct Lines {
    ways: Vec<Line>,
    bounds: Vec<Line>,
}

impl Sharing {
    /// Pieces of so many rows a block.
    pub(super) fn pieces(&self, rows: f64) -> f64 {
        rows * f64::from(self.groups) / f64::from(self.workers)
    }

    /// Blocks that share a piece of so many rows cut evenly; 0 where there are too few.
    fn blocks(&self, rows: u32) -> u32 {
        self.workers / (rows * self.groups).max(1)
    }

    fn line(terms: &[(usize, f64)]) -> Line {
        let mut line = [0.0; COUNT];
        terms.iter().for_each(|&(index, value)| line[index] += value);
        line
    }

    /// Where a piece has one block, the longest keeps the others waiting; where it has several, short ones leave theirs to it.
    fn even(&self, rows: u32, tokens: f64, longest: f64) -> Option<Line> {
        let blocks = self.blocks(rows);
        let workers = f64::from(self.workers);
        let way = match blocks {
            0 => return None,
            1 => [(WHOLE_START, 1.0), (TOKEN, workers / f64::from(self.groups) * longest)],
            // Blocks left over have nothing to do.
            _ => [(CUT_START, 1.0), (TOKEN, workers / f64::from(blocks * rows * self.groups) * tokens)],
        };
        Some(Sharing::line(&way))
    }

    /// Pieces, as far as their contexts differ by `apart` of all that counts.
    fn dense(&self, rows: u32, tokens: f64, apart: f64) -> Line {
        let pieces = self.pieces(f64::from(rows));
        Sharing::line(&[(DENSE_START, 1.0), (DENSE_PIECE, pieces), (TOKEN, tokens), (DENSE_APART, pieces * apart)])
    }

    /// Pieces begin and end, whatever their bytes.
    fn started(&self, rows: u32) -> Line {
        Sharing::line(&[(PIECES_START, 1.0), (PIECE, self.pieces(f64::from(rows)).ceil())])
    }

    /// Neither hides all of the other.
    fn both(&self, rows: u32, tokens: f64, apart: f64) -> Line {
        let pieces = self.pieces(f64::from(rows));
        Sharing::line(&[
            (BOTH_START, 1.0),
            (BOTH_PIECE, pieces.ceil()),
            (BOTH_TOKEN, tokens),
            (BOTH_APART, pieces * apart),
        ])
    }

    /// Nothing is cut: every block has as many whole pieces, but for the last.
    fn uncut(&self, rows: u32, tokens: f64) -> Line {
        let pieces = self.pieces(f64::from(rows));
        let start = if pieces <= 0.5 { UNCUT_START } else { WHOLE_START };
        let idle = if pieces > 1.0 { pieces.ceil() / pieces } else { 1.0 };
        Sharing::line(&[(start, 1.0), (TOKEN, idle * tokens)])
    }

    /// The block with the shortest contexts: a place is a piece of theirs over the places that the plan gives it.
    fn uneven(&self, rows: u32, tokens: f64) -> Line {
        let pieces = self.pieces(f64::from(rows));
        let blocks = tokens * self.pieces(1.0) / f64::from(BLOCK);
        Sharing::line(&[(UNEVEN_START, 1.0), (PLACE, pieces * (EMPTY + LAST_BLOCK) + blocks)])
    }

    /// The most rows of which every piece has a block.
    pub(super) fn rows_max(&self) -> u32 {
        self.workers / self.groups.max(1)
    }

    fn lines(&self, sample: &Sample) -> Lines {
        let (rows, tokens) = (sample.shape.decode_rows(), sample.shape.context_sum() as f64);
        let longest = f64::from(sample.shape.context_max());
        let is_uncut = longest <= f64::from(UNCUT_TOKENS);
        let apart = if is_uncut { 0.0 } else { apart(rows, tokens, longest).min(1.0) };
        let mut bounds = vec![self.started(rows), self.both(rows, tokens, apart)];
        let mut ways = Vec::new();
        if is_uncut {
            bounds.push(self.uncut(rows, tokens));
        } else {
            ways.push(self.dense(rows, tokens, apart));
            ways.extend(self.even(rows, tokens, longest));
            bounds.extend((rows > self.rows_max()).then(|| self.uneven(rows, tokens)));
        }
        Lines { ways, bounds }
    }
}

/// How far the longest context is from the mean, of all that counts.
fn apart(rows: u32, tokens: f64, longest: f64) -> f64 {
    (longest - tokens / f64::from(rows)) / APART
}

fn value(line: &Line, x: &[f64; COUNT]) -> f64 {
    line.iter().zip(x).map(|(a, b)| a * b).sum()
}

impl Lines {
    /// The line that decides.
    fn active(&self, x: &[f64; COUNT]) -> Line {
        let by = |a: &&Line, b: &&Line| value(a, x).total_cmp(&value(b, x));
        let way = self.ways.iter().min_by(by);
        *self.bounds.iter().chain(way).max_by(by).expect("there are bounds")
    }
}

/// Fits all lines by turns: each sample to the line that decides about it, again and again.
pub(super) fn fit(samples: &[&Sample], sharing: Sharing) -> Option<DecodeAttention> {
    let us: Vec<f64> = samples.iter().map(|sample| sample.us).collect();
    let lines: Vec<Lines> = samples.iter().map(|sample| sharing.lines(sample)).collect();
    // Long batches are nothing but bytes.
    let longest = samples.iter().max_by_key(|sample| sample.shape.context_sum())?;
    let token = (longest.us / longest.shape.context_sum().max(1) as f64).max(sharing.least_us_per_token);
    let mut best: Option<([f64; COUNT], f64)> = None;
    for scale in [0.6, 1.0, 1.6] {
        let mut x = GUESS.map(|guess| guess * scale);
        (x[TOKEN], x[BOTH_TOKEN]) = (token, token * BOTH);
        for _ in 0..20 {
            let active: Vec<Line> = lines.iter().map(|lines| lines.active(&x)).collect();
            let loss: f64 = active.iter().zip(&us).map(|(line, us)| bounds::huber(value(line, &x) / us - 1.0)).sum();
            if best.as_ref().is_none_or(|(_, least)| loss < *least) {
                best = Some((x, loss));
            }
            let columns: Vec<Column> = (0..COUNT)
                .map(|index| Column {
                    values: active.iter().map(|line| line[index]).collect(),
                    lower: if index == TOKEN { sharing.least_us_per_token } else { 0.0 },
                })
                .collect();
            let next = bounds::robust(&columns, &us);
            // What no sample tells stays as it is.
            let told = |index: usize| columns[index].values.iter().filter(|value| **value > 0.0).count() >= 3;
            // Half a step: who decides changes on the way.
            (0..COUNT).filter(|&index| told(index)).for_each(|index| x[index] = f64::midpoint(x[index], next[index]));
        }
    }
    best.map(|(mut x, _)| {
        // A token of a context that is not the longest costs something.
        let most = APART / sharing.pieces(1.0);
        x[BOTH_APART] = x[BOTH_APART].min(x[BOTH_TOKEN] * most);
        x[DENSE_APART] = x[DENSE_APART].min(x[TOKEN] * most);
        attention(sharing, &x)
    })
}

/// Row counts at which coefficients are given.
pub(super) fn rows_told(sharing: Sharing) -> Vec<u32> {
    let mut rows: Vec<u32> = (1..=ROWS_EACH).chain(ROWS).collect();
    // Where the number of blocks of a piece changes.
    let changes = (1..=sharing.rows_max()).filter(|&rows| sharing.blocks(rows) != sharing.blocks(rows + 1));
    rows.extend(changes.flat_map(|last| [last, last + 1]));
    rows.sort_unstable();
    rows.dedup();
    rows
}

/// The profile's form of all lines.
fn attention(sharing: Sharing, x: &[f64; COUNT]) -> DecodeAttention {
    let (even_max, rows) = (sharing.rows_max(), rows_told(sharing));
    let bound = |name: &str, line: &dyn Fn(u32, f64, f64) -> Line| {
        let at = |tokens: f64, longest: f64| -> Vec<f64> {
            let start = |rows| if tokens + longest > 0.0 { value(&line(rows, 0.0, 0.0), x) } else { 0.0 };
            rows.iter().map(|&rows| value(&line(rows, tokens, longest), x) - start(rows)).collect()
        };
        DecodeBound {
            name: name.to_owned(),
            rows: rows.iter().map(|&rows| f64::from(rows)).collect(),
            us: at(0.0, 0.0),
            us_per_token: at(1.0, 0.0),
            us_per_longest_token: at(0.0, 1.0),
        }
    };
    let started = bound("pieces", &|rows, _, _| sharing.started(rows));
    let both = |apart: &dyn Fn(u32, f64, f64) -> f64| {
        let line = |rows, tokens, longest| sharing.both(rows, tokens, apart(rows, tokens, longest));
        bound("pieces and bandwidth", &line)
    };
    let dense = |apart: &dyn Fn(u32, f64, f64) -> f64| {
        let line = |rows, tokens, longest| sharing.dense(rows, tokens, apart(rows, tokens, longest));
        bound("dense", &line)
    };
    let (none, whole) = (|_: u32, _: f64, _: f64| 0.0, |_: u32, _: f64, _: f64| 1.0);
    let even =
        |rows, tokens, longest| sharing.even(rows, tokens, longest).unwrap_or_else(|| sharing.dense(rows, tokens, 1.0));
    let uncut = bound("uncut", &|rows, tokens, _| sharing.uncut(rows, tokens));
    let uneven = bound("uneven", &|rows, tokens, _| match rows {
        rows if rows > even_max => sharing.uneven(rows, tokens),
        _ => Sharing::line(&[]),
    });
    let knots: Vec<f64> = rows.iter().map(|&rows| f64::from(rows)).collect();
    let alike = DecodeRegime {
        name: "alike".to_owned(),
        limits: vec![DecodeLimit {
            sum: vec![-1.0; knots.len()],
            longest: knots.clone(),
            most: knots.iter().map(|rows| APART * rows).collect(),
            rows: knots,
        }],
        bounds: vec![started.clone(), both(&apart), uneven.clone()],
        ways: vec![bound("even", &even), dense(&apart)],
    };
    let short = vec![uncut, started.clone(), both(&none)];
    DecodeAttention {
        ways: vec![bound("even", &even), dense(&whole)],
        bounds: vec![started, both(&whole), uneven],
        regimes: vec![DecodeRegime::short(UNCUT_TOKENS, short), alike],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What differs costs more, the more the farther apart, without a jump where that is all that counts; and no token is free.
    #[test]
    fn contexts_that_differ_cost_more_than_as_many_tokens_that_are_alike() {
        let sharing = Sharing { groups: 32, workers: 264, least_us_per_token: 1e-4 };
        let mut x = GUESS;
        (x[TOKEN], x[BOTH_TOKEN]) = (0.004, 0.003);
        let form = attention(sharing, &x);
        for rows in [16, 100, 512] {
            let us = |mean: u32, longest: u32| form.us(rows, u64::from(mean) * u64::from(rows), longest);
            let apart: Vec<f64> = (300..500).map(|longest| us(300, longest)).collect();
            let all = x[BOTH_APART].min(x[DENSE_APART]) * sharing.pieces(f64::from(rows));
            assert!(apart[199] - apart[0] >= all * 0.999, "{rows} rows: {} to {} us", apart[0], apart[199]);
            assert!(apart.windows(2).all(|two| (0.0..=all / 10.0).contains(&(two[1] - two[0]))), "{rows} rows jump");
            let longer = (100..=400).map(|mean| us(mean, 400)).collect::<Vec<_>>();
            assert!(longer.windows(2).all(|two| two[0] < two[1]), "{rows} rows of longer contexts cost less");
        }
    }
}
