//! Shrink, expand and the fused pair on a GPU.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::{CudaFunction, CudaModule, CudaSlice, CudaStream, DevicePtr, sys};
use cudarc::nvrtc::Ptx;

use super::plan::{CELL_BYTES, Job, Plan, Site};
use super::variant::Variant;
use crate::Error;
use crate::cache::Cache;
use crate::gpu::{Gpu, Overlap, Ready};
use crate::source::Sources;

mod operands;

use operands::{Arguments, Cells, Held};
pub use operands::{Intermediate, Matrix, STRIDE_MAX};

/// The compiled LoRA kernels of one GPU; variants are compiled when a plan first needs them. A clone shares them.
#[derive(Debug, Clone)]
pub struct LoraKernels {
    gpu: Gpu,
    sources: Sources,
    cache: Option<Cache>,
    architecture: String,
    loaded: Arc<Mutex<HashMap<Variant, Arc<Functions>>>>,
}

#[derive(Debug)]
struct Functions {
    pair: CudaFunction,
    shrink: CudaFunction,
    expand: CudaFunction,
    _module: Arc<CudaModule>,
}

/// Where the members of groups exchange partial sums. One for each stream: launches that may overlap in any other
/// way than through [`Overlap::Programmatic`] must not share it.
#[derive(Debug)]
pub struct Inbox {
    cells: CudaSlice<u32>,
    count: u32,
}

/// A plan in device memory, ready to be launched any number of times and to be captured.
#[derive(Debug)]
pub struct LoadedPlan {
    functions: Arc<Functions>,
    held: Held,
    jobs: CudaSlice<u8>,
    overlaps: bool,
}

impl LoraKernels {
    /// Kernels for this GPU from these sources; with `cache`, compiled once a machine.
    pub fn new(gpu: &Gpu, sources: Sources, cache: Option<Cache>) -> Self {
        let architecture = gpu.architecture();
        LoraKernels { gpu: gpu.clone(), sources, cache, architecture, loaded: Arc::default() }
    }

    /// The same, but compiled for another architecture that this GPU runs too: `compute_80` forces the path without
    /// Hopper's instructions, which launches without overlap.
    #[must_use]
    pub fn with_architecture(mut self, architecture: &str) -> Self {
        architecture.clone_into(&mut self.architecture);
        self.loaded = Arc::default();
        self
    }

    /// Whether the architecture has programmatic launches and clusters.
    fn overlaps(&self) -> bool {
        !self.architecture.contains("_8")
    }

    fn functions(&self, variant: Variant) -> Result<Arc<Functions>, Error> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(functions) = loaded.get(&variant) {
            return Ok(functions.clone());
        }
        let cubin = variant.unit(&self.architecture).compile(&self.sources, self.cache.as_ref())?;
        let module = self
            .gpu
            .context()
            .load_module(Ptx::from_binary(cubin.image))
            .map_err(Error::driver("loading the LoRA kernels"))?;
        let shared_max = self.gpu.chip().shared_bytes_block_max as i32;
        let function = |name: &str| -> Result<CudaFunction, Error> {
            let function = module.load_function(name).map_err(Error::driver(format!("finding kernel {name}")))?;
            let limit = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            function
                .set_attribute(limit, shared_max)
                .map_err(Error::driver(format!("giving {name} {shared_max} bytes of shared memory")))?;
            if self.gpu.chip().cluster_max > 8 && self.overlaps() {
                let large = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED;
                function.set_attribute(large, 1).map_err(Error::driver(format!("allowing {name} large clusters")))?;
            }
            let carveout = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT;
            function
                .set_attribute(carveout, 100)
                .map_err(Error::driver(format!("preferring shared memory in {name}")))?;
            Ok(function)
        };
        let functions = Arc::new(Functions {
            pair: function("lora_pair")?,
            shrink: function("lora_shrink")?,
            expand: function("lora_expand")?,
            _module: module.clone(),
        });
        loaded.insert(variant, functions.clone());
        Ok(functions)
    }

    /// An inbox with this many cells of [`CELL_BYTES`], at least as many as any plan that will use it asks for.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] or [`Error::Driver`].
    pub fn inbox(&self, stream: &Arc<CudaStream>, cells: u32) -> Result<Inbox, Error> {
        let words = cells.max(1) as usize * (CELL_BYTES / 4);
        let memory = self.gpu.allocate::<u32>(stream, words, "the LoRA inbox")?;
        let (address, _guard) = memory.device_ptr(stream);
        // SAFETY: the allocation is `words` words long; all ones is the kernels' EMPTY.
        unsafe { cudarc::driver::result::memset_d8_async(address, 0xff, words * 4, stream.cu_stream()) }
            .map_err(Error::driver("emptying the LoRA inbox"))?;
        drop(_guard);
        Ok(Inbox { cells: memory, count: cells })
    }

    /// Copies a plan to the device and compiles its variant if that has not happened yet. `capacity`: blocks that a
    /// launch has, at least as many as jobs; a captured launch keeps it when the plan is replaced.
    ///
    /// # Errors
    /// [`Error::Shape`] if the plan has more jobs than `capacity`; compiler and driver errors.
    pub fn load(&self, stream: &Arc<CudaStream>, plan: &Plan, capacity: u32) -> Result<LoadedPlan, Error> {
        let held = Held::by(plan, capacity)?;
        if plan.cluster() > 1 && !self.overlaps() {
            return Err(Error::shape("plan", format!("wants clusters, which {} does not have", self.architecture)));
        }
        let functions = self.functions(plan.variant())?;
        let jobs = self.gpu.allocate::<u8>(stream, held.capacity.max(1) as usize * Job::BYTES, "the LoRA plan")?;
        let mut loaded = LoadedPlan { functions, held, jobs, overlaps: self.overlaps() };
        loaded.write(stream, plan)?;
        Ok(loaded)
    }
}

