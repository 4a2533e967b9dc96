//! The model on one GPU: opening, loading adapters, one step.

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cudarc::driver::{CudaEvent, CudaStream, sys};

use super::attend::Attention;
use super::batch::{Batch, bucket};
use super::forward::{Forward, Metrics};
use super::graphs::Graphs;
use super::groups::Gemms;
use super::kernels::StepKernels;
use super::memory::{Activations, Buffer, KvCache, Weights, adapter_layout};
use super::metadata::Metadata;
use super::sites::LoraSites;
use super::slots::Slots;
use super::{LlamaSettings, LlamaShape, LoraPath, ModelWeights, Sequence, StepResult};
use crate::gpu::Gpu;
use crate::lora::launch::LoraKernels;
use crate::lora::layout::AdapterLayout;
use crate::program::Compiler;
use crate::timing::Stopwatch;
use crate::{Error, cache, source};

/// A Llama model on one GPU, driven step by step.
#[derive(Debug)]
pub struct Llama {
    pub(super) gpu: Gpu,
    pub(super) shape: LlamaShape,
    pub(super) settings: LlamaSettings,
    pub(super) stream: Arc<CudaStream>,
    /// Adapters' launches beside the backbone.
    pub(super) side: Arc<CudaStream>,
    /// Copies of adapters beside a step.
    pub(super) copies: Arc<CudaStream>,
    pub(super) stopwatch: Stopwatch,
    pub(super) kernels: StepKernels,
    pub(super) gemms: Gemms,
    pub(super) lora: LoraSites,
    pub(super) weights: Weights,
    pub(super) activations: Activations,
    pub(super) kv: KvCache,
    pub(super) slots: Slots<Buffer<u16>>,
    pub(super) layout: AdapterLayout,
    pub(super) metadata: Metadata,
    pub(super) attention: Attention,
    pub(super) graphs: Graphs,
    captures: bool,
    /// Layers on which an operation alone is timed.
    pub(super) timed_layers: u32,
    /// What this step has spent so far on things that are kept.
    pub(super) made: Cell<Duration>,
    events: [CudaEvent; 2],
}

/// How kernels are compiled.
#[derive(Debug, Clone, Default)]
pub struct Build {
    /// Kernel sources in a folder; `None`: those built in.
    pub sources: Option<std::path::PathBuf>,
    /// Another architecture than the GPU's own, as `compute_80`.
    pub architecture: Option<String>,
}

