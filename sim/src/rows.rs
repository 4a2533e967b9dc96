//! The sequences in a replica's batch.
//!
//! Rows that decode grow together, a token a step: what a stretch of steps changes is one clock, not every row. A row that
//! decodes is written down relative to the clock; only who joins, leaves or is left out is touched. What every step reads of
//! a row is kept apart from what is read when it joins and leaves, so that a thousand replicas in turn touch little memory.

use crate::fact;
use crate::policy::Running;
use crate::replica::{SequenceKey, Waiting};
use crate::time::Time;
use crate::workload::{AdapterId, RequestId};

/// Who a row is.
#[derive(Clone, Copy, Debug)]
struct Who {
    request: RequestId,
    /// [`NONE`]: the base model.
    adapter: u32,
}

/// How a row is, if it is not like most: what is read of the rows that joined last.
#[derive(Clone, Copy, Debug)]
struct State {
    /// Position in [`Rows::cold`].
    cold: u32,
    flags: u32,
}

const NONE: u32 = u32::MAX;

/// Its prefill is not over.
const PREFILL: u32 = 1;
/// It decodes, and the step in flight goes on without it.
const LEFT_OUT: u32 = 2;
/// Its previous token did not come with the last step of the others: [`Cold::last_token`] has it.
const OWN_TOKEN: u32 = 4;
/// Cancelled while a step was in flight; its tokens of that step are discarded at the end of it.
const GHOST: u32 = 8;

/// What is read of a row when it joins, leaves or prefills.
#[derive(Clone, Debug)]
struct Cold {
    sequence: SequenceKey,
    arrival: Time,
    admitted: u64,
    /// Tokens to prefill: prompt and recomputed output.
    target: u32,
    /// Output tokens emitted when it joined.
    emitted: u32,
    /// Output tokens at which it finishes: fate, no policy sees it.
    output: u32,
    /// Output tokens that its client allows.
    max_tokens: u32,
    last_token: Option<Time>,
    /// KV blocks of its prefill.
    blocks: u32,
    /// Prefill tokens in the step that is being composed or in flight.
    drafted: u32,
}

/// A row that left the batch.
#[derive(Clone, Debug)]
pub(crate) struct Left {
    /// None: it was cancelled before.
    pub(crate) sequence: Option<SequenceKey>,
    pub(crate) running: Running,
    pub(crate) output: u32,
    pub(crate) last_token: Option<Time>,
    /// Length of the prompt alone.
    pub(crate) prompt: u32,
}

/// A row's part in the step that is being composed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    pub(crate) request: RequestId,
    pub(crate) adapter: Option<AdapterId>,
    /// Tokens whose KV was there before.
    pub(crate) computed: u32,
    /// Tokens computed in it; 0: it goes on without the row.
    pub(crate) tokens: u32,
    pub(crate) prefill: bool,
    /// Does the step emit a token for it?
    pub(crate) emits: bool,
}

/// The sequences in a batch, in order of admission.
#[derive(Debug)]
pub(crate) struct Rows {
    who: Vec<Who>,
    states: Vec<State>,
    /// Of each row: tokens whose KV is in memory; less the clock, if it decodes.
    contexts: Vec<u32>,
    /// Of each row: the clock at its last token, if it decodes.
    finishes: Vec<u32>,
    cold: Vec<Cold>,
    /// Positions in `cold` that are free.
    free: Vec<u32>,
    block_size: u32,
    /// Steps in which rows decoded, wrapping.
    clock: u32,
    /// When the last of them ended.
    last_end: Time,
    /// Rows that decode.
    decoding: u32,
    /// Do rows decode in the step that is being composed or in flight?
    stepping: bool,
    /// Of those that decode, how many does it leave out?
    left_out: u32,
    ghosts: u32,
    /// The first so many rows have no flags: only those that joined lately, and few others, have.
    settled: usize,
}

impl Rows {
    pub(crate) fn new(block_size: u32) -> Rows {
        Rows {
            who: Vec::new(),
            states: Vec::new(),
            contexts: Vec::new(),
            finishes: Vec::new(),
            cold: Vec::new(),
            free: Vec::new(),
            block_size,
            clock: 0,
            last_end: Time::ZERO,
            decoding: 0,
            stepping: false,
            left_out: 0,
            ghosts: 0,
            settled: 0,
        }
    }

