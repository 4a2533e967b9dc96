//! Decode attention in whole picoseconds: the largest of some affine bounds and the quickest of some affine ways, and for how long it
//! stays that.

use std::ops::Range;

use crate::batch::Price;
use crate::profile::attention::{DecodeAttention, DecodeBound, DecodeLimit, DecodeRegime, LimitAt};
use crate::time::Span;

/// Row counts up to which coefficients are tabulated.
const DENSE_ROWS: u32 = 1024;

/// All bounds, over all layers.
#[derive(Clone, Debug)]
pub(super) struct Attention {
    /// All bounds and ways, over all layers.
    lines: ByRows<DecodeBound, Coefficients>,
    /// All limits of regimes.
    limits: ByRows<DecodeLimit, Growing>,
    bounds: Range<usize>,
    /// The quickest of these is one more bound.
    ways: Range<usize>,
    /// What has bounds and ways of its own.
    regimes: Vec<Regime>,
}

/// Bounds and ways that count where all of some limits hold.
#[derive(Clone, Debug)]
struct Regime {
    limits: Range<usize>,
    bounds: Range<usize>,
    ways: Range<usize>,
}

/// What depends on the number of decode rows.
#[derive(Clone, Debug)]
struct ByRows<S, T> {
    /// Of each number of rows all of them, side by side.
    dense: Vec<T>,
    sources: Vec<S>,
    /// Of a source, times a factor, at so many rows.
    of: fn(&S, f64, u32) -> T,
    factor: f64,
    /// Those of more rows than are tabulated, made anew each time.
    beyond: Vec<T>,
}

/// A limit at some number of rows, and how much more of it each step needs.
#[derive(Clone, Copy, Debug)]
struct Growing {
    at: LimitAt,
    growth: f64,
}

/// Picoseconds: once, each token of context, each token of the longest context.
#[derive(Clone, Copy, Debug)]
struct Coefficients {
    once: u64,
    token: u64,
    longest: u64,
}

impl Attention {
    /// The bounds of one layer, times `factor`: the layers, the scale of whole steps, a slow-down.
    pub(super) fn compile(attention: &DecodeAttention, factor: f64) -> Attention {
        let mut lines: Vec<DecodeBound> = Vec::new();
        let mut add = |bounds: &[DecodeBound]| {
            let from = lines.len();
            lines.extend_from_slice(bounds);
            from..lines.len()
        };
        let mut limits: Vec<DecodeLimit> = Vec::new();
        let (bounds, ways) = (add(&attention.bounds), add(&attention.ways));
        let mut regime = |source: &DecodeRegime| {
            let from = limits.len();
            limits.extend_from_slice(&source.limits);
            Regime { limits: from..limits.len(), bounds: add(&source.bounds), ways: add(&source.ways) }
        };
        let regimes = attention.regimes.iter().map(&mut regime).collect();
        Attention {
            regimes,
            lines: ByRows::compile(lines, Coefficients::of, factor),
            limits: ByRows::compile(limits, |source, _, rows| Growing::of(source.at(rows), rows), 1.0),
            bounds,
            ways,
        }
    }

    /// What so many decode rows pay now.
    pub(super) fn now(&mut self, rows: u32, context_sum: u64, longest: u32) -> Span {
        if rows == 0 {
            return Span::ZERO;
        }
        let limits = self.limits.at(rows);
        let holds = |limit: &Growing| limit.at.excess(context_sum as f64, f64::from(longest)) <= 0.0;
        let regime = self.regimes.iter().find(|regime| limits[regime.limits.clone()].iter().all(holds));
        let (bounds, ways) = regime.map_or_else(
            || (self.bounds.clone(), self.ways.clone()),
            |regime| (regime.bounds.clone(), regime.ways.clone()),
        );
        let lines = self.lines.at(rows);
        let first = |line: &Coefficients| line.first(context_sum, longest);
        let bound = lines[bounds].iter().map(first).fold(0, u64::max);
        Span::from_ps(lines[ways].iter().map(first).min().map_or(bound, |way| bound.max(way)))
    }

    /// What so many decode rows pay now, and with each further step, until another bound takes over.
    #[inline(always)]
    pub(super) fn price(&mut self, rows: u32, context_sum: u64, longest: u32) -> Price {
        if rows == 0 {
            return Price::lasting(Span::ZERO, u32::MAX);
        }
        let line = |c: &Coefficients| (c.first(context_sum, longest), c.token * u64::from(rows) + c.longest);
        let (bounds, ways, mut steps) = self.regime(rows, context_sum, longest);
        let lines = self.lines.at(rows);
        let (bounds, ways) = (&lines[bounds], &lines[ways]);
        let until = |apart: u64, steeper: u64| u32::try_from(apart / steeper).unwrap_or(u32::MAX).saturating_add(1);
        // Of equal ways the flatter one is the quicker from the next step on; the promise ends where another is.
        let way = ways.iter().map(line).min();
        // Of equal bounds the steeper one is the larger from the next step on.
        let bound = bounds.iter().map(line).max();
        let (first, increment) = bound.max(way).unwrap_or((0, 0));
        let mut steeper = |(other_first, other_increment): (u64, u64)| {
            if other_increment > increment {
                steps = steps.min(until(first - other_first, other_increment - increment));
            }
        };
        bounds.iter().map(line).for_each(&mut steeper);
        if let Some(way) = way {
            steeper(way);
            if way == (first, increment) {
                // A way that is slower now may be the quicker one later, where ways decide.
                for (other_first, other_increment) in ways.iter().map(line) {
                    if other_increment < increment {
                        steps = steps.min(until(other_first - first, increment - other_increment));
                    }
                }
            }
        }
        Price { increment: Span::from_ps(increment), ..Price::lasting(Span::from_ps(first), steps) }
    }
}

