//! The paper's text generation benchmark, stepped by the batching rule of each system.
//!
//! All requests are queued at once, first come first served, at most 32 in a batch. This is what the fit needs and no more: the
//! engine runs the same benchmark with its own schedulers.

use aril_sim::batch::{BatchShape, CostModel, Prefill, Price, Sag, Segment, SegmentSums};
use aril_sim::time::Span;

use super::System;
use crate::error::CalibrateError;

/// Sequences in a batch at most: the paper's, for all systems.
const MAX_BATCH: usize = 32;
/// The rank of every adapter of the benchmark.
const RANK: u32 = 16;

/// How do requests share adapters?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Popularity {
    /// Each has its own.
    Distinct,
    /// The square root of their number, equally.
    Uniform,
    /// A geometric series of ratio 1.5.
    Skewed,
    /// All have one.
    Identical,
}

impl Popularity {
    /// All four, in the order of the paper's table.
    pub const ALL: [Popularity; 4] =
        [Popularity::Distinct, Popularity::Uniform, Popularity::Skewed, Popularity::Identical];
}

/// How does a system compose its batches?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Batching {
    /// Consecutive requests of one adapter, padded to the longest and run until the longest is done.
    Static,
    /// A request joins when it is next and has the adapter of the batch; its prefill is a step of its own.
    SameAdapter,
    /// A request joins when it is next, its prefill together with the decode rows.
    /// With `one_segment` every row counts for the adapter of the last request that joined: a fault of the benchmark.
    Any {
        /// Is the fault in it?
        one_segment: bool,
    },
}

impl System {
    /// As the published benchmark ran it.
    pub const fn batching(self) -> Batching {
        match self {
            System::Hf | System::Deepspeed | System::Fastertransformer => Batching::Static,
            System::Vllm => Batching::SameAdapter,
            System::Punica => Batching::Any { one_segment: true },
        }
    }
}

/// One request of the benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextgenRequest {
    /// Length of its prompt.
    pub prompt_tokens: u32,
    /// Tokens that it generates.
    pub output_tokens: u32,
    /// Its adapter under each popularity.
    pub adapters: [u32; 4],
}

/// What a run took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Run {
    /// Forward passes.
    pub steps: u64,
    /// Sequences, summed over them.
    pub sequence_steps: u64,
    /// Their time.
    pub span: Span,
}

/// Reads the requests: columns `request,prompt_tokens,output_tokens` and the four adapters, with a header.
///
/// # Errors
/// With the line that is damaged.
pub fn read_requests(origin: &str, csv: &str) -> Result<Vec<TextgenRequest>, CalibrateError> {
    let lines = csv.lines().enumerate().skip(1).filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(index, line)| {
            let cells: Result<Vec<u32>, _> = line.split(',').map(|cell| cell.trim().parse()).collect();
            match cells.as_deref() {
                Ok(&[_, prompt_tokens, output_tokens, a, b, c, d]) if prompt_tokens > 0 && output_tokens > 0 => {
                    Ok(TextgenRequest { prompt_tokens, output_tokens, adapters: [a, b, c, d] })
                }
                _ => Err(CalibrateError::Text {
                    origin: origin.to_owned(),
                    line: index + 1,
                    column: 1,
                    message: "seven whole numbers are needed, lengths above zero".to_owned(),
                }),
            }
        })
        .collect()
}

/// Prompt and output tokens of all requests.
pub fn total_tokens(requests: &[TextgenRequest]) -> u64 {
    requests.iter().map(|request| u64::from(request.prompt_tokens) + u64::from(request.output_tokens)).sum()
}

/// The context of a decode row, averaged over all decode rows of all requests.
pub fn mean_context(requests: &[TextgenRequest]) -> u32 {
    let (mut rows, mut tokens) = (0_u64, 0_u64);
    for request in requests {
        let (prompt, decodes) = (u64::from(request.prompt_tokens), u64::from(request.output_tokens - 1));
        rows += decodes;
        tokens += decodes * prompt + decodes * (decodes + 1) / 2;
    }
    (tokens / rows.max(1)) as u32
}

/// A cost model in which nothing takes time: for counting steps.
#[derive(Clone, Copy, Debug)]
pub struct Counting;

impl CostModel for Counting {
    fn price(&mut self, _: &BatchShape<'_>) -> Price {
        Price::lasting(Span::ZERO, u32::MAX)
    }
}

/// Runs all requests.
pub fn run(requests: &[TextgenRequest], popularity: Popularity, batching: Batching, cost: &mut impl CostModel) -> Run {
    let mut stepper = Stepper { run: Run::default(), cost };
    match batching {
        Batching::Static => stepper.run_static(requests, popularity),
        Batching::SameAdapter => stepper.run_continuous(requests, popularity, true, false),
        Batching::Any { one_segment } => stepper.run_continuous(requests, popularity, false, one_segment),
    }
    stepper.run
}

struct Stepper<'a, C> {
    run: Run,
    cost: &'a mut C,
}

/// A request in the batch.
struct Member {
    adapter: u32,
    /// Tokens that its next row attends to, itself included.
    context: u32,
    /// Tokens still to come.
    left: u32,
}

