//! What does a step cost by Vidur's tables?
//!
//! Vidur (Agrawal et al., MLSys 2024; github microsoft/vidur, 7d47513) tabulates the predictions of its random forests:
//! operations by tokens of the batch, decode attention by (batch size, mean context), prefill attention by (context, chunk²).
//! With its tables and its rules a run here takes the same steps and reaches the same times.
//!
//! With `T` tokens in the batch and `R` = `T` rounded up to a multiple of 8, a step takes
//! `layers × (Σ operations(R) + attn_kv_cache_save(T) + prefill + decode)`, where
//! decode = `attn_decode(rows, ⌈mean context⌉₆₄)` with the mean cut to an integer, and
//! prefill = `attn_prefill(Σ ⌈prefix⌉₆₄, round(√Σ chunk²)²)`. Nothing is counted for embedding, LM head, sampling or the host.

use crate::batch::{BatchShape, CostModel, Coverage, Price};
use crate::time::Span;

/// Contexts are tabulated in steps of so many tokens.
const CONTEXT_STEP: u32 = 64;

/// Tokens are rounded up to a multiple of this for every operation but one.
const TOKEN_STEP: u32 = 8;

/// A table by two whole numbers, dense; what was not given is not a number.
#[derive(Clone, Debug, Default)]
struct Grid {
    columns: usize,
    values: Vec<f64>,
}

impl Grid {
    fn new(entries: &[(u32, u32, f64)]) -> Grid {
        let size = |pick: fn(&(u32, u32, f64)) -> u32| entries.iter().map(pick).max().map_or(0, |max| max as usize + 1);
        let (rows, columns) = (size(|entry| entry.0), size(|entry| entry.1));
        // So sparse a table has holes: it is left empty, which is found below, before memory is asked for.
        if rows * columns > 2 * entries.len() + rows + columns {
            return Grid::default();
        }
        let mut values = vec![f64::NAN; rows * columns];
        for &(row, column, value) in entries {
            values[row as usize * columns + column as usize] = value;
        }
        Grid { columns, values }
    }

    /// The value, or that of the nearest corner inside the table, and whether it was inside.
    fn get(&self, row: u32, column: u32) -> (f64, bool) {
        let rows = self.values.len() / self.columns.max(1);
        let (row, column) = (row as usize, column as usize);
        let inside = row < rows && column < self.columns;
        let position = row.min(rows - 1) * self.columns + column.min(self.columns - 1);
        (self.values[position], inside)
    }
}

/// The tables of one model on one GPU, in milliseconds a layer.
#[derive(Clone, Debug, Default)]
pub struct VidurTables {
    /// Layers of the model.
    pub layers: u32,
    /// Each operation that depends on the tokens of the batch alone, by tokens; entry 0 is unused.
    pub operations: Vec<Vec<f64>>,
    /// `attn_kv_cache_save` by tokens; entry 0 is unused.
    pub kv_cache_save: Vec<f64>,
    /// `attn_decode`: (batch size, context in tokens, time).
    pub decode: Vec<(u32, u32, f64)>,
    /// `attn_prefill`: (context in tokens, square of the chunk in tokens, time).
    pub prefill: Vec<(u32, u32, f64)>,
}

/// [`VidurTables`] as a cost model.
#[derive(Clone, Debug)]
pub struct VidurCost {
    layers: f64,
    /// Σ operations(⌈T⌉₈) + kv_cache_save(T), by T.
    by_tokens: Vec<f64>,
    /// By batch size and context / 64.
    decode: Grid,
    /// By context / 64 and chunk.
    prefill: Grid,
    lookups: u64,
    outside: [u64; 3],
}

const OUTSIDE: [&str; 3] = ["tokens in a step", "decode rows or context", "prefill chunk or prefix"];

