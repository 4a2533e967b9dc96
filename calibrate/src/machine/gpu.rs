//! A real GPU: every question is answered by the kernels and the whole step of `aril-kernels`.

mod describe;
mod sequences;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aril_kernels::Element;
use aril_kernels::baseline::layer::{Way, Ways};
use aril_kernels::copy::HostMemory;
use aril_kernels::gpu::Gpu;
use aril_kernels::llama::{
    AdapterWeights, Beside, Build, GemmPath, HostAdapter, Llama, LlamaSettings, LlamaShape, LoraOrder, LoraPath,
    ModelWeights, Operation, Projection,
};
use aril_kernels::lora::layout::ProjectionShape;
use aril_sim::model::{Model, Precision};
use aril_sim::profile::lora::LoraKernel;

use super::{Clocks, Identity, Limits, Machine, MachineError, Part, Question, StepShape};
use crate::error::CalibrateError;
use crate::plan::Slots;
use sequences::Drawn;

/// A GPU with a model on it.
pub struct LlamaGpu {
    gpu: Gpu,
    identity: Identity,
    shape: LlamaShape,
    llama: Llama,
    slots: Slots,
    /// Rank of the adapter in each slot; 0: none.
    loaded: Vec<u32>,
    ways: Option<Ways>,
    /// An adapter in pinned memory, and its rank: one at a time, for pinned memory is dear.
    pinned: Option<(u32, Arc<HostAdapter>)>,
    /// Operations that add adapters' results, without any: by rows and sequences, microseconds.
    bare: BTreeMap<(Operation, u32, u32), f64>,
    /// Steps that were computed for one of two questions about them.
    steps: BTreeMap<String, Vec<(f64, f64)>>,
    began: Instant,
}

/// Rows of a step that the largest question has.
const ROWS: u32 = 8704;
/// Sequences.
const SEQUENCES: u32 = 512;
/// Tokens of one sequence.
const CONTEXT: u32 = 40_960;
/// Sum of the ranks that adapter slots have room for.
const RANK_SUM: u32 = 4096;
/// KV tokens that no question goes beyond.
const KV_TOKENS: u32 = 131_072;
/// Replays of a step that a copy lies beside: so many at least.
const REPLAYS: usize = 20;
/// How much longer than a long replay or a step of many rows the card rests after it: a card that multiplies without a pause reaches its
/// power limit after some twenty milliseconds, and serving gives it its pauses. Steps of few rows follow each other as they do there.
const REST: f64 = 1.5;
/// Products and steps of so few rows are bound by their bytes, and need no rest.
const ROWS_AT_REST: u32 = 64;
/// No longer than this, seconds.
const REST_S_MAX: f64 = 0.06;
/// Device memory that stays free: the driver's, the libraries' and the other kernels'.
const RESERVE_BYTES: u64 = 7 << 30;

impl LlamaGpu {
    /// Opens the first GPU with a model of this name and number of GPUs that share it, its weights drawn at random.
    ///
    /// # Errors
    /// Where there is no GPU, driver or compiler, where the model is unknown to the kernels, or where it does not fit.
    pub fn open(model: &str, tensor_parallel: u32) -> Result<LlamaGpu, CalibrateError> {
        let began = Instant::now();
        let (shape, element, model) = model_of(model, tensor_parallel)?;
        let gpu = Gpu::open(0).map_err(failed)?;
        let bytes = describe::free_bytes(&gpu)?;
        let settings = settings(&shape, element, &model, tensor_parallel, bytes)?;
        let identity = describe::identity(&gpu, model, tensor_parallel, &settings)?;
        let weights = ModelWeights::Random { seed: 1 };
        let mut llama = Llama::open(&gpu, shape, settings, &Build::default(), weights).map_err(failed)?;
        llama.fill_kv(2).map_err(failed)?;
        Ok(LlamaGpu {
            slots: Slots { count: settings.adapter_slots, rank: settings.rank_max },
            loaded: vec![0; settings.adapter_slots as usize],
            gpu,
            identity,
            shape,
            llama,
            ways: None,
            pinned: None,
            bare: BTreeMap::new(),
            steps: BTreeMap::new(),
            began,
        })
    }

