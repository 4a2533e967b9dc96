//! Prompts alone every ten decode steps, as many as can be served to their caps without ever running out of memory.
//!
//! Source: S-LoRA (arXiv 2311.03285) and its code, router/req_queue.py and router/manager.py: a newcomer is admitted if the
//! largest demand for token slots that the batch can still reach, were everybody to use their cap, stays below the pool less
//! the slots of the adapters; adapters and KV share that pool (unified paging), where an adapter takes `rank · 4` slots. The
//! queue is served in order until somebody does not fit. With `adapters_per_batch` the requests of adapters that the batch
//! already uses go first (§5, adapter clustering).
//!
//! Caps decide: `max_tokens = "output"` offers requests as S-LoRA's benchmark does, who know how long they will be. Give the
//! adapters no memory of their own (`gpu_adapters = "unbounded"`), since this rule takes it out of the KV pool, and pages of one
//! token (`block_size = 1`): what a larger block leaves empty is not in the sum.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{admit_whole, continue_prefills};
use crate::draft::{Draft, Queued};
use crate::policy::{Batcher, Running, Tunable};
use crate::workload::AdapterId;

/// Prompts alone every few decode steps, with a place for every token to come.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SLora {
    /// Decode steps between two attempts to admit.
    pub max_wait_tokens: u32,
    /// With so many adapters in the batch, requests of these go first; 0: first come, first served.
    pub adapters_per_batch: u32,
    /// Token slots that an adapter takes for each of its ranks: its bytes of one rank over the KV bytes of one token. S-LoRA's 4
    /// is for adapters to q, k, v and o of a model whose heads all have keys and values of their own; it is about 10 for all
    /// seven matrices of Llama 2, and more where heads share them.
    pub token_slots_per_rank: u32,
    /// Steps done when the last prompts were over.
    #[serde(skip)]
    #[schemars(skip)]
    prefilled: u64,
}

impl Default for SLora {
    fn default() -> SLora {
        SLora { max_wait_tokens: 10, adapters_per_batch: 0, token_slots_per_rank: 4, prefilled: 0 }
    }
}

impl Tunable for SLora {
    const SOURCE: &'static str =
        "S-LoRA (arXiv 2311.03285), router/req_queue.py: _can_add_new_req, max_wait_tokens = 10";
    const SUMMARY: &'static str = "prompts alone every ten steps, admitted by a look-ahead over all outputs to come";
}

/// What a sequence holds and what it may still come to, token slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Demand {
    held: u64,
    left: u64,
}

impl Demand {
    fn of_running(row: &Running) -> Demand {
        let held = u64::from(row.computed.max(row.target)) + 1;
        Demand { held, left: u64::from(row.max_tokens.saturating_sub(row.emitted + 1)) }
    }

    fn of_queued(queued: &Queued) -> Demand {
        let left = u64::from(queued.max_tokens.saturating_sub(queued.emitted + 1));
        Demand { held: u64::from(queued.tokens) + 1, left }
    }
}

/// The most slots that these sequences ever hold at once, if each uses all that is left to it: when the one with the k-th
/// longest rest ends, the k with the longest have grown by that rest, and the others are gone.
fn peak(demands: &mut [Demand]) -> u64 {
    demands.sort_by_key(|demand| std::cmp::Reverse(demand.left));
    let mut held = 0;
    (1..).zip(demands.iter()).fold(0, |peak, (count, demand)| {
        held += demand.held;
        peak.max(held + demand.left * count)
    })
}

impl SLora {
    /// Admits whoever fits; gives how many.
    fn admit(&self, draft: &mut Draft<'_>) -> u32 {
        let pool = u64::from(draft.settings().kv_blocks) * u64::from(draft.settings().block_size);
        let mut demands: Vec<Demand> = draft.running().map(|row| Demand::of_running(&row)).collect();
        let mut adapters: BTreeSet<AdapterId> = draft.running().filter_map(|row| row.adapter).collect();
        let crowded = self.adapters_per_batch > 0 && adapters.len() >= self.adapters_per_batch as usize;
        let in_use = |draft: &Draft<'_>, position: usize| {
            draft.waiting(position).and_then(|queued| queued.adapter).is_some_and(|adapter| adapters.contains(&adapter))
        };
        let first: Vec<usize> = (0..draft.waiting_len()).filter(|&k| crowded && in_use(draft, k)).collect();
        let mut admitted = 0;
        // Each pass ends with the first that does not fit.
        for pass in [first, (0..draft.waiting_len()).collect()] {
            for position in pass {
                let Some(queued) = draft.waiting(position) else { continue };
                let newcomer = queued.adapter.filter(|adapter| !adapters.contains(adapter));
                let slots = |adapter: &AdapterId| u64::from(draft.rank(*adapter) * self.token_slots_per_rank);
                let of_adapters: u64 = adapters.iter().chain(&newcomer).map(slots).sum();
                demands.push(Demand::of_queued(&queued));
                // Alone it may have everything: its cap may be out of reach, but its output is not.
                if demands.len() > 1 && peak(&mut demands) >= pool.saturating_sub(of_adapters) {
                    let refused = Demand::of_queued(&queued);
                    let last = demands.iter().rposition(|demand| *demand == refused);
                    demands.remove(last.expect("it was just added"));
                    break;
                }
                match admit_whole(draft, position, &queued) {
                    Ok(_) => {
                        admitted += 1;
                        adapters.extend(newcomer);
                    }
                    Err(_) => return admitted,
                }
            }
        }
        admitted
    }
}

impl Batcher for SLora {
    fn compose(&mut self, draft: &mut Draft<'_>) {
        let steps = draft.steps_done();
        if continue_prefills(draft, u32::MAX) > 0 {
            self.prefilled = steps + 1;
            return;
        }
        let decoded = steps.saturating_sub(self.prefilled);
        let due = decoded >= u64::from(self.max_wait_tokens);
        if (due || draft.running_len() == 0) && self.admit(draft) > 0 {
            self.prefilled = steps + 1;
            return;
        }
        draft.decode_all();
        if draft.waiting_len() > 0 {
            // Every step of a batch frees or fills its future: once it is time, each is another attempt.
            let left = u64::from(self.max_wait_tokens).saturating_sub(decoded);
            draft.hold_for(u32::try_from(left).unwrap_or(u32::MAX));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_of_a_batch_is_reached_when_somebody_ends() {
        let demand = |held, left| Demand { held, left };
        // Alone: what it holds and all that is left.
        assert_eq!(peak(&mut [demand(10, 5)]), 15);
        // The short one ends after 2 steps, with 12 + 102 slots in use; the long one alone comes to 15 later.
        assert_eq!(peak(&mut [demand(10, 5), demand(100, 2)]), 114);
        // Long rests outlive it: 10 + 200 and 10 + 200 at the end.
        assert_eq!(peak(&mut [demand(10, 200), demand(100, 2), demand(10, 200)]), 420);
    }
}
