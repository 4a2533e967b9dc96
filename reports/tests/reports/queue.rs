//! A few replicas with first-come queues, written for the tests of this crate: it tells facts as the engine does, by other means.

use std::collections::VecDeque;

use aril_sim::fact::{End, Fact, Life, LoadCause, Observer, Power, RejectReason, Row, Rows, Stretch, Tier, Waits};
use aril_sim::time::{Span, Time};
use aril_sim::workload::{
    Adapter, AdapterId, Catalog, Offered, Outcome, ReplicaId, Request, RequestId, Tenant, TenantId,
};

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// One after the other.
    RoundRobin,
    /// The replica with the fewest requests.
    LeastLoaded,
    /// The replica that an adapter always has.
    ByAdapter,
    /// The fullest replica with a place.
    Fullest,
}

/// A cluster and its traffic.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) route: Route,
    pub(crate) replicas: u32,
    pub(crate) batch: usize,
    pub(crate) slots: usize,
    pub(crate) adapters: u32,
    pub(crate) tenants: u32,
    pub(crate) requests: u32,
    pub(crate) rate_per_s: f64,
    /// Rises and falls once over the run?
    pub(crate) wave: bool,
    pub(crate) timeout: Option<Span>,
    pub(crate) seed: u64,
}

impl Setup {
    pub(crate) fn new(route: Route, seed: u64) -> Setup {
        Setup {
            route,
            replicas: 8,
            batch: 16,
            slots: 8,
            adapters: 64,
            tenants: 20,
            requests: 4000,
            rate_per_s: 10.0,
            wave: false,
            timeout: None,
            seed,
        }
    }

    /// Adapters of mixed ranks, tenants in two classes; some names carry markup.
    pub(crate) fn catalog(&self) -> Catalog {
        let tenants = (0..self.tenants).map(|i| Tenant {
            name: if i == 3 { "<script>alert('tenant')</script>".to_owned() } else { format!("tenant-{i:02}") },
            weight: 1.0,
            slo_class: u32::from(i % 4 != 0),
        });
        let adapters = (0..self.adapters).map(|i| Adapter {
            name: if i == 0 { "chat & \"tools\" <v2>".to_owned() } else { format!("adapter-{i:03}") },
            rank: [8, 16, 64][i as usize % 3],
            bytes: 20_000_000 * u64::from([1u32, 2, 8][i as usize % 3]),
            owner: None,
        });
        Catalog { tenants: tenants.collect(), adapters: adapters.collect() }
    }

    /// The requests: the same for every route.
    pub(crate) fn offered(&self) -> Vec<Offered> {
        let mut random = Random(self.seed);
        let mut at = 0.0;
        let span = f64::from(self.requests) / self.rate_per_s;
        (0..self.requests)
            .map(|id| {
                let here = if self.wave {
                    self.rate_per_s * (1.2 - (at / span * std::f64::consts::TAU).cos()) / 1.2
                } else {
                    self.rate_per_s
                };
                at += -random.unit().ln() / here;
                // Popularity falls as 1 / rank.
                let adapter = (f64::from(self.adapters).powf(random.unit()) as u32 - 1).min(self.adapters - 1);
                let output_tokens = 1 + (random.unit() * 200.0) as u32;
                Offered {
                    request: Request {
                        id: RequestId(id),
                        tenant: TenantId((random.unit() * random.unit() * f64::from(self.tenants)) as u32),
                        adapter: (random.unit() < 0.95).then_some(AdapterId(adapter)),
                        arrival: Time::from_ps((at * 1e12) as u64),
                        prompt_tokens: 1 + (random.unit().powi(3) * 1500.0) as u32,
                        max_tokens: 4096,
                        predicted_output_tokens: None,
                        prefix: None,
                    },
                    outcome: Outcome { output_tokens },
                }
            })
            .collect()
    }
}

struct Random(u64);

impl Random {
    /// Above 0, at most 1.
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (((z ^ (z >> 31)) >> 11) + 1) as f64 / (1u64 << 53) as f64
    }
}

#[derive(Clone)]
struct Sequence {
    offered: Offered,
    scheduled: Option<Time>,
    first_token: Option<Time>,
    previous_token: Option<Time>,
    emitted: u32,
    waits: Waits,
    hit: Option<bool>,
}

#[derive(Default)]
struct Replica {
    queue: VecDeque<Sequence>,
    running: Vec<Sequence>,
    resident: Vec<AdapterId>,
    in_host: Vec<AdapterId>,
    step: Option<Step>,
    on: bool,
}

#[derive(Clone, Copy)]
struct Step {
    start: Time,
    stall: Span,
    first: Span,
    increment: Span,
    steps: u32,
    segments: u32,
    end: Time,
}

