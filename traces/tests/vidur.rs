//! A peer's runs, reproduced: its requests, its cost tables, our engine and batchers, its completion times.
//!
//! The files lie in `scenarios/vidur`, with their origin. Where Vidur's own results end, its rules go on: a second, naive
//! implementation of them says what other numbers of replicas, lengths, rates and routers must give.

mod naive;

use std::path::{Path, PathBuf};

use aril_sim::batch::{Executor, Modelled};
use aril_sim::cost::CompiledCost;
use aril_sim::engine;
use aril_sim::fact::{End, Fact, Observer};
use aril_sim::fleet::Fleet;
use aril_sim::policy::batcher::{Chunked, PrefillFirst};
use aril_sim::policy::evictor::Lru;
use aril_sim::policy::load_path::Blocking;
use aril_sim::policy::preemptor::{Age, Newest};
use aril_sim::policy::router::{LeastLoaded, Load, RoundRobin};
use aril_sim::policy::{Asked, Batcher, Make, Policies, Requeue, Route, Router};
use aril_sim::profile::Profile;
use aril_sim::profile::lora::LoraKernel;
use aril_sim::random::{self, Stream};
use aril_sim::settings::{ClusterSettings, ReplicaSettings};
use aril_sim::time::{Span, Time};
use aril_sim::workload::{Catalog, Offered, Outcome, Request, RequestId, TenantId};
use aril_traces::{Columns, Format, ReadOptions, read, read_vidur_costs};
use naive::{Choice, Costs, Served, WHOLE, serve};
use rand::RngExt;

const BLOCKS: u32 = 7424;
const BLOCK: u32 = 16;
const WATERMARK: f64 = 0.01;

/// First-token and completion times and the replica, by request, and how often one was restarted.
#[derive(Default)]
struct Times {
    of: Vec<(Time, Time)>,
    replicas: Vec<usize>,
    restarts: u32,
    /// Of them, those in the middle of a prompt.
    cut: u32,
}

impl Observer for Times {
    fn observe(&mut self, now: Time, fact: &Fact<'_>) {
        if let Fact::Preempted { cut, .. } = *fact {
            self.restarts += 1;
            self.cut += u32::from(cut > 0);
        }
        if let Fact::Ended(life) = fact {
            assert_eq!(life.end, End::Finished);
            let index = life.offered.request.id.index();
            self.of.resize(self.of.len().max(index + 1), Default::default());
            self.of[index] = (life.first_token.expect("a finished request has a token"), now);
            self.replicas.resize(self.of.len(), usize::MAX);
            self.replicas[index] = life.replica.expect("a finished request was somewhere").index();
        }
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios/vidur")
}

fn profile() -> Profile {
    let text = std::fs::read_to_string(folder().join("vidur-a100-80gb-llama-2-7b.toml")).unwrap();
    toml::from_str(&text).unwrap()
}

fn offered(name: &str) -> Vec<Offered> {
    let path = folder().join(format!("{name}.csv.gz"));
    let table = read(&path, Some(Format::Vidur), &Columns::default(), &ReadOptions::default()).unwrap();
    let arrivals = table.arrivals_ps.unwrap();
    let lengths = table.input_tokens.into_iter().zip(table.output_tokens);
    let all = arrivals.into_iter().zip(lengths).enumerate();
    all.map(|(id, (arrival, lengths))| request(id, Time::ZERO + Span::from_ps(arrival), lengths)).collect()
}

fn request(id: usize, arrival: Time, (prompt_tokens, output_tokens): (u32, u32)) -> Offered {
    let request = Request {
        id: RequestId(id as u32),
        tenant: TenantId(0),
        adapter: None,
        arrival,
        prompt_tokens,
        max_tokens: 4096 - prompt_tokens,
        predicted_output_tokens: None,
        prefix: None,
    };
    Offered { request, outcome: Outcome { output_tokens } }
}

fn replica(rule: Rule) -> ReplicaSettings {
    ReplicaSettings {
        max_num_seqs: rule.sequences,
        max_num_batched_tokens: rule.tokens,
        max_loras: 0,
        max_lora_rank: 0,
        block_size: BLOCK,
        kv_blocks: BLOCKS,
        ..ReplicaSettings::boundless()
    }
}

/// Which of Vidur's schedulers?
#[derive(Clone, Copy, Debug, PartialEq)]
enum Scheduler {
    Sarathi,
    Vllm,
}

/// A scheduler, and how large its steps may be.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Rule {
    scheduler: Scheduler,
    tokens: u32,
    sequences: u32,
}

