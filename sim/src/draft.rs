//! A batch under construction. It charges tokens, sequences, KV blocks and adapter residency, and it can refuse:
//! a batcher cannot corrupt the books.

use crate::fact::{Fact, LoadCause, Observer};
use crate::policy::{Evictor, LoadMode, Preemptor, Requeue, Running};
use crate::replica::{Replica, SequenceKey, SpareQueues, Waiting};
use crate::residency::{self, Copy, Loading, Room, SlotId, Weights, Wish};
use crate::settings::ReplicaSettings;
use crate::time::{Span, Time};
use crate::workload::{AdapterId, RequestId};

/// Why a draft refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The batch has `max_num_seqs` sequences.
    Sequences,
    /// The step has no token left, or not enough for an undivided prompt.
    Tokens,
    /// Not enough free KV blocks for the whole prompt.
    KvBlocks,
    /// The batch has `max_loras` distinct adapters, and this would be one more.
    BatchAdapters,
    /// No room for the adapter: everything on the GPU is in use.
    AdapterMemory,
    /// The adapter is on its way.
    AdapterLoading,
    /// It is in the draft already, or not in a state to be added.
    Taken,
}

/// A sequence in a replica's queue, as a batcher sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queued {
    /// Whose.
    pub request: RequestId,
    /// Its adapter.
    pub adapter: Option<AdapterId>,
    /// When its request reached the cluster.
    pub arrival: Time,
    /// Tokens to prefill: the prompt, and output that must be computed again.
    pub tokens: u32,
    /// Output tokens emitted before.
    pub emitted: u32,
    /// The client's cap on its output tokens.
    pub max_tokens: u32,
}

/// What changes besides the replica; the engine sees to it when the draft is done.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    pub(crate) copies: Vec<Copy>,
    pub(crate) admitted: Vec<SequenceKey>,
    pub(crate) refused: Vec<(SequenceKey, Refusal)>,
    pub(crate) preempted: Vec<GaveWay>,
    /// Only its memory is kept, from one draft to the next.
    pub(crate) room: Room,
    /// Of all replicas.
    pub(crate) queues: SpareQueues,
}

/// A sequence that was preempted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GaveWay {
    pub(crate) sequence: SequenceKey,
    /// Output tokens emitted, and when the last of them was there.
    pub(crate) emitted: u32,
    pub(crate) last_token: Option<Time>,
    /// Tokens of its prompt that are output from now on.
    pub(crate) cut: u32,
    pub(crate) requeue: Requeue,
}

impl Effects {
    pub(crate) fn clear(&mut self) {
        self.copies.clear();
        self.admitted.clear();
        self.refused.clear();
        self.preempted.clear();
    }
}

/// How the shape that is priced differs from the rows of the batch.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Distortion {
    /// Rows of padding, and the tokens that each attends to.
    pub(crate) padding: Option<(u32, u32)>,
    /// Prompts are computed, and decode rows attend, to at least so many tokens.
    pub(crate) length: Option<u32>,
    /// Whose segment all decode rows are counted to; none within: that of no adapter.
    pub(crate) decode_adapter: Option<Option<AdapterId>>,
    /// Rows that each prompt adds to its segment, however long it is.
    pub(crate) prompt_rows: Option<u32>,
}

impl Distortion {
    pub(crate) fn is_none(&self) -> bool {
        let Distortion { padding, length, decode_adapter, prompt_rows } = self;
        padding.is_none() && length.is_none() && decode_adapter.is_none() && prompt_rows.is_none()
    }
}

/// The next step of one replica, under construction.
pub struct Draft<'a> {
    pub(crate) now: Time,
    pub(crate) replica: &'a mut Replica,
    /// Is whoever is refused told why? Not if nothing changed since the batcher was last asked, and no prompt was in the step before: what
    /// it says then depends on when it is asked.
    pub(crate) tells: bool,
    pub(crate) weights: &'a Weights,
    pub(crate) evictor: &'a mut dyn Evictor,
    pub(crate) host_evictor: &'a mut dyn Evictor,
    pub(crate) preemptor: &'a mut dyn Preemptor,
    pub(crate) load_mode: LoadMode,
    pub(crate) observer: &'a mut dyn Observer,
    pub(crate) effects: &'a mut Effects,
    pub(crate) tokens: u32,
    pub(crate) stall: Span,
    pub(crate) overhead: Span,
    pub(crate) hold_steps: u32,
    pub(crate) distortion: Distortion,
}

