//! Continuous batching of one adapter at a time, strictly in the order of the queue.
//!
//! Source: vLLM as Punica's benchmark drives it (bench_textgen_lora.py, `lora_vllm_backbone`): before each step at most one
//! request is added, the head of the queue, and only if its adapter is that of the requests that run; otherwise it waits
//! until they are done, and everybody behind it too. vLLM of that time computes a prompt in a step of its own.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{admit_whole, continue_prefills};
use crate::draft::Draft;
use crate::policy::{Batcher, Tunable};

/// The head of the queue joins if it has the adapter that runs; else all decode.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FcfsSameAdapter {}

impl Tunable for FcfsSameAdapter {
    const SOURCE: &'static str = "Punica artifact, benchmarks/bench_textgen_lora.py: vllm_backbone";
    const SUMMARY: &'static str = "the head of the queue joins only if it has the adapter that runs";
}

impl Batcher for FcfsSameAdapter {
    fn compose(&mut self, draft: &mut Draft<'_>) {
        if continue_prefills(draft, u32::MAX) > 0 {
            return;
        }
        let running = draft.running().next().map(|running| running.adapter);
        if draft.waiting_len() > 0
            && let Some(head) = draft.waiting(0)
            && running.is_none_or(|adapter| adapter == head.adapter)
            && admit_whole(draft, 0, &head).is_ok()
        {
            return;
        }
        draft.decode_all();
    }
}
