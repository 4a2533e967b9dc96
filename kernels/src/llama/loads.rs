//! Adapters on their way to their slots while steps run, and what both cost each other.

use cudarc::driver::{CudaEvent, sys};

use super::batch::Batch;
use super::engine::Llama;
use super::forward::{Forward, Metrics};
use super::graphs::Graphs;
use super::memory::{Buffer, Slot};
use super::{LoraPath, Sequence};
use crate::Error;
use crate::copy::{HostBuffer, HostMemory};

/// A copy on its way.
#[derive(Debug)]
pub struct Loading {
    slot: u32,
    rank: u32,
    scale: f32,
    begin: CudaEvent,
    end: CudaEvent,
}

impl Loading {
    /// Into which slot.
    pub fn slot(&self) -> u32 {
        self.slot
    }
}

impl Llama {
    /// Cuts the memory of adapters anew: so many slots for adapters of up to `rank_max`, all empty. Graphs are dropped.
    ///
    /// # Errors
    /// [`Error::Shape`] if the model was opened without adapters or for an impossible rank; [`Error::OutOfMemory`].
    pub fn cut_slots(&mut self, count: u32, rank_max: u32) -> Result<(), Error> {
        if self.settings.lora == LoraPath::Off {
            return Err(Error::shape("adapter slots", "the model was opened without adapters"));
        }
        crate::lora::layout::check_rank(rank_max)?;
        self.stream.synchronize().map_err(Error::driver("cutting adapter slots"))?;
        self.graphs = Graphs::default();
        self.slots.clear();
        self.stream.synchronize().map_err(Error::driver("freeing adapter slots"))?;
        (self.settings.adapter_slots, self.settings.rank_max) = (count, rank_max);
        for _ in 0..count {
            let memory = Buffer::new(&self.gpu, &self.stream, self.layout.elements(rank_max), "an adapter slot")?;
            self.slots.push(Slot { memory, adapter: None });
        }
        self.stream.synchronize().map_err(Error::driver("cutting adapter slots"))
    }

