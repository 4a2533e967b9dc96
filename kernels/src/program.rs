//! A compiled kernel in a GPU's memory, and its launch.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::{CudaFunction, CudaModule, CudaStream, sys};
use cudarc::nvrtc::Ptx;

use crate::Error;
use crate::cache::Cache;
use crate::compile::Unit;
use crate::gpu::{Gpu, Overlap};
use crate::source::Sources;

/// What a loaded kernel is known by: source, constants, name.
type Key = (&'static str, Vec<(&'static str, String)>, &'static str);

/// Compiles and loads kernels for one GPU, each once; a clone shares them.
#[derive(Debug, Clone)]
pub struct Compiler {
    gpu: Gpu,
    sources: Sources,
    cache: Option<Cache>,
    architecture: String,
    loaded: Arc<Mutex<HashMap<Key, Kernel>>>,
}

/// One kernel, loaded.
#[derive(Debug, Clone)]
pub struct Kernel {
    function: CudaFunction,
    _module: Arc<CudaModule>,
    name: &'static str,
    overlaps: bool,
}

/// The grid of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    /// Blocks; with none, nothing is launched.
    pub blocks: u32,
    /// Threads a block.
    pub threads: u32,
    /// Dynamic shared memory a block.
    pub shared_bytes: u32,
}

impl Compiler {
    /// For this GPU, from these sources; with `cache`, compiled once a machine.
    pub fn new(gpu: &Gpu, sources: Sources, cache: Option<Cache>) -> Self {
        Compiler { architecture: gpu.architecture(), gpu: gpu.clone(), sources, cache, loaded: Arc::default() }
    }

    /// The same for another architecture that this GPU runs too: `compute_80` forces the path without Hopper's
    /// instructions, which launches without overlap.
    #[must_use]
    pub fn with_architecture(mut self, architecture: &str) -> Self {
        architecture.clone_into(&mut self.architecture);
        self.loaded = Arc::default();
        self
    }

    /// The GPU.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// The kernel sources.
    pub fn sources(&self) -> &Sources {
        &self.sources
    }

    /// Where compiled kernels are kept.
    pub fn cache(&self) -> Option<&Cache> {
        self.cache.as_ref()
    }

    /// The architecture that kernels are compiled for.
    pub fn architecture(&self) -> &str {
        &self.architecture
    }

    /// One kernel of a source file with these constants; compiled and loaded when it is first asked for.
    ///
    /// # Errors
    /// Compiler and driver errors.
    pub fn kernel(
        &self,
        source: &'static str,
        defines: Vec<(&'static str, String)>,
        name: &'static str,
    ) -> Result<Kernel, Error> {
        let key = (source, defines, name);
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kernel) = loaded.get(&key) {
            return Ok(kernel.clone());
        }
        let kernel = self.load(&key)?;
        loaded.insert(key, kernel.clone());
        Ok(kernel)
    }

    fn load(&self, (source, defines, name): &Key) -> Result<Kernel, Error> {
        let unit = Unit { source, architecture: self.architecture.clone(), defines: defines.clone() };
        let cubin = unit.compile(&self.sources, self.cache.as_ref())?;
        let module = self
            .gpu
            .context()
            .load_module(Ptx::from_binary(cubin.image))
            .map_err(Error::driver(format!("loading {source}")))?;
        let function = module.load_function(name).map_err(Error::driver(format!("finding kernel {name}")))?;
        let shared_max = self.gpu.chip().shared_bytes_block_max as i32;
        let limit = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        function
            .set_attribute(limit, shared_max)
            .map_err(Error::driver(format!("giving {name} {shared_max} bytes of shared memory")))?;
        // One split of the multiprocessor's memory for every kernel, the LoRA kernels' too: changing it between two
        // launches would keep them from overlapping.
        let carveout = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT;
        function.set_attribute(carveout, 100).map_err(Error::driver(format!("preferring shared memory in {name}")))?;
        Ok(Kernel { function, _module: module, name, overlaps: !self.architecture.contains("_8") })
    }
}

impl Kernel {
    /// Launches it with one parameter, a struct laid out as the kernel's.
    ///
    /// # Errors
    /// [`Error::Driver`] if the launch is refused.
    ///
    /// # Safety
    /// `arguments` must have the layout of the kernel's parameter, and every address in it must be what the kernel
    /// takes it for until the launch is complete. With [`Overlap::Programmatic`], see there.
    pub unsafe fn launch<T>(
        &self,
        stream: &CudaStream,
        grid: Grid,
        arguments: &T,
        overlap: Overlap,
    ) -> Result<(), Error> {
        if grid.blocks == 0 {
            return Ok(());
        }
        let mut attribute = sys::CUlaunchAttribute {
            id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
        };
        let config = sys::CUlaunchConfig {
            gridDimX: grid.blocks,
            gridDimY: 1,
            gridDimZ: 1,
            blockDimX: grid.threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: grid.shared_bytes,
            hStream: stream.cu_stream(),
            attrs: &raw mut attribute,
            numAttrs: u32::from(self.overlaps && overlap == Overlap::Programmatic),
        };
        let mut parameters = [std::ptr::from_ref(arguments).cast_mut().cast::<c_void>()];
        // SAFETY: one parameter, of the kernel's own layout by the caller's promise; the attribute outlives the call.
        unsafe {
            sys::cuLaunchKernelEx(&config, self.function.cu_function(), parameters.as_mut_ptr(), std::ptr::null_mut())
        }
        .result()
        .map_err(Error::driver(format!("launching {}", self.name)))
    }
}
