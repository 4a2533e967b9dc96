//! How long does a price take to look up, and does it allocate? Nanoseconds and allocations, for decode batches and for mixed ones: the same shape
//! again and again, and batches that change from look-up to look-up. Of these it says too what changing the batch took, which is not in the
//! figure; how many prices of adapters and prompts were not known from before; and how long a look-up takes that knows none.
//!
//! `cargo run --release -p aril-calibrate --example lookup_cost [PROFILE] [PART OF A LINE'S NAME] [ROUNDS]`

mod walk;

use std::alloc::{GlobalAlloc, Layout, System};
use std::env;
use std::error::Error;
use std::fs;
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use aril_calibrate::find;
use aril_calibrate::probe::Shape;
use aril_sim::batch::{BatchShape, Census, CostModel, Prefill, Segment};
use aril_sim::cost::CompiledCost;
use aril_sim::profile::lora::LoraKernel;
use walk::{Change, Course, Walk};

/// The system's memory, counted.
struct Counted;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
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

/// Look-ups of a round.
const LOOKUPS: u32 = 20_000;

fn main() -> Result<(), Box<dyn Error>> {
    let name = env::args().nth(1).unwrap_or_else(|| "measured-h200-llama-2-7b".to_owned());
    let wanted = env::args().nth(2).unwrap_or_default();
    let rounds = env::args().nth(3).map_or(Ok(20), |rounds| rounds.parse())?;
    let profile = find(&name)?.profile()?;
    let kernels = [LoraKernel::Segmented, LoraKernel::Sgmv];
    let kernel = kernels.into_iter().find(|kernel| profile.lora.contains_key(kernel)).ok_or("no kernel of segments")?;
    println!("{name}, {kernel}; {}", processor());
    println!("\n{:<52} {:>8} {:>12}", "the same shape again and again", "ns", "allocations");
    for (name, shape, adapters) in same() {
        if name.contains(&wanted) {
            let mut cost = CompiledCost::compile(&profile, if adapters { kernel } else { LoraKernel::None })?;
            let (nanoseconds, allocations) = looked_up(
                &mut cost,
                &BatchShape { census: Some(&Census::of(&shape.segments)), ..shape.view() },
                rounds,
            );
            println!("{name:<52} {nanoseconds:>8.1} {allocations:>12}");
        }
    }
    println!(
        "\n{:<52} {:>8} {:>12} {:>9} {:>11} {:>9}",
        "one shape after the other", "ns", "allocations", "batch ns", "% made anew", "all anew"
    );
    for (name, course, adapters) in successions() {
        if name.contains(&wanted) {
            let mut cost = CompiledCost::compile(&profile, if adapters { kernel } else { LoraKernel::None })?;
            let mut forgetful = cost.clone().forgetful();
            let Walked { nanoseconds, batch_nanoseconds, allocations } = walked(&mut cost, course, rounds);
            let (asked, made) = cost.asked_and_made();
            let anew = if made > 0 && rounds > 1 { walked(&mut forgetful, course, rounds).nanoseconds } else { 0.0 };
            let share = 100.0 * made as f64 / asked.max(1) as f64;
            println!(
                "{name:<52} {nanoseconds:>8.1} {allocations:>12} {batch_nanoseconds:>9.1} {share:>11.1} {anew:>9.1}"
            );
        }
    }
    Ok(())
}