/// Runs it and tells everything; returns when it ended.
pub(crate) fn run(setup: &Setup, observer: &mut impl Observer) -> Time {
    let catalog = setup.catalog();
    let mut arrivals: VecDeque<Offered> = setup.offered().into();
    let mut replicas: Vec<Replica> = (0..setup.replicas).map(|_| Replica::default()).collect();
    let (mut now, mut turn) = (Time::ZERO, 0);
    loop {
        let step = replicas.iter().enumerate().filter_map(|(i, r)| r.step.map(|step| (step.end, i))).min();
        let arrival = arrivals.front().map(|offered| offered.request.arrival);
        match (step, arrival) {
            (Some((end, index)), arrival) if arrival.is_none_or(|arrival| end <= arrival) => {
                now = end;
                finish_step(&mut replicas[index], index, now, observer);
                start_step(&mut replicas[index], index, now, setup, &catalog, arrival, observer);
            }
            (_, Some(arrival)) => {
                now = arrival;
                let offered = arrivals.pop_front().expect("it was there");
                observer.observe(now, &Fact::Offered(&offered));
                if offered.request.prompt_tokens > 1_450 {
                    let life = Life {
                        offered: &offered,
                        end: End::Rejected(RejectReason::TooLong),
                        replica: None,
                        scheduled: None,
                        first_token: None,
                        emitted: 0,
                        waits: Waits::default(),
                        adapter_hit: None,
                        preemptions: 0,
                        migrations: 0,
                    };
                    observer.observe(now, &Fact::Ended(life));
                    continue;
                }
                let index = route(setup, &replicas, &offered, &mut turn);
                take(&mut replicas[index], index, offered, now, observer);
                if replicas[index].step.is_none() {
                    let next = arrivals.front().map(|offered| offered.request.arrival);
                    start_step(&mut replicas[index], index, now, setup, &catalog, next, observer);
                }
            }
            (None, None) => return now,
            (Some(_), None) => unreachable!("without arrivals every step comes first"),
        }
    }
}

fn route(setup: &Setup, replicas: &[Replica], offered: &Offered, turn: &mut usize) -> usize {
    let load = |replica: &Replica| replica.queue.len() + replica.running.len();
    let least = || (0..replicas.len()).min_by_key(|i| load(&replicas[*i])).unwrap_or(0);
    match setup.route {
        Route::RoundRobin => {
            *turn += 1;
            *turn % replicas.len()
        }
        Route::LeastLoaded => least(),
        Route::ByAdapter => offered.request.adapter.map_or_else(least, |adapter| adapter.index() % replicas.len()),
        Route::Fullest => {
            let with_place = (0..replicas.len()).filter(|i| load(&replicas[*i]) < setup.batch);
            with_place.max_by_key(|i| (load(&replicas[*i]), std::cmp::Reverse(*i))).unwrap_or_else(least)
        }
    }
}

fn take(replica: &mut Replica, index: usize, offered: Offered, now: Time, observer: &mut impl Observer) {
    let id = ReplicaId(index as u32);
    if !replica.on {
        replica.on = true;
        observer.observe(now, &Fact::Power { replica: id, power: Power::On });
    }
    observer.observe(now, &Fact::Routed { request: offered.request.id, replica: id, recompute: 0 });
    let hit = offered.request.adapter.map(|adapter| replica.resident.contains(&adapter));
    replica.queue.push_back(Sequence {
        offered,
        scheduled: None,
        first_token: None,
        previous_token: None,
        emitted: 0,
        waits: Waits::default(),
        hit,
    });
}

fn end(sequence: &Sequence, end: End, index: usize, now: Time, observer: &mut impl Observer) {
    let life = Life {
        offered: &sequence.offered,
        end,
        replica: Some(ReplicaId(index as u32)),
        scheduled: sequence.scheduled,
        first_token: sequence.first_token,
        emitted: sequence.emitted,
        waits: sequence.waits,
        adapter_hit: sequence.hit,
        preemptions: 0,
        migrations: 0,
    };
    observer.observe(now, &Fact::Ended(life));
}

