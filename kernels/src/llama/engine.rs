//! The model on one GPU: opening, loading adapters, one step.

use std::sync::Arc;
use std::time::Instant;

use cudarc::driver::{CudaEvent, CudaStream, sys};

use super::batch::{Batch, bucket};
use super::forward::{Forward, Gemms, LoraSites, Metrics};
use super::graphs::Graphs;
use super::kernels::StepKernels;
use super::metadata::Metadata;
use super::memory::{Activations, Buffer, KvCache, Slot, Weights, adapter_layout};
use super::{AdapterWeights, Half, LlamaSettings, LlamaShape, LoraPath, ModelWeights, Projection, Sequence, StepResult};
use crate::gpu::Gpu;
use crate::lora::launch::LoraKernels;
use crate::lora::layout::{self, AdapterLayout};
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
    pub(super) slots: Vec<Slot>,
    pub(super) layout: AdapterLayout,
    pub(super) metadata: Metadata,
    pub(super) graphs: Graphs,
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
        settings: LlamaSettings,
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
        let adapter_slots = if settings.lora == LoraPath::Off { 0 } else { settings.adapter_slots };
        let mut slots = Vec::new();
        for _ in 0..adapter_slots {
            let memory = Buffer::new(gpu, &stream, layout.elements(settings.rank_max), "an adapter slot")?;
            slots.push(Slot { memory, adapter: None });
        }
        let llama = Llama {
            kernels: StepKernels::new(&compiler, shape, settings.element)?,
            gemms: Gemms::new(&compiler, &stream, &settings)?,
            lora: LoraSites::new(lora_kernels, &stream, &shape, &settings, &layout, gpu, overlaps)?,
            weights: Weights::load(gpu, &stream, &shape, settings.element, &stopwatch, weights)?,
            activations: Activations::new(gpu, &stream, &shape, &settings)?,
            kv: KvCache::new(gpu, &stream, &shape, &settings)?,
            metadata: Metadata::new(gpu, &stream, &shape, &settings, &compiler)?,
            graphs: Graphs::default(),
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

    /// The GPU that it is on.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Bytes of an adapter of this rank on the GPU, which is what a load copies.
    pub fn adapter_bytes(&self, rank: u32) -> usize {
        self.layout.elements(rank) * 2
    }

    /// Fills the KV cache with random values, as if sequences were there: for measuring.
    ///
    /// # Errors
    /// [`Error::Driver`].
    pub fn fill_kv(&mut self, seed: u64) -> Result<(), Error> {
        self.stopwatch.fill(self.kv.memory_mut(), self.settings.element, seed, 1.0)
    }

    /// Loads an adapter into a slot and waits until it is there.
    ///
    /// # Errors
    /// [`Error::Shape`] for a slot or rank that does not exist, or weights of another length; [`Error::Driver`].
    pub fn load_adapter(
        &mut self,
        slot: u32,
        rank: u32,
        scale: f32,
        weights: AdapterWeights<'_>,
    ) -> Result<(), Error> {
        self.check_slot(slot, rank)?;
        let (element, layers) = (self.settings.element, self.shape.layers);
        let layout = &self.layout;
        let place = &mut self.slots[slot as usize];
        place.adapter = None;
        match weights {
            AdapterWeights::Random { seed } => {
                // Drawn for x and v of about one: y changes by a few percent of its size.
                let scale = 0.3 * (3.0 / self.shape.hidden as f32).sqrt();
                self.stopwatch.fill(&mut place.memory.slice, element, seed, scale)?;
            }
            AdapterWeights::Given(give) => {
                let mut packed = vec![0; layout.elements(rank)];
                for layer in 0..layers {
                    for (index, projection) in Projection::ALL.into_iter().enumerate() {
                        let a = give(layer, projection, Half::A)?;
                        let b = give(layer, projection, Half::B)?;
                        layout.pack(layer as usize * Projection::ALL.len() + index, rank, &a, &b, &mut packed)?;
                    }
                }
                let mut into = place.memory.slice.slice_mut(..packed.len());
                self.stream.memcpy_htod(&packed, &mut into).map_err(Error::driver("copying an adapter"))?;
            }
        }
        self.stream.synchronize().map_err(Error::driver("loading an adapter"))?;
        self.slots[slot as usize].adapter = Some((rank, scale));
        Ok(())
    }

    pub(super) fn check_slot(&self, slot: u32, rank: u32) -> Result<(), Error> {
        layout::check_rank(rank)?;
        let why = if slot as usize >= self.slots.len() {
            format!("there are {}", self.slots.len())
        } else if rank > self.settings.rank_max {
            format!("holds ranks up to {}, not {rank}", self.settings.rank_max)
        } else {
            return Ok(());
        };
        Err(Error::shape(format!("adapter slot {slot}"), why))
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
        self.prepare(&metrics)?;
        let mut set = self.plan_adapters(&batch)?;
        self.events[0].record(&self.stream).map_err(timed())?;
        self.metadata.upload(&self.stream, &batch, sequences, &metrics)?;
        if batch.is_decode() {
            self.launch_graph(&metrics, &mut set)?;
        } else {
            Forward::new(self, &metrics, &set.plans).step()?;
        }
        self.keep(set);
        self.events[1].record(&self.stream).map_err(timed())?;
        let host_us = began.elapsed().as_secs_f64() * 1e6;
        let tokens = self.metadata.sampled(&self.stream, &self.activations.tokens, batch.samples)?;
        let device_us = f64::from(self.events[0].elapsed_ms(&self.events[1]).map_err(timed())?) * 1e3;
        Ok(StepResult { tokens, device_us, host_us })
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
