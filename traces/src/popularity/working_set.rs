//! Tenancy with locality: a drifting daily working set of tenants, their sessions, and an adapter that sticks within a session.
//!
//! Independent draws from a skewed law miss far more often than real users do, because real uses come in sessions. Here
//! every request either opens a session or continues one:
//!
//! - a session opens with probability `1 / session_requests`, for a tenant that had sessions in the working set
//!   (`returning`; the more sessions, the likelier) or for one drawn by Zipf's law;
//! - otherwise a live session goes on: a pause is drawn from a lognormal law, and the session that was used last about so
//!   long ago is taken. So sessions interleave as densely as the rate demands, each at its own pace;
//! - a session begins with its tenant's last adapter, and each request keeps the session's adapter with probability
//!   `sticky`; else it goes to another recent adapter of the tenant or, with probability `fresh`, to any: one of its own,
//!   or, with probability `shared`, a public one by Zipf's law;
//! - at midnight each tenant leaves the working set with probability `drift_per_day`.

mod live;

use aril_sim::random::Stream;
use aril_sim::time::Span;
use aril_sim::workload::Catalog;
use rand::RngExt;
use rand::seq::SliceRandom;
use rand_distr::{Distribution, StandardNormal};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::arrivals::{not_negative, positive};
use crate::error::TraceError;
use crate::popularity::ADAPTERS;
use crate::popularity::chooser::{Cumulative, position, zipf};
use live::{Live, Session};

const DAY_PS: u64 = 86_400_000_000_000_000;
/// A tenant's recent adapters, the current one included.
const RECENT: usize = 4;

/// Tenants in sessions, with adapters that stick.
///
/// The defaults come from the LoRA uses of GenTD26 (Alibaba, cluster-trace-v2026-GenAI): `zipf_s`, `sticky` and `shared` as
/// measured, the others but the numbers of tenants and adapters fitted to its locality. `cargo run --release -p aril-traces
/// --example fit_working_set` repeats the fit and shows how near it comes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WorkingSet {
    /// How many tenants there are; an adapters file with owners says it itself.
    pub tenants: u32,
    /// How many adapters there are; an adapters file says it itself.
    pub adapters: u32,
    /// Exponent of Zipf's law over tenants that come anew, and over public adapters.
    pub zipf_s: f64,
    /// Probability that a request of a session keeps the session's adapter.
    pub sticky: f64,
    /// A session that is not used for so long is over.
    pub session_gap: Span,
    /// Probability that a tenant leaves the working set at midnight.
    pub drift_per_day: f64,
    /// Mean number of requests for each opening of a session.
    pub session_requests: f64,
    /// Probability that a session is opened by a tenant of the working set.
    pub returning: f64,
    /// Probability that a change of adapter, or a new session, goes to any adapter that the tenant may use.
    pub fresh: f64,
    /// Probability that such an adapter is a public one.
    pub shared: f64,
    /// Median pause between requests of a session.
    pub pause: Span,
    /// Standard deviation of the logarithm of that pause.
    pub pause_sigma: f64,
}

impl Default for WorkingSet {
    fn default() -> WorkingSet {
        WorkingSet {
            tenants: 128,
            adapters: ADAPTERS,
            zipf_s: 0.85,
            sticky: 0.682,
            session_gap: Span::from_secs(1_800),
            drift_per_day: 0.719,
            session_requests: 5.229,
            returning: 0.67,
            fresh: 0.389,
            shared: 0.24,
            pause: Span::from_secs(355),
            pause_sigma: 0.723,
        }
    }
}

impl WorkingSet {
    pub(crate) fn check(&self) -> Result<(), TraceError> {
        let key = |name: &str| format!("popularity.working-set.{name}");
        for (name, share) in [
            ("sticky", self.sticky),
            ("drift_per_day", self.drift_per_day),
            ("returning", self.returning),
            ("fresh", self.fresh),
            ("shared", self.shared),
        ] {
            if !(0.0..=1.0).contains(&share) {
                return Err(TraceError::setting(
                    key(name),
                    format!("{share} is no probability"),
                    "write a number from 0 to 1",
                ));
            }
        }
        for (name, number) in [("tenants", self.tenants), ("adapters", self.adapters)] {
            if number == 0 || number > 5_000_000 {
                return Err(TraceError::setting(
                    key(name),
                    format!("{number} of them"),
                    "choose a number from 1 to 5000000",
                ));
            }
        }
        not_negative(&key("zipf_s"), self.zipf_s)?;
        not_negative(&key("pause_sigma"), self.pause_sigma)?;
        positive(&key("pause"), self.pause.as_secs_f64())?;
        positive(&key("session_gap"), self.session_gap.as_secs_f64())?;
        if positive(&key("session_requests"), self.session_requests)? < 1.0 {
            return Err(TraceError::setting(key("session_requests"), "below 1", "a session has at least one request"));
        }
        Ok(())
    }