    /// Takes memory for so many rows, what is read together side by side.
    pub(crate) fn reserve(&mut self, rows: usize) {
        self.who.reserve(rows);
        self.contexts.reserve(rows);
        self.finishes.reserve(rows);
        self.states.reserve(rows);
        self.cold.reserve(rows);
    }

    /// Reads a word of each line of what every step reads.
    pub(crate) fn warm(&self) -> u32 {
        let who = self.who.iter().step_by(8).fold(0, |sum, who| sum ^ who.adapter);
        let contexts = self.contexts.iter().step_by(16).fold(who, |sum, context| sum ^ context);
        let finishes = self.finishes.iter().step_by(16).fold(contexts, |sum, finish| sum ^ finish);
        self.states.last().map_or(finishes, |state| finishes ^ state.cold)
    }

    pub(crate) fn len(&self) -> usize {
        self.states.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.states.is_empty()
    }

    pub(crate) fn ghosts(&self) -> u32 {
        self.ghosts
    }

    /// Rows whose prefill is not over.
    pub(crate) fn prefilling(&self) -> u32 {
        self.states.len() as u32 - self.decoding
    }

    /// Rows that decode in the step that is being composed or in flight.
    pub(crate) fn stepping(&self) -> u32 {
        if self.stepping { self.decoding - self.left_out } else { 0 }
    }

    fn cold(&self, state: &State) -> &Cold {
        &self.cold[state.cold as usize]
    }

    /// Tokens of a row that decodes.
    fn context(&self, position: usize) -> u32 {
        self.contexts[position].wrapping_add(self.clock)
    }

    /// KV blocks of so many tokens.
    fn blocks_of(&self, tokens: u32) -> u32 {
        if self.block_size.is_power_of_two() {
            // A shift in place of a division: every row is asked in every step.
            (tokens >> self.block_size.trailing_zeros()) + u32::from(tokens & (self.block_size - 1) > 0)
        } else {
            tokens.div_ceil(self.block_size)
        }
    }

    fn decodes_in_step(&self, state: &State) -> bool {
        self.stepping && state.flags & (PREFILL | LEFT_OUT) == 0
    }

    /// Tokens of the row in the step that is being composed or in flight.
    pub(crate) fn drafted(&self, position: usize) -> u32 {
        let state = &self.states[position];
        if state.flags & PREFILL != 0 { self.cold(state).drafted } else { u32::from(self.decodes_in_step(state)) }
    }

    /// The row as policies see it.
    pub(crate) fn running(&self, position: usize) -> Running {
        let state = &self.states[position];
        let cold = self.cold(state);
        let (computed, emitted, kv_blocks) = if state.flags & PREFILL != 0 {
            (self.contexts[position], cold.emitted, cold.blocks)
        } else {
            let context = self.context(position);
            // The block of the step that runs now is taken.
            let held = self.blocks_of(context + u32::from(self.decodes_in_step(state)));
            (context, cold.output - self.finishes[position].wrapping_sub(self.clock), held)
        };
        Running {
            request: self.who[position].request,
            adapter: self.who[position].adapter(),
            arrival: cold.arrival,
            admitted: cold.admitted,
            computed,
            target: cold.target,
            emitted,
            max_tokens: cold.max_tokens,
            kv_blocks,
        }
    }

