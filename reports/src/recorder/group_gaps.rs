//! Token gaps by tenant and by adapter, at a cost that follows requests and changes of batches, not rows and groups.
//!
//! All sequences of a replica wait for the same steps. So the gaps of a replica are logged once, and of a sequence it is noted which part
//! of the log it was there for. What that says about its tenant and its adapter is looked up when somebody asks: at the end of the
//! run, for the groups that are shown. Until then no histogram is touched, of which there are too many to be near.

mod asked;
mod batch;
mod chapter;
mod sums;
mod tenants;

use std::path::Path;

use aril_sim::fact::{Rows, Soon, Stretch};
use aril_sim::fetch;

pub(crate) use self::asked::Asked;
use self::batch::{Batch, Member, Order};
use self::chapter::{Chapter, Chapters, Own, Stay};
use self::tenants::Tenants;
use super::NONE;
use crate::ReportError;
use crate::histogram::{LogLinear, bucket_of, for_each_affine_bucket};

/// Bucket width: 2^-9 of a gap. Its middle, which stands for it, is off by less than 0.1 %.
const GROUP_BITS: u32 = crate::distribution::WIDE_BITS;
/// Bits of a log's entry that are its bucket; the rest counts.
const BUCKET_BITS: u32 = 15;
const BUCKET_MASK: u32 = (1 << BUCKET_BITS) - 1;
const COUNT_MAX: u32 = u32::MAX >> BUCKET_BITS;
/// Longer logs and lists than this, in bytes, are put away: memory does not follow the run's length.
const HELD_MAX: usize = 1 << 26;

/// A log has room for so many entries at once: thousands of them would else grow from one entry each.
const LOG_MIN: usize = 128;

type Histogram = LogLinear<GROUP_BITS>;

/// Token gaps by tenant and by adapter.
pub(crate) struct GroupGaps {
    tenants: Tenants,
    replicas: Vec<Replica>,
    stays: Vec<Stay>,
    own: Vec<Own>,
    /// Entries of all logs.
    entries: usize,
    /// Bytes that may be held before they are put away.
    held_max: usize,
    /// What was put away.
    earlier: Chapters,
    /// A group whose stays at a replica take as much to look up as so many times the entries of its log is counted by entry, not by stay.
    dense: usize,
    /// Memory for the next batch, and for the places of those who join it.
    next: Order,
    newcomers: Vec<u32>,
}

/// Whole lines of memory, which are asked for ahead of time.
#[derive(Default)]
#[repr(align(64))]
struct Replica {
    /// Gaps of its steps: buckets in the lower bits, how often in the upper ones.
    log: Vec<u32>,
    /// Entries that somebody's stay begins or ends after: they do not change any more.
    fixed: usize,
    /// When its last step ended; 0 before its first.
    last_end: u64,
    batch: Batch,
}

impl GroupGaps {
    /// What is too long for memory lies in a file in `folder`, which has no name.
    pub(crate) fn new(replicas: usize, folder: &Path) -> GroupGaps {
        GroupGaps {
            tenants: Tenants::default(),
            replicas: std::iter::repeat_with(Replica::default).take(replicas).collect(),
            stays: Vec::new(),
            own: Vec::new(),
            entries: 0,
            held_max: HELD_MAX,
            earlier: Chapters::in_folder(folder),
            dense: 2,
            next: Order::default(),
            newcomers: Vec::new(),
        }
    }

    /// The next request is of this tenant.
    pub(crate) fn arrived(&mut self, tenant: u32) {
        self.tenants.arrived(tenant);
    }

    /// A request gets no more tokens.
    pub(crate) fn over(&mut self, request: u32) {
        self.tenants.over(request);
    }

    /// When did the last step of a replica end? 0 before its first.
    pub(crate) fn last_end(&self, replica: usize) -> u64 {
        self.replicas.get(replica).map_or(0, |replica| replica.last_end)
    }

    /// Asks for the memory of a replica of which a stretch comes soon.
    pub(crate) fn expect(&self, replica: usize, soon: &Soon<'_>) {
        let Some(known) = self.replicas.get(replica) else { return };
        match soon {
            Soon::Replica => fetch::element(&self.replicas, replica),
            Soon::Lists => {
                fetch::end(&known.log);
                known.batch.order.fetch();
            }
            Soon::Rows { who, same } => known.batch.fetch_leaving(who, *same),
        }
    }

