//! Operations alone: the backbone's, and what adapters add to a layer.

use aril_kernels::baseline::layer::{Way, Ways};
use aril_kernels::llama::{LoraOrder, Operation, Projection, bucket};
use aril_kernels::lora::layout::ProjectionShape;
use aril_sim::profile::lora::LoraKernel;

use super::sequences::Drawn;
use super::{LlamaGpu, broken};
use crate::machine::{Answer, MachineError, Part, REST, ROWS_AT_REST, StepShape};

/// What reads the results of adapters that run along their product, and how often a layer has it.
const READERS: [(Operation, f64); 3] =
    [(Operation::RopeAndKvAppend, 1.0), (Operation::Norm, 2.0), (Operation::Activation, 1.0)];
/// Repetitions of what is asked once for each number of rows.
const REPEATS_OF_READERS: usize = 9;
/// Rows times layers, and a thousand pairs of query and key times layers, after which more layers say nothing new.
const ROWS_TIMED: u32 = 16_384;
const KILOPAIRS_TIMED: u64 = 65_536;
/// Layers that are timed at least.
const LAYERS_LEAST: u32 = 4;

impl LlamaGpu {
    /// One operation of the backbone.
    pub(super) fn operation(
        &mut self,
        part: Part,
        shape: &StepShape,
        repeats: usize,
    ) -> Result<Vec<f64>, MachineError> {
        let drawn = Drawn::of(shape, &self.identity, false);
        let multiplies = match part {
            Part::PrefillAttention => true,
            part => part.is_product() && shape.rows() > ROWS_AT_REST,
        };
        self.llama.set_rest(if multiplies { REST } else { 0.0 });
        // What is bound by arithmetic is as well known from a few layers, and heats the card less.
        self.llama.set_timed_layers(if multiplies { layers_to_time(part, shape) } else { u32::MAX });
        let timed = self.llama.time_operation(operation_of(part), &drawn.sequences(), repeats);
        self.llama.set_timed_layers(u32::MAX);
        timed.map_err(broken)
    }

    /// Our kernels over one layer: their launches, and what the operations that add their results take longer.
    pub(super) fn ours(&mut self, shape: &StepShape, repeats: usize) -> Result<Answer, MachineError> {
        self.prepare(LoraKernel::Segmented, shape)?;
        self.llama.set_rest(0.0);
        let drawn = Drawn::of(shape, &self.identity, true);
        let mut parts = Vec::with_capacity(5);
        for operation in [Operation::LoraQkv, Operation::LoraO, Operation::LoraGateUp, Operation::LoraDown] {
            parts.push(self.llama.time_operation(operation, &drawn.sequences(), repeats).map_err(broken)?);
        }
        parts.push(vec![self.reading(shape)?; repeats]);
        let us = (0..repeats).map(|repeat| parts.iter().map(|part| part[repeat]).sum::<f64>().max(0.01)).collect();
        Ok(Answer { us, parts })
    }

    /// What operations take longer in each layer for reading what adapters wrote beside a product: by rows alone. Behind a product adapters add
    /// to its result, and nobody reads anything more.
    fn reading(&mut self, shape: &StepShape) -> Result<f64, MachineError> {
        let rows = bucket(shape.rows());
        if self.llama.order_of(rows) == Some(LoraOrder::After) {
            return Ok(0.0);
        }
        if let Some(&known) = self.readings.get(&rows) {
            return Ok(known);
        }
        let (with, without) = (Drawn::of(shape, &self.identity, true), Drawn::of(shape, &self.identity, false));
        let mut sum = 0.0;
        for (operation, times) in READERS {
            let mut us = |drawn: &Drawn| -> Result<f64, MachineError> {
                let timed = self.llama.time_operation(operation, &drawn.sequences(), REPEATS_OF_READERS);
                Ok(crate::measure::median(&timed.map_err(broken)?))
            };
            sum += times * (us(&with)? - us(&without)?);
        }
        self.readings.insert(rows, sum.max(0.0));
        Ok(sum.max(0.0))
    }

    /// Another system's kernels over one layer.
    pub(super) fn theirs(
        &mut self,
        kernel: LoraKernel,
        shape: &StepShape,
        repeats: usize,
    ) -> Result<Vec<f64>, MachineError> {
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

    pub(super) fn ways(&mut self) -> Result<&mut Ways, MachineError> {
        if self.ways.is_none() {
            self.ways = Some(Ways::open(&self.gpu, self.llama.settings().element).map_err(broken)?);
        }
        Ok(self.ways.as_mut().expect("they were just opened"))
    }

    pub(super) fn projections(&self) -> Vec<ProjectionShape> {
        Projection::ALL.iter().map(|&projection| self.shape.projection(projection)).collect()
    }
}

/// So many layers that the operation heats nothing and is known.
fn layers_to_time(part: Part, shape: &StepShape) -> u32 {
    let layers = if part == Part::PrefillAttention {
        let pairs = |prompt: &crate::machine::Prompt| {
            let (chunk, prefix) = (u64::from(prompt.chunk), u64::from(prompt.prefix));
            chunk * (prefix + chunk / 2)
        };
        let pairs: u64 = shape.prompts.iter().map(pairs).sum();
        (KILOPAIRS_TIMED / (pairs / 1000).max(1)).min(u64::from(u32::MAX)) as u32
    } else {
        ROWS_TIMED / shape.rows().max(1)
    };
    layers.max(LAYERS_LEAST)
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
