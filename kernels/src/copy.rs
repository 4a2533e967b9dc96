//! Adapters on their way from the host to the GPU.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, DevicePtr, PinnedHostSlice, sys};

use crate::Error;
use crate::gpu::Gpu;

/// Whether the GPU can fetch host memory by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HostMemory {
    /// Locked in place: the copy engine reads it, and a copy is asynchronous.
    Pinned,
    /// Ordinary memory: the driver stages it through pinned memory of its own, on the thread that asks.
    Pageable,
}

impl HostMemory {
    /// Both kinds.
    pub const ALL: [HostMemory; 2] = [HostMemory::Pinned, HostMemory::Pageable];

    /// `pinned` or `pageable`.
    pub fn name(self) -> &'static str {
        match self {
            HostMemory::Pinned => "pinned",
            HostMemory::Pageable => "pageable",
        }
    }
}

/// A buffer on the host that copies start from.
#[derive(Debug)]
pub struct HostBuffer {
    memory: Memory,
}

#[derive(Debug)]
enum Memory {
    Pinned(PinnedHostSlice<u8>),
    Pageable(Vec<u8>),
}

impl HostBuffer {
    /// A buffer with these contents.
    ///
    /// # Errors
    /// [`Error::Driver`] if so much memory cannot be pinned.
    pub fn new(gpu: &Gpu, kind: HostMemory, content: &[u8]) -> Result<Self, Error> {
        let memory = match kind {
            HostMemory::Pageable => Memory::Pageable(content.to_vec()),
            HostMemory::Pinned => {
                let doing = || format!("pinning {} bytes of host memory", content.len());
                // SAFETY: all of it is written below, before anything reads it.
                let mut memory = unsafe { gpu.context().alloc_pinned_with_flags::<u8>(content.len(), 0) }
                    .map_err(Error::driver(doing()))?;
                memory.as_mut_slice().map_err(Error::driver(doing()))?.copy_from_slice(content);
                Memory::Pinned(memory)
            }
        };
        Ok(HostBuffer { memory })
    }

    /// Which kind it is.
    pub fn kind(&self) -> HostMemory {
        match self.memory {
            Memory::Pinned(_) => HostMemory::Pinned,
            Memory::Pageable(_) => HostMemory::Pageable,
        }
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        match &self.memory {
            Memory::Pinned(memory) => memory.len(),
            Memory::Pageable(memory) => memory.len(),
        }
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn address(&self) -> Result<*const u8, Error> {
        match &self.memory {
            Memory::Pinned(memory) => memory.as_ptr().map_err(Error::driver("waiting for a pinned buffer")),
            Memory::Pageable(memory) => Ok(memory.as_ptr()),
        }
    }

    /// Copies the first `bytes` to the device in `pieces` of equal size, as loaders do that copy each matrix by
    /// itself. Asynchronous for pinned memory; for pageable memory it returns when the host buffer has been read.
    ///
    /// # Errors
    /// [`Error::Shape`] if a buffer is too small, [`Error::Driver`].
    ///
    /// # Safety
    /// Until the stream has got there, nothing else uses `to`, and a pinned buffer is neither dropped nor changed.
    pub unsafe fn copy_to(
        &self,
        stream: &Arc<CudaStream>,
        to: &mut CudaSlice<u8>,
        bytes: usize,
        pieces: usize,
    ) -> Result<(), Error> {
        if bytes > self.len() || bytes > to.len() || pieces == 0 {
            let why = format!("{bytes} bytes in {pieces} pieces, from {} to {}", self.len(), to.len());
            return Err(Error::shape("a copy to the device", why));
        }
        let target = to.device_ptr(stream).0;
        // SAFETY: the target holds `bytes`; the rest is the caller's promise.
        unsafe { self.copy_pieces(stream, target, bytes, pieces) }
    }

    /// The same to a device address.
    ///
    /// # Errors
    /// [`Error::Shape`] if this buffer is too small, [`Error::Driver`].
    ///
    /// # Safety
    /// The address has room for `bytes`. Until the stream has got there, nothing else uses them, and a pinned buffer is neither
    /// dropped nor changed.
    pub unsafe fn copy_to_address(&self, stream: &Arc<CudaStream>, target: u64, bytes: usize) -> Result<(), Error> {
        if bytes > self.len() {
            return Err(Error::shape("a copy to the device", format!("{bytes} bytes of {}", self.len())));
        }
        // SAFETY: the caller's promise.
        unsafe { self.copy_pieces(stream, target, bytes, 1) }
    }

    /// # Safety
    /// As [`HostBuffer::copy_to`], and `bytes` are here and there.
    unsafe fn copy_pieces(
        &self,
        stream: &Arc<CudaStream>,
        target: u64,
        bytes: usize,
        pieces: usize,
    ) -> Result<(), Error> {
        let source = self.address()?;
        let piece = bytes.div_ceil(pieces).max(1);
        for begin in (0..bytes).step_by(piece) {
            let length = piece.min(bytes - begin);
            // SAFETY: both buffers hold `bytes`; the rest is the caller's promise.
            unsafe {
                sys::cuMemcpyHtoDAsync_v2(target + begin as u64, source.add(begin).cast(), length, stream.cu_stream())
            }
            .result()
            .map_err(Error::driver("copying to the device"))?;
        }
        Ok(())
    }
}
