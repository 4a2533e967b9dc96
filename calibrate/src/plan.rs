//! What is measured, and in which order: a little of everything first, shuffled within a round, bounded by what the machine holds.

mod adapters;
mod effort;
mod order;
mod parts;
mod steps;

use std::collections::BTreeSet;

use aril_sim::profile::lora::LoraKernel;
use aril_sim::random;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use crate::machine::{Identity, Limits, Question, StepShape};

pub use adapters::Popularity;
use effort::Effort;
pub use order::kind;

/// What is measured, in order.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Which random shapes, and which order.
    pub seed: u64,
    /// Round by round; shuffled within a round, so that drift does not look like shape.
    pub points: Vec<Planned>,
}

/// One measurement.
#[derive(Clone, Debug, PartialEq)]
pub struct Planned {
    /// What is asked.
    pub question: Question,
    /// How often it is answered.
    pub repeats: u32,
    /// How needed it is: stage 1 is enough for a profile, later stages make it better.
    pub stage: u32,
    /// When: each round asks the same share of every kind of question of its stage, so that a budget may end anywhere.
    pub round: u32,
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

    /// The cut that a question needs: the widest slots of which there are enough, so that one cut serves most questions.
    pub fn of(question: &Question, limits: &Limits) -> Slots {
        let Some(Slots { count, rank }) = Slots::needed(question) else { return Slots::OFF };
        let cut = |rank: u32| {
            let rank = rank.min(limits.rank);
            Slots { count: (limits.rank_sum / rank.max(1)).min(limits.adapters).max(1), rank }
        };
        let wide = Slots::RANKS.into_iter().rev().map(cut).find(|cut| cut.rank >= rank && cut.count >= count);
        wide.unwrap_or_else(|| cut(Slots::RANKS.into_iter().find(|cut| *cut >= rank).unwrap_or(limits.rank)))
    }

    /// How many slots of which rank a question needs at least; none where it needs no adapter memory of ours.
    fn needed(question: &Question) -> Option<Slots> {
        let (kernel, count, rank) = match question {
            Question::Lora { kernel, shape } | Question::Step { kernel, shape } | Question::Host { kernel, shape } => {
                (*kernel, shape.adapters.len() as u32, shape.rank_max())
            }
            Question::Added { shape } => (LoraKernel::Segmented, shape.adapters.len() as u32, shape.rank_max()),
            Question::Load { rank, .. } | Question::Switch { rank } => (LoraKernel::Segmented, 1, *rank),
            Question::StepBesideLoad { .. } => (LoraKernel::Segmented, 1, 16),
            Question::Served { shapes, .. } => {
                let most = |of: fn(&StepShape) -> u32| shapes.iter().map(of).max().unwrap_or(0);
                (LoraKernel::Segmented, most(|shape| shape.adapters.len() as u32), most(StepShape::rank_max))
            }
            Question::Operation { .. } | Question::Behind { .. } | Question::Copy { .. } => return None,
        };
        // Other systems' kernels have memory of their own.
        (kernel == LoraKernel::Segmented).then_some(Slots { count, rank })
    }

    /// Do such slots do for a question?
    pub fn serve(self, question: &Question) -> bool {
        Slots::needed(question).is_none_or(|needed| self.count >= needed.count && self.rank >= needed.rank)
    }
}

