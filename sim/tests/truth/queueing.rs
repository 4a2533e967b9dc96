//! Known answers of queueing theory, from the real engine.

use aril_sim::batch::{Batch, Executor, Price};
use aril_sim::policy::Policies;
use aril_sim::policy::evictor::AtOnce;
use aril_sim::policy::load_path::OnArrival;
use aril_sim::random;
use aril_sim::time::Span;
use aril_sim::workload::{AdapterId, TenantId};

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
        Price::lasting(first, steps)
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
/// out, as a part of it. Each test also asks it of models that are near, and must be told that they are others.
fn agrees(samples: &[f64], theory: f64, bias: f64) -> Result<(), String> {
    let (mean, error) = mean_and_error(samples);
    if error >= 0.04 * theory {
        return Err(format!("a standard error of {error} says nothing about {theory}"));
    }
    if (mean - theory).abs() - bias * theory >= 3.0 * error {
        return Err(format!("{mean} ± {error} s, and theory says {theory} s"));
    }
    Ok(())
}

fn assert_mean(what: &str, samples: &[f64], theory: f64, bias: f64) {
    agrees(samples, theory, bias).unwrap_or_else(|problem| panic!("{what}: {problem}"));
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
        let theory = load * SERVICE / (2.0 * (1.0 - load));
        assert_mean("M/D/1", &waits(&seen), theory, 0.0);
        // The check can fail: exponential services would wait twice as long, and these do not; nor a tenth longer.
        agrees(&waits(&seen), 2.0 * theory, 0.0).expect_err("these are not the waits of M/M/1");
        agrees(&waits(&seen), 1.15 * theory, 0.0).expect_err("nor anything near");
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
        let wait = |servers: u32, rate: f64| {
            let busy = rate * SERVICE / f64::from(servers);
            erlang_c(servers, rate * SERVICE) * SERVICE / (f64::from(servers) * (1.0 - busy))
        };
        let (seen, theory) = (waits(&seen), wait(count, rate));
        assert_mean(&format!("M/M/{count}"), &seen, theory, 0.0);
        agrees(&seen, wait(count + 1, rate), 0.0).expect_err("not of one server more");
        if rate * SERVICE < f64::from(count - 1) {
            agrees(&seen, wait(count - 1, rate), 0.0).expect_err("not of one server less");
        }
        agrees(&seen, wait(count, 1.03 * rate), 0.0).expect_err("not of a rate that is 3 % higher");
        agrees(&seen, theory / 2.0, 0.0).expect_err("not of services that do not vary");
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
    let (seen, theory) = (waits(&seen), |mean: f64, square: f64| rate * square / (2.0 * (1.0 - rate * mean)));
    assert_mean("M/G/1", &seen, theory(mean, square), 0.0);
    agrees(&seen, theory(mean, mean * mean), 0.0).expect_err("services vary");
    agrees(&seen, theory(mean, 2.0 * mean * mean), 0.0).expect_err("not as exponential ones do");
    let always = SERVICE + load_time;
    agrees(&seen, theory(always, always * always), 0.0).expect_err("who finds the adapter there does not load it");
}