impl LoadedPlan {
    /// y += scale·(x·A)·B for every job of the plan, in one launch. `site` says where in the adapters the
    /// projections lie: another one for each layer, with the shapes that the plan was made for. Bitwise reproducible for one plan.
    ///
    /// v = x·A is fp32. B multiplies scale·v in two 16-bit parts ([`split_error_max`](crate::reference::lora::split_error_max)),
    /// so that, beside the rounding of fp32 sums and of y, y is off by at most Σ |B_r|·e over the ranks r, where e is
    /// - in bf16 2^-16 |scale·v_r|, whatever scale·v_r is;
    /// - in fp16 the larger of 2^-22 |scale·v_r| and 2^-25 as far as |scale·v_r| = 65,504, and from there on
    ///   2^-11 (|scale·v_r| - 65,504), at most 16. From 131,024 on, y of that row becomes an infinity or NaN: never a number.
    ///
    /// # Errors
    /// [`Error::Shape`] if the operands do not fit the plan; [`Error::Driver`] if the launch is refused.
    ///
    /// # Safety
    /// The matrices must lie in live device memory of this GPU, x and y must not overlap, the plan's adapters must be
    /// live and laid out for the plan's site, and nothing else may use `inbox` until the launch is complete, unless it
    /// is ordered after it on the same stream. With [`Overlap::Programmatic`], see there.
    pub unsafe fn pair(
        &self,
        stream: &Arc<CudaStream>,
        site: &Site,
        inbox: &mut Inbox,
        x: Matrix,
        y: &[Matrix],
        overlap: Overlap,
    ) -> Result<(), Error> {
        let mut arguments = self.arguments(stream, site, Some(x), Some(inbox))?;
        self.held.set_outputs(&mut arguments, y)?;
        // SAFETY: shapes were checked; the rest is the caller's promise.
        unsafe { self.launch(stream, &self.functions.pair, &arguments, overlap) }
    }

    /// The same beside the preceding launch of the stream, which reads the same x and makes `ready` its mark when it has
    /// seen x complete: [`crate::gemm::few_rows`] does. Complete no sooner than that launch.
    ///
    /// # Errors
    /// As [`LoadedPlan::pair`].
    ///
    /// # Safety
    /// As [`LoadedPlan::pair`] with [`Overlap::Programmatic`]. The preceding launch must make `ready` its mark, which it
    /// must not have been before; neither it nor anything that is not complete when x is may touch y.
    pub unsafe fn pair_beside(
        &self,
        stream: &Arc<CudaStream>,
        site: &Site,
        inbox: &mut Inbox,
        x: Matrix,
        y: &[Matrix],
        ready: Ready,
    ) -> Result<(), Error> {
        let mut arguments = self.arguments(stream, site, Some(x), Some(inbox))?;
        self.held.set_outputs(&mut arguments, y)?;
        arguments.ready = ready.address;
        arguments.mark = ready.mark;
        // SAFETY: shapes were checked; the rest is the caller's promise.
        unsafe { self.launch(stream, &self.functions.pair, &arguments, Overlap::Programmatic) }
    }

    /// v = x·A for every job of the plan, one v a projection: in fp32 as it was added up, whatever its size.
    ///
    /// # Errors
    /// As [`LoadedPlan::pair`].
    ///
    /// # Safety
    /// As [`LoadedPlan::pair`].
    pub unsafe fn shrink(
        &self,
        stream: &Arc<CudaStream>,
        site: &Site,
        inbox: &mut Inbox,
        x: Matrix,
        v: &[Intermediate],
        overlap: Overlap,
    ) -> Result<(), Error> {
        let mut arguments = self.arguments(stream, site, Some(x), Some(inbox))?;
        self.held.set_intermediates(&mut arguments, v)?;
        // SAFETY: shapes were checked; the rest is the caller's promise.
        unsafe { self.launch(stream, &self.functions.shrink, &arguments, overlap) }
    }

