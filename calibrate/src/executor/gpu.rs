//! The whole step of `aril-kernels` as a [`Stepper`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use aril_kernels::llama::{AdapterWeights, HostAdapter, Llama, Loading, Sequence, bucket};

use super::{Computed, Part, Room, Stepper};
use crate::error::CalibrateError;
use crate::machine::gpu::LlamaGpu;
use crate::machine::{Identity, MachineError};

/// Lengths of prompts that every rank is tried with before a run.
const PROMPTS: [u32; 6] = [16, 40, 128, 512, 2048, 8192];

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

    /// Runs steps of every kind that a run with so many decode rows and prompt tokens can come to, with and without adapters, so that
    /// kernels are compiled, products chosen, plans loaded and graphs captured before anything is timed.
    ///
    /// Graphs are kept by rows and by blocks of adapters: every bucket of rows meets every number of adapters that changes them much.
    ///
    /// # Errors
    /// When the machine fails.
    pub fn warm_up(&mut self, rows_max: u32, prompt_max: u32) -> Result<(), CalibrateError> {
        let slots = self.fill_slots()?;
        let settings = *self.llama.settings();
        let blocks: Vec<u32> = (0..settings.kv_blocks).collect();
        let most = (prompt_max + rows_max).min(settings.rows_max).min(settings.context_max);
        let tokens = vec![1; most as usize];
        // A prompt and its neighbours may come to any size.
        for rows in buckets(2, most) {
            self.run(&[prompt(rows, None, &tokens, &blocks)])?;
        }
        // Which kernel adds an adapter to a prompt follows from its rank and the prompt's length.
        for rows in PROMPTS.into_iter().filter(|&rows| rows <= most) {
            for slot in 0..slots.min(self.hosts.len() as u32) {
                self.run(&[prompt(rows, Some(slot), &tokens, &blocks)])?;
            }
        }
        // Short prompts beside decode rows, each with an adapter: another kernel than long ones.
        for decode in buckets(1, rows_max.min(settings.sequences_max)) {
            let mut sequences = decodes(decode, decode.min(slots), &blocks);
            // Behind theirs: a step writes to no block twice.
            let free = &blocks[decode as usize..];
            let rows = (decode + 24).min(most).min(free.len() as u32 * settings.block_tokens);
            sequences.push(prompt(rows, (slots > 0).then_some(0), &tokens, free));
            self.run(&sequences)?;
        }
        for rows in buckets(1, rows_max.min(settings.sequences_max)) {
            for adapters in std::iter::once(0).chain(adapters(rows.min(slots))) {
                let sequences = decodes(rows, adapters, &blocks);
                // The second replays what the first captured.
                self.run(&sequences)?;
                self.run(&sequences)?;
            }
        }
        Ok(())
    }

    fn run(&mut self, sequences: &[Sequence<'_>]) -> Result<(), CalibrateError> {
        self.llama.step(sequences).map(|_| ()).map_err(|error| CalibrateError::Machine(error.to_string()))
    }

    /// Puts an adapter into every slot, all ranks in turn; gives the number of slots, none without adapters.
    fn fill_slots(&mut self) -> Result<u32, CalibrateError> {
        let hosts: Vec<Arc<HostAdapter>> = self.hosts.values().cloned().collect();
        if hosts.is_empty() {
            return Ok(0);
        }
        let slots = self.llama.settings().adapter_slots;
        let failed = |error: aril_kernels::Error| CalibrateError::Machine(error.to_string());
        for slot in 0..slots {
            let loading = self.llama.begin_load(slot, &hosts[slot as usize % hosts.len()]).map_err(failed)?;
            self.llama.finish_load(loading).map_err(failed)?;
        }
        Ok(slots)
    }
}

/// The largest row count of each size that rows are padded to, from `least` to `most`.
fn buckets(least: u32, most: u32) -> Vec<u32> {
    let mut rows: Vec<u32> = (least..=most).filter(|&rows| rows == most || bucket(rows) != bucket(rows + 1)).collect();
    rows.dedup();
    rows
}

/// Numbers of adapters that so many rows are spread over: all few, every fourth of many.
fn adapters(most: u32) -> impl Iterator<Item = u32> {
    (1..=most).filter(move |&count| count <= 8 || count % 4 == 0 || count == most)
}

/// So many decode rows of a token, spread over so many adapters.
fn decodes(rows: u32, adapters: u32, blocks: &[u32]) -> Vec<Sequence<'_>> {
    let of = |row: u32| Sequence {
        tokens: &[1],
        prefix: 0,
        blocks: &blocks[row as usize..=row as usize],
        adapter: (adapters > 0).then(|| row % adapters.max(1)),
        sample: true,
    };
    (0..rows).map(of).collect()
}

/// A prompt of so many rows.
fn prompt<'a>(rows: u32, slot: Option<u32>, tokens: &'a [u32], blocks: &'a [u32]) -> Sequence<'a> {
    Sequence { tokens: &tokens[..rows as usize], prefix: 0, blocks, adapter: slot, sample: true }
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

    fn step(&mut self, parts: &[Part<'_>]) -> Result<Computed, MachineError> {
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
        let us = began.elapsed().as_secs_f64() * 1e6;
        let (device_us, made_us) = (result.device_us, result.made_us);
        Ok(Computed { us: (us - made_us).max(0.0), device_us, made_us, tokens: result.tokens })
    }
}

fn broken(error: aril_kernels::Error) -> MachineError {
    MachineError::Failed(error.to_string())
}
