//! The sequences in a replica's batch.
//!
//! Rows that decode grow together, a token a step: what a stretch of steps changes is one clock, not every row. A row that
//! decodes is written down relative to the clock; only who joins, leaves or is left out is touched. What every step reads of
//! a row is kept apart from what is read when it joins and leaves, so that a thousand replicas in turn touch little memory.

mod drafted;
mod in_flight;

pub(crate) use self::in_flight::Told;
use crate::fact::Who;
use crate::fetch::{self, Room};
use crate::find;
use crate::policy::Running;
use crate::replica::{SequenceKey, Waiting};
use crate::residency::SlotId;
use crate::time::Time;
use crate::workload::{AdapterId, RequestId};

/// How a row is, if it is not like most: what is read of the rows that joined last. Flags in the low bits, and its position in
/// [`Rows::cold`] above them.
#[derive(Clone, Copy, Debug)]
struct State(u32);

impl State {
    fn new(cold: u32, flags: u32) -> State {
        assert!(cold <= u32::MAX >> FLAGS, "a batch of more than {} rows", u32::MAX >> FLAGS);
        State(cold << FLAGS | flags)
    }

    fn cold(self) -> usize {
        (self.0 >> FLAGS) as usize
    }

    /// Has it one of these flags?
    fn is(self, flags: u32) -> bool {
        self.0 & flags != 0
    }

    fn set(&mut self, flags: u32) {
        self.0 |= flags;
    }

    fn unset(&mut self, flags: u32) {
        self.0 &= !flags;
    }
}

/// How many there are.
const FLAGS: u32 = 4;
/// One of them.
const ANY: u32 = (1 << FLAGS) - 1;
/// Its prefill is not over.
const PREFILL: u32 = 1;
/// It decodes, and the step in flight goes on without it.
const LEFT_OUT: u32 = 2;
/// Its previous token did not come with the last step of the others: [`Cold::last_token`] has it.
const OWN_TOKEN: u32 = 4;
/// Cancelled while a step was in flight; its tokens of that step are discarded at the end of it.
const GHOST: u32 = 8;

/// What is read of a row when it joins, leaves or prefills: one line of memory.
#[derive(Clone, Debug)]
#[repr(align(64))]
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
    /// Where its adapter is.
    slot: SlotId,
}

