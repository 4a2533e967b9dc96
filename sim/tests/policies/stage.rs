//! A small cluster, a few requests, and what happened to them. Every step takes a millisecond.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use aril_sim::batch::{Batch, Executor, Prefill, Price, Segment};
use aril_sim::engine::{self, Ended, Stalled};
use aril_sim::fact::{End, Fact, Observer, Power};
use aril_sim::policy::batcher::Punica;
use aril_sim::policy::evictor::Lru;
use aril_sim::policy::load_path::OnArrival;
use aril_sim::policy::preemptor::Newest;
use aril_sim::policy::router::LeastLoaded;
use aril_sim::policy::{Batcher, Evictor, LoadPath, Migrator, Policies, Preemptor, Router, Scaler};
use aril_sim::settings::{AdapterMemory, ClusterSettings, Link, ReplicaSettings};
use aril_sim::time::{Span, Time};
use aril_sim::workload::{Adapter, AdapterId, Catalog, Offered, Outcome, Request, RequestId, Tenant, TenantId};

/// A policy with some tunables set.
pub(crate) fn with<P: Default>(set: impl FnOnce(&mut P)) -> P {
    let mut policy = P::default();
    set(&mut policy);
    policy
}

/// What is about to happen.
pub(crate) struct Stage {
    pub(crate) settings: ClusterSettings,
    pub(crate) catalog: Catalog,
    pub(crate) policies: Policies,
    offered: Vec<Offered>,
}

impl Stage {
    /// So many replicas with 4 places, 1,000 blocks of 16 tokens and room for every adapter, and 64 adapters of rank 16.
    pub(crate) fn of(replicas: usize) -> Stage {
        let replica = ReplicaSettings {
            max_num_seqs: 4,
            max_num_batched_tokens: 100_000,
            max_loras: 64,
            max_lora_rank: 16,
            kv_blocks: 1_000,
            ..ReplicaSettings::boundless()
        };
        let adapter = |id: u32| Adapter { name: format!("adapter-{id}"), rank: 16, bytes: 100, owner: None };
        Stage {
            settings: ClusterSettings::of(vec![replica; replicas], 7),
            catalog: Catalog {
                tenants: vec![Tenant { name: "tenant".to_owned(), weight: 1.0, slo_class: 0 }],
                adapters: (0..64).map(adapter).collect(),
            },
            policies: Policies {
                router: Box::new(|| Box::new(LeastLoaded::default())),
                batcher: Box::new(|| Box::new(Punica::default())),
                evictor: Box::new(|| Box::new(Lru::default())),
                load_path: Box::new(|| Box::new(OnArrival::default())),
                preemptor: Box::new(|| Box::new(Newest::default())),
                migrator: None,
                scaler: None,
            },
            offered: Vec::new(),
        }
    }

    /// Changes the settings of every replica.
    pub(crate) fn each(mut self, change: impl Fn(&mut ReplicaSettings)) -> Stage {
        self.settings.replicas.iter_mut().for_each(change);
        self
    }

    /// So many places in a batch.
    pub(crate) fn seqs(self, max_num_seqs: u32) -> Stage {
        self.each(|replica| replica.max_num_seqs = max_num_seqs)
    }

    /// So many KV blocks.
    pub(crate) fn blocks(self, kv_blocks: u32) -> Stage {
        self.each(|replica| replica.kv_blocks = kv_blocks)
    }

    /// So many adapters on a GPU, copied in so many milliseconds each.
    pub(crate) fn slots(self, slots: u32, copy_ms: u64) -> Stage {
        self.each(|replica| {
            replica.gpu_adapters = AdapterMemory::Slots(slots);
            replica.max_loras = replica.max_loras.min(slots);
            replica.gpu_link = Link { latency: Span::from_ms(copy_ms), bytes_per_second: None };
        })
    }

    pub(crate) fn router(mut self, policy: impl Router + Clone + Send + Sync + 'static) -> Stage {
        self.policies.router = Box::new(move || Box::new(policy.clone()));
        self
    }

    pub(crate) fn batcher(mut self, policy: impl Batcher + Clone + Send + Sync + 'static) -> Stage {
        self.policies.batcher = Box::new(move || Box::new(policy.clone()));
        self
    }

