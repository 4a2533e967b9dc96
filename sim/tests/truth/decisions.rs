//! Routers that read indexes choose whom a look at every replica would choose, and draw the same random numbers.

use std::cmp::Reverse;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use aril_sim::conformance::{RandomPolicies, Scenario, Terrain};
use aril_sim::fleet::{AdapterSignal, Fleet};
use aril_sim::policy::router::{
    AffinityHard, AffinitySoft, Assignment, Dedicated, LeastLoaded, Load, Picker, PunicaArtifact, PunicaPaper, Scorers,
};
use aril_sim::policy::{Asked, Route, Router};
use aril_sim::random::{self, Stream};
use aril_sim::settings::{AdapterMemory, ReplicaSettings};
use aril_sim::time::Span;
use aril_sim::workload::{AdapterId, ReplicaId, RequestId};
use rand::{Rng, RngExt};

use super::differential::soak_seeds;
use super::signals::with_router;

/// The rule as it is written, without an index.
#[derive(Clone)]
enum Rule {
    Least(Load),
    Dedicated { rule: Dedicated, group_of: Vec<Option<u32>>, offered: Vec<u32> },
    Hard(AffinityHard),
    Soft(AffinitySoft),
    Paper(PunicaPaper),
    Artifact(PunicaArtifact),
    Scorers(Scorers),
}

/// How many kinds of rules there are.
const RULES: usize = 7;

fn everybody(fleet: &Fleet<'_>) -> impl Iterator<Item = ReplicaId> {
    (0..fleet.len() as u32).map(ReplicaId)
}

fn kv_share(fleet: &Fleet<'_>, replica: ReplicaId) -> f64 {
    let (signals, blocks) = (fleet.signals(replica), f64::from(fleet.settings(replica).kv_blocks));
    (blocks - f64::from(signals.kv_blocks_free) + signals.kv_blocks_promised as f64).max(0.0) / blocks
}

