//! What a step takes beyond its parts on the GPU: the host's share, and gaps or overlap of the whole.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{curve, is_one, is_zero, one};

/// What the CPU adds to a step: scheduling, launches that the GPU waits for, sampling, detokenisation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HostCost {
    /// A step of one sequence.
    pub us: f64,
    /// Each further sequence of the step, decode row or prompt.
    #[serde(default)]
    pub us_per_sequence: f64,
    /// Each doubling of the sequences: the longer a host waits for the GPU, the later it wakes up.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub us_per_doubling: f64,
    /// Each doubling of the tokens that prompts compute, and one: the same.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub us_per_prompt_doubling: f64,
    /// Each prompt of the step, beyond that.
    #[serde(default)]
    pub us_per_prompt: f64,
    /// Each adapter of the step.
    #[serde(default)]
    pub us_per_segment: f64,
    /// Once, in a step with a prompt: it is launched kernel by kernel, where decode rows alone are one graph.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub us_prompts: f64,
    /// Once, in a step with an adapter: its work is planned.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub us_adapters: f64,
    /// Once, in a step with both: what is planned is launched kernel by kernel.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub us_prompts_and_adapters: f64,
    /// One garbage collection with the emptying of an allocator cache, where a batcher asks for it (`gc_every`).
    #[serde(default)]
    pub us_per_collection: f64,
}

/// What whole steps take beyond the sum of their parts: gaps between launches, or overlap.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WholeStep {
    /// The sum of the parts on the GPU, times this.
    pub scale: f64,
    /// Then this, once a step; negative where parts overlap.
    pub us: f64,
    /// And this, once a layer.
    pub us_per_layer: f64,
    /// What adapters take in a whole step, over what they take alone: below 1 where their launches overlap with others.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub lora_scale: f64,
    /// And this, once a layer of a step that computes adapters.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub us_per_layer_lora: f64,
    /// And this, once a layer of one that also has a prompt; of few rows as below there is no such thing.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub us_per_layer_lora_prompt: f64,
    /// Both again for steps of few rows by [`LoraKernel::Segmented`](super::lora::LoraKernel::Segmented), which runs them beside the products; where
    /// absent, as for all others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora_few_rows: Option<LoraOverlap>,
    /// What the attention of prompts takes in a whole step, over what it takes alone: above 1 where a card that multiplies without a pause is at
    /// its power limit.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub prompt_scale: f64,
    /// And this, once a layer of a step with a prompt.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub us_per_layer_prompt: f64,
    /// And this, once a layer of a step with both prompts and decode rows, whose attention is two launches.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub us_per_layer_mixed: f64,
    /// Numbers of rows, decode and prefill together, at which the next list is given: strictly increasing; none for nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rows: Vec<f64>,
    /// At each: what a layer takes beyond all that. Straight lines between them, the first and last value outside.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub us_per_layer_by_rows: Vec<f64>,
}

/// What adapters take in a whole step of few rows, over what they take alone.
///
/// Products that share the chip with them take longer, however little they take: where that is known ([`LoraOverlap::least_us`]), adapters add
/// as much as that or as they take alone, whichever is more, and up to a fifth more where the two are alike ([`beside`]).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LoraOverlap {
    /// The most rows of such a step, with adapters and without.
    pub rows_max: u32,
    /// As [`WholeStep::lora_scale`].
    pub scale: f64,
    /// The same, beyond it, for each row: the more rows, the more of the adapters hides beside the products.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub scale_row: f64,
    /// As [`WholeStep::us_per_layer_lora`].
    pub us_per_layer: f64,
    /// The same, once a layer and row.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub us_per_layer_row: f64,
    /// Numbers of rows, as the machine pads them, at which the next list is given: strictly increasing; none for nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rows: Vec<f64>,
    /// At each: what products beside adapters take longer in a layer, before [`WholeStep::scale`]; never falling, straight lines between them,
    /// the first and last value outside.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub least_us: Vec<f64>,
}

impl LoraOverlap {
    /// What products of so many rows take longer beside adapters; nothing where that is not known.
    pub fn least_us(&self, rows: u32) -> Option<f64> {
        let known = self.rows.as_slice();
        let last = known.last()?;
        Some(curve::interpolate_signed(known, &self.least_us, f64::from(rows).clamp(known[0], *last)))
    }
}

/// What two take that share a chip and wait for each other: the more of the two, and both a little where they are alike. The fourth root of the sum of
/// their fourth powers.
#[inline(always)]
pub fn beside(one_us: f64, other_us: f64) -> f64 {
    let (one, other) = (one_us * one_us, other_us * other_us);
    (one * one + other * other).sqrt().sqrt()
}

