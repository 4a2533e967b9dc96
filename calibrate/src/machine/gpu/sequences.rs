//! A step shape as sequences with tokens, blocks and slots.

use aril_kernels::llama::Sequence;

use crate::machine::{Identity, StepShape};

/// Sequences that own what they need.
pub(super) struct Drawn {
    tokens: Vec<u32>,
    blocks: Vec<u32>,
    rows: Vec<Row>,
}

struct Row {
    tokens: std::ops::Range<usize>,
    prefix: u32,
    blocks: std::ops::Range<usize>,
    adapter: Option<u32>,
}

impl Drawn {
    /// Tokens at random, blocks scattered over the whole cache as in one that has served for a while.
    pub(super) fn of(shape: &StepShape, identity: &Identity, adapters: bool) -> Drawn {
        let total = identity.limits.kv_tokens / 16;
        let scatter = Scatter::over(total);
        let mut drawn = Drawn { tokens: Vec::new(), blocks: Vec::new(), rows: Vec::new() };
        let (mut state, mut block) = (1_u64, 0);
        let assignment = shape.assignment();
        let decode = shape.contexts().map(|context| (1, context - 1));
        let prompts = shape.prompt_pairs();
        for (index, (tokens, prefix)) in decode.chain(prompts).enumerate() {
            let (first_token, first_block) = (drawn.tokens.len(), drawn.blocks.len());
            for _ in 0..tokens {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                drawn.tokens.push((state >> 33) as u32 % identity.model.vocab.div_ceil(identity.tensor_parallel));
            }
            for _ in 0..(prefix + tokens).div_ceil(16) {
                drawn.blocks.push(scatter.at(block));
                block += 1;
            }
            drawn.rows.push(Row {
                tokens: first_token..drawn.tokens.len(),
                prefix,
                blocks: first_block..drawn.blocks.len(),
                adapter: if adapters { assignment[index] } else { None },
            });
        }
        drawn
    }

    /// As a step takes them.
    pub(super) fn sequences(&self) -> Vec<Sequence<'_>> {
        let of = |row: &Row| Sequence {
            tokens: &self.tokens[row.tokens.clone()],
            prefix: row.prefix,
            blocks: &self.blocks[row.blocks.clone()],
            adapter: row.adapter,
            sample: true,
        };
        self.rows.iter().map(of).collect()
    }
}

/// A walk over all blocks that meets each once.
struct Scatter {
    total: u32,
    step: u32,
}

impl Scatter {
    fn over(total: u32) -> Scatter {
        let divides = |a: u32, b: u32| {
            let (mut a, mut b) = (a, b);
            while b > 0 {
                (a, b) = (b, a % b);
            }
            a == 1
        };
        let start = (f64::from(total) * 0.618) as u32 | 1;
        let step = (start..).find(|&step| divides(step, total)).unwrap_or(1);
        Scatter { total, step }
    }

    fn at(&self, index: u32) -> u32 {
        (u64::from(index) * u64::from(self.step) % u64::from(self.total)) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::synthetic::SyntheticGpu;
    use crate::machine::{Machine, Prompt};

    #[test]
    fn every_block_is_met_once() {
        for total in [1, 2, 7, 4096, 5400, 8192] {
            let scatter = Scatter::over(total);
            let mut met: Vec<u32> = (0..total).map(|index| scatter.at(index)).collect();
            met.sort_unstable();
            assert!(met.iter().copied().eq(0..total), "{total}");
        }
    }

    #[test]
    fn sequences_have_their_tokens_blocks_and_slots() {
        let shape = StepShape { prompts: vec![Prompt { chunk: 33, prefix: 20 }], ..StepShape::ragged(&[1, 16, 17]) }
            .with_adapters(8, &[1, 1]);
        let drawn = Drawn::of(&shape, SyntheticGpu::h200_llama_2_7b(1).identity(), true);
        let sequences = drawn.sequences();
        let seen: Vec<_> = sequences.iter().map(|s| (s.tokens.len(), s.prefix, s.blocks.len(), s.adapter)).collect();
        assert_eq!(seen, [(1, 0, 1, Some(0)), (1, 15, 1, Some(1)), (1, 16, 2, None), (33, 20, 4, None)]);
    }
}
