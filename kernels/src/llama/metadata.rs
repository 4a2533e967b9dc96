//! What a step copies to the GPU before its first launch.

use std::sync::Arc;

use cudarc::driver::{CudaStream, PinnedHostSlice, result};

use super::batch::{Batch, bucket};
use super::forward::Metrics;
use super::memory::Buffer;
use super::{LlamaSettings, Sequence};
use crate::Error;
use crate::attention::operands::BlockTable;
use crate::gpu::Gpu;

/// Tokens, positions, KV slots and sample slots of a step's rows, and behind them the block table, copied from pinned
/// memory. Where each begins depends on the bucket of rows alone, so that a captured graph finds the next step's in the
/// same place.
#[derive(Debug)]
pub(crate) struct Metadata {
    device: Buffer<u32>,
    host: PinnedHostSlice<u32>,
    /// Rows that the first part has room for.
    rows_max: u32,
    table_max: u32,
}

impl Metadata {
    pub(crate) fn new(gpu: &Gpu, stream: &Arc<CudaStream>, settings: &LlamaSettings) -> Result<Self, Error> {
        let rows_max = bucket(settings.rows_max);
        let table_max = settings.sequences_max * settings.context_max.div_ceil(settings.block_tokens);
        let words = 4 * rows_max as usize + table_max as usize;
        let device = Buffer::new(gpu, stream, words, "a step's metadata")?;
        // SAFETY: plain words, written before they are read.
        let host = unsafe { gpu.context().alloc_pinned::<u32>(words) }
            .map_err(Error::driver(format!("pinning {} bytes for metadata", words * 4)))?;
        Ok(Metadata { device, host, rows_max, table_max })
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

    /// KV blocks of all sequences.
    pub(crate) fn table(&self) -> BlockTable {
        BlockTable { address: self.device.address + u64::from(self.rows_max) * 16, entries: self.table_max }
    }

    /// Copies a step's metadata, in stream order. What was copied before must have been used.
    pub(crate) fn upload(
        &mut self,
        stream: &Arc<CudaStream>,
        batch: &Batch,
        sequences: &[Sequence<'_>],
        table: &[u32],
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
        let first = 4 * self.rows_max as usize;
        words[first..first + table.len()].copy_from_slice(table);
        for part in [0..4 * padded, first..first + table.len()] {
            let to = self.device.address + part.start as u64 * 4;
            // SAFETY: the device buffer is as long as the host's; pinned memory is not written again before the step is
            // done.
            unsafe { result::memcpy_htod_async(to, &words[part], stream.cu_stream()) }
                .map_err(Error::driver("copying metadata"))?;
        }
        Ok(())
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
}
