//! cuBLAS, with a workspace of its own, so that its calls can be captured.
//!
//! Matrices are row-major, as everywhere in this crate; cuBLAS computes the transposed product of transposed operands.

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::cublas::sys;
use cudarc::driver::{CudaSlice, CudaStream, DevicePtr};

use crate::gpu::Gpu;
use crate::{Element, Error};

/// What NVIDIA recommends for Hopper.
const WORKSPACE_BYTES: usize = 32 << 20;

/// A handle on one stream.
#[derive(Debug)]
pub struct Cublas {
    handle: sys::cublasHandle_t,
    _workspace: CudaSlice<u8>,
    _stream: Arc<CudaStream>,
}

// SAFETY: a handle may be used from any thread, by one at a time; every use takes `&mut self`.
unsafe impl Send for Cublas {}

/// A 16-bit operand of a product: op(M) has the shape that the product wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operand {
    /// Device address, a multiple of 16.
    pub address: u64,
    /// Elements from one row of M to the next.
    pub stride: u32,
    /// Whether op transposes.
    pub transposed: bool,
    /// Elements from one M of a batch to the next; of no meaning for a batch of one.
    pub batch_stride: u64,
}

/// c\[rows\]\[columns\] = alpha · op(a)\[rows\]\[depth\] · op(b)\[depth\]\[columns\] + beta · c, `batch` times; sums in fp32.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Product {
    /// Format of a, b and c.
    pub element: Element,
    /// Rows of c.
    pub rows: u32,
    /// Columns of c.
    pub columns: u32,
    /// Columns of op(a).
    pub depth: u32,
    /// Left operand.
    pub a: Operand,
    /// Right operand.
    pub b: Operand,
    /// Result; never transposed.
    pub c: Operand,
    /// Factor of the product.
    pub alpha: f32,
    /// Factor of what c held.
    pub beta: f32,
    /// Products.
    pub batch: u32,
}

impl Operand {
    /// A matrix that is used as it is.
    pub fn plain(address: u64, stride: u32) -> Self {
        Operand { address, stride, transposed: false, batch_stride: 0 }
    }

    /// A matrix whose transpose is used.
    pub fn transposed(address: u64, stride: u32) -> Self {
        Operand { transposed: true, ..Operand::plain(address, stride) }
    }

    /// The same for a batch.
    #[must_use]
    pub fn every(self, batch_stride: u64) -> Self {
        Operand { batch_stride, ..self }
    }

    fn check(self, what: &str, rows: u32, columns: u32) -> Result<(), Error> {
        let width = if self.transposed { rows } else { columns };
        let why = if self.stride < width {
            format!("has rows of {}, the product needs {width}", self.stride)
        } else if self.address == 0 || !self.address.is_multiple_of(16) {
            format!("address {:#x} is null or not a multiple of 16", self.address)
        } else if self.stride > i32::MAX as u32 {
            format!("has rows of {}, more than cuBLAS takes", self.stride)
        } else {
            return Ok(());
        };
        Err(Error::shape(what, why))
    }

    fn operation(self) -> sys::cublasOperation_t {
        if self.transposed { sys::cublasOperation_t::CUBLAS_OP_T } else { sys::cublasOperation_t::CUBLAS_OP_N }
    }
}

fn blas(doing: &'static str, status: sys::cublasStatus_t) -> Result<(), Error> {
    match status {
        sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS => Ok(()),
        other => Err(Error::Blas { doing: doing.to_owned(), code: format!("{other:?}") }),
    }
}

