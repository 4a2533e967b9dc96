//! One pass through the layers: which kernel follows which, on which buffers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::{CudaEvent, CudaStream, sys};

use super::batch::{Batch, bucket};
use super::engine::Llama;
use super::kernels::{NormArguments, RopeArguments};
use super::{GemmPath, LlamaSettings, LlamaShape, LoraOrder, LoraPath, Operation, Projection};
use crate::Error;
use crate::gemm::GemmShape;
use crate::gemm::cublaslt::{CublasLt, CublasLtPlan, Trial};
use crate::gemm::few_rows::{self, FewRows, FewRowsPlan};
use crate::gpu::{Gpu, Overlap};
use crate::lora::launch::{Inbox, LoadedPlan, LoraKernels, Matrix};
use crate::lora::layout::AdapterLayout;
use crate::lora::plan::{Chip, Segment, Site};
use crate::program::Compiler;

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

/// Projections that share an input: one GEMM, one launch of adapters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Group {
    Qkv,
    O,
    GateUp,
    Down,
    LmHead,
}

impl Group {
    /// Those of a layer, in order.
    pub(crate) const LAYER: [Group; 4] = [Group::Qkv, Group::O, Group::GateUp, Group::Down];

    /// The adapter's projections of it, as a range of [`Projection::ALL`].
    fn projections(self) -> std::ops::Range<usize> {
        match self {
            Group::Qkv => 0..3,
            Group::O => 3..4,
            Group::GateUp => 4..6,
            Group::Down => 6..7,
            Group::LmHead => 0..0,
        }
    }

    fn widths(self, shape: &LlamaShape) -> (u32, u32) {
        match self {
            Group::Qkv => (shape.hidden, shape.query_width() + 2 * shape.kv_width()),
            Group::O => (shape.query_width(), shape.hidden),
            Group::GateUp => (shape.hidden, 2 * shape.intermediate),
            Group::Down => (shape.intermediate, shape.hidden),
            Group::LmHead => (shape.hidden, shape.vocab),
        }
    }
}

#[derive(Debug)]
enum GemmPlan {
    Few(FewRowsPlan),
    Library(Box<CublasLtPlan>),
}

/// GEMM plans of a model, by group and rows.
#[derive(Debug)]
pub(crate) struct Gemms {
    library: CublasLt,
    few: FewRows,
    path: GemmPath,
    plans: HashMap<(Group, u32), GemmPlan>,
}

impl Gemms {
    pub(crate) fn new(
        compiler: &Compiler,
        stream: &Arc<CudaStream>,
        settings: &LlamaSettings,
    ) -> Result<Self, Error> {
        let library = CublasLt::open(compiler.gpu(), stream)?;
        let few = FewRows::new(compiler, stream)?;
        Ok(Gemms { library, few, path: settings.gemm, plans: HashMap::new() })
    }

    pub(crate) fn set_path(&mut self, path: GemmPath) {
        self.path = path;
        self.plans.clear();
    }

    /// What each plan of these rows runs, for the record.
    pub(crate) fn describe(&self) -> Vec<String> {
        let mut lines: Vec<String> = self
            .plans
            .iter()
            .map(|((group, rows), plan)| match plan {
                GemmPlan::Few(_) => format!("{group:?} {rows} rows: own kernel"),
                GemmPlan::Library(plan) => format!("{group:?} {rows} rows: cuBLASLt {:?}", plan.chosen()),
            })
            .collect();
        lines.sort();
        lines
    }
}

/// Adapters: kernels, where each layer's projections lie, and the inbox of their exchange.
#[derive(Debug)]
pub(crate) struct LoraSites {
    pub(crate) kernels: LoraKernels,
    pub(crate) chip: Chip,
    /// For each layer, one site a group.
    pub(crate) sites: Vec<[Site; 4]>,
    inbox: Mutex<Inbox>,
    /// Orders the side stream behind the main one and back.
    events: [CudaEvent; 2],
}

/// Inbox cells where adapters are computed: 64 MiB.
pub(crate) const INBOX_CELLS: u32 = 1 << 17;

