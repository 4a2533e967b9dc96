//! The largest of some sums of terms: the form that follows from several things that can bound a kernel.

use super::least_squares::non_negative;

/// A column of the design: one value a sample, and the least coefficient that physics allows.
#[derive(Clone, Debug)]
pub(super) struct Column {
    pub(super) values: Vec<f64>,
    pub(super) lower: f64,
}

impl Column {
    pub(super) fn new(values: Vec<f64>) -> Column {
        Column { values, lower: 0.0 }
    }
}

/// Coefficients of each bound, and how well they do.
#[derive(Clone, Debug)]
pub(super) struct BoundsFit {
    pub(super) coefficients: Vec<Vec<f64>>,
    /// Sum over samples of the Huber loss of the relative error.
    pub(super) loss: f64,
}

/// Relative errors beyond this count in proportion, not squared: outliers do not pull.
const HUBER: f64 = 0.02;

/// Fits `us` by the largest of the bounds, in relative error, robustly, no coefficient below its least.
///
/// Which bound holds where is found by turns (Magnani and Boyd 2009): fit each to its samples, give each sample to the larger, again.
/// `starts` gives first guesses: for each sample the bound that it belongs to.
pub(super) fn fit(bounds: &[Vec<Column>], us: &[f64], starts: &[Vec<usize>]) -> BoundsFit {
    let mut best: Option<BoundsFit> = None;
    let single = vec![vec![0; us.len()]];
    let starts = if bounds.len() == 1 { &single } else { starts };
    for start in starts {
        let mut owner = start.clone();
        let mut coefficients: Vec<Vec<f64>> = bounds.iter().map(|b| b.iter().map(|c| c.lower).collect()).collect();
        for _ in 0..12 {
            for (index, bound) in bounds.iter().enumerate() {
                let mine: Vec<usize> = (0..us.len()).filter(|&i| owner[i] == index).collect();
                if mine.len() >= 2 {
                    coefficients[index] = robust_on(bound, us, &mine);
                }
            }
            let fit = BoundsFit { loss: loss(bounds, &coefficients, us), coefficients: coefficients.clone() };
            if best.as_ref().is_none_or(|best| fit.loss < best.loss) {
                best = Some(fit);
            }
            let next: Vec<usize> = (0..us.len()).map(|i| largest(bounds, &coefficients, i)).collect();
            if next == owner {
                break;
            }
            owner = next;
        }
    }
    best.unwrap_or(BoundsFit { coefficients: bounds.iter().map(|b| vec![0.0; b.len()]).collect(), loss: f64::INFINITY })
}

/// Fits `us` by the smallest of some lines, in relative error, robustly: each sample to the line that decides about it, again and again.
pub(super) fn fit_least(lines: &[Vec<Column>], us: &[f64], starts: &[Vec<usize>]) -> BoundsFit {
    let says = |x: &[Vec<f64>], i: usize| {
        (0..lines.len()).map(|line| value(&lines[line], &x[line], i)).enumerate().min_by(|a, b| a.1.total_cmp(&b.1))
    };
    let mut best: Option<BoundsFit> = None;
    for start in starts {
        let mut owner = start.clone();
        let first = robust(&lines[0], us);
        let mut coefficients: Vec<Vec<f64>> = lines.iter().map(|_| first.clone()).collect();
        for _ in 0..12 {
            for (index, line) in lines.iter().enumerate() {
                let mine: Vec<usize> = (0..us.len()).filter(|&i| owner[i] == index).collect();
                if mine.len() > line.len() {
                    coefficients[index] = robust_on(line, us, &mine);
                }
            }
            let told: Vec<(usize, f64)> = (0..us.len()).filter_map(|i| says(&coefficients, i)).collect();
            let loss = told.iter().zip(us).map(|((_, told), us)| huber(told / us - 1.0)).sum();
            if best.as_ref().is_none_or(|best: &BoundsFit| loss < best.loss) {
                best = Some(BoundsFit { loss, coefficients: coefficients.clone() });
            }
            let next: Vec<usize> = told.iter().map(|(line, _)| *line).collect();
            if next == owner {
                break;
            }
            owner = next;
        }
    }
    best.unwrap_or(BoundsFit { coefficients: lines.iter().map(|b| vec![0.0; b.len()]).collect(), loss: f64::INFINITY })
}

/// What a fit says of sample `i`.
pub(super) fn predict(bounds: &[Vec<Column>], coefficients: &[Vec<f64>], i: usize) -> f64 {
    (0..bounds.len()).map(|bound| value(&bounds[bound], &coefficients[bound], i)).fold(0.0, f64::max)
}

fn value(bound: &[Column], coefficients: &[f64], i: usize) -> f64 {
    bound.iter().zip(coefficients).map(|(column, c)| column.values[i] * c).sum()
}

fn largest(bounds: &[Vec<Column>], coefficients: &[Vec<f64>], i: usize) -> usize {
    let of = |bound: usize| value(&bounds[bound], &coefficients[bound], i);
    (0..bounds.len()).max_by(|&a, &b| of(a).total_cmp(&of(b))).unwrap_or(0)
}

/// The same for one sum on all samples.
pub(super) fn robust(bound: &[Column], us: &[f64]) -> Vec<f64> {
    robust_on(bound, us, &(0..us.len()).collect::<Vec<_>>())
}

