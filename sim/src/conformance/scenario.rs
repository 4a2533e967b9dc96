//! Small random scenarios: tight memory, few requests, and times on a coarse grid, so that much happens at the same instant.

use std::fmt;

use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::batch::Executor;
use crate::conformance::prices::{Promise, ToyPrices};
use crate::engine::{self, Ended, Stalled};
use crate::fact::Observer;
use crate::policy::Policies;
use crate::random::{self, Stream};
use crate::settings::{AdapterMemory, ClusterSettings, Link, ReplicaSettings};
use crate::time::{Span, Time};
use crate::workload::{Adapter, AdapterId, Catalog, Offered, Outcome, Request, RequestId, Tenant, TenantId};

/// A whole run but for its policies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scenario {
    /// What it was drawn from.
    pub seed: u64,
    /// All times are whole multiples of it, but for copies over a link with bandwidth.
    pub unit: Span,
    /// The cluster.
    pub settings: ClusterSettings,
    /// Tenants and adapters.
    pub catalog: Catalog,
    /// Requests in order of arrival.
    pub offered: Vec<Offered>,
    /// What steps cost.
    pub prices: ToyPrices,
}

/// What may be drawn?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Terrain {
    /// Anything that the engine must survive: steps shorter than prompts, replicas that are off, requests that never fit.
    Any,
    /// What any sound set of policies can serve: every prompt fits a step, every replica is on, every adapter has a slot.
    Serveable,
}

impl Scenario {
    /// The scenario of this seed.
    pub fn draw(seed: u64, terrain: Terrain) -> Scenario {
        Draw { random: random::stream(seed, "conformance"), any: terrain == Terrain::Any }.scenario(seed)
    }

    /// Runs it, steps advanced at once or one by one.
    ///
    /// # Errors
    /// [`Stalled`] as the engine gives it.
    pub fn run(&self, policies: &Policies, stretches: bool, observer: &mut dyn Observer) -> Result<Ended, Stalled> {
        self.run_on(self.prices.clone(), policies, stretches, observer)
    }

    /// The same on an executor other than its prices.
    pub(super) fn run_on(
        &self,
        executor: impl Executor,
        policies: &Policies,
        stretches: bool,
        observer: &mut dyn Observer,
    ) -> Result<Ended, Stalled> {
        let settings = ClusterSettings { stretches, ..self.settings.clone() };
        let mut executors: Vec<Box<dyn Executor + '_>> = vec![Box::new(executor)];
        let mut arrivals = self.offered.iter().cloned();
        engine::run(&settings, &self.catalog, policies, &mut executors, &mut arrivals, observer)
    }

    /// The same scenario with all times `times` as long.
    pub fn times(&self, times: u64) -> Scenario {
        let mut scaled = self.clone();
        scaled.unit = self.unit * times;
        scaled.prices = self.prices.times(times);
        for offered in &mut scaled.offered {
            offered.request.arrival = Time::from_ps(offered.request.arrival.as_ps() * times);
        }
        let settings = &mut scaled.settings;
        settings.signals_interval = settings.signals_interval * times;
        settings.client_timeout = settings.client_timeout.map(|span| span * times);
        settings.horizon = settings.horizon.map(|span| span * times);
        for replica in &mut settings.replicas {
            replica.startup = replica.startup * times;
            for link in [&mut replica.gpu_link, &mut replica.disk_link] {
                // A byte takes longer, too: the drawn bandwidths are whole spans a byte.
                link.latency = link.latency * times;
                link.bytes_per_second = link.bytes_per_second.map(|rate| rate / times);
            }
        }
        scaled
    }

    /// The same scenario with other names of tenants and adapters, and tenants in another order.
    pub fn renamed(&self, reorder_tenants: bool) -> Scenario {
        let mut renamed = self.clone();
        let tenants = renamed.catalog.tenants.len() as u32;
        for (i, adapter) in renamed.catalog.adapters.iter_mut().enumerate() {
            adapter.name = format!("{} <other> \"{i}\"", "z".repeat(9 - i.min(8)));
        }
        if reorder_tenants {
            let other = |tenant: TenantId| TenantId(tenants - 1 - tenant.0);
            renamed.catalog.tenants.reverse();
            for adapter in &mut renamed.catalog.adapters {
                adapter.owner = adapter.owner.map(other);
            }
            for offered in &mut renamed.offered {
                offered.request.tenant = other(offered.request.tenant);
            }
        }
        for (i, tenant) in renamed.catalog.tenants.iter_mut().enumerate() {
            tenant.name = format!("somebody else, the {}th from the end", 9 - i.min(9));
        }
        renamed
    }
}

