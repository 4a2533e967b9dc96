//! The whole step of `aril-kernels` as a [`Stepper`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use aril_kernels::llama::{AdapterWeights, HostAdapter, Llama, Loading, Sequence};

use super::{Part, Room, Stepper};
use crate::error::CalibrateError;
use crate::machine::gpu::LlamaGpu;
use crate::machine::{Identity, MachineError};

/// A Llama model on a GPU, driven step by step.
pub struct LlamaStepper {
    llama: Llama,
    identity: Identity,
    /// Adapters in pinned memory, one a rank: their bytes are what a copy costs.
    hosts: BTreeMap<u32, Arc<HostAdapter>>,
    loading: BTreeMap<u32, Loading>,
}

impl LlamaStepper {
    /// Opens the first GPU with a model, with so many adapter slots for ranks up to `rank_max`, and pins an adapter of each rank.
    ///
    /// # Errors
    /// As [`LlamaGpu::open`]; when slots or pinned memory do not fit.
    pub fn open(
        model: &str,
        tensor_parallel: u32,
        (slots, rank_max): (u32, u32),
        ranks: &[u32],
    ) -> Result<LlamaStepper, CalibrateError> {
        let (mut llama, identity) = LlamaGpu::open(model, tensor_parallel)?.into_llama();
        let failed = |error: aril_kernels::Error| CalibrateError::Machine(error.to_string());
        llama.cut_slots(slots.max(1), rank_max.max(1)).map_err(failed)?;
        let mut hosts = BTreeMap::new();
        for &rank in ranks {
            if let std::collections::btree_map::Entry::Vacant(entry) = hosts.entry(rank) {
                let weights = AdapterWeights::Random { seed: u64::from(rank) };
                entry.insert(llama.pin_adapter(rank, 1.0, weights).map_err(failed)?);
            }
        }
        Ok(LlamaStepper { llama, identity, hosts, loading: BTreeMap::new() })
    }

    /// What it runs on.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Runs a few steps of every size that so many decode rows and prompt tokens can come to, so that plans are made before anything is timed.
    ///
    /// # Errors
    /// When the machine fails.
    pub fn warm_up(&mut self, rows_max: u32, prompt_max: u32) -> Result<(), CalibrateError> {
        let blocks: Vec<u32> = (0..self.llama.settings().kv_blocks).collect();
        let failed = |error: aril_kernels::Error| CalibrateError::Machine(error.to_string());
        let mut done = 0;
        for rows in 1..=rows_max.min(self.llama.settings().sequences_max) {
            let padded = aril_kernels::llama::bucket(rows);
            if padded != done {
                let sequences: Vec<Sequence<'_>> = (0..rows as usize)
                    .map(|row| Sequence {
                        tokens: &[1],
                        prefix: 0,
                        blocks: &blocks[row..=row],
                        adapter: None,
                        sample: true,
                    })
                    .collect();
                for _ in 0..3 {
                    self.llama.step(&sequences).map_err(failed)?;
                }
                done = padded;
            }
        }
        // A prompt and its neighbours may come to any size: every bucket has its plans before the first request.
        let most = (prompt_max + rows_max).min(self.llama.settings().rows_max).min(self.llama.settings().context_max);
        let tokens = vec![1; most as usize];
        let mut done = 0;
        for rows in 2..=most {
            let padded = aril_kernels::llama::bucket(rows);
            if padded != done {
                let sequence = Sequence {
                    tokens: &tokens[..rows as usize],
                    prefix: 0,
                    blocks: &blocks,
                    adapter: None,
                    sample: true,
                };
                self.llama.step(&[sequence]).map_err(failed)?;
                done = padded;
            }
        }
        Ok(())
    }
}

impl Stepper for LlamaStepper {
    fn room(&self) -> Room {
        let settings = self.llama.settings();
        Room {
            kv_blocks: settings.kv_blocks,
            block_tokens: settings.block_tokens,
            slots: settings.adapter_slots,
            rank_max: settings.rank_max,
            vocab: self.llama.shape().vocab,
        }
    }

    fn begin_load(&mut self, slot: u32, rank: u32) -> Result<(), MachineError> {
        let host = self
            .hosts
            .get(&rank)
            .ok_or_else(|| MachineError::Failed(format!("no adapter of rank {rank} lies in host memory")))?;
        let loading = self.llama.begin_load(slot, host).map_err(broken)?;
        self.loading.insert(slot, loading);
        Ok(())
    }

    fn finish_load(&mut self, slot: u32) -> Result<f64, MachineError> {
        let loading = self
            .loading
            .remove(&slot)
            .ok_or_else(|| MachineError::Failed(format!("no copy into slot {slot} is on its way")))?;
        self.llama.finish_load(loading).map_err(broken)
    }

    fn step(&mut self, parts: &[Part<'_>]) -> Result<(f64, Vec<u32>), MachineError> {
        let began = Instant::now();
        let sequences: Vec<Sequence<'_>> = parts
            .iter()
            .map(|part| Sequence {
                tokens: part.tokens,
                prefix: part.prefix,
                blocks: part.blocks,
                adapter: part.slot,
                sample: part.sample,
            })
            .collect();
        let result = self.llama.step(&sequences).map_err(broken)?;
        Ok((began.elapsed().as_secs_f64() * 1e6, result.tokens))
    }
}

fn broken(error: aril_kernels::Error) -> MachineError {
    MachineError::Failed(error.to_string())
}
