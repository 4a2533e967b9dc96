//! Gaps between consecutive output tokens, at a cost that follows stretches and rows, not tokens.

use aril_sim::fact::Stretch;
use aril_sim::workload::{Catalog, Offered};

use super::group_gaps::{GROUP_BITS, GROUPS_MAX, GroupGaps};
use crate::distribution::BITS;
use crate::histogram::LogLinear;
use crate::settings::RecorderSettings;

/// Token gaps of a run: all together, by tenant and by adapter.
pub(crate) struct Gaps {
    pub(crate) all: LogLinear<BITS>,
    /// None: not kept.
    groups: Option<GroupGaps>,
}

/// What one look at the rows of a stretch tells.
pub(crate) struct Tally {
    /// Rows that emit a token each step.
    pub(crate) emitting: u32,
    pub(crate) decode_rows: u32,
    pub(crate) prefill_tokens: u32,
}

impl Gaps {
    pub(crate) fn new(catalog: &Catalog, settings: &RecorderSettings) -> Gaps {
        let (tenants, adapters) = (catalog.tenants.len(), catalog.adapters.len());
        let groups = (settings.gaps_by_group && tenants.max(adapters) <= GROUPS_MAX)
            .then(|| GroupGaps::new(tenants, adapters, settings.replica_gpus.len()));
        Gaps { all: LogLinear::default(), groups }
    }

    pub(crate) fn arrived(&mut self, offered: &Offered) {
        if let Some(groups) = &mut self.groups {
            groups.arrived(offered.request.tenant.0);
        }
    }

    /// All gaps, those by tenant and those by adapter; the latter are empty if they were not kept.
    pub(crate) fn finish(self) -> (LogLinear<BITS>, Vec<LogLinear<GROUP_BITS>>, Vec<LogLinear<GROUP_BITS>>) {
        let (tenants, adapters) = self.groups.map(GroupGaps::finish).unwrap_or_default();
        (self.all, tenants, adapters)
    }

    /// Counts the gaps of a stretch, unless it began before `from` (the end of the warm-up).
    pub(crate) fn stretch(&mut self, stretch: &Stretch<'_>, from: u64) -> Tally {
        let mut tally = Tally { emitting: 0, decode_rows: 0, prefill_tokens: 0 };
        let counted = stretch.start.as_ps() >= from;
        let first_end = stretch.step_end(0).as_ps();
        // Rows that were in the step before have the same first gap: count runs of equal ones at once.
        let (mut gap, mut times) = (0, 0);
        let mut before = None;
        for row in stretch.rows {
            if row.prefill {
                tally.prefill_tokens += row.tokens;
            } else {
                tally.decode_rows += 1;
            }
            tally.emitting += u32::from(row.emits);
            if row.previous_token != before {
                self.all.record(gap, times);
                (before, times) = (row.previous_token, 0);
                gap = before.map_or(0, |before| first_end.saturating_sub(before.as_ps()));
            }
            times += u64::from(row.emits && counted && before.is_some());
        }
        self.all.record(gap, times);
        if counted {
            let (first, increment) = (stretch.first.as_ps() + stretch.increment.as_ps(), stretch.increment.as_ps());
            let more = u64::from(stretch.steps.saturating_sub(1));
            self.all.record_affine(first, increment, more, u64::from(tally.emitting));
            if let Some(groups) = &mut self.groups {
                groups.stretch(stretch);
            }
        }
        tally
    }
}