impl Draft<'_> {
    /// What time is it?
    pub fn now(&self) -> Time {
        self.now
    }

    /// How is the replica set?
    pub fn settings(&self) -> &ReplicaSettings {
        &self.replica.settings
    }

    /// How many steps has the replica done since the start of the run?
    pub fn steps_done(&self) -> u64 {
        self.replica.steps
    }

    /// The sequences in the batch, in the order of their admission; those that this draft admits come last.
    pub fn running(&self) -> impl ExactSizeIterator<Item = Running> + '_ {
        self.replica.rows.all()
    }

    /// How many sequences are in the batch?
    pub fn running_len(&self) -> usize {
        self.replica.rows.len()
    }

    /// How many sequences are in the queue, those that this draft admits included?
    pub fn waiting_len(&self) -> usize {
        self.replica.waiting.len()
    }

    /// The sequence at this position of the queue; none if the draft has admitted it.
    pub fn waiting(&self, position: usize) -> Option<Queued> {
        let waiting = &self.replica.waiting[position];
        (!waiting.taken).then_some(Queued {
            request: waiting.request,
            adapter: waiting.adapter,
            arrival: waiting.arrival,
            tokens: waiting.tokens,
            emitted: waiting.emitted,
            max_tokens: waiting.max_tokens,
        })
    }

    /// Tokens in the draft so far.
    pub fn tokens(&self) -> u32 {
        self.tokens
    }

    /// Tokens that may still be added.
    pub fn tokens_left(&self) -> u32 {
        self.replica.settings.max_num_batched_tokens.saturating_sub(self.tokens)
    }

    /// Free KV blocks.
    pub fn kv_blocks_free(&self) -> u32 {
        self.replica.kv_free
    }

    /// KV blocks that `tokens` tokens take.
    pub fn kv_blocks_for(&self, tokens: u32) -> u32 {
        self.replica.blocks(tokens)
    }

    /// Rank of the adapter.
    pub fn rank(&self, adapter: AdapterId) -> u32 {
        self.weights.of(adapter).rank
    }

    /// Is the adapter in use by the batch?
    pub fn adapter_active(&self, adapter: AdapterId) -> bool {
        self.replica.residency.is_active(adapter)
    }

    /// Distinct adapters in use by the batch.
    pub fn adapters_active(&self) -> u32 {
        self.replica.residency.active()
    }

    /// Adds one token of every sequence that decodes. Where KV blocks run out, the preemptor says who gives way.
    /// Gives how many were preempted. A sequence for which the step has no token left is left out.
    pub fn decode_all(&mut self) -> usize {
        let preempted = self.make_blocks();
        let (rows, blocks) = self.replica.rows.draft_decodes(self.tokens_left());
        self.tokens += rows;
        let replica = &mut *self.replica;
        replica.kv_free = replica.kv_free.checked_sub(blocks).expect("blocks were made");
        preempted
    }

    fn make_blocks(&mut self) -> usize {
        let mut preempted = 0;
        loop {
            let rows = &self.replica.rows;
            let reserve = self.preemptor.reserve(rows.len() as u32);
            // Enough for everybody, without counting.
            if self.replica.kv_free >= reserve.max(rows.len() as u32) {
                return preempted;
            }
            let mut needed = rows.blocks_needed().max(reserve);
            let is_each = self.preemptor.each_finds_a_free_block();
            if self.replica.kv_free >= needed + u32::from(is_each) || rows.is_empty() {
                return preempted;
            }
            let positions: Vec<usize> = rows.undrafted().collect();
            let candidates: Vec<Running> = positions.iter().map(|&position| rows.running(position)).collect();
            if is_each && let Some(last) = last_of(&candidates) {
                // When its turn comes the others have theirs.
                let is_full = last.computed == last.kv_blocks * self.replica.settings.block_size;
                needed = needed.max(rows.blocks_needed() - u32::from(is_full) + 1);
            }
            if self.replica.kv_free >= needed {
                return preempted;
            }
            if candidates.is_empty() {
                return preempted;
            }
            let choice = self.preemptor.victim(&candidates);
            assert!(choice < candidates.len(), "a preemptor chose position {choice} of {}", candidates.len());
            self.preempt(positions[choice]);
            preempted += 1;
        }
    }

    fn preempt(&mut self, position: usize) {
        let row = self.replica.remove_row(self.now, position);
        let running = row.running;
        let cuts = self.preemptor.cuts_prompts() && !running.decodes();
        let cut = if cuts { running.target - running.computed } else { 0 };
        let fact =
            Fact::Preempted { request: running.request, replica: self.replica.id, blocks: running.kv_blocks, cut };
        self.observer.observe(self.now, &fact);
        let sequence = row.sequence.expect("a cancelled sequence leaves before the next step is composed");
        let requeue = self.preemptor.requeue();
        let (emitted, last_token) = (running.emitted, row.last_token);
        self.effects.preempted.push(GaveWay { sequence, emitted, last_token, cut, requeue });
        if requeue == Requeue::Replica {
            self.replica.put_waiting(
                Waiting {
                    sequence,
                    request: running.request,
                    adapter: running.adapter,
                    arrival: running.arrival,
                    tokens: row.tokens - cut,
                    emitted,
                    max_tokens: running.max_tokens.saturating_add(cut),
                    output: row.output + cut,
                    last_token,
                    since: self.now,
                    awaits: None,
                    refused: None,
                    taken: false,
                },
                true,
                &mut self.effects.queues,
            );
        }
    }

    /// Adds the next part, at most `tokens` tokens, of the prefill of the sequence at this position of the batch.
    /// Gives how many tokens it is.
    pub fn prefill(&mut self, position: usize, tokens: u32) -> Result<u32, Refusal> {
        let limit = tokens.min(self.tokens_left());
        let chunk = self.replica.rows.draft_prefill(position, limit).ok_or(Refusal::Taken)?;
        if chunk == 0 {
            return Err(Refusal::Tokens);
        }
        self.tokens += chunk;
        Ok(chunk)
    }

    /// Positions in the batch of the sequences whose prefill is not over, in order of admission.
    pub fn prefilling(&self) -> impl Iterator<Item = usize> + '_ {
        self.replica.rows.prefilling_positions()
    }

    /// Admits the sequence at this position of the queue with the whole of its prompt.
    pub fn admit(&mut self, position: usize) -> Result<u32, Refusal> {
        let whole = self.replica.waiting[position].tokens;
        if !self.replica.is_full() && whole > self.tokens_left() {
            return self.refuse(position, Refusal::Tokens);
        }
        self.admit_chunk(position, whole)
    }

    /// Admits the sequence at this position of the queue with the first part, at most `tokens` tokens, of its prompt.
    /// KV blocks are taken for the whole prompt at once. Gives how many tokens it is.
    ///
    /// A missing adapter is loaded: the step waits for it, or the sequence waits and the draft refuses, as the load path says.
    pub fn admit_chunk(&mut self, position: usize, tokens: u32) -> Result<u32, Refusal> {
        let waiting = &self.replica.waiting[position];
        if waiting.taken {
            return Err(Refusal::Taken);
        }
        let chunk = tokens.min(self.tokens_left()).min(waiting.tokens);
        if self.replica.is_full() {
            return self.refuse(position, Refusal::Sequences);
        }
        if chunk == 0 {
            return self.refuse(position, Refusal::Tokens);
        }
        let blocks = self.replica.blocks(waiting.tokens);
        if blocks > self.replica.kv_free {
            return self.refuse(position, Refusal::KvBlocks);
        }
        let slot = match waiting.adapter.map(|adapter| self.claim(position, adapter)) {
            None => SlotId::NONE,
            Some(Ok(slot)) => slot,
            Some(Err(refusal)) => return self.refuse(position, refusal),
        };
        self.enter(position, slot, chunk, blocks);
        Ok(chunk)
    }

    fn refuse(&mut self, position: usize, refusal: Refusal) -> Result<u32, Refusal> {
        // A full batch tells nothing new either, as long as nobody leaves.
        if self.tells && !matches!(refusal, Refusal::Sequences | Refusal::Taken) {
            let waiting = &mut self.replica.waiting[position];
            if waiting.refused != Some(refusal) {
                waiting.refused = Some(refusal);
                self.effects.refused.push((waiting.sequence, refusal));
            }
        }
        Err(refusal)
    }

    /// May the sequence use its adapter in this step? Gives where that is.
    fn claim(&mut self, position: usize, adapter: AdapterId) -> Result<SlotId, Refusal> {
        let residency = &self.replica.residency;
        if residency.active() >= self.replica.settings.max_loras && !residency.is_active(adapter) {
            return Err(Refusal::BatchAdapters);
        }
        let awaited = residency.awaited(self.replica.waiting[position].awaits);
        let slot = match awaited.or_else(|| residency.find(adapter)) {
            Some(slot) => slot,
            None => {
                let bytes = self.weights.of(adapter).bytes;
                let wish = Wish { adapter, bytes, cause: LoadCause::Demand };
                let loading = &mut Loading {
                    evictor: &mut *self.evictor,
                    host_evictor: &mut *self.host_evictor,
                    observer: &mut *self.observer,
                    copies: &mut self.effects.copies,
                    room: &mut self.effects.room,
                };
                let loaded = self.replica.residency.load(self.now, wish, loading);
                loaded.ok_or(Refusal::AdapterMemory)?
            }
        };
        let Some(ready) = self.replica.residency.coming(slot) else { return Ok(slot) };
        match self.load_mode {
            LoadMode::Blocking => {
                self.stall = self.stall.max(residency::wait(self.now, ready));
                Ok(slot)
            }
            LoadMode::Overlapped => {
                if awaited.is_none() {
                    let waiting = &mut self.replica.waiting[position];
                    waiting.awaits = Some(self.replica.residency.await_(slot, waiting.awaits));
                    // This copy is there at another time than the one before, if there was one.
                    waiting.refused = None;
                }
                Err(Refusal::AdapterLoading)
            }
        }
    }

    fn enter(&mut self, position: usize, slot: SlotId, chunk: u32, blocks: u32) {
        let replica = &mut *self.replica;
        let waiting = &mut replica.waiting[position];
        waiting.taken = true;
        replica.kv_free -= blocks;
        replica.admissions += 1;
        self.tokens += chunk;
        self.effects.admitted.push(waiting.sequence);
        let adapter = waiting.adapter;
        replica.rows.join(waiting, slot, replica.admissions, blocks, chunk);
        if let Some(adapter) = adapter {
            replica.acquire(self.now, adapter, slot, self.weights.of(adapter).rank);
        }
    }

    /// Adds `rows` rows of padding, each attending to `context` tokens: what a static batch computes for nobody. Like
    /// those of all rows, contexts of padding grow by a token a step while the batcher is not asked again.
    pub fn pad(&mut self, rows: u32, context: u32) {
        self.distortion.padding = Some((rows, context));
    }

    /// Prices the sequences of the step as if each had at least `tokens` tokens: a prompt is computed, and a decode row
    /// attends, to that length. What an engine pays that pads to the longest of a batch. The length grows by a token a step
    /// while the batcher is not asked again.
    pub fn pad_to(&mut self, tokens: u32) {
        self.distortion.length = Some(tokens);
    }

    /// Counts every decode row of the step to the segment of this adapter, whatever its own is: the fault of a program
    /// that multiplies them with wrong weights. Prices it; tokens and books are untouched.
    pub fn count_decodes_to(&mut self, adapter: Option<AdapterId>) {
        self.distortion.decode_adapter = Some(adapter);
    }

    /// Counts each prompt of the step as `rows` rows of its segment, however long it is: the fault of a program that
    /// adds the adapter to a part of the prompt only. Prices it; tokens and books are untouched.
    pub fn count_prompts_as(&mut self, rows: u32) {
        self.distortion.prompt_rows = Some(rows);
    }

    /// Makes the step longer by work that is no part of the model, and the step a stretch of its own.
    pub fn overhead(&mut self, span: Span) {
        self.overhead += span;
        self.hold_steps = 1;
    }

    /// Asks the batcher again after at most `steps` steps, even if nothing changed.
    pub fn hold_for(&mut self, steps: u32) {
        self.hold_steps = self.hold_steps.min(steps.max(1));
    }
}

/// The last to arrive of those that decode.
fn last_of(running: &[Running]) -> Option<&Running> {
    running.iter().filter(|one| one.decodes()).max_by_key(|one| (one.arrival, one.request))
}