    /// Counts the gaps of a stretch, in which so many rows get tokens.
    ///
    /// # Errors
    /// What the file system refuses when memory is full.
    pub(crate) fn stretch(&mut self, stretch: &Stretch<'_>, emitting: usize) -> Result<(), ReportError> {
        let index = stretch.replica.index();
        let Some(replica) = self.replicas.get(index) else { return Ok(()) };
        let last_end = replica.last_end;
        let first_end = stretch.step_end(0).as_ps();
        let members = replica.batch.order.len();
        let same = members.min(stretch.same_rows as usize);
        let is_same_batch = same == members && same == emitting;
        self.newcomers.clear();
        if !is_same_batch {
            self.change_batch(stretch, same);
        }
        let replica = &mut self.replicas[index];
        let (len, before) = (replica.batch.order.len(), replica.log.len());
        if len > self.newcomers.len() {
            replica.note(bucket_of::<GROUP_BITS>(first_end.saturating_sub(last_end)), 1);
        }
        if !self.newcomers.is_empty() {
            // Whoever joins with this step has no part in its gap.
            replica.fixed = replica.log.len();
            let from = replica.log.len() as u32;
            self.newcomers.iter().for_each(|place| replica.batch.member_mut(*place).from = from);
        }
        let (first, increment) = (stretch.first.as_ps() + stretch.increment.as_ps(), stretch.increment.as_ps());
        let more = u64::from(stretch.steps.saturating_sub(1));
        if more > 0 && len > 0 {
            for_each_affine_bucket::<GROUP_BITS>(first, increment, more, |bucket, count| replica.note(bucket, count));
        }
        replica.last_end = stretch.end().as_ps();
        self.entries += replica.log.len() - before;
        if self.held() > self.held_max {
            self.put_away()?;
            // What is left belongs to those who are still there.
            self.held_max = HELD_MAX.max(2 * self.held());
        }
        Ok(())
    }

    /// Lets go of those who left, and takes in those who joined, in the order of the step. The first `same` stay.
    fn change_batch(&mut self, stretch: &Stretch<'_>, same: usize) {
        let GroupGaps { tenants, replicas, stays, own, next, newcomers, .. } = self;
        let Replica { log, fixed, batch, last_end } = &mut replicas[stretch.replica.index()];
        let last_end = *last_end;
        let first_end = stretch.step_end(0).as_ps();
        let mut leaves = |member: &Member| {
            stays.extend(member.stay(stretch.replica.0, log.len(), last_end));
            *fixed = log.len();
        };
        let same = match stretch.rows {
            Rows::GoingOn { who, previous_token, apart } if previous_token.as_ps() == last_end => {
                let in_order = apart.first().map_or(who.len(), |(at, _)| *at as usize);
                batch.close_ranks(&who[..in_order], same, &mut leaves)
            }
            _ => same,
        };
        next.clear();
        let mut at = same;
        let mut rows = stretch.rows.iter_from(same);
        for row in rows.by_ref().filter(|row| row.emits) {
            let request = row.request.0;
            let Some(tenant) = tenants.of(request) else { continue };
            let goes_on = row.previous_token.is_some_and(|previous| previous.as_ps() == last_end);
            if let Some((position, place)) = goes_on.then(|| batch.order.take(request, same, at)).flatten() {
                next.push(request, place);
                at = position + 1;
                continue;
            }
            let adapter = row.adapter.map_or(NONE, |adapter| adapter.0);
            if let Some(previous) = row.previous_token {
                own.push(Own { gap: first_end.saturating_sub(previous.as_ps()), request, tenant, adapter });
            }
            let place = batch.seat(Member { request, tenant, adapter, from: 0, joined: first_end });
            next.push(request, place);
            newcomers.push(place);
        }
        batch.replace(same, next, leaves);
    }

    /// The run is over.
    fn everybody_leaves(&mut self) {
        for (index, replica) in self.replicas.iter_mut().enumerate() {
            let (to, last_end) = (replica.log.len(), replica.last_end);
            let stays = replica.batch.members().filter_map(|member| member.stay(index as u32, to, last_end));
            self.stays.extend(stays);
            replica.batch = Batch::default();
        }
    }

    /// Bytes of what is not put away yet.
    fn held(&self) -> usize {
        self.entries * size_of::<u32>() + self.stays.len() * size_of::<Stay>() + self.own.len() * size_of::<Own>()
    }

