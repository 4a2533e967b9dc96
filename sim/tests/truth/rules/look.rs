//! The rules as they are written, without an index: a look at every replica for each choice.

use std::cmp::Reverse;

use aril_sim::fleet::{AdapterSignal, Fleet};
use aril_sim::policy::router::{AffinitySoft, Assignment, Dedicated, Load, Picker, Scorers};
use aril_sim::policy::{Asked, Route, Router};
use aril_sim::random::Stream;
use aril_sim::settings::AdapterMemory;
use aril_sim::workload::{AdapterId, ReplicaId};
use rand::RngExt;

use super::Rule;

/// A rule, and what it remembers in a run.
pub(super) struct Look {
    rule: Rule,
    groups: Groups,
}

impl Look {
    pub(super) fn of(rule: Rule) -> Look {
        Look { rule, groups: Groups::default() }
    }

    fn choose(&mut self, asked: &Asked<'_>, fleet: &Fleet<'_>, random: &mut Stream) -> Option<ReplicaId> {
        match &self.rule {
            Rule::LeastLoaded(rule) => least(fleet, rule.by, everybody(fleet)),
            Rule::Dedicated(rule) => self.groups.choose(rule, asked, fleet),
            Rule::AffinityHard(rule) => match asked.request.adapter {
                Some(adapter) => least(fleet, rule.by, pins(fleet, adapter, rule.replicas_per_adapter as usize)),
                None => least(fleet, rule.by, everybody(fleet)),
            },
            Rule::AffinitySoft(rule) => soft(rule, asked, fleet, random),
            Rule::PunicaPaper(rule) => {
                let fitting = with_place(fleet, rule.working_set_max, asked.tokens, 0);
                fitting.max_by_key(|&replica| (working_set(fleet, replica), replica))
            }
            Rule::PunicaArtifact(rule) => {
                let spare = rule.spare_blocks_per_sequence;
                let fitting = with_place(fleet, rule.working_set_max, asked.tokens, spare);
                fitting.max_by_key(|&replica| {
                    let same = asked.request.adapter.map_or(0, |adapter| fleet.sequences_with(replica, adapter));
                    let free = fleet.signals(replica).kv_blocks_uncommitted();
                    (working_set(fleet, replica), same, Reverse(free), replica)
                })
            }
            Rule::Scorers(rule) => pick(rule, &scores(rule, asked, fleet), random),
        }
    }
}

impl Router for Look {
    fn route(&mut self, asked: &Asked<'_>, fleet: &Fleet<'_>, random: &mut Stream) -> Route {
        self.choose(asked, fleet, random).map_or(Route::Hold, Route::To)
    }
}

/// To which group does each adapter belong, and how much did each group get?
#[derive(Default)]
struct Groups {
    /// By adapter, that of requests without adapter first; none before the first request.
    of: Vec<Option<u32>>,
    /// Requests so far, by group.
    offered: Vec<u32>,
}

impl Groups {
    fn choose(&mut self, rule: &Dedicated, asked: &Asked<'_>, fleet: &Fleet<'_>) -> Option<ReplicaId> {
        let replicas = fleet.len() as u32;
        let groups = if rule.groups == 0 { replicas } else { rule.groups.min(replicas) };
        let number = asked.request.adapter.map_or(0, |adapter| adapter.0 + 1);
        self.of.resize(self.of.len().max(number as usize + 1), None);
        self.offered.resize(groups as usize, 0);
        let fewest = (0..groups).min_by_key(|&group| self.offered[group as usize]).expect("there are groups");
        let group = *self.of[number as usize].get_or_insert(match rule.assignment {
            Assignment::FewestRequests => fewest,
            Assignment::Modulo => (number + groups - 1) % groups,
        });
        let chosen = least(fleet, rule.by, everybody(fleet).filter(|replica| replica.0 % groups == group));
        self.offered[group as usize] += u32::from(chosen.is_some());
        chosen
    }
}