impl LoraSites {
    pub(crate) fn new(
        kernels: LoraKernels,
        stream: &Arc<CudaStream>,
        shape: &LlamaShape,
        settings: &LlamaSettings,
        layout: &AdapterLayout,
        gpu: &Gpu,
        overlaps: bool,
    ) -> Result<Self, Error> {
        let mut chip = gpu.chip();
        if !overlaps {
            chip.cluster_max = 1;
        }
        let mut sites = Vec::new();
        for layer in 0..shape.layers as usize {
            let places = &layout.places()[layer * Projection::ALL.len()..][..Projection::ALL.len()];
            let site = |group: Group| Site::new(settings.element, &places[group.projections()]);
            sites.push([site(Group::Qkv)?, site(Group::O)?, site(Group::GateUp)?, site(Group::Down)?]);
        }
        let cells = if settings.lora == LoraPath::Off { 1 } else { INBOX_CELLS };
        let inbox = Mutex::new(kernels.inbox(stream, cells)?);
        let event = || {
            let flags = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING;
            gpu.context().new_event(Some(flags)).map_err(Error::driver("making an event"))
        };
        Ok(LoraSites { kernels, chip, sites, inbox, events: [event()?, event()?] })
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
            self.run(Operation::Activation, layer, next)?;
            self.projections(Group::Down, layer)?;
        }
        if self.metrics.samples > 0 {
            self.run(Operation::LmHead, 0, PROGRAMMATIC)?;
            self.run(Operation::Sampling, 0, PROGRAMMATIC)?;
        } else if self.adds() {
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
            Operation::Qkv => self.gemm(Group::Qkv, layer, overlap),
            Operation::O => self.gemm(Group::O, layer, overlap),
            Operation::GateUp => self.gemm(Group::GateUp, layer, overlap),
            Operation::Down => self.gemm(Group::Down, layer, overlap),
            Operation::LoraQkv => self.lora(Group::Qkv, layer, stream, overlap),
            Operation::LoraO => self.lora(Group::O, layer, stream, overlap),
            Operation::LoraGateUp => self.lora(Group::GateUp, layer, stream, overlap),
            Operation::LoraDown => self.lora(Group::Down, layer, stream, overlap),
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
            Operation::DecodeAttention => self.attention(layer, overlap),
            Operation::PrefillAttention => Ok(()),
            // SAFETY: as above.
            Operation::Activation => unsafe {
                let delta = self.delta(a.delta_gate_up.address);
                kernels.activation(stream, rows, a.gate_up.address, delta, a.activated.address, overlap)
            },
            Operation::LmHead => {
                self.final_norm(overlap)?;
                self.gemm(Group::LmHead, 0, PROGRAMMATIC)
            }
            // SAFETY: as above.
            Operation::Sampling => unsafe {
                let (logits, partial, tokens) = (a.logits.address, a.partial.address, a.tokens.address);
                kernels.sample(stream, self.metrics.samples_padded, logits, partial, tokens, overlap)
            },
        }
    }

    fn attention(&self, layer: u32, overlap: Overlap) -> Result<(), Error> {
        let Llama { stream, activations: a, metadata, kv, .. } = self.llama;
        metadata.simple_attention(stream, &self.llama.shape, &self.metrics, a.q.address, a.attended.address, kv.layer(layer), overlap)
    }

    /// Whether adapters add to this step.
    fn adds(&self) -> bool {
        !self.plans.is_empty()
    }

    fn delta(&self, address: u64) -> u64 {
        if self.adds() { address } else { 0 }
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
        let Llama { stream, side, lora, settings, .. } = self.llama;
        let order = match settings.lora {
            LoraPath::Segmented(order) if self.adds() => order,
            _ => {
                self.gemm(group, layer, PROGRAMMATIC)?;
                return Ok(PROGRAMMATIC);
            }
        };
        match order {
            LoraOrder::After => {
                self.gemm(group, layer, PROGRAMMATIC)?;
                self.lora(group, layer, stream, PROGRAMMATIC)?;
            }
            LoraOrder::Before => {
                self.lora(group, layer, stream, PROGRAMMATIC)?;
                self.gemm(group, layer, PROGRAMMATIC)?;
            }
            LoraOrder::Beside => {
                let ordered = || Error::driver("ordering two streams");
                lora.events[0].record(stream).map_err(ordered())?;
                side.wait(&lora.events[0]).map_err(ordered())?;
                self.lora(group, layer, side, Overlap::None)?;
                lora.events[1].record(side).map_err(ordered())?;
                self.gemm(group, layer, PROGRAMMATIC)?;
                stream.wait(&lora.events[1]).map_err(ordered())?;
                return Ok(Overlap::None);
            }
        }
        Ok(PROGRAMMATIC)
    }

    fn buffers(&self, group: Group, layer: u32) -> (u64, u64, u64) {
        let Llama { activations: a, weights, .. } = self.llama;
        if group == Group::LmHead {
            return (weights.lm_head.address, a.sampled.address, a.logits.address);
        }
        let layer = &weights.layers[layer as usize];
        match group {
            Group::Qkv => (layer.qkv.address, a.x.address, a.qkv.address),
            Group::O => (layer.o.address, a.attended.address, a.y.address),
            Group::GateUp => (layer.gate_up.address, a.x.address, a.gate_up.address),
            _ => (layer.down.address, a.activated.address, a.y.address),
        }
    }

    fn gemm(&self, group: Group, layer: u32, overlap: Overlap) -> Result<(), Error> {
        let Llama { stream, gemms, .. } = self.llama;
        let rows = if group == Group::LmHead { self.metrics.samples_padded } else { self.metrics.padded };
        let (weights, x, y) = self.buffers(group, layer);
        let missing = || Error::shape(format!("{group:?} of {rows} rows"), "has no plan");
        match gemms.plans.get(&(group, rows)).ok_or_else(missing)? {
            // SAFETY: as in `run`; the plan was made for this group and these rows.
            GemmPlan::Few(plan) => unsafe { gemms.few.launch(stream, plan, weights, x, y, overlap) },
            // SAFETY: as above.
            GemmPlan::Library(plan) => unsafe { gemms.library.launch(stream, plan, weights, x, y, 0.0) },
        }
    }

    fn lora(&self, group: Group, layer: u32, stream: &Arc<CudaStream>, overlap: Overlap) -> Result<(), Error> {
        let Llama { activations: a, lora, shape, settings, .. } = self.llama;
        let index = group as usize;
        let Some(plan) = self.plans.get(index) else { return Ok(()) };
        let rows = bucket(settings.rows_max);
        let (inputs, _) = group.widths(shape);
        let (_, x, _) = self.buffers(group, layer);
        let x = Matrix { address: x, rows, columns: inputs, stride: inputs };
        let delta = match group {
            Group::Qkv => a.delta_qkv.address,
            Group::GateUp => a.delta_gate_up.address,
            _ => a.delta_y.address,
        };
        let (_, stride) = group.widths(shape);
        let mut offset = 0;
        let mut y = Vec::with_capacity(3);
        for projection in &Projection::ALL[group.projections()] {
            let columns = shape.projection(*projection).outputs;
            y.push(Matrix { address: delta + u64::from(offset) * 2, rows, columns, stride });
            offset += columns;
        }
        let mut inbox = lora.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        let site = &lora.sites[layer as usize][index];
        // SAFETY: as in `run`; the plan's adapters are in slots of the model, laid out for its sites; launches that share
        // the inbox are on one stream, or on two that wait for each other.
        unsafe { plan.pair(stream, site, &mut inbox, x, &y, overlap) }
    }
}

