//! The replica with the highest weighted sum of scores, each between 0 and 1.
//!
//! Source: the endpoint picker of llm-d and of the Gateway API Inference Extension: scorers with weights, then a picker.
//!
//! | scorer | score |
//! |---|---|
//! | `queue` | 1 for the shortest queue of the fleet, 0 for the longest, linear between |
//! | `kv-utilization` | 1 − the share of KV blocks in use or promised to the queue |
//! | `lora-affinity` | 1.0 the adapter is in use by the batch; 0.8 the batch has a free adapter slot; 0.6 the queue waits for it; else 0 |
//! | `residency` | 1.0 the adapter is on the GPU; 0.7 in the replica's host; 0.6 a GPU slot is free; 0.3 an idle adapter could go; else 0 |
//! | `load` | as `queue`, over the sequences in batch and queue |
//!
//! `lora-affinity` is what llm-d has; `residency` was proposed there (llm-d-router 2792). Requests without adapter score 1
//! in both. Every replica is looked at for each request, as those programs do.

use rand::RngExt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::kv_used;
use crate::fleet::{AdapterSignal, Fleet, Signals};
use crate::policy::{Asked, Route, Router, Tunable, tunable};
use crate::random::Stream;
use crate::settings::AdapterMemory;
use crate::workload::{AdapterId, ReplicaId};

/// Weights of the scorers, and who picks. A scorer that is not named beside others has weight 0; where none is named,
/// those of llm-d's LoRA example count alike: queue 1, KV use 1, LoRA affinity 1.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case", from = "Named")]
pub struct Scorers {
    /// Weight of the queue's length.
    pub queue: f64,
    /// Weight of the KV memory in use.
    pub kv_utilization: f64,
    /// Weight of the adapter's activity.
    pub lora_affinity: f64,
    /// Weight of the adapter's place in memory.
    pub residency: f64,
    /// Weight of the number of sequences.
    pub load: f64,
    /// Who picks among the scored.
    pub picker: Picker,
    #[serde(skip)]
    #[schemars(skip)]
    scores: Vec<(f64, ReplicaId)>,
}

/// Weights of the scorers, and who picks, as far as they are named: where no scorer is, queue, KV use and LoRA affinity have weight 1.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Named {
    /// Weight of the queue's length.
    #[serde(default)]
    queue: Option<f64>,
    /// Weight of the KV memory in use.
    #[serde(default)]
    kv_utilization: Option<f64>,
    /// Weight of the adapter's activity.
    #[serde(default)]
    lora_affinity: Option<f64>,
    /// Weight of the adapter's place in memory.
    #[serde(default)]
    residency: Option<f64>,
    /// Weight of the number of sequences.
    #[serde(default)]
    load: Option<f64>,
    /// Who picks among the scored.
    #[serde(default)]
    picker: Picker,
}

impl From<Named> for Scorers {
    fn from(named: Named) -> Scorers {
        let Named { queue, kv_utilization, lora_affinity, residency, load, picker } = named;
        if [queue, kv_utilization, lora_affinity, residency, load].iter().all(Option::is_none) {
            return Scorers { picker, ..Scorers::default() };
        }
        let weight = |named: Option<f64>| named.unwrap_or(0.0);
        Scorers {
            queue: weight(queue),
            kv_utilization: weight(kv_utilization),
            lora_affinity: weight(lora_affinity),
            residency: weight(residency),
            load: weight(load),
            picker,
            scores: Vec::new(),
        }
    }
}

/// Who picks among scored replicas?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Picker {
    /// The highest score; ties at random.
    #[default]
    MaxScore,
    /// Anybody, all alike.
    Random,
    /// At random, in proportion to the score.
    WeightedRandom,
}

impl Default for Scorers {
    fn default() -> Scorers {
        Scorers {
            queue: 1.0,
            kv_utilization: 1.0,
            lora_affinity: 1.0,
            residency: 0.0,
            load: 0.0,
            picker: Picker::MaxScore,
            scores: Vec::new(),
        }
    }
}

impl Tunable for Scorers {
    const SOURCE: &'static str =
        "llm-d and Gateway API Inference Extension: weighted scorers; residency: llm-d-router 2792";
    const SUMMARY: &'static str = "the highest weighted sum of queue, KV use and adapter scores";

    fn validate(&self) -> Result<(), String> {
        let weights = [
            ("queue", self.queue),
            ("kv-utilization", self.kv_utilization),
            ("lora-affinity", self.lora_affinity),
            ("residency", self.residency),
            ("load", self.load),
        ];
        for (name, weight) in weights {
            tunable::weight(name, weight)?;
        }
        if self.picker != Picker::Random && weights.iter().all(|&(_, weight)| weight == 0.0) {
            let names: Vec<&str> = weights.iter().map(|&(name, _)| name).collect();
            return Err(format!("no scorer has a weight: give at least one of {}", names.join(", ")));
        }
        Ok(())
    }
}