fn everybody(fleet: &Fleet<'_>) -> impl Iterator<Item = ReplicaId> {
    (0..fleet.len() as u32).map(ReplicaId)
}

fn working_set(fleet: &Fleet<'_>, replica: ReplicaId) -> u32 {
    fleet.signals(replica).running + fleet.signals(replica).waiting
}

fn kv_share(fleet: &Fleet<'_>, replica: ReplicaId) -> f64 {
    let (signals, blocks) = (fleet.signals(replica), f64::from(fleet.settings(replica).kv_blocks));
    (blocks - f64::from(signals.kv_blocks_free) + signals.kv_blocks_promised as f64).max(0.0) / blocks
}

fn least(fleet: &Fleet<'_>, by: Load, replicas: impl Iterator<Item = ReplicaId>) -> Option<ReplicaId> {
    let key = |replica: &ReplicaId| {
        let signals = fleet.signals(*replica);
        let working_set = f64::from(working_set(fleet, *replica));
        let (first, second) = match by {
            Load::Requests => (working_set, 0.0),
            Load::Waiting => (f64::from(signals.waiting), f64::from(signals.running)),
            Load::Kv => (kv_share(fleet, *replica), working_set),
        };
        (first, second, *replica)
    };
    let on = replicas.filter(|&replica| fleet.is_available(replica));
    on.min_by(|a, b| key(a).partial_cmp(&key(b)).expect("loads are numbers"))
}

fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The best of those that are on, by hash with the adapter.
fn pins(fleet: &Fleet<'_>, adapter: AdapterId, count: usize) -> impl Iterator<Item = ReplicaId> {
    let key = mix(u64::from(adapter.0).wrapping_add(0x9e37_79b9_7f4a_7c15));
    let mut on: Vec<ReplicaId> = everybody(fleet).filter(|&replica| fleet.is_available(replica)).collect();
    on.sort_by_key(|replica| Reverse((mix(key ^ mix(u64::from(replica.0) + 1)), replica.0)));
    on.into_iter().take(count)
}

fn affinity(fleet: &Fleet<'_>, replica: ReplicaId, adapter: AdapterId) -> f64 {
    let signals = fleet.signals(replica);
    match fleet.adapter(replica, adapter) {
        AdapterSignal::Active => 1.0,
        _ if signals.adapters_active + signals.adapters_waiting < fleet.settings(replica).max_loras => 0.8,
        AdapterSignal::Waiting if signals.waiting > 0 => 0.6,
        _ => 0.0,
    }
}

fn residency(fleet: &Fleet<'_>, replica: ReplicaId, adapter: AdapterId) -> f64 {
    let signals = fleet.signals(replica);
    let free = match fleet.settings(replica).gpu_adapters {
        AdapterMemory::Slots(slots) => signals.adapters_resident < slots,
        AdapterMemory::Bytes(bytes) => signals.adapter_bytes_resident < bytes,
        AdapterMemory::Unbounded => true,
    };
    match fleet.adapter(replica, adapter) {
        AdapterSignal::Active | AdapterSignal::Resident => 1.0,
        _ if fleet.is_in_host(replica, adapter) => 0.7,
        _ if free => 0.6,
        _ if signals.adapters_resident > signals.adapters_active => 0.3,
        _ => 0.0,
    }
}

