//! Adapters on their way to their slots while steps run, and what both cost each other.

use std::sync::Arc;

use cudarc::driver::{CudaEvent, sys};

use super::adapters::HostAdapter;
use super::engine::Llama;
use super::graphs::Graphs;
use super::memory::Buffer;
use super::{AdapterWeights, LoraPath, Sequence};
use crate::Error;
use crate::copy::{HostBuffer, HostMemory};

impl Llama {
    /// Cuts the memory of adapters anew: so many slots for adapters of up to `rank_max`, all empty. Graphs are dropped, and loads on
    /// their way can no longer be finished. The old slots are freed first, so that both need not find room at once.
    ///
    /// # Errors
    /// [`Error::Shape`] if the model was opened without adapters or for an impossible rank; then nothing is changed.
    /// [`Error::OutOfMemory`], after which there are no slots until they are cut anew; [`Error::Driver`].
    pub fn cut_slots(&mut self, count: u32, rank_max: u32) -> Result<(), Error> {
        if self.settings.lora == LoraPath::Off {
            return Err(Error::shape("adapter slots", "the model was opened without adapters"));
        }
        crate::lora::layout::check_rank(rank_max)?;
        // Loads on their way write to memory that goes now.
        for stream in [&self.stream, &self.copies] {
            stream.synchronize().map_err(Error::driver("cutting adapter slots"))?;
        }
        self.graphs = Graphs::default();
        let Llama { gpu, stream, slots, settings, layout, .. } = self;
        slots.free(settings);
        stream.synchronize().map_err(Error::driver("freeing adapter slots"))?;
        let allocate = || Buffer::new(gpu, stream, layout.elements(rank_max), "an adapter slot");
        slots.cut(settings, count, rank_max, allocate)?;
        stream.synchronize().map_err(Error::driver("cutting adapter slots"))
    }

    /// Microseconds of copies of an adapter of this rank into a slot, one at a time, after one that is not counted. The slot is empty
    /// afterwards.
    ///
    /// # Errors
    /// [`Error::Shape`] for a slot or rank that does not exist; [`Error::Driver`].
    pub fn time_loads(&mut self, slot: u32, rank: u32, from: HostMemory, repeats: usize) -> Result<Vec<f64>, Error> {
        let mut samples = Vec::with_capacity(repeats);
        if from == HostMemory::Pinned {
            let adapter = self.pin_adapter(rank, 1.0, AdapterWeights::Random { seed: 1 })?;
            for repeat in 0..=repeats {
                let loading = self.begin_load(slot, &adapter)?;
                let us = self.finish_load(loading)?;
                if repeat > 0 {
                    samples.push(us);
                }
            }
        } else {
            self.slots.check(slot, rank)?;
            let bytes = self.adapter_bytes(rank);
            let buffer = self.unpinned(from, bytes)?;
            let target = self.slots.emptied(slot)?.address;
            for repeat in 0..=repeats {
                // SAFETY: the slot has room for the rank, and nothing else uses it: steps are complete when they return.
                let us = unsafe { self.time_copy(&buffer, target, bytes)? };
                if repeat > 0 {
                    samples.push(us);
                }
            }
        }
        self.unload_adapter(slot)?;
        Ok(samples)
    }

    /// Host memory with a mebibyte of different numbers, again and again.
    fn unpinned(&self, from: HostMemory, bytes: usize) -> Result<HostBuffer, Error> {
        let piece =
            (0..1_u32 << 18).flat_map(|n| (n.wrapping_mul(2_654_435_761) & 0x83ff_83ff | 0x2000_2000).to_le_bytes());
        let piece: Vec<u8> = piece.collect();
        let content: Vec<u8> = piece.iter().copied().cycle().take(bytes).collect();
        HostBuffer::new(&self.gpu, from, &content)
    }

