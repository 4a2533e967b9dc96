//! A real GPU behind the simulator's seam: the same scheduler drives it, idle time is skipped, and each step takes what it took.
//!
//! The engine knows requests and adapters; a GPU knows tokens, KV blocks and slots. [`RealExecutor`] keeps the books between them: blocks by
//! request, handed out as slices grow, and slots by adapter, filled by real copies that begin when the engine's loads begin. What ended, was
//! preempted or made room it hears from the facts ([`Hearing`]), like everybody else.

mod blocks;
pub mod gpu;
mod slots;
pub mod steps;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;

use aril_sim::batch::{Batch, CostModel, Coverage, Executor, Prefill, Price, Segment};
use aril_sim::fact::{Fact, Observer, Tier};
use aril_sim::time::{Span, Time};
use aril_sim::workload::{AdapterId, RequestId};
use serde::Serialize;

use crate::machine::MachineError;
use blocks::Blocks;
use slots::Slots;

/// A model that computes steps: a GPU, or a stand-in in tests.
pub trait Stepper {
    /// What it can hold.
    fn room(&self) -> Room;

    /// Starts copying the weights of an adapter of this rank into a slot, beside whatever runs.
    ///
    /// # Errors
    /// When the machine fails.
    fn begin_load(&mut self, slot: u32, rank: u32) -> Result<(), MachineError>;

    /// Waits for the copy into a slot; microseconds that it took.
    ///
    /// # Errors
    /// When the machine fails.
    fn finish_load(&mut self, slot: u32) -> Result<f64, MachineError>;

    /// Computes a step.
    ///
    /// # Errors
    /// When the machine fails.
    fn step(&mut self, parts: &[Part<'_>]) -> Result<Computed, MachineError>;
}

/// What a step gave.
#[derive(Clone, Debug, PartialEq)]
pub struct Computed {
    /// What it took, microseconds: from call to return, without what it made.
    pub us: f64,
    /// The GPU's part of that, microseconds.
    pub device_us: f64,
    /// What it spent on things that are kept and that warming up had not met, microseconds: kernels compiled, products timed, plans loaded,
    /// graphs captured.
    pub made_us: f64,
    /// The next token of each part that asks.
    pub tokens: Vec<u32>,
}

/// What a stepper can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// KV blocks.
    pub kv_blocks: u32,
    /// Tokens of a block.
    pub block_tokens: u32,
    /// Adapter slots.
    pub slots: u32,
    /// The largest rank of an adapter.
    pub rank_max: u32,
    /// Different tokens.
    pub vocab: u32,
}

/// One sequence's part of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part<'a> {
    /// New tokens.
    pub tokens: &'a [u32],
    /// Tokens before them, whose keys and values are in the blocks.
    pub prefix: u32,
    /// Its blocks, in order.
    pub blocks: &'a [u32],
    /// The slot of its adapter.
    pub slot: Option<u32>,
    /// Is the next token wanted?
    pub sample: bool,
}

/// A step that was really computed.
#[derive(Clone, Debug, PartialEq)]
pub struct RealStep {
    /// Decode rows.
    pub decode_rows: u32,
    /// Sum of their contexts.
    pub context_sum: u64,
    /// The longest of them.
    pub context_max: u32,
    /// Prompts, or parts of them.
    pub prompts: Vec<Prefill>,
    /// Adapters.
    pub segments: Vec<Segment>,
    /// How long the GPU had computed nothing before it, microseconds, by the clock of the run.
    pub rested_us: f64,
    /// What it took, microseconds, without what it made.
    pub us: f64,
    /// The GPU's part of that, microseconds.
    pub device_us: f64,
    /// What it spent on things that are kept, microseconds: no part of its duration.
    pub made_us: f64,
    /// What a cost model says of the same batch, microseconds.
    pub modelled_us: f64,
}

/// A copy that really happened.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RealLoad {
    /// The rank of the adapter.
    pub rank: u32,
    /// What it took, microseconds.
    pub us: f64,
    /// Did the engine announce it, or did a step find its adapter missing?
    pub announced: bool,
}

/// What a real run did, to be read when it is over.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Log {
    /// Every step, in order.
    pub steps: Vec<RealStep>,
    /// Every copy, in the order in which they were over.
    pub loads: Vec<RealLoad>,
    /// Why the machine gave up, if it did; no step after that was computed.
    pub failure: Option<String>,
}