/// The score of everybody who is on.
fn scores(rule: &Scorers, asked: &Asked<'_>, fleet: &Fleet<'_>) -> Vec<(f64, ReplicaId)> {
    let on: Vec<ReplicaId> = everybody(fleet).filter(|&replica| fleet.is_available(replica)).collect();
    let nearness = |value: &dyn Fn(ReplicaId) -> u32, replica: ReplicaId| {
        let (least, most) = (on.iter().map(|&on| value(on)).min(), on.iter().map(|&on| value(on)).max());
        let (least, most) = (least.unwrap_or(0), most.unwrap_or(0));
        if most > least { f64::from(most - value(replica)) / f64::from(most - least) } else { 1.0 }
    };
    let waiting = |replica| fleet.signals(replica).waiting;
    let load = |replica| working_set(fleet, replica);
    let score = |replica| {
        let (affinity, residency) = match asked.request.adapter {
            Some(adapter) => (affinity(fleet, replica, adapter), residency(fleet, replica, adapter)),
            None => (1.0, 1.0),
        };
        let of_fleet = rule.queue * nearness(&waiting, replica) + rule.load * nearness(&load, replica);
        let of_kv = rule.kv_utilization * (1.0 - kv_share(fleet, replica)).max(0.0);
        of_fleet + of_kv + (rule.lora_affinity * affinity + rule.residency * residency)
    };
    on.iter().map(|&replica| (score(replica), replica)).collect()
}

fn pick(rule: &Scorers, scores: &[(f64, ReplicaId)], random: &mut Stream) -> Option<ReplicaId> {
    let any = |random: &mut Stream| (!scores.is_empty()).then(|| scores[random.random_range(0..scores.len())].1);
    let total: f64 = scores.iter().map(|&(score, _)| score).sum();
    match rule.picker {
        Picker::MaxScore => {
            let most = scores.iter().map(|&(score, _)| score).fold(0.0, f64::max);
            let ties: Vec<ReplicaId> = scores.iter().filter(|tie| tie.0 == most).map(|&(_, replica)| replica).collect();
            let drawn = if ties.len() > 1 { random.random_range(0..ties.len()) } else { 0 };
            ties.get(drawn).copied()
        }
        Picker::WeightedRandom if total > 0.0 => {
            let mut left = random.random_range(0.0..total);
            let mut reached = scores.iter().find(|&&(score, _)| {
                let found = left < score;
                left -= if found { 0.0 } else { score };
                found
            });
            reached = reached.or_else(|| scores.iter().rev().find(|&&(score, _)| score > 0.0));
            reached.map(|&(_, replica)| replica)
        }
        Picker::WeightedRandom | Picker::Random => any(random),
    }
}

/// The holder with the least to do, if it has not too much more than the emptiest.
fn soft(rule: &AffinitySoft, asked: &Asked<'_>, fleet: &Fleet<'_>, random: &mut Stream) -> Option<ReplicaId> {
    let emptiest = least(fleet, Load::Requests, everybody(fleet))?;
    let Some(adapter) = asked.request.adapter else { return Some(emptiest) };
    let holds = |replica: &ReplicaId| fleet.adapter(*replica, adapter) >= AdapterSignal::Resident;
    let Some(holder) = least(fleet, Load::Requests, everybody(fleet).filter(holds)) else { return Some(emptiest) };
    if working_set(fleet, holder) - working_set(fleet, emptiest) > rule.imbalance_max {
        return Some(emptiest);
    }
    let is_full = |replica| working_set(fleet, replica) >= fleet.settings(replica).max_num_seqs;
    if rule.skip_full && is_full(holder) && !is_full(emptiest) {
        return Some(emptiest);
    }
    let prefers = rule.affinity_probability >= 1.0 || random.random_bool(rule.affinity_probability);
    Some(if prefers { holder } else { emptiest })
}

/// Those who are on, below their limit and with blocks for the request, and so many more for each sequence, the new one included.
fn with_place<'a>(fleet: &'a Fleet<'_>, most: u32, tokens: u32, spare: u32) -> impl Iterator<Item = ReplicaId> + 'a {
    everybody(fleet).filter(move |&replica| {
        let settings = fleet.settings(replica);
        let limit = if most == 0 { settings.max_num_seqs } else { most.min(settings.max_num_seqs) };
        let blocks = fleet.kv_blocks_for(replica, tokens) + spare * (working_set(fleet, replica) + 1);
        fleet.is_available(replica)
            && working_set(fleet, replica) < limit
            && fleet.signals(replica).kv_blocks_uncommitted() >= blocks
    })
}
