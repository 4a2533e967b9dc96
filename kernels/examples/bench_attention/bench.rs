//! One point on the GPU: its buffers, its check against float64, its time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use aril_kernels::Error;
use aril_kernels::attention::decode::{DecodeAttention, DecodeCapacity};
use aril_kernels::attention::layout::{AttentionShape, BLOCK_TOKENS, blocks_of};
use aril_kernels::attention::operands::{BlockTable, KvCache};
use aril_kernels::attention::plan::{
    DecodePlan, DecodeSequence, DecodeTuning, PrefillPlan, PrefillSequence, PrefillTuning,
};
use aril_kernels::attention::prefill::{PrefillAttention, PrefillScratch};
use aril_kernels::gpu::{Gpu, Overlap};
use aril_kernels::lora::launch::Matrix;
use aril_kernels::program::Compiler;
use aril_kernels::reference::attention::attend;
use aril_kernels::reference::lora::Deviation;
use aril_kernels::timing::{Stopwatch, Summary};
use cudarc::driver::{CudaGraph, CudaSlice, CudaStream, DevicePtr};
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use crate::points::Point;

pub(crate) struct Bench {
    pub(crate) gpu: Gpu,
    pub(crate) stream: Arc<CudaStream>,
    pub(crate) compiler: Compiler,
    /// The path without Hopper's instructions.
    pub(crate) ampere: Compiler,
    pub(crate) stopwatch: Stopwatch,
}

/// Choices of either plan.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tuning {
    pub(crate) decode: DecodeTuning,
    pub(crate) prefill: PrefillTuning,
}

/// The buffers of one point: `caches` layers of keys and values, one q, one result.
pub(crate) struct Prepared<'a> {
    pub(crate) point: &'a Point,
    caches: Vec<CudaSlice<u16>>,
    blocks: u32,
    table: Vec<u32>,
    entries: Vec<u32>,
    table_on_gpu: CudaSlice<u32>,
    q: CudaSlice<u16>,
    out: CudaSlice<u16>,
}

impl Prepared<'_> {
    /// The result as it is, after all launches so far.
    pub(crate) fn result(&self, stream: &Arc<CudaStream>) -> Result<Vec<u16>, Error> {
        stream.clone_dtoh(&self.out).map_err(driver("downloading the result"))
    }
}

/// A loaded plan of either kernel.
pub(crate) enum Loaded {
    Decode(Box<DecodeAttention>),
    Prefill(PrefillAttention),
}

impl Loaded {
    pub(crate) fn decode(plan: DecodeAttention) -> Self {
        Loaded::Decode(Box::new(plan))
    }
}

const GUARD: u16 = 0x7fc1;
const GUARDS: usize = 4096;
fn driver(doing: &'static str) -> impl FnOnce(cudarc::driver::DriverError) -> Error {
    move |code| Error::Driver { doing: doing.to_owned(), code: format!("{code:?}") }
}

impl Bench {
    fn address<T>(&self, slice: &CudaSlice<T>) -> u64 {
        slice.device_ptr(&self.stream).0
    }