    pub(crate) fn evictor(mut self, policy: impl Evictor + Clone + Send + Sync + 'static) -> Stage {
        self.policies.evictor = Box::new(move || Box::new(policy.clone()));
        self
    }

    pub(crate) fn load_path(mut self, policy: impl LoadPath + Clone + Send + Sync + 'static) -> Stage {
        self.policies.load_path = Box::new(move || Box::new(policy.clone()));
        self
    }

    pub(crate) fn preemptor(mut self, policy: impl Preemptor + Clone + Send + Sync + 'static) -> Stage {
        self.policies.preemptor = Box::new(move || Box::new(policy.clone()));
        self
    }

    pub(crate) fn migrator(mut self, policy: impl Migrator + Clone + Send + Sync + 'static) -> Stage {
        self.policies.migrator = Some(Box::new(move || Box::new(policy.clone())));
        self
    }

    pub(crate) fn scaler(mut self, policy: impl Scaler + Clone + Send + Sync + 'static) -> Stage {
        self.policies.scaler = Some(Box::new(move || Box::new(policy.clone())));
        self
    }

    /// A request, `at` microseconds from the start, for an adapter, with a prompt and an output.
    pub(crate) fn ask(mut self, at: u64, adapter: impl Into<Option<u32>>, prompt: u32, output: u32) -> Stage {
        let request = Request {
            id: RequestId(self.offered.len() as u32),
            tenant: TenantId(0),
            adapter: adapter.into().map(AdapterId),
            arrival: Time::ZERO + Span::from_us(at),
            prompt_tokens: prompt,
            max_tokens: output,
            predicted_output_tokens: None,
            prefix: None,
        };
        self.offered.push(Offered { request, outcome: Outcome { output_tokens: output } });
        self
    }

    /// Whatever comes of it.
    pub(crate) fn try_play(self) -> (Result<Ended, Stalled>, Play) {
        let shapes = Rc::default();
        let mut play = Play::default();
        let mut executors: Vec<Box<dyn Executor>> = vec![Box::new(Millisecond { shapes: Rc::clone(&shapes) })];
        let mut arrivals = self.offered.into_iter();
        let ended =
            engine::run(&self.settings, &self.catalog, &self.policies, &mut executors, &mut arrivals, &mut play);
        drop(executors);
        play.shapes = shapes.take();
        (ended, play)
    }

    /// All requests are served.
    pub(crate) fn play(self) -> Play {
        let offered = self.offered.len();
        let (ended, play) = self.try_play();
        ended.expect("the run ends");
        assert_eq!(play.finished.len(), offered, "every request is served");
        play
    }
}

/// A step, or the first of a stretch, as it was priced.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Shape {
    pub(crate) replica: u32,
    pub(crate) contexts: Vec<u32>,
    pub(crate) prefills: Vec<Prefill>,
    pub(crate) segments: Vec<Segment>,
}

struct Millisecond {
    shapes: Rc<RefCell<Vec<Shape>>>,
}

impl Executor for Millisecond {
    fn run(&mut self, batch: &Batch<'_>) -> Price {
        self.shapes.borrow_mut().push(Shape {
            replica: batch.replica.0,
            contexts: batch.shape.decode_contexts.to_vec(),
            prefills: batch.shape.prefills.to_vec(),
            segments: batch.shape.segments.to_vec(),
        });
        let steps = if batch.shape.is_decode_only() { 1_000_000 } else { 1 };
        Price::lasting(Span::from_ms(1), steps)
    }
}

/// A step or a run of steps.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Steps {
    pub(crate) replica: u32,
    pub(crate) start: Time,
    pub(crate) stall: Span,
    pub(crate) first: Span,
    pub(crate) steps: u32,
    /// Requests whose prompts were computed.
    pub(crate) prompts: Vec<u32>,
    /// Requests that decoded.
    pub(crate) decodes: Vec<u32>,
    pub(crate) padding_rows: u32,
    pub(crate) segments: u32,
    pub(crate) kv_blocks_used: u32,
}

