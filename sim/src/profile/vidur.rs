//! Vidur's prediction tables: whole steps by a peer's figures, in place of operations and attention.
//!
//! Vidur (Agrawal et al., MLSys 2024; github microsoft/vidur, 7d47513) tabulates what its random forests predict. Such
//! predictions are the same for many sizes in a row: what is kept of a table is where they change, and nothing is lost.

mod numbers;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::attention::{DecodeAttention, PrefillAttention};
use super::curve::not_negative;
use super::{HostCost, LoadCost, Profile, Provenance, SCHEMA, Validity, WholeStep};
use crate::gpu::Gpu;
use crate::model::Model;

/// No operation of a layer takes longer, milliseconds: what is larger is a mistake, and a few such steps would be longer than any run.
pub const MS_MAX: f64 = 10_000.0;

/// The tables of one model on one GPU: milliseconds a layer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VidurTables {
    /// Operations that depend on the tokens of the step alone, rounded up to a multiple of eight.
    pub operations: Vec<VidurOperation>,
    /// Writing of KV, by the tokens of the step as they are.
    pub kv_cache_save: Steps,
    /// Decode attention: for each number of rows from 1 on, by their mean context in tokens.
    pub decode: Vec<Steps>,
    /// Prefill attention: for each context in steps of 64 tokens from 0 on, by the tokens of the prompts' parts.
    pub prefill: Vec<Steps>,
}

/// An operation by the tokens of the step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VidurOperation {
    /// As Vidur calls it.
    pub name: String,
    /// What it costs.
    pub cost: Steps,
}

/// A function that jumps: up to and at `until[i]`, and above `until[i - 1]`, it is `ms[i]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Steps {
    /// The last argument of each value: strictly increasing. A text of numbers with a space between them, or a list.
    #[serde(with = "numbers")]
    #[schemars(with = "numbers::Written<u32>")]
    pub until: Vec<u32>,
    /// Each value, milliseconds. A text of numbers, or a list.
    #[serde(with = "numbers")]
    #[schemars(with = "numbers::Written<f64>")]
    pub ms: Vec<f64>,
}

impl Steps {
    /// The function with these values, in increasing order of their arguments.
    pub fn of(values: impl IntoIterator<Item = (u32, f64)>) -> Steps {
        let mut steps = Steps::default();
        for (argument, ms) in values {
            match steps.until.last_mut() {
                Some(until) if steps.ms.last() == Some(&ms) => *until = argument,
                _ => {
                    steps.until.push(argument);
                    steps.ms.push(ms);
                }
            }
        }
        steps
    }

    /// The largest argument; 0 of no function at all.
    pub fn last(&self) -> u32 {
        self.until.last().copied().unwrap_or(0)
    }

    /// The values at 0, `step`, 2 × `step` … up to the last argument.
    pub fn dense(&self, step: u32) -> impl Iterator<Item = f64> + '_ {
        let mut place = 0;
        (0..=self.last() / step).map(move |i| {
            while self.until[place] < i * step {
                place += 1;
            }
            self.ms[place]
        })
    }

    fn check(&self) -> Result<(), String> {
        if self.until.is_empty() {
            return Err("it is empty".to_owned());
        }
        if self.until.len() != self.ms.len() {
            return Err(format!("{} until but {} ms: one for each", self.until.len(), self.ms.len()));
        }
        if self.until.windows(2).any(|pair| pair[0] >= pair[1]) {
            return Err("until does not increase".to_owned());
        }
        if let Some(ms) = self.ms.iter().find(|ms| **ms > MS_MAX) {
            return Err(format!("ms is {ms}: no operation of a layer takes longer than {MS_MAX}"));
        }
        self.ms.iter().try_for_each(|&ms| not_negative("ms", ms))
    }
}

impl VidurTables {
    /// What is wrong with its figures, and where?
    pub(crate) fn check(&self) -> Result<(), (String, String)> {
        if self.operations.is_empty() {
            return Err(("operations".to_owned(), "there is none".to_owned()));
        }
        for VidurOperation { name, cost } in &self.operations {
            cost.check().map_err(|problem| (format!("operations.{name}"), problem))?;
        }
        self.kv_cache_save.check().map_err(|problem| ("kv_cache_save".to_owned(), problem))?;
        for VidurOperation { name, cost } in &self.operations {
            if cost.last() != self.kv_cache_save.last() {
                let problem =
                    format!("it ends at {} tokens, and kv_cache_save at {}", cost.last(), self.kv_cache_save.last());
                return Err((format!("operations.{name}"), problem));
            }
        }
        for (key, rows) in [("decode", &self.decode), ("prefill", &self.prefill)] {
            if rows.is_empty() {
                return Err((key.to_owned(), "it is empty".to_owned()));
            }
            for (i, row) in rows.iter().enumerate() {
                row.check().map_err(|problem| (format!("{key}[{i}]"), problem))?;
                if row.last() != rows[0].last() {
                    let problem = format!("it ends at {}, and the first at {}", row.last(), rows[0].last());
                    return Err((format!("{key}[{i}]"), problem));
                }
            }
        }
        Ok(())
    }
}

impl Profile {
    /// The profile of one model on one GPU whose layers cost what Vidur's tables say. It knows nothing of adapters.
    pub fn of_vidur(
        name: String,
        provenance: Provenance,
        model: Model,
        gpu: Gpu,
        load: LoadCost,
        tables: VidurTables,
    ) -> Profile {
        Profile {
            schema: SCHEMA,
            name,
            engine: "vidur".to_owned(),
            tensor_parallel: 1,
            provenance,
            model,
            gpu,
            host: HostCost::default(),
            whole_step: WholeStep::default(),
            clock_sag: None,
            operations: Vec::new(),
            row_buckets: Vec::new(),
            prefill_attention: PrefillAttention::default(),
            decode_attention: DecodeAttention::default(),
            vidur: Some(tables),
            lora: Default::default(),
            load,
            validity: Validity::default(),
            held_out: Vec::new(),
            spread: Vec::new(),
            assumptions: Default::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_keep_every_value_and_only_the_jumps() {
        let values = [1.5, 1.5, 2.0, 2.0, 1.5];
        let steps = Steps::of((0..).step_by(64).zip(values));
        assert_eq!(steps, Steps { until: vec![64, 192, 256], ms: vec![1.5, 2.0, 1.5] });
        assert_eq!(steps.dense(64).collect::<Vec<_>>(), values);
        assert_eq!(Steps::of([(1, 7.0), (2, 8.0)]).dense(1).collect::<Vec<_>>(), [7.0, 7.0, 8.0]);
    }
}