impl Cublas {
    /// A handle whose calls run on this stream.
    ///
    /// # Errors
    /// [`Error::LibraryMissing`] without cuBLAS, [`Error::OutOfMemory`] without room for its workspace, [`Error::Blas`].
    pub fn new(gpu: &Gpu, stream: &Arc<CudaStream>) -> Result<Self, Error> {
        // SAFETY: asks the loader only.
        if !unsafe { sys::is_culib_present() } {
            return Err(Error::LibraryMissing {
                library: "cuBLAS (libcublas.so.13)",
                remedy: "install the CUDA toolkit or the package nvidia-cublas and put its lib folder on LD_LIBRARY_PATH",
            });
        }
        gpu.context().bind_to_thread().map_err(Error::driver("binding the GPU's context"))?;
        let workspace = gpu.allocate::<u8>(stream, WORKSPACE_BYTES, "the workspace of cuBLAS")?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: a valid out-pointer; a context is current.
        blas("starting", unsafe { sys::cublasCreate_v2(&mut handle) })?;
        let made = Cublas { handle, _workspace: workspace, _stream: stream.clone() };
        let address = made._workspace.device_ptr(stream).0;
        // SAFETY: the handle was made above; the stream and the workspace live as long as it does. The workspace
        // comes last: a new stream resets it.
        unsafe {
            blas("choosing the stream", sys::cublasSetStream_v2(handle, stream.cu_stream().cast()))?;
            blas("giving a workspace", sys::cublasSetWorkspace_v2(handle, address as *mut c_void, WORKSPACE_BYTES))?;
        }
        Ok(made)
    }

    /// cuBLAS's version number.
    ///
    /// # Errors
    /// [`Error::Blas`].
    pub fn version(&self) -> Result<i32, Error> {
        let mut version = 0;
        // SAFETY: a valid out-pointer.
        blas("asking for the version", unsafe { sys::cublasGetVersion_v2(self.handle, &mut version) })?;
        Ok(version)
    }

    /// Computes a product, or a batch of them. Nothing happens where the result is empty.
    ///
    /// # Errors
    /// [`Error::Shape`] if an operand cannot hold its matrix, [`Error::Blas`] if the library refuses.
    ///
    /// # Safety
    /// The operands must be live device memory of this GPU; c overlaps neither a nor b.
    pub unsafe fn multiply(&mut self, product: &Product) -> Result<(), Error> {
        let Product { rows, columns, depth, a, b, c, batch, .. } = *product;
        if rows == 0 || columns == 0 || batch == 0 {
            return Ok(());
        }
        a.check("a", rows, depth)?;
        b.check("b", depth, columns)?;
        c.check("c", rows, columns)?;
        let kind = match product.element {
            Element::F16 => sys::cudaDataType::CUDA_R_16F,
            Element::Bf16 => sys::cudaDataType::CUDA_R_16BF,
        };
        let (alpha, beta) = (&raw const product.alpha, &raw const product.beta);
        let compute = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        let algorithm = sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT;
        // SAFETY: shapes were checked; alpha and beta are read before the call returns; the rest is the caller's promise.
        // cᵀ = op(b)ᵀ·op(a)ᵀ, and a row-major matrix is its column-major transpose.
        let status = unsafe {
            sys::cublasGemmStridedBatchedEx(
                self.handle,
                b.operation(),
                a.operation(),
                columns as i32,
                rows as i32,
                depth as i32,
                alpha.cast(),
                b.address as *const c_void,
                kind,
                b.stride as i32,
                b.batch_stride as i64,
                a.address as *const c_void,
                kind,
                a.stride as i32,
                a.batch_stride as i64,
                beta.cast(),
                c.address as *mut c_void,
                kind,
                c.stride as i32,
                c.batch_stride as i64,
                batch as i32,
                compute,
                algorithm,
            )
        };
        blas("multiplying", status)
    }
}

impl Drop for Cublas {
    fn drop(&mut self) {
        // SAFETY: made by cublasCreate, destroyed once.
        unsafe { sys::cublasDestroy_v2(self.handle) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operands_that_cannot_hold_their_matrix_are_refused() {
        assert!(Operand::plain(256, 16).check("a", 4, 16).is_ok());
        assert!(Operand::transposed(256, 4).check("b", 4, 16).is_ok(), "16 rows of 4");
        assert!(Operand::plain(256, i32::MAX as u32).check("a", 4, 16).is_ok(), "the longest rows");
        for (bad, why) in [
            (Operand::plain(256, 15), "rows too short"),
            (Operand::transposed(256, 3), "columns too short"),
            (Operand::plain(0, 16), "null"),
            (Operand::plain(264, 16), "misaligned"),
            (Operand::plain(256, 1 << 31), "rows longer than cuBLAS's 31 bits"),
            (Operand::transposed(256, u32::MAX), "columns longer than that"),
        ] {
            assert!(matches!(bad.check("a", 4, 16), Err(Error::Shape { .. })), "{why}");
        }
    }
}
