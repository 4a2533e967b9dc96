//! Each small kernel of a step alone, at the widths of real models, against float64.

use std::sync::Arc;

use aril_kernels::cache::Cache;
use aril_kernels::gpu::{Gpu, Overlap};
use aril_kernels::llama::LlamaShape;
use aril_kernels::llama::kernels::{NormArguments, RopeArguments, SAMPLING_PARTS, StepKernels, rope_table};
use aril_kernels::program::Compiler;
use aril_kernels::reference::lora::Deviation;
use aril_kernels::reference::step::{gated, largest, norm, rotate};
use aril_kernels::source::Sources;
use aril_kernels::timing::Stopwatch;
use aril_kernels::{Element, Error};
use cudarc::driver::{CudaSlice, CudaStream, DevicePtr, DeviceRepr};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use crate::Options;

/// What every result holds before a launch, and what lies behind it: a NaN in both formats.
const POISON: u16 = 0x7fff;
const GUARD: usize = 1024;
const OVERLAP: Overlap = Overlap::Programmatic;

/// Rows of a launch: a decode of one, and more than a block of threads has warps.
const ROWS: [usize; 2] = [1, 37];
/// Positions that the rotary embedding turns by.
const CONTEXT: usize = 4096;

/// The models whose widths are checked, and two that take the largest blocks of the norm, the second not in full.
fn shapes() -> Vec<LlamaShape> {
    let wide = |hidden| LlamaShape { hidden, ..LlamaShape::tiny() };
    vec![
        LlamaShape::llama_2_7b(),
        LlamaShape::llama_2_13b(),
        LlamaShape::llama_3_1_8b(),
        LlamaShape::llama_3_1_70b_shard_tp8(),
        wide(16_384),
        wide(12_296),
    ]
}

pub(crate) fn run(gpu: &Gpu, options: &Options) -> Result<(Value, usize), Error> {
    let stream = gpu.stream()?;
    let sources = options.build.sources.as_deref().map_or_else(Sources::built_in, Sources::in_folder);
    let cache = Cache::of_user();
    let compiler = Compiler::new(gpu, sources.clone(), cache.clone());
    let older = compiler.clone().with_architecture("compute_80");
    let stopwatch = Stopwatch::new(gpu, &stream, &sources, cache.as_ref())?;
    let (mut checked, mut wrong) = (0, 0);
    for (element, shape) in Element::ALL.into_iter().flat_map(|element| shapes().into_iter().map(move |s| (element, s)))
    {
        for (path, compiler) in [("native", &compiler), ("sm_80", &older)] {
            let seed = std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_nanos() as u64);
            let mut bench = Bench {
                gpu,
                stopwatch: &stopwatch,
                stream: stream.clone(),
                kernels: StepKernels::new(compiler, shape, element)?,
                shape,
                element,
                random: SmallRng::seed_from_u64(seed),
            };
            for (rows, name, check) in ROWS.into_iter().flat_map(|rows| CHECKS.map(|(name, check)| (rows, name, check)))
            {
                checked += 1;
                if let Err(why) = check(&mut bench, rows)? {
                    wrong += 1;
                    println!("WRONG {name} {} {path}, {rows} rows of {shape:?}: {why}", element.name());
                }
            }
        }
    }
    println!("small kernels: {checked} checks, {wrong} wrong");
    Ok((json!({ "checks": checked, "wrong": wrong }), wrong))
}

/// Whether a kernel's results are right; the outer error is that of a launch.
type Check = fn(&mut Bench<'_>, usize) -> Result<Result<(), String>, Error>;

const CHECKS: [(&str, Check); 5] = [
    ("norm", |bench, rows| bench.norm(rows)),
    ("rope", |bench, rows| bench.rope(rows)),
    ("activation", |bench, rows| bench.activation(rows)),
    ("embedding", |bench, rows| bench.embedding(rows)),
    ("sampling", |bench, rows| bench.sampling(rows)),
];

/// What an element of a result must be.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Expected {
    /// These bits: what is copied, put to zero or not written.
    Bits(u16),
    /// This value, rounded.
    Near(f64),
}

