//! Known answers of queueing theory, from the real engine.

use aril_sim::batch::{Batch, Executor, Price};
use aril_sim::random;
use aril_sim::time::Span;
use aril_sim::workload::TenantId;

use super::station::{Visit, any_adapter, catalog, exponential, first_come, poisson, servers, uniform, visits};

const SERVICE: f64 = 0.02;

/// Every step takes as long as the book says for the request in it.
struct ServiceTimes(Vec<Span>);

impl Executor for ServiceTimes {
    fn run(&mut self, batch: &Batch<'_>) -> Price {
        Price::once(self.0[batch.slices[0].request.0 as usize])
    }
}

/// Every row of a step takes as long as every other: each of n sequences gets an nth of the server.
struct Shared(Span);

impl Executor for Shared {
    fn run(&mut self, batch: &Batch<'_>) -> Price {
        let first = self.0 * batch.slices.len() as u64;
        let steps = if batch.shape.is_decode_only() { u32::MAX } else { 1 };
        Price { first, increment: Span::ZERO, steps }
    }
}

/// Mean and standard error of a correlated series, by the means of 40 consecutive batches; the first tenth is warm-up.
fn mean_and_error(samples: &[f64]) -> (f64, f64) {
    let warm = &samples[samples.len() / 10..];
    let size = warm.len() / 40;
    let means: Vec<f64> = warm.chunks_exact(size).map(|chunk| chunk.iter().sum::<f64>() / size as f64).collect();
    let count = means.len() as f64;
    let mean = means.iter().sum::<f64>() / count;
    let variance = means.iter().map(|m| (m - mean).powi(2)).sum::<f64>() / (count - 1.0);
    (mean, (variance / count).sqrt())
}

/// Is the mean what theory says, within three standard errors that are themselves small? `bias`: what the theory leaves
/// out, as a part of it.
fn assert_mean(what: &str, samples: &[f64], theory: f64, bias: f64) {
    let (mean, error) = mean_and_error(samples);
    assert!(error < 0.04 * theory, "{what}: a standard error of {error} says nothing about {theory}");
    let distance = (mean - theory).abs() - bias * theory;
    assert!(distance < 3.0 * error, "{what}: {mean} ± {error} s, and theory says {theory} s");
}

fn waits(visits: &[Visit]) -> Vec<f64> {
    visits.iter().map(|visit| visit.wait).collect()
}

#[test]
fn a_replica_that_serves_one_at_a_time_is_an_m_d_1_queue() {
    for (seed, load) in [(1, 0.5), (2, 0.8)] {
        let mut random = random::stream(seed, "M/D/1");
        let offered = poisson(&mut random, load / SERVICE, 200_000, |_, _| {});
        let service = ServiceTimes(vec![Span::from_secs_f64(SERVICE); offered.len()]);
        // All wait in the replica's own queue.
        let policies = first_come(u32::MAX);
        let seen = visits(&servers(1, 1, Span::ZERO), &catalog(0), &policies, service, offered).unwrap();
        assert_mean("M/D/1", &waits(&seen), load * SERVICE / (2.0 * (1.0 - load)), 0.0);
    }
}

/// The chance that an arrival to M/M/c waits (Erlang C).
fn erlang_c(servers: u32, offered_load: f64) -> f64 {
    let mut blocked = 1.0;
    for k in 1..=servers {
        blocked = offered_load * blocked / (f64::from(k) + offered_load * blocked);
    }
    let utilization = offered_load / f64::from(servers);
    blocked / (1.0 - utilization * (1.0 - blocked))
}

#[test]
fn replicas_with_a_central_queue_are_an_m_m_c_queue() {
    for (seed, count, load) in [(3, 1, 0.7), (4, 3, 0.8), (5, 8, 0.85)] {
        let mut random = random::stream(seed, "M/M/c");
        let rate = load * f64::from(count) / SERVICE;
        let offered = poisson(&mut random, rate, 300_000, |_, _| {});
        let draw = |_| Span::from_secs_f64(exponential(&mut random, SERVICE));
        let service = ServiceTimes(offered.iter().map(draw).collect());
        let settings = servers(count as usize, 1, Span::ZERO);
        let seen = visits(&settings, &catalog(0), &first_come(1), service, offered).unwrap();
        let theory = erlang_c(count, rate * SERVICE) * SERVICE / (f64::from(count) * (1.0 - load));
        assert_mean(&format!("M/M/{count}"), &waits(&seen), theory, 0.0);
    }
}

