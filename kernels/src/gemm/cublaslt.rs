//! GEMMs through cuBLASLt: descriptors and the algorithm are kept, so that a call is one launch.

use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::sync::Arc;

use cudarc::cublaslt::result::CublasError;
use cudarc::cublaslt::{result, sys};
use cudarc::driver::{CudaEvent, CudaSlice, CudaStream, DevicePtr};

use super::{GemmShape, WeightOrder};
use crate::gpu::Gpu;
use crate::{Element, Error};

/// Bytes of workspace that an algorithm may use: enough for split sums of every shape of a Llama step.
const WORKSPACE_BYTES: usize = 64 << 20;

/// Algorithms that the library proposes for a shape and that are timed.
const CANDIDATES: usize = 16;

/// An opened cuBLASLt with a workspace. Launches of plans that share it must be ordered: one stream, or one after the
/// other.
#[derive(Debug)]
pub struct CublasLt {
    gpu: Gpu,
    handle: Handle,
    workspace: CudaSlice<u8>,
}

#[derive(Debug)]
struct Handle(sys::cublasLtHandle_t);
// SAFETY: the library says that a handle may be used from any thread.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

/// One shape with its algorithm.
#[derive(Debug)]
pub struct CublasLtPlan {
    shape: GemmShape,
    descriptor: Descriptor,
    algorithm: sys::cublasLtMatmulAlgo_t,
    workspace_bytes: usize,
    chosen: Chosen,
}

/// Which of the library's proposals a plan took, for the record.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Chosen {
    /// Its place among the proposals, from 0.
    pub proposal: usize,
    /// How many there were.
    pub proposals: usize,
    /// Microseconds a call on cold weights; `None` where the first proposal was taken untimed.
    pub us: Option<f64>,
}

/// The library's descriptors of one shape, destroyed on drop. Column-major: yᵀ\[outputs × rows\] = Wᵀ · xᵀ.
#[derive(Debug)]
struct Descriptor {
    matmul: sys::cublasLtMatmulDesc_t,
    weights: sys::cublasLtMatrixLayout_t,
    x: sys::cublasLtMatrixLayout_t,
    y: sys::cublasLtMatrixLayout_t,
}
// SAFETY: plain heap objects of the library, written only while they are made.
unsafe impl Send for Descriptor {}
// SAFETY: as above; a launch only reads them.
unsafe impl Sync for Descriptor {}

/// Buffers to time candidates on: weights of several layers, so that the L2 holds none of them when it is read.
#[derive(Debug, Clone, Copy)]
pub struct Trial<'a> {
    /// Weight matrices of the shape, device addresses.
    pub weights: &'a [u64],
    /// x.
    pub x: u64,
    /// y; overwritten.
    pub y: u64,
}

fn failed(doing: impl Into<String>) -> impl FnOnce(CublasError) -> Error {
    let doing = doing.into();
    move |code| Error::Blas { doing, code: format!("{:?}", code.0) }
}

impl CublasLt {
    /// Opens the library on a GPU.
    ///
    /// # Errors
    /// [`Error::LibraryMissing`] where there is none; too little memory for its workspace.
    pub fn open(gpu: &Gpu, stream: &Arc<CudaStream>) -> Result<Self, Error> {
        // SAFETY: asks the loader only.
        if !unsafe { sys::is_culib_present() } {
            return Err(Error::LibraryMissing {
                library: "cuBLASLt (libcublasLt.so.13 or .so.12)",
                remedy: "install the CUDA toolkit or the package nvidia-cublas and put its lib folder on LD_LIBRARY_PATH",
            });
        }
        gpu.context().bind_to_thread().map_err(Error::driver("binding the context"))?;
        let handle = Handle(result::create_handle().map_err(failed("opening the library"))?);
        let workspace = gpu.allocate(stream, WORKSPACE_BYTES, "the workspace of cuBLASLt")?;
        Ok(CublasLt { gpu: gpu.clone(), handle, workspace })
    }

    /// The library's version, as one number.
    pub fn version(&self) -> usize {
        // SAFETY: the library is loaded.
        unsafe { sys::cublasLtGetVersion() }
    }

