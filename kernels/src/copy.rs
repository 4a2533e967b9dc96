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
    /// [`Error::Shape`] if a buffer is too small or there are no pieces, [`Error::Driver`].
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
        check(bytes, pieces, self.len(), to.len())?;
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
        // The target's room is the caller's promise.
        check(bytes, 1, self.len(), bytes)?;
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

/// Whether so many bytes are in a buffer and have room in another.
fn check(bytes: usize, pieces: usize, source_bytes: usize, target_bytes: usize) -> Result<(), Error> {
    if bytes > source_bytes || bytes > target_bytes || pieces == 0 {
        let why = format!("{bytes} bytes in {pieces} pieces, from {source_bytes} to {target_bytes}");
        return Err(Error::shape("a copy to the device", why));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_that_a_buffer_cannot_hold_is_refused() {
        check(100, 1, 100, 100).expect("all of both");
        check(0, 3, 0, 0).expect("nothing");
        for (bytes, pieces, source, target) in [(100, 1, 99, 200), (100, 1, 200, 99), (100, 0, 200, 200)] {
            let refused = check(bytes, pieces, source, target);
            assert!(matches!(refused, Err(Error::Shape { .. })), "{bytes} in {pieces} from {source} to {target}");
        }
    }
}
