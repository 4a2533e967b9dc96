//! One pass through the layers: which kernel follows which, on which buffers.

use std::sync::{Arc, PoisonError};

use cudarc::driver::CudaStream;

use super::batch::{Batch, bucket};
use super::engine::Llama;
use super::groups::Group;
use super::kernels::{NormArguments, RopeArguments};
use super::{LoraOrder, Operation, Projection};
use crate::Error;
use crate::attention::operands::KvCache;
use crate::gpu::{Overlap, Ready};
use crate::lora::launch::{LoadedPlan, Matrix};

/// How many rows of each kind a step has, and the sizes that its launches are made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Metrics {
    pub(crate) rows: u32,
    pub(crate) padded: u32,
    pub(crate) decode_rows: u32,
    pub(crate) samples: u32,
    pub(crate) samples_padded: u32,
}

impl Metrics {
    pub(crate) fn of(batch: &Batch) -> Self {
        let samples_padded = if batch.samples == 0 { 0 } else { bucket(batch.samples) };
        Metrics {
            rows: batch.rows,
            padded: bucket(batch.rows),
            decode_rows: batch.decode_rows,
            samples: batch.samples,
            samples_padded,
        }
    }
}

/// A step's launches on prepared plans.
pub(crate) struct Forward<'a> {
    llama: &'a Llama,
    metrics: Metrics,
    plans: &'a [LoadedPlan],
}

const PROGRAMMATIC: Overlap = Overlap::Programmatic;

impl<'a> Forward<'a> {
    pub(crate) fn new(llama: &'a Llama, metrics: &Metrics, plans: &'a [LoadedPlan]) -> Self {
        Forward { llama, metrics: *metrics, plans }
    }

    /// Every launch of a step, in order. The first one does not overlap with what precedes it: metadata are copied before it.
    pub(crate) fn step(&self) -> Result<(), Error> {
        self.run(Operation::Embedding, 0, Overlap::None)?;
        for layer in 0..self.llama.shape.layers {
            self.norm(layer, false, PROGRAMMATIC)?;
            let next = self.projections(Group::Qkv, layer)?;
            self.run(Operation::RopeAndKvAppend, layer, next)?;
            self.run(Operation::DecodeAttention, layer, PROGRAMMATIC)?;
            self.run(Operation::PrefillAttention, layer, PROGRAMMATIC)?;
            let next = self.projections(Group::O, layer)?;
            self.norm(layer, true, next)?;
            let next = self.projections(Group::GateUp, layer)?;
            self.activation(next)?;
            self.projections(Group::Down, layer)?;
        }
        if self.metrics.samples > 0 {
            self.run(Operation::LmHead, 0, PROGRAMMATIC)?;
            self.run(Operation::Sampling, 0, PROGRAMMATIC)?;
        } else if self.order().is_some_and(|order| order != LoraOrder::After) {
            // The last layer's delta goes back to zero with the norm that no row needs.
            self.final_norm(Overlap::None)?;
        }
        Ok(())
    }

    /// One operation alone.
    pub(crate) fn run(&self, operation: Operation, layer: u32, overlap: Overlap) -> Result<(), Error> {
        let Llama { stream, kernels, activations: a, weights, metadata, .. } = self.llama;
        let rows = self.metrics.padded;
        match operation {
            // SAFETY: all buffers are the model's own, made for its shape and at least the bucket of rows_max rows; a batch
            // was checked against vocabulary, blocks and context before its metadata were copied; one stream.
            Operation::Embedding => unsafe {
                let table = weights.embedding.address;
                kernels.embed(stream, rows, table, metadata.tokens(&self.metrics), a.h.address, overlap)
            },
            Operation::Norm => self.norm(layer, true, overlap),
            Operation::Qkv => self.gemm(Group::Qkv, layer, None, overlap),
            Operation::O => self.gemm(Group::O, layer, None, overlap),
            Operation::GateUp => self.gemm(Group::GateUp, layer, None, overlap),
            Operation::Down => self.gemm(Group::Down, layer, None, overlap),
            Operation::LoraQkv => self.adapters_alone(Group::Qkv, layer, overlap),
            Operation::LoraO => self.adapters_alone(Group::O, layer, overlap),
            Operation::LoraGateUp => self.adapters_alone(Group::GateUp, layer, overlap),
            Operation::LoraDown => self.adapters_alone(Group::Down, layer, overlap),
            Operation::RopeAndKvAppend => {
                let arguments = RopeArguments {
                    y: a.qkv.address,
                    delta: self.delta(a.delta_qkv.address),
                    q: a.q.address,
                    cache: self.llama.kv.layer(layer),
                    table: a.rope.address,
                    positions: metadata.positions(&self.metrics),
                    slots: metadata.slots(&self.metrics),
                    heads: 0,
                    kv_heads: 0,
                    blocks_row: 0,
                    reserved: 0,
                };
                // SAFETY: as above.
                unsafe { kernels.rope(stream, rows, arguments, overlap) }
            }
            Operation::DecodeAttention => self.attention(layer, false, overlap),
            Operation::PrefillAttention => self.attention(layer, true, overlap),
            Operation::Activation => self.activation(overlap),
            Operation::LmHead => {
                self.final_norm(overlap)?;
                self.gemm(Group::LmHead, 0, None, PROGRAMMATIC)
            }
            // SAFETY: as above.
            Operation::Sampling => unsafe {
                let (logits, partial, tokens) = (a.logits.address, a.partial.address, a.tokens.address);
                kernels.sample(stream, self.metrics.samples_padded, logits, partial, tokens, overlap)
            },
        }
    }

