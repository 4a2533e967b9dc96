//! What a step copies to the GPU before its first launch.

use std::sync::Arc;

use cudarc::driver::{CudaStream, PinnedHostSlice, result};

use super::batch::{Batch, bucket};
use super::forward::Metrics;
use super::memory::Buffer;
use super::{LlamaSettings, LlamaShape, Sequence};
use crate::Error;
use crate::gpu::{Gpu, Overlap};
use crate::program::{Compiler, Grid, Kernel};

/// Tokens, positions, KV slots and sample slots of a step's rows, copied in one piece from pinned memory. Where each
/// begins depends on the bucket of rows alone, so that a captured graph finds the next step's in the same place.
#[derive(Debug)]
pub(crate) struct Metadata {
    device: Buffer<u32>,
    host: PinnedHostSlice<u32>,
    simple: Kernel,
    context_max: u32,
}

#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct SimpleArguments {
    q: u64,
    out: u64,
    cache: u64,
    positions: u64,
    row_table: u64,
    tables: u64,
    heads: u32,
    kv_heads: u32,
    scale: f32,
    reserved: u32,
}

impl Metadata {
    pub(crate) fn new(
        gpu: &Gpu,
        stream: &Arc<CudaStream>,
        shape: &LlamaShape,
        settings: &LlamaSettings,
        compiler: &Compiler,
    ) -> Result<Self, Error> {
        let words = 5 * bucket(settings.rows_max) as usize
            + settings.sequences_max as usize * settings.context_max.div_ceil(settings.block_tokens) as usize;
        let device = Buffer::new(gpu, stream, words, "a step's metadata")?;
        // SAFETY: plain words, written before they are read.
        let host = unsafe { gpu.context().alloc_pinned::<u32>(words) }
            .map_err(Error::driver(format!("pinning {} bytes for metadata", words * 4)))?;
        let defines = vec![
            ("ELEMENT", settings.element.device_name().to_owned()),
            ("HEAD", shape.head_dim.to_string()),
        ];
        let simple = compiler.kernel("attention_simple.cu", defines, "attend")?;
        Ok(Metadata { device, host, simple, context_max: settings.context_max })
    }

    pub(crate) fn tokens(&self, _metrics: &Metrics) -> u64 {
        self.device.address
    }

    pub(crate) fn positions(&self, metrics: &Metrics) -> u64 {
        self.device.address + u64::from(metrics.padded) * 4
    }

    pub(crate) fn slots(&self, metrics: &Metrics) -> u64 {
        self.device.address + u64::from(metrics.padded) * 8
    }

    pub(crate) fn samples(&self, metrics: &Metrics) -> u64 {
        self.device.address + u64::from(metrics.padded) * 12
    }

    /// Copies a step's metadata, in stream order. What was copied before must have been used.
    pub(crate) fn upload(
        &mut self,
        stream: &Arc<CudaStream>,
        batch: &Batch,
        sequences: &[Sequence<'_>],
        metrics: &Metrics,
    ) -> Result<(), Error> {
        let padded = metrics.padded as usize;
        let rows = batch.rows(sequences, metrics.padded, 16);
        let words = self.host.as_mut_slice().map_err(Error::driver("writing metadata"))?;
        words[..padded].copy_from_slice(&rows.tokens);
        words[padded..2 * padded].copy_from_slice(&rows.positions);
        for (word, slot) in words[2 * padded..].iter_mut().zip(rows.slots.iter().chain(&rows.samples)) {
            *word = slot.cast_unsigned();
        }
        words[4 * padded..5 * padded].fill(0);
        let mut end = 5 * padded;
        for place in &batch.places {
            let sequence = &sequences[place.sequence];
            let blocks = (sequence.prefix as usize + sequence.tokens.len()).div_ceil(16);
            words[4 * padded + place.rows.start as usize..4 * padded + place.rows.end as usize]
                .fill((end - 5 * padded) as u32);
            words[end..end + blocks].copy_from_slice(&sequence.blocks[..blocks]);
            end += blocks;
        }
        // SAFETY: the device buffer is as long as the host's; pinned memory is not written again before the step is done.
        unsafe { result::memcpy_htod_async(self.device.address, &words[..end], stream.cu_stream()) }
            .map_err(Error::driver("copying metadata"))
    }

    /// The sampled tokens; waits for the step.
    pub(crate) fn sampled(
        &self,
        stream: &Arc<CudaStream>,
        tokens: &Buffer<u32>,
        count: u32,
    ) -> Result<Vec<u32>, Error> {
        let mut sampled = vec![0; count as usize];
        let copied = || Error::driver("copying sampled tokens");
        if count > 0 {
            stream.memcpy_dtoh(&tokens.slice.slice(..count as usize), &mut sampled).map_err(copied())?;
        }
        stream.synchronize().map_err(copied())?;
        Ok(sampled)
    }

    #[allow(clippy::too_many_arguments)]
    pub(crate) fn simple_attention(
        &self,
        stream: &CudaStream,
        shape: &LlamaShape,
        metrics: &Metrics,
        q: u64,
        out: u64,
        cache: u64,
        overlap: Overlap,
    ) -> Result<(), Error> {
        let arguments = SimpleArguments {
            q,
            out,
            cache,
            positions: self.positions(metrics),
            row_table: self.device.address + u64::from(metrics.padded) * 16,
            tables: self.device.address + u64::from(metrics.padded) * 20,
            heads: shape.heads,
            kv_heads: shape.kv_heads,
            scale: 1.0 / (shape.head_dim as f32).sqrt(),
            reserved: 0,
        };
        let shared_bytes = (self.context_max + shape.head_dim + 128) * 4;
        let grid = Grid { blocks: metrics.padded * shape.heads, threads: 128, shared_bytes };
        // SAFETY: buffers of the model; contexts are at most context_max.
        unsafe { self.simple.launch(stream, grid, &arguments, overlap) }
    }
}
