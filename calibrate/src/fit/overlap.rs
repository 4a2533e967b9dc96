//! Adapters beside the products of few rows: what they add to a step, by what they take alone and what the products take longer.

use aril_sim::profile::{LoraOverlap, beside};

use super::descent::{self, Descent};

/// What our adapters add to a layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Added {
    /// Rows of the step, as the machine pads them.
    pub(super) rows: u32,
    /// What they take alone, and what they add, microseconds.
    pub(super) alone_us: f64,
    pub(super) us: f64,
}

/// Fewer tell nothing.
const LEAST: usize = 12;
/// What products of the fewest rows take longer, and what those of the next number of rows more: about what an H200 says, where a fit begins.
const FIRST_US: f64 = 4.0;
const NEXT_US: f64 = 0.5;
/// How much a figure may be off its guess before it counts as much as an error of a percent in one sample.
const DRAWN: f64 = 0.005;
const DESCENT: Descent = Descent { far: 0.05, steps: 60, least: 1e-5 };

/// The form that comes nearest to what was measured by turns; none where too little was.
pub(super) fn fit(samples: &[Added], rows_max: u32) -> Option<LoraOverlap> {
    let samples: Vec<&Added> = samples.iter().filter(|sample| sample.rows <= rows_max && sample.us > 0.0).collect();
    if samples.len() < LEAST {
        return None;
    }
    let mut rows: Vec<u32> = samples.iter().map(|sample| sample.rows).collect();
    rows.sort_unstable();
    rows.dedup();
    let mut guess = vec![NEXT_US.ln(); rows.len() + 1];
    (guess[0], guess[1]) = (0.0, FIRST_US.ln());
    let (at, _) = descent::fit(&guess, DESCENT, |at| {
        let (scale, least_us) = figures(at);
        let of = |sample: &&Added| {
            let place = rows.binary_search(&sample.rows).expect("every number of rows is there");
            beside(least_us[place], scale * sample.alone_us) / sample.us - 1.0
        };
        let drawn = at.iter().zip(&guess).map(|(at, guess)| (at - guess) * DRAWN);
        samples.iter().map(of).chain(drawn).collect()
    });
    let (scale, least_us) = figures(&at);
    let rows = rows.into_iter().map(f64::from).collect();
    Some(LoraOverlap { rows_max, scale, scale_row: 0.0, us_per_layer: 0.0, us_per_layer_row: 0.0, rows, least_us })
}

/// The scale of adapters, and what products take longer at each number of rows, of logarithms: more rows never less.
fn figures(at: &[f64]) -> (f64, Vec<f64>) {
    let sums = at[1..].iter().scan(0.0, |sum, step| {
        *sum += step.exp();
        Some(*sum)
    });
    (at[0].exp(), sums.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_products_take_longer_and_the_scale_of_adapters_are_found() {
        let truth = [(1, 3.5), (4, 4.0), (16, 6.0), (32, 13.0)];
        let samples = |noise: f64| -> Vec<Added> {
            let us = |least: f64, alone_us: f64| beside(least, 0.9 * alone_us);
            let all =
                truth.iter().flat_map(|&(rows, least)| [1.0, 2.0, 4.0, 8.0, 16.0, 64.0].map(|x| (rows, least, x)));
            let sign = |index: usize| if index.is_multiple_of(2) { 1.0 + noise } else { 1.0 - noise };
            all.enumerate()
                .map(|(i, (rows, least, alone_us))| Added { rows, alone_us, us: us(least, alone_us) * sign(i) })
                .collect()
        };
        for (noise, allowed) in [(0.0, 0.01), (0.03, 0.04)] {
            let found = fit(&samples(noise), 32).unwrap();
            assert!((found.scale / 0.9 - 1.0).abs() < allowed, "{found:?}");
            for (rows, least) in truth {
                assert!((found.least_us(rows).unwrap() / least - 1.0).abs() < allowed, "{rows} rows: {found:?}");
            }
        }
        assert_eq!(fit(&samples(0.0)[..LEAST - 1], 32), None);
    }

    #[test]
    fn more_rows_never_make_products_wait_less() {
        let samples: Vec<Added> = (1..=32)
            .flat_map(|rows| {
                [2.0, 20.0].map(|alone_us| Added { rows, alone_us, us: beside(9.0 - f64::from(rows) / 8.0, alone_us) })
            })
            .collect();
        let found = fit(&samples, 32).unwrap();
        assert!(found.least_us.windows(2).all(|pair| pair[0] <= pair[1]), "{found:?}");
    }
}
