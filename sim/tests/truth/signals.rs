//! What routers see is what was published: the truth, counted here from facts alone, or what was true at the last tick.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use aril_sim::conformance::{RandomPolicies, Scenario, Terrain};
use aril_sim::fact::{End, Fact, Observer, Power, Tier};
use aril_sim::fleet::{AdapterSignal, Fleet, Signals};
use aril_sim::policy::{Asked, Make, Policies, Route, Router};
use aril_sim::random::{self, Stream};
use aril_sim::time::{Span, Time};
use aril_sim::workload::{AdapterId, ReplicaId, RequestId};

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Count {
    running: u32,
    waiting: u32,
    resident: u32,
    on: bool,
}

/// Where everybody is, by facts.
#[derive(Debug, Default)]
struct Tally {
    replicas: Vec<Count>,
    /// Of each replica, what is on its GPU or on its way there, and its bytes.
    on_gpu: Vec<BTreeMap<AdapterId, u64>>,
    places: BTreeMap<RequestId, (ReplicaId, bool)>,
    /// Whose adapter is which.
    adapters: BTreeMap<RequestId, AdapterId>,
    /// What is to be computed before each one's next token, if it begins anew.
    tokens: BTreeMap<RequestId, u32>,
    /// Of those who were asked about again, with a prompt that was cut.
    cut: BTreeSet<RequestId>,
    asked_again: u64,
    /// Adapters of rows that left while a step ran that contains them: in use until it is over.
    lingering: BTreeSet<(ReplicaId, AdapterId)>,
    /// Preempted requests leave their replica.
    to_cluster: bool,
    compared: u64,
}

impl Tally {
    fn leaves(&mut self, request: RequestId) {
        if let Some((replica, running)) = self.places.remove(&request) {
            let count = &mut self.replicas[replica.index()];
            if running {
                count.running -= 1
            } else {
                count.waiting -= 1
            }
            if let Some(&adapter) = self.adapters.get(&request).filter(|_| running) {
                self.lingering.insert((replica, adapter));
            }
        }
    }

    fn told(&mut self, fact: &Fact<'_>) {
        match *fact {
            Fact::Offered(offered) => {
                self.adapters.extend(offered.request.adapter.map(|adapter| (offered.request.id, adapter)));
                self.tokens.insert(offered.request.id, offered.request.prompt_tokens);
            }
            Fact::Routed { request, replica, .. } => {
                self.places.insert(request, (replica, false));
                self.replicas[replica.index()].waiting += 1;
            }
            Fact::Scheduled { request, replica } => {
                self.leaves(request);
                self.places.insert(request, (replica, true));
                self.replicas[replica.index()].running += 1;
            }
            Fact::Preempted { request, replica, cut, .. } => {
                self.leaves(request);
                *self.tokens.get_mut(&request).expect("it was offered") -= cut;
                if cut > 0 {
                    self.cut.insert(request);
                }
                if !self.to_cluster {
                    self.places.insert(request, (replica, false));
                    self.replicas[replica.index()].waiting += 1;
                }
            }
            Fact::Migrated { request, .. } => self.leaves(request),
            Fact::Ended(ref life) => self.leaves(life.offered.request.id),
            Fact::LoadStarted { replica, from: Tier::Host, adapter, bytes, .. } => {
                self.replicas[replica.index()].resident += 1;
                self.on_gpu[replica.index()].insert(adapter, bytes);
            }
            Fact::Stretch(ref stretch) => {
                self.lingering.retain(|(replica, _)| *replica != stretch.replica);
                for row in stretch.rows.iter().filter(|row| row.emits) {
                    *self.tokens.get_mut(&row.request).expect("it was offered") += stretch.steps;
                }
            }
            Fact::Evicted { replica, tier: Tier::Gpu, adapter, .. } => {
                self.replicas[replica.index()].resident -= 1;
                self.on_gpu[replica.index()].remove(&adapter);
            }
            Fact::Power { replica, power } => {
                let count = &mut self.replicas[replica.index()];
                count.on = power == Power::On;
                if power == Power::Off {
                    count.resident = 0;
                    self.on_gpu[replica.index()].clear();
                }
            }
            _ => {}
        }
    }
}

impl Tally {
    /// Adapters of a replica's batch, or of its queue.
    fn wanted(&self, replica: ReplicaId, running: bool) -> BTreeSet<AdapterId> {
        let there = self.places.iter().filter(|(_, place)| **place == (replica, running));
        there.filter_map(|(request, _)| self.adapters.get(request).copied()).collect()
    }

