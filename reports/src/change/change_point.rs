//! Where in a series did the level change?

use statrs::distribution::{Continuous, ContinuousCDF, Normal};

/// Penalty of a change point: this times the logarithm of the length, in variances of the noise. Set by counting false alarms
/// on series without a change (a test of this file).
const PENALTY: f64 = 5.0;
/// The noise of a short series is known poorly: it is taken to be larger by this over the length.
const CAUTION: f64 = 3.0;
/// The share of the steps between neighbours, the smallest ones, that tells the noise: changes of level are among the others.
const QUIET: f64 = 0.8;
/// A segment of a noisy series is at least so long: a single outlier is no new level.
const NOISY_LENGTH_MIN: usize = 3;
/// A new level.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ChangePoint {
    /// Position of the first value on the new level.
    pub at: usize,
    /// Mean of the level before.
    pub before: f64,
    /// Mean of the new level.
    pub after: f64,
}

/// Where the level of a series changes: the segmentation with the least squared error, each change point at a price.
///
/// Exact (dynamic programming over all segmentations) and deterministic. The noise is read off the smaller steps between
/// neighbours, so that changes do not count as noise. A series that mostly repeats itself, as a deterministic simulation does
/// from commit to commit, has no noise: there every step of at least `least` counts, a single last value included. No change of
/// less than `least` (in units of the series) is reported.
pub fn change_points(values: &[f64], least: f64) -> Vec<ChangePoint> {
    let count = values.len();
    if count < 2 || values.iter().any(|value| !value.is_finite()) {
        return Vec::new();
    }
    let penalty = PENALTY * (count as f64).ln().max(1.0);
    let noise = noise(values);
    // One value that is `least` off costs, as a part of its neighbours' segment, about `least` squared.
    let floor = least.abs().max(f64::EPSILON * largest(values)) / penalty.sqrt() * (1.0 - 1.0 / count as f64).sqrt();
    let (variance, shortest) = if noise > floor { (noise * noise, NOISY_LENGTH_MIN) } else { (floor * floor, 1) };
    let mut starts = segment(values, penalty * variance * 0.999_999, shortest);
    loop {
        let points = points(values, &starts);
        // Cheapest first: merging two segments moves the mean of both.
        let Some((weakest, _)) = points
            .iter()
            .enumerate()
            .filter(|(_, point)| (point.after - point.before).abs() < least)
            .min_by(|(_, a), (_, b)| (a.after - a.before).abs().total_cmp(&(b.after - b.before).abs()))
        else {
            return points;
        };
        starts.remove(weakest);
    }
}

/// The standard deviation of the noise: neighbours differ by √2 of it where nothing changed.
fn noise(values: &[f64]) -> f64 {
    let mut squares: Vec<f64> = values.windows(2).map(|pair| (pair[1] - pair[0]).powi(2)).collect();
    squares.sort_by(f64::total_cmp);
    let kept = (QUIET * squares.len() as f64) as usize;
    if kept == 0 {
        return 0.0;
    }
    // Of normal steps, the mean square of the `share` nearest to zero is this part of their variance.
    let share = kept as f64 / squares.len() as f64;
    let normal = Normal::standard();
    let edge = normal.inverse_cdf((1.0 + share) / 2.0);
    let part = 1.0 - 2.0 * edge * normal.pdf(edge) / share;
    let variance = squares[..kept].iter().sum::<f64>() / kept as f64 / part / 2.0;
    variance.sqrt() * (1.0 + CAUTION / values.len() as f64)
}

fn largest(values: &[f64]) -> f64 {
    values.iter().fold(f64::MIN_POSITIVE, |largest, value| largest.max(value.abs()))
}

