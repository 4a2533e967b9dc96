//! What the attention of a step's prompts costs, in each layer.

use super::memory::Memory;
use crate::batch::Prefill;
use crate::print::Print;
use crate::profile::attention::PrefillAttention;

/// The profile's figures, and what they came to for the prompts that were asked for last: lengths come again.
#[derive(Clone, Debug)]
pub(super) struct Prompts {
    attention: PrefillAttention,
    /// What it takes in a whole step, over what it takes alone.
    scale: f64,
    /// By its tokens, a prompt alone of which none were there before, as most are; not a number: nobody has asked.
    alone: Vec<f64>,
    alone_asked: u64,
    alone_made: u64,
    known: Memory<f64>,
}

/// Longer ones are rare, and not computed in one step.
const ALONE: usize = 8193;

impl Prompts {
    pub(super) fn new(attention: PrefillAttention, scale: f64) -> Prompts {
        let mut known = Memory::default();
        known.remember();
        Prompts { attention, scale, alone: vec![f64::NAN; ALONE], alone_asked: 0, alone_made: 0, known }
    }

    /// From now on every price is made anew.
    pub(super) fn forget(&mut self) {
        self.alone = Vec::new();
        self.known.forget();
    }

    /// How many prices were asked for, and how many of them had to be made?
    pub(super) fn asked_and_made(&self) -> (u64, u64) {
        let (asked, made) = self.known.asked_and_made();
        (asked + self.alone_asked, made + self.alone_made)
    }

    /// Microseconds in each layer of a step with these prompts.
    #[inline(always)]
    pub(super) fn us(&mut self, prompts: &[Prefill]) -> f64 {
        if let &[Prefill { chunk, prefix: 0 }] = prompts
            && let Some(&us) = self.alone.get(chunk as usize)
        {
            self.alone_asked += 1;
            return if us.is_nan() { self.make_alone(chunk) } else { us };
        }
        self.others_us(prompts)
    }

    /// Seldom asked for: apart, so that whoever knows the price has registers for the rest of it.
    #[cold]
    #[inline(never)]
    fn make_alone(&mut self, chunk: u32) -> f64 {
        let us = us_of(&self.attention, self.scale, &[Prefill { chunk, prefix: 0 }]);
        self.alone_made += 1;
        self.alone[chunk as usize] = us;
        us
    }

    /// Of several prompts, or of one with a prefix.
    #[inline(never)]
    fn others_us(&mut self, prompts: &[Prefill]) -> f64 {
        let mut print = Print::new();
        for pair in prompts.chunks(2) {
            let [first, second] =
                [0, 1].map(|index| pair.get(index).copied().unwrap_or(Prefill { chunk: 0, prefix: 0 }));
            print.four([first.chunk, first.prefix, second.chunk, second.prefix]);
        }
        let Prompts { attention, scale, known, .. } = self;
        known.recall(print.finish(), || us_of(attention, *scale, prompts))
    }
}

/// What they cost, made anew.
#[inline(never)]
fn us_of(attention: &PrefillAttention, scale: f64, prompts: &[Prefill]) -> f64 {
    let all = prompts.iter().map(|part| (part.chunk, part.prefix));
    scale * (attention.us + attention.prompts_us(all))
}
