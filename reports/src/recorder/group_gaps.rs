//! Token gaps by tenant and by adapter, at a cost that follows requests and changes of batches, not rows.
//!
//! All sequences of a replica wait for the same steps. So the gaps of a replica are counted once, in a histogram that only grows;
//! a sequence notes how it was when it joined the batch, and by how much it has grown when it leaves.

use aril_sim::fact::Stretch;

use crate::histogram::{LogLinear, bucket_of, for_each_affine_bucket};

/// Bucket width: 2^-6, at most 1.6 %.
pub(crate) const GROUP_BITS: u32 = 6;
/// More tenants or adapters than this get no gaps of their own: a histogram each would outgrow the requests.
pub(crate) const GROUPS_MAX: usize = 50_000;
/// Not in a batch.
const NOWHERE: u32 = u32::MAX;

type Histogram = LogLinear<GROUP_BITS>;

/// Token gaps by tenant and by adapter.
pub(crate) struct GroupGaps {
    tenants: Vec<Histogram>,
    adapters: Vec<Histogram>,
    /// Tenant of each request.
    tenant_of: Vec<u32>,
    /// Position of each request in [`GroupGaps::members`], or [`NOWHERE`].
    member_of: Vec<u32>,
    members: Vec<Member>,
    /// Positions in [`GroupGaps::members`] that are free.
    free: Vec<u32>,
    replicas: Vec<Replica>,
    stamp: u64,
    /// Memory for the next batch.
    scratch: Vec<(u32, u32)>,
}

#[derive(Default)]
struct Replica {
    /// Gaps of all its steps so far.
    total: Histogram,
    /// When its last step ended.
    last_end: u64,
    /// Positions of those who were in it, and their requests.
    batch: Vec<(u32, u32)>,
}

/// A sequence in a batch.
#[derive(Default)]
struct Member {
    request: u32,
    tenant: u32,
    adapter: Option<u32>,
    replica: u32,
    /// The gaps of its replica when it joined, and when that was.
    since: Histogram,
    joined: u64,
    /// The last stretch that had it.
    stamp: u64,
}

impl GroupGaps {
    pub(crate) fn new(tenants: usize, adapters: usize, replicas: usize) -> GroupGaps {
        GroupGaps {
            tenants: vec![Histogram::default(); tenants],
            adapters: vec![Histogram::default(); adapters],
            tenant_of: Vec::new(),
            member_of: Vec::new(),
            members: Vec::new(),
            free: Vec::new(),
            replicas: std::iter::repeat_with(Replica::default).take(replicas).collect(),
            stamp: 0,
            scratch: Vec::new(),
        }
    }

    /// The next request is of this tenant.
    pub(crate) fn arrived(&mut self, tenant: u32) {
        self.tenant_of.push(tenant);
        self.member_of.push(NOWHERE);
    }

    /// Counts the gaps of a stretch.
    pub(crate) fn stretch(&mut self, stretch: &Stretch<'_>) {
        let index = stretch.replica.index();
        if index >= self.replicas.len() {
            return;
        }
        let (first_end, last_end) = (stretch.step_end(0).as_ps(), self.replicas[index].last_end);
        let joiners =
            if self.is_same_batch(stretch, last_end) { Vec::new() } else { self.change_batch(stretch, last_end) };
        let replica = &mut self.replicas[index];
        if replica.batch.len() > joiners.len() {
            replica.total.add(bucket_of::<GROUP_BITS>(first_end.saturating_sub(last_end)), 1);
        }
        for position in joiners {
            let member = &mut self.members[position as usize];
            // Whoever joins with this step has no part in its gap.
            member.since.clone_from(&replica.total);
            member.joined = first_end;
        }
        let (first, increment) = (stretch.first.as_ps() + stretch.increment.as_ps(), stretch.increment.as_ps());
        let more = u64::from(stretch.steps.saturating_sub(1));
        if more > 0 {
            for_each_affine_bucket::<GROUP_BITS>(first, increment, more, |bucket, count| {
                replica.total.add(bucket, count)
            });
        }
        replica.last_end = stretch.end().as_ps();
    }

    /// Gaps by tenant and by adapter.
    pub(crate) fn finish(mut self) -> (Vec<Histogram>, Vec<Histogram>) {
        for index in 0..self.replicas.len() {
            let last_end = self.replicas[index].last_end;
            for (position, _) in std::mem::take(&mut self.replicas[index].batch) {
                self.leave(position, last_end);
            }
        }
        (self.tenants, self.adapters)
    }

    /// Are exactly those in the step who were in the one before, in the same order?
    fn is_same_batch(&self, stretch: &Stretch<'_>, last_end: u64) -> bool {
        let batch = &self.replicas[stretch.replica.index()].batch;
        batch.len() == stretch.rows.len()
            && batch.iter().zip(stretch.rows).all(|((_, request), row)| {
                row.emits
                    && row.previous_token.is_some_and(|previous| previous.as_ps() == last_end)
                    && *request == row.request.0
            })
    }

