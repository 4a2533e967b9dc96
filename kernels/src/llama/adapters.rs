//! Adapters: into a slot at once, or from pinned memory beside a running step.

use std::sync::Arc;

use cudarc::driver::{CudaEvent, PinnedHostSlice, result, sys};

use super::engine::Llama;
use super::slots::Load;
use super::{AdapterWeights, Half, Projection};
use crate::lora::layout::{self, AdapterLayout};
use crate::{Element, Error};

/// An adapter in pinned host memory, packed as the GPU holds it.
#[derive(Debug)]
pub struct HostAdapter {
    memory: PinnedHostSlice<u16>,
    packing: Packing,
    rank: u32,
    scale: f32,
}

/// What decides how an adapter's bytes are read, beside its rank.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Packing {
    element: Element,
    layout: AdapterLayout,
}

impl Packing {
    /// Refuses a model of another number format or shape than this was packed for.
    fn check(&self, element: Element, layout: &AdapterLayout) -> Result<(), Error> {
        let why = if self.element != element {
            format!("was packed as {:?}, the model computes in {element:?}", self.element)
        } else if self.layout != *layout {
            "was packed for a model of another shape".to_owned()
        } else {
            return Ok(());
        };
        Err(Error::shape("adapter", why + "; pin it with the model that it is loaded into"))
    }
}

/// A copy on its way into a slot. The slot is empty until [`Llama::finish_load`].
#[derive(Debug)]
#[must_use = "the slot stays empty until the load is finished"]
pub struct Loading {
    load: Load,
    adapter: Arc<HostAdapter>,
    start: CudaEvent,
    end: CudaEvent,
}

impl Drop for Loading {
    fn drop(&mut self) {
        // The host memory may go with it, so the copy must be done. An error here was reported where it arose.
        let _ = self.end.synchronize();
    }
}

impl Loading {
    /// Waits for the copy. Microseconds that it took on the GPU.
    pub(super) fn copied_us(&self) -> Result<f64, Error> {
        self.end.synchronize().map_err(Error::driver("waiting for an adapter"))?;
        Ok(f64::from(self.start.elapsed_ms(&self.end).map_err(Error::driver("timing a copy"))?) * 1e3)
    }
}

impl HostAdapter {
    /// Bytes that a load copies.
    pub fn bytes(&self) -> usize {
        self.memory.num_bytes()
    }

    /// Its rank.
    pub fn rank(&self) -> u32 {
        self.rank
    }
}

impl Llama {
    /// Bytes of an adapter of this rank on the GPU, which is what a load copies.
    pub fn adapter_bytes(&self, rank: u32) -> usize {
        self.layout.elements(rank) * 2
    }

    /// Loads an adapter into a slot and waits until it is there. y += `scale`·(x·A)·B for all of its projections.
    ///
    /// # Errors
    /// [`Error::Shape`] for a slot or rank that does not exist, a scale that is no finite number, or weights of another
    /// length; [`Error::Driver`].
    pub fn load_adapter(&mut self, slot: u32, rank: u32, scale: f32, weights: AdapterWeights<'_>) -> Result<(), Error> {
        self.slots.check(slot, rank)?;
        layout::check_scale(scale)?;
        // A copy into this slot that is on its way must not end after this one.
        self.copies.synchronize().map_err(Error::driver("waiting for adapters on their way"))?;
        let memory = &mut self.slots.emptied(slot)?.slice;
        match weights {
            AdapterWeights::Random { seed } => {
                // Drawn for x and v of about one: y changes by a few percent of its size.
                let range = 0.3 * (3.0 / self.shape.hidden as f32).sqrt();
                self.stopwatch.fill(memory, self.settings.element, seed, range)?;
            }
            AdapterWeights::Given(give) => {
                let mut packed = vec![0; self.layout.elements(rank)];
                pack(&self.layout, self.shape.layers, rank, give, &mut packed)?;
                let mut into = memory.slice_mut(..packed.len());
                self.stream.memcpy_htod(&packed, &mut into).map_err(Error::driver("copying an adapter"))?;
            }
        }
        self.stream.synchronize().map_err(Error::driver("loading an adapter"))?;
        self.slots.fill(slot, rank, scale)
    }

    /// Takes an adapter out of its slot, or calls off the load that would put one there.
    ///
    /// # Errors
    /// [`Error::Shape`] for a slot that does not exist.
    pub fn unload_adapter(&mut self, slot: u32) -> Result<(), Error> {
        self.slots.emptied(slot).map(|_| ())
    }

    /// Packs an adapter into pinned host memory, from where it can be loaded any number of times. Random weights fill
    /// whole granules of rank.
    ///
    /// # Errors
    /// [`Error::Shape`] for a rank that does not exist, a scale that is no finite number, or weights of another length;
    /// [`Error::Driver`] if the memory cannot be pinned.
    pub fn pin_adapter(&self, rank: u32, scale: f32, weights: AdapterWeights<'_>) -> Result<Arc<HostAdapter>, Error> {
        layout::check_rank(rank)?;
        layout::check_scale(scale)?;
        let length = self.layout.elements(rank);
        let pinned = || Error::driver(format!("pinning {} bytes for an adapter", length * 2));
        // SAFETY: plain values, all written below.
        let mut memory = unsafe { self.gpu.context().alloc_pinned::<u16>(length) }.map_err(pinned())?;
        let into = memory.as_mut_slice().map_err(pinned())?;
        match weights {
            AdapterWeights::Random { seed } => fill_small(into, self.settings.element, seed),
            AdapterWeights::Given(give) => {
                into.fill(0);
                pack(&self.layout, self.shape.layers, rank, give, into)?;
            }
        }
        let packing = Packing { element: self.settings.element, layout: self.layout.clone() };
        Ok(Arc::new(HostAdapter { memory, packing, rank, scale }))
    }