/// Compares a result with what it must be: elements with a value in lines of `width`, each line for itself, so that one wrong
/// line is not lost among many.
fn judge(what: &str, element: Element, width: usize, got: &[u16], expected: &[Expected]) -> Result<(), String> {
    if got.len() != expected.len() {
        return Err(format!("{what}: {} elements, not {}", got.len(), expected.len()));
    }
    // Rounding gives at most 0.0039 and 0.00049 of an element, and so of a line. An element may have three times that: where the
    // norm's sum is halfway between two values, fp32 may round it to the other one, and the result is rounded again.
    let (norm_max, element_max) = if element == Element::Bf16 { (4e-3, 1.2e-2) } else { (6e-4, 1.5e-3) };
    for (line, (got, expected)) in got.chunks(width).zip(expected.chunks(width)).enumerate() {
        let (mut values, mut references) = (Vec::new(), Vec::new());
        for (column, (&bits, &expected)) in got.iter().zip(expected).enumerate() {
            match expected {
                Expected::Bits(expected) if bits != expected => {
                    return Err(format!("{what}, line {line}, column {column}: {bits:#06x}, not {expected:#06x}"));
                }
                Expected::Bits(_) => {}
                Expected::Near(expected) => {
                    let value = f64::from(element.decode(bits));
                    // A line's largest elements set what a small one, a difference of larger ones, can be off by.
                    if (value - expected).abs() > element_max * expected.abs().max(1.0) || value.is_nan() {
                        return Err(format!("{what}, line {line}, column {column}: {value}, not {expected}"));
                    }
                    values.push(value);
                    references.push(expected);
                }
            }
        }
        let deviation = Deviation::of(values.into_iter(), &references);
        if deviation.relative_norm.is_nan() || deviation.relative_norm > norm_max {
            return Err(format!("{what}, line {line}: {deviation:?}"));
        }
    }
    Ok(())
}

/// The guard, behind a result's expected elements.
fn guarded(expected: Vec<Expected>) -> Vec<Expected> {
    expected.into_iter().chain([Expected::Bits(POISON); GUARD]).collect()
}

fn near(values: impl IntoIterator<Item = f64>) -> impl Iterator<Item = Expected> {
    values.into_iter().map(Expected::Near)
}

/// One model's kernels in one format.
struct Bench<'a> {
    gpu: &'a Gpu,
    stopwatch: &'a Stopwatch,
    stream: Arc<CudaStream>,
    kernels: StepKernels,
    shape: LlamaShape,
    element: Element,
    random: SmallRng,
}

