//! In which order steps follow each other as where requests are served: decode steps of a batch that changes now and then, a prompt
//! among them every few steps, and pauses, or none.

use aril_sim::random;
use rand::RngExt;

use super::StepShape;

/// Each shape is asked for alone so often before they follow each other: decode rows one after the other behind a rest, prompts each behind one.
pub const ALONE: usize = 5;

/// One of every so many steps has a prompt, another batch decodes, a pause comes before.
const PROMPT_EVERY: u32 = 7;
const BATCH_EVERY: u32 = 10;
const PAUSE_EVERY: u32 = 12;
/// How long pauses are, milliseconds.
const PAUSES_MS: std::ops::Range<u32> = 2..42;

/// A step among others.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Served {
    /// Which of the shapes.
    pub shape: usize,
    /// How long the card rests before, microseconds.
    pub rested_us: f64,
}

/// The order, which is always the same. Empty where no shape has prompts, or all have.
pub fn order(shapes: &[StepShape], steps: u32, pauses: bool) -> Vec<Served> {
    let (prompts, decode): (Vec<usize>, Vec<usize>) =
        (0..shapes.len()).partition(|&shape| !shapes[shape].prompts.is_empty());
    if prompts.is_empty() || decode.is_empty() {
        return Vec::new();
    }
    let mut random = random::stream(u64::from(pauses), "served steps");
    let mut batch = decode[0];
    let mut served = Vec::with_capacity(steps as usize);
    for _ in 0..steps {
        if random.random_ratio(1, BATCH_EVERY) {
            batch = decode[random.random_range(0..decode.len())];
        }
        let rests = random.random_ratio(1, PAUSE_EVERY) && pauses;
        let rested_us = if rests { f64::from(random.random_range(PAUSES_MS)) * 1e3 } else { 0.0 };
        let prompt = random.random_ratio(1, PROMPT_EVERY);
        let shape = if prompt { prompts[random.random_range(0..prompts.len())] } else { batch };
        served.push(Served { shape, rested_us });
    }
    served
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_has_its_steps_and_pauses_are_only_where_they_are_asked_for() {
        let shapes = [StepShape::decode(8, 512), StepShape::prompt(512, 0), StepShape::decode(32, 512)];
        let (busy, calm) = (order(&shapes, 400, false), order(&shapes, 400, true));
        for shape in 0..shapes.len() {
            assert!(busy.iter().filter(|served| served.shape == shape).count() > 30, "{shape}");
        }
        let prompts = busy.iter().filter(|served| served.shape == 1).count();
        assert!((40..80).contains(&prompts), "{prompts}");
        assert!(busy.iter().all(|served| served.rested_us == 0.0));
        assert!(calm.iter().filter(|served| served.rested_us > 0.0).count() > 15);
        assert_eq!(order(&shapes, 400, true), calm);
        assert_eq!(order(&shapes[1..2], 400, true), []);
    }
}
