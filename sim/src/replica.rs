//! One model instance: its queue, its batch, its KV blocks, its adapters and the step in flight.

use std::collections::VecDeque;
use std::rc::Rc;

mod queue;

use self::queue::Wanted;
pub(crate) use self::queue::{SpareQueues, Waiting};
use crate::batch::{Census, Price, Sag, Segment, SegmentSums};
use crate::fact::Power;
use crate::fetch::{self, Block, Room};
use crate::find;
use crate::policy::{Batcher, Evictor, LoadPath, Policies, Preemptor};
use crate::residency::{Residency, SlotId};
use crate::rows::{Left, Rows};
use crate::settings::ReplicaSettings;
use crate::time::{Span, Time};
use crate::workload::{AdapterId, ReplicaId};

/// Position of a live sequence in the engine's table.
pub(crate) type SequenceKey = u32;

/// Adapters that rows of the batch use, in order of adapter, as if every row decoded.
#[derive(Debug, Default)]
pub(crate) struct Active {
    pub(crate) adapters: Vec<AdapterId>,
    /// Each of them as the segment that it would be if every row decoded.
    pub(crate) segments: Vec<Segment>,
    pub(crate) sums: SegmentSums,
    pub(crate) census: Census,
}

impl Active {
    pub(crate) fn position(&self, adapter: AdapterId) -> Result<usize, usize> {
        find::in_order(&self.adapters, adapter)
    }

    fn add(&mut self, adapter: AdapterId, rank: u32) {
        let position = self.position(adapter);
        self.sums.join(rank, position.is_err());
        let rows = match position {
            Ok(position) => {
                self.segments[position].decode_rows += 1;
                self.segments[position].decode_rows
            }
            Err(position) => {
                self.adapters.insert(position, adapter);
                self.segments.insert(position, Segment { rank, prefill_rows: 0, decode_rows: 1 });
                1
            }
        };
        self.census.change(rank, rows - 1, rows);
    }

    fn remove(&mut self, adapter: AdapterId) {
        let position = self.position(adapter).expect("the adapters of the batch are listed");
        let segment = &mut self.segments[position];
        segment.decode_rows -= 1;
        let (rank, rows) = (segment.rank, segment.decode_rows);
        self.census.change(rank, rows + 1, rows);
        self.sums.leave(rank);
        if rows == 0 {
            self.adapters.remove(position);
            self.segments.remove(position);
            self.sums.without(rank, self.segments.iter().map(|segment| segment.rank));
        }
    }
}

/// The step or stretch that runs now.
#[derive(Clone, Debug)]
pub(crate) struct InFlight {
    pub(crate) start: Time,
    pub(crate) stall: Span,
    pub(crate) price: Price,
    pub(crate) steps: u32,
    /// Does somebody finish at its end, as far as is known?
    pub(crate) finishes: bool,
    pub(crate) padding_rows: u32,
    pub(crate) segments: u32,
    /// Decode rows, those of padding included.
    pub(crate) decode_rows: u32,
    pub(crate) decode_context_sum: u64,
}

impl InFlight {
    /// When the first `steps` steps are over.
    pub(crate) fn end(&self, steps: u32) -> Time {
        self.start + self.stall + self.price.sum(steps)
    }

    /// Steps that are over at `now`.
    pub(crate) fn steps_done(&self, now: Time) -> u32 {
        let running = now.since(self.start).saturating_sub(self.stall);
        if self.price.sum(self.steps) <= running {
            return self.steps;
        }
        // The least number that reaches `running` is over only if it is reached exactly.
        let reach = self.price.steps_to_reach(running, self.steps);
        if self.price.sum(reach) == running && !running.is_zero() { reach } else { reach - 1 }
    }

    /// The first boundary between steps at or after `now`, as a number of steps.
    pub(crate) fn next_boundary(&self, now: Time) -> u32 {
        self.price.steps_to_reach(now.since(self.start).saturating_sub(self.stall), self.steps)
    }
}

