//! Whoever runs first, then the queue, until the step's tokens are spent: prompts are divided as the budget falls.
//!
//! Source: vLLM V1, v1/core/sched/scheduler.py: running sequences take what they need of `max_num_batched_tokens`; then
//! the queue in order, prompts in chunks. A request whose adapter would be one too many for the step (`max_loras`) is
//! skipped and lets later ones with a resident adapter pass; KV shortage stops the queue; a step that preempted admits
//! nobody. Vidur's sarathi admits in such a step as in any other (`admits_after_preemption`). vLLM takes KV blocks chunk by chunk, the draft takes those of the whole prompt at once.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::continue_prefills;
use crate::draft::{Draft, Refusal};
use crate::policy::{Batcher, Tunable, tunable};

/// Decode rows, prompts in progress, then the queue, within the token budget.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Chunked {
    /// Prompt tokens of one sequence in a step, at most; 0: as many as the budget has.
    pub long_prefill_token_threshold: u32,
    /// What happens to a request whose adapter finds no place.
    pub when_adapters_full: WhenAdaptersFull,
    /// The share of all KV blocks that an admission must leave free while others run. vLLM V1: 0; Vidur's sarathi: 0.01.
    pub watermark: f64,
    /// May a step that preempted admit whoever fits, the preempted too? vLLM V1's admits nobody; Vidur's sarathi whoever fits.
    pub admits_after_preemption: bool,
}

/// What happens to a request whose adapter finds no place among those of the step or on the GPU?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum WhenAdaptersFull {
    /// Others pass it.
    #[default]
    Skip,
    /// Nobody passes it: first come, first served at any price.
    Stop,
}

impl Tunable for Chunked {
    const SOURCE: &'static str = "vLLM V1, v1/core/sched/scheduler.py";
    const SUMMARY: &'static str =
        "decode rows, then prompts in chunks, within a token budget; full adapters are skipped";

    fn validate(&self) -> Result<(), String> {
        tunable::fraction("watermark", self.watermark)
    }
}

impl Batcher for Chunked {
    fn compose(&mut self, draft: &mut Draft<'_>) {
        let chunk = match self.long_prefill_token_threshold {
            0 => u32::MAX,
            tokens => tokens,
        };
        let preempted = draft.decode_all();
        continue_prefills(draft, chunk);
        if preempted > 0 && draft.tokens() > 0 && !self.admits_after_preemption {
            return;
        }
        let watermark = (f64::from(draft.settings().kv_blocks) * self.watermark) as u32;
        for position in 0..draft.waiting_len() {
            if watermark > 0
                && draft.running_len() > 0
                && let Some(queued) = draft.waiting(position)
                && draft.kv_blocks_free() < draft.kv_blocks_for(queued.tokens) + watermark
            {
                break;
            }
            match draft.admit_chunk(position, chunk) {
                Ok(_) | Err(Refusal::AdapterLoading | Refusal::Taken) => {}
                Err(Refusal::BatchAdapters | Refusal::AdapterMemory)
                    if self.when_adapters_full == WhenAdaptersFull::Skip => {}
                Err(_) => break,
            }
        }
    }
}