impl<S, T> ByRows<S, T> {
    fn compile(sources: Vec<S>, of: fn(&S, f64, u32) -> T, factor: f64) -> ByRows<S, T> {
        let of_rows = |rows| sources.iter().map(move |source| of(source, factor, rows));
        let beyond = of_rows(0).collect();
        ByRows { dense: (0..=DENSE_ROWS).flat_map(of_rows).collect(), sources, of, factor, beyond }
    }

    /// All of them at so many rows.
    #[inline(always)]
    fn at(&mut self, rows: u32) -> &[T] {
        let count = self.sources.len();
        let from = rows as usize * count;
        if rows <= DENSE_ROWS {
            return &self.dense[from..from + count];
        }
        for (mine, source) in self.beyond.iter_mut().zip(&self.sources) {
            *mine = (self.of)(source, self.factor, rows);
        }
        &self.beyond
    }
}

impl Attention {
    /// Whose bounds and ways hold, and for how many steps at least.
    #[inline(always)]
    fn regime(&mut self, rows: u32, context_sum: u64, longest: u32) -> (Range<usize>, Range<usize>, u32) {
        let mut steps = u32::MAX;
        let (context_sum, longest) = (context_sum as f64, f64::from(longest));
        let limits = self.limits.at(rows);
        for regime in &self.regimes {
            match holds(&limits[regime.limits.clone()], context_sum, longest) {
                Ok(lasts) => return (regime.bounds.clone(), regime.ways.clone(), steps.min(lasts)),
                Err(comes) => steps = steps.min(comes),
            }
        }
        (self.bounds.clone(), self.ways.clone(), steps)
    }
}

/// For how many steps at least all limits hold, this one among them; or for how many at least they do not.
#[inline(always)]
fn holds(limits: &[Growing], context_sum: f64, longest: f64) -> Result<u32, u32> {
    let (mut lasts, mut comes) = (u32::MAX, 0);
    for &Growing { at, growth } in limits {
        let excess = at.excess(context_sum, longest);
        // Whole steps to where the limit is, rounded down: nothing is promised too long.
        let until = || (-excess / growth).clamp(1.0, f64::from(u32::MAX)) as u32;
        if excess <= 0.0 {
            if growth > 0.0 {
                lasts = lasts.min(until());
            }
        } else if growth < 0.0 {
            comes = comes.max(until());
        } else {
            // It never comes to hold: what others say is the same.
            return Err(u32::MAX);
        }
    }
    if comes == 0 { Ok(lasts) } else { Err(comes) }
}

impl Growing {
    fn of(at: LimitAt, rows: u32) -> Growing {
        Growing { at, growth: at.growth(rows) }
    }
}

impl Coefficients {
    fn first(&self, context_sum: u64, longest: u32) -> u64 {
        self.once + self.token * context_sum + self.longest * u64::from(longest)
    }

