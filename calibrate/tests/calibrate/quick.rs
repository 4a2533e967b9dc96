//! A look-up that is quick is the look-up: whatever is remembered, or kept as rows come and go, changes no price.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use aril_calibrate::probe::Shape;
use aril_calibrate::profiles;
use aril_sim::batch::{BatchShape, Census, CostModel, Prefill, Segment};
use aril_sim::cost::CompiledCost;
use aril_sim::profile::ProvenanceKind;

/// The system's memory, counted by thread.
struct Counted;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static MEMORY: Counted = Counted;

/// A batch whose rows come and go by chance, and the census that is kept of it.
struct Batch {
    state: u64,
    rows: Shape,
    census: Census,
}

impl Batch {
    fn new(state: u64) -> Batch {
        Batch { state, rows: Shape { slots: 64, rank_max: 128, ..Shape::default() }, census: Census::default() }
    }

    fn draw(&mut self, below: u32) -> u32 {
        self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.state >> 33) as u32 % below
    }

    /// Short ones are as likely as long ones.
    fn tokens(&mut self) -> u32 {
        let below = 1 << self.draw(13);
        1 + self.draw(below)
    }

    fn change(&mut self) {
        let most = [4, 40, 300][(self.state >> 60) as usize % 3];
        match self.draw(8) {
            0..=3 => {
                let context = self.tokens();
                self.rows.contexts.push(context);
                if self.rows.contexts.len() > most {
                    self.rows.contexts.drain(..most / 2);
                }
            }
            4 => {
                let prompt = Prefill { chunk: self.tokens(), prefix: [0, self.tokens()][self.draw(2) as usize] };
                self.rows.prefills.push(prompt);
            }
            _ => {
                self.rows.contexts.pop();
                self.rows.prefills.clear();
            }
        }
        if self.rows.contexts.is_empty() && self.rows.prefills.is_empty() {
            self.rows.contexts.push(7);
        }
        if self.draw(3) == 0 || self.rows.segments.is_empty() {
            let rank = [8, 16, 16, 16, 32, 64, 128][self.draw(7) as usize];
            self.rows.segments.push(Segment { rank, decode_rows: 0, prefill_rows: 0 });
        }
        for _ in 0..self.draw(4) {
            let place = self.draw(self.rows.segments.len() as u32) as usize;
            let Segment { rank, mut decode_rows, mut prefill_rows } = self.rows.segments[place];
            let less_or_more = self.draw(3);
            decode_rows = (decode_rows + less_or_more).saturating_sub(1);
            if self.draw(6) == 0 {
                prefill_rows = if prefill_rows == 0 { self.tokens() } else { 0 };
            }
            self.census.change(rank, self.rows.segments[place].decode_rows, decode_rows);
            self.census.change(rank, self.rows.segments[place].prefill_rows, prefill_rows);
            self.rows.segments[place] = Segment { rank, decode_rows, prefill_rows };
        }
        self.rows.segments.retain(|segment| segment.decode_rows + segment.prefill_rows > 0);
    }

    fn shape(&self) -> BatchShape<'_> {
        BatchShape { census: Some(&self.census), copies_in_flight: self.state >> 62 == 0, ..self.rows.view() }
    }
}

#[test]
fn what_is_remembered_or_kept_changes_no_price_and_a_look_up_allocates_nothing() {
    for embedded in profiles() {
        let profile = embedded.profile().unwrap();
        let batches = if profile.provenance.kind == ProvenanceKind::Measured { 4000 } else { 200 };
        for &kernel in profile.lora.keys() {
            let mut quick = CompiledCost::compile(&profile, kernel).unwrap();
            let mut direct = quick.clone().forgetful();
            let mut batch = Batch::new(kernel as u64);
            let mut known = Vec::new();
            for number in 0..batches {
                batch.change();
                let shape = batch.shape();
                let before = ALLOCATIONS.get();
                let price = quick.price(&shape);
                assert_eq!(ALLOCATIONS.get(), before, "{}, {kernel}", profile.name);
                let anew = direct.price(&BatchShape { census: None, ..shape });
                assert_eq!(price, anew, "{}, {kernel}, batch {number}: {shape:?}", profile.name);
                known.push(price);
            }
            assert_eq!(quick.coverage(), direct.coverage());
            // The same batches once more: now most are known.
            let mut batch = Batch::new(kernel as u64);
            for price in known {
                batch.change();
                assert_eq!(quick.price(&batch.shape()), price, "{}, {kernel}", profile.name);
            }
            let (asked, made) = quick.asked_and_made();
            assert!(made < asked || asked == 0, "{}, {kernel}: {made} of {asked} made", profile.name);
        }
    }
}