    /// Whose is the adapter of this number? The first ones go round, the rest by popularity of the tenants.
    pub(crate) fn owners(&self) -> Vec<u32> {
        let popularity = zipf(self.zipf_s, self.tenants);
        let rest = f64::from(self.adapters.saturating_sub(self.tenants));
        let owner = |adapter: u32| match adapter.checked_sub(self.tenants) {
            None => adapter,
            Some(beyond) => position(&popularity, (f64::from(beyond) + 0.5) / rest),
        };
        (0..self.adapters).map(owner).collect()
    }
}

/// The model at work.
pub(crate) struct Sessions {
    law: WorkingSet,
    /// Tenants that come anew, and public adapters, by cumulative probability.
    newcomers: Cumulative,
    public: Cumulative,
    /// Which adapter has which rank among the public ones.
    public_order: Vec<u32>,
    own: Owned,
    /// The adapters each tenant used last, latest first.
    recent: Vec<Recent>,
    live: Live,
    set: Weights,
    day: u64,
}

/// The adapters that a tenant used last.
#[derive(Clone, Copy, Default)]
struct Recent {
    latest: [u32; RECENT],
    count: u8,
}

impl Recent {
    /// Latest first.
    fn adapters(&self) -> &[u32] {
        &self.latest[..self.count.into()]
    }

    fn add(&mut self, adapter: u32) {
        let known = self.adapters().iter().position(|&other| other == adapter);
        // Those before it move on by one; without it, all do, and the earliest makes room.
        let moved = known.unwrap_or(usize::from(self.count).min(RECENT - 1));
        self.latest.copy_within(..moved, 1);
        self.latest[0] = adapter;
        self.count = self.count.max(moved as u8 + 1);
    }
}

impl Sessions {
    /// Adapters and their owners are the catalogue's. `stream` is used for the order of public adapters alone.
    pub(crate) fn new(law: &WorkingSet, catalog: &Catalog, stream: &mut Stream) -> Sessions {
        let tenants = catalog.tenants.len();
        let mut public_order: Vec<u32> = (0..catalog.adapters.len() as u32).collect();
        public_order.shuffle(stream);
        Sessions {
            law: *law,
            newcomers: Cumulative::new(zipf(law.zipf_s, tenants as u32)),
            public: Cumulative::new(zipf(law.zipf_s, catalog.adapters.len() as u32)),
            public_order,
            own: Owned::of(catalog),
            recent: vec![Recent::default(); tenants],
            live: Live::default(),
            set: Weights::new(tenants),
            day: 0,
        }
    }

    /// Tenant and adapter of the request that comes at `now_ps`, in trace time.
    pub(crate) fn next(&mut self, now_ps: u64, stream: &mut Stream) -> (u32, u32) {
        self.pass_midnights(now_ps, stream);
        self.live.expire(now_ps.saturating_sub(self.law.session_gap.as_ps()));
        let opens = stream.random::<f64>() * self.law.session_requests < 1.0;
        let session = if opens || self.live.is_empty() { self.open(stream) } else { self.go_on(now_ps, stream) };
        self.live.push(now_ps, session);
        self.recent[session.tenant as usize].add(session.adapter);
        (session.tenant, session.adapter)
    }

    fn pass_midnights(&mut self, now_ps: u64, stream: &mut Stream) {
        while self.day < now_ps / DAY_PS {
            self.day += 1;
            if self.set.total == 0 {
                self.day = now_ps / DAY_PS;
                break;
            }
            let drift = self.law.drift_per_day;
            self.set.retain(|| stream.random::<f64>() >= drift);
        }
    }

