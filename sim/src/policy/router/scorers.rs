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
//! in both. Those programs look at every replica for each request. Here `max-score` finds the same ones with an index: it
//! looks at those whose bounds allow the highest score, and counts those that tie for it without a look where bounds tell
//! that they do. They do not tell it of who holds the adapter, where that has weight, of who has no free adapter slot beside
//! a queue, of the KV use of who has a batch (under perfect information), and of anybody where `residency` has weight and
//! hosts have not every adapter: of those it looks at all that may tie. `weighted-random` draws by everybody's score, and
//! looks at everybody; `random` at nobody.

use rand::RngExt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::fleet::{AdapterSignal, Bounds, Fleet, Group, Reads, Search};
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

/// Scores replicas for one request.
struct Scoring<'a> {
    weights: &'a Scorers,
    fleet: &'a Fleet<'a>,
    /// What it asks for, if that has weight.
    adapter: Option<AdapterId>,
    reads: Reads,
    /// Who has the adapter on the GPU or on its way there, by id.
    holders: &'a [ReplicaId],
    /// The shortest and the longest queue of the fleet.
    queues: (u32, u32),
    /// The fewest and the most sequences.
    loads: (u32, u32),
}

impl<'a> Scoring<'a> {
    /// None where no replica takes requests.
    fn new(weights: &'a Scorers, asked: &Asked<'_>, fleet: &'a Fleet<'a>) -> Option<Scoring<'a>> {
        let adapter = asked.request.adapter.filter(|_| weights.lora_affinity > 0.0 || weights.residency > 0.0);
        let reads = Reads {
            waiting: weights.queue > 0.0,
            running: false,
            working_set: weights.load > 0.0,
            kv_share: weights.kv_utilization > 0.0,
            lora_slot: weights.lora_affinity > 0.0 && adapter.is_some(),
            best: true,
        };
        let Bounds { waiting_min, waiting_max, .. } = fleet.bounds(Group::ALL, reads)?;
        let (least, most) = (fleet.by_working_set().next()?.0, fleet.by_working_set().next_back()?.0);
        let holders = adapter.map_or(&[][..], |adapter| fleet.holders(adapter));
        let (queues, loads) = ((waiting_min, waiting_max), (least, most));
        Some(Scoring { weights, fleet, adapter, reads, holders, queues, loads })
    }

    /// The weighted sum. No part of it falls when a score grows, and neither does the sum, rounded as it is: where each is
    /// the best of many replicas, none of them has more.
    fn sum(&self, bounds: &Bounds, lora_affinity: f64, residency: f64) -> f64 {
        let weights = self.weights;
        let mut score = 0.0;
        if weights.queue > 0.0 {
            score += weights.queue * nearness(bounds.waiting_min, self.queues);
        }
        if weights.load > 0.0 {
            score += weights.load * nearness(bounds.working_set_min, self.loads);
        }
        if weights.kv_utilization > 0.0 {
            score += weights.kv_utilization * (1.0 - bounds.kv_share_min).max(0.0);
        }
        score += weights.lora_affinity * lora_affinity + weights.residency * residency;
        score
    }

    /// The score of one replica. What has no weight is not looked up.
    fn score(&self, replica: ReplicaId, bounds: &Bounds) -> f64 {
        let Some(adapter) = self.adapter else { return self.sum(bounds, 1.0, 1.0) };
        let held = self.holders.binary_search(&replica).is_ok();
        let affinity =
            if self.weights.lora_affinity > 0.0 { self.affinity(replica, bounds, adapter, held) } else { 0.0 };
        let residency = if self.weights.residency > 0.0 { self.residency(replica, adapter, held) } else { 0.0 };
        self.sum(bounds, affinity, residency)
    }

    /// No replica within these bounds, ids from the first to the last, scores more.
    fn score_max(&self, bounds: &Bounds, first: ReplicaId, last: ReplicaId) -> f64 {
        let held = self.adapter.is_none() || self.is_held(first, last);
        let affinity = match bounds {
            _ if held => 1.0,
            bounds if bounds.lora_slot => 0.8,
            bounds if bounds.waiting_max > 0 => 0.6,
            _ => 0.0,
        };
        // Whose host has the adapter is not indexed.
        self.sum(bounds, affinity, if held { 1.0 } else { 0.7 })
    }

    /// What the best within these bounds score, if it is surely the same, and more than the others there.
    fn score_best(&self, bounds: &Bounds, first: ReplicaId, last: ReplicaId) -> Option<f64> {
        let (affinity, residency) = match self.adapter {
            None => (1.0, 1.0),
            Some(_) if self.is_held(first, last) => return None,
            Some(_) => {
                let affinity = if bounds.lora_slot { 0.8 } else { 0.0 };
                let waits = !bounds.lora_slot && bounds.waiting_max > 0;
                let is_known = !waits && (bounds.host_has_all || self.weights.residency == 0.0);
                is_known.then_some((affinity, 0.7))?
            }
        };
        let best = self.sum(bounds, affinity, residency);
        // Each of the others is worse in one part at least: a sequence, the next share, or the slot.
        let (waiting_min, working_set_min) = (bounds.waiting_min + 1, bounds.working_set_min + 1);
        let kv_share_min = bounds.kv_share_next;
        let is_longer = self.reads.waiting && waiting_min <= self.queues.1;
        let is_fuller = self.reads.working_set && working_set_min <= self.loads.1;
        let others = [
            is_longer.then_some((Bounds { waiting_min, ..*bounds }, affinity)),
            is_fuller.then_some((Bounds { working_set_min, ..*bounds }, affinity)),
            (kv_share_min < f64::INFINITY).then_some((Bounds { kv_share_min, ..*bounds }, affinity)),
            (self.reads.lora_slot && bounds.lora_slot).then_some((*bounds, 0.6)),
        ];
        let score = |(bounds, affinity): &(Bounds, f64)| self.sum(bounds, *affinity, residency);
        others.iter().flatten().all(|other| score(other) < best).then_some(best)
    }

    /// Has one of these the adapter on the GPU or on its way there, ids from the first to the last?
    fn is_held(&self, first: ReplicaId, last: ReplicaId) -> bool {
        let next = self.holders.get(self.holders.partition_point(|&holder| holder < first));
        next.is_some_and(|&holder| holder <= last)
    }

    fn affinity(&self, replica: ReplicaId, bounds: &Bounds, adapter: AdapterId, held: bool) -> f64 {
        if held && self.fleet.adapter(replica, adapter) == AdapterSignal::Active {
            1.0
        } else if bounds.lora_slot {
            0.8
        } else if bounds.waiting_max > 0 && self.fleet.adapter(replica, adapter) == AdapterSignal::Waiting {
            0.6
        } else {
            0.0
        }
    }

    fn residency(&self, replica: ReplicaId, adapter: AdapterId, held: bool) -> f64 {
        let counts = self.fleet.counts(replica);
        let has_free_slot = || match self.fleet.settings(replica).gpu_adapters {
            AdapterMemory::Slots(slots) => counts.adapters_resident < slots,
            AdapterMemory::Bytes(bytes) => counts.adapter_bytes_resident < bytes,
            AdapterMemory::Unbounded => true,
        };
        if held {
            1.0
        } else if self.fleet.is_in_host(replica, adapter) {
            0.7
        } else if has_free_slot() {
            0.6
        } else if counts.adapters_resident > counts.adapters_active {
            0.3
        } else {
            0.0
        }
    }
}

