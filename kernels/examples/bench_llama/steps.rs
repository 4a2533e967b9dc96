//! Whole steps with and without adapters, and each operation alone, beside the bytes they move.

use aril_kernels::cache::Cache;
use aril_kernels::gpu::Gpu;
use aril_kernels::llama::{
    AdapterWeights, GemmPath, Llama, LlamaSettings, LlamaShape, LoraOrder, LoraPath, ModelWeights, Operation, Sequence,
};
use aril_kernels::source::Sources;
use aril_kernels::timing::{Stopwatch, Summary};
use aril_kernels::{Element, Error};
use serde_json::{Value, json};

use crate::Options;

/// A decode step: rows of one sequence each, all of one context.
#[derive(Debug, Clone, Copy)]
struct Point {
    rows: u32,
    context: u32,
    adapters: u32,
    rank: u32,
}

pub(crate) fn run(gpu: &Gpu, options: &Options) -> Result<(Value, usize), Error> {
    let copy = copy_bytes_per_us(gpu, options)?;
    println!("copy of 2 GiB (read + written): {:.0} GB/s on {}", copy / 1e3, gpu.name());
    let models = [
        ("llama-2-7b", LlamaShape::llama_2_7b()),
        ("llama-2-13b", LlamaShape::llama_2_13b()),
        ("llama-3.1-8b", LlamaShape::llama_3_1_8b()),
        ("llama-3.1-70b-shard-tp8", LlamaShape::llama_3_1_70b_shard_tp8()),
    ];
    let mut results = Vec::new();
    let mut wrong = 0;
    for (name, shape) in models.into_iter().filter(|(name, _)| name.contains(&options.model)) {
        match model(gpu, options, name, shape, copy) {
            Ok(value) => results.push(value),
            Err(error) => {
                println!("{name}: {error}");
                wrong += 1;
            }
        }
    }
    Ok((json!({ "copy_2gib_bytes_per_us": copy, "models": results }), wrong))
}

fn model(gpu: &Gpu, options: &Options, name: &str, shape: LlamaShape, copy: f64) -> Result<Value, Error> {
    let slots = 32;
    let settings = LlamaSettings {
        rows_max: 1024,
        adapter_slots: slots,
        rank_max: 16,
        lora: LoraPath::Segmented(LoraOrder::Before),
        ..LlamaSettings::for_sequences(Element::Bf16, 32, 1024 + 16)
    };
    let began = std::time::Instant::now();
    let mut llama = Llama::open(gpu, shape, settings, &options.build, ModelWeights::Random { seed: 1 })?;
    llama.fill_kv(2)?;
    for slot in 0..slots {
        llama.load_adapter(slot, 16, 1.0, AdapterWeights::Random { seed: 10 + u64::from(slot) })?;
    }
    println!("{name}: opened in {:.1} s", began.elapsed().as_secs_f64());
    let mut steps = Vec::new();
    for (rows, adapters) in [(1, 1), (8, 8), (16, 16), (32, 32), (32, 1)] {
        let point = Point { rows, context: 1024, adapters, rank: 16 };
        for (gemm, order) in [
            (GemmPath::Own, LoraOrder::Before),
            (GemmPath::Own, LoraOrder::After),
            (GemmPath::Own, LoraOrder::Beside),
            (GemmPath::CublasLt, LoraOrder::After),
            (GemmPath::CublasLt, LoraOrder::Before),
            (GemmPath::CublasLt, LoraOrder::Beside),
        ] {
            if rows != 32 && (gemm, order) != (GemmPath::Own, LoraOrder::Before) {
                continue;
            }
            llama.set_gemm_path(gemm);
            llama.set_lora_order(order)?;
            steps.push(step(&mut llama, options, name, point, gemm, order, copy)?);
        }
    }
    llama.set_gemm_path(GemmPath::Own);
    llama.set_lora_order(LoraOrder::Before)?;
    let point = Point { rows: 32, context: 1024, adapters: 32, rank: 16 };
    let operations = operations(&mut llama, options, name, point)?;
    let served = serve(&mut llama, name, point)?;
    Ok(
        json!({ "model": name, "steps": steps, "operations": operations, "served": served, "gemms": llama.gemm_plans() }),
    )
}

