//! What the made-up GPU really takes: written apart from every form that is fitted to it.

use aril_sim::gpu::Gpu;
use aril_sim::model::Model;
use aril_sim::profile::doublings;
use aril_sim::profile::lora::LoraKernel;

use crate::machine::{AT_REST, BEHIND, Part, Question, StepShape, rest_us, served};

/// Coefficients; microseconds, bytes and operations unless a name says otherwise.
#[derive(Clone, Debug, PartialEq)]
pub struct Truth {
    /// The model.
    pub model: Model,
    /// Start of a kernel.
    pub kernel_us: f64,
    /// Bandwidth that products and element-wise kernels reach, 10⁹ bytes a second.
    pub gigabytes_per_second: f64,
    /// Arithmetic that full waves reach, 10¹² operations a second.
    pub teraflops: f64,
    /// Multiprocessors: a tile of 64 rows by 128 outputs each.
    pub multiprocessors: f64,
    /// Decode attention: start, bandwidth, and what a token of the longest row takes.
    pub decode: (f64, f64, f64),
    /// Prefill attention: start, arithmetic, and what a token of the longest prompt takes.
    pub prompt: (f64, f64, f64),
    /// Adapters, ours: start of a layer's four launches, each rank of each adapter, each row.
    pub lora: (f64, f64, f64),
    /// What a whole step takes beyond its parts, each layer; with adapters; with a prompt.
    pub gaps: (f64, f64, f64),
    /// The host: a step, each doubling of its sequences, each of its prompts' tokens, each adapter.
    pub host: (f64, f64, f64, f64),
    /// A load: start, pinned and pageable 10⁹ bytes a second.
    pub load: (f64, f64, f64),
    /// Clocks under prompts: how fast they sag, at how many tokens wholly, and how much longer decode steps, each of their rows, and prompts take then.
    pub sag: (f64, f64, f64, f64, f64),
    /// Beside each other: how much longer a copy and a step take.
    pub slowdown: (f64, f64),
}

impl Truth {
    /// Plausible for a GPU and a model.
    pub fn of(gpu: &Gpu, model: &Model) -> Truth {
        Truth {
            model: model.clone(),
            kernel_us: 1.6,
            gigabytes_per_second: gpu.gigabytes_per_second * 0.82,
            teraflops: gpu.teraflops_16bit * 0.68,
            multiprocessors: 132.0,
            decode: (4.2, gpu.gigabytes_per_second * 0.78, 3.1e-3),
            prompt: (5.5, gpu.teraflops_16bit * 0.5, 1.6e-3),
            lora: (8.4, 0.0432, 0.016),
            gaps: (1.9, 0.8, 0.6),
            host: (60.0, 3.5, 4.0, 0.9),
            load: (14.0, 54.5, 11.0),
            sag: (20_000.0, 1024.0, 0.04, 0.004, 0.22),
            slowdown: (1.12, 1.03),
        }
    }

    /// The answer without noise.
    pub fn us(&self, question: &Question) -> f64 {
        match question {
            Question::Operation { operation, shape } => self.part(*operation, shape),
            Question::Lora { kernel, shape } => self.adapters(*kernel, shape),
            Question::Step { kernel, shape } => self.repeated_step(*kernel, shape),
            Question::Added { shape } => {
                self.repeated_step(LoraKernel::Segmented, shape) - self.repeated_step(LoraKernel::None, shape)
            }
            Question::Behind { prompts, times, shape } => self.behind(prompts, *times, shape).iter().sum(),
            Question::Served { shapes, steps, pauses } => self.served(shapes, *steps, *pauses).iter().sum(),
            Question::StepBesideLoad { shape } => self.step(LoraKernel::None, shape) * self.slowdown.1,
            Question::Host { shape, .. } => {
                let (us, sequences, prompts, adapter) = self.host;
                us + sequences * doublings(shape.sequences())
                    + prompts * doublings(shape.prompt_rows().saturating_add(1))
                    + adapter * shape.adapters.len() as f64
            }
            Question::Load { rank, pinned, beside } => {
                let bytes = self.model.adapter_bytes(*rank, &aril_sim::model::lora::LoraTarget::LAYER) as f64;
                let rate = if *pinned { self.load.1 } else { self.load.2 };
                let slowdown = if beside.is_some() { self.slowdown.0 } else { 1.0 };
                (self.load.0 + bytes / (rate * 1e3)) * slowdown
            }
            Question::Switch { .. } => {
                let bytes = self.model.layer_matrix_parameters() as f64 * 2.0 * f64::from(self.model.layers);
                4.0 * self.stream(bytes) + 28.0 * self.kernel_us * f64::from(self.model.layers)
            }
            Question::Copy { bytes } => self.kernel_us + self.stream(2.0 * *bytes as f64) * 0.96,
        }
    }