/// Shapes to look up again and again, by name, and whether they have adapters.
fn same() -> Vec<(String, Shape, bool)> {
    let mut shapes = Vec::new();
    for rows in [1, 8, 32, 64, 128, 256] {
        shapes.push((format!("{rows} decode rows, no LoRA"), Shape::decode(rows, 700), false));
        for segments in [1, rows / 4, rows] {
            if segments > 0 {
                let shape = Shape::decode(rows, 700).with_adapters(segments, 16);
                shapes.push((format!("{rows} decode rows, {segments} adapters"), shape, true));
            }
        }
        if rows == 32 {
            for prompts in [1, 2, 4] {
                let mut mixed = Shape::decode(rows, 700).with_adapters(8, 16);
                for prompt in 0..prompts {
                    mixed.prefills.push(Prefill { chunk: 500 / prompts + 13 * prompt, prefix: 900 * prompt });
                    let prefill_rows = 500 / prompts + 13 * prompt;
                    mixed.segments.push(Segment { rank: 16, prefill_rows, decode_rows: 0 });
                }
                shapes.push((format!("{rows} decode rows and {prompts} prompts, 8 adapters"), mixed, true));
            }
        }
    }
    shapes.dedup_by(|a, b| a.0 == b.0);
    shapes
}

/// Batches that change from look-up to look-up, by name, and whether they have adapters.
fn successions() -> Vec<(String, Course, bool)> {
    let ranks: [(&str, &'static [u32]); 3] =
        [("no LoRA", &[]), ("rank 16", &[16]), ("ranks 8 to 64", &[16, 8, 64, 16, 32])];
    let changes = [
        ("contexts grow", Change::Growth),
        ("rows come and go", Change::Rows),
        ("a prompt each step", Change::Prompts),
    ];
    let mut courses = Vec::new();
    for (what, change) in changes {
        for rows in [8, 32, 64, 128, 256] {
            for (adapters, ranks) in ranks {
                let course = Course { change, rows, ranks };
                courses.push((format!("{rows} rows, {what}, {adapters}"), course, !ranks.is_empty()));
            }
        }
    }
    courses
}

/// The fastest of some rounds, nanoseconds a look-up; and the allocations of all of them.
fn looked_up(cost: &mut CompiledCost, shape: &BatchShape<'_>, rounds: u32) -> (f64, u64) {
    let round = |cost: &mut CompiledCost| {
        let start = Instant::now();
        for _ in 0..LOOKUPS {
            black_box(cost.price(black_box(shape)));
        }
        start.elapsed().as_secs_f64() * 1e9 / f64::from(LOOKUPS)
    };
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    let fastest = (0..rounds).map(|_| round(cost)).fold(f64::INFINITY, f64::min);
    (fastest, ALLOCATIONS.load(Ordering::Relaxed) - before)
}

/// What a succession took.
struct Walked {
    /// A look-up.
    nanoseconds: f64,
    /// Changing the batch before it.
    batch_nanoseconds: f64,
    /// Of all look-ups.
    allocations: u64,
}

/// The same for a batch that changes: what its changes take alone is taken off. No batch is met a second time.
fn walked(cost: &mut CompiledCost, course: Course, rounds: u32) -> Walked {
    let (mut walk, mut shadow) = (Walk::new(course), Walk::new(course));
    // Lists have had their length.
    for _ in 0..LOOKUPS / 20 {
        walk.step();
        shadow.step();
    }
    let mut walked = Walked { nanoseconds: f64::INFINITY, batch_nanoseconds: f64::INFINITY, allocations: 0 };
    let each = |start: Instant| start.elapsed().as_secs_f64() * 1e9 / f64::from(LOOKUPS);
    let mut both = f64::INFINITY;
    for _ in 0..rounds {
        let start = Instant::now();
        for _ in 0..LOOKUPS {
            shadow.step();
            black_box(shadow.view());
        }
        let batch = each(start);
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        let start = Instant::now();
        for _ in 0..LOOKUPS {
            walk.step();
            black_box(cost.price(&black_box(walk.view())));
        }
        both = both.min(each(start));
        walked.batch_nanoseconds = walked.batch_nanoseconds.min(batch);
        walked.allocations += ALLOCATIONS.load(Ordering::Relaxed) - before;
    }
    walked.nanoseconds = both - walked.batch_nanoseconds;
    walked
}

/// What this ran on.
fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split(": ").nth(1));
    line.unwrap_or("an unnamed processor").to_owned()
}
