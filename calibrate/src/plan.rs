//! What is measured, and in which order: most informative first, shuffled within a stage, bounded by what the machine holds.

mod adapters;
mod parts;
mod steps;

use std::collections::BTreeSet;

use aril_sim::profile::lora::LoraKernel;
use aril_sim::random;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use crate::machine::{Identity, Limits, Question, StepShape};

pub use adapters::Popularity;

/// What is measured, in order.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Which random shapes, and which order.
    pub seed: u64,
    /// Stage by stage; shuffled within a stage, so that drift does not look like shape.
    pub points: Vec<Planned>,
}

/// One measurement.
#[derive(Clone, Debug, PartialEq)]
pub struct Planned {
    /// What is asked.
    pub question: Question,
    /// How often it is answered.
    pub repeats: u32,
    /// When: a profile can be fitted once stage 1 is there; later stages make it better.
    pub stage: u32,
    /// About how long the answer takes on a recent data-centre GPU, seconds.
    pub seconds: f64,
}

/// How the machine's adapter memory must be cut for a question: so many slots of one rank, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Slots {
    /// How many.
    pub count: u32,
    /// The rank that each has room for.
    pub rank: u32,
}

impl Slots {
    /// LoRA is off.
    pub const OFF: Slots = Slots { count: 0, rank: 0 };

    /// The ranks that slots are cut for.
    const RANKS: [u32; 3] = [16, 64, 128];

    /// The cut that a question needs: the narrowest slots that its ranks fit.
    pub fn of(question: &Question, limits: &Limits) -> Slots {
        let (kernel, rank) = match question {
            Question::Lora { kernel, shape } | Question::Step { kernel, shape } | Question::Host { kernel, shape } => {
                (*kernel, shape.rank_max())
            }
            Question::Load { rank, .. } | Question::Switch { rank } => (LoraKernel::Segmented, *rank),
            Question::StepBesideLoad { .. } => (LoraKernel::Segmented, 16),
            Question::Operation { .. } | Question::Copy { .. } => return Slots::OFF,
        };
        if kernel == LoraKernel::None {
            return Slots::OFF;
        }
        let rank = Slots::RANKS.into_iter().find(|slot| *slot >= rank).unwrap_or(limits.rank).min(limits.rank);
        Slots { count: (limits.rank_sum / rank.max(1)).min(limits.adapters).max(1), rank }
    }
}

impl Plan {
    /// The plan for a machine: every question that it has room for, with those LoRA kernels.
    ///
    /// `rank_max` and the rest of the limits cut what cannot be held; nothing else depends on the machine, so that two
    /// calibrations of one GPU ask the same.
    pub fn new(identity: &Identity, kernels: &[LoraKernel], seed: u64) -> Plan {
        let mut draft = Draft { limits: identity.limits, points: Vec::new(), seen: BTreeSet::new() };
        parts::plan(&mut draft, &identity.row_buckets, seed);
        adapters::plan(&mut draft, kernels, seed);
        steps::plan(&mut draft, seed);
        let mut points = draft.points;
        points.shuffle(&mut random::stream(seed, "calibration order"));
        // Memory is cut anew as seldom as possible: every other stage goes through the cuts backwards.
        points.sort_by_key(|point| {
            let slots = Slots::of(&point.question, &identity.limits);
            let cut = slots.rank as i32 * if point.stage % 2 == 1 { 1 } else { -1 };
            (point.stage, cut)
        });
        Plan { seed, points }
    }

    /// How long all of it takes, by the estimates; seconds.
    pub fn seconds(&self) -> f64 {
        self.points.iter().map(|point| point.seconds).sum()
    }
}

/// A plan under construction.
struct Draft {
    limits: Limits,
    points: Vec<Planned>,
    seen: BTreeSet<String>,
}

impl Draft {
    /// Plans a question, unless it is there already or the machine has no room for it.
    fn ask(&mut self, stage: u32, question: Question) {
        let limits = &self.limits;
        let fits = question.shape().is_none_or(|shape| fits(shape, limits)) && {
            let slots = Slots::of(&question, limits);
            let adapters = question.shape().map_or(0, |shape| shape.adapters.len() as u32);
            adapters <= slots.count.max(if slots == Slots::OFF { 0 } else { 1 })
        };
        if !fits || !self.seen.insert(question.key()) {
            return;
        }
        let us = about_us(&question);
        let repeats = repeats(us);
        // Settling, preparing a shape, and one answer that does not count.
        let seconds = 0.04 + f64::from(repeats + 1) * (us + 150.0) * 1e-6;
        self.points.push(Planned { question, repeats, stage, seconds });
    }
}