    /// Buffers with `layers` caches of random keys and values, blocks of a sequence scattered over the cache.
    pub(crate) fn prepare<'a>(&self, point: &'a Point, layers: usize, seed: u64) -> Result<Prepared<'a>, Error> {
        let shape = &point.shape;
        let blocks = point.blocks();
        let mut table: Vec<u32> = (0..blocks).collect();
        table.shuffle(&mut SmallRng::seed_from_u64(seed));
        let mut next = 0;
        let mut entries = Vec::new();
        for &(prefix, new) in &point.sequences {
            entries.push(next);
            next += blocks_of(prefix + new);
        }
        let mut caches = Vec::new();
        for layer in 0..layers as u64 {
            let elements = blocks as usize * shape.kv_layout().block_elements();
            let mut cache = self.gpu.allocate::<u16>(&self.stream, elements, "a layer's KV cache")?;
            self.stopwatch.fill(&mut cache, shape.element, seed + layer, 1.0)?;
            caches.push(cache);
        }
        let elements = (point.rows() * shape.row_elements()) as usize;
        let mut q = self.gpu.allocate::<u16>(&self.stream, elements, "q")?;
        self.stopwatch.fill(&mut q, shape.element, seed + 100, point.q_scale)?;
        let poison = vec![GUARD; elements + GUARDS];
        let out = self.stream.clone_htod(&poison).map_err(driver("poisoning the result"))?;
        let table_on_gpu = self.stream.clone_htod(&table).map_err(driver("uploading the block table"))?;
        Ok(Prepared { point, caches, blocks, table, entries, table_on_gpu, q, out })
    }

    pub(crate) fn decode_plan(&self, prepared: &Prepared<'_>, tuning: DecodeTuning) -> Result<DecodePlan, Error> {
        self.decode_plan_of(prepared, &prepared.point.sequences, tuning)
    }

    /// A plan for other lengths, none longer than those that the buffers were made for.
    pub(crate) fn decode_plan_of(
        &self,
        prepared: &Prepared<'_>,
        sequences: &[(u32, u32)],
        tuning: DecodeTuning,
    ) -> Result<DecodePlan, Error> {
        let sequences: Vec<_> = sequences
            .iter()
            .zip(&prepared.entries)
            .zip(0..)
            .map(|((&(prefix, _), &table), row)| DecodeSequence { row, context: prefix + 1, table })
            .collect();
        DecodePlan::new(prepared.point.shape, &sequences, &prepared.table, self.gpu.chip(), tuning)
    }

    pub(crate) fn prefill_plan(&self, prepared: &Prepared<'_>, tuning: PrefillTuning) -> Result<PrefillPlan, Error> {
        let mut row = 0;
        let mut sequences = Vec::new();
        for (&(prefix, tokens), &table) in prepared.point.sequences.iter().zip(&prepared.entries) {
            sequences.push(PrefillSequence { row, tokens, prefix, table });
            row += tokens;
        }
        PrefillPlan::new(prepared.point.shape, &sequences, &prepared.table, self.gpu.chip(), tuning)
    }

    pub(crate) fn load(&self, compiler: &Compiler, prepared: &Prepared<'_>, tuning: Tuning) -> Result<Loaded, Error> {
        if prepared.point.kernel == "decode" {
            let plan = self.decode_plan(prepared, tuning.decode)?;
            let workers = plan.workers().len() as u32;
            let capacity = DecodeCapacity { workers: workers + 3, sequences: prepared.point.sequences.len() as u32 };
            return Ok(Loaded::decode(DecodeAttention::load(compiler, &self.stream, &plan, capacity)?));
        }
        let plan = self.prefill_plan(prepared, tuning.prefill)?;
        let pieces = plan.pieces().len() as u32;
        let scratch = Arc::new(PrefillScratch::new(compiler, &self.stream, prepared.point.shape)?);
        Ok(Loaded::Prefill(PrefillAttention::load(compiler, &self.stream, &plan, pieces, &scratch)?))
    }

    /// Launches it once, on one layer's cache.
    pub(crate) fn launch(
        &self,
        prepared: &Prepared<'_>,
        loaded: &Loaded,
        layer: usize,
        overlap: Overlap,
    ) -> Result<(), Error> {
        let shape = &prepared.point.shape;
        let (rows, columns) = (prepared.point.rows(), shape.row_elements());
        let matrix = |slice| Matrix { address: self.address(slice), rows, columns, stride: columns };
        let (q, out) = (matrix(&prepared.q), matrix(&prepared.out));
        let cache = KvCache { address: self.address(&prepared.caches[layer]), blocks: prepared.blocks };
        let entries = prepared.table.len() as u32;
        let table = BlockTable { address: prepared.table_on_gpu.device_ptr(&self.stream).0, entries };
        let scale = shape.softmax_scale();
        // SAFETY: all buffers live in `prepared` until the stream is synchronised; one stream.
        unsafe {
            match loaded {
                Loaded::Decode(plan) => plan.launch(&self.stream, q, cache, table, out, scale, overlap),
                Loaded::Prefill(plan) => plan.launch(&self.stream, q, cache, table, out, scale, overlap),
            }
        }
    }

    /// Microseconds a call of every replay of a graph of one call a layer.
    pub(crate) fn time(&self, prepared: &Prepared<'_>, tuning: Tuning, repeats: usize) -> Result<Vec<f64>, Error> {
        let loaded = self.load(&self.compiler, prepared, tuning)?;
        let layers = prepared.caches.len();
        let graph = self.stopwatch.capture(|| {
            (0..layers).try_for_each(|layer| self.launch(prepared, &loaded, layer, Overlap::Programmatic))
        })?;
        let samples = self.stopwatch.replays_us(&graph, repeats)?;
        Ok(samples.into_iter().map(|sample| sample / layers as f64).collect())
    }

    /// Runs one point on fresh random inputs, plain and captured; compares up to `rows_max` (row, head) pairs with
    /// float64. The result and everything behind the last token of a sequence are poisoned.
    pub(crate) fn check(
        &self,
        point: &Point,
        tuning: Tuning,
        seed: u64,
        ampere: bool,
        pairs_max: usize,
    ) -> Result<Checked, Error> {
        let mut prepared = self.prepare(point, 1, seed)?;
        let (stream, shape) = (&self.stream, &point.shape);
        let mut cache = stream.clone_dtoh(&prepared.caches[0]).map_err(driver("downloading keys and values"))?;
        for block in poison_tails(&prepared, &mut cache) {
            let range = block * shape.kv_layout().block_elements()..(block + 1) * shape.kv_layout().block_elements();
            let mut target = prepared.caches[0].slice_mut(range.clone());
            stream.memcpy_htod(&cache[range], &mut target).map_err(driver("poisoning the end of a sequence"))?;
        }
        let q = stream.clone_dtoh(&prepared.q).map_err(driver("downloading q"))?;
        let compiler = if ampere { &self.ampere } else { &self.compiler };
        let loaded = self.load(compiler, &prepared, tuning)?;
        let poison = vec![GUARD; prepared.out.len()];
        let mut results = Vec::new();
        for captured in [false, true] {
            stream.memcpy_htod(&poison, &mut prepared.out).map_err(driver("poisoning the result"))?;
            stream.synchronize().map_err(driver("uploading"))?;
            let launch = || self.launch(&prepared, &loaded, 0, Overlap::Programmatic);
            if captured {
                let graph: CudaGraph = self.stopwatch.capture(launch)?;
                graph.launch().map_err(driver("replaying"))?;
                stream.synchronize().map_err(driver("running a captured check"))?;
            } else {
                launch()?;
                stream.synchronize().map_err(driver("running a check"))?;
            }
            results.push(stream.clone_dtoh(&prepared.out).map_err(driver("downloading the result"))?);
        }
        let elements = (point.rows() * point.shape.row_elements()) as usize;
        let (out, guard) = results[0].split_at(elements);
        Ok(Checked {
            deviation: compare(&prepared, &cache, &q, out, pairs_max, seed),
            graph_is_equal: results[0] == results[1],
            all_is_written: out.iter().all(|&bits| bits != GUARD),
            guard_is_whole: guard.iter().all(|&bits| bits == GUARD),
        })
    }
}

