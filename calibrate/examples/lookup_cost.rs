//! How long does a price take to look up, and does it allocate? Nanoseconds and allocations, for decode batches and for mixed ones.
//!
//! `cargo run --release -p aril-calibrate --example lookup_cost [PROFILE]`

use std::alloc::{GlobalAlloc, Layout, System};
use std::env;
use std::error::Error;
use std::fs;
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use aril_calibrate::find;
use aril_calibrate::probe::Shape;
use aril_sim::batch::{BatchShape, CostModel, Prefill, Segment};
use aril_sim::cost::CompiledCost;
use aril_sim::profile::lora::LoraKernel;

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

fn main() -> Result<(), Box<dyn Error>> {
    let name = env::args().nth(1).unwrap_or_else(|| "measured-h200-llama-2-7b".to_owned());
    let profile = find(&name)?.profile()?;
    let kernels = [LoraKernel::Segmented, LoraKernel::Sgmv];
    let kernel = kernels.into_iter().find(|kernel| profile.lora.contains_key(kernel)).ok_or("no kernel of segments")?;
    println!("{name}, {kernel}; {}", processor());
    println!("{:<44} {:>8} {:>12}", "shape", "ns", "allocations");
    for rows in [1, 8, 32, 64, 128, 256] {
        let mut shapes = vec![(format!("{rows} decode rows, no LoRA"), Shape::decode(rows, 700), LoraKernel::None)];
        for segments in [1, rows / 4, rows] {
            if segments > 0 {
                let shape = Shape::decode(rows, 700).with_adapters(segments, 16);
                shapes.push((format!("{rows} decode rows, {segments} adapters"), shape, kernel));
            }
        }
        shapes.dedup_by(|a, b| a.0 == b.0);
        if rows == 32 {
            for prompts in [1, 2, 4] {
                let mut mixed = Shape::decode(rows, 700).with_adapters(8, 16);
                for prompt in 0..prompts {
                    mixed.prefills.push(Prefill { chunk: 500 / prompts + 13 * prompt, prefix: 900 * prompt });
                    let prefill_rows = 500 / prompts + 13 * prompt;
                    mixed.segments.push(Segment { rank: 16, prefill_rows, decode_rows: 0 });
                }
                shapes.push((format!("{rows} decode rows and {prompts} prompts, 8 adapters"), mixed, kernel));
            }
        }
        for (name, shape, kernel) in shapes {
            let mut cost = CompiledCost::compile(&profile, kernel)?;
            let (nanoseconds, allocations) = looked_up(&mut cost, &shape.view());
            println!("{name:<44} {nanoseconds:>8.1} {allocations:>12}");
        }
    }
    Ok(())
}

/// The fastest of 20 rounds of 100,000 look-ups, nanoseconds each; and the allocations of all of them.
fn looked_up(cost: &mut CompiledCost, shape: &BatchShape<'_>) -> (f64, u64) {
    const LOOKUPS: u32 = 100_000;
    let round = |cost: &mut CompiledCost| {
        let start = Instant::now();
        for _ in 0..LOOKUPS {
            black_box(cost.price(black_box(shape)));
        }
        start.elapsed().as_secs_f64() * 1e9 / f64::from(LOOKUPS)
    };
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    let fastest = (0..20).map(|_| round(cost)).fold(f64::INFINITY, f64::min);
    (fastest, ALLOCATIONS.load(Ordering::Relaxed) - before)
}

/// What this ran on.
fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split(": ").nth(1));
    line.unwrap_or("an unnamed processor").to_owned()
}
