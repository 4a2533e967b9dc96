//! A fixed batch of consecutive requests with the same adapter, padded to its longest, until its longest is done.
//!
//! Source: the Hugging Face, DeepSpeed and FasterTransformer loops of Punica's benchmark (bench_textgen_lora.py): from the
//! head of the queue, requests with the head's adapter up to the batch size; prompts padded to the longest; every member
//! is computed until the last is done; every 16th decode step of the run also collects garbage and empties the
//! allocator's cache, within the measured time. No reordering, and nobody joins a batch that runs.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{admit_whole, continue_prefills};
use crate::draft::Draft;
use crate::policy::{Batcher, Tunable};
use crate::time::Span;

/// Static batches of consecutive requests with the same adapter.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StaticConsecutive {
    /// Are rows computed at the length of the longest member? Members that are done are computed in any case.
    pub pad_to_longest: bool,
    /// Every so many decode steps memory is collected; 0: never. The benchmark's loops have 16.
    pub gc_every: u32,
    /// How long one collection takes.
    pub gc_cost: Span,
    /// Members that the batch began with.
    #[serde(skip)]
    #[schemars(skip)]
    members: u32,
    /// The longest prompt among them.
    #[serde(skip)]
    #[schemars(skip)]
    longest: u32,
    /// Steps of the run so far that computed prompts.
    #[serde(skip)]
    #[schemars(skip)]
    prompt_steps: u64,
}

impl Default for StaticConsecutive {
    fn default() -> StaticConsecutive {
        StaticConsecutive {
            pad_to_longest: true,
            gc_every: 0,
            gc_cost: Span::ZERO,
            members: 0,
            longest: 0,
            prompt_steps: 0,
        }
    }
}

/// Beyond it, it is a slip, and a few steps fill the clock of a run.
const GC_COST_MAX: Span = Span::from_secs(3_600);

impl Tunable for StaticConsecutive {
    const SOURCE: &'static str = "Punica artifact, benchmarks/bench_textgen_lora.py: hf, ds, ft_backbone";
    const SUMMARY: &'static str = "a fixed batch of consecutive requests with one adapter, until its longest is done";

    fn validate(&self) -> Result<(), String> {
        if self.gc_every == 0 && !self.gc_cost.is_zero() {
            return Err(
                "`gc_cost` is set and `gc_every` is 0: say after how many decode steps memory is collected".to_owned()
            );
        }
        if self.gc_cost > GC_COST_MAX {
            return Err(format!(
                "`gc_cost` is {}: no collection of memory takes longer than {GC_COST_MAX}",
                self.gc_cost
            ));
        }
        Ok(())
    }
}

impl StaticConsecutive {
    /// Begins a batch with the head of the queue and those behind it that share its adapter.
    fn begin(&mut self, draft: &mut Draft<'_>) {
        (self.members, self.longest) = (0, 0);
        let mut adapter = None;
        let mut divided = false;
        for position in 0..draft.waiting_len() {
            let Some(queued) = draft.waiting(position) else { continue };
            if *adapter.get_or_insert(queued.adapter) != queued.adapter {
                break;
            }
            match admit_whole(draft, position, &queued) {
                Ok(tokens) => {
                    divided |= tokens < queued.tokens;
                    self.members += 1;
                    self.longest = self.longest.max(queued.tokens);
                }
                Err(_) => break,
            }
        }
        if self.members > 0 {
            self.prompt_steps += 1;
            // A prompt that no step can take whole is computed piece by piece, without padding.
            if self.pad_to_longest && !divided {
                draft.pad_to(self.longest);
            }
        }
    }

    fn decode(&mut self, draft: &mut Draft<'_>) {
        draft.decode_all();
        let Some(member) = draft.running().next() else { return };
        let length = self.longest + (member.computed - member.target) + 1;
        if self.pad_to_longest {
            draft.pad_to(length);
        }
        draft.pad(self.members.saturating_sub(draft.running_len() as u32), length);
        if self.gc_every > 0 {
            let decode_steps = draft.steps_done().saturating_sub(self.prompt_steps);
            let ahead = u64::from(self.gc_every) - 1 - decode_steps % u64::from(self.gc_every);
            match ahead {
                0 => draft.overhead(self.gc_cost),
                steps => draft.hold_for(steps as u32),
            }
        }
    }
}

impl Batcher for StaticConsecutive {
    fn compose(&mut self, draft: &mut Draft<'_>) {
        if continue_prefills(draft, u32::MAX) > 0 {
            self.prompt_steps += 1;
        } else if draft.running_len() > 0 {
            self.decode(draft);
        }
        if draft.running_len() == 0 {
            self.begin(draft);
        }
    }
}