impl<C: CostModel> Stepper<'_, C> {
    fn run_static(&mut self, requests: &[TextgenRequest], popularity: Popularity) {
        let same =
            |a: &TextgenRequest, b: &TextgenRequest| a.adapters[popularity as usize] == b.adapters[popularity as usize];
        for group in requests.chunk_by(same).flat_map(|group| group.chunks(MAX_BATCH)) {
            let rows = group.len() as u32;
            let prompt = group.iter().map(|request| request.prompt_tokens).max().unwrap_or(0);
            let output = group.iter().map(|request| request.output_tokens).max().unwrap_or(0);
            let prefills = vec![Prefill { chunk: prompt, prefix: 0 }; group.len()];
            self.step(&[], &prefills, &[Segment { rank: RANK, prefill_rows: rows * prompt, decode_rows: 0 }], 1);
            let segment = [Segment { rank: RANK, prefill_rows: 0, decode_rows: rows }];
            let mut contexts = vec![prompt + 1; group.len()];
            let mut left = output - 1;
            while left > 0 {
                let steps = self.step(&contexts, &[], &segment, left);
                left -= steps;
                contexts.iter_mut().for_each(|context| *context += steps);
            }
        }
    }

    fn run_continuous(
        &mut self,
        requests: &[TextgenRequest],
        popularity: Popularity,
        one_adapter: bool,
        one_segment: bool,
    ) {
        let mut queue = requests.iter().peekable();
        let mut members: Vec<Member> = Vec::new();
        let mut last_adapter = 0;
        while queue.peek().is_some() || !members.is_empty() {
            let joins = |request: &&TextgenRequest| {
                let adapter = request.adapters[popularity as usize];
                members.len() < MAX_BATCH
                    && (!one_adapter || members.first().is_none_or(|first| first.adapter == adapter))
            };
            let joined = queue.next_if(joins);
            if let Some(request) = joined {
                last_adapter = request.adapters[popularity as usize];
            }
            // A separate prefill leaves the decode rows waiting.
            let decoding: &[Member] = if one_adapter && joined.is_some() { &[] } else { &members };
            let contexts: Vec<u32> = decoding.iter().map(|member| member.context).collect();
            let prefills: Vec<_> =
                joined.iter().map(|request| Prefill { chunk: request.prompt_tokens, prefix: 0 }).collect();
            let rows = decoding.iter().map(|member| (if one_segment { last_adapter } else { member.adapter }, 0, 1));
            let prompt = joined.iter().map(|request| (last_adapter, request.prompt_tokens, 0));
            let segments = segments(rows.chain(prompt));
            let stays = !joins_later(&queue.peek().copied(), &members, popularity, one_adapter);
            let limit = match members.iter().map(|member| member.left).min() {
                Some(left) if joined.is_none() && stays => left,
                _ => 1,
            };
            let steps = self.step(&contexts, &prefills, &segments, limit);
            if !contexts.is_empty() {
                for member in &mut members {
                    member.context += steps;
                    member.left -= steps;
                }
            }
            if let Some(request) = joined {
                members.push(Member {
                    adapter: last_adapter,
                    context: request.prompt_tokens + 1,
                    left: request.output_tokens - 1,
                });
            }
            members.retain(|member| member.left > 0);
        }
    }

    /// Runs at most `limit` equal steps and returns how many.
    fn step(&mut self, contexts: &[u32], prefills: &[Prefill], segments: &[Segment], limit: u32) -> u32 {
        let price = self.cost.price(&BatchShape {
            decode_contexts: contexts,
            decode_context_sum: contexts.iter().map(|&context| u64::from(context)).sum(),
            decode_context_max: contexts.iter().copied().max().unwrap_or(0),
            prefills,
            segments,
            segment_sums: SegmentSums::of(segments),
            census: None,
            lora_slots: 0,
            lora_rank_max: RANK,
            copies_in_flight: false,
            sag: Sag::NONE,
            rested: Span::ZERO,
        });
        let steps = price.steps.min(limit);
        self.run.steps += u64::from(steps);
        self.run.sequence_steps += u64::from(steps) * (contexts.len() + prefills.len()) as u64;
        self.run.span += price.sum(steps);
        steps
    }
}

/// Would the next request join a batch of these members?
fn joins_later(next: &Option<&TextgenRequest>, members: &[Member], popularity: Popularity, one_adapter: bool) -> bool {
    next.is_some_and(|request| {
        let adapter = request.adapters[popularity as usize];
        members.len() < MAX_BATCH && (!one_adapter || members.first().is_none_or(|first| first.adapter == adapter))
    })
}

/// Rows by adapter: (adapter, prefill rows, decode rows).
fn segments(rows: impl Iterator<Item = (u32, u32, u32)>) -> Vec<Segment> {
    let mut rows: Vec<_> = rows.collect();
    rows.sort_unstable();
    rows.chunk_by(|a, b| a.0 == b.0)
        .map(|group| Segment {
            rank: RANK,
            prefill_rows: group.iter().map(|row| row.1).sum(),
            decode_rows: group.iter().map(|row| row.2).sum(),
        })
        .collect()
}