    fn open(&mut self, stream: &mut Stream) -> Session {
        let returns = stream.random::<f64>() < self.law.returning;
        let tenant = if returns && self.set.total > 0 {
            self.set.draw(stream)
        } else {
            self.newcomers.position(stream.random())
        };
        self.set.add(tenant);
        let last = self.recent[tenant as usize].adapters().first().copied();
        let adapter = match last {
            Some(adapter) if stream.random::<f64>() >= self.law.fresh => adapter,
            _ => self.any(tenant, stream),
        };
        Session { tenant, adapter }
    }

    fn go_on(&mut self, now_ps: u64, stream: &mut Stream) -> Session {
        let z: f64 = StandardNormal.sample(stream);
        let pause = Span::from_secs_f64(self.law.pause.as_secs_f64() * (self.law.pause_sigma * z).exp());
        let nearest = self.live.take_nearest(now_ps.saturating_sub(pause.as_ps()));
        let mut session = nearest.expect("asked only while sessions live");
        if stream.random::<f64>() >= self.law.sticky {
            let recent = self.recent[session.tenant as usize].adapters();
            let other = recent.iter().find(|adapter| **adapter != session.adapter).copied();
            session.adapter = match other {
                Some(adapter) if stream.random::<f64>() >= self.law.fresh => adapter,
                _ => self.any(session.tenant, stream),
            };
        }
        session
    }

    fn any(&self, tenant: u32, stream: &mut Stream) -> u32 {
        let own = self.own.by(tenant);
        let is_public = stream.random::<f64>() < self.law.shared;
        if is_public || own.is_empty() {
            return self.public_order[self.public.position(stream.random()) as usize];
        }
        own[stream.random_range(0..own.len())]
    }
}

/// Adapters of each tenant, one tenant's after the other's: a draw reads two lines of memory, and they lie near those of other draws.
struct Owned {
    adapters: Vec<u32>,
    /// Where those of each tenant begin, and where the last ones end.
    begins: Vec<u32>,
}

impl Owned {
    fn of(catalog: &Catalog) -> Owned {
        let owned = || (0..).zip(&catalog.adapters).filter_map(|(id, adapter)| Some((id, adapter.owner?.index())));
        let mut begins = vec![0; catalog.tenants.len() + 1];
        owned().for_each(|(_, owner)| begins[owner + 1] += 1);
        (1..begins.len()).for_each(|tenant| begins[tenant] += begins[tenant - 1]);
        let mut adapters = vec![0; owned().count()];
        let mut next = begins.clone();
        for (id, owner) in owned() {
            adapters[next[owner] as usize] = id;
            next[owner] += 1;
        }
        Owned { adapters, begins }
    }

    fn by(&self, tenant: u32) -> &[u32] {
        let [from, to] = [tenant, tenant + 1].map(|tenant| self.begins[tenant as usize] as usize);
        &self.adapters[from..to]
    }
}

/// Tenants of the working set with their numbers of sessions, drawn in proportion: a Fenwick tree.
struct Weights {
    counts: Vec<u32>,
    tree: Vec<u32>,
    total: u32,
}

impl Weights {
    fn new(n: usize) -> Weights {
        Weights { counts: vec![0; n], tree: vec![0; n + 1], total: 0 }
    }

    fn add(&mut self, position: u32) {
        self.counts[position as usize] += 1;
        self.total += 1;
        let mut at = position as usize + 1;
        while at < self.tree.len() {
            self.tree[at] += 1;
            at += at & at.wrapping_neg();
        }
    }

    fn draw(&self, stream: &mut Stream) -> u32 {
        let mut left = stream.random_range(0..u64::from(self.total)) as u32;
        let mut at = 0;
        let mut step = self.tree.len().next_power_of_two() / 2;
        while step > 0 {
            let next = at + step;
            if next < self.tree.len() && self.tree[next] <= left {
                at = next;
                left -= self.tree[next];
            }
            step /= 2;
        }
        at as u32
    }

    /// Asks once for each member, in order, whether it stays.
    fn retain(&mut self, mut stays: impl FnMut() -> bool) {
        let counts = std::mem::take(&mut self.counts);
        *self = Weights::new(counts.len());
        for (position, count) in counts.into_iter().enumerate() {
            if count > 0 && stays() {
                self.counts[position] = count;
                self.total += count;
            }
        }
        for at in 1..self.tree.len() {
            self.tree[at] += self.counts[at - 1];
            let parent = at + (at & at.wrapping_neg());
            if parent < self.tree.len() {
                self.tree[parent] += self.tree[at];
            }
        }
    }
}
