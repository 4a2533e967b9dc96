//! What does a step cost by Vidur's tables?
//!
//! With its tables and its rules a run here takes the same steps and reaches the same times as Vidur (7d47513). With `T`
//! tokens in the batch and `R` = `T` rounded up to a multiple of 8, a step takes
//! `layers × (Σ operations(R) + attn_kv_cache_save(T) + prefill + decode)`, where
//! decode = `attn_decode(rows, ⌈mean context⌉₆₄)` with the mean cut to an integer, and
//! prefill = `attn_prefill(Σ ⌈prefix⌉₆₄, round(√Σ chunk²)²)`. Nothing is counted for embedding, LM head, sampling or the host.

use crate::batch::BatchShape;
use crate::profile::vidur::{Steps, VidurTables};

/// Contexts are tabulated in steps of so many tokens.
const CONTEXT_STEP: u32 = 64;

/// Tokens are rounded up to a multiple of this for every operation but one.
const TOKEN_STEP: usize = 8;

/// What can be out of range.
pub(super) const OUTSIDE: [&str; 3] = ["tokens in a step", "decode rows or context", "prefill chunk or prefix"];

/// [`VidurTables`], looked up at once.
#[derive(Clone, Debug)]
pub(super) struct VidurCost {
    /// Σ operations(⌈T⌉₈) + kv_cache_save(T), by T.
    by_tokens: Vec<f64>,
    /// By rows - 1 and context / 64.
    decode: Grid,
    /// By context / 64 and chunk.
    prefill: Grid,
    pub(super) outside: [u64; OUTSIDE.len()],
}

/// A table by two whole numbers.
#[derive(Clone, Debug)]
struct Grid {
    columns: usize,
    values: Vec<f64>,
}

impl Grid {
    fn new(rows: &[Steps], step: u32) -> Grid {
        Grid {
            columns: (rows[0].last() / step) as usize + 1,
            values: rows.iter().flat_map(|row| row.dense(step)).collect(),
        }
    }

    /// The value, or that of the nearest corner inside the table, and whether it was inside.
    fn get(&self, row: u32, column: u32) -> (f64, bool) {
        let rows = self.values.len() / self.columns;
        let (row, column) = (row as usize, column as usize);
        let inside = row < rows && column < self.columns;
        (self.values[row.min(rows - 1) * self.columns + column.min(self.columns - 1)], inside)
    }
}

/// What the layers of a step cost.
pub(super) struct Layer {
    /// One layer, milliseconds.
    pub(super) ms: f64,
    /// For so many steps: contexts are looked up in steps of 64 tokens.
    pub(super) steps: u32,
}

impl VidurCost {
    /// Spreads out tables that were checked.
    pub(super) fn new(tables: &VidurTables) -> VidurCost {
        let mut by_tokens: Vec<f64> = tables.kv_cache_save.dense(1).collect();
        let operations: Vec<Vec<f64>> = tables.operations.iter().map(|op| op.cost.dense(1).collect()).collect();
        for (tokens, ms) in by_tokens.iter_mut().enumerate() {
            let rounded = tokens.next_multiple_of(TOKEN_STEP);
            let sum: f64 = operations.iter().map(|table| table[rounded.min(table.len() - 1)]).sum();
            *ms += sum;
        }
        VidurCost {
            by_tokens,
            decode: Grid::new(&tables.decode, CONTEXT_STEP),
            prefill: Grid::new(&tables.prefill, 1),
            outside: [0; OUTSIDE.len()],
        }
    }