    /// The model, for whoever drives it step by step.
    pub fn into_llama(self) -> (Llama, Identity) {
        (self.llama, self.identity)
    }

    /// What runs each matrix product, for the log.
    pub fn gemm_plans(&self) -> Vec<String> {
        self.llama.gemm_plans()
    }

    fn answer(&mut self, question: &Question, repeats: u32) -> Result<Vec<f64>, MachineError> {
        self.cut(Slots::of(question, &self.identity.limits))?;
        let repeats = repeats.max(1) as usize;
        match question {
            Question::Operation { operation, shape } => {
                let drawn = Drawn::of(shape, &self.identity, false);
                let multiplies = match operation {
                    Part::PrefillAttention => true,
                    part => part.is_product() && shape.rows() > ROWS_AT_REST,
                };
                self.llama.set_rest(if multiplies { REST } else { 0.0 });
                self.llama.time_operation(operation_of(*operation), &drawn.sequences(), repeats).map_err(broken)
            }
            Question::Lora { kernel: LoraKernel::Segmented, shape } => {
                self.llama.set_rest(0.0);
                self.ours(shape, repeats)
            }
            Question::Lora { kernel, shape } => self.theirs(*kernel, shape, repeats),
            Question::Step { kernel, shape } => {
                Ok(self.steps_known(*kernel, shape, repeats)?.into_iter().map(|(device, _)| device).collect())
            }
            Question::Host { kernel, shape } => {
                Ok(self.steps_known(*kernel, shape, repeats)?.into_iter().map(|(_, host)| host).collect())
            }
            Question::Load { rank, pinned, beside } => self.load(*rank, *pinned, beside.as_ref(), repeats),
            Question::StepBesideLoad { shape } => {
                let alone: Vec<f64> = self.steps(LoraKernel::None, shape, repeats)?.iter().map(|step| step.0).collect();
                let beside = self.beside(16, shape, repeats.max(REPLAYS))?;
                // Replays have no metadata; how much longer one takes beside a copy is a ratio.
                let (step, replay) = (crate::measure::median(&alone), crate::measure::median(&beside.alone_us));
                Ok(beside.beside_us.iter().map(|us| us * step / replay).collect())
            }
            Question::Switch { rank } => {
                let (projections, layers) = (self.projections(), self.shape.layers);
                self.ways()?.time_switch(&projections, layers, *rank, repeats.min(7)).map_err(broken)
            }
            Question::Copy { bytes } => self.llama.time_copies(*bytes, repeats).map_err(broken),
        }
    }

    /// Cuts adapter memory as a question needs it; where it needs none, it stays as it is.
    fn cut(&mut self, slots: Slots) -> Result<(), MachineError> {
        if slots == Slots::OFF || slots == self.slots {
            return Ok(());
        }
        self.llama.cut_slots(slots.count, slots.rank).map_err(broken)?;
        self.slots = slots;
        self.loaded = vec![0; slots.count as usize];
        Ok(())
    }

    /// Puts adapters of the ranks that a step needs into the first slots. Gives whether it has any.
    fn prepare(&mut self, kernel: LoraKernel, shape: &StepShape) -> Result<bool, MachineError> {
        if !matches!(kernel, LoraKernel::None | LoraKernel::Segmented) {
            return Err(MachineError::Unsupported(format!("whole steps run with our kernels, not with {kernel}")));
        }
        if kernel == LoraKernel::None || shape.adapters.is_empty() {
            return Ok(false);
        }
        for (slot, adapter) in shape.adapters.iter().enumerate() {
            if self.loaded[slot] != adapter.rank {
                let weights = AdapterWeights::Random { seed: slot as u64 };
                self.llama.load_adapter(slot as u32, adapter.rank, 1.0, weights).map_err(broken)?;
                self.loaded[slot] = adapter.rank;
            }
        }
        Ok(true)
    }

