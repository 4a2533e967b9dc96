//! Which block does what in the attention of a step: decided once, from lengths alone.
//!
//! **Decode.** A *unit* is one KV block of one group of queries. All units of all sequences stand in one line, by
//! sequence, then group, then block; before the units of each (sequence, group) the line has empty places for what it
//! costs to begin and end one, and behind them what is missing to whole rounds of a worker's warps. Every worker (a CUDA block)
//! gets the same number of consecutive places, whole rounds too. So the chip is full whether there are many short sequences
//! or one long one, and those of one round stay whole. Where a (sequence, group) is cut, its parts are added up by the worker
//! that finishes last, in the order of the line.
//!
//! **Prefill.** A *tile* is up to 64 or 128 pairs of a new token of one sequence and a query head of one group, which
//! share a KV head; a CUDA block serves a tile and a group. Tiles with the most keys come first, so that the work ends evenly.
//! Where few new tokens follow many old ones, the keys of a tile are cut into pieces, a CUDA block each, which join their
//! sums in the order of the keys. [`PrefillForm`] is the rule.

mod decode;
mod prefill;

pub use decode::{
    CUT as DECODE_CUT, DecodePlan, DecodeSequence, DecodeTuning, EMPTY as DECODE_EMPTY, GRAIN as DECODE_GRAIN,
    UNITS_MIN as DECODE_UNITS_MIN, WORKER_BYTES, Worker,
};
pub(crate) use prefill::PIECE_WORDS;
pub use prefill::{Piece, PrefillForm, PrefillPlan, PrefillSequence, PrefillTuning};

use super::layout::blocks_of;
use super::operands::Extent;
use crate::Error;

impl Extent {
    /// Includes a sequence's rows and KV blocks; refuses one whose blocks are not in the table.
    pub(super) fn include(
        &mut self,
        index: usize,
        row: u32,
        rows: u32,
        context: u64,
        first: u32,
        table: &[u32],
    ) -> Result<(), Error> {
        let what = || format!("sequence {index}");
        let fits = |end: u64| u32::try_from(end).map_err(|_| Error::shape(what(), "is longer than can be counted"));
        let context = fits(context)?;
        let rows_end = fits(u64::from(row) + u64::from(rows))?;
        let entries_end = fits(u64::from(first) + u64::from(blocks_of(context)))?;
        let Some(blocks) = table.get(first as usize..entries_end as usize) else {
            let why = format!(
                "its {context} tokens need entries {first} to {entries_end} of the block table, which has {}",
                table.len()
            );
            return Err(Error::shape(what(), why));
        };
        let blocks_end = blocks.iter().map(|&block| u64::from(block) + 1).max().unwrap_or(0);
        self.rows = self.rows.max(rows_end);
        self.entries = self.entries.max(entries_end);
        self.blocks = self.blocks.max(fits(blocks_end)?);
        Ok(())
    }
}

/// Chips that no plan can be made for, and what is wrong with them.
#[cfg(test)]
fn impossible(right: crate::lora::plan::Chip) -> Vec<(crate::lora::plan::Chip, &'static str)> {
    use crate::lora::plan::Chip;
    let mut chips = vec![(Chip { shared_bytes_block_max: 1024, ..right }, "decode attention")];
    for bad in [0, (1 << 24) + 1, u32::MAX] {
        chips.push((Chip { multiprocessors: bad, ..right }, "chip"));
        chips.push((Chip { shared_bytes_block_max: bad, ..right }, "chip"));
        chips.push((Chip { cluster_max: bad, ..right }, "chip"));
    }
    chips
}