fn start_step(
    replica: &mut Replica,
    index: usize,
    now: Time,
    setup: &Setup,
    catalog: &Catalog,
    next: Option<Time>,
    observer: &mut impl Observer,
) {
    let id = ReplicaId(index as u32);
    let (mut stall, mut prompt) = (Span::ZERO, 0u64);
    while replica.running.len() < setup.batch {
        let Some(mut sequence) = replica.queue.pop_front() else { break };
        let arrival = sequence.offered.request.arrival;
        if setup.timeout.is_some_and(|timeout| now.since(arrival) > timeout) {
            sequence.waits.queue = now.since(arrival);
            end(&sequence, End::TimedOut, index, now, observer);
            continue;
        }
        sequence.waits.queue = now.since(arrival);
        sequence.scheduled = Some(now);
        observer.observe(now, &Fact::Scheduled { request: sequence.offered.request.id, replica: id });
        if let Some(adapter) = sequence.offered.request.adapter {
            let before = stall;
            stall += load(replica, id, adapter, now + stall, now, setup, catalog, observer);
            sequence.waits.load = stall.saturating_sub(before);
        }
        prompt += u64::from(sequence.offered.request.prompt_tokens);
        replica.running.push(sequence);
    }
    if replica.running.is_empty() {
        return;
    }
    let rows = replica.running.len() as u64;
    let first = Span::from_ms(12) + Span::from_us(180) * rows + Span::from_us(60) * prompt;
    let increment = Span::from_ns(40) * rows;
    let steps = if prompt > 0 || !replica.queue.is_empty() {
        1
    } else {
        let left = replica.running.iter().map(|s| s.offered.outcome.output_tokens - s.emitted).min().unwrap_or(1);
        let free = next.map_or(u64::MAX, |next| next.since(now).as_ps() / (first + increment * 200).as_ps());
        u64::from(left).min(free.saturating_add(1)) as u32
    };
    let mut adapters: Vec<_> = replica.running.iter().map(|s| s.offered.request.adapter).collect();
    adapters.sort_unstable();
    adapters.dedup();
    let k = u64::from(steps);
    let end = now + stall + first * k + increment * (k * (k - 1) / 2);
    replica.step = Some(Step { start: now, stall, first, increment, steps, segments: adapters.len() as u32, end });
}

#[allow(clippy::too_many_arguments)]
fn load(
    replica: &mut Replica,
    id: ReplicaId,
    adapter: AdapterId,
    start: Time,
    now: Time,
    setup: &Setup,
    catalog: &Catalog,
    observer: &mut impl Observer,
) -> Span {
    if let Some(place) = replica.resident.iter().position(|other| *other == adapter) {
        let adapter = replica.resident.remove(place);
        replica.resident.push(adapter);
        return Span::ZERO;
    }
    let bytes = catalog.adapters[adapter.index()].bytes;
    if replica.resident.len() >= setup.slots {
        let oldest = replica.resident.remove(0);
        let freed = catalog.adapters[oldest.index()].bytes;
        observer.observe(now, &Fact::Evicted { replica: id, adapter: oldest, tier: Tier::Gpu, bytes: freed });
    }
    replica.resident.push(adapter);
    let took = Span::from_us(bytes / 10_000);
    let mut tell = |from, done| {
        let fact = Fact::LoadStarted { replica: id, adapter, from, bytes, cause: LoadCause::Demand, start, done };
        observer.observe(now, &fact);
    };
    // From a disk that takes no time, once.
    if !replica.in_host.contains(&adapter) {
        replica.in_host.push(adapter);
        tell(Tier::Disk, start);
    }
    tell(Tier::Host, start + took);
    took
}

fn finish_step(replica: &mut Replica, index: usize, now: Time, observer: &mut impl Observer) {
    let Some(step) = replica.step.take() else { return };
    let rows: Vec<Row> = replica
        .running
        .iter()
        .map(|sequence| Row {
            request: sequence.offered.request.id,
            adapter: sequence.offered.request.adapter,
            previous_token: sequence.previous_token,
            tokens: if sequence.emitted == 0 { sequence.offered.request.prompt_tokens } else { 1 },
            prefill: sequence.emitted == 0,
            emits: true,
        })
        .collect();
    let kv: u32 =
        replica.running.iter().map(|s| (s.offered.request.prompt_tokens + s.emitted + step.steps).div_ceil(16)).sum();
    observer.observe(
        now,
        &Fact::Stretch(Stretch {
            replica: ReplicaId(index as u32),
            start: step.start,
            stall: step.stall,
            first: step.first,
            increment: step.increment,
            steps: step.steps,
            rows: Rows::Listed(&rows),
            same_rows: 0,
            padding_rows: 0,
            segments: step.segments,
            decode_context_sum: 0,
            kv_blocks_used: kv,
            waiting: replica.queue.len() as u32,
        }),
    );
    for sequence in &mut replica.running {
        sequence.emitted += step.steps;
        sequence.previous_token = Some(now);
        if sequence.first_token.is_none() {
            sequence.first_token = Some(now);
            let ttft = now.since(sequence.offered.request.arrival);
            sequence.waits.prefill = ttft - sequence.waits.queue - sequence.waits.load;
        }
    }
    let (done, running): (Vec<_>, Vec<_>) =
        std::mem::take(&mut replica.running).into_iter().partition(|s| s.emitted >= s.offered.outcome.output_tokens);
    replica.running = running;
    done.iter().for_each(|sequence| end(sequence, End::Finished, index, now, observer));
}
