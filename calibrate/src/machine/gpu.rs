//! A real GPU: every question is answered by the kernels and the whole step of `aril-kernels`.
//!
//! `operations` times operations alone, `steps` whole steps and copies.

mod describe;
mod operations;
mod sequences;
mod settings;
mod steps;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use aril_kernels::baseline::layer::Ways;
use aril_kernels::gpu::Gpu;
use aril_kernels::llama::{AdapterWeights, Build, HostAdapter, Llama, LlamaShape, ModelWeights, bucket};
use aril_sim::profile::lora::LoraKernel;

use super::{Answer, Clocks, Identity, Machine, MachineError, Question, StepShape};
use crate::error::CalibrateError;
use crate::plan::Slots;
use sequences::Drawn;
use settings::{model_of, settings};

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
    /// What operations take longer in a layer that read adapters' results, by padded rows; microseconds.
    readings: BTreeMap<u32, f64>,
    /// Steps that were computed for one of two questions about them.
    steps: BTreeMap<String, Vec<(f64, f64)>>,
    /// Rows and sequences, as they are padded, whose products were chosen.
    ready: BTreeSet<(u32, u32)>,
    began: Instant,
}

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
            readings: BTreeMap::new(),
            steps: BTreeMap::new(),
            ready: BTreeSet::new(),
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

    fn answer(&mut self, question: &Question, repeats: u32) -> Result<Answer, MachineError> {
        if !self.slots.serve(question) {
            self.cut(Slots::of(question, &self.identity.limits))?;
        }
        let repeats = repeats.max(1) as usize;
        let us = match question {
            Question::Operation { operation, shape } => self.operation(*operation, shape, repeats),
            Question::Lora { kernel: LoraKernel::Segmented, shape } => return self.ours(shape, repeats),
            Question::Lora { kernel, shape } => self.theirs(*kernel, shape, repeats),
            Question::Step { kernel, shape } => {
                Ok(self.steps_known(*kernel, shape, repeats)?.into_iter().map(|(device, _)| device).collect())
            }
            Question::Host { kernel, shape } => {
                Ok(self.steps_known(*kernel, shape, repeats)?.into_iter().map(|(_, host)| host).collect())
            }
            Question::Added { shape } => return self.added(shape, repeats),
            Question::Behind { prompts, times, shape } => return self.behind(prompts, *times, shape, repeats),
            Question::Served { shapes, steps, pauses } => return self.served(shapes, *steps, *pauses),
            Question::Load { rank, pinned, beside } => self.load(*rank, *pinned, beside.as_ref(), repeats),
            Question::StepBesideLoad { shape } => self.step_beside_load(shape, repeats),
            Question::Switch { rank } => {
                let (projections, layers) = (self.projections(), self.shape.layers);
                self.ways()?.time_switch(&projections, layers, *rank, repeats.min(7)).map_err(broken)
            }
            Question::Copy { bytes } => self.llama.time_copies(*bytes, repeats).map_err(broken),
        };
        us.map(Answer::from)
    }

    /// Cuts adapter memory anew: seconds, for all of it is freed and allocated.
    fn cut(&mut self, slots: Slots) -> Result<(), MachineError> {
        // Where memory runs out there are none.
        (self.slots, self.loaded) = (Slots::OFF, Vec::new());
        self.llama.cut_slots(slots.count, slots.rank).map_err(broken)?;
        (self.slots, self.loaded) = (slots, vec![0; slots.count as usize]);
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
}

impl Machine for LlamaGpu {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn measure(&mut self, question: &Question, repeats: u32) -> Result<Answer, MachineError> {
        let answer = self.answer(question, repeats)?;
        match answer.us.iter().all(|us| us.is_finite() && *us >= 0.0) && !answer.us.is_empty() {
            true => Ok(answer),
            false => Err(MachineError::Unsupported(format!("an impossible answer: {:?}", answer.us))),
        }
    }

    fn make_ready(&mut self, question: &Question) -> Result<bool, MachineError> {
        let mut chosen = false;
        for shape in question.shapes() {
            if !self.ready.insert((bucket(shape.rows()), bucket(shape.sequences()))) {
                continue;
            }
            let drawn = Drawn::of(shape, &self.identity, false);
            chosen |= self.llama.choose_products(&drawn.sequences()).map_err(broken)?;
        }
        Ok(chosen)
    }

    fn clocks(&mut self) -> Clocks {
        describe::clocks()
    }

    fn seconds(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
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
