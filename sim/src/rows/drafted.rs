//! Rows while a step is composed: who takes part, and which KV blocks that takes.

use super::{LEFT_OUT, PREFILL, Rows, State};

impl Rows {
    /// Adds so many tokens of a prompt that is not over.
    pub(crate) fn draft_prefill(&mut self, position: usize, tokens: u32) -> Option<u32> {
        let state = self.states[position];
        let cold = &mut self.cold[state.cold()];
        if !state.is(PREFILL) || cold.drafted > 0 {
            return None;
        }
        cold.drafted = tokens.min(cold.target - self.contexts[position]);
        Some(cold.drafted)
    }

    /// Positions of the rows whose prefill is not over.
    pub(crate) fn prefilling_positions(&self) -> impl Iterator<Item = usize> + '_ {
        let flagged = self.states.iter().enumerate().skip(self.settled);
        flagged.filter(|(_, state)| state.is(PREFILL)).map(|(position, _)| position).take(self.prefilling() as usize)
    }

    /// Adds a token of every row that decodes, `budget` at most. Gives how many, and the KV blocks that they need.
    pub(crate) fn draft_decodes(&mut self, budget: u32) -> (u32, u32) {
        if self.stepping || self.decoding == 0 || budget == 0 {
            return (0, 0);
        }
        self.stepping = true;
        let mut count = 0;
        if budget < self.decoding {
            for state in self.states.iter_mut().filter(|state| !state.is(PREFILL)) {
                if count == budget {
                    state.set(LEFT_OUT);
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
        self.full().zip(&self.states).map(|(full, state)| u32::from(full && self.decodes_in_step(*state))).sum()
    }

    /// KV blocks that the rows that decode, but are not in the step so far, would need.
    pub(crate) fn blocks_needed(&self) -> u32 {
        let counts = |state: State| !state.is(PREFILL) && !self.decodes_in_step(state);
        self.full().zip(&self.states).map(|(full, state)| u32::from(full && counts(*state))).sum()
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
}
