//! Least squares, with coefficients that must not be negative or with any.

/// Columns of a design, one value a sample each.
pub(super) type Columns = [Vec<f64>];

/// The coefficients, none below `lower`, that bring the weighted sum of the columns nearest to `target` (Lawson and Hanson 1974).
///
/// Columns are scaled to unit length first, so that their units do not matter.
pub(super) fn non_negative(columns: &Columns, lower: &[f64], target: &[f64], weights: &[f64]) -> Vec<f64> {
    let n = columns.len();
    let lengths: Vec<f64> = columns.iter().map(|column| length(column, weights)).collect();
    let rest: Vec<f64> = (0..target.len())
        .map(|row| target[row] - columns.iter().zip(lower).map(|(column, low)| column[row] * low).sum::<f64>())
        .collect();
    let (gram, moment) = normal(columns, &lengths, &rest, weights);
    let mut x = vec![0.0; n];
    let mut free = vec![false; n];
    // Each pass frees one column; a few more passes than columns always suffice in practice.
    for _ in 0..3 * n + 3 {
        let gradient = |i: usize| moment[i] - (0..n).map(|j| gram[i][j] * x[j]).sum::<f64>();
        let next = (0..n)
            .filter(|&i| !free[i] && lengths[i] > 0.0)
            .map(|i| (i, gradient(i)))
            .filter(|(_, g)| *g > 1e-9 * moment.iter().fold(0.0, |a: f64, b| a.max(b.abs())).max(1e-12))
            .max_by(|a, b| a.1.total_cmp(&b.1));
        let Some((next, _)) = next else { break };
        free[next] = true;
        loop {
            let chosen: Vec<usize> = (0..n).filter(|&i| free[i]).collect();
            let solved = solve(&gram, &moment, &chosen, 1e-10);
            if solved.iter().all(|value| *value > 0.0) {
                x.fill(0.0);
                chosen.iter().zip(solved).for_each(|(&i, value)| x[i] = value);
                break;
            }
            // Go as far towards the solution as no coefficient falls below zero, and bind those that stop us.
            let share = chosen
                .iter()
                .zip(&solved)
                .filter(|(_, value)| **value <= 0.0)
                .map(|(&i, value)| x[i] / (x[i] - value))
                .fold(1.0, f64::min);
            for (&i, value) in chosen.iter().zip(&solved) {
                x[i] += share * (value - x[i]);
                if x[i] <= 1e-12 {
                    x[i] = 0.0;
                    free[i] = false;
                }
            }
            if !free.iter().any(|free| *free) {
                break;
            }
        }
    }
    (0..n).map(|i| lower[i] + if lengths[i] > 0.0 { x[i] / lengths[i] } else { 0.0 }).collect()
}

/// The coefficients, of any sign, that bring the weighted sum of the columns nearest to `target`, and are drawn towards zero by
/// `ridge`, a share of what the columns weigh.
pub(super) fn any_sign(columns: &Columns, target: &[f64], weights: &[f64], ridge: f64) -> Vec<f64> {
    let lengths: Vec<f64> = columns.iter().map(|column| length(column, weights)).collect();
    let (gram, moment) = normal(columns, &lengths, target, weights);
    let all: Vec<usize> = (0..columns.len()).filter(|&i| lengths[i] > 0.0).collect();
    let mut x = vec![0.0; columns.len()];
    for (&i, value) in all.iter().zip(solve(&gram, &moment, &all, ridge)) {
        x[i] = value / lengths[i];
    }
    x
}

fn length(column: &[f64], weights: &[f64]) -> f64 {
    column.iter().zip(weights).map(|(value, weight)| weight * value * value).sum::<f64>().sqrt()
}

/// The normal equations of columns divided by their lengths.
fn normal(columns: &Columns, lengths: &[f64], target: &[f64], weights: &[f64]) -> (Vec<Vec<f64>>, Vec<f64>) {
    let unit = |i: usize| if lengths[i] > 0.0 { 1.0 / lengths[i] } else { 0.0 };
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).zip(weights).map(|((a, b), w)| a * b * w).sum::<f64>();
    let gram = (0..columns.len())
        .map(|i| (0..columns.len()).map(|j| dot(&columns[i], &columns[j]) * unit(i) * unit(j)).collect())
        .collect();
    let moment = (0..columns.len()).map(|i| dot(&columns[i], target) * unit(i)).collect();
    (gram, moment)
}

/// Solves the chosen rows and columns of a symmetric system by Cholesky, its diagonal raised by `ridge`.
fn solve(gram: &[Vec<f64>], moment: &[f64], chosen: &[usize], ridge: f64) -> Vec<f64> {
    let n = chosen.len();
    let mut lower = vec![vec![0.0; n]; n];
    for i in 0..n {
        for j in 0..=i {
            let known: f64 = (0..j).map(|k| lower[i][k] * lower[j][k]).sum();
            let value = gram[chosen[i]][chosen[j]] - known;
            lower[i][j] = if i == j { (value + ridge).max(1e-14).sqrt() } else { value / lower[j][j] };
        }
    }
    let mut x: Vec<f64> = chosen.iter().map(|&i| moment[i]).collect();
    for i in 0..n {
        let known: f64 = (0..i).map(|k| lower[i][k] * x[k]).sum();
        x[i] = (x[i] - known) / lower[i][i];
    }
    for i in (0..n).rev() {
        let known: f64 = (i + 1..n).map(|k| lower[k][i] * x[k]).sum();
        x[i] = (x[i] - known) / lower[i][i];
    }
    x
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(a: &[f64], b: &[f64]) {
        assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6 * (1.0 + b.abs())), "{a:?} is not {b:?}");
    }

    #[test]
    fn coefficients_that_are_there_are_found_whatever_their_units() {
        let columns = [vec![1.0; 6], vec![1e6, 2e6, 3e6, 5e6, 8e6, 13e6], vec![1e-3, 4e-3, 1e-3, 2e-3, 9e-3, 3e-3]];
        let truth = [2.0, 3e-7, 5e2];
        let target: Vec<f64> = (0..6).map(|i| (0..3).map(|c| truth[c] * columns[c][i]).sum()).collect();
        near(&non_negative(&columns, &[0.0; 3], &target, &[1.0; 6]), &truth);
        near(&any_sign(&columns, &target, &[1.0; 6], 0.0), &truth);
    }

    /// By hand: without the bound the slope would be −1; with it, the mean remains.
    #[test]
    fn what_would_be_negative_is_zero_and_the_rest_makes_the_best_of_it() {
        let columns = [vec![1.0; 3], vec![0.0, 1.0, 2.0]];
        let target = [3.0, 2.0, 1.0];
        near(&non_negative(&columns, &[0.0; 2], &target, &[1.0; 3]), &[2.0, 0.0]);
        near(&any_sign(&columns, &target, &[1.0; 3], 0.0), &[3.0, -1.0]);
        // A lower bound binds.
        near(&non_negative(&columns, &[0.0, 0.5], &target, &[1.0; 3]), &[1.5, 0.5]);
        // A weight of zero is a sample that was not there.
        near(&non_negative(&columns, &[0.0; 2], &[3.0, 2.0, 4.0], &[1.0, 0.0, 1.0]), &[3.0, 0.5]);
    }
}