impl Log {
    /// What was made in the middle of the run.
    pub fn made(&self) -> Made {
        let us = self.steps.iter().map(|step| step.made_us);
        Made { steps: us.clone().filter(|us| *us > 0.0).count(), seconds: us.sum::<f64>() * 1e-6 }
    }
}

/// What warming up had not met, so that steps made it and kept it; as text, what a reader must know of that.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Made {
    /// Steps that made something.
    #[serde(rename = "made")]
    pub steps: usize,
    /// What they spent on it, seconds: no part of their durations.
    #[serde(rename = "made_s")]
    pub seconds: f64,
}

impl fmt::Display for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Made { steps, seconds } = self;
        match steps {
            0 => write!(f, "every kernel, plan and graph was there before the first step"),
            _ => write!(
                f,
                "{steps} steps made kernels, plans or graphs that warming up had not met: {:.1} ms, no part of their durations",
                seconds * 1e3
            ),
        }
    }
}

/// Something that an executor must hear of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    /// Its keys and values are needed no more.
    Gone(RequestId),
    /// A copy to the GPU began.
    Load(AdapterId),
    /// An adapter left the GPU.
    Evicted(AdapterId),
}

/// The facts that an executor needs, between the engine's observer and the executor.
#[derive(Clone, Debug, Default)]
pub struct Hearing(Rc<RefCell<Vec<Heard>>>);

impl Observer for Hearing {
    fn observe(&mut self, _: Time, fact: &Fact<'_>) {
        let heard = match fact {
            Fact::Ended(life) => Heard::Gone(life.offered.request.id),
            Fact::Preempted { request, .. } | Fact::Migrated { request, .. } => Heard::Gone(*request),
            Fact::LoadStarted { adapter, from: Tier::Host, .. } => Heard::Load(*adapter),
            Fact::Evicted { adapter, tier: Tier::Gpu, .. } => Heard::Evicted(*adapter),
            _ => return,
        };
        self.0.borrow_mut().push(heard);
    }
}

/// Drives a [`Stepper`] by what the engine asks of an executor.
pub struct RealExecutor<S> {
    stepper: S,
    hearing: Hearing,
    model: Box<dyn CostModel>,
    /// Rank of each adapter, by id.
    ranks: Vec<u32>,
    blocks: Blocks,
    slots: Slots,
    /// The last token of each request that has one.
    last: BTreeMap<RequestId, u32>,
    log: Rc<RefCell<Log>>,
}

/// A step that cannot be computed any more takes so long: the run ends soon, and its log says why.
const GIVEN_UP: Span = Span::from_ps(1_000_000_000_000);

impl<S: Stepper> RealExecutor<S> {
    /// An executor, the facts it must hear, and its log. `model` prices every batch beside the real step.
    pub fn new(stepper: S, model: Box<dyn CostModel>, ranks: Vec<u32>) -> (RealExecutor<S>, Hearing, Rc<RefCell<Log>>) {
        let (hearing, log) = (Hearing::default(), Rc::new(RefCell::new(Log::default())));
        let room = stepper.room();
        let executor = RealExecutor {
            blocks: Blocks::new(room.kv_blocks, room.block_tokens),
            slots: Slots::new(room.slots),
            stepper,
            hearing: hearing.clone(),
            model,
            ranks,
            last: BTreeMap::new(),
            log: log.clone(),
        };
        (executor, hearing, log)
    }