/// Sequences of a decode step, with blocks of their own.
struct Rows {
    blocks: Vec<Vec<u32>>,
    tokens: Vec<[u32; 1]>,
    point: Point,
}

impl Rows {
    fn new(point: Point) -> Self {
        let each = point.context.div_ceil(16) + 1;
        let blocks = (0..point.rows).map(|row| (0..each).map(|n| n * point.rows + row).collect()).collect();
        Rows { blocks, tokens: (0..point.rows).map(|row| [row + 1]).collect(), point }
    }

    fn sequences(&self, lora: bool) -> Vec<Sequence<'_>> {
        let adapter = |row: usize| lora.then(|| row as u32 * self.point.adapters / self.point.rows);
        self.blocks
            .iter()
            .zip(&self.tokens)
            .enumerate()
            .map(|(row, (blocks, tokens))| Sequence {
                tokens,
                prefix: self.point.context - 1,
                blocks,
                adapter: adapter(row),
                sample: true,
            })
            .collect()
    }
}

fn median(samples: &[f64]) -> f64 {
    Summary::of(samples).map_or(f64::NAN, |summary| summary.median)
}

fn step(
    llama: &mut Llama,
    options: &Options,
    name: &str,
    point: Point,
    gemm: GemmPath,
    order: LoraOrder,
    copy: f64,
) -> Result<Value, Error> {
    let rows = Rows::new(point);
    let without = llama.time_step(&rows.sequences(false), options.repeats)?;
    let with = llama.time_step(&rows.sequences(true), options.repeats)?;
    let bytes = 2 * llama.shape().weights_read()
        + u64::from(point.rows) * u64::from(point.context) * llama.shape().kv_bytes_token();
    let floor = bytes as f64 / copy;
    let lora_bytes = u64::from(point.adapters) * llama.adapter_bytes(point.rank) as u64;
    println!(
        "{name} {point:?} {gemm:?} {order:?}: {:.0} us without, {:.2} × the floor of {:.0}; LoRA {:+.0} us (its bytes {:.0})",
        median(&without),
        median(&without) / floor,
        floor,
        median(&with) - median(&without),
        lora_bytes as f64 / copy,
    );
    Ok(json!({
        "rows": point.rows, "context": point.context, "adapters": point.adapters, "rank": point.rank,
        "gemm": format!("{gemm:?}"), "order": format!("{order:?}"),
        "without_us": without, "with_us": with, "bytes": bytes, "lora_bytes": lora_bytes, "floor_us": floor,
    }))
}

fn operations(llama: &mut Llama, options: &Options, name: &str, point: Point) -> Result<Value, Error> {
    let rows = Rows::new(point);
    let mut found = serde_json::Map::new();
    let mut line = format!("{name} {point:?}, us a layer:");
    for operation in Operation::ALL {
        let samples = llama.time_operation(operation, &rows.sequences(true), options.repeats.min(10))?;
        line += &format!(" {operation:?} {:.2}", median(&samples));
        found.insert(format!("{operation:?}"), json!(samples));
    }
    println!("{line}");
    Ok(Value::Object(found))
}

/// Steps as a server would run them: a growing context, tokens fed back.
fn serve(llama: &mut Llama, name: &str, point: Point) -> Result<Value, Error> {
    let mut rows = Rows::new(Point { context: point.context - 12, ..point });
    let (mut device, mut host) = (Vec::new(), Vec::new());
    for _ in 0..12 {
        rows.point.context += 1;
        let result = llama.step(&rows.sequences(true))?;
        rows.tokens = result.tokens.iter().map(|&token| [token]).collect();
        device.push(result.device_us);
        host.push(result.host_us);
    }
    println!("{name} driven step by step: device {:.0} us, host {:.0} us", median(&device), median(&host));
    Ok(json!({ "device_us": device, "host_us": host }))
}

fn copy_bytes_per_us(gpu: &Gpu, options: &Options) -> Result<f64, Error> {
    let sources = options.build.sources.as_deref().map_or_else(Sources::built_in, Sources::in_folder);
    let stream = gpu.stream()?;
    let stopwatch = Stopwatch::new(gpu, &stream, &sources, Cache::of_user().as_ref())?;
    let bytes = 2_u64 << 30;
    let samples = stopwatch.copies_us(gpu, bytes, 1, 10)?;
    Ok(bytes as f64 / median(&samples))
}
