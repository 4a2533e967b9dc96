//! Contexts of one round, or of two where blocks have several pieces: pieces stay whole, so that only how many a block has and their bytes count.
//!
//! A few pieces take a start, their bytes, and a turn for every further one. Of many the next one's bytes come while one is computed: they
//! take what turns need or what bytes need, and where both are alike a share of their sum. The smaller of few and many holds.

use aril_sim::profile::attention::{DecodeBound, DecodeLimit, DecodeRegime};

use super::super::Sample;
use super::super::descent::{self, Descent};
use super::ways::{Sharing, UNCUT_TOKENS, rows_told};

/// Figures: what an H100 needs about, where a fit begins.
const GUESS: [f64; COUNT] = [2.5, 1.05, 0.0445, 4.4, 0.0469, 4.7, 1.56, 0.535, 0.2];
/// Few pieces: once, each turn after the first, each token of a block.
const FEW_START: usize = 0;
const FEW_TURN: usize = 1;
const FEW_TOKEN: usize = 2;
/// Bytes of many: once, each token of a block.
const BYTES_START: usize = 3;
const BYTES_TOKEN: usize = 4;
/// Turns of many: once, each.
const TURNS_START: usize = 5;
const TURN: usize = 6;
/// Of the sum of both, so much is needed at least.
const SHARE: usize = 7;
/// KV blocks are read whole: contexts that differ count as so much nearer to the longest.
const NEARER: usize = 8;
const COUNT: usize = 9;

/// How much a figure may be off its guess before it counts as much as an error of a percent in one sample.
const DRAWN: f64 = 0.02;
const SAMPLES_LEAST: usize = 30;
const DESCENT: Descent = Descent { far: 0.03, steps: 60, least: 1e-4 };

/// A line: once, each token of a block.
type Line = [f64; 2];

struct Lines {
    few: Line,
    turns: Line,
    both: Line,
    bytes: Line,
}

/// Three regimes, by what many pieces need; none where too little was measured.
pub(super) fn fit(samples: &[&Sample], sharing: Sharing) -> Option<Vec<DecodeRegime>> {
    let is_short = |s: &&&Sample| s.shape.context_max() <= longest_of(sharing, s.shape.decode_rows());
    let short: Vec<&&Sample> = samples.iter().filter(is_short).collect();
    if short.len() < SAMPLES_LEAST {
        return None;
    }
    let guess = GUESS.map(f64::ln);
    let (at, _) = descent::fit(&guess, DESCENT, |at| {
        let figures = figures(at, sharing);
        let error = |s: &&&Sample| {
            let rows = s.shape.decode_rows();
            let [sum, longest] = tokens(&figures, sharing, f64::from(rows));
            let tokens = sum * s.shape.context_sum() as f64 + longest * f64::from(s.shape.context_max());
            lines(&figures, sharing, rows).us(tokens) / s.us - 1.0
        };
        let drawn = at.iter().zip(&guess).map(|(at, guess)| (at - guess) * DRAWN);
        short.iter().map(error).chain(drawn).collect()
    });
    Some(regimes(&figures(&at, sharing), sharing))
}

/// The longest context: where every piece has blocks of its own, longer ones are cut; where blocks have several, two rounds seldom are.
fn longest_of(sharing: Sharing, rows: u32) -> u32 {
    if rows > sharing.rows_max() { 2 * UNCUT_TOKENS } else { UNCUT_TOKENS }
}

/// Figures of their logarithms, within what can be.
fn figures(at: &[f64], sharing: Sharing) -> [f64; COUNT] {
    let mut figures: [f64; COUNT] = std::array::from_fn(|index| at[index].exp());
    let least = sharing.least_us_per_token / sharing.pieces(1.0);
    for token in [FEW_TOKEN, BYTES_TOKEN] {
        figures[token] = figures[token].max(least);
    }
    figures[SHARE] = figures[SHARE].clamp(0.5, 1.0);
    figures[NEARER] = figures[NEARER].min(1.0);
    figures
}