struct Draw {
    random: Stream,
    any: bool,
}

impl Draw {
    fn below(&mut self, n: u32) -> u32 {
        self.random.next_u32() % n
    }

    fn one_in(&mut self, n: u32) -> bool {
        self.below(n) == 0
    }

    fn units(&mut self, unit: Span, n: u32) -> Span {
        unit * u64::from(self.below(n))
    }

    fn scenario(&mut self, seed: u64) -> Scenario {
        let unit = Span::from_ps([1, 10, 1_000_000][self.below(3) as usize]);
        let catalog = self.catalog();
        let offered = self.offered(&catalog, unit);
        let longest = offered.iter().map(|o| o.request.prompt_tokens + o.outcome.output_tokens).max().unwrap_or(1);
        let count = 1 + self.below(4);
        let first = self.replica(unit, longest, &catalog);
        let alike = self.one_in(2);
        let replicas = (0..count)
            .map(|i| {
                let mut replica = if alike { first.clone() } else { self.replica(unit, longest, &catalog) };
                replica.starts_on |= i == 0;
                replica
            })
            .collect();
        let stale = self.one_in(3);
        let impatient = self.one_in(3);
        let cut = self.one_in(3);
        let end = if cut { 20 + self.below(600) } else { 300_000 };
        let settings = ClusterSettings {
            replicas,
            signals_interval: if stale { unit * u64::from(1 + self.below(60)) } else { Span::ZERO },
            client_timeout: impatient.then(|| unit * u64::from(1 + self.below(300))),
            horizon: Some(unit * u64::from(end)),
            stretches: true,
            seed,
        };
        let prices = self.prices(unit);
        Scenario { seed, unit, settings, catalog, offered, prices }
    }

    fn catalog(&mut self) -> Catalog {
        let tenants = 1 + self.below(3);
        let adapters = self.below(7);
        Catalog {
            tenants: (0..tenants).map(|i| Tenant { name: format!("tenant {i}"), weight: 1.0, slo_class: 0 }).collect(),
            adapters: (0..adapters)
                .map(|i| Adapter {
                    name: format!("adapter {i}"),
                    rank: 8 << self.below(4),
                    bytes: u64::from(1 + self.below(20)),
                    owner: self.one_in(2).then(|| TenantId(self.below(tenants))),
                })
                .collect(),
        }
    }

    fn offered(&mut self, catalog: &Catalog, unit: Span) -> Vec<Offered> {
        let crowd = if self.one_in(8) { 60 } else { 14 };
        let count = 1 + self.below(crowd);
        let (gap, prompt_max, output_max) = (1 + self.below(80), 1 + self.below(24), 1 + self.below(40));
        let adapters = catalog.adapters.len() as u32;
        let mut arrival = Time::ZERO;
        (0..count)
            .map(|id| {
                if !self.one_in(3) {
                    arrival += self.units(unit, gap);
                }
                let output_tokens = 1 + self.below(output_max);
                let request = Request {
                    id: RequestId(id),
                    tenant: TenantId(self.below(catalog.tenants.len() as u32)),
                    adapter: (adapters > 0 && !self.one_in(4)).then(|| AdapterId(self.below(adapters))),
                    arrival,
                    prompt_tokens: 1 + self.below(prompt_max),
                    max_tokens: output_tokens + self.below(9),
                    predicted_output_tokens: self.one_in(2).then(|| 1 + self.below(output_max)),
                    prefix: None,
                };
                Offered { request, outcome: Outcome { output_tokens } }
            })
            .collect()
    }

