//! Gaps between consecutive output tokens, at a cost that follows stretches and rows, not tokens.

use std::ops::Range;
use std::path::Path;

use aril_sim::fact::{Row, Soon, Stretch};
use aril_sim::time::Time;
use aril_sim::workload::{Offered, ReplicaId};

use super::group_gaps::{Asked, GroupGaps};
use super::tables::StepRow;
use crate::ReportError;
use crate::distribution::{BITS, Distribution};
use crate::histogram::LogLinear;
use crate::settings::RecorderSettings;

/// Token gaps of a run: all together, by tenant and by adapter.
pub(crate) struct Gaps {
    all: LogLinear<BITS>,
    groups: GroupGaps,
}

/// What one look at the rows of a stretch tells.
#[derive(Clone, Copy)]
pub(crate) struct Tally {
    /// Rows that emit a token each step.
    pub(crate) emitting: u32,
    pub(crate) decode_rows: u32,
    pub(crate) prefill_tokens: u32,
    /// Rows whose gap in the first step is the one below, picoseconds: that of all who go on.
    together: u32,
    gap: u64,
}

impl Tally {
    /// Tokens emitted in so many steps.
    pub(super) fn emitted(&self, steps: u32) -> u64 {
        u64::from(self.emitting) * u64::from(steps)
    }
}

impl Gaps {
    /// What is too long for memory is kept in `folder`.
    pub(crate) fn new(settings: &RecorderSettings, folder: &Path) -> Gaps {
        Gaps { all: LogLinear::default(), groups: GroupGaps::new(settings.replica_gpus.len(), folder) }
    }

    pub(crate) fn arrived(&mut self, offered: &Offered) {
        self.groups.arrived(offered.request.tenant.0);
    }

    /// A stretch of this replica comes soon.
    pub(crate) fn expect(&self, replica: ReplicaId, soon: &Soon<'_>) {
        self.groups.expect(replica.index(), soon);
    }

    /// A request gets no more tokens.
    pub(crate) fn over(&mut self, request: u32) {
        self.groups.over(request);
    }

    /// The gaps of the requests that are measured: all, and those of these tenants, adapters and classes of tenants. Requests count from 0 in the
    /// order of their arrival; none given: all are measured.
    pub(crate) fn finish(
        self,
        measured: Option<Range<u32>>,
        tenants: impl Iterator<Item = u32>,
        adapters: impl Iterator<Item = u32>,
        classes: usize,
        class_of: impl Fn(u32) -> Option<usize>,
    ) -> Result<(Distribution, Asked), ReportError> {
        let mut asked = self.groups.finish(measured, tenants, adapters, classes, class_of)?;
        let all = asked.everybody.take().map_or(Distribution::Bucketed(self.all), Distribution::Wide);
        Ok((all, asked))
    }

    /// Looks at the rows of a stretch, and counts the gaps that rows have for themselves now, the others by [`Gaps::count`].
    #[inline]
    pub(crate) fn tally(&mut self, stretch: &Stretch<'_>) -> Tally {
        let first_end = stretch.step_end(0).as_ps();
        let (going_on, previous) = stretch.rows.going_on();
        // When the step before ended, or never.
        let last_end = self.groups.last_end(stretch.replica.index());
        let before = Some(Time::from_ps(last_end));
        // Most rows were in the step before, got a token there and get one now: they have one gap, which is counted at once.
        let goes_on = |row: &Row| row.previous_token == before && row.emits && !row.prefill;
        let mut own = |previous: Time, count: u64| self.all.record(first_end.saturating_sub(previous.as_ps()), count);
        let gap = first_end.saturating_sub(last_end);
        let mut tally = Tally { emitting: going_on, decode_rows: going_on, prefill_tokens: 0, together: 0, gap };
        if Some(previous) == before {
            tally.together = going_on;
        } else {
            own(previous, u64::from(going_on));
        }
        for row in stretch.rows.apart() {
            tally.emitting += u32::from(row.emits);
            tally.decode_rows += u32::from(!row.prefill);
            tally.prefill_tokens += if row.prefill { row.tokens } else { 0 };
            match row.previous_token {
                Some(_) if goes_on(row) => tally.together += 1,
                Some(previous) if row.emits => own(previous, 1),
                _ => {}
            }
        }
        tally
    }

    /// Counts the gaps of groups in a stretch, of which that was seen.
    pub(crate) fn stretch(&mut self, stretch: &Stretch<'_>, tally: &Tally) -> Result<(), ReportError> {
        self.groups.stretch(stretch, tally.emitting as usize)
    }

    /// Counts the gaps that the rows of a stretch share.
    pub(super) fn count(&mut self, stretch: &StepRow, tally: &Tally) {
        self.all.record(tally.gap, u64::from(tally.together));
        let first = stretch.first_ps + stretch.increment_ps;
        let more = u64::from(stretch.steps.saturating_sub(1));
        self.all.record_affine(first, stretch.increment_ps, more, u64::from(tally.emitting));
    }
}