impl HostCost {
    /// What the CPU adds to a step of so many sequences, prompts of so many tokens, and adapters, collections left out; microseconds.
    pub fn step_us(&self, sequences: u32, prompts: u32, prompt_tokens: u32, segments: u32) -> f64 {
        self.beyond_us(self.sequences_us(sequences), prompts, prompt_tokens, segments)
    }

    /// The part of that which depends on the number of sequences alone.
    pub(crate) fn sequences_us(&self, sequences: u32) -> f64 {
        self.us
            + self.us_per_sequence * f64::from(sequences.saturating_sub(1))
            + self.us_per_doubling * doublings(sequences)
    }

    /// All of it, by that part.
    #[inline(always)]
    pub(crate) fn beyond_us(&self, sequences_us: f64, prompts: u32, prompt_tokens: u32, segments: u32) -> f64 {
        let mut us = sequences_us;
        if prompt_tokens > 0 {
            us += self.us_per_prompt_doubling * doublings(prompt_tokens.saturating_add(1));
        }
        if prompts > 0 {
            us += self.us_per_prompt * f64::from(prompts);
        }
        if segments > 0 {
            us += self.us_per_segment * f64::from(segments);
        }
        if prompts > 0 {
            us += self.us_prompts;
        }
        if segments > 0 {
            us += self.us_adapters;
            if prompts > 0 {
                us += self.us_prompts_and_adapters;
            }
        }
        us
    }
}

impl WholeStep {
    /// The scale of adapters and what they take once a layer, in a step of so many rows.
    fn lora(&self, rows: u32) -> (f64, f64) {
        match &self.lora_few_rows {
            Some(few) if rows <= few.rows_max => {
                let rows = f64::from(rows);
                (few.scale + few.scale_row * rows, few.us_per_layer + few.us_per_layer_row * rows)
            }
            _ => (self.lora_scale, self.us_per_layer_lora),
        }
    }

    /// What adapters that take so long alone add to a layer of a step of so many rows, padded to so many, without prompts; microseconds.
    pub fn lora_us(&self, rows: u32, padded: u32, alone_us: f64) -> f64 {
        let (scale, us) = self.lora(rows);
        let few = self.lora_few_rows.as_ref().filter(|few| rows <= few.rows_max);
        let own_us = scale * alone_us;
        self.scale * few.and_then(|few| few.least_us(padded)).map_or(own_us, |least| beside(least, own_us)) + us
    }

    /// What a layer with so many rows takes beyond the sum of its parts, adapters and prompts left out; microseconds.
    pub fn layer_us(&self, rows: f64) -> f64 {
        let by_rows = match self.rows.as_slice() {
            [] => 0.0,
            known => curve::interpolate_signed(
                known,
                &self.us_per_layer_by_rows,
                rows.clamp(known[0], known[known.len() - 1]),
            ),
        };
        self.us_per_layer + by_rows
    }
}

impl Default for WholeStep {
    fn default() -> WholeStep {
        WholeStep {
            scale: 1.0,
            us: 0.0,
            us_per_layer: 0.0,
            lora_scale: 1.0,
            us_per_layer_lora: 0.0,
            us_per_layer_lora_prompt: 0.0,
            lora_few_rows: None,
            prompt_scale: 1.0,
            us_per_layer_prompt: 0.0,
            us_per_layer_mixed: 0.0,
            rows: Vec::new(),
            us_per_layer_by_rows: Vec::new(),
        }
    }
}

/// How often has one doubled to become so many? Between powers of two by a straight line, so that it is the same on every machine; 0 for none.
pub fn doublings(count: u32) -> f64 {
    let whole = count.max(1).ilog2();
    // Times a power of two, to the last digit, is over its inverse.
    let share = f64::from_bits((1023 - u64::from(whole)) << 52);
    f64::from(whole) + f64::from(count.max(1)) * share - 1.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doublings_are_whole_at_powers_of_two_and_rise_between() {
        for (count, doubled) in
            [(0, 0.0), (1, 0.0), (2, 1.0), (3, 1.5), (4, 2.0), (6, 2.5), (1024, 10.0), (u32::MAX, 32.0)]
        {
            assert!((doublings(count) - doubled).abs() < 1e-8, "{count}");
        }
    }

    #[test]
    fn a_host_waits_longer_for_more_sequences_and_longer_prompts() {
        let host = HostCost { us: 10.0, us_per_doubling: 2.0, us_per_prompt_doubling: 3.0, ..HostCost::default() };
        assert_eq!(host.step_us(1, 0, 0, 0), 10.0);
        assert_eq!(host.step_us(8, 0, 0, 0), 16.0);
        assert_eq!(host.step_us(1, 1, 63, 0), 28.0);
    }
}
