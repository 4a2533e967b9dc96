//! All decode rows, and at most one new prompt: one model invocation mixes both.
//!
//! Source: Punica (§5): "prefill batch size 1", prompt and decode rows share a step; new requests in the order of the
//! queue. Its artifact admits everything that waits (`prefills_per_step = 0`). A request whose adapter is still on its
//! way lets others pass; any other reason stops the queue.
//!
//! The artifact's faults are switches, so that their effect on published figures can be computed.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{admit_whole, continue_prefills};
use crate::draft::{Draft, Refusal};
use crate::policy::{Batcher, Tunable};
use crate::workload::AdapterId;

/// All decode rows, and at most `prefills_per_step` prompts.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Punica {
    /// Prompts in a step, at most; 0: as many as fit.
    pub prefills_per_step: u32,
    /// Faults of the artifact to reproduce. They change what steps cost, never who is served.
    pub faults: Vec<Fault>,
    #[serde(skip)]
    #[schemars(skip)]
    last_admitted: Option<Option<AdapterId>>,
}

/// A known fault of Punica's artifact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// Every decode row is computed with the adapter of the request that was admitted last, so that a batch has one
    /// segment whatever its popularity (benchmarks/bench_textgen_lora.py, `lora_punica`).
    SingleSegmentDecode,
    /// A prompt counts as one row of its segment, whatever its length: the rows of the segments do not cover the batch
    /// (the cluster's gpu_executor.py).
    PrefillCountsOneRow,
}

impl Default for Punica {
    fn default() -> Punica {
        Punica { prefills_per_step: 1, faults: Vec::new(), last_admitted: None }
    }
}

impl Tunable for Punica {
    const SOURCE: &'static str = "Punica (MLSys 2024) §5; faults: its artifact, benchmarks and cluster executor";
    const SUMMARY: &'static str = "all decode rows and at most one new prompt";

    fn validate(&self) -> Result<(), String> {
        for (position, fault) in self.faults.iter().enumerate() {
            if self.faults[..position].contains(fault) {
                return Err(format!("`faults` names {fault:?} twice"));
            }
        }
        Ok(())
    }
}

impl Punica {
    fn admit(&mut self, draft: &mut Draft<'_>, begun: u32) {
        let mut prompts = begun;
        for position in 0..draft.waiting_len() {
            if self.prefills_per_step > 0 && prompts >= self.prefills_per_step {
                return;
            }
            let Some(queued) = draft.waiting(position) else { continue };
            match admit_whole(draft, position, &queued) {
                Ok(_) => {
                    prompts += 1;
                    self.last_admitted = Some(queued.adapter);
                }
                Err(Refusal::AdapterLoading | Refusal::Taken) => {}
                Err(_) => return,
            }
        }
    }
}

impl Batcher for Punica {
    fn compose(&mut self, draft: &mut Draft<'_>) {
        let preempted = draft.decode_all();
        let begun = continue_prefills(draft, u32::MAX);
        // Whoever gave way for blocks does not take them back in the same step.
        if preempted == 0 || draft.tokens() == 0 {
            self.admit(draft, begun);
        }
        for fault in &self.faults {
            match fault {
                Fault::SingleSegmentDecode => {
                    if let Some(adapter) = self.last_admitted {
                        draft.count_decodes_to(adapter);
                    }
                }
                Fault::PrefillCountsOneRow => draft.count_prompts_as(1),
            }
        }
    }
}