    /// What a scan of every replica says of adapters is what the fleet says.
    fn compare_adapters(&self, fleet: &Fleet<'_>) {
        let known: BTreeSet<AdapterId> = self.adapters.values().copied().collect();
        let mut holders: BTreeMap<AdapterId, Vec<ReplicaId>> = BTreeMap::new();
        for (id, on_gpu) in (0..).map(ReplicaId).zip(&self.on_gpu) {
            let (active, waiting) = (self.wanted(id, true), self.wanted(id, false));
            let seen = fleet.signals(id);
            let told = (seen.adapters_waiting, seen.adapter_bytes_resident);
            let truth = (waiting.len() as u32, on_gpu.values().sum::<u64>());
            assert_eq!(told, truth, "{id:?}, at {}", fleet.now());
            let mut in_use = 0;
            for &adapter in &known {
                let lingers = self.lingering.contains(&(id, adapter));
                let is_active = fleet.adapter(id, adapter) == AdapterSignal::Active;
                in_use += u32::from(is_active);
                let truth = match adapter {
                    adapter if active.contains(&adapter) || lingers && is_active => AdapterSignal::Active,
                    adapter if on_gpu.contains_key(&adapter) => AdapterSignal::Resident,
                    adapter if waiting.contains(&adapter) => AdapterSignal::Waiting,
                    _ => AdapterSignal::Absent,
                };
                assert_eq!(fleet.adapter(id, adapter), truth, "{id:?}, {adapter:?}, at {}", fleet.now());
                if on_gpu.contains_key(&adapter) {
                    holders.entry(adapter).or_default().push(id);
                }
            }
            assert_eq!(seen.adapters_active, in_use, "{id:?}, at {}", fleet.now());
        }
        for adapter in known {
            let truth = holders.get(&adapter).map_or(&[][..], Vec::as_slice);
            assert_eq!(fleet.holders(adapter), truth, "{adapter:?}, at {}", fleet.now());
        }
    }
}

struct Watch(Arc<Mutex<Tally>>);

impl Observer for Watch {
    fn observe(&mut self, _: Time, fact: &Fact<'_>) {
        self.0.lock().unwrap().told(fact);
    }
}

/// Compares what it sees before it asks another router.
struct Suspicious {
    tally: Arc<Mutex<Tally>>,
    inner: Box<dyn Router>,
}

impl Router for Suspicious {
    fn route(&mut self, asked: &Asked<'_>, fleet: &Fleet<'_>, random: &mut Stream) -> Route {
        let mut tally = self.tally.lock().unwrap();
        tally.compared += 1;
        assert_eq!(asked.tokens, tally.tokens[&asked.request.id], "{asked:?}, at {}", fleet.now());
        tally.asked_again += u64::from(tally.cut.contains(&asked.request.id));
        let mut by_working_set = Vec::new();
        for (id, count) in (0..).map(ReplicaId).zip(&tally.replicas) {
            let seen = fleet.signals(id);
            let told = (seen.running, seen.waiting, seen.adapters_resident, fleet.is_available(id));
            assert_eq!(told, (count.running, count.waiting, count.resident, count.on), "{id:?}, at {}", fleet.now());
            assert_eq!(fleet.available().contains(&id), count.on);
            if count.on {
                by_working_set.push((count.running + count.waiting, id));
            }
        }
        by_working_set.sort();
        assert!(fleet.by_working_set().eq(by_working_set.iter().copied()));
        let small = by_working_set.iter().copied().filter(|(size, _)| (1..4).contains(size));
        assert!(fleet.with_working_set(1..4).eq(small));
        tally.compare_adapters(fleet);
        drop(tally);
        self.inner.route(asked, fleet, random)
    }

    fn queue_key(&self, asked: &Asked<'_>) -> u64 {
        self.inner.queue_key(asked)
    }
}

pub(super) fn with_router(
    random: &RandomPolicies,
    wrap: impl Fn(Box<dyn Router>) -> Box<dyn Router> + Send + Sync + 'static,
) -> Policies {
    let policies = random.make();
    let make: Make<dyn Router> = policies.router;
    Policies { router: Box::new(move || wrap(make())), ..policies }
}