    fn compute(&mut self, batch: &Batch<'_>) -> Result<Price, MachineError> {
        self.hear()?;
        let slots: Vec<Option<u32>> = batch
            .slices
            .iter()
            .map(|slice| slice.adapter.map(|adapter| self.slot(adapter, batch)).transpose())
            .collect::<Result<_, _>>()?;
        let vocab = self.stepper.room().vocab;
        let mut tokens = Vec::new();
        for slice in batch.slices {
            self.blocks.grow(slice.request, slice.context_before + slice.tokens).map_err(MachineError::Failed)?;
            let decode = (!slice.prefill).then(|| self.last.get(&slice.request).copied()).flatten();
            let drawn = (0..slice.tokens).map(|n| draw(slice.request, slice.context_before + n, vocab));
            tokens.push(decode.map_or_else(|| drawn.collect::<Vec<u32>>(), |token| vec![token]));
        }
        let parts: Vec<Part<'_>> = batch
            .slices
            .iter()
            .zip(&tokens)
            .zip(&slots)
            .map(|((slice, tokens), slot)| Part {
                tokens,
                prefix: slice.context_before,
                blocks: self.blocks.of(slice.request),
                slot: *slot,
                sample: slice.emits,
            })
            .collect();
        let Computed { us, device_us, made_us, tokens: sampled } = self.stepper.step(&parts)?;
        let emits = batch.slices.iter().filter(|slice| slice.emits);
        emits.zip(sampled).for_each(|(slice, token)| {
            self.last.insert(slice.request, token);
        });
        let shape = &batch.shape;
        let modelled = self.model.price(shape);
        self.log.borrow_mut().steps.push(RealStep {
            decode_rows: shape.decode_rows(),
            context_sum: shape.decode_context_sum,
            context_max: shape.decode_context_max,
            prompts: shape.prefills.to_vec(),
            segments: shape.segments.to_vec(),
            rested_us: shape.rested.as_secs_f64() * 1e6,
            us,
            device_us,
            made_us,
            modelled_us: modelled.first.as_secs_f64() * 1e6,
        });
        let took = Span::from_secs_f64(us * 1e-6).max(Span::from_ps(1));
        // What the model says of the GPU's clocks is all that anybody can say of them here.
        Ok(Price { sag: modelled.sag, ..Price::once(took) })
    }

    /// Does what was heard since the last step.
    fn hear(&mut self) -> Result<(), MachineError> {
        let heard: Vec<Heard> = self.hearing.0.borrow_mut().drain(..).collect();
        for heard in heard {
            match heard {
                Heard::Gone(request) => {
                    self.blocks.free(request);
                    self.last.remove(&request);
                }
                Heard::Evicted(adapter) => {
                    if let Some(slot) = self.slots.loading(adapter) {
                        self.finish(slot, adapter, true)?;
                    }
                    self.slots.remove(adapter);
                }
                Heard::Load(adapter) => {
                    if self.slots.get(adapter).is_none() {
                        self.begin(adapter, &[])?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The slot of an adapter that a step needs; a copy that is under way is waited for, and one that nobody announced is made now.
    fn slot(&mut self, adapter: AdapterId, batch: &Batch<'_>) -> Result<u32, MachineError> {
        let announced = self.slots.get(adapter).is_some();
        let slot = match self.slots.get(adapter) {
            Some(slot) => slot,
            None => {
                let needed: Vec<AdapterId> = batch.slices.iter().filter_map(|slice| slice.adapter).collect();
                self.begin(adapter, &needed)?
            }
        };
        if self.slots.loading(adapter).is_some() {
            self.finish(slot, adapter, announced)?;
        }
        self.slots.used(adapter);
        Ok(slot)
    }

    fn begin(&mut self, adapter: AdapterId, needed: &[AdapterId]) -> Result<u32, MachineError> {
        let rank = self.rank(adapter);
        // One that is still on its way is never given away.
        let slot = self.slots.take(adapter, needed).ok_or_else(|| {
            MachineError::Failed("more adapters are needed at once than there are slots on the GPU".to_owned())
        })?;
        self.stepper.begin_load(slot, rank)?;
        Ok(slot)
    }

    fn finish(&mut self, slot: u32, adapter: AdapterId, announced: bool) -> Result<(), MachineError> {
        let us = self.stepper.finish_load(slot)?;
        self.slots.loaded(adapter);
        self.log.borrow_mut().loads.push(RealLoad { rank: self.rank(adapter), us, announced });
        Ok(())
    }

    fn rank(&self, adapter: AdapterId) -> u32 {
        self.ranks.get(adapter.index()).copied().unwrap_or(1)
    }
}

impl<S: Stepper> Executor for RealExecutor<S> {
    fn run(&mut self, batch: &Batch<'_>) -> Price {
        if self.log.borrow().failure.is_some() {
            return Price::once(GIVEN_UP);
        }
        match self.compute(batch) {
            Ok(price) => price,
            Err(error) => {
                self.log.borrow_mut().failure = Some(error.to_string());
                Price::once(GIVEN_UP)
            }
        }
    }

    fn coverage(&self) -> Coverage {
        self.model.coverage()
    }
}

/// A token of a prompt: the same for the same request and position.
fn draw(request: RequestId, position: u32, vocab: u32) -> u32 {
    let mut state = u64::from(request.0).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        ^ u64::from(position).wrapping_mul(0xd1b5_4a32_d192_ed03);
    state ^= state >> 29;
    state = state.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    ((state >> 33) % u64::from(vocab.max(1))) as u32
}
