//! The machine's jitter in a simulation: every step drawn around its price, as measurements scattered.

use aril_sim::batch::{Batch, Coverage, Executor, Price};
use aril_sim::profile::{Profile, Spread};
use aril_sim::random::{self, Stream};
use aril_sim::time::Span;
use rand::RngExt;

/// An executor whose steps take as long as another's, times a factor drawn from a profile's measurements. Off unless it is wrapped
/// around one.
///
/// It promises nothing beyond the next step, so that stretches of steps and single steps draw the same numbers.
#[derive(Debug)]
pub struct Jittered<E> {
    inner: E,
    levels: Vec<f64>,
    ratio: Vec<f64>,
    residual: Vec<f64>,
    random: Stream,
}

impl<E> Jittered<E> {
    /// Draws from the scatter of whole steps; nothing where the profile has none.
    ///
    /// `seed` is the run's; `which` tells one executor of a run from another.
    pub fn new(inner: E, profile: &Profile, seed: u64, which: usize) -> Option<Jittered<E>> {
        let Spread { levels, ratio, residual, .. } = profile.spread.iter().find(|spread| spread.of == "step")?.clone();
        let random = random::stream(seed, &format!("jitter {which}"));
        Some(Jittered { inner, levels, ratio, residual, random })
    }
}

impl<E: Executor> Executor for Jittered<E> {
    fn run(&mut self, batch: &Batch<'_>) -> Price {
        let price = self.inner.run(batch);
        let (how, what): (f64, f64) = (self.random.random(), self.random.random());
        let factor = quantile(&self.levels, &self.ratio, how) * quantile(&self.levels, &self.residual, what);
        let took = Span::from_secs_f64(price.first.as_secs_f64() * factor).max(Span::from_ps(1));
        // What the step leaves of the clocks, the next one feels.
        Price { sag: price.sag, ..Price::once(took) }
    }

    fn coverage(&self) -> Coverage {
        self.inner.coverage()
    }
}

/// The value that a share of the measurements stays below; straight between the levels, the first and last outside.
fn quantile(levels: &[f64], values: &[f64], share: f64) -> f64 {
    let last = levels.len() - 1;
    let right = levels.partition_point(|level| *level < share);
    if right == 0 || right > last {
        return values[right.min(last)];
    }
    let left = right - 1;
    values[left] + (values[right] - values[left]) * (share - levels[left]) / (levels[right] - levels[left])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_straight_between_their_levels() {
        let (levels, values) = ([0.1, 0.5, 0.9], [0.8, 1.0, 1.4]);
        for (share, value) in [(0.0, 0.8), (0.1, 0.8), (0.3, 0.9), (0.5, 1.0), (0.7, 1.2), (0.9, 1.4), (1.0, 1.4)] {
            assert!((quantile(&levels, &values, share) - value).abs() < 1e-12, "{share}");
        }
    }
}