    /// A plan for a shape. With `trial`, the library's proposals are timed, each on cold weights, and the quickest is
    /// taken; this waits for the GPU. Without, the first proposal is.
    ///
    /// # Errors
    /// [`Error::Blas`] if the library serves no such shape; [`Error::Shape`] for an empty one.
    ///
    /// # Safety
    /// The trial's addresses must be live matrices of the shape, 16-byte aligned, and unused until this returns.
    pub unsafe fn plan(
        &self,
        stream: &Arc<CudaStream>,
        shape: GemmShape,
        trial: Option<Trial<'_>>,
    ) -> Result<CublasLtPlan, Error> {
        if shape.rows == 0 || shape.inputs == 0 || shape.outputs == 0 {
            return Err(Error::shape(format!("{shape:?}"), "has no elements"));
        }
        self.gpu.context().bind_to_thread().map_err(Error::driver("binding the context"))?;
        let descriptor = Descriptor::new(shape)?;
        let proposals = self.proposals(&descriptor, shape)?;
        let mut plan = CublasLtPlan {
            shape,
            descriptor,
            algorithm: proposals[0].algo,
            workspace_bytes: proposals[0].workspaceSize,
            chosen: Chosen { proposal: 0, proposals: proposals.len(), us: None },
        };
        if let Some(trial) = trial.filter(|trial| !trial.weights.is_empty()) {
            // SAFETY: the caller's promise.
            unsafe { self.choose(stream, &mut plan, &proposals, trial)? };
        }
        Ok(plan)
    }

    fn proposals(
        &self,
        descriptor: &Descriptor,
        shape: GemmShape,
    ) -> Result<Vec<sys::cublasLtMatmulHeuristicResult_t>, Error> {
        let asked = || failed(format!("asking for an algorithm for {shape:?}"));
        let preference = result::create_matmul_pref().map_err(asked())?;
        let mut found: Vec<MaybeUninit<sys::cublasLtMatmulHeuristicResult_t>> = Vec::new();
        found.resize_with(CANDIDATES, MaybeUninit::uninit);
        let mut count = 0;
        // SAFETY: all descriptors are live; the attribute is a u64 of bytes; `found` holds CANDIDATES results.
        let status = unsafe {
            let attribute = sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
            let bytes = WORKSPACE_BYTES as u64;
            let set = result::set_matmul_pref_attribute(
                preference,
                attribute,
                std::ptr::from_ref(&bytes).cast(),
                size_of::<u64>(),
            );
            let asked = sys::cublasLtMatmulAlgoGetHeuristic(
                self.handle.0,
                descriptor.matmul,
                descriptor.weights,
                descriptor.x,
                descriptor.y,
                descriptor.y,
                preference,
                CANDIDATES as i32,
                found.as_mut_ptr().cast(),
                &mut count,
            );
            let destroyed = result::destroy_matmul_pref(preference);
            set.and(asked.result()).and(destroyed)
        };
        status.map_err(asked())?;
        let usable: Vec<_> = found
            .into_iter()
            .take(usize::try_from(count).unwrap_or(0))
            // SAFETY: the library filled the first `count`.
            .map(|result| unsafe { result.assume_init() })
            .filter(|result| result.state == sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS)
            .collect();
        if usable.is_empty() {
            return Err(asked()(CublasError(sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED)));
        }
        Ok(usable)
    }

    /// # Safety
    /// As [`CublasLt::plan`].
    unsafe fn choose(
        &self,
        stream: &Arc<CudaStream>,
        plan: &mut CublasLtPlan,
        proposals: &[sys::cublasLtMatmulHeuristicResult_t],
        trial: Trial<'_>,
    ) -> Result<(), Error> {
        let timed = || Error::driver("timing an algorithm");
        let event = || {
            let flags = cudarc::driver::sys::CUevent_flags::CU_EVENT_DEFAULT;
            self.gpu.context().new_event(Some(flags)).map_err(Error::driver("making an event"))
        };
        let (start, end): (CudaEvent, CudaEvent) = (event()?, event()?);
        let mut best: Option<(f64, usize)> = None;
        for (index, proposal) in proposals.iter().enumerate() {
            plan.algorithm = proposal.algo;
            plan.workspace_bytes = proposal.workspaceSize;
            let mut quickest = f64::INFINITY;
            for round in 0..4 {
                start.record(stream).map_err(timed())?;
                for &weights in trial.weights {
                    // SAFETY: the caller's promise.
                    unsafe { self.launch(stream, plan, weights, trial.x, trial.y, 0.0)? };
                }
                end.record(stream).map_err(timed())?;
                end.synchronize().map_err(timed())?;
                let us = f64::from(start.elapsed_ms(&end).map_err(timed())?) * 1e3 / trial.weights.len() as f64;
                // The first round loads the code.
                if round > 0 {
                    quickest = quickest.min(us);
                    // What is so far behind does not catch up.
                    if best.is_some_and(|(us, _)| quickest > us * 1.2) {
                        break;
                    }
                }
            }
            if best.is_none_or(|(us, _)| quickest < us) {
                best = Some((quickest, index));
            }
        }
        if let Some((us, index)) = best {
            plan.algorithm = proposals[index].algo;
            plan.workspace_bytes = proposals[index].workspaceSize;
            plan.chosen = Chosen { proposal: index, proposals: proposals.len(), us: Some(us) };
        }
        Ok(())
    }

