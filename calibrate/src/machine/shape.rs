//! A step as calibration enumerates it: small to write, without ids, and enough to run it on a GPU.

use aril_sim::batch::{Prefill, Segment};
use serde::{Deserialize, Serialize};

use crate::probe::Shape;

/// One step.
///
/// Decode rows come first, in the order of `decode`; then prompts. Adapters take decode rows and prompts in this order; what
/// none takes is the base model's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepShape {
    /// Runs of decode rows of one context: (rows, attended tokens, the own one included).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub decode: Vec<(u32, u32)>,
    /// Prompts, or parts of prompts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prompts: Vec<Prompt>,
    /// Adapters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub adapters: Vec<AdapterRows>,
}

/// A part of a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prompt {
    /// Tokens computed.
    pub chunk: u32,
    /// Tokens that were there before.
    pub prefix: u32,
}

/// What one adapter computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdapterRows {
    /// Its rank.
    pub rank: u32,
    /// Decode rows.
    pub decode: u32,
    /// Prompts.
    pub prompts: u32,
}

impl StepShape {
    /// So many decode rows of the same context.
    pub fn decode(rows: u32, context: u32) -> StepShape {
        StepShape { decode: vec![(rows, context)], ..StepShape::default() }
    }

    /// Decode rows of these contexts.
    pub fn ragged(contexts: &[u32]) -> StepShape {
        let mut decode: Vec<(u32, u32)> = Vec::new();
        for &context in contexts {
            match decode.last_mut() {
                Some((rows, last)) if *last == context => *rows += 1,
                _ => decode.push((1, context)),
            }
        }
        StepShape { decode, ..StepShape::default() }
    }

    /// One prompt.
    pub fn prompt(chunk: u32, prefix: u32) -> StepShape {
        StepShape { prompts: vec![Prompt { chunk, prefix }], ..StepShape::default() }
    }

    /// The same with adapters of one rank, each with so many decode rows.
    pub fn with_adapters(mut self, rank: u32, rows: &[u32]) -> StepShape {
        self.adapters.extend(rows.iter().map(|&decode| AdapterRows { rank, decode, prompts: 0 }));
        self
    }

    /// Attended tokens of each decode row.
    pub fn contexts(&self) -> impl Iterator<Item = u32> + '_ {
        self.decode.iter().flat_map(|&(rows, context)| std::iter::repeat_n(context, rows as usize))
    }

    /// Decode rows.
    pub fn decode_rows(&self) -> u32 {
        self.decode.iter().map(|(rows, _)| rows).sum()
    }

    /// Its prompts, each as (chunk, prefix).
    pub fn prompt_pairs(&self) -> impl Iterator<Item = (u32, u32)> + Clone + '_ {
        self.prompts.iter().map(|prompt| (prompt.chunk, prompt.prefix))
    }

    /// Prompt tokens computed.
    pub fn prompt_rows(&self) -> u32 {
        self.prompts.iter().map(|prompt| prompt.chunk).sum()
    }

    /// All rows.
    pub fn rows(&self) -> u32 {
        self.decode_rows() + self.prompt_rows()
    }

    /// Decode rows and prompts.
    pub fn sequences(&self) -> u32 {
        self.decode_rows() + self.prompts.len() as u32
    }

    /// Attended tokens of all decode rows.
    pub fn context_sum(&self) -> u64 {
        self.decode.iter().map(|&(rows, context)| u64::from(rows) * u64::from(context)).sum()
    }

    /// Attended tokens of the longest decode row; 0 without any.
    pub fn context_max(&self) -> u32 {
        self.decode.iter().map(|&(_, context)| context).max().unwrap_or(0)
    }

    /// Tokens whose keys and values must lie in the cache.
    pub fn kv_tokens(&self) -> u64 {
        let prompts: u64 = self.prompts.iter().map(|prompt| u64::from(prompt.prefix) + u64::from(prompt.chunk)).sum();
        self.context_sum() + prompts
    }

    /// The largest rank; 0 without adapters.
    pub fn rank_max(&self) -> u32 {
        self.adapters.iter().map(|adapter| adapter.rank).max().unwrap_or(0)
    }

    /// Which adapter, by position, has each decode row and then each prompt.
    pub fn assignment(&self) -> Vec<Option<u32>> {
        let rows = self.decode_rows() as usize;
        let mut of = vec![None; rows + self.prompts.len()];
        let (mut row, mut prompt) = (0, rows);
        for (index, adapter) in self.adapters.iter().enumerate() {
            let mine = (row..rows.min(row + adapter.decode as usize))
                .chain(prompt..of.len().min(prompt + adapter.prompts as usize));
            mine.for_each(|position| of[position] = Some(index as u32));
            row += adapter.decode as usize;
            prompt += adapter.prompts as usize;
        }
        of
    }

    /// As a cost model is asked.
    pub fn probe(&self, lora_on: bool) -> Shape {
        let mut prompts = self.prompts.iter();
        let segments = self.adapters.iter().map(|adapter| Segment {
            rank: adapter.rank,
            prefill_rows: prompts.by_ref().take(adapter.prompts as usize).map(|prompt| prompt.chunk).sum(),
            decode_rows: adapter.decode,
        });
        let segments: Vec<Segment> = segments.filter(|s| s.prefill_rows + s.decode_rows > 0).collect();
        Shape {
            contexts: self.contexts().collect(),
            prefills: self.prompts.iter().map(|p| Prefill { chunk: p.chunk, prefix: p.prefix }).collect(),
            slots: if lora_on { (segments.len() as u32).max(1) } else { 0 },
            rank_max: self.rank_max(),
            segments,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adapters_take_rows_and_prompts_in_order_and_leave_the_rest() {
        let shape = StepShape {
            prompts: vec![Prompt { chunk: 7, prefix: 0 }, Prompt { chunk: 9, prefix: 5 }],
            adapters: vec![
                AdapterRows { rank: 8, decode: 2, prompts: 0 },
                AdapterRows { rank: 16, decode: 0, prompts: 1 },
            ],
            ..StepShape::decode(3, 100)
        };
        assert_eq!(shape.assignment(), [Some(0), Some(0), None, Some(1), None]);
        let probe = shape.probe(true);
        assert_eq!(probe.segments.len(), 2);
        assert_eq!((probe.segments[0].decode_rows, probe.segments[1].prefill_rows), (2, 7));
        assert_eq!((shape.rows(), shape.sequences(), shape.kv_tokens()), (19, 5, 300 + 7 + 14));
    }

    #[test]
    fn ragged_contexts_are_kept_in_runs() {
        let shape = StepShape::ragged(&[5, 5, 7, 5]);
        assert_eq!(shape.decode, [(2, 5), (1, 7), (1, 5)]);
        assert_eq!(shape.contexts().collect::<Vec<_>>(), [5, 5, 7, 5]);
    }
}