/// The policies that one replica has for itself.
pub(crate) struct Mind {
    pub(crate) batcher: Box<dyn Batcher>,
    pub(crate) evictor: Box<dyn Evictor>,
    pub(crate) host_evictor: Box<dyn Evictor>,
    pub(crate) load_path: Box<dyn LoadPath>,
    pub(crate) preemptor: Box<dyn Preemptor>,
}

impl Mind {
    pub(crate) fn new(policies: &Policies) -> Mind {
        Mind {
            batcher: (policies.batcher)(),
            evictor: (policies.evictor)(),
            host_evictor: (policies.evictor)(),
            load_path: (policies.load_path)(),
            preemptor: (policies.preemptor)(),
        }
    }
}

/// No adapter has a larger rank.
pub(crate) const RANK_MAX: u32 = u16::MAX as u32;

/// Rows that a replica takes memory for at first.
const USUAL_ROWS: u32 = 32;

/// So many of the queue are looked at ahead of time.
const WATCHED: usize = 2;

/// Whole lines of memory, which are asked for ahead of time.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct Replica {
    pub(crate) id: ReplicaId,
    /// Shared by replicas that are set alike: what a thousand of them touch in turn should be little.
    pub(crate) settings: Rc<ReplicaSettings>,
    pub(crate) power: Power,
    pub(crate) waiting: VecDeque<Waiting>,
    /// Blocks that the prefills of the queue will need.
    pub(crate) waiting_blocks: u64,
    /// Sequences in the queue by adapter.
    pub(crate) waiting_adapters: Wanted,
    pub(crate) rows: Rows,
    pub(crate) kv_free: u32,
    pub(crate) residency: Residency,
    pub(crate) in_flight: Option<InFlight>,
    pub(crate) start_pending: bool,
    /// Has anything changed since the batcher was last asked?
    pub(crate) changed: bool,
    /// Did the last step compute prompts? What it had left is not what the next one has.
    pub(crate) prompted: bool,
    pub(crate) admissions: u64,
    /// Steps done since the start of the run.
    pub(crate) steps: u64,
    /// How far the GPU's clocks had sagged when its last step was over.
    pub(crate) sag: Sag,
    /// When that was.
    pub(crate) computed_until: Time,
    pub(crate) active: Active,
    /// The lists that every step reads.
    lists: Block,
}

impl Replica {
    pub(crate) fn new(id: ReplicaId, settings: Rc<ReplicaSettings>) -> Replica {
        let residency =
            Residency::new(id, settings.gpu_adapters, settings.host_adapters, settings.gpu_link, settings.disk_link);
        Replica {
            id,
            power: if settings.starts_on { Power::On } else { Power::Off },
            waiting: VecDeque::new(),
            waiting_blocks: 0,
            waiting_adapters: Wanted::default(),
            rows: Rows::new(settings.block_size),
            kv_free: settings.kv_blocks,
            residency,
            in_flight: None,
            start_pending: false,
            changed: false,
            prompted: false,
            admissions: 0,
            steps: 0,
            sag: Sag::NONE,
            computed_until: Time::ZERO,
            active: Active::default(),
            lists: Block::default(),
            settings,
        }
    }

    /// How many rows has its batch, usually, when it is full?
    pub(crate) fn usual_rows(&self) -> usize {
        self.settings.max_num_seqs.min(USUAL_ROWS) as usize
    }

    /// Takes the memory of a usual batch: a replica that is used for the first time. What every step reads lies side by side.
    fn move_in(&mut self) {
        let rows = self.usual_rows();
        let [who, contexts, finishes, states] = self.rows.reserve(rows);
        self.active.adapters.reserve(rows);
        let [adapters, slots] = self.residency.reserve(rows);
        let active = Room::of(&self.active.adapters);
        self.lists = Block::of(&[who, contexts, finishes, states, active, adapters, slots]);
        self.active.segments.reserve(rows);
        self.rows.reserve_cold(rows);
        self.residency.reserve_slots(rows);
    }

