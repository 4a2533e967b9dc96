//! The batch of one step, as hardware sees it and as an executor sees it.

mod census;

pub use census::{Census, Sizes, TILES};

use crate::time::Span;
use crate::workload::{AdapterId, ReplicaId, RequestId};

/// The part of a prompt that one step computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefill {
    /// Tokens computed in this step.
    pub chunk: u32,
    /// Tokens of the same sequence whose KV is already there.
    pub prefix: u32,
}

/// The rows of a batch that share one adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Rank of the adapter.
    pub rank: u32,
    /// Prefill tokens that use it.
    pub prefill_rows: u32,
    /// Decode rows that use it.
    pub decode_rows: u32,
}

/// What the segments of a step add up to. Who changes a batch keeps it up to date, so that a price need not look at every adapter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SegmentSums {
    /// Decode rows of all.
    pub decode_rows: u64,
    /// Prefill tokens of all.
    pub prefill_rows: u64,
    /// Ranks of all.
    pub rank_sum: u64,
    /// Rank times rows, decode and prefill, of all.
    pub row_rank_sum: u64,
    /// The smallest rank, and the largest; 0 of no segment.
    pub ranks: (u32, u32),
}

impl SegmentSums {
    /// The sums of these.
    pub fn of(segments: &[Segment]) -> SegmentSums {
        let mut sums = SegmentSums::default();
        for segment in segments {
            let (decode, prefill) = (u64::from(segment.decode_rows), u64::from(segment.prefill_rows));
            sums.decode_rows += decode;
            sums.prefill_rows += prefill;
            sums.rank_sum += u64::from(segment.rank);
            sums.row_rank_sum += u64::from(segment.rank) * (decode + prefill);
        }
        sums.ranks = ends(segments.iter().map(|segment| segment.rank));
        sums
    }

    /// A decode row joins; `first`: its adapter has no row so far.
    pub fn join(&mut self, rank: u32, first: bool) {
        let (least, largest) = if self.decode_rows == 0 { (rank, rank) } else { self.ranks };
        self.decode_rows += 1;
        self.row_rank_sum += u64::from(rank);
        if first {
            self.rank_sum += u64::from(rank);
            self.ranks = (least.min(rank), largest.max(rank));
        }
    }

    /// A decode row leaves.
    pub fn leave(&mut self, rank: u32) {
        self.decode_rows -= 1;
        self.row_rank_sum -= u64::from(rank);
    }

    /// Its adapter has no row any more, and these are the ranks of those that are left.
    pub fn without(&mut self, rank: u32, left: impl Iterator<Item = u32> + Clone) {
        self.rank_sum -= u64::from(rank);
        // Mostly the next best has the same rank.
        if (rank == self.ranks.0 || rank == self.ranks.1) && left.clone().all(|other| other != rank) {
            self.ranks = ends(left);
        }
    }

    /// A row that was counted as a decode row computes so many tokens of a prompt.
    pub fn prefill(&mut self, rank: u32, tokens: u32) {
        self.decode_rows -= 1;
        self.prefill_rows += u64::from(tokens);
        self.row_rank_sum = self.row_rank_sum - u64::from(rank) + u64::from(rank) * u64::from(tokens);
    }
}

/// The smallest and the largest; 0 of none.
fn ends(ranks: impl Iterator<Item = u32> + Clone) -> (u32, u32) {
    (ranks.clone().min().unwrap_or(0), ranks.max().unwrap_or(0))
}

