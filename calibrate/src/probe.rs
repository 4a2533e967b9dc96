//! Shapes to ask a profile about: the questions behind [`mod@crate::show`], [`mod@crate::diff`] and [`mod@crate::check`].

use aril_sim::batch::{BatchShape, CostModel, Prefill, Sag, Segment, SegmentSums};
use aril_sim::cost::CompiledCost;
use aril_sim::profile::Profile;
use aril_sim::profile::lora::LoraKernel;
use aril_sim::time::Span;

use crate::error::CalibrateError;

/// One shape, owned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// Attended tokens of each decode row.
    pub contexts: Vec<u32>,
    /// Prompts.
    pub prefills: Vec<Prefill>,
    /// Rows by adapter.
    pub segments: Vec<Segment>,
    /// Configured slots; 0: LoRA is off.
    pub slots: u32,
    /// The largest rank of a slot.
    pub rank_max: u32,
}

impl Shape {
    /// So many decode rows of the same context, without LoRA.
    pub fn decode(rows: u32, context: u32) -> Shape {
        Shape { contexts: vec![context; rows as usize], ..Shape::default() }
    }

    /// One prompt, or a part of one, without LoRA.
    pub fn prefill(chunk: u32, prefix: u32) -> Shape {
        Shape { prefills: vec![Prefill { chunk, prefix }], ..Shape::default() }
    }

    /// The same decode rows, spread over so many adapters of one rank, as evenly as possible.
    pub fn with_adapters(mut self, segments: u32, rank: u32) -> Shape {
        let rows = self.contexts.len() as u32;
        self.segments = (0..segments)
            .map(|index| {
                let decode_rows = rows / segments + u32::from(index < rows % segments);
                Segment { rank, prefill_rows: 0, decode_rows }
            })
            .collect();
        self.slots = self.slots.max(segments);
        self.rank_max = self.rank_max.max(rank);
        self
    }

    /// As a cost model sees it.
    pub fn view(&self) -> BatchShape<'_> {
        BatchShape {
            decode_contexts: &self.contexts,
            decode_context_sum: self.contexts.iter().map(|&context| u64::from(context)).sum(),
            decode_context_max: self.contexts.iter().copied().max().unwrap_or(0),
            prefills: &self.prefills,
            segments: &self.segments,
            segment_sums: SegmentSums::of(&self.segments),
            census: None,
            lora_slots: self.slots,
            lora_rank_max: self.rank_max,
            copies_in_flight: false,
            sag: Sag::NONE,
            rested: Span::ZERO,
        }
    }
}

/// A profile with one LoRA kernel, ready to answer.
#[derive(Clone, Debug)]
pub struct Probe(CompiledCost);

impl Probe {
    /// # Errors
    /// When the profile's figures are impossible or it has none for the kernel.
    pub fn new(profile: &Profile, kernel: LoraKernel) -> Result<Probe, CalibrateError> {
        CompiledCost::compile(profile, kernel)
            .map(Probe)
            .map_err(|problem| CalibrateError::Figures { origin: profile.name.clone(), problem })
    }

    /// How long does a step of this shape take, microseconds?
    pub fn us(&mut self, shape: &Shape) -> f64 {
        self.0.price(&shape.view()).first.as_secs_f64() * 1e6
    }

    /// Is the shape within the range of the profile?
    pub fn knows(&self, shape: &Shape) -> bool {
        let mut fresh = self.0.clone();
        let before: u64 = fresh.coverage().outside.iter().map(|(_, count)| count).sum();
        fresh.price(&shape.view());
        let after: u64 = fresh.coverage().outside.iter().map(|(_, count)| count).sum();
        before == after
    }
}
