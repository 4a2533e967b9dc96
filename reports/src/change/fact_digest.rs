//! A run in sixteen letters: equal digests, equal behaviour.

use std::fmt::Write;

use aril_sim::fact::{End, Fact, Life, LoadCause, Observer, Power, RejectReason, Tier};
use aril_sim::time::Time;
use aril_sim::workload::Offered;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// What was asked, and what came of it, each in sixteen letters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Digests {
    /// The requests: arrival, tenant, adapter and lengths.
    pub requests: String,
    /// What happened to whom, when and where: routes, loads, evictions, preemptions, migrations, power, and each request's life.
    pub results: String,
}

/// Watches a run and ends up with its [`Digests`].
///
/// How the engine groups decode steps is left out: advancing them one by one or together is the same behaviour. What a request
/// got, and when, is not.
#[derive(Clone, Default)]
pub struct FactDigest {
    requests: Sha256,
    results: Sha256,
}

impl FactDigest {
    /// When the run is over.
    pub fn finish(self) -> Digests {
        Digests { requests: letters(self.requests), results: letters(self.results) }
    }

    fn offered(&mut self, offered: &Offered) {
        let request = &offered.request;
        let numbers = [
            u64::from(request.id.0),
            u64::from(request.tenant.0),
            request.adapter.map_or(u64::MAX, |adapter| u64::from(adapter.0)),
            request.arrival.as_ps(),
            u64::from(request.prompt_tokens),
            u64::from(request.max_tokens),
            request.predicted_output_tokens.map_or(u64::MAX, u64::from),
            u64::from(offered.outcome.output_tokens),
        ];
        write(&mut self.requests, &numbers);
    }

    fn ended(&mut self, now: Time, life: &Life<'_>) {
        let time = |time: Option<Time>| time.map_or(u64::MAX, |time| time.as_ps());
        let waits = &life.waits;
        let numbers = [
            now.as_ps(),
            u64::from(life.offered.request.id.0),
            end(life.end),
            life.replica.map_or(u64::MAX, |replica| u64::from(replica.0)),
            time(life.scheduled),
            time(life.first_token),
            u64::from(life.emitted),
            waits.router.as_ps(),
            waits.queue.as_ps(),
            waits.slot.as_ps(),
            waits.load.as_ps(),
            waits.prefill.as_ps(),
            waits.preemption.as_ps(),
            life.adapter_hit.map_or(2, u64::from),
            u64::from(life.preemptions),
            u64::from(life.migrations),
        ];
        write(&mut self.results, &numbers);
    }
}

impl Observer for FactDigest {
    fn observe(&mut self, now: Time, fact: &Fact<'_>) {
        let at = now.as_ps();
        let id = |id: u32| u64::from(id);
        match fact {
            Fact::Offered(offered) => self.offered(offered),
            Fact::Ended(life) => self.ended(now, life),
            Fact::Routed { request, replica, recompute } => {
                write(&mut self.results, &[1, at, id(request.0), id(replica.0), id(*recompute)]);
            }
            Fact::LoadStarted { replica, adapter, from, bytes, cause, start, done } => {
                let cause = match cause {
                    LoadCause::Demand => 0,
                    LoadCause::Prefetch => 1,
                };
                let numbers =
                    [2, at, id(replica.0), id(adapter.0), tier(*from), *bytes, cause, start.as_ps(), done.as_ps()];
                write(&mut self.results, &numbers);
            }
            Fact::Evicted { replica, adapter, tier: from, bytes } => {
                write(&mut self.results, &[3, at, id(replica.0), id(adapter.0), tier(*from), *bytes]);
            }
            Fact::Preempted { request, replica, blocks, cut } => {
                write(&mut self.results, &[4, at, id(request.0), id(replica.0), id(*blocks), id(*cut)]);
            }
            Fact::Migrated { request, from, to } => {
                write(&mut self.results, &[5, at, id(request.0), id(from.0), id(to.0)]);
            }
            Fact::Power { replica, power } => {
                let power = match power {
                    Power::Off => 0,
                    Power::Starting => 1,
                    Power::On => 2,
                    Power::Draining => 3,
                };
                write(&mut self.results, &[6, at, id(replica.0), power]);
            }
            // Told again by the lives and by the starts of loads, or a matter of how steps are grouped.
            Fact::Held(_) | Fact::Scheduled { .. } | Fact::LoadDone { .. } | Fact::Stretch(_) => {}
        }
    }
}

fn end(end: End) -> u64 {
    match end {
        End::Finished => 0,
        End::TimedOut => 1,
        End::Unfinished => 2,
        End::Rejected(RejectReason::TooLong) => 3,
        End::Rejected(RejectReason::AdapterTooLarge) => 4,
        End::Rejected(RejectReason::Router) => 5,
    }
}

fn tier(tier: Tier) -> u64 {
    match tier {
        Tier::Gpu => 0,
        Tier::Host => 1,
        Tier::Disk => 2,
    }
}

fn write(hash: &mut Sha256, numbers: &[u64]) {
    hash.update([numbers.len() as u8]);
    numbers.iter().for_each(|number| hash.update(number.to_le_bytes()));
}

/// The first sixteen letters of the hash in hexadecimal.
fn letters(hash: Sha256) -> String {
    hash.finalize().iter().take(8).fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A text in sixteen letters.
pub fn digest_of(text: &str) -> String {
    letters(Sha256::new_with_prefix(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use aril_sim::time::Span;
    use aril_sim::workload::{AdapterId, ReplicaId, RequestId};

    fn load(done_ps: u64) -> Digests {
        let mut digest = FactDigest::default();
        let (replica, adapter) = (ReplicaId(0), AdapterId(1));
        digest.observe(Time::ZERO, &Fact::Held(RequestId(7)));
        digest.observe(
            Time::ZERO,
            &Fact::LoadStarted {
                replica,
                adapter,
                from: Tier::Host,
                bytes: 10,
                cause: LoadCause::Demand,
                start: Time::ZERO,
                done: Time::ZERO + Span::from_ps(done_ps),
            },
        );
        digest.finish()
    }

    #[test]
    fn a_picosecond_changes_the_results_and_not_the_requests() {
        assert_eq!(load(5), load(5));
        assert_ne!(load(5).results, load(6).results);
        assert_eq!(load(5).requests, load(6).requests);
        assert_eq!(load(5).results.len(), 16);
        // SHA-256 of nothing, as in FIPS 180-4.
        assert_eq!(FactDigest::default().finish().results, "e3b0c44298fc1c14");
    }
}
