//! Continuous batching of one adapter at a time, taking its requests out of the queue wherever they stand.
//!
//! Ours: the opponent that Punica's evaluation left out. Its vLLM baseline waits for the head of the queue; an engine that
//! may only run one adapter at a time would rather look for requests of that adapter. When they are done, or when its turn
//! is over and its batch has drained, another adapter has its turn. `turn` is LoRAX's `adapter_cycle_time_s` (2 s there).

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{admit_whole, continue_prefills};
use crate::draft::Draft;
use crate::policy::{Batcher, Tunable};
use crate::time::{Span, Time};
use crate::workload::AdapterId;

/// One adapter at a time, from anywhere in the queue.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RegroupByAdapter {
    /// Which adapter is next.
    pub next: NextAdapter,
    /// Requests admitted in a step, at most; 0: as many as fit.
    pub admissions_per_step: u32,
    /// Is a prompt computed in a step of its own, as by the vLLM of Punica's benchmark? Else beside the decode rows.
    pub prefill_alone: bool,
    /// How long an adapter may admit while others wait; `0s`: until none of its requests is left in the queue. Under an
    /// endless stream of requests for one adapter, the others starve without it.
    pub turn: Span,
    #[serde(skip)]
    #[schemars(skip)]
    turn_of: Option<Turn>,
}

#[derive(Clone, Copy, Debug)]
struct Turn {
    adapter: Option<AdapterId>,
    since: Time,
    /// Has nobody been admitted yet?
    loads: bool,
}

/// Which adapter has the next turn?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum NextAdapter {
    /// That of the head of the queue.
    #[default]
    OldestHead,
    /// The one with most requests in the queue; ties to the one whose first stands ahead.
    MostQueued,
}

impl Default for RegroupByAdapter {
    fn default() -> RegroupByAdapter {
        RegroupByAdapter {
            next: NextAdapter::OldestHead,
            admissions_per_step: 1,
            prefill_alone: true,
            turn: Span::ZERO,
            turn_of: None,
        }
    }
}

impl Tunable for RegroupByAdapter {
    const SOURCE: &'static str = "ours: the baseline that Punica's evaluation left out; turn as in LoRAX";
    const SUMMARY: &'static str = "one adapter at a time, its requests taken from anywhere in the queue";
}

impl RegroupByAdapter {
    fn next_adapter(&self, draft: &Draft<'_>) -> Option<Option<AdapterId>> {
        let queued = (0..draft.waiting_len()).filter_map(|position| draft.waiting(position));
        match self.next {
            NextAdapter::OldestHead => queued.map(|queued| queued.adapter).next(),
            NextAdapter::MostQueued => {
                let mut counts: BTreeMap<Option<AdapterId>, (u32, usize)> = BTreeMap::new();
                for (order, queued) in queued.enumerate() {
                    counts.entry(queued.adapter).or_insert((0, order)).0 += 1;
                }
                let most = counts.into_iter().max_by_key(|&(_, (count, first))| (count, std::cmp::Reverse(first)));
                most.map(|(adapter, _)| adapter)
            }
        }
    }

    /// Whose turn is it?
    fn choose(&mut self, draft: &Draft<'_>) -> Option<Turn> {
        if let Some(running) = draft.running().next() {
            // A sequence that came otherwise, such as by a migration into an empty batch, sets the turn.
            let turn = self.turn_of.filter(|turn| turn.adapter == running.adapter);
            return Some(turn.unwrap_or(Turn { adapter: running.adapter, since: draft.now(), loads: false }));
        }
        // An adapter that is being loaded keeps its turn as long as somebody waits for it.
        let waits = |adapter| (0..draft.waiting_len()).any(|p| draft.waiting(p).is_some_and(|q| q.adapter == adapter));
        if let Some(turn) = self.turn_of.filter(|turn| turn.loads && waits(turn.adapter)) {
            return Some(turn);
        }
        Some(Turn { adapter: self.next_adapter(draft)?, since: draft.now(), loads: true })
    }

    fn is_over(&self, since: Time, now: Time) -> bool {
        !self.turn.is_zero() && now >= since.saturating_add(self.turn)
    }

    fn admit(&mut self, draft: &mut Draft<'_>, turn: Turn) -> u32 {
        let others = || (0..draft.waiting_len()).any(|p| draft.waiting(p).is_some_and(|q| q.adapter != turn.adapter));
        if draft.running_len() > 0 && self.is_over(turn.since, draft.now()) && others() {
            return 0;
        }
        let mut admitted = 0;
        for position in 0..draft.waiting_len() {
            let Some(queued) = draft.waiting(position) else { continue };
            if queued.adapter != turn.adapter {
                continue;
            }
            if self.admissions_per_step > 0 && admitted >= self.admissions_per_step {
                break;
            }
            if admit_whole(draft, position, &queued).is_err() {
                break;
            }
            admitted += 1;
        }
        admitted
    }
}

impl Batcher for RegroupByAdapter {
    fn compose(&mut self, draft: &mut Draft<'_>) {
        let mut preempted = 0;
        if !self.prefill_alone {
            preempted = draft.decode_all();
        }
        let mut prompts = continue_prefills(draft, u32::MAX);
        if prompts == 0
            && (preempted == 0 || draft.tokens() == 0)
            && let Some(turn) = self.choose(draft)
        {
            prompts = self.admit(draft, turn);
            self.turn_of = Some(Turn { loads: turn.loads && prompts == 0, ..turn });
        }
        if self.prefill_alone && prompts == 0 {
            draft.decode_all();
        }
    }
}