impl Llama {
    /// Opens a model: compiles its kernels, allocates everything it will need, draws or uploads the weights.
    ///
    /// # Errors
    /// [`Error::Shape`] for a shape or settings that the kernels do not serve, [`Error::OutOfMemory`], a missing
    /// library, compiler and driver errors.
    pub fn open(
        gpu: &Gpu,
        shape: LlamaShape,
        mut settings: LlamaSettings,
        build: &Build,
        weights: ModelWeights<'_>,
    ) -> Result<Self, Error> {
        settings.check(&shape)?;
        let sources = build.sources.as_deref().map_or_else(source::Sources::built_in, source::Sources::in_folder);
        let cache = cache::Cache::of_user();
        let mut compiler = Compiler::new(gpu, sources.clone(), cache.clone());
        let mut lora_kernels = LoraKernels::new(gpu, sources.clone(), cache.clone());
        if let Some(architecture) = &build.architecture {
            compiler = compiler.with_architecture(architecture);
            lora_kernels = lora_kernels.with_architecture(architecture);
        }
        let overlaps = !compiler.architecture().contains("_8");
        let stream = gpu.stream()?;
        let stopwatch = Stopwatch::new(gpu, &stream, &sources, cache.as_ref())?;
        let layout = adapter_layout(&shape)?;
        let event = || {
            gpu.context()
                .new_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT))
                .map_err(Error::driver("making an event"))
        };
        let mut slots = Slots::none();
        if settings.lora != LoraPath::Off {
            let LlamaSettings { adapter_slots, rank_max, .. } = settings;
            let allocate = || Buffer::new(gpu, &stream, layout.elements(rank_max), "an adapter slot");
            slots.cut(&mut settings, adapter_slots, rank_max, allocate)?;
        }
        let llama = Llama {
            kernels: StepKernels::new(&compiler, shape, settings.element)?,
            gemms: Gemms::new(&compiler, &stream, &settings)?,
            lora: LoraSites::new(lora_kernels, &stream, &shape, &settings, &layout, gpu, overlaps)?,
            weights: Weights::load(gpu, &stream, &shape, settings.element, &stopwatch, weights)?,
            activations: Activations::new(gpu, &stream, &shape, &settings)?,
            kv: KvCache::new(gpu, &stream, &shape, &settings)?,
            metadata: Metadata::new(gpu, &stream, &settings)?,
            attention: Attention::new(&compiler, &stream, &shape, &settings, gpu.chip())?,
            graphs: Graphs::default(),
            captures: true,
            timed_layers: u32::MAX,
            made: Cell::default(),
            events: [event()?, event()?],
            side: gpu.stream()?,
            copies: gpu.stream()?,
            gpu: gpu.clone(),
            shape,
            settings,
            slots,
            layout,
            stopwatch,
            stream,
        };
        llama.stream.synchronize().map_err(Error::driver("opening a model"))?;
        Ok(llama)
    }

    /// The model's shape.
    pub fn shape(&self) -> &LlamaShape {
        &self.shape
    }

    /// Its settings.
    pub fn settings(&self) -> &LlamaSettings {
        &self.settings
    }

    /// What runs each GEMM planned so far, for the record of a measurement.
    pub fn gemm_plans(&self) -> Vec<String> {
        self.gemms.describe()
    }

    /// Whether steps of one-token sequences run as CUDA graphs, as they do unless told otherwise, or launch by launch.
    pub fn set_graphs(&mut self, captures: bool) {
        self.captures = captures;
    }

    /// The GPU that it is on.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Fills the KV cache with random values, as if sequences were there: for measuring.
    ///
    /// # Errors
    /// [`Error::Driver`].
    pub fn fill_kv(&mut self, seed: u64) -> Result<(), Error> {
        self.stopwatch.fill(self.kv.memory_mut(), self.settings.element, seed, 1.0)
    }

    /// Computes one step: new tokens of all sequences through all layers, their K and V into the cache, a token for each
    /// sequence that asks. A step of one-token sequences runs as a CUDA graph, kept for its bucket of rows.
    ///
    /// # Errors
    /// [`Error::Shape`] for a step that cannot be computed; driver errors.
    pub fn step(&mut self, sequences: &[Sequence<'_>]) -> Result<StepResult, Error> {
        let began = Instant::now();
        let timed = || Error::driver("running a step");
        let batch = Batch::new(sequences, &self.shape, &self.settings)?;
        let metrics = Metrics::of(&batch);
        self.made.set(Duration::ZERO);
        self.prepare(&metrics)?;
        let mut set = self.plan_adapters(&batch)?;
        self.events[0].record(&self.stream).map_err(timed())?;
        let table = self.attention.plan(&self.stream, &batch, sequences)?;
        self.metadata.upload(&self.stream, &batch, sequences, &table, &metrics)?;
        if batch.is_decode() && self.captures {
            self.launch_graph(&metrics, &mut set)?;
        } else {
            Forward::new(self, &metrics, &set.plans).step()?;
        }
        self.keep(set);
        self.events[1].record(&self.stream).map_err(timed())?;
        let host_us = began.elapsed().as_secs_f64() * 1e6;
        let tokens = self.metadata.sampled(&self.stream, &self.activations.tokens, batch.samples)?;
        let device_us = f64::from(self.events[0].elapsed_ms(&self.events[1]).map_err(timed())?) * 1e3;
        let made = self.made.get() + self.attention.take_made();
        Ok(StepResult { tokens, device_us, host_us, made_us: made.as_secs_f64() * 1e6 })
    }

    /// Does something whose result is kept, and counts its time as that.
    pub(super) fn making<T>(&self, make: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
        let began = Instant::now();
        let made = make();
        self.made.set(self.made.get() + began.elapsed());
        made
    }

    /// The logits of the last step, a row for each sequence that asked for a token, in the order of the sequences.
    ///
    /// # Errors
    /// [`Error::Driver`].
    pub fn logits(&self, rows: u32) -> Result<Vec<f32>, Error> {
        let length = (rows.min(bucket(self.settings.sequences_max)) * self.shape.vocab) as usize;
        let bits = self
            .stream
            .clone_dtoh(&self.activations.logits.slice.slice(..length))
            .map_err(Error::driver("copying logits"))?;
        self.stream.synchronize().map_err(Error::driver("copying logits"))?;
        Ok(bits.into_iter().map(|bits| self.settings.element.decode(bits)).collect())
    }
}

impl Drop for Llama {
    fn drop(&mut self) {
        // Copies into slots, whose memory goes now, may be on their way. An error was reported where it arose.
        let _ = self.copies.synchronize();
    }
}