impl Llama {
    /// Makes the GEMM plans that a step of this size needs and does not have yet; waits for the GPU where it times.
    pub(super) fn prepare(&mut self, metrics: &Metrics) -> Result<(), Error> {
        for group in [Group::Qkv, Group::O, Group::GateUp, Group::Down, Group::LmHead] {
            let rows = if group == Group::LmHead { metrics.samples_padded } else { metrics.padded };
            if rows == 0 || self.gemms.plans.contains_key(&(group, rows)) {
                continue;
            }
            let (inputs, outputs) = group.widths(&self.shape);
            let shape = GemmShape::dense(self.settings.element, rows, inputs, outputs);
            let plan = if self.gemms.path == GemmPath::Own && rows <= few_rows::ROWS_MAX {
                GemmPlan::Few(self.gemms.few.plan(shape)?)
            } else {
                let forward = Forward::new(self, metrics, &[]);
                let layers = if group == Group::LmHead { 1 } else { self.shape.layers.min(8) };
                let weights: Vec<u64> = (0..layers).map(|layer| forward.buffers(group, layer).0).collect();
                let (_, x, y) = forward.buffers(group, 0);
                let trial = Trial { weights: &weights, x, y };
                // SAFETY: the model's own buffers, of the group's shape and with room for the rows; nothing runs.
                let plan = unsafe { self.gemms.library.plan(&self.stream, shape, Some(trial))? };
                GemmPlan::Library(Box::new(plan))
            };
            self.gemms.plans.insert((group, rows), plan);
        }
        Ok(())
    }

    /// The segments of a batch, with the addresses, ranks and scales of their adapters.
    pub(super) fn segments(&self, batch: &Batch) -> Result<Vec<Segment>, Error> {
        let mut segments = Vec::new();
        for (rows, slot) in batch.segments() {
            let Some((rank, scale)) = self.slots[slot as usize].adapter else {
                return Err(Error::shape(format!("adapter slot {slot}"), "is empty; load an adapter first"));
            };
            segments.push(Segment { rows, weights: self.slots[slot as usize].memory.address, rank, scale });
        }
        Ok(segments)
    }
}