#[test]
fn a_slot_that_is_loaded_anew_for_every_other_adapter_is_an_m_g_1_queue() {
    // Among k adapters drawn uniformly, the next one differs with chance 1 - 1/k, whatever came before.
    let (adapters, load_time, rate) = (4, 0.015, 22.0);
    let mut random = random::stream(6, "M/G/1");
    let describe = |random: &mut random::Stream, offered: &mut aril_sim::workload::Offered| {
        offered.request.adapter = any_adapter(random, adapters);
    };
    let offered = poisson(&mut random, rate, 300_000, describe);
    let service = ServiceTimes(vec![Span::from_secs_f64(SERVICE); offered.len()]);
    let settings = servers(1, 1, Span::from_secs_f64(load_time));
    let seen = visits(&settings, &catalog(adapters), &first_come(u32::MAX), service, offered).unwrap();
    let differs = 1.0 - 1.0 / f64::from(adapters);
    let mean = SERVICE + differs * load_time;
    let square = (1.0 - differs) * SERVICE.powi(2) + differs * (SERVICE + load_time).powi(2);
    // Pollaczek and Khinchine; the load is part of the service: it begins when the replica is free.
    assert_mean("M/G/1", &waits(&seen), rate * square / (2.0 * (1.0 - rate * mean)), 0.0);
}

#[test]
fn the_class_that_goes_first_waits_as_cobham_says() {
    let (load, share) = (0.8, 0.4);
    let mut random = random::stream(7, "priority");
    let rate = load / SERVICE;
    let offered = poisson(&mut random, rate, 400_000, |random, offered| {
        offered.request.tenant = TenantId(u32::from(uniform(random) > share));
    });
    let draw = |_| Span::from_secs_f64(exponential(&mut random, SERVICE));
    let service = ServiceTimes(offered.iter().map(draw).collect());
    let seen = visits(&servers(1, 1, Span::ZERO), &catalog(0), &first_come(1), service, offered).unwrap();
    let residual = rate * SERVICE.powi(2);
    let first = load * share;
    for (class, theory) in [(0, residual / (1.0 - first)), (1, residual / ((1.0 - first) * (1.0 - load)))] {
        let of_class: Vec<f64> = seen.iter().filter(|visit| visit.class == class).map(|visit| visit.wait).collect();
        assert_mean(&format!("class {class}"), &of_class, theory, 0.0);
    }
}

#[test]
fn an_unbounded_batch_shares_the_replica_whatever_the_lengths_are() {
    let (token, mean_tokens, load) = (0.0005, 100.0, 0.6);
    for (seed, short, long) in [(8, 100, 100), (9, 20, 420)] {
        // Two lengths with the same mean.
        let long_share = if long > short { (mean_tokens - f64::from(short)) / f64::from(long - short) } else { 0.0 };
        let mut random = random::stream(seed, "processor sharing");
        let rate = load / (mean_tokens * token);
        let offered = poisson(&mut random, rate, 120_000, |random, offered| {
            let is_long = uniform(random) < long_share;
            offered.outcome.output_tokens = if is_long { long } else { short };
            offered.request.max_tokens = offered.outcome.output_tokens;
        });
        let settings = servers(1, 100_000, Span::ZERO);
        let executor = Shared(Span::from_secs_f64(token));
        let seen = visits(&settings, &catalog(0), &first_come(u32::MAX), executor, offered).unwrap();
        let sojourns: Vec<f64> = seen.iter().map(|visit| visit.sojourn).collect();
        // A newcomer waits for the end of the step in flight: half a token of everybody else.
        let bias = load / (2.0 * mean_tokens) + 0.002;
        assert_mean("M/G/1-PS", &sojourns, mean_tokens * token / (1.0 - load), bias);
    }
}