impl Bench<'_> {
    fn draw(&mut self, count: usize, scale: f32) -> Vec<u16> {
        let (element, random) = (self.element, &mut self.random);
        (0..count).map(|_| element.encode((random.random::<f32>() * 2.0 - 1.0) * scale)).collect()
    }

    fn upload<T: DeviceRepr>(&self, values: &[T]) -> Result<(u64, CudaSlice<T>), Error> {
        let slice = self.stream.clone_htod(values).map_err(driver("uploading a check's input"))?;
        let address = slice.device_ptr(&self.stream).0;
        Ok((address, slice))
    }

    /// The values with a guard behind them.
    fn upload_guarded(&self, values: &[u16]) -> Result<(u64, CudaSlice<u16>), Error> {
        self.upload(&[values, &[POISON; GUARD]].concat())
    }

    fn download<T: DeviceRepr>(&self, slice: &CudaSlice<T>) -> Result<Vec<T>, Error> {
        self.stream.clone_dtoh(slice).map_err(driver("downloading a check's result"))
    }

    /// Between uploads and launches, since these may begin early, and between launches and downloads.
    fn wait(&self) -> Result<(), Error> {
        self.stream.synchronize().map_err(driver("running a check"))
    }

    fn value(&self, bits: u16) -> f64 {
        f64::from(self.element.decode(bits))
    }

    /// h alone, h with y, and all with slots of which some are none.
    fn norm(&mut self, rows: usize) -> Result<Result<(), String>, Error> {
        let width = self.shape.hidden as usize;
        for (with_y, with_delta, with_slots) in [(false, false, false), (true, false, false), (true, true, true)] {
            let [h, y, d] = [(); 3].map(|()| self.draw(rows * width, 2.0));
            let weight = self.draw(width, 1.5);
            // Rows in reverse, every third nowhere.
            let slot_of = |row: usize| if row % 3 == 1 { -1 } else { (rows - 1 - row) as i32 };
            let slots: Vec<i32> = (0..rows).map(slot_of).collect();
            let (h_at, h_slice) = self.upload_guarded(&h)?;
            let (y_at, _y) = self.upload(&y)?;
            let (delta_at, delta_slice) = self.upload_guarded(&d)?;
            let (weight_at, _weight) = self.upload(&weight)?;
            let (out_at, out_slice) = self.upload_guarded(&vec![POISON; rows * width])?;
            let (slots_at, _slots) = self.upload(&slots)?;
            let or_none = |present: bool, address: u64| if present { address } else { 0 };
            let arguments = NormArguments {
                h: h_at,
                y: or_none(with_y, y_at),
                delta: or_none(with_delta, delta_at),
                weight: weight_at,
                out: out_at,
                slots: or_none(with_slots, slots_at),
                vectors: 0,
                epsilon: 0.0,
            };
            self.wait()?;
            // SAFETY: all matrices hold `rows` rows and live until the wait below; slots are rows of `out`.
            unsafe { self.kernels.norm(&self.stream, rows as u32, arguments, OVERLAP)? };
            self.wait()?;
            let weights: Vec<f32> = weight.iter().map(|&bits| self.element.decode(bits)).collect();
            let mut stored = Vec::with_capacity(rows * width);
            let mut out = vec![Expected::Bits(POISON); rows * width];
            for (row, &slot) in slots.iter().enumerate() {
                let sum: Vec<f64> = (row * width..(row + 1) * width)
                    .map(|at| {
                        let y = if with_y { self.value(y[at]) } else { 0.0 };
                        let delta = if with_delta { self.value(d[at]) } else { 0.0 };
                        self.value(h[at]) + y + delta
                    })
                    .collect();
                let round = |value: f64| self.value(self.element.encode(value as f32));
                let (sum, normalised) = norm(&sum, &weights, f64::from(self.shape.rms_epsilon), round);
                stored.extend(near(sum));
                let slot = if with_slots { slot } else { row as i32 };
                if let Ok(slot) = usize::try_from(slot) {
                    out[slot * width..(slot + 1) * width]
                        .iter_mut()
                        .zip(near(normalised))
                        .for_each(|(to, it)| *to = it);
                }
            }
            if !with_y {
                stored = h.iter().map(|&bits| Expected::Bits(bits)).collect();
            }
            let delta = d.iter().map(|&bits| Expected::Bits(if with_delta { 0 } else { bits })).collect();
            for (what, slice, expected) in
                [("h", &h_slice, stored), ("delta", &delta_slice, delta), ("out", &out_slice, out)]
            {
                let right = judge(what, self.element, width, &self.download(slice)?, &guarded(expected));
                if right.is_err() {
                    return Ok(right);
                }
            }
        }
        Ok(Ok(()))
    }

    /// With and without what adapters add; positions up to the last, slots that skip, and rows without one.
    fn rope(&mut self, rows: usize) -> Result<Result<(), String>, Error> {
        let (heads, kv_heads) = (self.shape.heads as usize, self.shape.kv_heads as usize);
        let (head, all) = (self.shape.head_dim as usize, heads + 2 * kv_heads);
        let table = rope_table(&self.shape, CONTEXT as u32);
        let frequencies = self.shape.rope_frequencies();
        let blocks = rows * 3 / 16 + 1;
        for with_delta in [false, true] {
            let [y, d] = [(); 2].map(|()| self.draw(rows * all * head, 2.0));
            let positions: Vec<u32> = (0..rows).map(|row| (CONTEXT - 1 - row * 97 % CONTEXT) as u32).collect();
            let slots: Vec<i32> = (0..rows).map(|row| if row % 4 == 3 { -1 } else { row as i32 * 3 }).collect();
            let (y_at, _y) = self.upload(&y)?;
            let (delta_at, delta_slice) = self.upload_guarded(&d)?;
            let (q_at, q_slice) = self.upload_guarded(&vec![POISON; rows * heads * head])?;
            let mut cache = vec![Expected::Bits(POISON); blocks * kv_heads * 2 * 16 * head];
            let (cache_at, cache_slice) = self.upload_guarded(&vec![POISON; cache.len()])?;
            let (table_at, _table) = self.upload(&table)?;
            let (positions_at, _positions) = self.upload(&positions)?;
            let (slots_at, _slots) = self.upload(&slots)?;
            let arguments = RopeArguments {
                y: y_at,
                delta: if with_delta { delta_at } else { 0 },
                q: q_at,
                cache: cache_at,
                table: table_at,
                positions: positions_at,
                slots: slots_at,
                heads: 0,
                kv_heads: 0,
                blocks_row: 0,
                reserved: 0,
            };
            self.wait()?;
            // SAFETY: all matrices hold `rows` rows and live until the wait below; slots are within the cache's blocks,
            // positions within the table.
            unsafe { self.kernels.rope(&self.stream, rows as u32, arguments, OVERLAP)? };
            self.wait()?;
            let mut q = Vec::with_capacity(rows * heads * head);
            for row in 0..rows {
                let angle = |frequency: &f64| f64::from(positions[row]) * frequency;
                let turns: Vec<(f64, f64)> = frequencies.iter().map(|f| (angle(f).cos(), angle(f).sin())).collect();
                for index in 0..all {
                    let at = (row * all + index) * head;
                    let sum = |n: usize| self.value(y[n]) + if with_delta { self.value(d[n]) } else { 0.0 };
                    let mut values: Vec<f64> = (at..at + head).map(sum).collect();
                    if index < heads + kv_heads {
                        values = rotate(&values, &turns);
                    }
                    if index < heads {
                        q.extend(near(values));
                    } else if let Ok(slot) = usize::try_from(slots[row]) {
                        let (kv_head, value) = ((index - heads) % kv_heads, (index - heads) / kv_heads);
                        let plane = (slot / 16 * kv_heads + kv_head) * 2 + value;
                        let to = &mut cache[(plane * 16 + slot % 16) * head..][..head];
                        to.iter_mut().zip(near(values)).for_each(|(to, it)| *to = it);
                    }
                }
            }
            let delta = d.iter().map(|&bits| Expected::Bits(if with_delta { 0 } else { bits })).collect();
            for (what, slice, expected) in
                [("q", &q_slice, q), ("cache", &cache_slice, cache), ("delta", &delta_slice, delta)]
            {
                let right = judge(what, self.element, head, &self.download(slice)?, &guarded(expected));
                if right.is_err() {
                    return Ok(right);
                }
            }
        }
        Ok(Ok(()))
    }

    /// With and without what adapters add, on both sides of where the exponential vanishes.
    fn activation(&mut self, rows: usize) -> Result<Result<(), String>, Error> {
        let width = self.shape.intermediate as usize;
        for with_delta in [false, true] {
            let [y, d] = [(); 2].map(|()| self.draw(rows * 2 * width, 12.0));
            let (y_at, _y) = self.upload(&y)?;
            let (delta_at, delta_slice) = self.upload_guarded(&d)?;
            let (out_at, out_slice) = self.upload_guarded(&vec![POISON; rows * width])?;
            self.wait()?;
            // SAFETY: all matrices hold `rows` rows and live until the wait below.
            unsafe {
                let delta = if with_delta { delta_at } else { 0 };
                self.kernels.activation(&self.stream, rows as u32, y_at, delta, out_at, OVERLAP)?;
            }
            self.wait()?;
            let sum = |n: usize| self.value(y[n]) + if with_delta { self.value(d[n]) } else { 0.0 };
            let out = (0..rows * width).map(|n| {
                let at = n / width * 2 * width + n % width;
                gated(sum(at), sum(at + width))
            });
            let delta = d.iter().map(|&bits| Expected::Bits(if with_delta { 0 } else { bits })).collect();
            for (what, slice, expected) in [("out", &out_slice, near(out).collect()), ("delta", &delta_slice, delta)] {
                let right = judge(what, self.element, width, &self.download(slice)?, &guarded(expected));
                if right.is_err() {
                    return Ok(right);
                }
            }
        }
        Ok(Ok(()))
    }

    /// The first and the last token of the whole vocabulary among those whose rows are copied.
    fn embedding(&mut self, rows: usize) -> Result<Result<(), String>, Error> {
        let (width, vocab) = (self.shape.hidden as usize, self.shape.vocab);
        let mut table = self.gpu.allocate::<u16>(&self.stream, vocab as usize * width, "an embedding")?;
        let seed = self.random.random();
        self.stopwatch.fill(&mut table, self.element, seed, 1.0)?;
        let tokens: Vec<u32> = (0..rows as u32).map(|row| vocab - 1 - row * 7919 % vocab).chain([0]).collect();
        let (tokens_at, _tokens) = self.upload(&tokens)?;
        let (h_at, h_slice) = self.upload_guarded(&vec![POISON; tokens.len() * width])?;
        let table_at = table.device_ptr(&self.stream).0;
        self.wait()?;
        // SAFETY: the matrices are the model's and live until the wait below; tokens are below the vocabulary.
        unsafe { self.kernels.embed(&self.stream, tokens.len() as u32, table_at, tokens_at, h_at, OVERLAP)? };
        self.wait()?;
        let mut expected = Vec::with_capacity(tokens.len() * width);
        for &token in &tokens {
            let row = table.slice(token as usize * width..(token as usize + 1) * width);
            let row = self.stream.clone_dtoh(&row).map_err(driver("downloading an embedding's row"))?;
            expected.extend(row.into_iter().map(Expected::Bits));
        }
        Ok(judge("h", self.element, width, &self.download(&h_slice)?, &guarded(expected)))
    }

    /// Logits with ties, with the largest last, with NaNs, and nothing else.
    fn sampling(&mut self, rows: usize) -> Result<Result<(), String>, Error> {
        let vocab = self.shape.vocab as usize;
        let rows = rows + 3;
        let mut logits = self.draw(rows * vocab, 4.0);
        let high = self.element.encode(5.0);
        for (row, logits) in logits.chunks_exact_mut(vocab).enumerate() {
            match row {
                0 => logits[vocab - 1] = high,
                1 => [vocab / 3, vocab / 3 + 1, vocab * 2 / 3].into_iter().for_each(|tie| logits[tie] = high),
                2 => logits.fill(POISON),
                _ => logits[row * 331 % vocab] = POISON,
            }
        }
        let (logits_at, _logits) = self.upload(&logits)?;
        let (partial_at, _partial) = self.upload(&vec![u64::MAX; rows * SAMPLING_PARTS as usize])?;
        let (tokens_at, tokens_slice) = self.upload(&vec![u32::MAX; rows + 1])?;
        self.wait()?;
        // SAFETY: the matrices hold `rows` rows and live until the wait below.
        unsafe { self.kernels.sample(&self.stream, rows as u32, logits_at, partial_at, tokens_at, OVERLAP)? };
        self.wait()?;
        let expected: Vec<u32> = logits
            .chunks_exact(vocab)
            .map(|row| row.iter().map(|&bits| self.element.decode(bits)).collect::<Vec<f32>>())
            .map(|row| largest(&row) as u32)
            .chain([u32::MAX])
            .collect();
        let got = self.download(&tokens_slice)?;
        Ok(if got == expected { Ok(()) } else { Err(format!("tokens {got:?}, not {expected:?}")) })
    }
}