/// What became of a check.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Checked {
    pub(crate) deviation: Deviation,
    pub(crate) graph_is_equal: bool,
    pub(crate) all_is_written: bool,
    pub(crate) guard_is_whole: bool,
}

impl Checked {
    pub(crate) fn passes(&self, shape: &AttentionShape) -> bool {
        let (norm, largest) = if shape.element == aril_kernels::Element::Bf16 { (1e-2, 0.15) } else { (2e-3, 0.02) };
        self.deviation.within(norm, largest) && self.graph_is_equal && self.all_is_written && self.guard_is_whole
    }
}

/// NaN where a sequence's last block has no token. Returns the blocks that have such places.
fn poison_tails(prepared: &Prepared<'_>, cache: &mut [u16]) -> Vec<usize> {
    let mut touched = Vec::new();
    let shape = &prepared.point.shape;
    let layout = shape.kv_layout();
    for (&(prefix, new), &first) in prepared.point.sequences.iter().zip(&prepared.entries) {
        let context = prefix + new;
        if !context.is_multiple_of(BLOCK_TOKENS) {
            touched.push(prepared.table[(first + context / BLOCK_TOKENS) as usize] as usize);
        }
        for token in context..blocks_of(context) * BLOCK_TOKENS {
            let (block, inside) = (prepared.table[(first + token / BLOCK_TOKENS) as usize], token % BLOCK_TOKENS);
            for kv_head in 0..shape.kv_heads {
                for place in [layout.key(block, kv_head, inside), layout.value(block, kv_head, inside)] {
                    cache[place..place + shape.head_dim as usize].fill(u16::MAX);
                }
            }
        }
    }
    touched
}