    /// Our kernels over one layer: their launches, and what the operations that add their results take longer.
    fn ours(&mut self, shape: &StepShape, repeats: usize) -> Result<Vec<f64>, MachineError> {
        self.prepare(LoraKernel::Segmented, shape)?;
        let (with, without) = (Drawn::of(shape, &self.identity, true), Drawn::of(shape, &self.identity, false));
        let mut total = vec![0.0; repeats];
        let mut add = |samples: Vec<f64>, times: f64| {
            total.iter_mut().zip(samples).for_each(|(sum, us)| *sum += times * us);
        };
        for operation in [Operation::LoraQkv, Operation::LoraO, Operation::LoraGateUp, Operation::LoraDown] {
            add(self.llama.time_operation(operation, &with.sequences(), repeats).map_err(broken)?, 1.0);
        }
        for (operation, times) in
            [(Operation::RopeAndKvAppend, 1.0), (Operation::Norm, 2.0), (Operation::Activation, 1.0)]
        {
            add(self.llama.time_operation(operation, &with.sequences(), repeats).map_err(broken)?, times);
            let key = (operation, shape.rows(), shape.sequences());
            let bare = match self.bare.get(&key) {
                Some(us) => *us,
                None => {
                    let samples =
                        self.llama.time_operation(operation, &without.sequences(), repeats).map_err(broken)?;
                    // The median: what is taken away should not add its noise.
                    let us = crate::measure::median(&samples);
                    self.bare.insert(key, us);
                    us
                }
            };
            add(vec![bare; repeats], -times);
        }
        Ok(total.into_iter().map(|us| us.max(0.01)).collect())
    }

    /// Another system's kernels over one layer.
    fn theirs(&mut self, kernel: LoraKernel, shape: &StepShape, repeats: usize) -> Result<Vec<f64>, MachineError> {
        let way = match kernel {
            LoraKernel::Bgmv => Way::Bgmv,
            LoraKernel::Padded => Way::Padded,
            LoraKernel::GatherBmm => Way::Gathered,
            LoraKernel::Loop => Way::Looped,
            other => return Err(MachineError::Unsupported(format!("there are no kernels {other}"))),
        };
        let segments = shape.probe(true).segments;
        let adapters: Vec<(u32, u32)> = segments.iter().map(|s| (s.decode_rows + s.prefill_rows, s.rank)).collect();
        let projections = self.projections();
        let timed = self.ways()?.time_layer(way, &projections, &adapters, repeats);
        timed.map_err(|error| match error {
            // What is too large or too odd for a way is an answer about it.
            aril_kernels::Error::OutOfMemory { .. } | aril_kernels::Error::Shape { .. } => {
                MachineError::Unsupported(error.to_string())
            }
            other => broken(other),
        })
    }

    /// The same steps for both questions: what the GPU takes and what the host adds.
    fn steps_known(
        &mut self,
        kernel: LoraKernel,
        shape: &StepShape,
        repeats: usize,
    ) -> Result<Vec<(f64, f64)>, MachineError> {
        let key = Question::Step { kernel, shape: shape.clone() }.key();
        if let Some(samples) = self.steps.remove(&key) {
            return Ok(samples);
        }
        let samples = self.steps(kernel, shape, repeats)?;
        self.steps.insert(key, samples.clone());
        Ok(samples)
    }