    /// Lets go of those who left, and takes in those who joined; returns the positions of the latter.
    fn change_batch(&mut self, stretch: &Stretch<'_>, last_end: u64) -> Vec<u32> {
        self.stamp += 1;
        let (index, first_end) = (stretch.replica.index(), stretch.step_end(0).as_ps());
        let known = self.member_of.len();
        let rows = || stretch.rows.iter().filter(|row| row.emits && row.request.index() < known);
        let mut batch = std::mem::take(&mut self.scratch);
        batch.clear();
        for row in rows() {
            let position = self.member_of[row.request.index()];
            let goes_on = row.previous_token.is_some_and(|previous| previous.as_ps() == last_end);
            match self.members.get_mut(position as usize) {
                Some(member) if goes_on && member.replica as usize == index => {
                    member.stamp = self.stamp;
                    batch.push((position, row.request.0));
                }
                _ => batch.push((NOWHERE, row.request.0)),
            }
        }
        let before = std::mem::take(&mut self.replicas[index].batch);
        for &(position, _) in &before {
            if self.members[position as usize].stamp != self.stamp {
                self.leave(position, last_end);
            }
        }
        self.scratch = before;
        let mut joiners = Vec::new();
        for (place, row) in rows().enumerate() {
            if batch[place].0 != NOWHERE {
                continue;
            }
            self.leave_elsewhere(row.request.index());
            let position = self.join(row.request.0, row.adapter.map(|adapter| adapter.0), index as u32);
            if let Some(previous) = row.previous_token {
                self.count_own(position, first_end.saturating_sub(previous.as_ps()));
            }
            batch[place].0 = position;
            joiners.push(position);
        }
        self.replicas[index].batch = batch;
        joiners
    }

    /// Somebody who is still noted at another replica left there with that replica's last step.
    fn leave_elsewhere(&mut self, request: usize) {
        let position = self.member_of[request];
        if let Some(member) = self.members.get(position as usize) {
            let replica = &mut self.replicas[member.replica as usize];
            replica.batch.retain(|(other, _)| *other != position);
            let left_at = replica.last_end;
            self.leave(position, left_at);
        }
    }

    fn join(&mut self, request: u32, adapter: Option<u32>, replica: u32) -> u32 {
        let position = self.free.pop().unwrap_or_else(|| {
            self.members.push(Member::default());
            self.members.len() as u32 - 1
        });
        let member = &mut self.members[position as usize];
        (member.request, member.adapter, member.replica, member.stamp) = (request, adapter, replica, self.stamp);
        member.tenant = self.tenant_of[request as usize];
        self.member_of[request as usize] = position;
        position
    }

    /// Gives a member's groups the gaps since it joined.
    fn leave(&mut self, position: u32, last_end: u64) {
        let member = &self.members[position as usize];
        let total = &self.replicas[member.replica as usize].total;
        let sum = u128::from(last_end.saturating_sub(member.joined));
        if let Some(group) = self.tenants.get_mut(member.tenant as usize) {
            group.merge_growth(total, &member.since, sum);
        }
        if let Some(group) = member.adapter.and_then(|adapter| self.adapters.get_mut(adapter as usize)) {
            group.merge_growth(total, &member.since, sum);
        }
        self.member_of[member.request as usize] = NOWHERE;
        self.free.push(position);
    }

    /// Counts a gap that is a member's own.
    fn count_own(&mut self, position: u32, gap: u64) {
        let member = &self.members[position as usize];
        if let Some(group) = self.tenants.get_mut(member.tenant as usize) {
            group.record(gap, 1);
        }
        if let Some(group) = member.adapter.and_then(|adapter| self.adapters.get_mut(adapter as usize)) {
            group.record(gap, 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use aril_sim::fact::Row;
    use aril_sim::time::{Span, Time};
    use aril_sim::workload::{AdapterId, ReplicaId, RequestId};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whoever is in which step, skips some, moves, or emits nothing: each group has the gaps of its own tokens.
        #[test]
        fn groups_have_the_gaps_of_their_tokens_whoever_joins_and_leaves(
            stretches in prop::collection::vec((0u32..3, 1u64..1 << 36, 0u64..1 << 20, 1u32..5, prop::collection::vec(0u8..4, 12)), 1..60),
        ) {
            let mut groups = GroupGaps::new(3, 4, 3);
            (0..12).for_each(|request| groups.arrived(request % 3));
            let mut expected = vec![(Histogram::default(), 0u64); 7];
            let mut previous = [None; 12];
            let mut now = Time::ZERO;
            for (replica, first, increment, steps, parts) in stretches {
                let emitting = |request: usize| parts[request] == 0;
                let rows: Vec<Row> = (0..12)
                    .filter(|request| parts[*request] < 2)
                    .map(|request| Row {
                        request: RequestId(request as u32),
                        adapter: (request % 5 < 4).then_some(AdapterId(request as u32 % 5)),
                        previous_token: previous[request],
                        tokens: 1,
                        prefill: false,
                        emits: emitting(request),
                    })
                    .collect();
                if rows.is_empty() {
                    continue;
                }
                let stretch = Stretch {
                    replica: ReplicaId(replica),
                    start: now,
                    stall: Span::ZERO,
                    first: Span::from_ps(first),
                    increment: Span::from_ps(increment),
                    steps,
                    rows: &rows,
                    padding_rows: 0,
                    segments: 1,
                    decode_context_sum: 0,
                    kv_blocks_used: 0,
                    waiting: 0,
                };
                groups.stretch(&stretch);
                for request in (0..12).filter(|request| emitting(*request)) {
                    for step in 0..steps {
                        let at = stretch.step_end(step);
                        if let Some(before) = previous[request].replace(at) {
                            let gap = at.since(before).as_ps();
                            let adapter = (request % 5 < 4).then_some(3 + request % 5);
                            for group in [Some(request % 3), adapter].into_iter().flatten() {
                                expected[group].0.record(gap, 1);
                                expected[group].1 += 1;
                            }
                        }
                    }
                }
                now = stretch.end();
            }
            let (tenants, adapters) = groups.finish();
            for (found, (exact, count)) in tenants.iter().chain(&adapters).zip(&expected) {
                prop_assert_eq!((found.count(), found.sum()), (*count, exact.sum()));
                let counts = |histogram: &Histogram| histogram.nonempty().map(|(_, count)| count).collect::<Vec<_>>();
                prop_assert_eq!(counts(found), counts(exact));
            }
        }
    }
}