/// Deviation from float64 over at most `pairs_max` pairs of a row and a head, drawn at random, on all cores.
fn compare(prepared: &Prepared<'_>, cache: &[u16], q: &[u16], out: &[u16], pairs_max: usize, seed: u64) -> Deviation {
    let shape = &prepared.point.shape;
    let mut pairs = Vec::new();
    let mut row = 0;
    for (sequence, &(prefix, new)) in prepared.point.sequences.iter().enumerate() {
        for token in 0..new {
            pairs.extend((0..shape.heads).map(|head| (sequence, prefix + token + 1, row, head)));
            row += 1;
        }
    }
    let mut random = SmallRng::seed_from_u64(seed);
    while pairs.len() > pairs_max {
        let index = random.random_range(0..pairs.len());
        pairs.swap_remove(index);
    }
    let width = shape.head_dim as usize;
    let decode = |bits: &[u16]| -> Vec<f32> { bits.iter().map(|&bits| shape.element.decode(bits)).collect() };
    let one = |&(sequence, seen, row, head): &(usize, u32, u32, u32)| {
        let (layout, kv_head) = (shape.kv_layout(), head / shape.queries());
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for token in 0..seen {
            let entry = prepared.entries[sequence] + token / BLOCK_TOKENS;
            let (block, inside) = (prepared.table[entry as usize], token % BLOCK_TOKENS);
            let (key, value) = (layout.key(block, kv_head, inside), layout.value(block, kv_head, inside));
            keys.extend(decode(&cache[key..key + width]));
            values.extend(decode(&cache[value..value + width]));
        }
        let place = (row * shape.row_elements() + head * shape.head_dim) as usize;
        let expected = attend(&decode(&q[place..place + width]), &keys, &values, shape.softmax_scale());
        (decode(&out[place..place + width]), expected)
    };
    let next = AtomicUsize::new(0);
    let (mut results, mut reference) = (Vec::new(), Vec::new());
    std::thread::scope(|scope| {
        let work = || {
            let mut done = Vec::new();
            while let Some(pair) = pairs.get(next.fetch_add(1, Ordering::Relaxed)) {
                done.push(one(pair));
            }
            done
        };
        let workers: Vec<_> =
            (0..std::thread::available_parallelism().map_or(4, usize::from)).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            for (result, expected) in worker.join().expect("a reference thread") {
                results.extend(result);
                reference.extend(expected);
            }
        }
    });
    Deviation::of(results.into_iter().map(f64::from), &reference)
}

/// Median of samples.
pub(crate) fn median(samples: &[f64]) -> f64 {
    Summary::of(samples).map_or(f64::NAN, |summary| summary.median)
}