    /// Starts copying an adapter into a slot on a stream of its own, beside whatever the model computes. No step may use
    /// the slot until [`Llama::finish_load`], and none that used it may be running: steps are complete when they return. Of
    /// several loads into a slot, only the last to begin can be finished.
    ///
    /// # Errors
    /// [`Error::Shape`] for a slot or rank that does not exist, or an adapter that was pinned for a model of another shape
    /// or number format; [`Error::Driver`].
    pub fn begin_load(&mut self, slot: u32, adapter: &Arc<HostAdapter>) -> Result<Loading, Error> {
        self.slots.check(slot, adapter.rank)?;
        adapter.packing.check(self.settings.element, &self.layout)?;
        let load = self.slots.begin(slot)?;
        let target = self.slots.memory(slot)?.address;
        let event = || {
            let flags = sys::CUevent_flags::CU_EVENT_DEFAULT;
            self.gpu.context().new_event(Some(flags)).map_err(Error::driver("making an event"))
        };
        let (start, end) = (event()?, event()?);
        let copied = || Error::driver("copying an adapter");
        let values = adapter.memory.as_slice().map_err(copied())?;
        start.record(&self.copies).map_err(copied())?;
        // SAFETY: the adapter has the model's own layout and a rank for which the slot has room. Both memories live until the
        // copy is done: `Loading` holds the adapter and waits when it is dropped; the model waits for this stream before it
        // frees a slot.
        unsafe { result::memcpy_htod_async(target, values, self.copies.cu_stream()) }.map_err(copied())?;
        let loading = Loading { load, adapter: adapter.clone(), start, end };
        if let Err(code) = loading.end.record(&self.copies) {
            // There is no event to wait for.
            let _ = self.copies.synchronize();
            return Err(copied()(code));
        }
        Ok(loading)
    }

    /// Whether a copy is complete, without waiting.
    pub fn is_loaded(&self, loading: &Loading) -> bool {
        loading.end.is_complete()
    }

    /// Waits for a copy, after which steps may use the slot. Returns the microseconds that it took on the GPU.
    ///
    /// # Errors
    /// [`Error::Shape`] if the slot was loaded, emptied or cut anew since this load began, which changes nothing there;
    /// [`Error::Driver`].
    pub fn finish_load(&mut self, loading: Loading) -> Result<f64, Error> {
        let us = loading.copied_us()?;
        self.slots.finish(loading.load, loading.adapter.rank, loading.adapter.scale)?;
        Ok(us)
    }
}

/// All projections of all layers.
fn pack(
    layout: &AdapterLayout,
    layers: u32,
    rank: u32,
    give: &mut dyn FnMut(u32, Projection, Half) -> Result<Vec<u16>, Error>,
    into: &mut [u16],
) -> Result<(), Error> {
    for layer in 0..layers {
        for (index, projection) in Projection::ALL.into_iter().enumerate() {
            let a = give(layer, projection, Half::A)?;
            let b = give(layer, projection, Half::B)?;
            layout.pack(layer as usize * Projection::ALL.len() + index, rank, &a, &b, into)?;
        }
    }
    Ok(())
}

/// Values of either sign between 2^-7 and 2^-6, by a generator quick enough for an adapter of 100 MB.
fn fill_small(into: &mut [u16], element: Element, seed: u64) {
    let (exponent, mantissa) = match element {
        Element::F16 => (8 << 10, (1 << 10) - 1),
        Element::Bf16 => (120 << 7, (1 << 7) - 1),
    };
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for value in into {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        *value = exponent | (state as u16 & (mantissa | 0x8000));
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::adapter_layout;
    use super::*;
    use crate::llama::LlamaShape;

    #[test]
    fn an_adapter_of_another_shape_or_number_format_is_refused() {
        let layout = |shape: LlamaShape| adapter_layout(&shape).expect("a model's shape");
        let packing = |element, shape| Packing { element, layout: layout(shape) };
        let (tiny, ours) = (LlamaShape::tiny(), layout(LlamaShape::tiny()));
        packing(Element::Bf16, tiny).check(Element::Bf16, &ours).expect("the model's own");
        // As many elements, but in other places.
        let other = LlamaShape { heads: 10, intermediate: 128, ..tiny };
        assert!(layout(other).elements(8) == ours.elements(8) && layout(other) != ours);
        for (adapter, because) in [
            (packing(Element::F16, tiny), "was packed as F16, the model computes in Bf16"),
            (packing(Element::Bf16, other), "a model of another shape"),
            (packing(Element::Bf16, LlamaShape { layers: 3, ..tiny }), "a model of another shape"),
        ] {
            match adapter.check(Element::Bf16, &ours) {
                Err(Error::Shape { what, why }) => assert!(what == "adapter" && why.contains(because), "{what}: {why}"),
                other => panic!("{other:?}"),
            }
        }
        let small = packing(Element::F16, LlamaShape::llama_2_7b());
        assert!(small.check(Element::F16, &layout(LlamaShape::llama_2_13b())).is_err());
    }
}