    /// y = x·W + keep·y.
    ///
    /// # Errors
    /// [`Error::Blas`] if the launch is refused.
    ///
    /// # Safety
    /// The addresses must be live matrices of the plan's shape, 16-byte aligned, until the launch is complete; nothing
    /// else may use this library's workspace until then, unless it is ordered after it.
    pub unsafe fn launch(
        &self,
        stream: &Arc<CudaStream>,
        plan: &CublasLtPlan,
        weights: u64,
        x: u64,
        y: u64,
        keep: f32,
    ) -> Result<(), Error> {
        let one = 1.0_f32;
        let (workspace, _guard) = self.workspace.device_ptr(stream);
        let descriptor = &plan.descriptor;
        // SAFETY: descriptors are live and describe the matrices by the caller's promise; scalars are read at the call.
        unsafe {
            result::matmul(
                self.handle.0,
                descriptor.matmul,
                std::ptr::from_ref(&one).cast(),
                std::ptr::from_ref(&keep).cast(),
                weights as *const c_void,
                descriptor.weights,
                x as *const c_void,
                descriptor.x,
                y as *const c_void,
                descriptor.y,
                y as *mut c_void,
                descriptor.y,
                &plan.algorithm,
                workspace as *mut c_void,
                WORKSPACE_BYTES.min(plan.workspace_bytes.max(1)),
                stream.cu_stream().cast(),
            )
        }
        .map_err(failed(format!("multiplying {:?}", plan.shape)))
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: made by create_handle, destroyed once.
        let _ = unsafe { result::destroy_handle(self.0) };
    }
}

impl CublasLtPlan {
    /// The shape that it was made for.
    pub fn shape(&self) -> GemmShape {
        self.shape
    }

    /// Which proposal it runs.
    pub fn chosen(&self) -> Chosen {
        self.chosen
    }
}

impl Descriptor {
    fn new(shape: GemmShape) -> Result<Self, Error> {
        let made = || failed(format!("describing {shape:?}"));
        let kind = match shape.element {
            Element::F16 => sys::cudaDataType::CUDA_R_16F,
            Element::Bf16 => sys::cudaDataType::CUDA_R_16BF,
        };
        let mut descriptor = Descriptor {
            matmul: std::ptr::null_mut(),
            weights: std::ptr::null_mut(),
            x: std::ptr::null_mut(),
            y: std::ptr::null_mut(),
        };
        let compute = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        descriptor.matmul = result::create_matmul_desc(compute, sys::cudaDataType::CUDA_R_32F).map_err(made())?;
        let (rows, inputs, outputs) = (u64::from(shape.rows), u64::from(shape.inputs), u64::from(shape.outputs));
        let layout = |rows, columns, stride: u32| {
            result::create_matrix_layout(kind, rows, columns, i64::from(stride)).map_err(made())
        };
        let transposed = shape.weights == WeightOrder::OutputsInputs;
        descriptor.weights =
            if transposed { layout(inputs, outputs, shape.inputs)? } else { layout(outputs, inputs, shape.outputs)? };
        descriptor.x = layout(inputs, rows, shape.x_stride)?;
        descriptor.y = layout(outputs, rows, shape.y_stride)?;
        // CUBLAS_OP_T or CUBLAS_OP_N.
        let operation = i32::from(transposed);
        // SAFETY: the descriptor is live; the attribute is one of the operation type.
        unsafe {
            result::set_matmul_desc_attribute(
                descriptor.matmul,
                sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA,
                std::ptr::from_ref(&operation).cast(),
                size_of_val(&operation),
            )
        }
        .map_err(made())?;
        Ok(descriptor)
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: each was made by its create function and is destroyed once; null where making it failed.
        unsafe {
            for layout in [self.weights, self.x, self.y] {
                if !layout.is_null() {
                    let _ = result::destroy_matrix_layout(layout);
                }
            }
            if !self.matmul.is_null() {
                let _ = result::destroy_matmul_desc(self.matmul);
            }
        }
    }
}