/// The first positions of all segments but the first, of the segmentation with the least squared error plus penalties.
fn segment(values: &[f64], penalty: f64, shortest: usize) -> Vec<usize> {
    let count = values.len();
    // Sums from the mean: squares of large values that hardly differ would cancel.
    let centre = values.iter().sum::<f64>() / count as f64;
    let mut sums = vec![(0.0, 0.0); count + 1];
    for (i, value) in values.iter().enumerate() {
        let x = value - centre;
        sums[i + 1] = (sums[i].0 + x, sums[i].1 + x * x);
    }
    let error = |from: usize, to: usize| {
        let (sum, squares) = (sums[to].0 - sums[from].0, sums[to].1 - sums[from].1);
        (squares - sum * sum / (to - from) as f64).max(0.0)
    };
    let mut best = vec![f64::INFINITY; count + 1];
    let mut last = vec![0; count + 1];
    best[0] = -penalty;
    for end in 1..=count {
        for start in (0..=end.saturating_sub(shortest)).filter(|start| *start < end) {
            let cost = best[start] + penalty + error(start, end);
            if cost < best[end] {
                (best[end], last[end]) = (cost, start);
            }
        }
    }
    let mut starts = Vec::new();
    let mut end = last[count];
    while end > 0 {
        starts.push(end);
        end = last[end];
    }
    starts.reverse();
    starts
}

fn points(values: &[f64], starts: &[usize]) -> Vec<ChangePoint> {
    let edges: Vec<usize> = std::iter::once(0).chain(starts.iter().copied()).chain([values.len()]).collect();
    let mean = |from: usize, to: usize| values[from..to].iter().sum::<f64>() / (to - from) as f64;
    edges.windows(3).map(|e| ChangePoint { at: e[1], before: mean(e[0], e[1]), after: mean(e[1], e[2]) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use aril_sim::random::stream;
    use rand::Rng;

    fn noise_of(count: usize, deviation: f64, seed: u64) -> Vec<f64> {
        let mut stream = stream(seed, "change points");
        let normal = Normal::new(0.0, deviation).unwrap();
        (0..count).map(|_| normal.inverse_cdf((stream.next_u64() as f64 + 0.5) / 2f64.powi(64))).collect()
    }

    fn places(values: &[f64], least: f64) -> Vec<usize> {
        change_points(values, least).iter().map(|point| point.at).collect()
    }

    #[test]
    fn noise_alone_has_a_change_point_in_two_series_of_a_hundred_at_most() {
        for count in [12, 30, 100] {
            let alarms = (0..1000).filter(|seed| !places(&noise_of(count, 1.0, *seed), 1e-3).is_empty()).count();
            assert!(alarms <= 20, "{alarms} of 1000 series of {count}");
        }
    }

    #[test]
    fn a_shift_of_four_deviations_is_found_where_it_is() {
        let mut right = 0;
        for seed in 0..100 {
            let mut values = noise_of(30, 1.0, seed);
            values[17..].iter_mut().for_each(|value| *value += 4.0);
            let found = change_points(&values, 1e-3);
            assert_eq!(found.len(), 1, "series {seed}: {found:?}");
            assert!((3.0..5.0).contains(&(found[0].after - found[0].before)));
            right += usize::from(found[0].at.abs_diff(17) <= 1);
        }
        assert!(right >= 97, "{right} of 100");
    }

    #[test]
    fn in_a_series_without_noise_every_step_that_matters_is_marked() {
        let mut values = vec![10.0; 30];
        values[12..].iter_mut().for_each(|value| *value = 10.2);
        values[29] = 10.31;
        assert_eq!(places(&values, 0.1), [12, 29]);
        // The second step is smaller than what matters.
        assert_eq!(places(&values, 0.15), [12]);
        assert!(places(&values, 0.3).is_empty());
        assert!(places(&[5.0; 30], 0.0).is_empty());
        assert_eq!(places(&[1e9, 1e9 + 1.0], 0.5), [1]);
    }

    #[test]
    fn two_changes_are_two_and_their_levels_are_means() {
        let mut values = noise_of(60, 0.01, 7);
        values[20..40].iter_mut().for_each(|value| *value += 1.0);
        let found = change_points(&values, 0.1);
        assert_eq!(found.iter().map(|point| point.at).collect::<Vec<_>>(), [20, 40]);
        assert!((found[0].after - 1.0).abs() < 0.01 && found[1].after.abs() < 0.01);
    }

    #[test]
    fn nothing_is_found_where_there_is_no_series() {
        assert!(places(&[], 0.1).is_empty());
        assert!(places(&[1.0], 0.1).is_empty());
        assert!(places(&[1.0, f64::NAN, 3.0], 0.1).is_empty());
    }
}
