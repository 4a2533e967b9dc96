//! Makes a failing case as small as it can be while it still fails.

use std::ops::Range;

use crate::conformance::prices::{Promise, ToyPrices};
use crate::conformance::random::RandomPolicies;
use crate::conformance::scenario::Scenario;
use crate::settings::{AdapterMemory, Link, ReplicaSettings};
use crate::time::{Span, Time};
use crate::workload::{Offered, RequestId};

/// How many smaller cases are tried at most.
const TRIES_MAX: usize = 4_000;

/// The smallest failing case that `smaller` leads to, and its finding. `case` itself fails with `finding`.
pub fn shrink<T, F>(
    mut case: T,
    mut finding: F,
    smaller: impl Fn(&T) -> Vec<T>,
    fails: impl Fn(&T) -> Option<F>,
) -> (T, F) {
    let mut tries = 0;
    'again: loop {
        for candidate in smaller(&case) {
            tries += 1;
            if tries > TRIES_MAX {
                return (case, finding);
            }
            if let Some(found) = fails(&candidate) {
                (case, finding) = (candidate, found);
                continue 'again;
            }
        }
        return (case, finding);
    }
}

/// Halves of so many, quarters, and so on, down to each alone; never all of them.
fn parts(count: usize) -> impl Iterator<Item = Range<usize>> {
    let sizes = std::iter::successors(Some(count / 2), |size| Some(size / 2)).take_while(|&size| size > 0);
    sizes.flat_map(move |size| (0..count).step_by(size).map(move |from| from..(from + size).min(count)))
}

impl Scenario {
    /// Cases that are each a little simpler, the boldest first.
    pub fn smaller(&self) -> Vec<Scenario> {
        let fewer_requests = parts(self.offered.len()).map(|gone| self.without(gone));
        let replicas = parts(self.settings.replicas.len());
        let fewer_replicas = replicas.map(|gone| self.with(|s| drop(s.settings.replicas.drain(gone))));
        let mut all: Vec<Scenario> = fewer_requests.chain(fewer_replicas).collect();
        self.simpler_settings(&mut all);
        self.simpler_replicas(&mut all);
        self.simpler_requests(&mut all);
        all.retain(|smaller| smaller != self);
        all
    }

    fn with(&self, change: impl FnOnce(&mut Scenario)) -> Scenario {
        let mut scenario = self.clone();
        change(&mut scenario);
        scenario
    }

    fn without(&self, gone: Range<usize>) -> Scenario {
        self.with(|scenario| {
            scenario.offered.drain(gone);
            for (id, offered) in scenario.offered.iter_mut().enumerate() {
                offered.request.id = RequestId(id as u32);
            }
        })
    }

    fn simpler_settings(&self, all: &mut Vec<Scenario>) {
        all.push(self.with(|s| s.settings.client_timeout = None));
        all.push(self.with(|s| s.settings.signals_interval = Span::ZERO));
        let affine = |prices: &mut ToyPrices| prices.promise = Promise::Affine(u32::MAX);
        all.push(self.with(|s| affine(&mut s.prices)));
        let parts: [fn(&mut ToyPrices) -> &mut Span; 7] = [
            |p| &mut p.row,
            |p| &mut p.context,
            |p| &mut p.prompt_token,
            |p| &mut p.segment,
            |p| &mut p.copy,
            |p| &mut p.sag,
            |p| &mut p.parts,
        ];
        for part in parts {
            all.push(self.with(|s| *part(&mut s.prices) = Span::ZERO));
        }
        all.push(self.with(|s| {
            for offered in &mut s.offered {
                offered.request.adapter = None;
            }
        }));
    }

    fn simpler_replicas(&self, all: &mut Vec<Scenario>) {
        let changes: [fn(&mut ReplicaSettings); 8] = [
            |r| r.host_adapters = AdapterMemory::Unbounded,
            |r| r.gpu_adapters = AdapterMemory::Unbounded,
            |r| r.gpu_link = Link::INSTANT,
            |r| r.disk_link = Link::INSTANT,
            |r| r.startup = Span::ZERO,
            |r| r.starts_on = true,
            |r| r.kv_blocks = 1_000,
            |r| r.max_num_batched_tokens = 1_000,
        ];
        for change in changes {
            all.push(self.with(|s| s.settings.replicas.iter_mut().for_each(change)));
        }
    }

    fn simpler_requests(&self, all: &mut Vec<Scenario>) {
        for i in 0..self.offered.len() {
            let mut push = |change: fn(&mut Offered)| all.push(self.with(|s| change(&mut s.offered[i])));
            push(|o| o.request.adapter = None);
            push(|o| o.request.prompt_tokens = 1);
            push(|o| o.request.prompt_tokens = o.request.prompt_tokens.div_ceil(2));
            push(|o| o.request.prompt_tokens = (o.request.prompt_tokens - 1).max(1));
            push(|o| o.outcome.output_tokens = 1);
            push(|o| o.outcome.output_tokens = o.outcome.output_tokens.div_ceil(2));
            push(|o| o.outcome.output_tokens = (o.outcome.output_tokens - 1).max(1));
            let before = if i == 0 { Time::ZERO } else { self.offered[i - 1].request.arrival };
            all.push(self.with(|s| s.offered[i].request.arrival = before));
        }
    }
}

impl RandomPolicies {
    /// Policies that are each a little simpler.
    pub fn smaller(&self) -> Vec<RandomPolicies> {
        let plain = RandomPolicies::plain(self.seed);
        let changes: [fn(&mut RandomPolicies, &RandomPolicies); 21] = [
            |p, plain| p.migrator_period = plain.migrator_period,
            |p, plain| p.scaler_period = plain.scaler_period,
            |p, plain| p.hold = plain.hold,
            |p, plain| p.reject = plain.reject,
            |p, plain| p.queue_order = plain.queue_order,
            |p, plain| p.pads = plain.pads,
            |p, plain| p.miscounts = plain.miscounts,
            |p, plain| p.overhead = plain.overhead,
            |p, plain| p.mood_steps = plain.mood_steps,
            |p, plain| p.pass_over = plain.pass_over,
            |p, plain| p.evictor_refuses = plain.evictor_refuses,
            |p, plain| p.keeps_idle = plain.keeps_idle,
            |p, plain| p.reserve = plain.reserve,
            |p, plain| p.ahead = plain.ahead,
            |p, plain| p.requeue_to_cluster = plain.requeue_to_cluster,
            |p, plain| p.cuts_prompts = plain.cuts_prompts,
            |p, plain| p.load_mode = plain.load_mode,
            |p, plain| p.chunk = plain.chunk,
            |p, plain| p.admit_max = plain.admit_max,
            |p, plain| p.prefill_alone = plain.prefill_alone,
            |p, plain| p.decode_first = plain.decode_first,
        ];
        let simpler = |change: &fn(&mut RandomPolicies, &RandomPolicies)| {
            let mut policies = self.clone();
            change(&mut policies, &plain);
            policies
        };
        changes.iter().map(simpler).filter(|policies| policies != self).collect()
    }
}
