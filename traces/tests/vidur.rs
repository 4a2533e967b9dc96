//! A peer's runs, reproduced: its requests, its cost tables, our engine and batchers, its completion times.
//!
//! The files lie in `scenarios/vidur`, with their origin. Where Vidur's own results end, its rules go on: a second, naive
//! implementation of them in floating point, that shares nothing with the engine, says what other numbers of replicas, lengths
//! and rates must give.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use aril_sim::batch::{Executor, Modelled};
use aril_sim::cost::CompiledCost;
use aril_sim::engine;
use aril_sim::fact::{End, Fact, Observer};
use aril_sim::policy::batcher::{Chunked, PrefillFirst};
use aril_sim::policy::evictor::Lru;
use aril_sim::policy::load_path::Blocking;
use aril_sim::policy::preemptor::{Age, Newest};
use aril_sim::policy::router::RoundRobin;
use aril_sim::policy::{Batcher, Make, Policies, Requeue};
use aril_sim::profile::Profile;
use aril_sim::profile::lora::LoraKernel;
use aril_sim::profile::vidur::Steps;
use aril_sim::random;
use aril_sim::settings::{ClusterSettings, ReplicaSettings};
use aril_sim::time::{Span, Time};
use aril_sim::workload::{Catalog, Offered, Outcome, Request, RequestId, TenantId};
use aril_traces::{Columns, Format, ReadOptions, read, read_vidur_costs};
use rand::RngExt;

const BLOCKS: u32 = 7424;
const BLOCK: u32 = 16;
const SEQUENCES: usize = 128;
const WATERMARK: f64 = 0.01;

/// First-token and completion times, by request, and how often one was restarted.
#[derive(Default)]
struct Times {
    of: Vec<(Time, Time)>,
    restarts: u32,
}

