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

use crate::{Options, rounded};

/// A step: rows of one sequence each, all of one context, and perhaps one chunk of a prompt beside them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Point {
    pub(crate) rows: u32,
    pub(crate) context: u32,
    /// New tokens of a further sequence, with an adapter of its own.
    pub(crate) chunk: u32,
    /// Tokens of that sequence before them.
    prefix: u32,
    pub(crate) adapters: u32,
    rank: u32,
}

impl Point {
    pub(crate) fn decode(rows: u32, context: u32, adapters: u32) -> Self {
        Point { rows, context, chunk: 0, prefix: 0, adapters, rank: 16 }
    }

    /// The same with a chunk of new tokens of one more sequence, after so many of its tokens.
    pub(crate) fn with_chunk(self, chunk: u32, prefix: u32) -> Self {
        Point { chunk, prefix, ..self }
    }

    /// Nothing but a chunk of a prompt, with an adapter.
    pub(crate) fn prompt(chunk: u32) -> Self {
        Point::decode(0, 1024, 1).with_chunk(chunk, 0)
    }

    /// How long the card rests after a replay, in replays: a few steps with a prompt bring it to its power limit, and what is
    /// measured from then on, adapters or none, is slower.
    pub(crate) fn rest(&self) -> f64 {
        if self.chunk > 0 { 4.0 } else { 0.0 }
    }

    /// Bytes that a step without adapters must read: the weights, and the KV of every token before and in it.
    fn bytes(&self, shape: &LlamaShape) -> u64 {
        let tokens = u64::from(self.rows) * u64::from(self.context) + u64::from(self.chunk + self.prefix);
        2 * shape.weights_read() + tokens * shape.kv_bytes_token()
    }

    pub(crate) fn name(&self) -> String {
        let Point { rows, context, chunk, prefix, adapters, rank } = self;
        format!(
            "{rows} rows of context {context}, a chunk of {chunk} after {prefix}, {adapters} adapters of rank {rank}"
        )
    }
}

const SLOTS: u32 = 32;
const CHUNK_MAX: u32 = 2048;

