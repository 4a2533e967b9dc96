//! Batches as a server meets them one after the other: contexts grow, rows come and go, prompts of many lengths come by.

use aril_sim::batch::{BatchShape, Census, Prefill, Sag, Segment, SegmentSums};
use aril_sim::time::Span;

/// What changes from one look-up to the next.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// Contexts grow by a token.
    Growth,
    /// And a row leaves or one joins.
    Rows,
    /// And every step computes a prompt, or a part of one, of the row that joins.
    Prompts,
}

/// How a batch changes: about so many decode rows, with adapters of these ranks, if there are any.
#[derive(Clone, Copy)]
pub(crate) struct Course {
    pub(crate) change: Change,
    pub(crate) rows: usize,
    pub(crate) ranks: &'static [u32],
}

/// A batch that changes.
pub(crate) struct Walk {
    course: Course,
    state: u64,
    contexts: Vec<u32>,
    context_sum: u64,
    /// Of each row.
    adapters: Vec<usize>,
    /// In order of adapter.
    active: Vec<usize>,
    segments: Vec<Segment>,
    sums: SegmentSums,
    census: Census,
    prefills: Vec<Prefill>,
    /// The adapter whose prompt is computed.
    prompt: Option<usize>,
}

/// Adapters, of Zipf popularity.
const ADAPTERS: f64 = 256.0;

impl Walk {
    /// Its beginning.
    pub(crate) fn new(course: Course) -> Walk {
        let rows = course.rows;
        let mut walk = Walk {
            course,
            state: 0x9e37_79b9_7f4a_7c15,
            contexts: Vec::with_capacity(2 * rows + 8),
            context_sum: 0,
            adapters: Vec::with_capacity(2 * rows + 8),
            active: Vec::with_capacity(2 * rows + 8),
            segments: Vec::with_capacity(2 * rows + 8),
            sums: SegmentSums::default(),
            census: Census::default(),
            prefills: Vec::with_capacity(1),
            prompt: None,
        };
        (0..rows).for_each(|_| walk.join());
        walk
    }

    /// The next step.
    pub(crate) fn step(&mut self) {
        self.contexts.iter_mut().for_each(|context| *context += 1);
        self.context_sum += self.contexts.len() as u64;
        if let Some(adapter) = self.prompt.take() {
            self.end_prompt(adapter);
        }
        match self.course.change {
            Change::Growth => {}
            Change::Rows => {
                // It comes back to the number of rows that it began with.
                let many =
                    self.contexts.len() * 2 > self.course.rows + self.draw(self.course.rows as u64 * 2) as usize / 2;
                if many && self.contexts.len() > 1 { self.leave() } else { self.join() }
            }
            Change::Prompts => {
                if self.contexts.len() >= self.course.rows {
                    self.leave();
                }
                self.begin_prompt();
            }
        }
    }

    pub(crate) fn view(&self) -> BatchShape<'_> {
        BatchShape {
            decode_contexts: &self.contexts,
            decode_context_sum: self.context_sum,
            decode_context_max: self.contexts.iter().copied().fold(0, u32::max),
            prefills: &self.prefills,
            segments: &self.segments,
            segment_sums: self.sums,
            census: Some(&self.census),
            lora_slots: 256,
            lora_rank_max: 64,
            copies_in_flight: false,
            sag: Sag::NONE,
            rested: Span::ZERO,
        }
    }

    fn draw(&mut self, below: u64) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (self.state >> 20) % below
    }

    /// From 0 to 1.
    fn share(&mut self) -> f64 {
        self.draw(1 << 30) as f64 / f64::from(1 << 30)
    }

    /// Long ones are rare: their logarithm is even.
    fn tokens(&mut self, most: f64) -> u32 {
        (16.0 * (most / 16.0).powf(self.share())) as u32
    }

    /// Zipf's law with exponent 1, near enough.
    fn adapter(&mut self) -> usize {
        ADAPTERS.powf(self.share()) as usize
    }

    fn rank(&self, adapter: usize) -> u32 {
        self.course.ranks[adapter % self.course.ranks.len()]
    }

    fn add(&mut self, adapter: usize) {
        let (rank, place) = (self.rank(adapter), self.active.binary_search(&adapter));
        self.sums.join(rank, place.is_err());
        let place = place.unwrap_or_else(|place| {
            self.active.insert(place, adapter);
            self.segments.insert(place, Segment { rank, prefill_rows: 0, decode_rows: 0 });
            place
        });
        let segment = &mut self.segments[place];
        segment.decode_rows += 1;
        self.census.change(rank, segment.decode_rows - 1, segment.decode_rows);
    }

    fn remove(&mut self, adapter: usize) {
        let place = self.active.binary_search(&adapter).expect("it is there");
        let segment = &mut self.segments[place];
        segment.decode_rows -= 1;
        self.census.change(segment.rank, segment.decode_rows + 1, segment.decode_rows);
        let last = segment.decode_rows == 0;
        if last {
            self.active.remove(place);
            self.segments.remove(place);
        }
        let rank = self.rank(adapter);
        self.sums.leave(rank);
        if last {
            self.sums.without(rank, self.segments.iter().map(|segment| segment.rank));
        }
    }

    fn join(&mut self) {
        let adapter = self.adapter();
        let context = self.tokens(4096.0);
        self.put(adapter, context);
        if !self.course.ranks.is_empty() {
            self.add(adapter);
        }
    }

    fn put(&mut self, adapter: usize, context: u32) {
        self.adapters.push(adapter);
        self.contexts.push(context);
        self.context_sum += u64::from(context);
    }

    fn leave(&mut self) {
        let place = self.draw(self.contexts.len() as u64) as usize;
        self.context_sum -= u64::from(self.contexts.swap_remove(place));
        let adapter = self.adapters.swap_remove(place);
        if !self.course.ranks.is_empty() {
            self.remove(adapter);
        }
    }

    fn begin_prompt(&mut self) {
        let (adapter, chunk) = (self.adapter(), self.tokens(2048.0));
        let prefix = if self.draw(4) == 0 { self.tokens(8192.0) } else { 0 };
        self.prefills.push(Prefill { chunk, prefix });
        self.prompt = Some(adapter);
        if self.course.ranks.is_empty() {
            return;
        }
        self.add(adapter);
        let place = self.active.binary_search(&adapter).expect("it is there");
        let segment = &mut self.segments[place];
        segment.decode_rows -= 1;
        segment.prefill_rows += chunk;
        self.census.change(segment.rank, segment.decode_rows + 1, segment.decode_rows);
        self.census.change(segment.rank, 0, chunk);
        self.sums.prefill(segment.rank, chunk);
    }

    /// From then on it is a decode row.
    fn end_prompt(&mut self, adapter: usize) {
        let Prefill { chunk, prefix } = self.prefills.pop().expect("it began");
        if !self.course.ranks.is_empty() {
            let place = self.active.binary_search(&adapter).expect("it is there");
            let segment = &mut self.segments[place];
            segment.prefill_rows = 0;
            segment.decode_rows += 1;
            self.census.change(segment.rank, segment.decode_rows - 1, segment.decode_rows);
            self.census.change(segment.rank, chunk, 0);
            self.sums = SegmentSums::of(&self.segments);
        }
        self.put(adapter, prefix + chunk);
    }
}