impl Observer for Times {
    fn observe(&mut self, now: Time, fact: &Fact<'_>) {
        self.restarts += u32::from(matches!(fact, Fact::Preempted { .. }));
        if let Fact::Ended(life) = fact {
            assert_eq!(life.end, End::Finished);
            let index = life.offered.request.id.index();
            self.of.resize(self.of.len().max(index + 1), Default::default());
            self.of[index] = (life.first_token.expect("a finished request has a token"), now);
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

/// A request as Vidur sees it.
#[derive(Clone, Copy, Debug)]
struct Asked {
    arrival: f64,
    prompt: u32,
    output: u32,
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

fn replica(max_num_batched_tokens: u32) -> ReplicaSettings {
    ReplicaSettings {
        max_num_seqs: SEQUENCES as u32,
        max_num_batched_tokens,
        max_loras: 0,
        max_lora_rank: 0,
        block_size: BLOCK,
        kv_blocks: BLOCKS,
        ..ReplicaSettings::boundless()
    }
}

/// Which of Vidur's schedulers?
#[derive(Clone, Copy, Debug, PartialEq)]
enum Rule {
    Sarathi,
    Vllm,
}

impl Rule {
    fn tokens(self) -> u32 {
        if self == Rule::Sarathi { 512 } else { 4096 }
    }

    fn batcher(self) -> Make<dyn Batcher> {
        match self {
            Rule::Sarathi => Box::new(|| Box::new(Chunked { watermark: WATERMARK, ..Chunked::default() })),
            Rule::Vllm => Box::new(|| Box::new(PrefillFirst { counts_padding: true, ..PrefillFirst::default() })),
        }
    }
}

fn simulated(replicas: usize, rule: Rule, requests: Vec<Offered>) -> Times {
    let cost = CompiledCost::compile(&profile(), LoraKernel::None).unwrap();
    let mut executors: Vec<Box<dyn Executor>> = vec![Box::new(Modelled(cost))];
    let settings = ClusterSettings::of(vec![replica(rule.tokens()); replicas], 0);
    let policies = Policies {
        router: Box::new(|| Box::new(RoundRobin::default())),
        batcher: rule.batcher(),
        evictor: Box::new(|| Box::new(Lru::default())),
        load_path: Box::new(|| Box::new(Blocking::default())),
        preemptor: Box::new(|| {
            let (by, requeue) = (Age::Arrival, Requeue::Replica);
            Box::new(Newest { by, requeue, each_finds_a_free_block: true })
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

/// The largest distance of a first token or an end, seconds.
fn worst(found: &[(Time, Time)], expected: &[(f64, f64)]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let error = |time: Time, theirs: f64| (time.as_ps() as f64 / 1e12 - theirs).abs();
    let errors = found.iter().zip(expected).map(|(ours, theirs)| error(ours.0, theirs.0).max(error(ours.1, theirs.1)));
    errors.fold(0.0, f64::max)
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
    let found = simulated(1, Rule::Sarathi, offered(name));
    assert_eq!(found.restarts, 0);
    let error = worst(&found.of, &published(name));
    assert!(error < 1e-6, "{error} s");
}

#[test]
fn every_request_of_vidurs_prefill_first_is_reproduced_within_a_microsecond() {
    let name = "vllm_r1_n1000_q4";
    let found = simulated(1, Rule::Vllm, offered(name));
    assert_eq!(found.restarts, 0);
    let error = worst(&found.of, &published(name));
    assert!(error < 1e-6, "{error} s");
}

/// Vidur's cost tables, spread out.
struct Naive {
    operations: Vec<Vec<f64>>,
    save: Vec<f64>,
    decode: Vec<Vec<f64>>,
    prefill: Vec<Vec<f64>>,
}

#[derive(Clone, Copy, Debug)]
struct Live {
    id: usize,
    prompt: u32,
    output: u32,
    processed: u32,
    blocks: u32,
}

impl Naive {
    fn new() -> Naive {
        let tables = profile().vidur.unwrap();
        let spread = |steps: &Steps| -> Vec<f64> {
            let value = |x: u32| steps.ms[steps.until.iter().position(|until| *until >= x).unwrap()];
            (0..=*steps.until.last().unwrap()).map(value).collect()
        };
        Naive {
            operations: tables.operations.iter().map(|operation| spread(&operation.cost)).collect(),
            save: spread(&tables.kv_cache_save),
            decode: tables.decode.iter().map(spread).collect(),
            prefill: tables.prefill.iter().map(spread).collect(),
        }
    }

    /// One step of (tokens processed before, tokens computed) each, seconds.
    fn step(&self, decodes: &[u32], prefills: &[(u32, u32)]) -> f64 {
        let up = |tokens: u32, step: u32| tokens.div_ceil(step) * step;
        let tokens = decodes.len() as u32 + prefills.iter().map(|prefill| prefill.1).sum::<u32>();
        let mut ms: f64 = self.operations.iter().map(|table| table[up(tokens, 8) as usize]).sum();
        ms += self.save[tokens as usize];
        if !decodes.is_empty() {
            let mean = decodes.iter().sum::<u32>() / decodes.len() as u32;
            ms += self.decode[decodes.len() - 1][up(mean, 64) as usize];
        }
        if !prefills.is_empty() {
            let context: u32 = prefills.iter().map(|prefill| up(prefill.0, 64)).sum();
            let squares: f64 = prefills.iter().map(|prefill| f64::from(prefill.1).powi(2)).sum();
            ms += self.prefill[context as usize / 64][squares.sqrt().round() as usize];
        }
        32.0 * ms / 1e3
    }

    /// First token and end of each request on one replica, and how many restarts there were.
    fn run(&self, rule: Rule, asked: Vec<Asked>) -> (Vec<(f64, f64)>, u32) {
        let mut times = vec![(f64::NAN, f64::NAN); asked.len()];
        let mut restarting = Restarting { asked, restarts: 0 };
        let (mut now, mut next) = (0.0, 0);
        let mut free = BLOCKS;
        let mut queue: VecDeque<usize> = VecDeque::new();
        let mut running: Vec<Live> = Vec::new();
        loop {
            if running.is_empty() && queue.is_empty() {
                let Some(first) = restarting.asked.get(next) else { return (times, restarting.restarts) };
                now = first.arrival.max(now);
            }
            while next < restarting.asked.len() && restarting.asked[next].arrival <= now {
                queue.push_back(next);
                next += 1;
            }
            // Those of the step and their tokens, and those who have to wait.
            let (mut step, mut waits): (Vec<(Live, u32)>, Vec<Live>) = (Vec::new(), Vec::new());
            if rule == Rule::Sarathi {
                let (turned, prompts) = restarting.turns(&mut running, &mut queue, &mut free);
                step = turned;
                let mut left = rule.tokens() - step.len() as u32;
                for live in prompts {
                    let chunk = left.min(live.prompt - live.processed);
                    if chunk > 0 {
                        step.push((live, chunk))
                    } else {
                        waits.push(live)
                    }
                    left -= chunk;
                }
                while let Some(&id) = queue.front()
                    && let Some(live) = admitted(id, &restarting.asked[id], free, step.len() + waits.len())
                    && left > 0
                {
                    queue.pop_front();
                    free -= live.blocks;
                    let chunk = left.min(live.prompt);
                    step.push((live, chunk));
                    left -= chunk;
                }
            } else {
                let mut longest = 0;
                while let Some(&id) = queue.front()
                    && let Some(live) = admitted(id, &restarting.asked[id], free, running.len() + step.len())
                    && (step.len() as u32 + 1) * live.prompt.max(longest) <= rule.tokens()
                {
                    queue.pop_front();
                    free -= live.blocks;
                    longest = longest.max(live.prompt);
                    step.push((live, live.prompt));
                }
                if step.is_empty() {
                    step = restarting.turns(&mut running, &mut queue, &mut free).0;
                }
            }
            let (decodes, prefills): (Vec<_>, Vec<_>) =
                step.iter().partition(|(live, _)| live.processed >= live.prompt);
            let decodes: Vec<u32> = decodes.into_iter().map(|(live, _)| live.processed).collect();
            let prefills: Vec<(u32, u32)> = prefills.into_iter().map(|(live, chunk)| (live.processed, chunk)).collect();
            now += self.step(&decodes, &prefills);
            for (mut live, tokens) in step {
                let prefill = live.processed < live.prompt;
                live.processed += tokens;
                if prefill && live.processed == live.prompt {
                    live.processed += 1;
                    let first = &mut times[live.id].0;
                    *first = if first.is_nan() { now } else { *first };
                }
                if live.processed == live.prompt + live.output {
                    times[live.id].1 = now;
                    free += live.blocks;
                } else {
                    running.push(live);
                }
            }
            running.append(&mut waits);
            running.sort_by_key(|live| live.id);
        }
    }
}

/// What is asked, of those that were restarted what is left of it.
struct Restarting {
    asked: Vec<Asked>,
    restarts: u32,
}

impl Restarting {
    /// All that it has is a prompt again.
    fn restart(&mut self, gone: Live, queue: &mut VecDeque<usize>, free: &mut u32) {
        let asked = &mut self.asked[gone.id];
        (asked.prompt, asked.output) = (gone.processed, gone.prompt + gone.output - gone.processed);
        *free += gone.blocks;
        queue.push_front(gone.id);
        self.restarts += 1;
    }

    /// Those that decode in turn, the last of the rest giving way: who had a turn, and who still has prompt left.
    fn turns(
        &mut self,
        running: &mut Vec<Live>,
        queue: &mut VecDeque<usize>,
        free: &mut u32,
    ) -> (Vec<(Live, u32)>, Vec<Live>) {
        let (mut turned, mut prompts) = (Vec::new(), Vec::new());
        let mut others: VecDeque<Live> = running.drain(..).collect();
        while let Some(mut live) = others.pop_front() {
            if live.processed < live.prompt {
                prompts.push(live);
                continue;
            }
            // Whether or not it needs one, a block must be free.
            while *free == 0
                && let Some(last) = others.pop_back()
            {
                self.restart(last, queue, free);
            }
            if *free == 0 {
                self.restart(live, queue, free);
                continue;
            }
            // The token that is processed has its place in the cache.
            let more = live.processed.div_ceil(BLOCK).saturating_sub(live.blocks);
            *free -= more;
            live.blocks += more;
            turned.push((live, 1));
        }
        (turned, prompts)
    }
}

/// Is there room for the request?
fn admitted(id: usize, asked: &Asked, free: u32, running: usize) -> Option<Live> {
    let blocks = asked.prompt.div_ceil(BLOCK);
    let spare = (f64::from(BLOCKS) * WATERMARK) as u32;
    let live = Live { id, prompt: asked.prompt, output: asked.output, processed: 0, blocks };
    (running < SEQUENCES && free >= blocks + spare).then_some(live)
}

/// The naive run of many replicas, served in turn.
fn naive(replicas: usize, rule: Rule, requests: &[Offered]) -> (Vec<(f64, f64)>, u32) {
    let costs = Naive::new();
    let mut times = vec![(0.0, 0.0); requests.len()];
    let mut restarts = 0;
    for replica in 0..replicas {
        let asked: Vec<Asked> = requests
            .iter()
            .skip(replica)
            .step_by(replicas)
            .map(|offered| Asked {
                arrival: offered.request.arrival.as_ps() as f64 / 1e12,
                prompt: offered.request.prompt_tokens,
                output: offered.outcome.output_tokens,
            })
            .collect();
        let (of_replica, more) = costs.run(rule, asked);
        restarts += more;
        for (i, time) in of_replica.into_iter().enumerate() {
            times[replica + i * replicas] = time;
        }
    }
    (times, restarts)
}

#[test]
fn the_naive_rules_are_vidurs_rules() {
    for (rule, name) in [(Rule::Sarathi, "sarathi_r1_n1000_q4"), (Rule::Vllm, "vllm_r1_n1000_q4")] {
        let (found, expected) = (naive(1, rule, &offered(name)).0, published(name));
        let worst = found.iter().zip(&expected).map(|(a, b)| (a.0 - b.0).abs().max((a.1 - b.1).abs()));
        assert!(worst.fold(0.0, f64::max) < 1e-6, "{name}");
    }
}

#[test]
fn other_replicas_lengths_and_rates_end_when_vidurs_rules_say() {
    let mut cases = vec![(16, Rule::Sarathi, offered("requests_r16_n10000_q64"))];
    for (seed, replicas, rate, prompt, output) in [
        (1, 2, 7.0, 900, 300),
        (2, 5, 40.0, 300, 150),
        (3, 16, 90.0, 500, 200),
        (4, 64, 256.0, 1200, 220),
        (5, 3, 30.0, 60, 500),
    ] {
        let mut random = random::stream(seed, "other workloads");
        let mut now = 0.0;
        let requests: Vec<Offered> = (0..1500)
            .map(|id| {
                now -= (1.0 - random.random::<f64>()).ln() / rate;
                let lengths = (random.random_range(1..=2 * prompt), random.random_range(1..=2 * output));
                request(id, Time::ZERO + Span::from_secs_f64(now), lengths)
            })
            .collect();
        cases.push((replicas, Rule::Sarathi, requests.clone()));
        cases.push((replicas, Rule::Vllm, requests));
    }
    for (i, (replicas, rule, requests)) in cases.into_iter().enumerate() {
        assert_eq!(agrees(&format!("case {i}"), replicas, rule, requests), 0, "none of these contains a restart");
    }
}

/// Compares every request, and gives how many restarts there were.
fn agrees(case: &str, replicas: usize, rule: Rule, requests: Vec<Offered>) -> u32 {
    let (expected, restarts) = naive(replicas, rule, &requests);
    let found = simulated(replicas, rule, requests);
    let error = worst(&found.of, &expected);
    assert!(error < 1e-6, "{case}, {rule:?} on {replicas} replicas, {restarts} restarts: {error} s");
    assert_eq!(found.restarts, restarts, "{case}");
    restarts
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
    for (name, rule) in [("sarathi_r1_n1000_q4", Rule::Sarathi), ("vllm_r1_n1000_q4", Rule::Vllm)] {
        restarts += agrees("longer outputs", 1, rule, longer(name, 1, 2));
        restarts += agrees("longer prompts", 1, rule, longer(name, 2, 1));
    }
    let few: Vec<Offered> = offered("requests_r16_n10000_q64").into_iter().take(5000).collect();
    for rule in [Rule::Sarathi, Rule::Vllm] {
        restarts += agrees("half of the replicas", 8, rule, few.clone());
    }
    assert!(restarts > 30, "{restarts} restarts");
}

#[test]
fn importing_vidurs_tables_gives_the_profile_that_lies_here() {
    let tables = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/vidur/costs_llama2_7b_a100");
    if !tables.exists() {
        return println!("skipped: {} is not there", tables.display());
    }
    assert_eq!(Some(read_vidur_costs(&tables).unwrap()), profile().vidur);
}

/// A folder of small tables, under the names of Vidur's cache.
fn tables(change: impl Fn(&str, &mut Vec<String>)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let operations = ["input_layernorm", "attn_pre_proj", "attn_rope", "attn_post_proj", "post_attention_layernorm"];
    let more = ["mlp_up_proj", "mlp_act", "mlp_down_proj", "add", "attn_kv_cache_save"];
    let mut files: Vec<(&str, Vec<String>)> = Vec::new();
    for name in operations.into_iter().chain(more) {
        files.push((
            name,
            ["num_tokens,prediction".to_owned()].into_iter().chain((1..=16).map(|n| format!("{n},0.5"))).collect(),
        ));
    }
    let mut decode = vec!["batch_size,kv_cache_size,prediction".to_owned()];
    let mut prefill = vec!["kv_cache_size,prefill_chunk_size_squared,prediction".to_owned()];
    for context in [0, 64, 128] {
        decode.extend((1..=2).map(|rows| format!("{rows},{context},{}", rows + context)));
        prefill.extend((1..=16).map(|chunk| format!("{context},{},{}", chunk * chunk, if chunk < 9 { 1 } else { 2 })));
    }
    files.extend([("attn_decode", decode), ("attn_prefill", prefill)]);
    for (name, mut lines) in files {
        change(name, &mut lines);
        std::fs::write(folder.path().join(format!("{name}_871c8af8_predictions.csv")), lines.join("\n")).unwrap();
    }
    folder
}

#[test]
fn tables_are_read_under_the_names_of_vidurs_cache_and_holes_are_named() {
    let whole = read_vidur_costs(tables(|_, _| ()).path()).unwrap();
    assert_eq!(whole.decode[1], Steps { until: vec![0, 64, 128], ms: vec![2.0, 66.0, 130.0] });
    assert_eq!(whole.prefill, vec![Steps { until: vec![8, 16], ms: vec![1.0, 2.0] }; 3]);
    let hole = |file: &'static str, line: usize| {
        let folder = tables(|name, lines| {
            if name == file {
                lines.remove(line);
            }
        });
        read_vidur_costs(folder.path()).unwrap_err().to_string()
    };
    for (file, line, told) in [
        ("mlp_act", 5, "where num_tokens should be 5 it is 6"),
        ("attn_decode", 3, "where kv_cache_size should be 64 it is 128"),
        ("attn_prefill", 20, "where prefill_chunk_size_squared (its root) should be 4 it is 5"),
    ] {
        let error = hole(file, line);
        assert!(error.contains(told) && error.contains(file), "{error}");
    }
    let double = tables(|_, _| ());
    std::fs::write(double.path().join("add_00000000_predictions.csv"), "num_tokens,prediction\n1,1").unwrap();
    assert!(read_vidur_costs(double.path()).unwrap_err().to_string().contains("2 tables of `add`"));
}