fn fits(shape: &StepShape, limits: &Limits) -> bool {
    let longest = shape.prompts.iter().map(|prompt| prompt.prefix + prompt.chunk).max().unwrap_or(0);
    // A sequence takes whole blocks of KV memory.
    let room = shape.kv_tokens() + 16 * u64::from(shape.sequences());
    shape.rows() > 0
        && shape.rows() <= limits.rows
        && shape.sequences() <= limits.sequences
        && shape.context_max().max(longest) <= limits.context
        && room <= u64::from(limits.kv_tokens)
        && shape.rank_max() <= limits.rank
        && shape.adapters.len() as u32 <= limits.adapters
}

/// More repetitions where they are cheap: a median of 15 short ones, of 3 long ones.
fn repeats(us: f64) -> u32 {
    (40_000.0 / us.max(1.0)).clamp(3.0, 15.0) as u32
}

/// A guess for budgets alone: 400 TFLOP/s, 2.5 TB/s and a 7-billion-parameter model.
fn about_us(question: &Question) -> f64 {
    let step = |shape: &StepShape| {
        let pairs: f64 =
            shape.prompts.iter().map(|p| f64::from(p.chunk) * (f64::from(p.prefix) + f64::from(p.chunk) / 2.0)).sum();
        let arithmetic = f64::from(shape.rows()) * 13.5e9 + pairs * 5.2e5;
        let bytes = 13.5e9 + shape.kv_tokens() as f64 * 5.2e5;
        (arithmetic / 4e8).max(bytes / 2.5e6)
    };
    match question {
        Question::Operation { shape, .. } => step(shape) / 32.0,
        Question::Lora { kernel: LoraKernel::Loop, shape } => 100.0 * shape.adapters.len() as f64 + step(shape) / 32.0,
        Question::Lora { shape, .. } => step(shape) / 16.0,
        Question::Step { shape, .. } | Question::Host { shape, .. } | Question::StepBesideLoad { shape } => step(shape),
        Question::Load { rank, beside, .. } => {
            f64::from(*rank) * 5e6 / 20e3 + beside.as_ref().map_or(0.0, |shape| step(shape) * 2.0)
        }
        Question::Switch { .. } => 30_000.0,
        Question::Copy { bytes } => *bytes as f64 / 1e6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Machine;
    use crate::machine::synthetic::SyntheticGpu;

    fn plan(seed: u64) -> (Plan, Identity) {
        let gpu = SyntheticGpu::h200_llama_2_7b(1);
        let identity = gpu.identity().clone();
        (Plan::new(&identity, &LoraKernel::ALL, seed), identity)
    }

    #[test]
    fn a_plan_is_the_same_for_the_same_seed_and_asks_nothing_twice() {
        let (a, _) = plan(7);
        let (b, _) = plan(7);
        assert_eq!(a, b);
        let keys: BTreeSet<_> = a.points.iter().map(|point| point.question.key()).collect();
        assert_eq!(keys.len(), a.points.len());
        assert_ne!(a.points, plan(8).0.points);
    }

    #[test]
    fn a_plan_covers_what_serving_meets() {
        let (plan, identity) = plan(7);
        let shapes: Vec<_> = plan.points.iter().filter_map(|point| point.question.shape()).collect();
        let any = |test: &dyn Fn(&StepShape) -> bool| shapes.iter().any(|shape| test(shape));
        assert!(any(&|s| s.decode_rows() == 1) && any(&|s| s.decode_rows() == 512));
        assert!(any(&|s| s.prompts.iter().any(|p| p.chunk == 16)));
        assert!(any(&|s| s.prompts.iter().any(|p| p.chunk == 8192)));
        assert!(any(&|s| s.prompts.iter().any(|p| p.prefix >= 30_000)));
        assert!(any(&|s| s.adapters.len() == 256));
        for rank in [8, 16, 32, 64, 128] {
            assert!(any(&|s| s.adapters.iter().any(|a| a.rank == rank)), "rank {rank}");
        }
        assert!(any(&|s| s.adapters.windows(2).any(|pair| pair[0].rank != pair[1].rank)), "mixed ranks");
        assert!(any(&|s| s.decode.len() > 8), "ragged contexts");
        assert!(any(&|s| !s.decode.is_empty() && !s.prompts.is_empty()), "mixed steps");
        assert!(shapes.iter().all(|shape| fits(shape, &identity.limits)));
        assert!(plan.seconds() < 9.0 * 60.0, "{} s", plan.seconds());
    }

    #[test]
    fn stages_come_in_order_and_the_first_takes_a_third_at_most() {
        let (plan, _) = plan(7);
        assert!(plan.points.windows(2).all(|pair| pair[0].stage <= pair[1].stage));
        let first: f64 = plan.points.iter().filter(|p| p.stage == 1).map(|p| p.seconds).sum();
        assert!(first < plan.seconds() / 3.0, "{first} of {}", plan.seconds());
    }
}