    fn replica(&mut self, unit: Span, longest: u32, catalog: &Catalog) -> ReplicaSettings {
        let block_size = 1 + self.below(6);
        let fits = longest.div_ceil(block_size) + 3;
        let max_loras = 1 + self.below(4);
        let all_bytes: u64 = catalog.adapters.iter().map(|adapter| adapter.bytes).sum();
        let in_bytes = AdapterMemory::Bytes(20 + u64::from(self.below(30)));
        let gpu_adapters = match self.below(3) {
            0 if self.any => AdapterMemory::Slots(1 + self.below(max_loras + 1)),
            0 => AdapterMemory::Slots(max_loras + self.below(2)),
            1 if self.any => in_bytes,
            1 => AdapterMemory::Bytes(all_bytes),
            _ => AdapterMemory::Unbounded,
        };
        let host_adapters = match self.below(3) {
            0 => AdapterMemory::Slots(self.below(3)),
            1 => AdapterMemory::Bytes(u64::from(self.below(40))),
            _ => AdapterMemory::Unbounded,
        };
        let short_steps = self.any && self.one_in(3);
        let misfits = self.any && self.one_in(6);
        ReplicaSettings {
            gpus: 1,
            executor: 0,
            max_num_seqs: 1 + self.below(6),
            max_num_batched_tokens: if short_steps { 1 + self.below(12) } else { 2 * longest + self.below(40) },
            max_loras,
            max_lora_rank: if misfits { 16 } else { 64 },
            lora_slots: 0,
            block_size,
            kv_blocks: if misfits { 1 + self.below(fits) } else { fits + self.below(2 * fits) },
            gpu_adapters,
            host_adapters,
            gpu_link: self.link(unit),
            disk_link: self.link(unit),
            startup: self.units(unit, 40),
            starts_on: !self.any || self.one_in(2),
        }
    }

    fn link(&mut self, unit: Span) -> Link {
        if self.one_in(4) {
            return Link::INSTANT;
        }
        let latency = self.units(unit, 30);
        // Two units a byte, so that the rate can be halved as well.
        let bytes_per_second = self.one_in(2).then(|| 1_000_000_000_000 / (2 * unit.as_ps()).max(1));
        Link { latency, bytes_per_second }
    }

    fn prices(&mut self, unit: Span) -> ToyPrices {
        let promise = match self.below(4) {
            0 => Promise::Once,
            1 => Promise::Tiled(1 + self.below(9)),
            2 => Promise::Affine(1 + self.below(7)),
            _ => Promise::Affine(u32::MAX),
        };
        ToyPrices {
            step: unit * u64::from(1 + self.below(9)),
            row: self.units(unit, 3),
            context: self.units(unit, 2),
            prompt_token: self.units(unit, 3),
            segment: self.units(unit, 3),
            copy: self.units(unit, 4),
            promise,
            sag: self.units(unit, 3),
            parts: self.units(unit, 3),
        }
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}, times in ps, most of them multiples of {}", self.seed, self.unit.as_ps())?;
        let settings = &self.settings;
        let ps = |span: Option<Span>| span.map(Span::as_ps);
        writeln!(
            f,
            "signals every {}, client timeout {:?}, horizon {:?}",
            settings.signals_interval.as_ps(),
            ps(settings.client_timeout),
            ps(settings.horizon)
        )?;
        let prices = &self.prices;
        writeln!(
            f,
            "prices: step {}, row {}, context {}, prompt token {}, segment {}, copy {}, parts {}, sag {}, {:?}",
            prices.step.as_ps(),
            prices.row.as_ps(),
            prices.context.as_ps(),
            prices.prompt_token.as_ps(),
            prices.segment.as_ps(),
            prices.copy.as_ps(),
            prices.parts.as_ps(),
            prices.sag.as_ps(),
            prices.promise
        )?;
        for (id, replica) in settings.replicas.iter().enumerate() {
            writeln!(f, "replica {id}: {replica:?}")?;
        }
        for (id, adapter) in self.catalog.adapters.iter().enumerate() {
            let owner = adapter.owner.map(|tenant| tenant.0);
            writeln!(f, "adapter {id} of tenant {owner:?}: rank {}, {} bytes", adapter.rank, adapter.bytes)?;
        }
        for Offered { request, outcome } in &self.offered {
            writeln!(
                f,
                "request {} of tenant {} at {}: adapter {:?}, {} prompt and {} output tokens, at most {}, predicted {:?}",
                request.id.0,
                request.tenant.0,
                request.arrival.as_ps(),
                request.adapter.map(|adapter| adapter.0),
                request.prompt_tokens,
                outcome.output_tokens,
                request.max_tokens,
                request.predicted_output_tokens
            )?;
        }
        Ok(())
    }
}