    fn stream(&self, bytes: f64) -> f64 {
        bytes / (self.gigabytes_per_second * 1e3)
    }

    /// A whole step on the GPU.
    pub fn step(&self, kernel: LoraKernel, shape: &StepShape) -> f64 {
        let layers = f64::from(self.model.layers);
        let parts: f64 = Part::ALL
            .iter()
            .map(|&part| self.part(part, shape) * part.times() * if part.is_once() { 1.0 } else { layers })
            .sum();
        let mut layer = self.gaps.0;
        if kernel != LoraKernel::None && !shape.adapters.is_empty() {
            layer += self.adapters(kernel, shape) + self.gaps.1;
        }
        if !shape.prompts.is_empty() {
            layer += self.gaps.2;
        }
        parts + layer * layers
    }

    /// The last of some steps in a row, with rests between them.
    pub(super) fn repeated_step(&self, kernel: LoraKernel, shape: &StepShape) -> f64 {
        let alone = self.step(kernel, shape);
        let mut clocks = Clocks::default();
        let mut us = alone;
        for _ in 0..4 {
            us = clocks.step(self.sag, shape, alone);
            clocks.rest(self.sag, rest_us(shape.rows(), us));
        }
        us
    }

    /// Steps at rest, prompts, steps behind them.
    pub fn behind(&self, prompts: &StepShape, times: u32, shape: &StepShape) -> Vec<f64> {
        let (rows, prompted) = (self.step(LoraKernel::None, shape), self.step(LoraKernel::None, prompts));
        let mut clocks = Clocks::default();
        let mut row = vec![rows; AT_REST];
        row.extend((0..times).map(|_| clocks.step(self.sag, prompts, prompted)));
        row.extend((0..BEHIND).map(|_| clocks.step(self.sag, shape, rows)));
        row
    }

    /// Steps one after the other, as they are served.
    pub fn served(&self, shapes: &[StepShape], steps: u32, pauses: bool) -> Vec<f64> {
        let alone: Vec<f64> = shapes.iter().map(|shape| self.step(LoraKernel::Segmented, shape)).collect();
        let mut clocks = Clocks::default();
        let order = served::order(shapes, steps, pauses).into_iter();
        order
            .map(|served| {
                clocks.rest(self.sag, served.rested_us);
                clocks.step(self.sag, &shapes[served.shape], alone[served.shape])
            })
            .collect()
    }

    /// One operation of one layer.
    pub fn part(&self, part: Part, shape: &StepShape) -> f64 {
        let m = &self.model;
        let (hidden, mlp, heads) = (f64::from(m.hidden), f64::from(m.intermediate), m.query_width() as f64);
        let (rows, sequences) = (f64::from(shape.rows()), f64::from(shape.sequences()));
        let moved = |bytes: f64| self.kernel_us + self.stream(bytes);
        match part {
            Part::Qkv => self.product(hidden, heads + 2.0 * m.kv_width() as f64, rows),
            Part::O => self.product(heads, hidden, rows),
            Part::GateUp => self.product(hidden, 2.0 * mlp, rows),
            Part::Down => self.product(mlp, hidden, rows),
            Part::LmHead => self.product(hidden, f64::from(m.vocab), sequences),
            Part::Embedding => moved(rows * hidden * 4.0),
            Part::Norm => moved(rows * hidden * 8.0),
            Part::RopeAndKvAppend => moved(rows * 12.0 * heads),
            Part::Activation => moved(rows * mlp * 6.0),
            Part::Sampling => moved(sequences * f64::from(m.vocab) * 4.0),
            Part::DecodeAttention => self.decode_attention(shape),
            Part::PrefillAttention => self.prefill_attention(shape),
        }
    }