    /// SiLU(gate)·up.
    fn activation(&self, overlap: Overlap) -> Result<(), Error> {
        let Llama { stream, kernels, activations: a, .. } = self.llama;
        let (delta, rows) = (self.delta(a.delta_gate_up.address), self.metrics.padded);
        // SAFETY: as in `run`.
        unsafe { kernels.activation(stream, rows, a.gate_up.address, delta, a.activated.address, overlap) }
    }

    fn attention(&self, layer: u32, prefill: bool, overlap: Overlap) -> Result<(), Error> {
        let Llama { stream, activations: a, metadata, kv, attention, shape, settings, .. } = self.llama;
        let columns = shape.query_width();
        let matrix = |address| Matrix { address, rows: bucket(settings.rows_max), columns, stride: columns };
        let (q, out) = (matrix(a.q.address), matrix(a.attended.address));
        let cache = KvCache { address: kv.layer(layer), blocks: settings.kv_blocks };
        // SAFETY: as in `run`; the block table was copied before the step's first launch, which does not overlap.
        unsafe {
            if prefill {
                attention.prefill(stream, q, cache, metadata.table(), out, overlap)
            } else {
                attention.decode(stream, q, cache, metadata.table(), out, overlap)
            }
        }
    }

    /// Where adapters' launches stand in this step; `None` if it has none.
    fn order(&self) -> Option<LoraOrder> {
        if self.plans.is_empty() { None } else { self.llama.order_of(self.metrics.padded) }
    }

    /// A buffer of deltas, where adapters write to one: behind the GEMM they add to its result.
    fn delta(&self, address: u64) -> u64 {
        match self.order() {
            None | Some(LoraOrder::After) => 0,
            Some(_) => address,
        }
    }

    /// The norm before attention, or before the MLP, with the sum of what the half before it gave.
    fn norm(&self, layer: u32, mlp: bool, overlap: Overlap) -> Result<(), Error> {
        let Llama { stream, kernels, activations: a, weights, .. } = self.llama;
        let first = layer == 0 && !mlp;
        let layer = &weights.layers[layer as usize];
        let arguments = NormArguments {
            h: a.h.address,
            y: if first { 0 } else { a.y.address },
            delta: if first { 0 } else { self.delta(a.delta_y.address) },
            weight: if mlp { layer.mlp_norm.address } else { layer.attention_norm.address },
            out: a.x.address,
            slots: 0,
            vectors: 0,
            epsilon: 0.0,
        };
        // SAFETY: as in `run`.
        unsafe { kernels.norm(stream, self.metrics.padded, arguments, overlap) }
    }

    fn final_norm(&self, overlap: Overlap) -> Result<(), Error> {
        let Llama { stream, kernels, activations: a, weights, metadata, .. } = self.llama;
        let arguments = NormArguments {
            h: a.h.address,
            y: a.y.address,
            delta: self.delta(a.delta_y.address),
            weight: weights.final_norm.address,
            out: a.sampled.address,
            slots: metadata.samples(&self.metrics),
            vectors: 0,
            epsilon: 0.0,
        };
        // SAFETY: as in `run`.
        unsafe { kernels.norm(stream, self.metrics.padded, arguments, overlap) }
    }