/// What one step computes, without ids: what a cost model prices and what calibration enumerates.
#[derive(Clone, Copy, Debug)]
pub struct BatchShape<'a> {
    /// Attended tokens of each decode row, the row's own token included.
    pub decode_contexts: &'a [u32],
    /// Sum of `decode_contexts`.
    pub decode_context_sum: u64,
    /// The largest of `decode_contexts`; 0 of none.
    pub decode_context_max: u32,
    /// The prompts, or parts of prompts, computed in this step.
    pub prefills: &'a [Prefill],
    /// Rows by adapter. Rows of the base model are in none.
    pub segments: &'a [Segment],
    /// The sums of `segments`.
    pub segment_sums: SegmentSums,
    /// Their census, if whoever changes the batch keeps one; otherwise a price that needs it looks at every segment.
    pub census: Option<&'a Census>,
    /// Adapter slots that the engine is configured with: some engines pay for idle ones. 0: LoRA is off.
    pub lora_slots: u32,
    /// The largest rank that a slot can hold.
    pub lora_rank_max: u32,
    /// Are adapter copies on their way to this GPU during the step?
    pub copies_in_flight: bool,
    /// How far the GPU's clocks had sagged at the end of its last step.
    pub sag: Sag,
    /// How long it has computed nothing since.
    pub rested: Span,
}

/// What prompts left of a GPU's clocks ([`crate::profile::ClockSag`]): what it drew of late and how far its clocks lie below where they are at rest, each in so many
/// parts of what prompts make of it. In whole parts, so that what follows is the same everywhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sag {
    drawn: u16,
    sagged: u16,
}

impl Sag {
    /// Not at all.
    pub const NONE: Sag = Sag { drawn: 0, sagged: 0 };
    /// As far as prompts make them.
    pub const FULL: Sag = Sag { drawn: Sag::PARTS, sagged: Sag::PARTS };

    const PARTS: u16 = 4096;

    /// The smallest that counts: less would be told for long and be felt by nothing.
    const LEAST: f64 = 0.04;

    /// Of shares between 0 and 1: what was drawn, and how far the clocks have sagged.
    pub fn of(drawn: f64, sagged: f64) -> Sag {
        // Whether it counts is as good as drawn, and comes last: no branch waits for it.
        let counts = (drawn >= Sag::LEAST) | (sagged >= Sag::LEAST);
        let parts = f64::from(u16::from(counts) * Sag::PARTS);
        // To the nearest whole number, which is then in the last bits.
        let of = |share: f64| (share * parts + (1_u64 << 52) as f64).to_bits() as u16;
        Sag { drawn: of(drawn), sagged: of(sagged) }
    }

    /// What was drawn, between 0 and 1.
    pub fn drawn(self) -> f64 {
        f64::from(self.drawn) / f64::from(Sag::PARTS)
    }

    /// How far the clocks have sagged, between 0 and 1.
    pub fn sagged(self) -> f64 {
        f64::from(self.sagged) / f64::from(Sag::PARTS)
    }
}

impl BatchShape<'_> {
    /// Decode rows of the step.
    pub fn decode_rows(&self) -> u32 {
        self.decode_contexts.len() as u32
    }

    /// Prefill tokens of the step.
    pub fn prefill_tokens(&self) -> u32 {
        self.prefills.iter().map(|prefill| prefill.chunk).sum()
    }

    /// Is every row a decode row?
    pub fn is_decode_only(&self) -> bool {
        self.prefills.is_empty()
    }
}

/// What the next steps of a batch cost, exactly.
///
/// Step `j` (from 0) of the batch takes `first + j × increment`, for every `j < steps`, each row one token longer
/// than in the step before. A model that promises nothing beyond the next step says `steps = 1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Price {
    /// The next step.
    pub first: Span,
    /// What each further step takes longer than the one before it.
    pub increment: Span,
    /// For how many steps this holds, at least 1. Above 1 only for batches of decode rows alone.
    pub steps: u32,
    /// How far the GPU's clocks have sagged then; above nothing only after a single step.
    pub sag: Sag,
}

impl Price {
    /// The price of one step, with no promise beyond it.
    pub fn once(span: Span) -> Price {
        Price::lasting(span, 1)
    }

    /// So many steps that take the same.
    pub fn lasting(span: Span, steps: u32) -> Price {
        Price { first: span, increment: Span::ZERO, steps, sag: Sag::NONE }
    }

    /// The exact sum of the first `steps` steps.
    pub fn sum(&self, steps: u32) -> Span {
        let k = u64::from(steps);
        self.first * k + self.increment * (k * k.saturating_sub(1) / 2)
    }