    /// Writes down what is over, and forgets it.
    fn put_away(&mut self) -> Result<(), ReportError> {
        let logs = self.replicas.iter_mut().map(|replica| std::mem::take(&mut replica.log)).collect();
        let mut chapter = Chapter { logs, stays: std::mem::take(&mut self.stays), own: std::mem::take(&mut self.own) };
        self.earlier.write(&chapter)?;
        chapter.stays.clear();
        chapter.own.clear();
        (self.stays, self.own) = (chapter.stays, chapter.own);
        self.entries = 0;
        for (replica, mut log) in self.replicas.iter_mut().zip(chapter.logs) {
            let from = replica.batch.members().map(|member| member.from).min();
            let from = from.unwrap_or(log.len() as u32);
            replica.log = log.split_off(from as usize);
            replica.fixed = replica.fixed.saturating_sub(from as usize);
            replica.batch.each_mut(|member| member.from -= from);
            self.entries += replica.log.len();
        }
        Ok(())
    }
}

impl Replica {
    /// Logs `count` gaps of a bucket.
    fn note(&mut self, bucket: usize, count: u64) {
        let bucket = bucket as u32;
        if self.log.len() > self.fixed
            && let Some(last) = self.log.last_mut()
            && *last & BUCKET_MASK == bucket
            && u64::from(*last >> BUCKET_BITS) + count <= u64::from(COUNT_MAX)
        {
            *last += (count as u32) << BUCKET_BITS;
            return;
        }
        let mut left = count;
        if self.log.is_empty() {
            self.log.reserve(LOG_MIN);
        }
        while left > 0 {
            let here = left.min(u64::from(COUNT_MAX));
            self.log.push((here as u32) << BUCKET_BITS | bucket);
            left -= here;
        }
    }
}

#[cfg(test)]
mod tests {
    use aril_sim::fact::{Row, Rows, Who};
    use aril_sim::time::{Span, Time};
    use aril_sim::workload::{AdapterId, ReplicaId, RequestId};
    use proptest::prelude::*;

    use super::*;
    use crate::histogram::nearest_rank;

    /// Who has another part in a step than in the last one there: 0: a token, 1: none, else no part. All twelve may, or few: those who
    /// stay know steps from before and after somebody joins.
    fn parts() -> impl Strategy<Value = Vec<(usize, u8)>> {
        let all = prop::collection::vec(0u8..4, 12).prop_map(|parts| (0..).zip(parts).collect());
        prop_oneof![all, prop::collection::vec((0usize..12, 0u8..4), 0..3)]
    }

    /// What becomes of what is held while one request after the other gets a token, each a longer one than the last.
    fn held_after(stretches: u64, held_max: usize) -> usize {
        let folder = tempfile::tempdir().unwrap();
        let mut groups = GroupGaps { held_max, ..GroupGaps::new(1, folder.path()) };
        let mut now = Time::ZERO;
        for n in 0..stretches {
            let request = n as u32 / 2;
            groups.arrived(request);
            let who = [Who::new(RequestId(request), None)];
            let first = Span::from_ps(1_000_000 * (n + 1));
            let row = Row {
                request: RequestId(request),
                adapter: None,
                previous_token: None,
                tokens: 1,
                prefill: false,
                emits: true,
            };
            let apart = if n % 2 == 0 { vec![(0, row)] } else { Vec::new() };
            let stretch = Stretch {
                replica: ReplicaId(0),
                start: now,
                stall: Span::ZERO,
                first,
                increment: Span::ZERO,
                steps: 1,
                rows: Rows::GoingOn { who: &who, previous_token: now, apart: &apart },
                same_rows: (n % 2) as u32,
                padding_rows: 0,
                segments: 0,
                decode_context_sum: 0,
                kv_blocks_used: 0,
                waiting: 0,
            };
            groups.stretch(&stretch, 1).unwrap();
            now = stretch.end();
        }
        groups.held()
    }

    #[test]
    fn what_is_too_much_for_memory_is_put_away() {
        let [all, some] = [HELD_MAX, 8_000].map(|held_max| held_after(2_000, held_max));
        assert!(all > 16_000, "{all}");
        assert!(some > 0 && some + 7_900 <= all, "{some} of {all} bytes are held");
    }

