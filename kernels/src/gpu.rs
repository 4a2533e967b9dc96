//! One GPU, opened with every check that a later failure would otherwise have to explain.

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DeviceRepr, result, sys};

use crate::lora::plan::Chip;
use crate::{Error, compile};

/// An opened GPU: its context and what a plan must know about it.
#[derive(Debug, Clone)]
pub struct Gpu {
    context: Arc<CudaContext>,
    name: String,
    compute_capability: (i32, i32),
    multiprocessors: u32,
    shared_bytes_block_max: u32,
    l2_bytes: usize,
}

/// Whether a launch may begin while the preceding kernel of its stream still runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Overlap {
    /// Begin when the preceding kernel is finished.
    None,
    /// Programmatic dependent launch: blocks start, and load plans and weights, as soon as the preceding kernel lets
    /// them; activations are read only when it is finished. Plans and weights must have been written by something
    /// that was complete before the preceding kernel began: a copy, or a kernel with a launch without overlap, or
    /// a synchronisation, in between. Ignored before compute capability 9.0.
    Programmatic,
}

/// A word in device memory by which one launch tells the next, which runs beside it, that the input of both is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ready {
    /// Device address of a u32.
    pub address: u64,
    /// What it becomes; not what it was left at by the launches before.
    pub mark: u32,
}

impl Gpu {
    /// Opens a GPU of this machine.
    ///
    /// # Errors
    /// No driver, driver or NVRTC too old, no such GPU, or a GPU before compute capability 8.0.
    pub fn open(ordinal: usize) -> Result<Self, Error> {
        // SAFETY: asks the loader only.
        if !unsafe { sys::is_culib_present() } {
            return Err(Error::LibraryMissing {
                library: "the CUDA driver (libcuda.so.1)",
                remedy: "this needs a machine with an NVIDIA GPU and its driver",
            });
        }
        result::init().map_err(Error::driver("starting the driver"))?;
        let mut version = 0;
        // SAFETY: a valid out-pointer.
        unsafe { sys::cuDriverGetVersion(&mut version) }.result().map_err(Error::driver("reading its version"))?;
        if version < 12_030 {
            let found = format!("{}.{}", version / 1000, version % 1000 / 10);
            return Err(Error::LibraryTooOld { library: "the CUDA driver", found, needed: "12.3" });
        }
        compile::nvrtc_version()?;
        let count = CudaContext::device_count().map_err(Error::driver("counting GPUs"))?;
        if ordinal as i64 >= i64::from(count) {
            return Err(Error::NoGpu { ordinal, count });
        }
        let context = CudaContext::new(ordinal).map_err(Error::driver(format!("opening GPU {ordinal}")))?;
        // SAFETY: this crate orders its work by stream and never shares a buffer between streams implicitly;
        // event tracking would add events to captured graphs.
        unsafe { context.disable_event_tracking() };
        Gpu::describe(context)
    }

    fn describe(context: Arc<CudaContext>) -> Result<Self, Error> {
        use sys::CUdevice_attribute as Attribute;
        let asked = || Error::driver("asking for the GPU's properties");
        let attribute = |which| context.attribute(which).map_err(asked());
        let name = context.name().map_err(asked())?;
        let compute_capability = context.compute_capability().map_err(asked())?;
        if compute_capability < (8, 0) {
            let (major, minor) = compute_capability;
            return Err(Error::GpuTooOld { name, major, minor });
        }
        let multiprocessors = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as u32;
        let shared = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)? as u32;
        let l2_bytes = attribute(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)? as usize;
        Ok(Gpu { context, name, compute_capability, multiprocessors, shared_bytes_block_max: shared, l2_bytes })
    }

    /// The driver's context.
    pub fn context(&self) -> &Arc<CudaContext> {
        &self.context
    }

    /// The product name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bytes of L2 cache.
    pub fn l2_bytes(&self) -> usize {
        self.l2_bytes
    }

    /// Version of the CUDA that the driver supports, as `major.minor`.
    pub fn driver_version(&self) -> String {
        let mut version = 0;
        // SAFETY: a valid out-pointer; the driver is loaded.
        let _ = unsafe { sys::cuDriverGetVersion(&mut version) };
        format!("{}.{}", version / 1000, version % 1000 / 10)
    }

    /// Bytes of device memory that are free.
    ///
    /// # Errors
    /// [`Error::Driver`].
    pub fn free_bytes(&self) -> Result<usize, Error> {
        self.context.mem_get_info().map(|(free, _)| free).map_err(Error::driver("asking for free memory"))
    }

    /// Bytes of device memory.
    ///
    /// # Errors
    /// [`Error::Driver`].
    pub fn total_bytes(&self) -> Result<usize, Error> {
        self.context.mem_get_info().map(|(_, total)| total).map_err(Error::driver("asking for memory"))
    }

    /// The architecture to compile for: `sm_90a` on Hopper, otherwise the newest that the GPU runs.
    pub fn architecture(&self) -> String {
        match self.compute_capability {
            (9, 0) => "sm_90a".to_owned(),
            (major, minor) => format!("sm_{major}{minor}"),
        }
    }

    /// What a plan must know.
    pub fn chip(&self) -> Chip {
        Chip {
            multiprocessors: self.multiprocessors,
            shared_bytes_block_max: self.shared_bytes_block_max,
            cluster_max: if self.compute_capability == (9, 0) { 16 } else { 1 },
        }
    }

    /// A new stream, which does not wait for the default one.
    ///
    /// # Errors
    /// [`Error::Driver`].
    pub fn stream(&self) -> Result<Arc<CudaStream>, Error> {
        self.context.new_stream().map_err(Error::driver("making a stream"))
    }

    /// Device memory for `length` values, contents undefined.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] says how much was free.
    pub fn allocate<T: DeviceRepr>(
        &self,
        stream: &Arc<CudaStream>,
        length: usize,
        what: &str,
    ) -> Result<CudaSlice<T>, Error> {
        let needed_bytes = length * size_of::<T>();
        // SAFETY: contents are undefined and documented so; T is plain data.
        unsafe { stream.alloc::<T>(length.max(1)) }.map_err(|code| {
            if code.0 == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY {
                let free_bytes = self.context.mem_get_info().map_or(0, |(free, _)| free);
                Error::OutOfMemory { what: what.to_owned(), needed_bytes, free_bytes }
            } else {
                Error::driver(format!("allocating {needed_bytes} bytes for {what}"))(code)
            }
        })
    }
}