    /// Microseconds of one copy to a slot, when it is complete.
    ///
    /// # Safety
    /// `target` must have room for `bytes` bytes that nothing else uses until then.
    unsafe fn time_copy(&self, buffer: &HostBuffer, target: u64, bytes: usize) -> Result<f64, Error> {
        let timed = || Error::driver("timing a load");
        let (begin, end) = (self.event()?, self.event()?);
        begin.record(&self.copies).map_err(timed())?;
        // SAFETY: the caller's promise.
        unsafe { buffer.copy_to_address(&self.copies, target, bytes)? };
        end.record(&self.copies).map_err(timed())?;
        end.synchronize().map_err(timed())?;
        Ok(f64::from(begin.elapsed_ms(&end).map_err(timed())?) * 1e3)
    }

    /// Microseconds of copies from pageable memory beside replays of a step: those that lay wholly beside them. Such a copy keeps the host
    /// busy until its source is read. The slot is empty afterwards.
    ///
    /// # Errors
    /// As [`Llama::time_loads`].
    pub fn time_pageable_beside(
        &mut self,
        sequences: &[Sequence<'_>],
        slot: u32,
        rank: u32,
        replays: usize,
    ) -> Result<Vec<f64>, Error> {
        let timed = || Error::driver("timing a load beside steps");
        self.slots.check(slot, rank)?;
        let bytes = self.adapter_bytes(rank);
        let buffer = self.unpinned(HostMemory::Pageable, bytes)?;
        // Empty before the steps are planned: one that names it is refused.
        let target = self.slots.emptied(slot)?.address;
        let (graph, set) = self.captured(sequences, |forward| forward.step())?;
        graph.upload().map_err(timed())?;
        for _ in 0..replays {
            graph.launch().map_err(timed())?;
        }
        let last = self.event()?;
        last.record(&self.stream).map_err(timed())?;
        let mut samples = Vec::new();
        loop {
            // SAFETY: the slot has room for the rank, and the steps on their way do not use it.
            let us = unsafe { self.time_copy(&buffer, target, bytes)? };
            if last.is_complete() {
                break;
            }
            samples.push(us);
        }
        self.stream.synchronize().map_err(timed())?;
        self.keep(set);
        self.unload_adapter(slot)?;
        Ok(samples)
    }

    /// Microseconds of replays of a step without copies, of the same beside copies that follow one another without a pause, and of the
    /// copies that lay wholly beside them. L2 is as the step before left it in both.
    ///
    /// # Errors
    /// As [`Llama::step`] and [`Llama::begin_load`].
    pub fn time_beside(
        &mut self,
        sequences: &[Sequence<'_>],
        slot: u32,
        adapter: &Arc<HostAdapter>,
        replays: usize,
    ) -> Result<Beside, Error> {
        let timed = || Error::driver("timing steps beside copies");
        let (graph, set) = self.captured(sequences, |forward| forward.step())?;
        graph.upload().map_err(timed())?;
        let run = |llama: &Llama| -> Result<Vec<CudaEvent>, Error> {
            let mut events = Vec::with_capacity(replays + 1);
            for replay in 0..=replays {
                let event = llama.event()?;
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
        // The first copies start before the steps do, and two are always on their way.
        let mut loads = vec![self.begin_load(slot, adapter)?, self.begin_load(slot, adapter)?];
        let beside = run(self)?;
        let last = &beside[replays];
        let mut copies_us = Vec::new();
        while !last.is_complete() {
            copies_us.push(loads.remove(0).copied_us()?);
            loads.push(self.begin_load(slot, adapter)?);
        }
        // Those that were still on their way ran on alone.
        for load in loads {
            load.copied_us()?;
        }
        self.unload_adapter(slot)?;
        let beside_us = spans(&beside)?;
        self.keep(set);
        Ok(Beside { alone_us, beside_us, copies_us })
    }

    fn event(&self) -> Result<CudaEvent, Error> {
        let flags = sys::CUevent_flags::CU_EVENT_DEFAULT;
        self.gpu.context().new_event(Some(flags)).map_err(Error::driver("making an event"))
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