/// Non-negative least squares of relative errors on some samples, reweighted so that far ones pull less.
fn robust_on(bound: &[Column], us: &[f64], mine: &[usize]) -> Vec<f64> {
    let columns: Vec<Vec<f64>> = bound.iter().map(|c| mine.iter().map(|&i| c.values[i] / us[i]).collect()).collect();
    let lower: Vec<f64> = bound.iter().map(|c| c.lower).collect();
    let target = vec![1.0; mine.len()];
    let mut weights = vec![1.0; mine.len()];
    let mut x = Vec::new();
    for _ in 0..4 {
        x = non_negative(&columns, &lower, &target, &weights);
        for (row, weight) in weights.iter_mut().enumerate() {
            let error: f64 = columns.iter().zip(&x).map(|(column, c)| column[row] * c).sum::<f64>() - 1.0;
            *weight = (HUBER / error.abs().max(HUBER)).max(1e-3);
        }
    }
    x
}

fn loss(bounds: &[Vec<Column>], coefficients: &[Vec<f64>], us: &[f64]) -> f64 {
    (0..us.len()).map(|i| huber(predict(bounds, coefficients, i) / us[i] - 1.0)).sum()
}

/// What a relative error counts.
pub(super) fn huber(error: f64) -> f64 {
    let error = error.abs();
    if error <= HUBER { error * error } else { HUBER * (2.0 * error - HUBER) }
}

/// First guesses for two bounds: the samples with more of a quantity than its quantiles belong to the second.
pub(super) fn starts_by(quantity: &[f64]) -> Vec<Vec<usize>> {
    let mut sorted = quantity.to_vec();
    sorted.sort_by(f64::total_cmp);
    [0.15, 0.3, 0.5, 0.7, 0.85]
        .iter()
        .filter_map(|share| sorted.get((share * sorted.len() as f64) as usize))
        .map(|&edge| quantity.iter().map(|&q| usize::from(q > edge)).collect())
        .collect()
}

/// Columns of a rising line with bends at the knots: flat before the first, the last slope goes on. No coefficient below zero: it never falls.
pub(super) fn ramps(quantity: &[f64], knots: &[f64]) -> Vec<Column> {
    let last = knots.len() - 1;
    (0..last)
        .map(|k| {
            let width = if k + 1 == last { f64::INFINITY } else { knots[k + 1] - knots[k] };
            Column::new(quantity.iter().map(|&q| (q - knots[k]).clamp(0.0, width)).collect())
        })
        .collect()
}

/// The table that the coefficients of [`ramps`] make.
pub(super) fn ramp_table(knots: &[f64], coefficients: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let mut us = vec![0.0];
    for (k, slope) in coefficients.iter().enumerate() {
        us.push(us[k] + slope * (knots[k + 1] - knots[k]));
    }
    (knots.to_vec(), us)
}

/// What the value at knot `k` of straight lines weighs at `x`; the first and last value hold outside.
pub(super) fn hat(knots: &[f64], k: usize, x: f64) -> f64 {
    let x = x.clamp(knots[0], knots[knots.len() - 1]);
    let left = if k > 0 { (x - knots[k - 1]) / (knots[k] - knots[k - 1]) } else { 1.0 };
    let right = if k + 1 < knots.len() { (knots[k + 1] - x) / (knots[k + 1] - knots[k]) } else { 1.0 };
    left.min(right).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_bounds_are_told_apart_by_what_they_bound() {
        let x: Vec<f64> = (1..60).map(|i| f64::from(i * 7 % 60)).collect();
        let y: Vec<f64> = (1..60).map(|i| f64::from(i * 13 % 60)).collect();
        let us: Vec<f64> = x.iter().zip(&y).map(|(x, y)| (4.0 + 2.0 * x).max(10.0 + 0.5 * y)).collect();
        let ones = vec![1.0; x.len()];
        let bounds = vec![
            vec![Column::new(ones.clone()), Column::new(x.clone())],
            vec![Column::new(ones), Column::new(y.clone())],
        ];
        let fit = fit(&bounds, &us, &starts_by(&y));
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-3, "{fit:?}");
        close(fit.coefficients[0][0], 4.0);
        close(fit.coefficients[0][1], 2.0);
        close(fit.coefficients[1][0], 10.0);
        close(fit.coefficients[1][1], 0.5);
    }

    #[test]
    fn one_wild_sample_does_not_pull_the_fit() {
        let x: Vec<f64> = (1..40).map(f64::from).collect();
        let mut us: Vec<f64> = x.iter().map(|x| 5.0 + 3.0 * x).collect();
        us[20] *= 2.0;
        let bounds = vec![vec![Column::new(vec![1.0; x.len()]), Column::new(x)]];
        let fit = fit(&bounds, &us, &[]);
        assert!((fit.coefficients[0][1] - 3.0).abs() < 0.01, "{fit:?}");
    }

    #[test]
    fn hats_share_out_every_place_among_its_neighbours() {
        for x in [1.0, 1.5, 3.0, 4.0, 7.0, 100.0] {
            let weights: Vec<f64> = (0..3).map(|k| hat(&[1.0, 4.0, 8.0], k, x)).collect();
            assert!((weights.iter().sum::<f64>() - 1.0).abs() < 1e-12, "{x}: {weights:?}");
        }
        assert_eq!(hat(&[1.0, 4.0, 8.0], 1, 6.0), 0.5);
    }

    #[test]
    fn a_ramp_and_its_table_say_the_same() {
        let knots = [1.0, 4.0, 10.0];
        let quantity: Vec<f64> = (0..20).map(f64::from).collect();
        let columns = ramps(&quantity, &knots);
        let coefficients = [2.0, 0.5];
        let (xs, ys) = ramp_table(&knots, &coefficients);
        let table = aril_sim::profile::curve::Curve::Table { rows: xs, us: ys };
        for (i, q) in quantity.iter().enumerate().skip(1) {
            let sum: f64 = columns.iter().zip(&coefficients).map(|(column, c)| column.values[i] * c).sum();
            assert!((sum - table.us(*q)).abs() < 1e-12, "{q}");
        }
    }
}
