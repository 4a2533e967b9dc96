//! A toy price list: steps priced by a handful of numbers, with promises of every kind that an executor may make.

use serde::{Deserialize, Serialize};

use crate::batch::{Batch, BatchShape, Census, Executor, Price, Sag, SegmentSums};
use crate::time::Span;

/// How far ahead does a price hold?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Promise {
    /// Nothing beyond the next step; the price jumps from step to step.
    Once,
    /// Affine for at most so many steps.
    Affine(u32),
    /// A row more for each full tile of so many tokens of the longest context; affine until the next tile begins.
    Tiled(u32),
}

/// What a step costs: a sum of parts, each a whole span.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToyPrices {
    /// Every step.
    pub step: Span,
    /// A decode row.
    pub row: Span,
    /// A token of a decode row's context.
    pub context: Span,
    /// A token of a prompt.
    pub prompt_token: Span,
    /// A segment.
    pub segment: Span,
    /// A step beside which adapters are copied.
    pub copy: Span,
    /// A step right behind one with prompts takes four times this longer, the next one once, unless the GPU rests for a `step` in between.
    pub sag: Span,
    /// Up to six times, as the sums and the census of the segments have it: no row may be missing there.
    #[serde(default)]
    pub parts: Span,
    /// How far ahead the price holds.
    pub promise: Promise,
}

impl ToyPrices {
    /// The same price list with every span `times` as long.
    pub fn times(&self, times: u64) -> ToyPrices {
        ToyPrices {
            step: self.step * times,
            row: self.row * times,
            context: self.context * times,
            prompt_token: self.prompt_token * times,
            segment: self.segment * times,
            copy: self.copy * times,
            sag: self.sag * times,
            parts: self.parts * times,
            promise: self.promise,
        }
    }

    fn price(&self, shape: &BatchShape<'_>) -> Price {
        let price = self.at_rest(shape);
        if self.sag.is_zero() {
            return price;
        }
        let (longer, after) = match (shape.sag, shape.rested < self.step) {
            (Sag::FULL, true) => (self.sag * 4, Sag::of(0.25, 0.25)),
            (Sag::NONE, _) | (_, false) => (Span::ZERO, Sag::NONE),
            (_, true) => (self.sag, Sag::NONE),
        };
        match (shape.is_decode_only(), longer.is_zero()) {
            (true, true) => price,
            (true, false) => Price { sag: after, ..Price::once(price.first + longer) },
            (false, _) => Price { sag: Sag::FULL, ..Price::once(price.first + longer) },
        }
    }

    fn at_rest(&self, shape: &BatchShape<'_>) -> Price {
        let rows = u64::from(shape.decode_rows());
        let mut first = self.step
            + self.row * rows
            + self.context * shape.decode_context_sum
            + self.prompt_token * u64::from(shape.prefill_tokens())
            + self.segment * shape.segments.len() as u64
            + self.parts * (all_parts(shape) % 7);
        if shape.copies_in_flight {
            first += self.copy;
        }
        if !shape.is_decode_only() {
            return Price::once(first);
        }
        let increment = self.context * rows;
        match self.promise {
            Promise::Once => Price::once(first + self.step * (shape.decode_context_sum * 7 % 5)),
            Promise::Affine(steps) => Price { increment, ..Price::lasting(first, steps) },
            Promise::Tiled(tile) => {
                let longest = shape.decode_context_max;
                first += self.row * u64::from(longest / tile);
                Price { increment, ..Price::lasting(first, tile - longest % tile) }
            }
        }
    }
}

/// A number that changes with each sum of the segments, and with each part in their census.
fn all_parts(shape: &BatchShape<'_>) -> u64 {
    let SegmentSums { decode_rows, prefill_rows, rank_sum, row_rank_sum, ranks: (least, largest) } = shape.segment_sums;
    let ranks = rank_sum + 2 * row_rank_sum + 3 * u64::from(least) + 4 * u64::from(largest);
    shape.census.map_or(0, Census::print) / 8 + decode_rows + 2 * prefill_rows + ranks
}

impl Executor for ToyPrices {
    fn run(&mut self, batch: &Batch<'_>) -> Price {
        self.price(&batch.shape)
    }
}