/// What happened.
#[derive(Default)]
pub(crate) struct Play {
    /// Replicas that each request was given to, in order.
    pub(crate) routes: BTreeMap<u32, Vec<u32>>,
    /// When each request was given to one.
    pub(crate) routed: Vec<(Time, u32)>,
    pub(crate) held: Vec<u32>,
    /// When each request was first in a step.
    pub(crate) scheduled: BTreeMap<u32, Time>,
    pub(crate) steps: Vec<Steps>,
    pub(crate) finished: BTreeMap<u32, Time>,
    pub(crate) rejected: Vec<u32>,
    /// When a copy began, of which adapter.
    pub(crate) loads: Vec<(Time, u32)>,
    pub(crate) evicted: Vec<u32>,
    pub(crate) evicted_at: Vec<Time>,
    pub(crate) preempted: Vec<u32>,
    /// Tokens of prompts that became output.
    pub(crate) cut: u32,
    /// Tokens that each request got.
    pub(crate) emitted: BTreeMap<u32, u32>,
    pub(crate) migrated: Vec<(u32, u32, u32)>,
    pub(crate) power: Vec<(Time, u32, Power)>,
    pub(crate) shapes: Vec<Shape>,
}

impl Play {
    /// The last replica of each request, in order of request.
    pub(crate) fn placed(&self) -> Vec<u32> {
        self.routes.values().map(|replicas| *replicas.last().expect("a route")).collect()
    }

    /// Requests in the order in which they first ran; ties by number.
    pub(crate) fn order(&self) -> Vec<u32> {
        let mut order: Vec<(Time, u32)> = self.scheduled.iter().map(|(&request, &time)| (time, request)).collect();
        order.sort_unstable();
        order.into_iter().map(|(_, request)| request).collect()
    }

    /// When the request first ran, in milliseconds.
    pub(crate) fn began_ms(&self, request: u32) -> f64 {
        self.scheduled[&request].as_secs_f64() * 1e3
    }

    /// Steps that decoded anything.
    pub(crate) fn decode_steps(&self) -> u64 {
        self.steps.iter().filter(|steps| !steps.decodes.is_empty()).map(|steps| u64::from(steps.steps)).sum()
    }

    /// Steps that computed prompts.
    pub(crate) fn prompt_steps(&self) -> u64 {
        self.steps.iter().filter(|steps| !steps.prompts.is_empty()).map(|steps| u64::from(steps.steps)).sum()
    }

    /// All steps.
    pub(crate) fn all_steps(&self) -> u64 {
        self.steps.iter().map(|steps| u64::from(steps.steps)).sum()
    }
}

impl Observer for Play {
    fn observe(&mut self, now: Time, fact: &Fact<'_>) {
        match fact {
            Fact::Routed { request, replica, .. } => {
                self.routed.push((now, request.0));
                self.routes.entry(request.0).or_default().push(replica.0);
            }
            Fact::Held(request) => self.held.push(request.0),
            Fact::Scheduled { request, .. } => {
                self.scheduled.entry(request.0).or_insert(now);
            }
            Fact::LoadStarted { adapter, start, .. } => self.loads.push((*start, adapter.0)),
            Fact::Evicted { adapter, .. } => {
                self.evicted_at.push(now);
                self.evicted.push(adapter.0);
            }
            Fact::Preempted { request, cut, .. } => {
                self.preempted.push(request.0);
                self.cut += cut;
            }
            Fact::Migrated { request, from, to } => self.migrated.push((request.0, from.0, to.0)),
            Fact::Power { replica, power } => self.power.push((now, replica.0, *power)),
            Fact::Stretch(stretch) => self.steps.push(Steps {
                replica: stretch.replica.0,
                start: stretch.start,
                stall: stretch.stall,
                first: stretch.first,
                steps: stretch.steps,
                prompts: stretch.rows.iter().filter(|row| row.prefill).map(|row| row.request.0).collect(),
                decodes: stretch.rows.iter().filter(|row| !row.prefill).map(|row| row.request.0).collect(),
                padding_rows: stretch.padding_rows,
                segments: stretch.segments,
                kv_blocks_used: stretch.kv_blocks_used,
            }),
            Fact::Ended(life) => {
                let request = life.offered.request.id.0;
                self.emitted.insert(request, life.emitted);
                match life.end {
                    End::Finished => {
                        self.finished.insert(request, now);
                    }
                    _ => self.rejected.push(request),
                }
            }
            Fact::Offered(_) | Fact::LoadDone { .. } => {}
        }
    }
}
