//! Where each layer's adapters lie, and what launches them.

use std::sync::{Arc, Mutex};

use cudarc::driver::{CudaEvent, CudaStream, sys};

use super::batch::Batch;
use super::engine::Llama;
use super::groups::Group;
use super::memory::Buffer;
use super::{LlamaSettings, LlamaShape, LoraPath, Projection};
use crate::Error;
use crate::gpu::Gpu;
use crate::lora::launch::{Inbox, LoraKernels};
use crate::lora::layout::AdapterLayout;
use crate::lora::plan::{Chip, Segment, Site, Tuning};

/// Adapters: kernels, where each layer's projections lie, and the inbox of their exchange.
#[derive(Debug)]
pub(crate) struct LoraSites {
    pub(crate) kernels: LoraKernels,
    pub(crate) chip: Chip,
    /// Choices made for the plans, for measuring what they are worth.
    pub(crate) tuning: Tuning,
    /// For each layer, one site a group.
    pub(crate) sites: Vec<[Site; 4]>,
    pub(crate) inbox: Mutex<Inbox>,
    /// A word for each group, by which its GEMM tells the adapters' launch beside it that x is there.
    pub(crate) ready: Buffer<u32>,
    /// Orders the side stream behind the main one and back.
    pub(crate) events: [CudaEvent; 2],
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
        let ready = Buffer::zeroed(gpu, stream, Group::LAYER.len(), "words between launches")?;
        Ok(LoraSites { kernels, chip, tuning: Tuning::default(), sites, inbox, ready, events: [event()?, event()?] })
    }
}

impl Llama {
    /// The segments of a batch, with the addresses, ranks and scales of their adapters; refuses empty slots.
    pub(super) fn segments(&self, batch: &Batch) -> Result<Vec<Segment>, Error> {
        let mut segments = Vec::new();
        for (rows, slot) in batch.segments() {
            let (rank, scale, memory) = self.slots.adapter(slot)?;
            segments.push(Segment { rows, weights: memory.address, rank, scale });
        }
        Ok(segments)
    }
}