    /// All rows as policies see them.
    pub(crate) fn all(&self) -> impl ExactSizeIterator<Item = Running> + '_ {
        (0..self.states.len()).map(|position| self.running(position))
    }

    /// Live rows, and for each whether it decodes in the step in flight, and the length of its prompt.
    pub(crate) fn live(&self) -> impl Iterator<Item = (Running, bool, u32)> + '_ {
        let live = self.states.iter().enumerate().filter(|(_, state)| state.flags & GHOST == 0);
        live.map(|(position, state)| (self.running(position), self.decodes_in_step(state), self.cold(state).prompt()))
    }

    /// Where is the sequence?
    pub(crate) fn position(&self, request: RequestId) -> Option<usize> {
        let at = |&position: &usize| self.states[position].flags & GHOST == 0;
        let of = self.who.iter().enumerate().filter(|(_, who)| who.request == request);
        of.map(|(position, _)| position).find(at)
    }

    /// Whose row is it? None: nobody's any more.
    pub(crate) fn sequence(&self, position: usize) -> Option<SequenceKey> {
        let state = &self.states[position];
        (state.flags & GHOST == 0).then(|| self.cold(state).sequence)
    }

    /// When was the row's previous token there?
    pub(crate) fn last_token(&self, position: usize) -> Option<Time> {
        self.last_token_of(&self.states[position])
    }

    fn last_token_of(&self, state: &State) -> Option<Time> {
        if state.flags & OWN_TOKEN != 0 { self.cold(state).last_token } else { Some(self.last_end) }
    }

    /// A sequence of the queue joins the batch, and the step computes so many tokens of its prompt.
    pub(crate) fn join(&mut self, waiting: &Waiting, admitted: u64, blocks: u32, chunk: u32) {
        let cold = Cold {
            sequence: waiting.sequence,
            arrival: waiting.arrival,
            admitted,
            target: waiting.tokens,
            emitted: waiting.emitted,
            output: waiting.output,
            max_tokens: waiting.max_tokens,
            last_token: waiting.last_token,
            blocks,
            drafted: chunk,
        };
        let position = match self.free.pop() {
            Some(position) => {
                self.cold[position as usize] = cold;
                position
            }
            None => {
                self.cold.push(cold);
                self.cold.len() as u32 - 1
            }
        };
        let adapter = waiting.adapter.map_or(NONE, |adapter| adapter.0);
        self.who.push(Who { request: waiting.request, adapter });
        self.states.push(State { cold: position, flags: PREFILL | OWN_TOKEN });
        self.contexts.push(0);
        self.finishes.push(0);
    }

    /// Takes a row out.
    pub(crate) fn remove(&mut self, position: usize) -> Left {
        let state = self.states[position];
        let cold = self.cold(&state);
        let left = Left {
            sequence: (state.flags & GHOST == 0).then_some(cold.sequence),
            running: self.running(position),
            output: cold.output,
            last_token: self.last_token_of(&state),
            prompt: cold.prompt(),
        };
        self.decoding -= u32::from(state.flags & PREFILL == 0);
        self.left_out -= u32::from(state.flags & LEFT_OUT != 0);
        self.ghosts -= u32::from(state.flags & GHOST != 0);
        self.free.push(state.cold);
        self.settled -= usize::from(position < self.settled);
        self.who.remove(position);
        self.states.remove(position);
        self.contexts.remove(position);
        self.finishes.remove(position);
        left
    }

    /// The sequence is gone; its row stays until the step in flight is over.
    pub(crate) fn make_ghost(&mut self, position: usize) {
        self.states[position].flags |= GHOST;
        self.ghosts += 1;
        self.settled = self.settled.min(position);
    }

    // ---- Composing a step.

    /// Adds so many tokens of a prompt that is not over.
    pub(crate) fn draft_prefill(&mut self, position: usize, tokens: u32) -> Option<u32> {
        let state = self.states[position];
        let cold = &mut self.cold[state.cold as usize];
        if state.flags & PREFILL == 0 || cold.drafted > 0 {
            return None;
        }
        cold.drafted = tokens.min(cold.target - self.contexts[position]);
        Some(cold.drafted)
    }

    /// Positions of the rows whose prefill is not over.
    pub(crate) fn prefilling_positions(&self) -> impl Iterator<Item = usize> + '_ {
        let flagged = self.states.iter().enumerate().skip(self.settled);
        flagged
            .filter(|(_, state)| state.flags & PREFILL != 0)
            .map(|(position, _)| position)
            .take(self.prefilling() as usize)
    }

    /// Adds a token of every row that decodes, `budget` at most. Gives how many, and the KV blocks that they need.
    pub(crate) fn draft_decodes(&mut self, budget: u32) -> (u32, u32) {
        if self.stepping || self.decoding == 0 || budget == 0 {
            return (0, 0);
        }
        self.stepping = true;
        let mut count = 0;
        if budget < self.decoding {
            for state in self.states.iter_mut().filter(|state| state.flags & PREFILL == 0) {
                if count == budget {
                    state.flags |= LEFT_OUT;
                } else {
                    count += 1;
                }
            }
            self.left_out = self.decoding - budget;
            self.settled = 0;
        }
        (self.stepping(), self.step_blocks())
    }

    /// KV blocks that the rows of the step that begins now need beyond what they had before it.
    pub(crate) fn step_blocks(&self) -> u32 {
        if self.all_decode() {
            return self.full().map(u32::from).sum();
        }
        self.full().zip(&self.states).map(|(full, state)| u32::from(full && self.decodes_in_step(state))).sum()
    }

    /// KV blocks that the rows that decode, but are not in the step so far, would need.
    pub(crate) fn blocks_needed(&self) -> u32 {
        let counts = |state: &State| state.flags & PREFILL == 0 && !self.decodes_in_step(state);
        self.full().zip(&self.states).map(|(full, state)| u32::from(full && counts(state))).sum()
    }

    /// Of each row, if it decodes: does its next token need a new block?
    fn full(&self) -> impl Iterator<Item = bool> + '_ {
        let (clock, size) = (self.clock, self.block_size);
        let mask = if size.is_power_of_two() { Some(size - 1) } else { None };
        self.contexts.iter().map(move |context| {
            let context = context.wrapping_add(clock);
            mask.map_or_else(|| context % size, |mask| context & mask) == 0
        })
    }

    /// Rows that are in no step so far.
    pub(crate) fn undrafted(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.states.len()).filter(|&position| self.drafted(position) == 0)
    }

    // ---- In flight.

    /// Every row's part in the step.
    pub(crate) fn parts(&self) -> impl Iterator<Item = Part> + '_ {
        (0..self.states.len()).map(|position| self.part(position))
    }

    /// A row's part in the step.
    pub(crate) fn part(&self, position: usize) -> Part {
        let state = &self.states[position];
        let prefill = state.flags & PREFILL != 0;
        let (computed, tokens, emits) = if prefill {
            let (cold, context) = (self.cold(state), self.contexts[position]);
            (context, cold.drafted, context + cold.drafted >= cold.target)
        } else {
            (self.context(position), u32::from(self.decodes_in_step(state)), true)
        };
        Part {
            request: self.who[position].request,
            adapter: self.who[position].adapter(),
            computed,
            tokens,
            prefill,
            emits,
        }
    }

    /// Is every row in the step, and does it decode?
    pub(crate) fn all_decode(&self) -> bool {
        self.stepping && self.left_out == 0 && self.decoding as usize == self.states.len()
    }

    /// How many steps are left to the first that finishes, if every row decodes?
    pub(crate) fn steps_to_finish(&self) -> u32 {
        let clock = self.clock;
        self.finishes.iter().fold(u32::MAX, |least, finish| least.min(finish.wrapping_sub(clock)))
    }

    /// Do all rows that decode take part in the step?
    pub(crate) fn all_decodes_in_step(&self) -> bool {
        self.decoding == 0 || (self.stepping && self.left_out == 0)
    }

    /// Puts down the attended tokens of the rows that decode, all of which take part in the step. Gives their sum.
    pub(crate) fn write_contexts(&self, contexts: &mut Vec<u32>) -> u64 {
        let next = self.clock.wrapping_add(1);
        contexts.clear();
        let settled = if self.prefilling() == 0 { self.contexts.len() } else { self.settled };
        contexts.extend(self.contexts[..settled].iter().map(|context| context.wrapping_add(next)));
        let others = self.contexts[settled..].iter().zip(&self.states[settled..]);
        let decode = others.filter(|(_, state)| state.flags & PREFILL == 0);
        contexts.extend(decode.map(|(context, _)| context.wrapping_add(next)));
        contexts.iter().map(|context| u64::from(*context)).sum()
    }

    /// KV blocks that the rows of the step in flight take within `steps` steps, beyond those they have: the blocks of the first
    /// step were taken when it was composed.
    pub(crate) fn stretch_blocks(&self, steps: u32) -> u32 {
        if !self.stepping || steps <= 1 {
            return 0;
        }
        let next = self.clock.wrapping_add(1);
        let (more, size) = (steps - 1, self.block_size);
        if self.all_decode() && size.is_power_of_two() {
            // Of rows that each fill up a block: how many new ones do so many tokens begin?
            let (mask, shift) = (size - 1, size.trailing_zeros());
            let new = |context: &u32| ((context.wrapping_add(next).wrapping_sub(1) & mask) + more) >> shift;
            return self.contexts.iter().map(new).sum();
        }
        let new = |context: u32| self.blocks_of(context + more) - self.blocks_of(context);
        let rows = self.states.iter().zip(&self.contexts).filter(|(state, _)| self.decodes_in_step(state));
        rows.map(|(_, context)| new(context.wrapping_add(next))).sum()
    }

    /// The first `steps` steps in flight are over at `end`: counts them, and puts down who was in them and whose prefill ended. Gives
    /// the KV blocks that were taken, beyond those that the first step had.
    pub(crate) fn tell(
        &mut self,
        steps: u32,
        end: Time,
        rows: &mut Vec<fact::Row>,
        prefilled: &mut Vec<SequenceKey>,
    ) -> u32 {
        let blocks = self.stretch_blocks(steps);
        let stepping = self.stepping;
        let clock = if stepping { self.clock.wrapping_add(steps) } else { self.clock };
        let last_end = Some(self.last_end);
        let before = rows.len();
        // As if every row decoded as it did in the step before; those that do not are corrected below.
        rows.extend(self.who.iter().map(|who| fact::Row {
            request: who.request,
            adapter: who.adapter(),
            previous_token: last_end,
            tokens: u32::from(stepping),
            prefill: false,
            emits: true,
        }));
        let mut skipped = !stepping && self.decoding > 0;
        let flagged = self.states.iter_mut().enumerate().skip(self.settled).filter(|(_, state)| state.flags != 0);
        for (position, state) in flagged {
            let row = &mut rows[before + position];
            row.emits = state.flags & GHOST == 0;
            let cold = &mut self.cold[state.cold as usize];
            let (context, finish) = (&mut self.contexts[position], &mut self.finishes[position]);
            if state.flags & OWN_TOKEN != 0 {
                row.previous_token = cold.last_token;
            }
            if state.flags & PREFILL != 0 {
                (row.prefill, row.tokens) = (true, cold.drafted);
                if cold.drafted == 0 {
                    skipped = true;
                    continue;
                }
                *context += cold.drafted;
                row.emits &= *context >= cold.target;
                if row.emits {
                    cold.last_token = Some(end);
                    state.flags = OWN_TOKEN;
                    *context = context.wrapping_sub(clock);
                    *finish = clock.wrapping_add(cold.output - cold.emitted - 1);
                    self.decoding += 1;
                    prefilled.push(cold.sequence);
                }
            } else if stepping && state.flags & LEFT_OUT != 0 {
                // The clock goes on without it.
                row.tokens = 0;
                skipped = true;
                *context = context.wrapping_sub(steps);
                *finish = finish.wrapping_add(steps);
                cold.last_token = row.previous_token;
                state.flags |= OWN_TOKEN;
            } else if stepping && state.flags & OWN_TOKEN != 0 {
                state.flags &= !OWN_TOKEN;
            }
        }
        self.settled += self.states[self.settled..].iter().take_while(|state| state.flags == 0).count();
        if skipped {
            rows.retain(|row| row.tokens > 0);
        }
        if stepping {
            (self.clock, self.last_end) = (clock, end);
        }
        blocks
    }

    /// No step is in flight any more.
    pub(crate) fn end_step(&mut self) {
        self.stepping = false;
        if self.left_out > 0 {
            self.left_out = 0;
            self.states.iter_mut().for_each(|state| state.flags &= !LEFT_OUT);
        }
        if self.prefilling() > 0 {
            for state in self.states[self.settled..].iter().filter(|state| state.flags & PREFILL != 0) {
                self.cold[state.cold as usize].drafted = 0;
            }
        }
    }

    /// The first row from `position` on that is done or nobody's any more.
    pub(crate) fn next_over(&self, position: usize) -> Option<usize> {
        let done = |&position: &usize| {
            let state = &self.states[position];
            state.flags & GHOST != 0 || (self.finishes[position] == self.clock && state.flags & PREFILL == 0)
        };
        if self.ghosts > 0 {
            return (position..self.states.len()).find(done);
        }
        let candidates = self.finishes[position..].iter().enumerate().filter(|(_, finish)| **finish == self.clock);
        candidates.map(|(offset, _)| position + offset).find(done)
    }
}

impl Who {
    fn adapter(&self) -> Option<AdapterId> {
        (self.adapter != NONE).then_some(AdapterId(self.adapter))
    }
}

impl Cold {
    /// Length of the prompt alone.
    fn prompt(&self) -> u32 {
        self.target - self.emitted
    }
}
