//! Relations between runs: what must follow from what, whatever the numbers are.

use aril_sim::batch::{BatchShape, CostModel, Modelled, Price};
use aril_sim::conformance::{Check, RandomPolicies, Scenario, Terrain, watched};
use aril_sim::fact::{Fact, Life, Observer};
use aril_sim::random;
use aril_sim::settings::ReplicaSettings;
use aril_sim::time::{Span, Time};

use super::station::{catalog, first_come, poisson, servers, visits};

fn draw(seed: u64) -> (Scenario, RandomPolicies) {
    let scenario = Scenario::draw(seed, Terrain::Any);
    let policies = RandomPolicies::draw(&mut random::stream(seed, "metamorphic"), scenario.unit);
    (scenario, policies)
}

/// Every time in a life, and everything else in it.
#[derive(Default)]
struct Lives(Vec<([u64; 9], String)>);

impl Lives {
    fn write(now: Time, life: &Life<'_>) -> ([u64; 9], String) {
        let instant = |time: Option<Time>| time.map_or(0, Time::as_ps);
        let waits = &life.waits;
        let parts =
            [waits.router, waits.queue, waits.slot, waits.load, waits.prefill, waits.preemption].map(Span::as_ps);
        let [a, b, c, d, e, f] = parts;
        let times = [now.as_ps(), instant(life.scheduled), instant(life.first_token), a, b, c, d, e, f];
        let (id, end, emitted) = (life.offered.request.id, life.end, life.emitted);
        let (hit, preemptions, migrations) = (life.adapter_hit, life.preemptions, life.migrations);
        (times, format!("{id:?} {end:?} {emitted} {:?} {hit:?} {preemptions} {migrations}", life.replica))
    }
}

impl Observer for Lives {
    fn observe(&mut self, now: Time, fact: &Fact<'_>) {
        if let Fact::Ended(life) = fact {
            self.0.push(Lives::write(now, life));
        }
    }
}

#[test]
fn twice_the_times_are_twice_the_latencies() {
    for seed in 0..800 {
        let (scenario, policies) = draw(seed);
        let (mut once, mut twice) = (Lives::default(), Lives::default());
        let ended = scenario.run(&policies.make(), true, &mut once);
        let ended_twice = scenario.times(2).run(&policies.times(2).make(), true, &mut twice);
        assert_eq!(ended.is_ok(), ended_twice.is_ok(), "seed {seed}");
        let doubled: Vec<_> = once.0.into_iter().map(|(times, rest)| (times.map(|time| 2 * time), rest)).collect();
        assert_eq!(doubled, twice.0, "seed {seed}");
    }
}

#[test]
fn names_observers_and_repetition_make_no_difference_to_random_policies() {
    let check = Check { terrain: Terrain::Any, ..Check::default() };
    for seed in 0..500 {
        let (scenario, policies) = draw(seed);
        if let Some(finding) = check.examine(&scenario, &policies.make()) {
            panic!("seed {seed}: {finding:?}\n{scenario}{policies:?}");
        }
    }
}

#[test]
fn the_same_seed_tells_the_same_bytes_on_any_number_of_threads() {
    let tell = |seed: u64| {
        let (scenario, policies) = draw(seed);
        format!("{:?}", watched(&scenario, &policies.make(), true).map(|run| run.told))
    };
    let alone: Vec<String> = (0..64).map(tell).collect();
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..4).map(|_| scope.spawn(|| (0..64).map(tell).collect::<Vec<String>>())).collect();
        for one in all {
            assert_eq!(one.join().expect("no panic"), alone);
        }
    });
}

/// Decoding is bound by reading weights: a step costs the same whatever the batch is.
struct MemoryBound;

impl CostModel for MemoryBound {
    fn price(&mut self, shape: &BatchShape<'_>) -> Price {
        let first = Span::from_ms(20) + Span::from_us(20) * u64::from(shape.prefill_tokens());
        let steps = if shape.is_decode_only() { u32::MAX } else { 1 };
        Price::lasting(first, steps)
    }
}

fn finished_with(kv_blocks: u32, seed: u64) -> usize {
    let mut random = random::stream(seed, "more memory");
    // All are there from the start: the queue is never empty before the horizon.
    let offered = poisson(&mut random, 1e9, 400, |random, offered| {
        use rand::Rng;
        offered.request.prompt_tokens = 1 + random.next_u32() % 200;
        offered.outcome.output_tokens = 1 + random.next_u32() % 300;
    });
    let mut settings = servers(1, 64, Span::ZERO);
    settings.horizon = Some(Span::from_secs(30));
    let with_memory = |replica: &mut ReplicaSettings| replica.kv_blocks = kv_blocks;
    settings.replicas.iter_mut().for_each(with_memory);
    let seen = visits(&settings, &catalog(0), &first_come(u32::MAX), Modelled(MemoryBound), offered).unwrap();
    assert_eq!(seen.len(), 400);
    seen.iter().filter(|visit| visit.finished).count()
}

#[test]
fn more_kv_memory_never_finishes_fewer_requests() {
    for seed in 0..20 {
        let finished: Vec<usize> =
            [32, 64, 128, 256, 512, 1_024, 4_096].map(|blocks| finished_with(blocks, seed)).into();
        assert!(finished.is_sorted(), "seed {seed}: {finished:?}");
        assert!(finished[0] < finished[6], "memory is what binds: {finished:?}");
    }
}