/// The longest context and the longest prefix of a model whose KV cache fits beside its weights in 80 GB.
fn longest(shape: &LlamaShape) -> (u32, u32) {
    if shape.kv_bytes_token() > 600_000 { (1024, 8192) } else { (2048, 32_768) }
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
    for (name, shape) in options.models(&models)? {
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

/// A model with random weights, as many adapters as it has slots, and a KV cache for its longest contexts.
pub(crate) fn open(gpu: &Gpu, options: &Options, shape: LlamaShape) -> Result<Llama, Error> {
    let (context, prefix) = longest(&shape);
    let settings = LlamaSettings {
        kv_blocks: SLOTS * (context / 16 + 1) + (CHUNK_MAX + prefix) / 16,
        rows_max: CHUNK_MAX + SLOTS,
        adapter_slots: SLOTS + 1,
        rank_max: 16,
        lora: LoraPath::Segmented(LoraOrder::default()),
        ..LlamaSettings::for_sequences(Element::Bf16, SLOTS + 1, CHUNK_MAX + prefix)
    };
    let mut llama = Llama::open(gpu, shape, settings, &options.build, ModelWeights::Random { seed: 1 })?;
    llama.fill_kv(2)?;
    for slot in 0..=SLOTS {
        llama.load_adapter(slot, 16, 1.0, AdapterWeights::Random { seed: 10 + u64::from(slot) })?;
    }
    Ok(llama)
}

fn model(gpu: &Gpu, options: &Options, name: &str, shape: LlamaShape, copy: f64) -> Result<Value, Error> {
    let began = std::time::Instant::now();
    let (context_max, prefix_max) = longest(&shape);
    let mut llama = open(gpu, options, shape)?;
    println!("{name}: opened in {:.1} s", began.elapsed().as_secs_f64());
    let mut steps = Vec::new();
    for gemm in [GemmPath::Own, GemmPath::CublasLt] {
        // Every order on one model; the usual one on the others.
        let orders = LoraOrder::ALL.into_iter();
        for order in orders.filter(|&order| name == "llama-2-7b" || order == LoraOrder::default()) {
            llama.set_gemm_path(gemm);
            llama.set_lora_order(order)?;
            for adapters in [32, 1] {
                steps.push(step(&mut llama, options, name, Point::decode(32, 1024, adapters), (gemm, order), copy)?);
            }
        }
    }
    let usual = (GemmPath::Own, LoraOrder::default());
    llama.set_gemm_path(usual.0);
    llama.set_lora_order(usual.1)?;
    for context in [512, 1024, 2048].into_iter().filter(|&context| context <= context_max) {
        for rows in [1, 2, 4, 8, 16, 32].into_iter().filter(|&rows| (rows, context) != (32, 1024)) {
            steps.push(step(&mut llama, options, name, Point::decode(rows, context, rows), usual, copy)?);
        }
    }
    for (rows, chunk) in [(0, 128), (0, 512), (0, 2048), (31, 512)] {
        let point = Point { chunk, ..Point::decode(rows, 1024, rows + 1) };
        steps.push(step(&mut llama, options, name, point, usual, copy)?);
    }
    let behind = [(0, 16, 8192), (0, 64, 32_768), (0, 256, 8192), (31, 64, 8192), (31, 256, 32_768)];
    for (rows, chunk, prefix) in behind.into_iter().filter(|&(_, _, prefix)| prefix <= prefix_max) {
        let point = Point::decode(rows, 1024, rows + 1).with_chunk(chunk, prefix);
        steps.push(step(&mut llama, options, name, point, usual, copy)?);
    }
    let operations = operations(&mut llama, options, name, Point::decode(32, 1024, 32))?;
    let served = serve(&mut llama, name, Point::decode(32, 1024, 32))?;
    let gemms = llama.gemm_plans();
    Ok(json!({
        "model": name, "layers": shape.layers, "steps": steps, "operations": operations, "served": served,
        "gemms": gemms,
    }))
}

/// Sequences of a step, with blocks of their own.
pub(crate) struct Rows {
    blocks: Vec<Vec<u32>>,
    tokens: Vec<Vec<u32>>,
    point: Point,
}

impl Rows {
    pub(crate) fn new(point: Point) -> Self {
        let each = point.context / 16 + 1;
        let mut blocks: Vec<Vec<u32>> =
            (0..point.rows).map(|row| (0..each).map(|n| n * point.rows + row).collect()).collect();
        let mut tokens: Vec<Vec<u32>> = (0..point.rows).map(|row| vec![row + 1]).collect();
        if point.chunk > 0 {
            blocks.push((0..(point.chunk + point.prefix).div_ceil(16)).map(|n| each * point.rows + n).collect());
            tokens.push((0..point.chunk).map(|n| n % 1000).collect());
        }
        Rows { blocks, tokens, point }
    }

    pub(crate) fn sequences(&self, lora: bool) -> Vec<Sequence<'_>> {
        let count = self.blocks.len() as u32;
        let adapter = |row: usize| lora.then(|| row as u32 * self.point.adapters / count);
        self.blocks
            .iter()
            .zip(&self.tokens)
            .enumerate()
            .map(|(row, (blocks, tokens))| Sequence {
                tokens,
                prefix: if row < self.point.rows as usize { self.point.context - 1 } else { self.point.prefix },
                blocks,
                adapter: adapter(row),
                sample: true,
            })
            .collect()
    }
}

pub(crate) fn median(samples: &[f64]) -> f64 {
    Summary::of(samples).map_or(f64::NAN, |summary| summary.median)
}

fn step(
    llama: &mut Llama,
    options: &Options,
    name: &str,
    point: Point,
    (gemm, order): (GemmPath, LoraOrder),
    copy: f64,
) -> Result<Value, Error> {
    let rows = Rows::new(point);
    llama.set_rest(point.rest());
    // A few replays at rest tell more than many without, and take as long.
    let repeats = if point.rest() > 0.0 { options.repeats.min(8) } else { options.repeats };
    let without = rounded(llama.time_step(&rows.sequences(false), repeats)?);
    let with = rounded(llama.time_step(&rows.sequences(true), repeats)?);
    llama.set_rest(0.0);
    let bytes = point.bytes(llama.shape());
    let floor = bytes as f64 / copy;
    let lora_bytes = u64::from(point.adapters) * llama.adapter_bytes(point.rank) as u64;
    println!(
        "{name} {} {gemm:?} {order:?}: {:.0} us without, {:.2} × the floor of {:.0}; LoRA {:+.0} us (its bytes {:.0})",
        point.name(),
        median(&without),
        median(&without) / floor,
        floor,
        median(&with) - median(&without),
        lora_bytes as f64 / copy,
    );
    Ok(json!({
        "rows": point.rows, "context": point.context, "chunk": point.chunk, "prefix": point.prefix, "adapters": point.adapters,
        "rank": point.rank, "gemm": format!("{gemm:?}"), "order": format!("{order:?}"),
        "without_us": without, "with_us": with, "bytes": bytes, "lora_bytes": lora_bytes,
    }))
}

fn operations(llama: &mut Llama, options: &Options, name: &str, point: Point) -> Result<Value, Error> {
    let rows = Rows::new(point);
    let mut found = serde_json::Map::new();
    let mut line = format!("{name} {}, us a call:", point.name());
    for operation in Operation::ALL {
        let samples = rounded(llama.time_operation(operation, &rows.sequences(true), options.repeats.min(10))?);
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
        rows.tokens = result.tokens.iter().map(|&token| vec![token]).collect();
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