const SARATHI: Rule = Rule { scheduler: Scheduler::Sarathi, tokens: 512, sequences: 128 };
const VLLM: Rule = Rule { scheduler: Scheduler::Vllm, tokens: 4096, sequences: 128 };

impl Rule {
    fn batcher(self) -> Make<dyn Batcher> {
        match self.scheduler {
            Scheduler::Sarathi => {
                let chunked = Chunked { watermark: WATERMARK, admits_after_preemption: true, ..Chunked::default() };
                Box::new(move || Box::new(chunked.clone()))
            }
            Scheduler::Vllm => Box::new(|| Box::new(PrefillFirst { counts_padding: true, ..PrefillFirst::default() })),
        }
    }
}

fn simulated(replicas: usize, rule: Rule, router: Make<dyn Router>, requests: Vec<Offered>) -> Times {
    simulated_by(&profile(), replicas, rule, router, requests)
}

fn simulated_by(
    profile: &Profile,
    replicas: usize,
    rule: Rule,
    router: Make<dyn Router>,
    requests: Vec<Offered>,
) -> Times {
    let cost = CompiledCost::compile(profile, LoraKernel::None).unwrap();
    let mut executors: Vec<Box<dyn Executor>> = vec![Box::new(Modelled(cost))];
    let settings = ClusterSettings::of(vec![replica(rule); replicas], 0);
    let policies = Policies {
        router,
        batcher: rule.batcher(),
        evictor: Box::new(|| Box::new(Lru::default())),
        load_path: Box::new(|| Box::new(Blocking::default())),
        preemptor: Box::new(|| {
            let (by, requeue) = (Age::Arrival, Requeue::Replica);
            Box::new(Newest { by, requeue, each_finds_a_free_block: true, cuts_prompts: true })
        }),
        migrator: None,
        scaler: None,
    };
    let mut times = Times::default();
    let mut arrivals = requests.into_iter();
    let ended =
        engine::run(&settings, &Catalog::default(), &policies, &mut executors, &mut arrivals, &mut times).unwrap();
    assert!(ended.coverage[0].outside.is_empty(), "{:?}", ended.coverage);
    times
}

fn in_turn() -> Make<dyn Router> {
    Box::new(|| Box::new(RoundRobin::default()))
}

/// The largest distance of a first token or an end, seconds.
fn worst(found: &[(Time, Time)], expected: &[(f64, f64)]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let error = |time: Time, theirs: f64| (time.as_ps() as f64 / 1e12 - theirs).abs();
    let errors = found.iter().zip(expected).map(|(ours, theirs)| error(ours.0, theirs.0).max(error(ours.1, theirs.1)));
    errors.fold(0.0, f64::max)
}

fn times(served: &[Served]) -> Vec<(f64, f64)> {
    served.iter().map(|served| (served.first_token, served.end)).collect()
}

/// What Vidur wrote.
fn published(name: &str) -> Vec<(f64, f64)> {
    let file = std::fs::File::open(folder().join(format!("{name}_outputs.csv.gz"))).unwrap();
    let mut reader = csv::Reader::from_reader(flate2::read::GzDecoder::new(file));
    let header = reader.headers().unwrap().clone();
    let at = |name: &str| header.iter().position(|column| column == name).unwrap();
    let (first, done) = (at("first_token_at_s"), at("completed_at_s"));
    reader
        .records()
        .map(|row| row.unwrap())
        .map(|row| (row[first].parse().unwrap(), row[done].parse().unwrap()))
        .collect()
}

#[test]
fn every_request_of_vidurs_chunked_prefill_is_reproduced_within_a_microsecond() {
    let name = "sarathi_r1_n1000_q4";
    let found = simulated(1, SARATHI, in_turn(), offered(name));
    assert_eq!(found.restarts, 0);
    let error = worst(&found.of, &published(name));
    assert!(error < 1e-6, "{error} s");
}

#[test]
fn every_request_of_vidurs_prefill_first_is_reproduced_within_a_microsecond() {
    let name = "vllm_r1_n1000_q4";
    let found = simulated(1, VLLM, in_turn(), offered(name));
    assert_eq!(found.restarts, 0);
    let error = worst(&found.of, &published(name));
    assert!(error < 1e-6, "{error} s");
}

#[test]
fn the_naive_rules_are_vidurs_rules() {
    for (rule, name) in [(SARATHI, "sarathi_r1_n1000_q4"), (VLLM, "vllm_r1_n1000_q4")] {
        let (found, expected) = (serve(&WHOLE, 1, rule, Choice::InTurn, &offered(name)).0, published(name));
        let errors = found.iter().zip(&expected).map(|(a, b)| (a.first_token - b.0).abs().max((a.end - b.1).abs()));
        assert!(errors.fold(0.0, f64::max) < 1e-6, "{name}");
    }
}

