//! Clusters for the tests of this crate, and their traffic.

use aril_sim::time::{Span, Time};
use aril_sim::workload::{Adapter, AdapterId, Catalog, Offered, Outcome, Request, RequestId, Tenant, TenantId};

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
    /// Tokens of a prompt that a step computes at most.
    pub(crate) chunk: u32,
    /// Of each replica: the youngest give way when a step begins with more in use.
    pub(crate) kv_blocks: u32,
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
            chunk: u32::MAX,
            kv_blocks: 10_000,
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
