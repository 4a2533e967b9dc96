//! Rows in flight: what the step is to the hardware, and what it did to them when it is over.

use super::{ANY, GHOST, LEFT_OUT, OWN_TOKEN, PREFILL, Part, Rows};
use crate::fact::{self, Who};
use crate::find;
use crate::replica::SequenceKey;
use crate::time::Time;

/// What is told of the rows of a stretch. One for all replicas: only its memory is kept.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// Whose prefill ended.
    pub(crate) prefilled: Vec<SequenceKey>,
    /// How many of the first are the first of the stretch before, and go on?
    pub(crate) same_rows: u32,
    previous_token: Time,
    apart: Vec<(u32, fact::Row)>,
    /// Everybody, where somebody of the batch is left out.
    listed: Vec<fact::Row>,
    is_listed: bool,
}

impl Told {
    /// The rows, of a batch of these.
    pub(crate) fn rows<'a>(&'a self, who: &'a [Who]) -> fact::Rows<'a> {
        if self.is_listed {
            return fact::Rows::Listed(&self.listed);
        }
        fact::Rows::GoingOn { who, previous_token: self.previous_token, apart: &self.apart }
    }
}

impl Rows {
    /// Every row's part in the step.
    pub(crate) fn parts(&self) -> impl Iterator<Item = Part> + '_ {
        (0..self.states.len()).map(|position| self.part(position))
    }

    /// A row's part in the step.
    pub(crate) fn part(&self, position: usize) -> Part {
        let state = self.states[position];
        let prefill = state.is(PREFILL);
        let (computed, tokens, emits) = if prefill {
            let (cold, context) = (self.cold(state), self.contexts[position]);
            (context, cold.drafted, context + cold.drafted >= cold.target)
        } else {
            (self.context(position), u32::from(self.decodes_in_step(state)), true)
        };
        Part {
            request: self.who[position].request(),
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

    /// Puts down the attended tokens of the rows that decode, all of which take part in the step. Gives their sum and the most.
    pub(crate) fn write_contexts(&self, contexts: &mut Vec<u32>) -> (u64, u32) {
        let next = self.clock.wrapping_add(1);
        contexts.clear();
        let settled = if self.prefilling() == 0 { self.contexts.len() } else { self.settled };
        contexts.extend(self.contexts[..settled].iter().map(|context| context.wrapping_add(next)));
        let others = self.contexts[settled..].iter().zip(&self.states[settled..]);
        let decode = others.filter(|(_, state)| !state.is(PREFILL));
        contexts.extend(decode.map(|(context, _)| context.wrapping_add(next)));
        contexts.iter().fold((0, 0), |(sum, most), &context| (sum + u64::from(context), most.max(context)))
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
        let rows = self.states.iter().zip(&self.contexts).filter(|(state, _)| self.decodes_in_step(**state));
        rows.map(|(_, context)| new(context.wrapping_add(next))).sum()
    }

    /// The first `steps` steps in flight are over at `end`: counts them, and puts down what is told of them. Gives the KV blocks that
    /// were taken, beyond those that the first step had.
    pub(crate) fn tell(&mut self, steps: u32, end: Time, told: &mut Told) -> u32 {
        told.apart.clear();
        told.listed.clear();
        told.prefilled.clear();
        let blocks = self.stretch_blocks(steps);
        let stepping = self.stepping;
        let clock = if stepping { self.clock.wrapping_add(steps) } else { self.clock };
        let last_end = self.last_end;
        // Does whoever decodes from here on have a token at the end of this?
        let shared = stepping || self.decoding == 0;
        let mut skipped = !stepping && self.decoding > 0;
        told.same_rows = if stepping { self.going_on().1 as u32 } else { 0 };
        let flagged = self.states.iter_mut().enumerate().skip(self.settled).filter(|(_, state)| state.is(ANY));
        for (position, state) in flagged {
            let cold = &mut self.cold[state.cold()];
            let (context, finish) = (&mut self.contexts[position], &mut self.finishes[position]);
            let who = &self.who[position];
            let mut row = fact::Row {
                request: who.request(),
                adapter: who.adapter(),
                previous_token: if state.is(OWN_TOKEN) { cold.last_token } else { Some(last_end) },
                tokens: u32::from(stepping),
                prefill: false,
                emits: !state.is(GHOST),
            };
            if state.is(PREFILL) {
                (row.prefill, row.tokens) = (true, cold.drafted);
                if cold.drafted > 0 {
                    *context += cold.drafted;
                    row.emits &= *context >= cold.target;
                    if row.emits {
                        cold.last_token = Some(end);
                        state.unset(ANY);
                        if !shared {
                            state.set(OWN_TOKEN);
                        }
                        *context = context.wrapping_sub(clock);
                        *finish = clock.wrapping_add(cold.output - cold.emitted - 1);
                        self.decoding += 1;
                        told.prefilled.push(cold.sequence);
                    }
                }
            } else if stepping && state.is(LEFT_OUT) {
                // The clock goes on without it.
                row.tokens = 0;
                *context = context.wrapping_sub(steps);
                *finish = finish.wrapping_add(steps);
                cold.last_token = row.previous_token;
                state.set(OWN_TOKEN);
            } else if stepping && state.is(OWN_TOKEN) {
                state.unset(OWN_TOKEN);
            }
            skipped |= row.tokens == 0;
            told.apart.push((position as u32, row));
        }
        self.settled += self.states[self.settled..].iter().take_while(|state| !state.is(ANY)).count();
        told.previous_token = last_end;
        self.same = if shared { self.settled } else { 0 };
        told.is_listed = false;
        if skipped {
            let everybody = told.rows(&self.who);
            let takes_part = |row: &fact::Row| row.tokens > 0;
            told.listed = if stepping {
                everybody.iter().filter(takes_part).collect()
            } else {
                everybody.apart().copied().filter(takes_part).collect()
            };
            told.is_listed = true;
        }
        if stepping {
            self.clock = clock;
        }
        if shared {
            self.last_end = end;
        }
        blocks
    }

    /// Who is in the batch?
    pub(crate) fn who(&self) -> &[Who] {
        &self.who
    }

    /// No step is in flight any more.
    pub(crate) fn end_step(&mut self) {
        self.stepping = false;
        if self.left_out > 0 {
            self.left_out = 0;
            self.states.iter_mut().for_each(|state| state.unset(LEFT_OUT));
        }
        if self.prefilling() > 0 {
            for state in self.states[self.settled..].iter().filter(|state| state.is(PREFILL)) {
                self.cold[state.cold()].drafted = 0;
            }
        }
    }

    /// The first row from `position` on that is done or nobody's any more.
    pub(crate) fn next_over(&self, position: usize) -> Option<usize> {
        let done = |&position: &usize| {
            let state = self.states[position];
            state.is(GHOST) || (self.finishes[position] == self.clock && !state.is(PREFILL))
        };
        if self.ghosts > 0 {
            return (position..self.states.len()).find(done);
        }
        let next = |from: usize| find::next(&self.finishes, self.clock, from);
        std::iter::successors(next(position), |position| next(position + 1)).find(done)
    }
}