    /// Host memory as large as an adapter of this rank, filled with small random weights: what loads are measured with, and where an
    /// adapter's real weights would lie.
    ///
    /// # Errors
    /// [`Error::Driver`] if so much memory cannot be pinned.
    pub fn host_adapter(&self, rank: u32, memory: HostMemory) -> Result<HostBuffer, Error> {
        let element = self.settings.element;
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut draw = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 40) as f32 / (1 << 23) as f32 - 1.0) * 0.01
        };
        // A mebibyte of different numbers, again and again: the copy engine compresses nothing.
        let piece: Vec<u8> = (0..1 << 19).flat_map(|_| element.encode(draw()).to_le_bytes()).collect();
        let content: Vec<u8> = piece.iter().copied().cycle().take(self.adapter_bytes(rank)).collect();
        HostBuffer::new(&self.gpu, memory, &content)
    }

    /// Starts a copy into a slot, beside whatever runs. Until it is finished no step may name the slot; the buffer must live until then.
    ///
    /// # Errors
    /// [`Error::Shape`] for a slot or rank that does not exist, or a buffer that is too short; [`Error::Driver`].
    pub fn start_load(&mut self, slot: u32, rank: u32, scale: f32, from: &HostBuffer) -> Result<Loading, Error> {
        self.check_slot(slot, rank)?;
        let bytes = self.adapter_bytes(rank);
        let event = || {
            let flags = sys::CUevent_flags::CU_EVENT_DEFAULT;
            self.gpu.context().new_event(Some(flags)).map_err(Error::driver("making an event"))
        };
        let (begin, end) = (event()?, event()?);
        let target = self.slots[slot as usize].memory.address;
        self.slots[slot as usize].adapter = None;
        begin.record(&self.copies).map_err(Error::driver("starting a load"))?;
        // SAFETY: the slot has room for the rank; nothing reads it before `finish_load`, by the caller's promise and because its
        // adapter is gone.
        unsafe { from.copy_to_address(&self.copies, target, bytes)? };
        end.record(&self.copies).map_err(Error::driver("starting a load"))?;
        Ok(Loading { slot, rank, scale, begin, end })
    }

    /// Whether a copy is there.
    ///
    /// # Errors
    /// [`Error::Driver`].
    pub fn is_loaded(&self, loading: &Loading) -> Result<bool, Error> {
        // SAFETY: the event is live.
        match unsafe { sys::cuEventQuery(loading.end.cu_event()) } {
            sys::CUresult::CUDA_SUCCESS => Ok(true),
            sys::CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            other => other.result().map(|()| true).map_err(Error::driver("asking for a load")),
        }
    }

    /// Waits for a copy and makes its adapter one that steps can name; microseconds that the copy took.
    ///
    /// # Errors
    /// [`Error::Driver`].
    pub fn finish_load(&mut self, loading: Loading) -> Result<f64, Error> {
        let done = || Error::driver("finishing a load");
        loading.end.synchronize().map_err(done())?;
        self.slots[loading.slot as usize].adapter = Some((loading.rank, loading.scale));
        Ok(f64::from(loading.begin.elapsed_ms(&loading.end).map_err(done())?) * 1e3)
    }

    /// Microseconds of copies into a slot, one at a time, after one that is not counted.
    ///
    /// # Errors
    /// As [`Llama::start_load`].
    pub fn time_loads(&mut self, slot: u32, rank: u32, from: &HostBuffer, repeats: usize) -> Result<Vec<f64>, Error> {
        let mut samples = Vec::with_capacity(repeats);
        for repeat in 0..=repeats {
            let loading = self.start_load(slot, rank, 1.0, from)?;
            let us = self.finish_load(loading)?;
            if repeat > 0 {
                samples.push(us);
            }
        }
        Ok(samples)
    }

    /// Microseconds of replays of a step without copies, of the same beside copies that follow one another without a pause, and of the
    /// copies that lay wholly beside them. L2 is as the step before left it in both.
    ///
    /// # Errors
    /// As [`Llama::step`] and [`Llama::start_load`].
    pub fn time_beside(
        &mut self,
        sequences: &[Sequence<'_>],
        (slot, rank): (u32, u32),
        from: &HostBuffer,
        replays: usize,
    ) -> Result<Beside, Error> {
        let timed = || Error::driver("timing steps beside copies");
        let batch = Batch::new(sequences, &self.shape, &self.settings)?;
        let metrics = Metrics::of(&batch);
        self.prepare(&metrics)?;
        let set = self.plan_adapters(&batch)?;
        self.metadata.upload(&self.stream, &batch, sequences, &metrics)?;
        let graph = {
            let forward = Forward::new(self, &metrics, &set.plans);
            self.capture_of(|| forward.step())?
        };
        graph.upload().map_err(timed())?;
        let run = |llama: &Llama| -> Result<Vec<CudaEvent>, Error> {
            let mut events = Vec::with_capacity(replays + 1);
            for replay in 0..=replays {
                let flags = sys::CUevent_flags::CU_EVENT_DEFAULT;
                let event = llama.gpu.context().new_event(Some(flags)).map_err(timed())?;
                event.record(&llama.stream).map_err(timed())?;
                events.push(event);
                if replay < replays {
                    graph.launch().map_err(timed())?;
                }
            }
            Ok(events)
        };
        let spans = |events: &[CudaEvent]| -> Result<Vec<f64>, Error> {
            let span = |pair: &[CudaEvent]| pair[0].elapsed_ms(&pair[1]).map(|ms| f64::from(ms) * 1e3);
            events.windows(2).map(|pair| span(pair).map_err(timed())).collect()
        };
        graph.launch().map_err(timed())?;
        let alone = run(self)?;
        self.stream.synchronize().map_err(timed())?;
        let alone_us = spans(&alone)?;
        let mut loads = vec![self.start_load(slot, rank, 1.0, from)?];
        let beside = run(self)?;
        let last = Loading { slot, rank, scale: 1.0, begin: self.mark()?, end: self.mark()? };
        while !self.is_loaded(&last)? {
            if loads.len() > 2 {
                loads[loads.len() - 2].end.synchronize().map_err(timed())?;
            }
            loads.push(self.start_load(slot, rank, 1.0, from)?);
        }
        self.copies.synchronize().map_err(timed())?;
        let beside_us = spans(&beside)?;
        let mut copies_us = Vec::new();
        for load in &loads {
            let after_end = load.end.elapsed_ms(&last.end).unwrap_or(-1.0);
            if after_end >= 0.0 {
                copies_us.push(f64::from(load.begin.elapsed_ms(&load.end).map_err(timed())?) * 1e3);
            }
        }
        self.keep(set);
        Ok(Beside { alone_us, beside_us, copies_us })
    }

    /// An event behind all steps launched so far.
    fn mark(&self) -> Result<CudaEvent, Error> {
        let flags = sys::CUevent_flags::CU_EVENT_DEFAULT;
        let event = self.gpu.context().new_event(Some(flags)).map_err(Error::driver("making an event"))?;
        event.record(&self.stream).map_err(Error::driver("recording an event"))?;
        Ok(event)
    }

    /// Microseconds of device copies of `bytes` read and as many written.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] or [`Error::Driver`].
    pub fn time_copies(&self, bytes: u64, repeats: usize) -> Result<Vec<f64>, Error> {
        self.stopwatch.copies_us(&self.gpu, 2 * bytes, 2, repeats)
    }
}

/// Steps and copies that share a GPU.
#[derive(Debug, Clone, PartialEq)]
pub struct Beside {
    /// The steps alone.
    pub alone_us: Vec<f64>,
    /// The steps beside copies.
    pub beside_us: Vec<f64>,
    /// The copies.
    pub copies_us: Vec<f64>,
}
