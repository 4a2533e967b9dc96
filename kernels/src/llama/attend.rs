//! The attention plans of a step: one decode plan, replaced in place, and prefill plans of a few sizes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cudarc::driver::CudaStream;

use super::batch::Batch;
use super::{LlamaSettings, LlamaShape, Sequence};
use crate::Error;
use crate::attention::decode::{DecodeAttention, DecodeCapacity};
use crate::attention::layout::AttentionShape;
use crate::attention::operands::{BlockTable, KvCache};
use crate::attention::plan::{DecodePlan, DecodeSequence, DecodeTuning, PrefillPlan, PrefillSequence, PrefillTuning};
use crate::attention::prefill::{PrefillAttention, PrefillScratch};
use crate::gpu::Overlap;
use crate::lora::launch::Matrix;
use crate::lora::plan::Chip;
use crate::program::Compiler;

/// Prefill plans kept at once, the one used last at the end.
const PREFILLS_MAX: usize = 8;

#[derive(Debug)]
pub(crate) struct Attention {
    compiler: Compiler,
    chip: Chip,
    shape: AttentionShape,
    decode: DecodeAttention,
    prefills: Vec<PrefillAttention>,
    /// What pieces of prefill leave for one another.
    scratch: Arc<PrefillScratch>,
    /// What the step that was planned last has.
    decodes: bool,
    prefill: bool,
    /// What was spent on plans that are kept, since somebody asked.
    made: Duration,
}

impl Attention {
    pub(crate) fn new(
        compiler: &Compiler,
        stream: &Arc<CudaStream>,
        shape: &LlamaShape,
        settings: &LlamaSettings,
        chip: Chip,
    ) -> Result<Self, Error> {
        let LlamaShape { heads, kv_heads, head_dim, .. } = *shape;
        let shape = AttentionShape { element: settings.element, heads, kv_heads, head_dim };
        let nothing = DecodePlan::new(shape, &[], &[], chip, DecodeTuning::default())?;
        let workers = DecodePlan::workers_max(&shape, chip)?;
        let capacity = DecodeCapacity { workers, sequences: settings.sequences_max };
        let decode = DecodeAttention::load(compiler, stream, &nothing, capacity)?;
        let scratch = Arc::new(PrefillScratch::new(compiler, stream, shape)?);
        let compiler = compiler.clone();
        Ok(Attention {
            compiler,
            chip,
            shape,
            decode,
            prefills: Vec::new(),
            scratch,
            decodes: false,
            prefill: false,
            made: Duration::ZERO,
        })
    }

    /// Plans a step, and returns its block table: the KV blocks of all sequences, in row order.
    pub(crate) fn plan(
        &mut self,
        stream: &Arc<CudaStream>,
        batch: &Batch,
        sequences: &[Sequence<'_>],
    ) -> Result<Vec<u32>, Error> {
        let mut table = Vec::new();
        let (mut decode, mut prefill) = (Vec::new(), Vec::new());
        for place in &batch.places {
            let Sequence { tokens, prefix, blocks, .. } = sequences[place.sequence];
            let (row, tokens, at) = (place.rows.start, tokens.len() as u32, table.len() as u32);
            let context = prefix + tokens;
            table.extend_from_slice(&blocks[..context.div_ceil(16) as usize]);
            if tokens == 1 {
                decode.push(DecodeSequence { row, context, table: at });
            } else {
                prefill.push(PrefillSequence { row, tokens, prefix, table: at });
            }
        }
        self.decodes = !decode.is_empty();
        self.prefill = !prefill.is_empty();
        if self.decodes {
            let plan = DecodePlan::new(self.shape, &decode, &table, self.chip, DecodeTuning::default())?;
            self.decode.replace(stream, &plan)?;
        }
        if self.prefill {
            let plan = PrefillPlan::new(self.shape, &prefill, &table, self.chip, PrefillTuning::default())?;
            self.place_prefill(stream, &plan)?;
        }
        Ok(table)
    }

    /// What was spent on plans that are kept, since the last time this was asked.
    pub(crate) fn take_made(&mut self) -> Duration {
        std::mem::take(&mut self.made)
    }

    /// Puts a prefill plan at the end of the kept ones: in place of one of its size, or as a new one.
    fn place_prefill(&mut self, stream: &Arc<CudaStream>, plan: &PrefillPlan) -> Result<(), Error> {
        let pieces = plan.pieces().len() as u32;
        let capacity = pieces.next_multiple_of(if pieces > 16 { 16 } else { 4 });
        for index in (0..self.prefills.len()).rev() {
            let kept = &mut self.prefills[index];
            if (pieces..=capacity).contains(&kept.capacity()) && kept.replace(stream, plan).is_ok() {
                let kept = self.prefills.remove(index);
                self.prefills.push(kept);
                return Ok(());
            }
        }
        let began = Instant::now();
        let loaded = PrefillAttention::load(&self.compiler, stream, plan, capacity, &self.scratch)?;
        self.made += began.elapsed();
        if self.prefills.len() == PREFILLS_MAX {
            self.prefills.remove(0);
        }
        self.prefills.push(loaded);
        Ok(())
    }

    /// Attention of the planned step's sequences with one new token, if it has any.
    ///
    /// # Safety
    /// As [`DecodeAttention::launch`].
    pub(crate) unsafe fn decode(
        &self,
        stream: &Arc<CudaStream>,
        q: Matrix,
        cache: KvCache,
        table: BlockTable,
        out: Matrix,
        overlap: Overlap,
    ) -> Result<(), Error> {
        if !self.decodes {
            return Ok(());
        }
        // SAFETY: the caller's promise.
        unsafe { self.decode.launch(stream, q, cache, table, out, self.shape.softmax_scale(), overlap) }
    }

    /// Attention of the others, if it has any.
    ///
    /// # Safety
    /// As [`PrefillAttention::launch`].
    pub(crate) unsafe fn prefill(
        &self,
        stream: &Arc<CudaStream>,
        q: Matrix,
        cache: KvCache,
        table: BlockTable,
        out: Matrix,
        overlap: Overlap,
    ) -> Result<(), Error> {
        match self.prefills.last() {
            // SAFETY: the caller's promise.
            Some(prefill) if self.prefill => unsafe {
                prefill.launch(stream, q, cache, table, out, self.shape.softmax_scale(), overlap)
            },
            _ => Ok(()),
        }
    }
}
