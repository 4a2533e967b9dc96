//! Gaps between consecutive output tokens, at a cost that follows stretches and rows, not tokens.

use aril_sim::fact::Stretch;
use aril_sim::time::Time;
use aril_sim::workload::{Catalog, Offered};

use super::group_gaps::{Asked, GROUPS_MAX, GroupGaps};
use crate::distribution::BITS;
use crate::histogram::LogLinear;
use crate::settings::RecorderSettings;

/// Token gaps of a run: all together, by tenant and by adapter.
pub(crate) struct Gaps {
    pub(crate) all: LogLinear<BITS>,
    /// When the last step of each replica ended.
    last_ends: Vec<u64>,
    /// None: not kept.
    groups: Option<GroupGaps>,
}

/// What one look at the rows of a stretch tells.
#[derive(Default)]
pub(crate) struct Tally {
    /// Rows that emit a token each step.
    pub(crate) emitting: u32,
    pub(crate) decode_rows: u32,
    pub(crate) prefill_tokens: u32,
}

impl Gaps {
    pub(crate) fn new(catalog: &Catalog, settings: &RecorderSettings) -> Gaps {
        let (tenants, adapters, replicas) =
            (catalog.tenants.len(), catalog.adapters.len(), settings.replica_gpus.len());
        let groups = (settings.gaps_by_group && tenants.max(adapters) <= GROUPS_MAX)
            .then(|| GroupGaps::new(tenants, adapters, replicas));
        Gaps { all: LogLinear::default(), last_ends: vec![0; replicas], groups }
    }

    pub(crate) fn arrived(&mut self, offered: &Offered) {
        if let Some(groups) = &mut self.groups {
            groups.arrived(offered.request.tenant.0);
        }
    }

    /// All gaps, and those of these tenants, adapters and classes of tenants; none if groups were not kept.
    pub(crate) fn finish(
        self,
        tenants: impl Iterator<Item = u32>,
        adapters: impl Iterator<Item = u32>,
        classes: usize,
        class_of: impl Fn(u32) -> Option<usize>,
    ) -> (LogLinear<BITS>, Asked) {
        let last_end_of = |replica: usize| self.last_ends.get(replica).copied().unwrap_or(0);
        let asked = match self.groups {
            Some(groups) => groups.finish(last_end_of, tenants, adapters, classes, class_of),
            None => Asked::default(),
        };
        (self.all, asked)
    }

    /// Counts the gaps of a stretch, unless it began before `from` (the end of the warm-up).
    pub(crate) fn stretch(&mut self, stretch: &Stretch<'_>, from: u64) -> Tally {
        let counted = stretch.start.as_ps() >= from;
        let first_end = stretch.step_end(0).as_ps();
        let replica = stretch.replica.index();
        let last_end = self.last_ends.get(replica).copied().unwrap_or(0);
        let batch = self.groups.as_ref().map(|groups| groups.batch(replica));
        let mut tally = Tally::default();
        // Most rows were in the step before, got a token there and get one now: they have one gap, which is counted at once.
        let (mut together, mut is_same_batch) = (0u64, true);
        let before = Some(Time::from_ps(last_end));
        for row in stretch.rows {
            let place = tally.emitting as usize;
            tally.emitting += u32::from(row.emits);
            if row.emits {
                is_same_batch &=
                    row.previous_token == before && batch.is_none_or(|batch| batch.get(place) == Some(&row.request.0));
            }
            if row.previous_token == before && row.emits && !row.prefill {
                together += 1;
                continue;
            }
            tally.prefill_tokens += if row.prefill { row.tokens } else { 0 };
            tally.decode_rows += u32::from(!row.prefill);
            if let (true, true, Some(previous)) = (row.emits, counted, row.previous_token) {
                self.all.record(first_end.saturating_sub(previous.as_ps()), 1);
            }
        }
        tally.decode_rows += together as u32;
        if counted {
            self.all.record(first_end.saturating_sub(last_end), together);
            let (first, increment) = (stretch.first.as_ps() + stretch.increment.as_ps(), stretch.increment.as_ps());
            let more = u64::from(stretch.steps.saturating_sub(1));
            self.all.record_affine(first, increment, more, u64::from(tally.emitting));
            let is_same_batch = is_same_batch && batch.is_some_and(|batch| batch.len() == tally.emitting as usize);
            if let Some(groups) = &mut self.groups {
                groups.stretch(stretch, last_end, is_same_batch);
            }
        }
        if let Some(last) = self.last_ends.get_mut(replica) {
            *last = stretch.end().as_ps();
        }
        tally
    }
}