    fn product(&self, input: f64, output: f64, rows: f64) -> f64 {
        let memory = self.stream(2.0 * (input * output + rows * (input + output)));
        let tiles = (rows / 64.0).ceil() * (output / 128.0).ceil();
        let waves = (tiles / self.multiprocessors).ceil();
        let arithmetic = waves * self.multiprocessors * 64.0 * 128.0 * input * 2.0 / (self.teraflops * 1e6);
        self.kernel_us + memory.max(arithmetic)
    }

    fn kv_bytes(&self) -> f64 {
        4.0 * self.model.kv_width() as f64
    }

    fn decode_attention(&self, shape: &StepShape) -> f64 {
        if shape.decode_rows() == 0 {
            return 0.0;
        }
        let (us, rate, longest) = self.decode;
        let bandwidth = shape.context_sum() as f64 * self.kv_bytes() / (rate * 1e3);
        us + bandwidth.max(f64::from(shape.context_max()) * longest)
    }

    fn prefill_attention(&self, shape: &StepShape) -> f64 {
        if shape.prompts.is_empty() {
            return 0.0;
        }
        let (us, teraflops, longest) = self.prompt;
        let mut pairs = 0.0;
        let mut most = 0_u32;
        for prompt in &shape.prompts {
            // Tiles of 64 queries, each against every key up to its last one's.
            for tile in 0..prompt.chunk.div_ceil(64) {
                pairs += 64.0 * f64::from(prompt.prefix + prompt.chunk.min((tile + 1) * 64));
            }
            most = most.max(prompt.prefix + prompt.chunk);
        }
        let arithmetic = pairs * 4.0 * self.model.query_width() as f64 / (teraflops * 1e6);
        us + arithmetic.max(f64::from(most) * longest)
    }

    fn adapters(&self, kernel: LoraKernel, shape: &StepShape) -> f64 {
        if shape.adapters.is_empty() {
            return 0.0;
        }
        let (us, rank, row) = self.lora;
        let probe = shape.probe(true);
        let of = |segment: &aril_sim::batch::Segment| f64::from(segment.prefill_rows + segment.decode_rows);
        let rows: f64 = probe.segments.iter().map(of).sum();
        let ranks: f64 = probe.segments.iter().map(|s| f64::from(s.rank)).sum();
        let widest = f64::from(shape.rank_max());
        let adapters = probe.segments.len() as f64;
        let row_ranks: f64 = probe.segments.iter().map(|s| of(s) * f64::from(s.rank)).sum();
        let weights = match kernel {
            LoraKernel::Bgmv => row_ranks,
            LoraKernel::GatherBmm => 3.0 * rows * widest,
            LoraKernel::Padded => adapters * widest,
            _ => ranks,
        };
        let launches = match kernel {
            LoraKernel::Segmented => us,
            LoraKernel::Loop => 14.0 * us / 4.0 * adapters,
            _ => 14.0 * self.kernel_us,
        };
        let arithmetic = row_ranks * 2.0 * 1.4e5 / (self.teraflops * 0.5 * 1e6);
        launches + (rank * weights + row * rows).max(arithmetic)
    }
}

/// What is drawn and how far the clocks have sagged, followed by tenths of a millisecond.
#[derive(Clone, Copy, Default)]
struct Clocks {
    drawn: f64,
    sag: f64,
}

const MOMENT_US: f64 = 100.0;

impl Clocks {
    /// What a step takes that takes `alone` at rest.
    fn step(&mut self, sag: (f64, f64, f64, f64, f64), shape: &StepShape, alone: f64) -> f64 {
        let (us, tokens, decode, row, prompt) = sag;
        let load = (f64::from(shape.prompt_rows()) / tokens).min(1.0);
        let slower = (decode + row * f64::from(shape.rows())).min(prompt);
        // What the steps before left, and what it takes longer for that.
        let (mut left, mut longer, mut at) = (*self, 0.0, 0.0);
        while at < alone {
            let moment = MOMENT_US.min(alone - at);
            longer += slower * left.sag * moment;
            left.follow(0.0, moment / us);
            self.follow(load, moment / us);
            at += moment;
        }
        alone + longer
    }

    fn rest(&mut self, (us, ..): (f64, f64, f64, f64, f64), rested_us: f64) {
        for _ in 0..(rested_us / MOMENT_US) as u32 {
            self.follow(0.0, MOMENT_US / us);
        }
    }

    fn follow(&mut self, load: f64, share: f64) {
        self.sag += (self.drawn - self.sag) * share;
        self.drawn += (load - self.drawn) * share;
    }
}