    /// Asks for the lists that the end of a step or of a copy is about to read.
    pub(crate) fn fetch_lists(&self) {
        if self.lists.is_empty() {
            self.rows.fetch();
            fetch::list(&self.active.adapters);
            self.residency.fetch();
        }
        self.lists.fetch();
        self.active.census.fetch();
        self.residency.fetch_idle();
        fetch::list(self.waiting.as_slices().0);
        self.waiting_adapters.fetch();
    }

    /// Asks for what is known of those who leave the batch, or have their first token, with the step in flight, and of the adapters of the
    /// first of the queue.
    pub(crate) fn fetch_leaving(&self) {
        self.leaving().for_each(|position| self.rows.fetch_cold(position));
        if self.in_flight.as_ref().is_some_and(|flight| flight.finishes) || !self.waiting.is_empty() {
            fetch::list(&self.active.segments);
        }
        let watched = self.waiting.iter().take(WATCHED).filter_map(|waiting| waiting.awaits);
        watched.for_each(|copy| self.residency.fetch_awaited(copy));
    }

    /// Names them, and the first of the queue, who may be next. Asks for what is known of their adapters.
    pub(crate) fn name_leaving(&self, mut each: impl FnMut(SequenceKey)) {
        for position in self.leaving() {
            self.rows.sequence(position).into_iter().for_each(&mut each);
            self.residency.fetch_slot(self.rows.slot(position));
        }
        self.waiting.iter().take(WATCHED).for_each(|waiting| each(waiting.sequence));
    }