    /// Whole steps as an engine runs them, one after the other: the GPU's part of each, from the first copy of metadata to the last
    /// sampled token, and what the host adds, from the call to its return less the GPU's part; microseconds.
    fn steps(
        &mut self,
        kernel: LoraKernel,
        shape: &StepShape,
        repeats: usize,
    ) -> Result<Vec<(f64, f64)>, MachineError> {
        let on = self.prepare(kernel, shape)?;
        let drawn = Drawn::of(shape, &self.identity, on);
        let mut samples = Vec::with_capacity(repeats);
        // Plans and graphs are made by the first; a second finds them warm where a step is short.
        let warm = if shape.prompt_rows() > 256 { 1 } else { 2 };
        for repeat in 0..repeats + warm {
            let sequences = drawn.sequences();
            let began = Instant::now();
            let result = self.llama.step(&sequences).map_err(broken)?;
            let us = began.elapsed().as_secs_f64() * 1e6;
            if repeat >= warm {
                samples.push((result.device_us, (us - result.device_us).max(0.0)));
            }
            if shape.rows() > ROWS_AT_REST {
                let rest = (result.device_us * 1e-6 * REST).min(REST_S_MAX);
                std::thread::sleep(Duration::from_secs_f64(rest));
            }
        }
        Ok(samples)
    }

    fn load(
        &mut self,
        rank: u32,
        pinned: bool,
        beside: Option<&StepShape>,
        repeats: usize,
    ) -> Result<Vec<f64>, MachineError> {
        if let Some(shape) = beside {
            let replays = repeats.max(REPLAYS);
            let copies_us = if pinned {
                self.beside(rank, shape, replays)?.copies_us
            } else {
                let drawn = Drawn::of(shape, &self.identity, false);
                self.loaded[0] = 0;
                self.llama.time_pageable_beside(&drawn.sequences(), 0, rank, replays).map_err(broken)?
            };
            if copies_us.is_empty() {
                return Err(MachineError::Unsupported("no copy was over before the steps were".to_owned()));
            }
            return Ok(copies_us);
        }
        self.loaded[0] = 0;
        let memory = if pinned { HostMemory::Pinned } else { HostMemory::Pageable };
        self.llama.time_loads(0, rank, memory, repeats).map_err(broken)
    }

    fn beside(&mut self, rank: u32, shape: &StepShape, replays: usize) -> Result<Beside, MachineError> {
        let adapter = match &self.pinned {
            Some((known, adapter)) if *known == rank => adapter.clone(),
            _ => {
                self.pinned = None;
                let weights = AdapterWeights::Random { seed: 1 };
                let adapter = self.llama.pin_adapter(rank, 1.0, weights).map_err(broken)?;
                self.pinned = Some((rank, adapter.clone()));
                adapter
            }
        };
        let drawn = Drawn::of(shape, &self.identity, false);
        self.loaded[0] = 0;
        self.llama.time_beside(&drawn.sequences(), 0, &adapter, replays).map_err(broken)
    }

    fn ways(&mut self) -> Result<&mut Ways, MachineError> {
        if self.ways.is_none() {
            self.ways = Some(Ways::open(&self.gpu, self.llama.settings().element).map_err(broken)?);
        }
        Ok(self.ways.as_mut().expect("they were just opened"))
    }

    fn projections(&self) -> Vec<ProjectionShape> {
        Projection::ALL.iter().map(|&projection| self.shape.projection(projection)).collect()
    }
}

impl Machine for LlamaGpu {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn measure(&mut self, question: &Question, repeats: u32) -> Result<Vec<f64>, MachineError> {
        let samples = self.answer(question, repeats)?;
        match samples.iter().all(|us| us.is_finite() && *us >= 0.0) && !samples.is_empty() {
            true => Ok(samples),
            false => Err(MachineError::Unsupported(format!("an impossible answer: {samples:?}"))),
        }
    }

    fn clocks(&mut self) -> Clocks {
        describe::clocks()
    }

    fn seconds(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }
}