/// A row that left the batch.
#[derive(Clone, Debug)]
pub(crate) struct Left {
    /// None: it was cancelled before.
    pub(crate) sequence: Option<SequenceKey>,
    pub(crate) running: Running,
    pub(crate) output: u32,
    pub(crate) last_token: Option<Time>,
    /// Tokens to prefill before its next one: prompt and emitted output.
    pub(crate) tokens: u32,
    /// Where its adapter is, if it uses one.
    pub(crate) slot: SlotId,
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
    /// The first so many got a token at the end of the stretch that was told last, as the first of it.
    same: usize,
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
            same: 0,
        }
    }

    /// Takes memory for so many rows: what every step reads. Gives where that is.
    pub(crate) fn reserve(&mut self, rows: usize) -> [Room; 4] {
        self.who.reserve(rows);
        self.contexts.reserve(rows);
        self.finishes.reserve(rows);
        self.states.reserve(rows);
        [Room::of(&self.who), Room::of(&self.contexts), Room::of(&self.finishes), Room::of(&self.states)]
    }

    /// Takes memory for what is read of so many rows when they join and leave.
    pub(crate) fn reserve_cold(&mut self, rows: usize) {
        self.cold.reserve(rows);
        self.free.reserve(rows);
    }

    /// Asks for what every step reads.
    pub(crate) fn fetch(&self) {
        fetch::list(&self.who);
        fetch::list(&self.contexts);
        fetch::list(&self.finishes);
        fetch::list(&self.states);
    }

    /// Asks for what is read of a row when it leaves.
    pub(crate) fn fetch_cold(&self, position: usize) {
        fetch::element(&self.cold, self.states[position].cold());
    }

    /// Rows that have, or may have, their first token with the step in flight, and those that finish with it if that is after so
    /// many steps.
    pub(crate) fn leaving(&self, finished: Option<u32>) -> impl Iterator<Item = usize> + '_ {
        let clock = self.clock.wrapping_add(finished.unwrap_or(0));
        let settled = &self.finishes[..if finished.is_some() { self.settled } else { 0 }];
        let first = find::next(settled, clock, 0);
        let done = std::iter::successors(first, move |position| find::next(settled, clock, position + 1));
        done.chain(self.settled..self.states.len())
    }

    /// Everybody, and how many of the first got a token at the end of the stretch that was told last, and go on.
    pub(crate) fn going_on(&self) -> (&[Who], usize) {
        (&self.who, self.same.min(self.settled))
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

    fn cold(&self, state: State) -> &Cold {
        &self.cold[state.cold()]
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

    fn decodes_in_step(&self, state: State) -> bool {
        self.stepping && !state.is(PREFILL | LEFT_OUT)
    }

    /// Tokens of the row in the step that is being composed or in flight.
    pub(crate) fn drafted(&self, position: usize) -> u32 {
        let state = self.states[position];
        if state.is(PREFILL) { self.cold(state).drafted } else { u32::from(self.decodes_in_step(state)) }
    }

    /// The row as policies see it.
    pub(crate) fn running(&self, position: usize) -> Running {
        let state = self.states[position];
        let cold = self.cold(state);
        let (computed, emitted, kv_blocks) = if state.is(PREFILL) {
            (self.contexts[position], cold.emitted, cold.blocks)
        } else {
            let context = self.context(position);
            // The block of the step that runs now is taken.
            let held = self.blocks_of(context + u32::from(self.decodes_in_step(state)));
            (context, cold.output - self.finishes[position].wrapping_sub(self.clock), held)
        };
        Running {
            request: self.who[position].request(),
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

    /// Live rows, and for each whether it decodes in the step in flight, and the tokens to prefill if it had to begin anew.
    pub(crate) fn live(&self) -> impl Iterator<Item = (Running, bool, u32)> + '_ {
        let live = self.states.iter().copied().enumerate().filter(|(_, state)| !state.is(GHOST));
        live.map(|(position, state)| {
            let running = self.running(position);
            let anew = self.cold(state).anew(running.emitted);
            (running, self.decodes_in_step(state), anew)
        })
    }

    /// Where is the sequence?
    pub(crate) fn position(&self, request: RequestId) -> Option<usize> {
        let at = |&position: &usize| !self.states[position].is(GHOST);
        let of = self.who.iter().enumerate().filter(|(_, who)| who.request() == request);
        of.map(|(position, _)| position).find(at)
    }

    /// Whose row is it? None: nobody's any more.
    pub(crate) fn sequence(&self, position: usize) -> Option<SequenceKey> {
        let state = self.states[position];
        (!state.is(GHOST)).then(|| self.cold(state).sequence)
    }

    /// Where is the row's adapter?
    pub(crate) fn slot(&self, position: usize) -> SlotId {
        self.cold(self.states[position]).slot
    }

    /// When was the row's previous token there?
    pub(crate) fn last_token(&self, position: usize) -> Option<Time> {
        self.last_token_of(self.states[position])
    }

    fn last_token_of(&self, state: State) -> Option<Time> {
        if state.is(OWN_TOKEN) { self.cold(state).last_token } else { Some(self.last_end) }
    }

    /// A sequence of the queue joins the batch, with its adapter in `slot`, and the step computes so many tokens of its prompt.
    pub(crate) fn join(&mut self, waiting: &Waiting, slot: SlotId, admitted: u64, blocks: u32, chunk: u32) {
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
            slot,
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
        self.who.push(Who::new(waiting.request, waiting.adapter));
        self.states.push(State::new(position, PREFILL | OWN_TOKEN));
        self.contexts.push(0);
        self.finishes.push(0);
    }

    /// Takes a row out.
    pub(crate) fn remove(&mut self, position: usize) -> Left {
        let state = self.states[position];
        let cold = self.cold(state);
        let running = self.running(position);
        let left = Left {
            sequence: (!state.is(GHOST)).then_some(cold.sequence),
            output: cold.output,
            last_token: self.last_token_of(state),
            tokens: cold.anew(running.emitted),
            running,
            slot: cold.slot,
        };
        self.decoding -= u32::from(!state.is(PREFILL));
        self.left_out -= u32::from(state.is(LEFT_OUT));
        self.ghosts -= u32::from(state.is(GHOST));
        self.free.push(state.cold() as u32);
        self.settled -= usize::from(position < self.settled);
        self.same = self.same.min(position);
        self.who.remove(position);
        self.states.remove(position);
        self.contexts.remove(position);
        self.finishes.remove(position);
        left
    }

    /// The sequence is gone; its row stays until the step in flight is over.
    pub(crate) fn make_ghost(&mut self, position: usize) {
        self.states[position].set(GHOST);
        self.ghosts += 1;
        self.settled = self.settled.min(position);
    }
}

impl Cold {
    /// Tokens to prefill if it has to begin anew with so many emitted.
    fn anew(&self, emitted: u32) -> u32 {
        self.target + (emitted - self.emitted)
    }
}
