//! Gaps between consecutive output tokens, at a cost that follows stretches and rows, not tokens.

use aril_sim::fact::Stretch;
use aril_sim::workload::{Catalog, Offered};

use crate::distribution::BITS;
use crate::histogram::{LogLinear, bucket_of, for_each_affine_bucket};
use crate::settings::RecorderSettings;

/// Bucket width of gaps by tenant and by adapter: 2^-6, at most 1.6 %.
const GROUP_BITS: u32 = 6;
/// More groups than this get no gaps of their own: their histograms leave the caches, and every row of every stretch misses.
const GROUPS_MAX: usize = 1_000;

/// Token gaps of a run: all together, by tenant and by adapter.
pub(crate) struct Gaps {
    pub(crate) all: LogLinear<BITS>,
    /// By tenant; empty if not kept.
    pub(crate) tenants: Vec<LogLinear<GROUP_BITS>>,
    /// By adapter; empty if not kept. Requests of the base model are in none.
    pub(crate) adapters: Vec<LogLinear<GROUP_BITS>>,
    /// Tenant of each request, while anything is kept by tenant.
    tenant_of: Vec<u32>,
    /// Buckets of the gaps inside the current stretch.
    run: Vec<(usize, u64)>,
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
        let groups = |len: usize| {
            if settings.gaps_by_group && len <= GROUPS_MAX { vec![LogLinear::default(); len] } else { Vec::new() }
        };
        Gaps {
            all: LogLinear::default(),
            tenants: groups(catalog.tenants.len()),
            adapters: groups(catalog.adapters.len()),
            tenant_of: Vec::new(),
            run: Vec::new(),
        }
    }

    pub(crate) fn arrived(&mut self, offered: &Offered) {
        if !self.tenants.is_empty() {
            self.tenant_of.push(offered.request.tenant.0);
        }
    }

    /// Counts the gaps of a stretch, unless it began before `from` (the end of the warm-up).
    pub(crate) fn stretch(&mut self, stretch: &Stretch<'_>, from: u64) -> Tally {
        let mut tally = Tally { emitting: 0, decode_rows: 0, prefill_tokens: 0 };
        let counted = stretch.start.as_ps() >= from;
        let first_end = stretch.step_end(0).as_ps();
        // Rows that were in the step before have the same first gap: count runs of equal ones at once.
        let (mut gap, mut times) = (0, 0);
        for row in stretch.rows {
            if row.prefill {
                tally.prefill_tokens += row.tokens;
            } else {
                tally.decode_rows += 1;
            }
            tally.emitting += u32::from(row.emits);
            let (true, true, Some(previous)) = (row.emits, counted, row.previous_token) else { continue };
            let here = first_end.saturating_sub(previous.as_ps());
            if here != gap {
                self.all.record(gap, times);
                (gap, times) = (here, 0);
            }
            times += 1;
        }
        self.all.record(gap, times);
        if counted {
            let (first, increment) = (stretch.first.as_ps() + stretch.increment.as_ps(), stretch.increment.as_ps());
            let more = u64::from(stretch.steps.saturating_sub(1));
            self.all.record_affine(first, increment, more, u64::from(tally.emitting));
            if !self.tenants.is_empty() || !self.adapters.is_empty() {
                self.by_group(stretch, first_end, (first, increment, more));
            }
        }
        tally
    }

    fn by_group(&mut self, stretch: &Stretch<'_>, first_end: u64, (first, increment, more): (u64, u64, u64)) {
        self.run.clear();
        if more > 0 {
            for_each_affine_bucket::<GROUP_BITS>(first, increment, more, |bucket, count| {
                self.run.push((bucket, count))
            });
        }
        let last = first + increment * more.saturating_sub(1);
        let sum = if more > 0 { (u128::from(first) + u128::from(last)) * u128::from(more) / 2 } else { 0 };
        let note = |group: &mut LogLinear<GROUP_BITS>, gap: Option<(u64, usize)>, run: &[(usize, u64)]| {
            if let Some((gap, bucket)) = gap {
                group.note(gap, gap, gap.into(), 1);
                group.add(bucket, 1);
            }
            if more > 0 {
                group.note(first, last, sum, more);
                run.iter().for_each(|(bucket, count)| group.add(*bucket, *count));
            }
        };
        for row in stretch.rows.iter().filter(|row| row.emits) {
            let gap = row.previous_token.map(|previous| {
                let gap = first_end.saturating_sub(previous.as_ps());
                (gap, bucket_of::<GROUP_BITS>(gap))
            });
            let tenant =
                self.tenant_of.get(row.request.index()).and_then(|tenant| self.tenants.get_mut(*tenant as usize));
            if let Some(group) = tenant {
                note(group, gap, &self.run);
            }
            if let Some(group) = row.adapter.and_then(|adapter| self.adapters.get_mut(adapter.index())) {
                note(group, gap, &self.run);
            }
        }
    }
}