    /// A group's GEMM and its adapters; returns how the operation that reads both may begin.
    fn projections(&self, group: Group, layer: u32) -> Result<Overlap, Error> {
        let Llama { stream, side, lora, .. } = self.llama;
        let Some(order) = self.order() else {
            self.gemm(group, layer, None, PROGRAMMATIC)?;
            return Ok(PROGRAMMATIC);
        };
        match order {
            LoraOrder::After => {
                self.gemm(group, layer, None, PROGRAMMATIC)?;
                self.lora(group, layer, stream, None, PROGRAMMATIC)?;
            }
            LoraOrder::Along => self.along(group, layer, PROGRAMMATIC)?,
            LoraOrder::Before => {
                self.lora(group, layer, stream, None, PROGRAMMATIC)?;
                self.gemm(group, layer, None, PROGRAMMATIC)?;
            }
            LoraOrder::Beside => {
                let ordered = || Error::driver("ordering two streams");
                lora.events[0].record(stream).map_err(ordered())?;
                side.wait(&lora.events[0]).map_err(ordered())?;
                self.lora(group, layer, side, None, Overlap::None)?;
                lora.events[1].record(side).map_err(ordered())?;
                self.gemm(group, layer, None, PROGRAMMATIC)?;
                stream.wait(&lora.events[1]).map_err(ordered())?;
                return Ok(Overlap::None);
            }
        }
        Ok(PROGRAMMATIC)
    }

    /// Weights, x and y of a group's GEMM.
    pub(crate) fn buffers(&self, group: Group, layer: u32) -> [u64; 3] {
        let Llama { activations: a, weights, .. } = self.llama;
        if group == Group::LmHead {
            return [weights.lm_head.address, a.sampled.address, a.logits.address];
        }
        let layer = &weights.layers[layer as usize];
        match group {
            Group::Qkv => [layer.qkv.address, a.x.address, a.qkv.address],
            Group::O => [layer.o.address, a.attended.address, a.y.address],
            Group::GateUp => [layer.gate_up.address, a.x.address, a.gate_up.address],
            _ => [layer.down.address, a.activated.address, a.y.address],
        }
    }

    fn gemm(&self, group: Group, layer: u32, ready: Option<Ready>, overlap: Overlap) -> Result<(), Error> {
        let Llama { stream, gemms, .. } = self.llama;
        let rows = if group == Group::LmHead { self.metrics.samples_padded } else { self.metrics.padded };
        // SAFETY: as in `run`.
        unsafe { gemms.launch(stream, group, rows, self.buffers(group, layer), ready, overlap) }
    }

    /// A group's adapters, with its GEMM where they run beside it.
    fn adapters_alone(&self, group: Group, layer: u32, overlap: Overlap) -> Result<(), Error> {
        match self.order() {
            Some(LoraOrder::Along) => self.along(group, layer, overlap),
            _ => self.lora(group, layer, &self.llama.stream, None, overlap),
        }
    }

    /// A group's GEMM, and its adapters from when that has seen its input.
    fn along(&self, group: Group, layer: u32, overlap: Overlap) -> Result<(), Error> {
        let Llama { stream, lora, .. } = self.llama;
        // The delta is zero since the operation that read it last, which was complete before x was.
        let ready = Ready { address: lora.ready.address + 4 * group as u64, mark: layer + 1 };
        self.gemm(group, layer, Some(ready), overlap)?;
        self.lora(group, layer, stream, Some(ready), PROGRAMMATIC)
    }

    /// The input of a group's adapters, and where each of them adds.
    fn adapted(&self, group: Group, layer: u32) -> (Matrix, Vec<Matrix>) {
        let Llama { activations: a, shape, settings, .. } = self.llama;
        let rows = bucket(settings.rows_max);
        let (inputs, _) = group.widths(shape);
        let [_, x, result] = self.buffers(group, layer);
        let x = Matrix { address: x, rows, columns: inputs, stride: inputs };
        let target = match group {
            _ if self.order() == Some(LoraOrder::After) => result,
            Group::Qkv => a.delta_qkv.address,
            Group::GateUp => a.delta_gate_up.address,
            _ => a.delta_y.address,
        };
        let (_, stride) = group.widths(shape);
        let mut offset = 0;
        let mut y = Vec::with_capacity(3);
        for projection in &Projection::ALL[group.projections()] {
            let columns = shape.projection(*projection).outputs;
            y.push(Matrix { address: target + u64::from(offset) * 2, rows, columns, stride });
            offset += columns;
        }
        (x, y)
    }

    fn lora(
        &self,
        group: Group,
        layer: u32,
        stream: &Arc<CudaStream>,
        ready: Option<Ready>,
        overlap: Overlap,
    ) -> Result<(), Error> {
        let lora = &self.llama.lora;
        let index = group as usize;
        let Some(plan) = self.plans.get(index) else { return Ok(()) };
        let (x, y) = self.adapted(group, layer);
        let mut inbox = lora.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        let site = &lora.sites[layer as usize][index];
        // SAFETY: as in `run`; the plan's adapters are in slots of the model, laid out for its sites; launches that share
        // the inbox are on one stream, or on two that wait for each other.
        unsafe {
            match ready {
                Some(ready) => plan.pair_beside(stream, site, &mut inbox, x, &y, ready),
                None => plan.pair(stream, site, &mut inbox, x, &y, overlap),
            }
        }
    }
}