    proptest! {
        /// Whoever is in which step, skips some, moves, or emits nothing: each group has the gaps of its own tokens.
        #[test]
        fn groups_have_the_gaps_of_their_tokens_whoever_joins_and_leaves(
            // Many steps are of one length, which is logged once.
            stretches in prop::collection::vec(
                (
                    prop_oneof![0u32..3, Just(0)],
                    any::<bool>(),
                    prop_oneof![1u64..1 << 36, (1u64 << 30)..(1 << 30) + 4, Just(1 << 30)],
                    prop_oneof![0u64..1 << 20, Just(0)],
                    prop_oneof![1u32..5, Just(1)],
                    parts(),
                    // Now and then, what is over is put away in the middle of the run.
                    prop::bool::weighted(0.15),
                ),
                1..60,
            ),
            dense in 0usize..3,
            held_max in prop_oneof![Just(HELD_MAX), 0usize..400],
            measured in prop::option::of((0u32..6, 6u32..13)),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let mut groups = GroupGaps { dense, held_max, ..GroupGaps::new(3, folder.path()) };
            (0..12).for_each(|request| groups.arrived(request % 3));
            let mut gaps = vec![Vec::new(); 7];
            let mut previous = [None; 12];
            let (mut last_ends, mut last_parts) = ([0; 3], [[3; 12]; 3]);
            let mut now = Time::ZERO;
            for (replica, is_listed, first, increment, steps, changes, puts_away) in stretches {
                let parts = &mut last_parts[replica as usize];
                changes.into_iter().for_each(|(request, part)| parts[request] = part);
                let parts = *parts;
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
                let goes_on = |row: &Row| row.previous_token.map(Time::as_ps) == Some(last_ends[replica as usize]);
                let who: Vec<Who> = rows.iter().map(|row| Who::new(row.request, row.adapter)).collect();
                let apart: Vec<(u32, Row)> = (0..).zip(rows.iter().copied()).filter(|(_, row)| !(row.emits && goes_on(row))).collect();
                let previous_token = Time::from_ps(last_ends[replica as usize]);
                let mut stretch = Stretch {
                    replica: ReplicaId(replica),
                    start: now,
                    stall: Span::ZERO,
                    first: Span::from_ps(first),
                    increment: Span::from_ps(increment),
                    steps,
                    rows: if is_listed { Rows::Listed(&rows) } else { Rows::GoingOn { who: &who, previous_token, apart: &apart } },
                    same_rows: 0,
                    padding_rows: 0,
                    segments: 1,
                    decode_context_sum: 0,
                    kv_blocks_used: 0,
                    waiting: 0,
                };
                let emit: Vec<u32> = rows.iter().filter(|row| row.emits).map(|row| row.request.0).collect();
                let in_order = rows.iter().zip(groups.replicas[replica as usize].batch.order.requests());
                let same = in_order.take_while(|(row, request)| row.emits && goes_on(row) && row.request.0 == **request);
                stretch.same_rows = same.count() as u32;
                groups.stretch(&stretch, emit.len()).unwrap();
                last_ends[replica as usize] = stretch.end().as_ps();
                if puts_away {
                    groups.put_away().unwrap();
                }
                for request in (0..12).filter(|request| emitting(*request)) {
                    for step in 0..steps {
                        let at = stretch.step_end(step);
                        let is_measured = measured.is_none_or(|(from, to)| (from..to).contains(&(request as u32)));
                        if let Some(before) = previous[request].replace(at).filter(|_| is_measured) {
                            let gap = at.since(before).as_ps();
                            let adapter = (request % 5 < 4).then_some(3 + request % 5);
                            for group in [Some(request % 3), adapter].into_iter().flatten() {
                                gaps[group].push(gap);
                            }
                        }
                    }
                }
                now = stretch.end();
            }
            let asked = groups.finish(measured.map(|(from, to)| from..to), 0..3, 0..4, 2, |tenant| Some(tenant as usize % 2)).unwrap();
            prop_assert_eq!(asked.everybody.is_some(), measured.is_some());
            if let Some(everybody) = &asked.everybody {
                let all = gaps[..3].iter().flatten().copied();
                prop_assert_eq!((everybody.count(), everybody.sum()), (all.clone().count() as u64, all.map(u128::from).sum()));
            }
            let of_class = gaps[0].iter().chain(&gaps[2]);
            prop_assert_eq!(u128::from(asked.classes[0].count()), of_class.clone().count() as u128);
            prop_assert_eq!(asked.classes[0].sum(), of_class.copied().map(u128::from).sum::<u128>());
            for (found, exact) in asked.tenants.values().chain(asked.adapters.values()).zip(&mut gaps) {
                exact.sort_unstable();
                prop_assert_eq!(u128::from(found.count()), exact.len() as u128);
                prop_assert_eq!(found.sum(), exact.iter().copied().map(u128::from).sum::<u128>());
                for q in [0.0, 0.5, 0.9, 0.99, 1.0] {
                    let exact = nearest_rank(q, exact.len() as u64).map(|rank| exact[rank as usize - 1]);
                    let is_near = found.quantile(q).zip(exact).is_none_or(|(found, exact)| found.abs_diff(exact) <= exact / 1_000);
                    prop_assert!(is_near, "{}: {:?} {:?}", q, found.quantile(q), exact);
                }
            }
        }
    }
}