impl VidurCost {
    /// Compiles the tables.
    ///
    /// # Errors
    /// A sentence naming the table that is empty or has holes.
    pub fn new(tables: &VidurTables) -> Result<VidurCost, String> {
        let tokens = tables.kv_cache_save.len();
        if tokens < 2 {
            return Err("attn_kv_cache_save has no entries".to_owned());
        }
        if tables.operations.is_empty() {
            return Err("there is no operation by tokens".to_owned());
        }
        let mut by_tokens = vec![0.0; tokens];
        for (count, time) in by_tokens.iter_mut().enumerate().skip(1) {
            let rounded = (count as u32).next_multiple_of(TOKEN_STEP) as usize;
            let at = |table: &Vec<f64>| table.get(rounded).or(table.last()).copied().unwrap_or(f64::NAN);
            *time = tables.operations.iter().map(at).sum::<f64>() + tables.kv_cache_save[count];
        }
        let decode: Vec<_> =
            tables.decode.iter().map(|&(rows, context, ms)| (rows, context / CONTEXT_STEP, ms)).collect();
        let root = |square: u32| f64::from(square).sqrt().round() as u32;
        let prefill: Vec<_> =
            tables.prefill.iter().map(|&(context, square, ms)| (context / CONTEXT_STEP, root(square), ms)).collect();
        let cost = VidurCost {
            layers: f64::from(tables.layers),
            by_tokens,
            decode: Grid::new(&decode),
            prefill: Grid::new(&prefill),
            lookups: 0,
            outside: [0; 3],
        };
        // Batches of 0 and chunks of 0 are never asked for.
        let whole = |grid: &Grid, skip: fn(usize, usize) -> bool| {
            let inside = |(i, value): (usize, &f64)| value.is_finite() || skip(i / grid.columns, i % grid.columns);
            !grid.values.is_empty() && grid.values.iter().enumerate().all(inside)
        };
        for (name, sound) in [
            ("the operations by tokens", cost.by_tokens.iter().all(|time| time.is_finite())),
            ("attn_decode", whole(&cost.decode, |rows, _| rows == 0)),
            ("attn_prefill", whole(&cost.prefill, |_, chunk| chunk == 0)),
        ] {
            if !sound {
                return Err(format!("{name}: the table is empty or has holes"));
            }
        }
        Ok(cost)
    }
}

impl CostModel for VidurCost {
    fn price(&mut self, shape: &BatchShape<'_>) -> Price {
        self.lookups += 1;
        let tokens = (shape.decode_rows() + shape.prefill_tokens()) as usize;
        let last = self.by_tokens.len() - 1;
        self.outside[0] += u64::from(tokens > last);
        let mut layer = self.by_tokens[tokens.min(last)];
        if shape.decode_rows() > 0 {
            let mean = (shape.decode_context_sum / u64::from(shape.decode_rows())) as u32;
            let (ms, inside) = self.decode.get(shape.decode_rows(), mean.div_ceil(CONTEXT_STEP));
            self.outside[1] += u64::from(!inside);
            layer += ms;
        }
        if !shape.prefills.is_empty() {
            let context = shape.prefills.iter().map(|prefill| prefill.prefix.div_ceil(CONTEXT_STEP)).sum();
            let squares: u64 = shape.prefills.iter().map(|prefill| u64::from(prefill.chunk).pow(2)).sum();
            let (ms, inside) = self.prefill.get(context, (squares as f64).sqrt().round_ties_even() as u32);
            self.outside[2] += u64::from(!inside);
            layer += ms;
        }
        Price::once(Span::from_secs_f64(layer * self.layers / 1e3))
    }

    fn coverage(&self) -> Coverage {
        let outside = OUTSIDE.into_iter().zip(self.outside).filter(|&(_, count)| count > 0).collect();
        Coverage { lookups: self.lookups, outside }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Prefill;

    fn tables() -> VidurTables {
        VidurTables {
            layers: 2,
            operations: vec![(0..=16).map(f64::from).collect()],
            kv_cache_save: (0..=16).map(|tokens| f64::from(tokens) / 10.0).collect(),
            decode: (1..=4).flat_map(|rows| [(rows, 0, 1.0), (rows, 64, 2.0), (rows, 128, 3.0)]).collect(),
            prefill: (1..=16).flat_map(|chunk: u32| [(0, chunk * chunk, 5.0), (64, chunk * chunk, 7.0)]).collect(),
        }
    }

    #[test]
    fn a_mixed_step_adds_operations_decode_and_prefill() {
        let mut cost = VidurCost::new(&tables()).unwrap();
        let price = cost.price(&BatchShape {
            decode_contexts: &[60, 71],
            decode_context_sum: 131,
            prefills: &[Prefill { chunk: 3, prefix: 1 }, Prefill { chunk: 4, prefix: 0 }],
            segments: &[],
            lora_slots: 0,
            lora_rank_max: 0,
            copies_in_flight: false,
        });
        // 9 tokens: operations of 16, cache of 9; mean context 65 -> 128; prefix 64; chunks 3 and 4 are one of 5.
        assert_eq!(price, Price::once(Span::from_us(2 * (16_000 + 900 + 3_000 + 7_000))));
        assert_eq!(cost.coverage(), Coverage { lookups: 1, outside: vec![] });
    }

    #[test]
    fn a_table_with_a_hole_is_refused() {
        let mut holed = tables();
        holed.decode.remove(4);
        assert!(VidurCost::new(&holed).unwrap_err().contains("attn_decode"));
    }
}
