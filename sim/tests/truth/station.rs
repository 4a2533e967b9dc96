//! A textbook service station made of the real engine: servers, a queue, and whatever service times the book asks for.

use aril_sim::batch::Executor;
use aril_sim::conformance::Books;
use aril_sim::draft::Draft;
use aril_sim::engine::{self, Stalled};
use aril_sim::fact::{End, Fact, Observer};
use aril_sim::fleet::Fleet;
use aril_sim::policy::{
    Asked, Batcher, Evictor, Idle, LoadMode, LoadPath, Policies, Preemptor, Requeue, Route, Router, Running,
};
use aril_sim::random::Stream;
use aril_sim::settings::{AdapterMemory, ClusterSettings, Link, ReplicaSettings};
use aril_sim::time::{Span, Time};
use aril_sim::workload::{Adapter, AdapterId, Catalog, Offered, Outcome, Request, RequestId, Tenant, TenantId};
use rand::Rng;

/// A number between 0 and 1, both excluded.
pub(super) fn uniform(random: &mut Stream) -> f64 {
    ((random.next_u64() >> 11) as f64 + 0.5) / (1u64 << 53) as f64
}

/// An exponential time with this mean.
pub(super) fn exponential(random: &mut Stream, mean: f64) -> f64 {
    -uniform(random).ln() * mean
}

/// Requests of one prompt token at Poisson times; `describe` says what else each is.
pub(super) fn poisson(
    random: &mut Stream,
    rate: f64,
    count: u32,
    describe: impl Fn(&mut Stream, &mut Offered),
) -> Vec<Offered> {
    let mut now = 0.0;
    (0..count)
        .map(|id| {
            now += exponential(random, 1.0 / rate);
            let request = Request {
                id: RequestId(id),
                tenant: TenantId(0),
                adapter: None,
                arrival: Time::ZERO + Span::from_secs_f64(now),
                prompt_tokens: 1,
                max_tokens: 1,
                predicted_output_tokens: None,
                prefix: None,
            };
            let mut offered = Offered { request, outcome: Outcome { output_tokens: 1 } };
            describe(random, &mut offered);
            offered
        })
        .collect()
}

/// Holds requests until a replica has fewer than so many; of two classes, tenant 0 goes first.
pub(super) struct Central {
    pub(super) most: u32,
}

impl Router for Central {
    fn route(&mut self, _: &Asked<'_>, fleet: &Fleet<'_>, _: &mut Stream) -> Route {
        fleet.with_working_set(0..self.most).next().map_or(Route::Hold, |(_, replica)| Route::To(replica))
    }

    fn queue_key(&self, asked: &Asked<'_>) -> u64 {
        u64::from(asked.request.tenant.0) << 63 | asked.request.arrival.as_ps()
    }
}

/// Everybody who fits, in order.
pub(super) struct Fcfs;

impl Batcher for Fcfs {
    fn compose(&mut self, draft: &mut Draft<'_>) {
        draft.decode_all();
        for position in 0..draft.waiting_len() {
            if draft.admit(position).is_err() {
                return;
            }
        }
    }
}

struct Oldest;

impl Evictor for Oldest {
    fn victim(&mut self, _: Time, idle: &[Idle]) -> Option<usize> {
        (0..idle.len()).min_by_key(|&position| idle[position].last_used)
    }
}

struct Wait;

impl LoadPath for Wait {
    fn mode(&self) -> LoadMode {
        LoadMode::Blocking
    }
}

struct Newest;

impl Preemptor for Newest {
    fn victim(&mut self, running: &[Running]) -> usize {
        (0..running.len()).max_by_key(|&position| running[position].admitted).expect("somebody runs")
    }

    fn requeue(&self) -> Requeue {
        Requeue::Replica
    }
}

/// First come, first served, by replicas that take so many at a time.
pub(super) fn first_come(most: u32) -> Policies {
    Policies {
        router: Box::new(move || Box::new(Central { most })),
        batcher: Box::new(|| Box::new(Fcfs)),
        evictor: Box::new(|| Box::new(Oldest)),
        load_path: Box::new(|| Box::new(Wait)),
        preemptor: Box::new(|| Box::new(Newest)),
        migrator: None,
        scaler: None,
    }
}

/// `servers` replicas that take `most` sequences at a time and have one adapter slot, which takes `load` to fill.
pub(super) fn servers(count: usize, most: u32, load: Span) -> ClusterSettings {
    let replica = ReplicaSettings {
        max_num_seqs: most,
        max_loras: 1,
        gpu_adapters: AdapterMemory::Slots(1),
        gpu_link: Link { latency: load, bytes_per_second: None },
        ..ReplicaSettings::boundless()
    };
    ClusterSettings::of(vec![replica; count], 1)
}

/// Two tenants and so many adapters.
pub(super) fn catalog(adapters: u32) -> Catalog {
    let tenant = |i| Tenant { name: format!("class {i}"), weight: 1.0, slo_class: 0 };
    let adapter = |i| Adapter { name: format!("adapter {i}"), rank: 16, bytes: 1, owner: None };
    Catalog { tenants: (0..2).map(tenant).collect(), adapters: (0..adapters).map(adapter).collect() }
}

/// Draws an adapter uniformly.
pub(super) fn any_adapter(random: &mut Stream, adapters: u32) -> Option<AdapterId> {
    Some(AdapterId((uniform(random) * f64::from(adapters)) as u32))
}

/// What one request went through, seconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Visit {
    pub(super) class: u32,
    pub(super) finished: bool,
    /// From its arrival until a step contained it.
    pub(super) wait: f64,
    /// From its arrival until its end.
    pub(super) sojourn: f64,
}

#[derive(Default)]
struct Visits(Vec<Visit>);

impl Observer for Visits {
    fn observe(&mut self, now: Time, fact: &Fact<'_>) {
        if let Fact::Ended(life) = fact {
            let arrival = life.offered.request.arrival;
            self.0.push(Visit {
                class: life.offered.request.tenant.0,
                finished: life.end == End::Finished,
                wait: life.scheduled.unwrap_or(now).since(arrival).as_secs_f64(),
                sojourn: now.since(arrival).as_secs_f64(),
            });
        }
    }
}

/// Runs the station, checks its books (Little's law among them), and gives what every request went through.
pub(super) fn visits(
    settings: &ClusterSettings,
    catalog: &Catalog,
    policies: &Policies,
    executor: impl Executor,
    offered: Vec<Offered>,
) -> Result<Vec<Visit>, Stalled> {
    let (mut seen, mut books) = (Visits::default(), Books::new(settings, catalog));
    let mut executors: Vec<Box<dyn Executor + '_>> = vec![Box::new(executor)];
    let mut both = (&mut seen, &mut books);
    engine::run(settings, catalog, policies, &mut executors, &mut offered.into_iter(), &mut both)?;
    books.close().expect("the books balance");
    Ok(seen.0)
}
