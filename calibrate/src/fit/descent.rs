//! Figures of a form that is no sum of its columns, by the method of Levenberg and Marquardt.

use super::least_squares::any_sign;

/// How a fit goes about it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Descent {
    /// Errors beyond this count in proportion.
    pub(super) far: f64,
    /// Steps at most.
    pub(super) steps: u32,
    /// The least share of the loss that a step must gain.
    pub(super) least: f64,
}

/// For slopes: figures are logarithms.
const SLOPE: f64 = 1e-4;

/// The logarithms of figures with which the errors are least, beginning at a guess; and the loss there.
pub(super) fn fit(guess: &[f64], descent: Descent, errors_of: impl Fn(&[f64]) -> Vec<f64>) -> (Vec<f64>, f64) {
    let Descent { far, steps, least } = descent;
    let total = |errors: &[f64]| errors.iter().map(|error| (1.0 + (error / far).powi(2)).sqrt() - 1.0).sum::<f64>();
    let mut at = guess.to_vec();
    let mut errors = errors_of(&at);
    let mut loss = total(&errors);
    let mut ridge = 1e-3;
    for _ in 0..steps {
        let weights: Vec<f64> = errors.iter().map(|error| 1.0 / (1.0 + (error / far).powi(2)).sqrt()).collect();
        let slopes: Vec<Vec<f64>> = (0..at.len())
            .map(|figure| {
                let mut beside = at.clone();
                beside[figure] += SLOPE;
                errors_of(&beside).iter().zip(&errors).map(|(there, here)| (there - here) / SLOPE).collect()
            })
            .collect();
        let target: Vec<f64> = errors.iter().map(|error| -error).collect();
        let before = loss;
        for _ in 0..6 {
            let step = any_sign(&slopes, &target, &weights, ridge);
            let next: Vec<f64> = at.iter().zip(step).map(|(at, step)| at + step.clamp(-1.0, 1.0)).collect();
            let next_errors = errors_of(&next);
            let next_loss = total(&next_errors);
            if next_loss < loss {
                (at, errors, loss) = (next, next_errors, next_loss);
                ridge = (ridge * 0.3_f64).max(1e-7);
                break;
            }
            ridge *= 10.0;
        }
        if loss > before * (1.0 - least) {
            break;
        }
    }
    (at, loss)
}