/// A vacation that the first customer of a busy period brings about: the adapter leaves with the last one who needs it.
#[test]
fn a_load_that_opens_each_busy_period_is_a_queue_with_set_up() {
    let rate = 25.0;
    for (seed, set_up) in [(10, 0.005), (11, 0.08)] {
        let mut random = random::stream(seed, "set-up");
        let offered = poisson(&mut random, rate, 300_000, |_, offered| {
            offered.request.adapter = Some(AdapterId(0));
        });
        let draw = |_| Span::from_secs_f64(exponential(&mut random, SERVICE));
        let service = ServiceTimes(offered.iter().map(draw).collect());
        let policies = Policies {
            // Whoever comes while others are served counts on the adapter that is there, and keeps it there.
            evictor: Box::new(|| Box::new(AtOnce::default())),
            load_path: Box::new(|| Box::new(OnArrival::default())),
            ..first_come(u32::MAX)
        };
        let settings = servers(1, 1, Span::from_secs_f64(set_up));
        let seen = visits(&settings, &catalog(1), &policies, service, offered).unwrap();
        let square = 2.0 * SERVICE.powi(2);
        let queue = rate * square / (2.0 * (1.0 - rate * SERVICE));
        // Welch 1964: what a deterministic set-up adds to the wait of everybody, on average.
        let vacation = (2.0 * set_up + rate * set_up.powi(2)) / (2.0 * (1.0 + rate * set_up));
        let sojourns: Vec<f64> = seen.iter().map(|visit| visit.sojourn).collect();
        assert_mean("M/M/1 with set-up", &sojourns, queue + vacation + SERVICE, 0.0);
        agrees(&sojourns, queue + SERVICE, 0.0).expect_err("a set-up is felt");
        if set_up > SERVICE {
            // Whoever comes in the middle of a set-up that does not vary has half of it before him; of one that does, all.
            agrees(&sojourns, queue + set_up + SERVICE, 0.0).expect_err("nor does it vary");
        }
    }
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
    let goes_first = |load_first: f64| residual / (1.0 - load_first);
    let goes_last = |load_first: f64| residual / ((1.0 - load_first) * (1.0 - load));
    let (first, last) = (load * share, load * (1.0 - share));
    for (class, theory, swapped) in [(0, goes_first(first), goes_last(last)), (1, goes_last(first), goes_first(last))] {
        let of_class: Vec<f64> = seen.iter().filter(|visit| visit.class == class).map(|visit| visit.wait).collect();
        assert_mean(&format!("class {class}"), &of_class, theory, 0.0);
        agrees(&of_class, swapped, 0.0).expect_err("the other class goes first");
        agrees(&of_class, residual / (1.0 - load), 0.0).expect_err("nobody goes first");
        // One that is served is not interrupted: who goes first waits for the rest of that one, whoever it is.
        let interrupting = if class == 0 { first * SERVICE / (1.0 - first) } else { 1.15 * theory };
        agrees(&of_class, interrupting, 0.0).expect_err("nor does anybody interrupt, nor is it anything near");
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
            offered.request.tenant = TenantId(u32::from(is_long));
            offered.outcome.output_tokens = if is_long { long } else { short };
            offered.request.max_tokens = offered.outcome.output_tokens;
        });
        let settings = servers(1, 100_000, Span::ZERO);
        let executor = Shared(Span::from_secs_f64(token));
        let seen = visits(&settings, &catalog(0), &first_come(u32::MAX), executor, offered).unwrap();
        let sojourns: Vec<f64> = seen.iter().map(|visit| visit.sojourn).collect();
        // A newcomer waits for the end of the step in flight: half a token of everybody else.
        let bias = load / (2.0 * mean_tokens) + 0.002;
        let own = mean_tokens * token;
        assert_mean("M/G/1-PS", &sojourns, own / (1.0 - load), bias);
        let spread = (1.0 - long_share) * f64::from(short).powi(2) + long_share * f64::from(long).powi(2);
        let in_turn = own + rate * spread * token.powi(2) / (2.0 * (1.0 - load));
        agrees(&sojourns, in_turn, bias).expect_err("not whole requests in turn");
        agrees(&sojourns, own / (1.0 - 1.04 * load), bias).expect_err("not of a load that is 4 % higher");
        // Everybody is slowed down alike, short or long.
        for (class, tokens) in [(0, f64::from(short)), (1, f64::from(long))] {
            let of_class: Vec<f64> =
                seen.iter().filter(|visit| visit.class == class).map(|visit| visit.sojourn).collect();
            if !of_class.is_empty() {
                let bias = load / (2.0 * tokens) + 0.002;
                assert_mean(&format!("{tokens} tokens in M/G/1-PS"), &of_class, tokens * token / (1.0 - load), bias);
            }
        }
    }
}

/// The other limit of a shared replica, with the same lengths and the same load.
#[test]
fn a_batch_of_one_serves_whole_requests_in_turn_and_the_short_wait_for_the_long() {
    let (token, load, short, long, long_share) = (0.0005, 0.6, 20, 420, 0.2);
    let mut random = random::stream(12, "one at a time");
    let mean = token * (f64::from(short) * (1.0 - long_share) + f64::from(long) * long_share);
    let rate = load / mean;
    let offered = poisson(&mut random, rate, 200_000, |random, offered| {
        let is_long = uniform(random) < long_share;
        offered.request.tenant = TenantId(u32::from(is_long));
        offered.outcome.output_tokens = if is_long { long } else { short };
        offered.request.max_tokens = offered.outcome.output_tokens;
    });
    let executor = Shared(Span::from_secs_f64(token));
    let seen = visits(&servers(1, 1, Span::ZERO), &catalog(0), &first_come(u32::MAX), executor, offered).unwrap();
    let square = |tokens: u32| (token * f64::from(tokens)).powi(2);
    let wait = rate * (square(short) * (1.0 - long_share) + square(long) * long_share) / (2.0 * (1.0 - load));
    for (class, tokens) in [(0, short), (1, long)] {
        let of_class: Vec<f64> = seen.iter().filter(|visit| visit.class == class).map(|visit| visit.sojourn).collect();
        let own = token * f64::from(tokens);
        assert_mean(&format!("{tokens} tokens in M/G/1"), &of_class, wait + own, 0.0);
        agrees(&of_class, own / (1.0 - load), 0.0).expect_err("nobody shares a batch of one");
        let alike = rate * mean.powi(2) / (2.0 * (1.0 - load));
        agrees(&of_class, alike + own, 0.0).expect_err("lengths vary");
    }
}