impl Plan {
    /// The plan for a machine: every question that it has room for, with those LoRA kernels.
    ///
    /// `rank_max` and the rest of the limits cut what cannot be held; nothing else depends on the machine, so that two
    /// calibrations of one GPU ask the same.
    pub fn new(identity: &Identity, kernels: &[LoraKernel], seed: u64) -> Plan {
        let mut draft =
            Draft { limits: identity.limits, effort: Effort::of(identity), points: Vec::new(), seen: BTreeSet::new() };
        parts::plan(&mut draft, &identity.row_buckets, seed);
        adapters::plan(&mut draft, kernels, seed);
        steps::plan(&mut draft, seed);
        let mut points = order::into_rounds(draft.points, &identity.limits, seed);
        points.shuffle(&mut random::stream(seed, "calibration order"));
        // Memory is cut anew as seldom as possible: the cut that serves most comes first.
        points.sort_by_key(|point| {
            let slots = Slots::of(&point.question, &identity.limits);
            (point.round, if slots == Slots::OFF { 0 } else { slots.count })
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
    effort: Effort,
    points: Vec<Planned>,
    seen: BTreeSet<String>,
}

impl Draft {
    /// Plans a question, unless it is there already or the machine has no room for it.
    fn ask(&mut self, stage: u32, question: Question) {
        let limits = &self.limits;
        let fits = question.shapes().into_iter().all(|shape| {
            let slots = Slots::of(&question, limits);
            let adapters = shape.adapters.len() as u32;
            fits(shape, limits) && (slots == Slots::OFF || adapters <= slots.count)
        });
        if !fits || !self.seen.insert(question.key()) {
            return;
        }
        let (repeats, seconds) = (self.effort.repeats(&question), self.effort.seconds(&question));
        self.points.push(Planned { question, repeats, stage, round: 0, seconds });
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

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

    /// Drift within a round would look like shape where questions of a kind stood together.
    #[test]
    fn kinds_of_questions_are_mixed_within_a_round() {
        let (plan, _) = plan(7);
        let rounds: BTreeSet<u32> = plan.points.iter().map(|point| point.round).collect();
        let longest = rounds
            .iter()
            .map(|round| {
                plan.points.iter().filter(|p| p.round == *round).map(|p| kind(&p.question)).collect::<Vec<_>>()
            })
            .max_by_key(Vec::len)
            .expect("there are rounds");
        let kinds: BTreeSet<&String> = longest.iter().collect();
        let changes = longest.windows(2).filter(|pair| pair[0] != pair[1]).count();
        assert!(changes > 5 * kinds.len(), "{changes} changes among {} kinds of {}", kinds.len(), longest.len());
    }

    #[test]
    fn rounds_come_in_order_and_the_first_stage_takes_half_at_most() {
        let (plan, _) = plan(7);
        assert!(plan.points.windows(2).all(|pair| pair[0].round <= pair[1].round));
        assert!(plan.points.windows(2).all(|pair| pair[0].stage <= pair[1].stage));
        let first: f64 = plan.points.iter().filter(|p| p.stage == 1).map(|p| p.seconds).sum();
        assert!(first < plan.seconds() / 2.0, "{first} of {}", plan.seconds());
    }

    /// Wherever a budget ends, no kind of question is far behind the others of its stage.
    #[test]
    fn a_budget_that_ends_anywhere_has_asked_the_same_share_of_every_kind() {
        let (plan, _) = plan(7);
        let first: Vec<&Planned> = plan.points.iter().filter(|point| point.stage == 1).collect();
        let mut planned: BTreeMap<String, f64> = BTreeMap::new();
        first.iter().for_each(|point| *planned.entry(kind(&point.question)).or_default() += 1.0);
        assert!(planned.len() > 20, "{planned:?}");
        for share in [0.25, 0.5, 0.75] {
            let mut asked: BTreeMap<String, f64> = BTreeMap::new();
            let cut = (first.len() as f64 * share) as usize;
            first[..cut].iter().for_each(|point| *asked.entry(kind(&point.question)).or_default() += 1.0);
            for (kind, planned) in &planned {
                let asked = asked.get(kind).copied().unwrap_or(0.0);
                // A round is a sixth of a stage, and is shuffled; kinds of few questions come first.
                let behind = share - asked / planned;
                assert!(behind < 0.2, "{kind}: {asked} of {planned} at {share}");
                assert!(behind > -0.2 || *planned <= 12.0, "{kind}: {asked} of {planned} at {share}");
            }
        }
    }
}