    /// What does a layer of the step cost, and for how many steps?
    pub(super) fn layer(&mut self, shape: &BatchShape<'_>) -> Layer {
        let rows = shape.decode_rows();
        let tokens = (rows + shape.prefill_tokens()) as usize;
        let last = self.by_tokens.len() - 1;
        self.outside[0] += u64::from(tokens > last);
        let mut layer = Layer { ms: self.by_tokens[tokens.min(last)], steps: 1 };
        if rows > 0 {
            let mean = (shape.decode_context_sum / u64::from(rows)) as u32;
            let column = mean.div_ceil(CONTEXT_STEP);
            let (ms, inside) = self.decode.get(rows - 1, column);
            self.outside[1] += u64::from(!inside);
            layer.ms += ms;
            // Every row grows by a token a step, and so does the mean.
            if shape.is_decode_only() && inside {
                layer.steps = column * CONTEXT_STEP - mean + 1;
            }
        }
        if !shape.is_decode_only() {
            let context = shape.prefills.iter().map(|prefill| prefill.prefix.div_ceil(CONTEXT_STEP)).sum();
            let squares: u64 = shape.prefills.iter().map(|prefill| u64::from(prefill.chunk).pow(2)).sum();
            let (ms, inside) = self.prefill.get(context, (squares as f64).sqrt().round_ties_even() as u32);
            self.outside[2] += u64::from(!inside);
            layer.ms += ms;
        }
        layer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{Prefill, Sag, SegmentSums};
    use crate::profile::vidur::VidurOperation;
    use crate::time::Span;

    fn tables() -> VidurTables {
        let contexts = |values: [f64; 4]| Steps::of((0..).step_by(64).zip(values));
        VidurTables {
            operations: vec![VidurOperation {
                name: "all".to_owned(),
                cost: Steps::of((1..=16).map(|tokens| (tokens, f64::from(tokens)))),
            }],
            kv_cache_save: Steps::of((1..=16).map(|tokens| (tokens, f64::from(tokens) / 10.0))),
            decode: vec![contexts([1.0, 2.0, 3.0, 4.0]); 4],
            prefill: [5.0, 7.0].map(|ms| Steps { until: vec![16], ms: vec![ms] }).to_vec(),
        }
    }

    fn shape<'a>(contexts: &'a [u32], prefills: &'a [Prefill]) -> BatchShape<'a> {
        BatchShape {
            decode_contexts: contexts,
            decode_context_sum: contexts.iter().copied().map(u64::from).sum(),
            decode_context_max: contexts.iter().copied().max().unwrap_or(0),
            prefills,
            segments: &[],
            segment_sums: SegmentSums::default(),
            census: None,
            lora_slots: 0,
            lora_rank_max: 0,
            copies_in_flight: false,
            sag: Sag::NONE,
            rested: Span::ZERO,
        }
    }

    #[test]
    fn a_mixed_step_adds_operations_decode_and_prefill() {
        let mut cost = VidurCost::new(&tables());
        let prefills = [Prefill { chunk: 3, prefix: 1 }, Prefill { chunk: 4, prefix: 0 }];
        let layer = cost.layer(&shape(&[60, 71], &prefills));
        // 9 tokens: operations of 16, cache of 9; mean context 65 -> 128; prefix 64; chunks 3 and 4 are one of 5.
        assert_eq!((layer.ms, layer.steps), (16.0 + 0.9 + 3.0 + 7.0, 1));
        assert_eq!(cost.outside, [0; 3]);
    }

    #[test]
    fn a_decode_step_costs_the_same_until_the_mean_context_enters_the_next_64() {
        let mut cost = VidurCost::new(&tables());
        for (contexts, steps) in [([60, 61], 5), ([64, 64], 1), ([65, 65], 64), ([1, 127], 1)] {
            let layer = cost.layer(&shape(&contexts, &[]));
            assert_eq!(layer.steps, steps, "{contexts:?}");
            for step in 1..=steps {
                let same = cost.layer(&shape(&contexts.map(|context| context + step), &[])).ms == layer.ms;
                assert_eq!(same, step < steps, "{contexts:?}, {step} steps later");
            }
        }
        assert_eq!(cost.outside, [0; 3]);
        assert_eq!(cost.layer(&shape(&[1000], &[])).steps, 1, "nothing is promised where nothing is known");
        assert_eq!(cost.outside, [0, 1, 0]);
    }
}