/// The kernels' shape and number format of a model.
fn model_of(name: &str, tensor_parallel: u32) -> Result<(LlamaShape, Element, Model), CalibrateError> {
    let model = Model::named(name).ok_or_else(|| CalibrateError::Unknown {
        name: name.to_owned(),
        nearest: None,
        known: Model::names().map(str::to_owned).collect(),
    })?;
    let shape = match (name, tensor_parallel) {
        ("llama-2-7b", 1) => LlamaShape::llama_2_7b(),
        ("llama-2-13b", 1) => LlamaShape::llama_2_13b(),
        ("llama-3.1-8b", 1) => LlamaShape::llama_3_1_8b(),
        ("llama-3.1-70b", 8) => LlamaShape::llama_3_1_70b_shard_tp8(),
        _ => {
            let known =
                "llama-2-7b, llama-2-13b and llama-3.1-8b on one GPU, and the shard of llama-3.1-70b on one of 8";
            return Err(CalibrateError::Machine(format!(
                "there is no whole step of {name} on {tensor_parallel} GPU(s): there is one of {known}"
            )));
        }
    };
    let element = if model.weights == Precision::Bf16 { Element::Bf16 } else { Element::F16 };
    Ok((shape, element, model))
}

/// Adapter slots for every question and as many KV blocks as then fit.
fn settings(
    shape: &LlamaShape,
    element: Element,
    model: &Model,
    tensor_parallel: u32,
    free_bytes: u64,
) -> Result<LlamaSettings, CalibrateError> {
    let adapters = model.adapter_bytes_per_gpu(RANK_SUM, &aril_sim::model::lora::LoraTarget::LAYER, tensor_parallel);
    let rows = u64::from(ROWS)
        * 2
        * u64::from(4 * (shape.query_width() + 2 * shape.kv_width()) + 8 * shape.hidden + 5 * shape.intermediate);
    let logits = u64::from(SEQUENCES) * u64::from(shape.vocab) * 2;
    let taken = model.weight_bytes_per_gpu(tensor_parallel) + adapters + rows + logits + RESERVE_BYTES;
    let kv_token = model.kv_bytes_per_token_per_gpu(tensor_parallel);
    let tokens = free_bytes.saturating_sub(taken) / kv_token;
    if tokens < 4096 {
        return Err(CalibrateError::Machine(format!(
            "{} needs {:.1} GB beside its KV cache, and {:.1} GB are free: use a larger GPU",
            model.name,
            taken as f64 / 1e9,
            free_bytes as f64 / 1e9
        )));
    }
    let kv_tokens = tokens.min(u64::from(KV_TOKENS)) as u32;
    Ok(LlamaSettings {
        element,
        kv_blocks: kv_tokens / 16,
        block_tokens: 16,
        rows_max: ROWS,
        sequences_max: SEQUENCES,
        context_max: CONTEXT.min(kv_tokens),
        adapter_slots: RANK_SUM / 128,
        rank_max: 128,
        lora: LoraPath::Segmented(LoraOrder::default()),
        gemm: GemmPath::Own,
    })
}

/// The limits that settings give.
fn limits(settings: &LlamaSettings) -> Limits {
    Limits {
        rows: settings.rows_max,
        sequences: settings.sequences_max,
        context: settings.context_max,
        kv_tokens: settings.kv_blocks * settings.block_tokens,
        rank_sum: RANK_SUM,
        rank: 128,
        adapters: 256,
    }
}

fn operation_of(part: Part) -> Operation {
    match part {
        Part::Embedding => Operation::Embedding,
        Part::Norm => Operation::Norm,
        Part::Qkv => Operation::Qkv,
        Part::RopeAndKvAppend => Operation::RopeAndKvAppend,
        Part::DecodeAttention => Operation::DecodeAttention,
        Part::PrefillAttention => Operation::PrefillAttention,
        Part::O => Operation::O,
        Part::GateUp => Operation::GateUp,
        Part::Activation => Operation::Activation,
        Part::Down => Operation::Down,
        Part::LmHead => Operation::LmHead,
        Part::Sampling => Operation::Sampling,
    }
}

fn failed(error: aril_kernels::Error) -> CalibrateError {
    CalibrateError::Machine(error.to_string())
}

fn broken(error: aril_kernels::Error) -> MachineError {
    match error {
        aril_kernels::Error::Shape { .. } => MachineError::Unsupported(error.to_string()),
        other => MachineError::Failed(other.to_string()),
    }
}