    /// The least number of steps, at least 1 and at most `limit`, whose sum reaches `span`.
    pub fn steps_to_reach(&self, span: Span, limit: u32) -> u32 {
        let limit = limit.max(1);
        // The root of the sum's quadratic is near; whole numbers decide.
        let (first, increment, span_ps) =
            (self.first.as_ps() as f64, self.increment.as_ps() as f64, span.as_ps() as f64);
        let slope = first - increment / 2.0;
        let both = (slope * slope + 2.0 * increment * span_ps).sqrt();
        // Of two forms of the root, the one that subtracts nothing.
        let root = if slope >= 0.0 { 2.0 * span_ps / (slope + both) } else { (both - slope) / increment };
        let mut steps = (root.ceil() as u32).clamp(1, limit);
        while steps > 1 && self.sum(steps - 1) >= span {
            steps -= 1;
        }
        while steps < limit && self.sum(steps) < span {
            steps += 1;
        }
        steps
    }
}

/// The tokens that one sequence contributes to one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Whose tokens.
    pub request: RequestId,
    /// With which adapter.
    pub adapter: Option<AdapterId>,
    /// Tokens whose KV was there before the step.
    pub context_before: u32,
    /// Tokens computed in the step: 1 for a decode row.
    pub tokens: u32,
    /// Is it part of a prefill?
    pub prefill: bool,
    /// Does the step emit a token for this sequence?
    pub emits: bool,
}

/// One step, or the first of a stretch, as an executor sees it.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// Where it runs.
    pub replica: ReplicaId,
    /// Who is in it; a real executor needs to know, a cost model does not. Empty for an [`Executor`] that reads none.
    pub slices: &'a [Slice],
    /// What it is to the hardware.
    pub shape: BatchShape<'a>,
}

/// Who runs a step and says how long it takes: a cost model or a real GPU. The engine cannot tell which.
pub trait Executor {
    /// How long do the next steps of this batch take?
    fn run(&mut self, batch: &Batch<'_>) -> Price;

    /// Does it read [`Batch::slices`]? Who does not saves the work of writing them.
    fn reads_slices(&self) -> bool {
        true
    }

    /// How many prices were asked for, and how many fell outside of what is known?
    fn coverage(&self) -> Coverage {
        Coverage::default()
    }
}

/// What does a step cost on this model, engine and hardware?
///
/// Built once for a model, engine settings and profile. Knows no ids.
pub trait CostModel {
    /// How long do the next steps of a batch of this shape take?
    fn price(&mut self, shape: &BatchShape<'_>) -> Price;

    /// How many look-ups were made, and how many fell outside the profile's range?
    fn coverage(&self) -> Coverage {
        Coverage::default()
    }
}

/// How often a cost model was asked, and how often beyond what it knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Look-ups made.
    pub lookups: u64,
    /// Look-ups outside the range of the profile, by what was out of range.
    pub outside: Vec<(&'static str, u64)>,
}

/// An executor that asks a cost model.
#[derive(Clone, Debug)]
pub struct Modelled<C>(pub C);

impl<C: CostModel> Executor for Modelled<C> {
    fn run(&mut self, batch: &Batch<'_>) -> Price {
        self.0.price(&batch.shape)
    }

    fn reads_slices(&self) -> bool {
        false
    }

    fn coverage(&self) -> Coverage {
        self.0.coverage()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_price_sums_to_its_steps_and_finds_its_boundaries() {
        let price = Price { increment: Span::from_ps(3), ..Price::lasting(Span::from_ps(100), 50) };
        let mut sum = Span::ZERO;
        for k in 1..=50 {
            sum += Span::from_ps(100 + 3 * (u64::from(k) - 1));
            assert_eq!(price.sum(k), sum);
            assert_eq!(price.steps_to_reach(sum, 50), k);
            assert_eq!(price.steps_to_reach(sum + Span::from_ps(1), 50), (k + 1).min(50));
        }
    }
}