fn least(fleet: &Fleet<'_>, by: Load, replicas: impl Iterator<Item = ReplicaId>) -> Option<ReplicaId> {
    let key = |replica: &ReplicaId| {
        let signals = fleet.signals(*replica);
        let working_set = f64::from(signals.running + signals.waiting);
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
fn pins(fleet: &Fleet<'_>, adapter: AdapterId, count: usize) -> Vec<ReplicaId> {
    let key = mix(u64::from(adapter.0).wrapping_add(0x9e37_79b9_7f4a_7c15));
    let mut on: Vec<ReplicaId> = everybody(fleet).filter(|&replica| fleet.is_available(replica)).collect();
    on.sort_by_key(|replica| std::cmp::Reverse((mix(key ^ mix(u64::from(replica.0) + 1)), replica.0)));
    on.truncate(count);
    on
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
    let load = |replica| fleet.signals(replica).running + fleet.signals(replica).waiting;
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

fn working_set(fleet: &Fleet<'_>, replica: ReplicaId) -> u32 {
    fleet.signals(replica).running + fleet.signals(replica).waiting
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

impl Rule {
    fn kind(&self) -> usize {
        match self {
            Rule::Least(_) => 0,
            Rule::Dedicated { .. } => 1,
            Rule::Hard(_) => 2,
            Rule::Soft(_) => 3,
            Rule::Paper(_) => 4,
            Rule::Artifact(_) => 5,
            Rule::Scorers(_) => 6,
        }
    }

    fn draw(random: &mut Stream) -> Rule {
        let mut below = |n: u32| random.next_u32() % n;
        let by = [Load::Requests, Load::Waiting, Load::Kv][below(3) as usize];
        match below(8) {
            0 => Rule::Least(by),
            1 => {
                let mut rule = Dedicated::default();
                (rule.groups, rule.by) = (below(5), by);
                rule.assignment = [Assignment::FewestRequests, Assignment::Modulo][below(2) as usize];
                Rule::Dedicated { rule, group_of: Vec::new(), offered: Vec::new() }
            }
            2 => {
                let mut rule = AffinityHard::default();
                (rule.replicas_per_adapter, rule.by) = (1 + below(4), by);
                Rule::Hard(rule)
            }
            3 => {
                let (imbalance_max, skip_full) = (below(6), below(2) == 0);
                let affinity_probability = [1.0, 0.5][below(2) as usize];
                Rule::Soft(AffinitySoft { imbalance_max, skip_full, affinity_probability })
            }
            4 => {
                let mut rule = PunicaPaper::default();
                rule.working_set_max = below(4);
                Rule::Paper(rule)
            }
            5 => {
                let mut rule = PunicaArtifact::default();
                (rule.working_set_max, rule.spare_blocks_per_sequence) = (below(4), below(3));
                Rule::Artifact(rule)
            }
            _ => {
                let mut weight = || [0.0, 0.0, 1.0, 0.1 + f64::from(below(30)) / 7.0][below(4) as usize];
                let (queue, load, kv_utilization) = (weight(), weight(), weight());
                let (lora_affinity, residency) = (weight(), weight());
                let lora_affinity = if queue + load + kv_utilization + residency > 0.0 { lora_affinity } else { 1.0 };
                let picker = [Picker::MaxScore, Picker::MaxScore, Picker::WeightedRandom, Picker::Random];
                let picker = picker[below(4) as usize];
                Rule::Scorers(Scorers { queue, kv_utilization, lora_affinity, residency, load, picker })
            }
        }
    }

    fn router(&self) -> Box<dyn Router> {
        match self.clone() {
            Rule::Least(by) => Box::new(LeastLoaded { by }),
            Rule::Dedicated { rule, .. } => Box::new(rule),
            Rule::Hard(rule) => Box::new(rule),
            Rule::Soft(rule) => Box::new(rule),
            Rule::Paper(rule) => Box::new(rule),
            Rule::Artifact(rule) => Box::new(rule),
            Rule::Scorers(rule) => Box::new(rule),
        }
    }

    fn choose(&mut self, asked: &Asked<'_>, fleet: &Fleet<'_>, random: &mut Stream) -> Option<ReplicaId> {
        match self {
            Rule::Least(by) => least(fleet, *by, everybody(fleet)),
            Rule::Dedicated { rule, group_of, offered } => {
                let replicas = fleet.len() as u32;
                let groups = if rule.groups == 0 { replicas } else { rule.groups.min(replicas) };
                let number = asked.request.adapter.map_or(0, |adapter| adapter.0 + 1);
                group_of.resize(group_of.len().max(number as usize + 1), None);
                offered.resize(groups as usize, 0);
                let fewest = (0..groups).min_by_key(|&group| offered[group as usize]).expect("there are groups");
                let group = *group_of[number as usize].get_or_insert(match rule.assignment {
                    Assignment::FewestRequests => fewest,
                    Assignment::Modulo => (number + groups - 1) % groups,
                });
                let chosen = least(fleet, rule.by, everybody(fleet).filter(|replica| replica.0 % groups == group));
                offered[group as usize] += u32::from(chosen.is_some());
                chosen
            }
            Rule::Hard(rule) => {
                let adapter = asked.request.adapter;
                let count = rule.replicas_per_adapter as usize;
                match adapter.map(|adapter| pins(fleet, adapter, count)) {
                    Some(pins) => least(fleet, rule.by, pins.into_iter()),
                    None => least(fleet, rule.by, everybody(fleet)),
                }
            }
            Rule::Soft(rule) => soft(rule, asked, fleet, random),
            Rule::Paper(rule) => {
                let fitting = with_place(fleet, rule.working_set_max, asked.tokens(), 0);
                fitting.max_by_key(|&replica| (working_set(fleet, replica), replica))
            }
            Rule::Artifact(rule) => {
                let spare = rule.spare_blocks_per_sequence;
                let fitting = with_place(fleet, rule.working_set_max, asked.tokens(), spare);
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

/// What was compared.
#[derive(Debug, Default)]
struct Compared {
    choices: u64,
    /// By each kind of rule, between two replicas at least.
    of_rule: [u64; RULES],
    /// With a replica off.
    reduced: u64,
    /// That drew a random number.
    drawn: u64,
}

/// Asks the router and the rule.
struct Twins {
    seed: u64,
    rule: Rule,
    router: Box<dyn Router>,
    compared: Arc<Mutex<Compared>>,
}

impl Router for Twins {
    fn route(&mut self, asked: &Asked<'_>, fleet: &Fleet<'_>, random: &mut Stream) -> Route {
        let mut same = random.clone();
        let before = random.clone();
        let expected = self.rule.choose(asked, fleet, &mut same).map_or(Route::Hold, Route::To);
        let route = self.router.route(asked, fleet, random);
        assert_eq!(route, expected, "seed {}, {:?}, at {}", self.seed, asked.request, fleet.now());
        assert!(*random == same, "seed {}: another number of random draws, at {}", self.seed, fleet.now());
        let mut compared = self.compared.lock().unwrap();
        compared.choices += 1;
        compared.of_rule[self.rule.kind()] += u64::from(fleet.available().len() > 1);
        compared.reduced += u64::from(fleet.available().len() < fleet.len());
        compared.drawn += u64::from(before != *random);
        route
    }
}

/// A scenario with as many replicas as that, set each as another scenario has them, and its requests several times.
fn fleet_of(seed: u64, random: &mut Stream) -> Scenario {
    let mut scenario = Scenario::draw(seed, Terrain::Any);
    // Few fleets are large: one look at everybody a choice takes its time.
    let most = if random.next_u32().is_multiple_of(8) { 120 } else { 40 };
    let replicas = 1 + random.next_u32() % most;
    let alike = random.next_u32().is_multiple_of(2);
    let own = |id: u32| -> ReplicaSettings {
        let other = Scenario::draw(seed * 1_000 + u64::from(if alike { id % 2 } else { id }), Terrain::Any);
        other.settings.replicas[0].clone()
    };
    let is_on = |id: u32, random: &mut Stream| id == 0 || !random.next_u32().is_multiple_of(4);
    scenario.settings.replicas =
        (0..replicas).map(|id| ReplicaSettings { starts_on: is_on(id, random), ..own(id) }).collect();
    let times = 1 + random.next_u32() % 6;
    let each = scenario.offered.iter().flat_map(|offered| (0..times).map(|_| offered.clone()));
    scenario.offered = each.collect();
    for (id, offered) in (0..).map(RequestId).zip(&mut scenario.offered) {
        offered.request.id = id;
    }
    scenario
}

fn compare(seeds: Range<u64>) -> Compared {
    let compared = Arc::new(Mutex::new(Compared::default()));
    for seed in seeds {
        let mut random = random::stream(seed, "decisions");
        let mut scenario = fleet_of(seed, &mut random);
        scenario.settings.signals_interval =
            if seed % 3 == 0 { scenario.unit * u64::from(1 + random.next_u32() % 60) } else { Span::ZERO };
        let policies = RandomPolicies::draw(&mut random, scenario.unit);
        let rule = Rule::draw(&mut random);
        let shared = Arc::clone(&compared);
        let policies = with_router(&policies, move |_| {
            Box::new(Twins { seed, router: rule.router(), rule: rule.clone(), compared: Arc::clone(&shared) })
        });
        let _ = scenario.run(&policies, seed % 2 == 0, &mut ());
    }
    std::mem::take(&mut *compared.lock().unwrap())
}

#[test]
#[ignore = "a soak for idle hours: set ARIL_SOAK_SEEDS=from..to"]
fn soak_of_choices() {
    println!("{:?}", compare(soak_seeds()));
}

#[test]
fn indexes_choose_as_a_look_at_every_replica_does() {
    let compared = compare(0..1_500);
    assert!(compared.choices > 20_000 && compared.reduced > 5_000 && compared.drawn > 1_000, "{compared:?}");
    assert!(compared.of_rule.iter().all(|&choices| choices > 2_000), "{compared:?}");
}
