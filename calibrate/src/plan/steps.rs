//! Whole steps: on a grid for people, at random for the fit and for judging it; and what the host adds.

use aril_sim::profile::lora::LoraKernel;
use aril_sim::random::{self, Stream};
use rand::RngExt;

use super::Draft;
use super::adapters::{Popularity, even};
use crate::machine::{AdapterRows, Prompt, Question, StepShape};

const OURS: LoraKernel = LoraKernel::Segmented;

pub(super) fn plan(draft: &mut Draft, seed: u64) {
    grid(draft);
    curve(draft);
    added(draft);
    behind(draft);
    served(draft);
    at_random(draft, seed);
}

/// The steps that people quote: the paper's points, powers of two, prompts alone.
fn grid(draft: &mut Draft) {
    let mut ask = |stage, kernel, shape: StepShape| {
        draft.ask(stage, Question::Step { kernel, shape: shape.clone() });
        draft.ask(stage, Question::Host { kernel, shape });
    };
    for (rows, context) in [(1, 128), (32, 128), (1, 2048), (32, 2048)] {
        let shape = StepShape::decode(rows, context);
        ask(1, LoraKernel::None, shape.clone());
        ask(1, OURS, shape.clone());
        ask(1, OURS, shape.with_adapters(16, &vec![1; rows as usize]));
    }
    // One adapter on one row: the fixed cost of LoRA.
    for rows in [1, 8, 32, 128] {
        ask(1, OURS, StepShape::decode(rows, 512).with_adapters(16, &[1]));
        ask(1, OURS, StepShape::decode(rows, 512));
        ask(1, LoraKernel::None, StepShape::decode(rows, 512));
    }
    for rows in [1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512] {
        for context in [128, 1024, 4096] {
            ask(2, LoraKernel::None, StepShape::decode(rows, context));
        }
    }
    for (index, chunk) in [16, 64, 128, 256, 512, 1024, 2048, 4096, 8192].into_iter().enumerate() {
        ask(if index % 2 == 0 { 1 } else { 2 }, LoraKernel::None, StepShape::prompt(chunk, 0));
        for prefix in [1024, 8192, 30_000] {
            ask(2, LoraKernel::None, StepShape::prompt(chunk, prefix));
        }
    }
}

/// The curve over the number of adapters: 128 and 256 rows, shared by 0 to 256 adapters.
fn curve(draft: &mut Draft) {
    for rows in [64, 256] {
        draft.ask(1, Question::Step { kernel: LoraKernel::None, shape: StepShape::decode(rows, 256) });
        draft.ask(1, Question::Step { kernel: OURS, shape: StepShape::decode(rows, 256) });
        for (index, adapters) in [1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 192, 256].into_iter().enumerate() {
            if adapters <= rows {
                let shape = StepShape::decode(rows, 256).with_adapters(16, &even(rows, adapters));
                draft.ask(if index % 2 == 0 { 1 } else { 2 }, Question::Step { kernel: OURS, shape });
            }
        }
    }
}

/// What adapters add: to few rows, beside whose products they run, to many, and to prompts. No other step has these contexts.
fn added(draft: &mut Draft) {
    use Popularity::{Distinct, Identical, Skewed, Uniform};
    let few = [(16, Distinct), (16, Identical), (8, Distinct), (64, Distinct), (16, Skewed)];
    let many = [(16, Distinct), (16, Identical), (16, Uniform), (8, Distinct), (64, Uniform)];
    let mut ask = |stage, shape| draft.ask(stage, Question::Added { shape });
    for (rows, context, kinds) in [1, 2, 4, 8, 16, 24, 32]
        .map(|rows| (rows, 400, few))
        .into_iter()
        .chain([64, 128, 256].map(|rows| (rows, 100, many)))
    {
        for (index, (rank, popularity)) in kinds.into_iter().enumerate() {
            let shape = StepShape::decode(rows, context).with_adapters(rank, &popularity.rows(rows));
            ask(if index < 2 { 1 } else { 2 }, shape);
        }
    }
    for (chunk, rows) in [64, 256, 1024].into_iter().flat_map(|chunk| [0, 8, 24].map(|rows| (chunk, rows))) {
        let beside = if rows > 0 { StepShape::decode(rows, 400) } else { StepShape::default() };
        let mut shape = StepShape { prompts: StepShape::prompt(chunk, 0).prompts, ..beside };
        shape = shape.with_adapters(16, &Distinct.rows(rows));
        shape.adapters.push(AdapterRows { rank: 16, decode: 0, prompts: 1 });
        ask(if rows == 8 { 1 } else { 2 }, shape);
    }
}

/// What prompts leave behind: short ones and long ones, alone and in a row, for few rows and for many.
fn behind(draft: &mut Draft) {
    for (chunk, times) in [(256, 1), (512, 4), (1024, 1), (1024, 4), (4096, 1), (4096, 2)] {
        for shape in [StepShape::decode(8, 1024), StepShape::decode(32, 512)] {
            draft.ask(1, Question::Behind { prompts: StepShape::prompt(chunk, 0), times, shape });
        }
    }
}

