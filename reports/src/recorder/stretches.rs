//! Stretches, counted some at a time.
//!
//! What counts them finds neither its code nor its figures near after one stretch, when the run has been elsewhere. Many in a row do:
//! what has to be read of the rows is read at once, and the rest waits.

use aril_sim::fact::Stretch;

use super::gaps::{Gaps, Tally};
use super::occupancy::Occupancy;
use super::series;
use super::tables::StepRow;
use crate::time_bins::TimeBins;

/// So many are counted together: what a table takes in at once.
const COUNTED: usize = 128;

/// Stretches that are not counted yet.
pub(super) struct Stretches {
    /// As the table has them.
    pub(super) rows: Vec<StepRow>,
    rest: Vec<Rest>,
    /// GPUs of the replica of each. They are looked up one right after the other: one at a time, each would wait for what is known of its
    /// replica, which is far away.
    gpus: Vec<u32>,
}

/// What else is counted of one.
struct Rest {
    /// Picoseconds.
    end: u64,
    tally: Tally,
}

impl Stretches {
    pub(super) fn new() -> Stretches {
        Stretches {
            rows: Vec::with_capacity(COUNTED),
            rest: Vec::with_capacity(COUNTED),
            gpus: Vec::with_capacity(COUNTED),
        }
    }

    /// A stretch is over, and so much was seen of its rows.
    pub(super) fn push(&mut self, stretch: &Stretch<'_>, tally: Tally) {
        self.rest.push(Rest { end: stretch.end().as_ps(), tally });
        self.rows.push(StepRow::of(stretch, &tally));
    }

    /// Is it time to count them?
    pub(super) fn is_full(&self) -> bool {
        self.rows.len() >= COUNTED
    }

    /// Counts them. The rows stay, for the table.
    pub(super) fn count(&mut self, gaps: &mut Gaps, occupancy: &mut Occupancy, over_time: &mut TimeBins) {
        self.gpus.clear();
        self.gpus.extend(self.rows.iter().map(|row| occupancy.gpus_of(row.replica)));
        for ((row, Rest { end, tally }), gpus) in self.rows.iter().zip(self.rest.drain(..)).zip(&self.gpus) {
            gaps.count(row, &tally);
            over_time.spread(series::OUTPUT_TOKENS, row.start_ps, end, tally.emitted(row.steps));
            occupancy.stretch(row, *gpus, end, over_time);
        }
    }
}