/// Replicas from the first to the last: so many of them, the best, tie.
struct Ties {
    first: ReplicaId,
    last: ReplicaId,
    count: u32,
}

/// A search for those who score highest.
struct Highest<'a> {
    scoring: Scoring<'a>,
    score: f64,
    ties: Vec<Ties>,
}

impl Highest<'_> {
    fn found(&mut self, score: f64, ties: Ties) {
        if score > self.score {
            self.score = score;
            self.ties.clear();
        }
        if score == self.score {
            self.ties.push(ties);
        }
    }

    /// Any of them, all alike.
    fn draw(mut self, random: &mut Stream) -> Option<ReplicaId> {
        self.ties.sort_unstable_by_key(|ties| ties.first);
        let count = self.ties.iter().map(|ties| ties.count as usize).sum();
        let mut drawn = if count > 1 { random.random_range(0..count) as u32 } else { 0 };
        for &Ties { first, last, count } in &self.ties {
            if drawn < count {
                return Some(self.scoring.fleet.nth_best(Group::ALL, self.scoring.reads, (first, last), drawn));
            }
            drawn -= count;
        }
        None
    }
}

impl Search for Highest<'_> {
    type Hope = f64;

    fn hope(&self, bounds: &Bounds, first: ReplicaId, last: ReplicaId) -> Option<f64> {
        Some(self.scoring.score_max(bounds, first, last)).filter(|&most| most >= self.score)
    }

    fn look(&mut self, replica: ReplicaId, bounds: &Bounds) {
        self.found(self.scoring.score(replica, bounds), Ties { first: replica, last: replica, count: 1 });
    }

    fn take(&mut self, bounds: &Bounds, first: ReplicaId, last: ReplicaId) -> bool {
        let best = self.scoring.score_best(bounds, first, last);
        best.inspect(|&score| self.found(score, Ties { first, last, count: bounds.best })).is_some()
    }

    fn reads(&self) -> Reads {
        self.scoring.reads
    }
}

/// Any of them, all alike.
fn any_of(replicas: &[ReplicaId], random: &mut Stream) -> Option<ReplicaId> {
    (!replicas.is_empty()).then(|| replicas[random.random_range(0..replicas.len())])
}

impl Scorers {
    fn highest(&self, asked: &Asked<'_>, fleet: &Fleet<'_>, random: &mut Stream) -> Option<ReplicaId> {
        let scoring = Scoring::new(self, asked, fleet)?;
        let mut highest = Highest { scoring, score: f64::NEG_INFINITY, ties: Vec::new() };
        fleet.search(Group::ALL, &mut highest);
        highest.draw(random)
    }

    /// Where the draw is by score, everybody's counts.
    fn weighted(&self, asked: &Asked<'_>, fleet: &Fleet<'_>, random: &mut Stream) -> Option<ReplicaId> {
        let scoring = Scoring::new(self, asked, fleet)?;
        let of_kv = self.kv_utilization > 0.0;
        let score = |&replica: &ReplicaId| (scoring.score(replica, &fleet.bounds_of(replica, of_kv)), replica);
        let scores: Vec<(f64, ReplicaId)> = fleet.available().iter().map(score).collect();
        let total: f64 = scores.iter().map(|&(score, _)| score).sum();
        if total <= 0.0 {
            return any_of(fleet.available(), random);
        }
        let mut left = random.random_range(0.0..total);
        for &(score, replica) in &scores {
            if left < score {
                return Some(replica);
            }
            left -= score;
        }
        scores.iter().rev().find(|&&(score, _)| score > 0.0).map(|&(_, replica)| replica)
    }
}

impl Router for Scorers {
    fn route(&mut self, asked: &Asked<'_>, fleet: &Fleet<'_>, random: &mut Stream) -> Route {
        let chosen = match self.picker {
            Picker::MaxScore => self.highest(asked, fleet, random),
            Picker::WeightedRandom => self.weighted(asked, fleet, random),
            Picker::Random => any_of(fleet.available(), random),
        };
        chosen.map_or(Route::Hold, Route::To)
    }
}
