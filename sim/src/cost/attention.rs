//! Decode attention in whole picoseconds: the largest of some affine bounds and the quickest of some affine ways, and for how long it
//! stays that.

use crate::batch::Price;
use crate::profile::attention::{DecodeAttention, DecodeBound};
use crate::time::Span;

/// Row counts up to which coefficients are tabulated.
const DENSE_ROWS: u32 = 1024;

/// All bounds, over all layers.
#[derive(Clone, Debug)]
pub(super) struct Attention {
    /// The bounds, then the ways, the quickest of which is one more bound, then the bounds of short contexts.
    lines: Lines,
    bounds: usize,
    ways: usize,
    /// By rows the longest context for which those of short ones hold; 0: there are none.
    short_max: Vec<u32>,
}

/// What is affine in the contexts, by decode rows.
#[derive(Clone, Debug)]
struct Lines {
    /// Of each number of rows those of all lines, side by side.
    dense: Vec<Coefficients>,
    sources: Vec<DecodeBound>,
    factor: f64,
    /// Those of more rows than are tabulated, made anew each time.
    beyond: Vec<Coefficients>,
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
        let short = attention.short.as_ref();
        let all = attention.bounds.iter().chain(&attention.ways).chain(short.iter().flat_map(|short| &short.bounds));
        Attention {
            lines: Lines::compile(all.cloned().collect(), factor),
            bounds: attention.bounds.len(),
            ways: attention.ways.len(),
            short_max: short.map_or_else(Vec::new, |short| (0..=DENSE_ROWS).map(|rows| short.longest(rows)).collect()),
        }
    }

    /// What so many decode rows pay now, and with each further step, until another bound takes over.
    pub(super) fn price(&mut self, rows: u32, context_sum: u64, longest: u32) -> Price {
        if rows == 0 {
            return Price { first: Span::ZERO, increment: Span::ZERO, steps: u32::MAX };
        }
        let line = |c: &Coefficients| {
            let first = c.once + c.token * context_sum + c.longest * u64::from(longest);
            (first, c.token * u64::from(rows) + c.longest)
        };
        let short_max = self.short_max.get(rows as usize).or(self.short_max.last()).copied().unwrap_or(0);
        let (bounds, others) = self.lines.of(rows).split_at(self.bounds);
        let (ways, short) = others.split_at(self.ways);
        let (bounds, ways, mut steps) = if longest <= short_max && short_max > 0 {
            (short, &[][..], (short_max - longest).saturating_add(1))
        } else {
            (bounds, ways, u32::MAX)
        };
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
        Price { first: Span::from_ps(first), increment: Span::from_ps(increment), steps }
    }
}

impl Lines {
    fn compile(sources: Vec<DecodeBound>, factor: f64) -> Lines {
        let of_rows = |rows| sources.iter().map(move |source| Coefficients::of(source, factor, rows));
        let beyond = of_rows(0).collect();
        Lines { dense: (0..=DENSE_ROWS).flat_map(of_rows).collect(), sources, factor, beyond }
    }

    /// All lines at so many rows.
    fn of(&mut self, rows: u32) -> &[Coefficients] {
        let count = self.sources.len();
        let from = rows as usize * count;
        if rows <= DENSE_ROWS {
            return &self.dense[from..from + count];
        }
        for (mine, source) in self.beyond.iter_mut().zip(&self.sources) {
            *mine = Coefficients::of(source, self.factor, rows);
        }
        &self.beyond
    }
}

impl Coefficients {
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
    use crate::profile::attention::ShortContexts;

    fn two_bounds() -> Attention {
        let bounds = vec![
            DecodeBound::uniform("longest row", 2e-6, 0.0, 3e-6),
            DecodeBound::uniform("bandwidth", 0.0, 1e-6, 0.0),
        ];
        Attention::compile(&DecodeAttention { bounds, ..DecodeAttention::default() }, 1.0)
    }

    #[test]
    fn short_contexts_have_bounds_of_their_own_and_a_promise_ends_with_them() {
        let short = ShortContexts {
            context_max: 10,
            by_rows: Vec::new(),
            bounds: vec![DecodeBound::uniform("short", 5e-6, 1e-6, 0.0)],
        };
        let bounds = vec![DecodeBound::uniform("bandwidth", 20e-6, 1e-6, 0.0)];
        let mut attention = Attention::compile(&DecodeAttention { bounds, ways: Vec::new(), short: Some(short) }, 1.0);
        let mut at = |context: u32| attention.price(1, u64::from(context), context);
        assert_eq!((at(8).first.as_ps(), at(8).steps), (13, 3));
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
                short: None,
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