    fn leaving(&self) -> impl Iterator<Item = usize> + '_ {
        let finished = self.in_flight.as_ref().filter(|flight| flight.finishes).map(|flight| flight.steps);
        self.rows.leaving(finished)
    }

    pub(crate) fn blocks(&self, tokens: u32) -> u32 {
        tokens.div_ceil(self.settings.block_size)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.waiting.is_empty()
    }

    /// Takes the blocks of the step that runs now, for the rows that decode in it.
    pub(crate) fn take_step_blocks(&mut self) {
        let blocks = self.rows.step_blocks();
        self.kv_free = self.kv_free.checked_sub(blocks).expect("the stretch had these blocks");
    }

    /// Is there no place in the batch?
    pub(crate) fn is_full(&self) -> bool {
        self.rows.len() as u32 >= self.settings.max_num_seqs
    }

    /// For how many steps, at most `limit`, do the free blocks last, with `reserve` free before each and `spare` after it?
    pub(crate) fn steps_until_shortage(&self, limit: u32, reserve: u32, spare: u32) -> u32 {
        let rows = self.rows.len() as u32;
        // The first step has its blocks already.
        let lasts = |steps: u32| {
            self.rows.stretch_blocks(steps) + spare <= self.kv_free
                && (steps == 1 || self.kv_free - self.rows.stretch_blocks(steps - 1) >= reserve)
        };
        // Enough for everybody, without counting.
        if u64::from(rows) * u64::from(limit.div_ceil(self.settings.block_size)) + u64::from(reserve.max(spare))
            <= u64::from(self.kv_free)
        {
            return limit;
        }
        let (mut low, mut high) = (1, limit);
        while low < high {
            let middle = low + (high - low).div_ceil(2);
            if lasts(middle) { low = middle } else { high = middle - 1 }
        }
        low
    }

    /// Blocks free at `now`, in the middle of a stretch as well: a step's blocks are taken when it starts. At a boundary between
    /// steps that is so if the replica has had its turn to `compose`.
    pub(crate) fn kv_free_at(&self, now: Time, composed: bool) -> u32 {
        let Some(flight) = &self.in_flight else { return self.kv_free };
        let done = flight.steps_done(now);
        let between = done > 0 && flight.end(done) == now && !composed;
        let started = if between { done } else { (done + 1).min(flight.steps) };
        self.kv_free - self.rows.stretch_blocks(started)
    }

    /// Takes a sequence out of the queue.
    pub(crate) fn take_waiting(&mut self, position: usize, spare: &mut SpareQueues) {
        let waiting = self.waiting.remove(position).expect("a position of the queue");
        self.waiting_blocks -= u64::from(self.blocks(waiting.tokens));
        if let Some(adapter) = waiting.adapter {
            if let Some(copy) = waiting.awaits {
                self.residency.unawait(copy);
            }
            self.waiting_adapters.remove(adapter);
        }
        if self.waiting.is_empty() {
            spare.take(&mut self.waiting, &mut self.waiting_adapters);
        }
    }

    /// Sequences that joined the queue before `time`. Those that joined it later are the last ones: who is put at the head of the
    /// queue was in the batch before the step in flight began.
    pub(crate) fn waiting_before(&self, time: Time) -> u32 {
        let later = self.waiting.iter().rev().take_while(|waiting| waiting.since >= time).count();
        (self.waiting.len() - later) as u32
    }

    pub(crate) fn put_waiting(&mut self, waiting: Waiting, front: bool, spare: &mut SpareQueues) {
        if self.active.adapters.capacity() == 0 {
            self.move_in();
        }
        if self.waiting.is_empty() {
            spare.give(&mut self.waiting, &mut self.waiting_adapters);
        }
        self.waiting_blocks += u64::from(self.blocks(waiting.tokens));
        if let Some(adapter) = waiting.adapter {
            self.waiting_adapters.add(adapter);
        }
        if front { self.waiting.push_front(waiting) } else { self.waiting.push_back(waiting) }
    }

    /// A row that uses the adapter in this slot joins the batch.
    pub(crate) fn acquire(&mut self, now: Time, adapter: AdapterId, slot: SlotId, rank: u32) {
        self.residency.acquire(now, slot);
        self.active.add(adapter, rank);
    }

    /// A row that uses the adapter in this slot leaves the batch.
    fn release(&mut self, now: Time, adapter: AdapterId, slot: SlotId) {
        self.residency.release(now, slot);
        self.active.remove(adapter);
    }

    /// Takes a row out of the batch and frees what it held.
    pub(crate) fn remove_row(&mut self, now: Time, position: usize) -> Left {
        let left = self.rows.remove(position);
        self.kv_free += left.running.kv_blocks;
        assert!(self.kv_free <= self.settings.kv_blocks, "more KV blocks are free than there are");
        if let Some(adapter) = left.running.adapter {
            self.release(now, adapter, left.slot);
        }
        self.changed = true;
        left
    }

    /// Do the books balance?
    pub(crate) fn check(&self) {
        let held: u32 = self.rows.all().map(|row| row.kv_blocks).sum();
        assert_eq!(held + self.kv_free, self.settings.kv_blocks, "KV blocks of {:?}", self.id);
        assert!(self.rows.len() as u32 <= self.settings.max_num_seqs, "more sequences than max_num_seqs");
        let users = self.rows.all().filter(|row| row.adapter.is_some()).count() as u32;
        self.residency.check(users, self.waiting.iter().filter(|waiting| waiting.awaits.is_some()).count() as u32);
        let segments = &self.active.segments;
        assert_eq!(segments.iter().map(|segment| segment.decode_rows).sum::<u32>(), users, "rows by adapter");
        assert_eq!(self.active.sums, SegmentSums::of(segments), "sums of the segments");
        assert!(self.active.census.same(&Census::of(segments)), "census of the segments");
        let blocks: u64 = self.waiting.iter().map(|waiting| u64::from(self.blocks(waiting.tokens))).sum();
        assert_eq!(blocks, self.waiting_blocks, "blocks that the queue will need");
    }
}