/// The rules look up the tables as Vidur wrote them, which nobody imported; of those only the small end is here.
#[test]
fn small_steps_cost_what_vidurs_own_tables_say() {
    let tables = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/vidur");
    let own = Costs::of_tables(&tables);
    let imported = Profile { vidur: Some(read_vidur_costs(&tables).unwrap()), ..profile() };
    for (rule, prompt) in [(SARATHI, 120), (VLLM, 60)] {
        let rule = Rule { tokens: 64, sequences: 4, ..rule };
        let requests = drawn(6, 300, 20.0, |random| (random.random_range(1..=prompt), random.random_range(1..=380)));
        let (expected, _) = serve(&own, 1, rule, Choice::InTurn, &requests);
        for (name, profile) in [("imported", &imported), ("shipped", &profile())] {
            let error = worst(&simulated_by(profile, 1, rule, in_turn(), requests.clone()).of, &times(&expected));
            assert!(error < 1e-7, "{name}, {rule:?}: {error} s");
        }
    }
}

#[test]
fn other_replicas_lengths_and_rates_end_when_vidurs_rules_say() {
    let cases = [(16, SARATHI, offered("requests_r16_n10000_q64"))].into_iter().chain(other_workloads());
    for (i, (replicas, rule, requests)) in cases.enumerate() {
        assert_eq!(
            agrees(&format!("case {i}"), replicas, rule, requests).restarts,
            0,
            "none of these contains a restart"
        );
    }
}

/// Replicas, their scheduler and what they are asked.
fn other_workloads() -> Vec<(usize, Rule, Vec<Offered>)> {
    let mut cases = Vec::new();
    for (seed, replicas, rate, prompt, output) in [
        (1, 2, 7.0, 900, 300),
        (2, 5, 40.0, 300, 150),
        (3, 16, 90.0, 500, 200),
        (4, 64, 256.0, 1200, 220),
        (5, 3, 30.0, 60, 500),
    ] {
        let lengths = |random: &mut Stream| (random.random_range(1..=2 * prompt), random.random_range(1..=2 * output));
        let requests = drawn(seed, 1500, rate, lengths);
        cases.push((replicas, SARATHI, requests.clone()));
        cases.push((replicas, VLLM, requests));
    }
    cases
}

/// So many requests, at so many a second.
fn drawn(seed: u64, count: usize, rate: f64, lengths: impl Fn(&mut Stream) -> (u32, u32)) -> Vec<Offered> {
    let mut random = random::stream(seed, "other workloads");
    let mut now = 0.0;
    let one = |id| {
        now -= (1.0 - random.random::<f64>()).ln() / rate;
        request(id, Time::ZERO + Span::from_secs_f64(now), lengths(&mut random))
    };
    (0..count).map(one).collect()
}

/// Compares every request, and gives what was found.
fn agrees(case: &str, replicas: usize, rule: Rule, requests: Vec<Offered>) -> Times {
    let (expected, restarts) = serve(&WHOLE, replicas, rule, Choice::InTurn, &requests);
    let found = simulated(replicas, rule, in_turn(), requests);
    let error = worst(&found.of, &times(&expected));
    assert!(error < 1e-6, "{case}, {rule:?} on {replicas} replicas, {restarts} restarts: {error} s");
    assert_eq!(found.restarts, restarts, "{case}");
    found
}

#[test]
fn requests_that_vidur_restarts_end_when_its_rules_say() {
    let longer = |name: &str, prompts: u32, outputs: u32| -> Vec<Offered> {
        let times = |(id, one): (usize, Offered)| {
            let (prompt, output) = (one.request.prompt_tokens, one.outcome.output_tokens);
            let prompt = (prompt * prompts).min(3000);
            request(id, one.request.arrival, (prompt, (output * outputs).min(4095 - prompt)))
        };
        offered(name).into_iter().enumerate().map(times).collect()
    };
    let mut restarts = 0;
    for (name, rule) in [("sarathi_r1_n1000_q4", SARATHI), ("vllm_r1_n1000_q4", VLLM)] {
        restarts += agrees("longer outputs", 1, rule, longer(name, 1, 2)).restarts;
        restarts += agrees("longer prompts", 1, rule, longer(name, 2, 1)).restarts;
    }
    let few: Vec<Offered> = offered("requests_r16_n10000_q64").into_iter().take(5000).collect();
    for rule in [SARATHI, VLLM] {
        restarts += agrees("half of the replicas", 8, rule, few.clone()).restarts;
    }
    assert!(restarts > 30, "{restarts} restarts");
}