    fn of(bound: &DecodeBound, factor: f64, rows: u32) -> Coefficients {
        if rows == 0 {
            return Coefficients { once: 0, token: 0, longest: 0 };
        }
        let [once, token, longest] = bound.at(f64::from(rows)).map(|us| (us * factor * 1e6).round() as u64);
        Coefficients { once, token, longest }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_bounds() -> Attention {
        let bounds = vec![
            DecodeBound::uniform("longest row", 2e-6, 0.0, 3e-6),
            DecodeBound::uniform("bandwidth", 0.0, 1e-6, 0.0),
        ];
        Attention::compile(&DecodeAttention { bounds, ..DecodeAttention::default() }, 1.0)
    }

    #[test]
    fn short_contexts_have_bounds_of_their_own_and_a_promise_ends_with_them() {
        let short = DecodeRegime::short(10, vec![DecodeBound::uniform("short", 5e-6, 1e-6, 0.0)]);
        let bounds = vec![DecodeBound::uniform("bandwidth", 20e-6, 1e-6, 0.0)];
        let mut attention =
            Attention::compile(&DecodeAttention { bounds, regimes: vec![short], ..DecodeAttention::default() }, 1.0);
        let mut at = |context: u32| attention.price(1, u64::from(context), context);
        assert_eq!((at(8).first.as_ps(), at(8).steps), (13, 2));
        assert_eq!((at(10).first.as_ps(), at(10).steps), (15, 1));
        assert_eq!((at(11).first.as_ps(), at(11).steps), (31, u32::MAX));
    }

    #[test]
    fn the_quickest_way_is_taken_and_a_promise_ends_where_another_is_quicker() {
        let mut attention = Attention::compile(
            &DecodeAttention {
                bounds: vec![DecodeBound::uniform("start", 9e-6, 0.0, 0.0)],
                ways: vec![
                    DecodeBound::uniform("even", 2e-6, 3e-6, 0.0),
                    DecodeBound::uniform("dense", 20e-6, 1e-6, 0.0),
                ],
                ..DecodeAttention::default()
            },
            1.0,
        );
        let by_hand = |context: u64| (2 + 3 * context).min(20 + context).max(9);
        for context in 1..30_u32 {
            let price = attention.price(1, u64::from(context), context);
            for step in 0..price.steps.min(40) {
                let promised = price.first + price.increment * u64::from(step);
                assert_eq!(promised.as_ps(), by_hand(u64::from(context + step)), "{context} tokens, step {step}");
            }
        }
        assert_eq!(attention.price(1, 1, 1).steps, 2);
        assert_eq!(attention.price(1, 20, 20).steps, u32::MAX);
    }

    #[test]
    fn the_first_regime_whose_limits_hold_counts_and_a_promise_ends_with_it() {
        let limit = |sum: f64, longest: f64, most: f64| DecodeLimit {
            rows: vec![1.0],
            sum: vec![sum],
            longest: vec![longest],
            most: vec![most],
        };
        let regime = |name: &str, limits: Vec<DecodeLimit>, us: f64| DecodeRegime {
            name: name.to_owned(),
            limits,
            bounds: vec![DecodeBound::uniform(name, us, 1e-6, 0.0)],
            ways: Vec::new(),
        };
        let source = DecodeAttention {
            bounds: vec![DecodeBound::uniform("all", 3e-3, 1e-6, 0.0)],
            regimes: vec![
                // A long one among short ones.
                regime("lopsided", vec![limit(0.0, -1.0, -40.0), limit(1.0, -2.5, 0.0)], 2e-3),
                regime("little", vec![limit(1.0, 0.0, 300.0)], 1e-3),
            ],
            ..DecodeAttention::default()
        };
        let mut attention = Attention::compile(&source, 1.0);
        for begin in [vec![1_u32], vec![9, 30], vec![5, 5, 5, 5], vec![90, 1, 1, 1], vec![39, 1, 1], vec![200, 200]] {
            let rows = begin.len() as u32;
            let mut step = 0;
            while step < 400 {
                let at = |step: u32| {
                    let sum = begin.iter().map(|context| u64::from(context + step)).sum::<u64>();
                    (sum, begin.iter().max().unwrap() + step)
                };
                let (sum, longest) = at(step);
                let price = attention.price(rows, sum, longest);
                assert_eq!(attention.now(rows, sum, longest), price.first);
                for further in 0..price.steps.min(400) {
                    let (sum, longest) = at(step + further);
                    let promised = price.first + price.increment * u64::from(further);
                    let us = source.us(rows, sum, longest);
                    assert_eq!(promised.as_ps(), (us * 1e6).round() as u64, "{begin:?}, step {step} + {further}");
                }
                step = step.saturating_add(price.steps);
            }
        }
        let which = |rows, sum, longest| source.regime(rows, sum, longest);
        assert_eq!((which(1, 50, 50), which(4, 60, 20), which(4, 400, 120)), (Some(0), Some(1), None));
    }

    /// The largest bound at `step` steps from a batch, by hand.
    fn by_hand(contexts: &[u32], step: u64) -> u64 {
        let sum: u64 = contexts.iter().map(|&context| u64::from(context) + step).sum();
        let longest = u64::from(*contexts.iter().max().unwrap()) + step;
        (2 + 3 * longest).max(sum)
    }

    #[test]
    fn a_promise_ends_exactly_where_another_bound_takes_over() {
        let mut attention = two_bounds();
        for contexts in [vec![1], vec![5, 5], vec![5, 5, 5, 5], vec![9, 1, 1, 1, 1], vec![90, 1, 1, 1, 1, 1, 1, 1]] {
            let sum = contexts.iter().map(|&context| u64::from(context)).sum();
            let price = attention.price(contexts.len() as u32, sum, *contexts.iter().max().unwrap());
            for step in 0..price.steps.min(1000) {
                let promised = price.first + price.increment * u64::from(step);
                assert_eq!(promised.as_ps(), by_hand(&contexts, u64::from(step)), "{contexts:?}, step {step}");
            }
            if price.steps < u32::MAX {
                let beyond = price.first + price.increment * u64::from(price.steps);
                assert_ne!(
                    beyond.as_ps(),
                    by_hand(&contexts, u64::from(price.steps)),
                    "{contexts:?} promised too little"
                );
            }
        }
    }
}