#[test]
fn without_delay_routers_see_the_truth() {
    let (mut compared, mut cut) = (0, 0);
    for seed in 0..2_000 {
        let mut scenario = Scenario::draw(seed, Terrain::Any);
        scenario.settings.signals_interval = Span::ZERO;
        let random = RandomPolicies::draw(&mut random::stream(seed, "signals"), scenario.unit);
        let on = |replica: &aril_sim::settings::ReplicaSettings| Count { on: replica.starts_on, ..Count::default() };
        let tally = Tally {
            replicas: scenario.settings.replicas.iter().map(on).collect(),
            on_gpu: vec![BTreeMap::new(); scenario.settings.replicas.len()],
            to_cluster: random.requeue_to_cluster,
            ..Tally::default()
        };
        let tally = Arc::new(Mutex::new(tally));
        let shared = Arc::clone(&tally);
        let policies = with_router(&random, move |inner| Box::new(Suspicious { tally: Arc::clone(&shared), inner }));
        let _ = scenario.run(&policies, seed % 2 == 0, &mut Watch(Arc::clone(&tally)));
        let tally = tally.lock().unwrap();
        compared += tally.compared;
        cut += tally.asked_again;
    }
    assert!(compared > 20_000 && cut > 40, "{compared} comparisons, {cut} with a prompt that was cut");
}

/// Remembers what it saw since the last tick.
struct Forgetful {
    interval: Span,
    tick: u64,
    seen: Vec<Signals>,
    stale: Arc<Mutex<u64>>,
    /// So many times yet it does not ask who holds an adapter: the index is made between ticks.
    asks_after: u64,
    /// Of the catalogue.
    adapters: u32,
    inner: Box<dyn Router>,
}

impl Router for Forgetful {
    fn route(&mut self, asked: &Asked<'_>, fleet: &Fleet<'_>, random: &mut Stream) -> Route {
        // At a tick itself an arrival comes first.
        let tick = fleet.now().as_ps() / self.interval.as_ps();
        let on_tick = fleet.now().as_ps().is_multiple_of(self.interval.as_ps());
        let seen: Vec<Signals> = (0..fleet.len() as u32).map(|id| fleet.signals(ReplicaId(id))).collect();
        self.asks_after = self.asks_after.saturating_sub(1);
        // Two ways to ask for the same: neither knows what the other does not.
        let asks = if self.asks_after == 0 { self.adapters } else { 0 };
        for adapter in (0..asks).map(AdapterId) {
            let holds = |&id: &ReplicaId| fleet.adapter(id, adapter) >= AdapterSignal::Resident;
            let holders: Vec<ReplicaId> = (0..fleet.len() as u32).map(ReplicaId).filter(holds).collect();
            assert_eq!(fleet.holders(adapter), holders, "{adapter:?}, at {}", fleet.now());
        }
        if !on_tick {
            if tick == self.tick {
                assert_eq!(seen, self.seen, "signals change between ticks, at {}", fleet.now());
                *self.stale.lock().unwrap() += 1;
            }
            (self.tick, self.seen) = (tick, seen);
        }
        match fleet.available() {
            [first, ..] if self.asks_after > 0 => Route::To(*first),
            _ => self.inner.route(asked, fleet, random),
        }
    }
}

#[test]
fn with_delay_routers_see_what_was_true_at_the_last_tick() {
    let stale = Arc::new(Mutex::new(0));
    let mut finished = 0;
    for seed in 0..500 {
        let mut scenario = Scenario::draw(seed, Terrain::Serveable);
        let interval = scenario.unit * 97;
        scenario.settings.signals_interval = interval;
        let shared = Arc::clone(&stale);
        let adapters = scenario.catalog.adapters.len() as u32;
        let scaler_period = (seed % 2 == 0).then(|| scenario.unit * 33);
        let policies = RandomPolicies { scaler_period, ..RandomPolicies::plain(seed) };
        let policies = with_router(&policies, move |inner| {
            let stale = Arc::clone(&shared);
            Box::new(Forgetful {
                interval,
                tick: u64::MAX,
                seen: Vec::new(),
                stale,
                asks_after: seed % 16,
                adapters,
                inner,
            })
        });
        let mut ends = Ends(0);
        scenario.run(&policies, true, &mut ends).expect("it is served");
        finished += ends.0;
    }
    assert!(*stale.lock().unwrap() > 1_000 && finished > 1_000);
}

struct Ends(u64);

impl Observer for Ends {
    fn observe(&mut self, _: Time, fact: &Fact<'_>) {
        if let Fact::Ended(life) = fact {
            self.0 += u64::from(life.end == End::Finished);
        }
    }
}