fn driver(doing: &'static str) -> impl FnOnce(cudarc::driver::DriverError) -> Error {
    move |code| Error::Driver { doing: doing.to_owned(), code: format!("{code:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two lines of three values, a line that is not written, and the guard; and what a right kernel leaves.
    fn case(element: Element) -> (Vec<Expected>, Vec<u16>) {
        let values = [0.123, -2.5, 3.9, 100.7, 0.0, -1e-3];
        let expected: Vec<Expected> = near(values).chain([Expected::Bits(POISON); 3]).collect();
        let mut got: Vec<u16> = values.iter().map(|&value| element.encode(value as f32)).collect();
        got.extend([POISON; 3 + GUARD]);
        (guarded(expected), got)
    }

    #[test]
    fn a_rounded_result_is_right_and_any_other_is_not() {
        for element in Element::ALL {
            let (expected, got) = case(element);
            judge("a case", element, 3, &got, &expected).expect("right");
            let changed = |at: usize, bits: u16| {
                let mut other = got.clone();
                other[at] = bits;
                judge("a case", element, 3, &other, &expected)
            };
            // A small value of a line of large ones, a line's only large one, a NaN, a row that is not to be written, the guard.
            for (at, bits) in [
                (0, element.encode(0.1)),
                (3, element.encode(102.0)),
                (4, element.encode(0.5)),
                (1, POISON),
                (6, 0),
                (9, 0),
                (8 + GUARD, 0x7ffe),
            ] {
                changed(at, bits).expect_err(&format!("element {at} is {bits:#06x}"));
            }
            judge("a case", element, 3, &got[1..], &expected).expect_err("an element is missing");
        }
    }

    #[test]
    fn the_widths_are_those_of_the_models() {
        let widths = |of: fn(&LlamaShape) -> u32| shapes().iter().map(of).collect::<Vec<u32>>();
        assert_eq!(widths(|shape| shape.hidden), [4096, 5120, 4096, 8192, 16_384, 12_296]);
        assert_eq!(widths(|shape| shape.intermediate)[..3], [11_008, 13_824, 14_336]);
        assert_eq!(widths(|shape| shape.vocab)[..3], [32_000, 32_000, 128_256]);
        shapes().iter().for_each(|shape| shape.check().expect("the kernels serve it"));
    }
}