/// 1 at the least, 0 at the most.
fn nearness(value: u32, (least, most): (u32, u32)) -> f64 {
    if most > least { f64::from(most - value) / f64::from(most - least) } else { 1.0 }
}

/// The least and the most of the fleet.
fn range(values: impl Iterator<Item = u32>) -> (u32, u32) {
    values.fold((u32::MAX, 0), |(least, most), value| (least.min(value), most.max(value)))
}

fn lora_affinity(fleet: &Fleet<'_>, replica: ReplicaId, counts: &Signals, adapter: AdapterId) -> f64 {
    if holds(fleet, replica, adapter) && fleet.adapter(replica, adapter) == AdapterSignal::Active {
        1.0
    } else if counts.adapters_active + counts.adapters_waiting < fleet.settings(replica).max_loras {
        0.8
    } else if counts.waiting > 0 && fleet.adapter(replica, adapter) == AdapterSignal::Waiting {
        0.6
    } else {
        0.0
    }
}

fn residency(fleet: &Fleet<'_>, replica: ReplicaId, counts: &Signals, adapter: AdapterId) -> f64 {
    let has_free_slot = || match fleet.settings(replica).gpu_adapters {
        AdapterMemory::Slots(slots) => counts.adapters_resident < slots,
        AdapterMemory::Bytes(bytes) => counts.adapter_bytes_resident < bytes,
        AdapterMemory::Unbounded => true,
    };
    if holds(fleet, replica, adapter) {
        1.0
    } else if fleet.is_in_host(replica, adapter) {
        0.7
    } else if has_free_slot() {
        0.6
    } else if counts.adapters_resident > counts.adapters_active {
        0.3
    } else {
        0.0
    }
}

/// Is the adapter on the GPU or on its way? Most replicas have it not, and the list of holders is short.
fn holds(fleet: &Fleet<'_>, replica: ReplicaId, adapter: AdapterId) -> bool {
    fleet.holders(adapter).binary_search(&replica).is_ok()
}

impl Scorers {
    fn score(&mut self, asked: &Asked<'_>, fleet: &Fleet<'_>) {
        let available = fleet.available();
        let queues = range(available.iter().map(|&replica| fleet.counts(replica).waiting));
        let loads =
            range(fleet.by_working_set().next().into_iter().chain(fleet.by_working_set().next_back()).map(|(n, _)| n));
        self.scores.clear();
        for &replica in available {
            let signals = fleet.counts(replica);
            let mut score = self.queue * nearness(signals.waiting, queues);
            score += self.load * nearness(signals.working_set(), loads);
            if self.kv_utilization > 0.0 {
                score += self.kv_utilization * (1.0 - kv_used(fleet, replica)).max(0.0);
            }
            score += match asked.request.adapter {
                None => self.lora_affinity + self.residency,
                Some(adapter) => {
                    let affinity = self.lora_affinity > 0.0;
                    let place = self.residency > 0.0;
                    (if affinity { self.lora_affinity * lora_affinity(fleet, replica, signals, adapter) } else { 0.0 })
                        + (if place { self.residency * residency(fleet, replica, signals, adapter) } else { 0.0 })
                }
            };
            self.scores.push((score, replica));
        }
    }

    fn pick(&self, random: &mut Stream) -> Option<ReplicaId> {
        let total: f64 = self.scores.iter().map(|&(score, _)| score).sum();
        match self.picker {
            Picker::MaxScore => {
                let most = self.scores.iter().map(|&(score, _)| score).fold(f64::NEG_INFINITY, f64::max);
                let ties: Vec<ReplicaId> =
                    self.scores.iter().filter(|&&(score, _)| score == most).map(|&(_, replica)| replica).collect();
                match ties[..] {
                    [] => None,
                    [only] => Some(only),
                    _ => Some(ties[random.random_range(0..ties.len())]),
                }
            }
            Picker::WeightedRandom if total > 0.0 => {
                let mut left = random.random_range(0.0..total);
                for &(score, replica) in &self.scores {
                    if left < score {
                        return Some(replica);
                    }
                    left -= score;
                }
                self.scores.iter().rev().find(|&&(score, _)| score > 0.0).map(|&(_, replica)| replica)
            }
            Picker::Random | Picker::WeightedRandom => match self.scores.len() {
                0 => None,
                count => Some(self.scores[random.random_range(0..count)].1),
            },
        }
    }
}

impl Router for Scorers {
    fn route(&mut self, asked: &Asked<'_>, fleet: &Fleet<'_>, random: &mut Stream) -> Route {
        self.score(asked, fleet);
        self.pick(random).map_or(Route::Hold, Route::To)
    }
}