/// Long prompts take several steps, and outputs want their blocks meanwhile: what is left of such a prompt is generated.
#[test]
fn requests_that_vidur_restarts_in_the_middle_of_a_prompt_end_when_its_rules_say() {
    let mut cut = 0;
    for seed in 0..16 {
        for (replicas, tokens, rate) in [(1, 512, 20.0), (1, 256, 12.0), (3, 128, 30.0)] {
            let lengths = |random: &mut Stream| {
                let long = random.random_range(0..10) == 0;
                let prompt = random.random_range(if long { 3700..=3990 } else { 400..=600 });
                (prompt, random.random_range(600..=1000).min(4095 - prompt))
            };
            let requests = drawn(100 + seed, 500, rate, lengths);
            cut += agrees("long prompts", replicas, Rule { tokens, ..SARATHI }, requests).cut;
        }
    }
    assert!(cut > 15, "{cut} in the middle of a prompt");
}

/// Whoever is let in has a token of the chunk: a larger batch than that cannot be, whatever is allowed.
#[test]
fn no_batch_of_vidurs_outgrows_its_chunk() {
    for tokens in [48, 64, 100] {
        let lengths = |random: &mut Stream| (random.random_range(1..=20), random.random_range(100..=400));
        let requests = drawn(u64::from(tokens), 600, 60.0, lengths);
        let (expected, _) = serve(&WHOLE, 1, Rule { tokens, ..SARATHI }, Choice::InTurn, &requests);
        let error = |sequences| {
            let found = simulated(1, Rule { tokens, sequences, ..SARATHI }, in_turn(), requests.clone());
            worst(&found.of, &times(&expected))
        };
        assert!(error(tokens) < 1e-6, "chunks of {tokens}: {} s", error(tokens));
        assert!(error(tokens - 1) > 1e-3, "batches are as large as chunks of {tokens}");
    }
}

/// At how many requests do they choose another replica? Where at none, every time is the same.
fn differs(
    (replicas, rule, requests): &(usize, Rule, Vec<Offered>),
    choice: Choice,
    router: impl Router + Clone + Send + Sync + 'static,
) -> usize {
    let (expected, _) = serve(&WHOLE, *replicas, *rule, choice, requests);
    let found = simulated(*replicas, *rule, Box::new(move || Box::new(router.clone())), requests.clone());
    let other = expected.iter().zip(&found.replicas).filter(|(served, replica)| served.replica != **replica).count();
    let error = worst(&found.of, &times(&expected));
    assert!(other > 0 || error < 1e-6, "{choice:?}, {rule:?} on {replicas} replicas: {error} s");
    other
}

#[test]
fn least_loaded_is_the_first_of_those_with_the_fewest_outstanding_requests() {
    let mut to_the_last = 0;
    for case in other_workloads() {
        let router = LeastLoaded { by: Load::Requests };
        assert_eq!(differs(&case, Choice::FewestOutstanding, router.clone()), 0, "{:?} on {}", case.1, case.0);
        to_the_last += differs(&case, Choice::LastOfFewestOutstanding, router);
    }
    assert!(to_the_last > 1_000, "who takes the last of equals goes elsewhere: {to_the_last}");
}

/// The first of those whose queues are shortest, whatever they run.
#[derive(Clone)]
struct FirstOfShortest;

impl Router for FirstOfShortest {
    fn route(&mut self, _: &Asked<'_>, fleet: &Fleet<'_>, _: &mut Stream) -> Route {
        let shortest = fleet.available().iter().min_by_key(|&&replica| (fleet.signals(replica).waiting, replica));
        shortest.map_or(Route::Hold, |replica| Route::To(*replica))
    }
}

/// As Vidur has written it, `lor` counts who waits, and not who runs.
#[test]
fn vidurs_lor_is_the_first_of_the_shortest_queues_and_not_the_least_loaded_of_them() {
    let mut to_others = 0;
    for case in other_workloads() {
        assert_eq!(differs(&case, Choice::FewestWaiting, FirstOfShortest), 0, "{:?} on {}", case.1, case.0);
        to_others += differs(&case, Choice::FewestWaiting, LeastLoaded { by: Load::Waiting });
    }
    assert!(to_others > 1_000, "of empty queues another one has the smaller batch: {to_others}");
}
