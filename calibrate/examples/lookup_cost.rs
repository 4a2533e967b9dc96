//! How long does a price take to look up? Nanoseconds, for decode batches and for mixed ones.
//!
//! `cargo run --release -p aril-calibrate --example lookup_cost`

use std::error::Error;
use std::hint::black_box;
use std::time::Instant;

use aril_calibrate::find;
use aril_calibrate::probe::Shape;
use aril_sim::batch::{BatchShape, CostModel, Prefill, Segment};
use aril_sim::cost::CompiledCost;
use aril_sim::profile::lora::LoraKernel;

fn main() -> Result<(), Box<dyn Error>> {
    let profile = find("punica-a100-80gb-llama-2-7b")?.profile()?;
    println!("{:<44} {:>8}", "shape", "ns");
    for rows in [1, 8, 32, 64, 128, 256] {
        let mut shapes = vec![(format!("{rows} decode rows, no LoRA"), Shape::decode(rows, 700), LoraKernel::None)];
        for segments in [1, rows / 4, rows] {
            if segments > 0 {
                let shape = Shape::decode(rows, 700).with_adapters(segments, 16);
                shapes.push((format!("{rows} decode rows, sgmv, {segments} adapters"), shape, LoraKernel::Sgmv));
            }
        }
        if rows == 32 {
            let mut mixed = Shape::decode(rows, 700).with_adapters(8, 16);
            mixed.prefills.push(Prefill { chunk: 500, prefix: 0 });
            mixed.segments.push(Segment { rank: 16, prefill_rows: 500, decode_rows: 0 });
            shapes.push((format!("{rows} decode rows and a prompt, sgmv"), mixed, LoraKernel::Sgmv));
        }
        for (name, shape, kernel) in shapes {
            let mut cost = CompiledCost::compile(&profile, kernel)?;
            println!("{name:<44} {:>8.1}", nanoseconds(&mut cost, &shape.view()));
        }
    }
    Ok(())
}

/// The fastest of 20 rounds of 100,000 look-ups.
fn nanoseconds(cost: &mut CompiledCost, shape: &BatchShape<'_>) -> f64 {
    const LOOKUPS: u32 = 100_000;
    let round = |cost: &mut CompiledCost| {
        let start = Instant::now();
        for _ in 0..LOOKUPS {
            black_box(cost.price(black_box(shape)));
        }
        start.elapsed().as_secs_f64() * 1e9 / f64::from(LOOKUPS)
    };
    (0..20).map(|_| round(cost)).fold(f64::INFINITY, f64::min)
}