/// Tokens of a block: for every token of all contexts, and for every one of the longest.
fn tokens(figures: &[f64; COUNT], sharing: Sharing, rows: f64) -> [f64; 2] {
    let nearer = figures[NEARER];
    [(1.0 - nearer) * sharing.pieces(1.0), nearer * sharing.pieces(rows)]
}

fn lines(figures: &[f64; COUNT], sharing: Sharing, rows: u32) -> Lines {
    let turns = sharing.pieces(f64::from(rows)).ceil();
    let few = [figures[FEW_START] + figures[FEW_TURN] * (turns - 1.0), figures[FEW_TOKEN]];
    let turns = [figures[TURNS_START] + figures[TURN] * turns, 0.0];
    let bytes = [figures[BYTES_START], figures[BYTES_TOKEN]];
    let both = [0, 1].map(|index| figures[SHARE] * (turns[index] + bytes[index]));
    Lines { few, turns, both, bytes }
}

fn at([once, token]: Line, tokens: f64) -> f64 {
    once + token * tokens
}

impl Lines {
    fn us(&self, tokens: f64) -> f64 {
        let many = [self.turns, self.both, self.bytes].into_iter().map(|line| at(line, tokens)).fold(0.0, f64::max);
        at(self.few, tokens).min(many)
    }
}

/// The profile's form: one regime where turns decide about many, one where both do, one where bytes do.
fn regimes(figures: &[f64; COUNT], sharing: Sharing) -> Vec<DecodeRegime> {
    let rows = rows_told(sharing);
    let knots: Vec<f64> = rows.iter().map(|&rows| f64::from(rows)).collect();
    let of_tokens: Vec<[f64; 2]> = knots.iter().map(|&rows| tokens(figures, sharing, rows)).collect();
    let bound = |name: &str, line: &dyn Fn(&Lines) -> Line| {
        let lines: Vec<Line> = rows.iter().map(|&rows| line(&lines(figures, sharing, rows))).collect();
        let slope = |index: usize| lines.iter().zip(&of_tokens).map(|(line, of)| line[1] * of[index]).collect();
        DecodeBound {
            name: name.to_owned(),
            rows: knots.clone(),
            us: lines.iter().map(|line| line[0]).collect(),
            us_per_token: slope(0),
            us_per_longest_token: slope(1),
        }
    };
    let longest = || {
        let rows = [sharing.rows_max(), sharing.rows_max() + 1];
        let most = rows.map(|rows| f64::from(longest_of(sharing, rows)));
        DecodeLimit::longest(rows.map(f64::from).to_vec(), most.to_vec())
    };
    // Up to where a line reaches the one that is steeper.
    let below = |flat: &dyn Fn(&Lines) -> Line, steep: &dyn Fn(&Lines) -> Line| DecodeLimit {
        rows: knots.clone(),
        sum: of_tokens.iter().map(|of| of[0]).collect(),
        longest: of_tokens.iter().map(|of| of[1]).collect(),
        most: rows
            .iter()
            .map(|&rows| {
                let lines = lines(figures, sharing, rows);
                let ([flat, flat_token], [steep, steep_token]) = (flat(&lines), steep(&lines));
                (flat - steep) / (steep_token - flat_token)
            })
            .collect(),
    };
    let (turns, both, bytes) = (|lines: &Lines| lines.turns, |lines: &Lines| lines.both, |lines: &Lines| lines.bytes);
    let regime = |name: &str, mut limits: Vec<DecodeLimit>, many: &dyn Fn(&Lines) -> Line| {
        limits.insert(0, longest());
        let ways = vec![bound("few pieces", &|lines| lines.few), bound(name, many)];
        DecodeRegime { name: format!("rounds, {name}"), limits, bounds: Vec::new(), ways }
    };
    vec![
        regime("turns", vec![below(&turns, &both), below(&turns, &bytes)], &turns),
        regime("turns and bytes", vec![below(&both, &bytes)], &both),
        regime("bytes", Vec::new(), &bytes),
    ]
}