    /// y += scale·(v·B) for every job of the plan, as exact and as far as [`LoadedPlan::pair`] is.
    ///
    /// # Errors
    /// As [`LoadedPlan::pair`].
    ///
    /// # Safety
    /// As [`LoadedPlan::pair`].
    pub unsafe fn expand(
        &self,
        stream: &Arc<CudaStream>,
        site: &Site,
        v: &[Intermediate],
        y: &[Matrix],
        overlap: Overlap,
    ) -> Result<(), Error> {
        let mut arguments = self.arguments(stream, site, None, None)?;
        arguments.cluster = 0;
        self.held.set_intermediates(&mut arguments, v)?;
        self.held.set_outputs(&mut arguments, y)?;
        // SAFETY: shapes were checked; the rest is the caller's promise.
        unsafe { self.launch(stream, &self.functions.expand, &arguments, overlap) }
    }

    fn arguments(
        &self,
        stream: &Arc<CudaStream>,
        site: &Site,
        x: Option<Matrix>,
        inbox: Option<&mut Inbox>,
    ) -> Result<Arguments, Error> {
        let cells = inbox.map(|inbox| Cells { address: inbox.cells.device_ptr(stream).0, count: inbox.count });
        self.held.arguments(self.jobs.device_ptr(stream).0, site, x, cells)
    }

    /// # Safety
    /// The arguments must describe live device memory, as [`LoadedPlan::pair`] demands.
    unsafe fn launch(
        &self,
        stream: &Arc<CudaStream>,
        function: &CudaFunction,
        arguments: &Arguments,
        overlap: Overlap,
    ) -> Result<(), Error> {
        if self.held.capacity == 0 {
            return Ok(());
        }
        let mut attributes = Vec::with_capacity(2);
        if self.overlaps && overlap == Overlap::Programmatic {
            attributes.push(sys::CUlaunchAttribute {
                id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
                pad: [0; 4],
                value: sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
            });
        }
        if arguments.cluster != 0 {
            let dimension = sys::CUlaunchAttributeValue_union__bindgen_ty_1 { x: self.held.cluster, y: 1, z: 1 };
            attributes.push(sys::CUlaunchAttribute {
                id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
                pad: [0; 4],
                value: sys::CUlaunchAttributeValue { clusterDim: dimension },
            });
        }
        let config = sys::CUlaunchConfig {
            gridDimX: self.held.capacity,
            gridDimY: 1,
            gridDimZ: 1,
            blockDimX: self.held.variant.rows.threads(),
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: self.held.shared_bytes,
            hStream: stream.cu_stream(),
            attrs: attributes.as_mut_ptr(),
            numAttrs: attributes.len() as u32,
        };
        let mut parameters = [std::ptr::from_ref(arguments).cast_mut().cast::<c_void>()];
        // SAFETY: one parameter of the kernel's own layout; the attributes outlive the call.
        unsafe { sys::cuLaunchKernelEx(&config, function.cu_function(), parameters.as_mut_ptr(), std::ptr::null_mut()) }
            .result()
            .map_err(Error::driver("launching a LoRA kernel"))
    }

    /// Replaces the plan in place; launches captured with it then run the new one.
    ///
    /// # Errors
    /// [`Error::Shape`] if the new plan is for another site or variant, needs more blocks, shared memory or inbox than the
    /// first one had, or touches more rows than operands that it was launched with have.
    pub fn replace(&mut self, stream: &Arc<CudaStream>, plan: &Plan) -> Result<(), Error> {
        self.held.replace(plan)?;
        self.write(stream, plan)
    }

    /// Blocks that a launch has.
    pub fn capacity(&self) -> u32 {
        self.held.capacity
    }

    /// Dynamic shared memory that each block of a launch has: that of the plan it was loaded with, which a plan that replaces it may not need.
    pub fn shared_bytes(&self) -> u32 {
        self.held.shared_bytes
    }

    fn write(&mut self, stream: &Arc<CudaStream>, plan: &Plan) -> Result<(), Error> {
        let blank = (plan.jobs().len()..self.held.capacity.max(1) as usize).map(|_| Job::default());
        let bytes: Vec<u8> = plan.jobs().iter().copied().chain(blank).flat_map(Job::to_bytes).collect();
        stream.memcpy_htod(&bytes, &mut self.jobs).map_err(Error::driver("copying a LoRA plan"))
    }
}
