//! Prompts alone as long as any fits, else decode rows alone.
//!
//! Source: vLLM v0 (0.2 to 0.6, default scheduler without chunked prefill): the queue is served in order while prompts
//! fit the token budget, the sequence limit and KV memory above a watermark of 1 %; a request whose adapter would be one
//! too many (`max_loras`) is skipped. It keeps prompts undivided; one longer than the budget, which vLLM refuses, is
//! divided here.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{admit_whole, continue_prefills};
use crate::draft::{Draft, Refusal};
use crate::policy::{Batcher, Tunable, tunable};

/// Prompts alone, else decode rows alone.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PrefillFirst {
    /// Share of the KV blocks that a new prompt must leave free while others run.
    pub watermark: f64,
    /// Does the token budget count every prompt of a step as long as the longest? vLLM did so up to 0.2, and Vidur does.
    pub counts_padding: bool,
}

impl Default for PrefillFirst {
    fn default() -> PrefillFirst {
        PrefillFirst { watermark: 0.01, counts_padding: false }
    }
}

impl Tunable for PrefillFirst {
    const SOURCE: &'static str = "vLLM v0, core/scheduler.py and block manager (watermark 0.01)";
    const SUMMARY: &'static str = "prompts alone while any fits, else decode rows alone";

    fn validate(&self) -> Result<(), String> {
        tunable::fraction("watermark", self.watermark)
    }
}

impl Batcher for PrefillFirst {
    fn compose(&mut self, draft: &mut Draft<'_>) {
        let mut prompts = continue_prefills(draft, u32::MAX);
        let watermark = (f64::from(draft.settings().kv_blocks) * self.watermark) as u32;
        let mut longest = 0;
        for position in 0..draft.waiting_len() {
            let Some(queued) = draft.waiting(position) else { continue };
            let left = draft.kv_blocks_free().checked_sub(draft.kv_blocks_for(queued.tokens));
            // Alone, it may have everything: otherwise it would wait for ever.
            if draft.running_len() > 0 && left.is_none_or(|left| left < watermark) {
                break;
            }
            let padded = u64::from(longest.max(queued.tokens)) * u64::from(prompts + 1);
            if self.counts_padding && prompts > 0 && padded > u64::from(draft.settings().max_num_batched_tokens) {
                break;
            }
            match admit_whole(draft, position, &queued) {
                Ok(_) => {
                    prompts += 1;
                    longest = longest.max(queued.tokens);
                }
                Err(Refusal::BatchAdapters | Refusal::AdapterMemory | Refusal::AdapterLoading | Refusal::Taken) => {}
                Err(_) => break,
            }
        }
        if prompts == 0 {
            draft.decode_all();
        }
    }
}