/// A run of a few seconds, with pauses and without: an adapter for every two sequences, and a prompt now and then.
fn served(draft: &mut Draft) {
    let pairs = |shape: StepShape| {
        let adapters = vec![2; (shape.decode_rows() / 2) as usize];
        shape.with_adapters(16, &adapters)
    };
    let decode = [8, 16, 32].map(|rows| pairs(StepShape::decode(rows, 512)));
    let mixed = [(8, 128), (24, 256), (8, 512), (24, 512), (8, 1024), (24, 2048)].map(|(rows, chunk)| {
        let mut shape =
            pairs(StepShape { prompts: StepShape::prompt(chunk, 0).prompts, ..StepShape::decode(rows, 512) });
        shape.adapters.push(AdapterRows { rank: 16, decode: 0, prompts: 1 });
        shape
    });
    let shapes: Vec<StepShape> = decode.into_iter().chain(mixed).collect();
    for pauses in [false, true] {
        draft.ask(1, Question::Served { shapes: shapes.clone(), steps: 400, pauses });
    }
}

/// Steps as serving meets them, decode, prefill and mixed, with and without adapters.
fn at_random(draft: &mut Draft, seed: u64) {
    let mut random = random::stream(seed, "calibration steps");
    for index in 0..260 {
        let stage = match index {
            0..90 => 1,
            90..180 => 2,
            _ => 3,
        };
        let bare = step(&mut random, index % 3, draft.limits.kv_tokens);
        let kernel = if index % 2 == 0 { LoraKernel::None } else { OURS };
        let shape = if kernel == OURS { with_adapters(&mut random, bare) } else { bare };
        if index % 5 == 0 {
            draft.ask(stage, Question::Host { kernel, shape: shape.clone() });
        }
        draft.ask(stage, Question::Step { kernel, shape });
    }
}

/// Decode rows, prompts, or both.
fn step(random: &mut Stream, kind: usize, kv_tokens: u32) -> StepShape {
    let mut shape = StepShape::default();
    if kind != 1 {
        let rows = log_uniform(random, 1, 512);
        let mean = log_uniform(random, 32, (kv_tokens / 2 / rows).clamp(33, 8192));
        shape = StepShape::ragged(&ragged(random, rows, mean));
    }
    if kind != 0 {
        for _ in 0..random.random_range(1..4) {
            let chunk = log_uniform(random, 16, if kind == 1 { 4096 } else { 1024 });
            let prefix = if random.random_bool(0.6) { 0 } else { log_uniform(random, 16, 12_000) };
            shape.prompts.push(Prompt { chunk, prefix });
        }
    }
    shape
}

/// Adapters on most rows and prompts, by one of the popularities or at random, of one rank or of mixed ones.
fn with_adapters(random: &mut Stream, mut shape: StepShape) -> StepShape {
    let rows = shape.decode_rows();
    let used = rows - rows / 10;
    let shares = if used == 0 {
        Vec::new()
    } else {
        match random.random_range(0..5) {
            4 => even(used, log_uniform(random, 1, used)),
            which => Popularity::ALL[which].rows(used),
        }
    };
    let mixed = shares.len() <= 24 && random.random_bool(0.4);
    let ranks: &[u32] = if mixed { &[8, 16, 32, 64, 128] } else { &[8, 16] };
    let single = ranks[random.random_range(0..2)];
    let rank = |random: &mut Stream| if mixed { ranks[random.random_range(0..ranks.len())] } else { single };
    for decode in shares {
        let rank = rank(random);
        shape.adapters.push(AdapterRows { rank, decode, prompts: 0 });
    }
    for _ in 0..shape.prompts.len() {
        let rank = rank(random);
        shape.adapters.push(AdapterRows { rank, decode: 0, prompts: 1 });
    }
    shape
}

/// Contexts that differ by a factor of up to eight around their mean, or a few long ones among short ones.
pub(super) fn ragged(random: &mut Stream, rows: u32, mean: u32) -> Vec<u32> {
    let few_long = random.random_bool(0.25);
    let mean = f64::from(mean);
    let mut contexts: Vec<u32> = (0..rows)
        .map(|_| {
            let u: f64 = random.random();
            let context = if few_long && u < 0.1 { mean * 4.0 } else { mean * 8f64.powf(u - 0.5) * 0.9 };
            (context.round() as u32).max(1)
        })
        .collect();
    // In runs: what is equal is written once.
    contexts.sort_unstable();
    contexts
}

pub(super) fn log_uniform(random: &mut Stream, low: u32, high: u32) -> u32 {
    let (low, high) = (f64::from(low).ln(), f64::from(high.max(low + 1)).ln());
    let u: f64 = random.random();
    (low + (high - low) * u).exp().round() as u32
}
