//! A real executor keeps the books between requests and a machine: seen on a machine that only counts.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use aril_calibrate::executor::{Computed, Part, RealExecutor, Room, Stepper};
use aril_calibrate::find;
use aril_calibrate::jitter::Jittered;
use aril_calibrate::machine::{MachineError, StepShape};
use aril_calibrate::probe::Shape;
use aril_sim::batch::{Batch, Executor, Modelled, Sag, Slice};
use aril_sim::cost::CompiledCost;
use aril_sim::fact::{Fact, LoadCause, Observer, Tier};
use aril_sim::profile::lora::LoraKernel;
use aril_sim::profile::{Profile, Spread};
use aril_sim::time::Time;
use aril_sim::workload::{AdapterId, ReplicaId, RequestId};

/// What a step was given: tokens, prefix, blocks, slot.
type Given = (Vec<u32>, u32, Vec<u32>, Option<u32>);

#[derive(Default)]
struct Seen {
    steps: Vec<Vec<Given>>,
    loads: Vec<(u32, u32, bool)>,
}

/// A machine whose steps take a microsecond a part, and whose next token is the last plus one.
struct Counting(Rc<RefCell<Seen>>, Room, BTreeMap<u32, u32>);

impl Stepper for Counting {
    fn room(&self) -> Room {
        self.1
    }

    fn begin_load(&mut self, slot: u32, rank: u32) -> Result<(), MachineError> {
        assert!(self.2.insert(slot, rank).is_none(), "slot {slot} is still being filled");
        self.0.borrow_mut().loads.push((slot, rank, false));
        Ok(())
    }

    fn finish_load(&mut self, slot: u32) -> Result<f64, MachineError> {
        let rank = self.2.remove(&slot).expect("a copy is on its way");
        self.0.borrow_mut().loads.push((slot, rank, true));
        Ok(f64::from(rank) * 10.0)
    }

    fn step(&mut self, parts: &[Part<'_>]) -> Result<Computed, MachineError> {
        for part in parts {
            let needed = (part.prefix + part.tokens.len() as u32).div_ceil(self.1.block_tokens);
            assert!(part.blocks.len() as u32 >= needed, "{part:?}");
            assert!(part.slot.is_none_or(|slot| !self.2.contains_key(&slot)), "a step beside its own load");
        }
        let given = parts.iter().map(|p| (p.tokens.to_vec(), p.prefix, p.blocks.to_vec(), p.slot)).collect();
        self.0.borrow_mut().steps.push(given);
        let tokens = parts.iter().filter(|p| p.sample).map(|p| p.tokens[p.tokens.len() - 1] + 1).collect();
        Ok(Computed { us: parts.len() as f64, device_us: 0.75, made_us: 0.5, tokens })
    }
}

fn profile() -> Profile {
    find("derived-h200-llama-2-7b").unwrap().profile().unwrap()
}

fn cost() -> CompiledCost {
    CompiledCost::compile(&profile(), LoraKernel::Sgmv).unwrap()
}

fn slice(request: u32, adapter: Option<u32>, context_before: u32, tokens: u32) -> Slice {
    Slice {
        request: RequestId(request),
        adapter: adapter.map(AdapterId),
        context_before,
        tokens,
        prefill: context_before == 0,
        emits: true,
    }
}

fn run(executor: &mut dyn Executor, slices: &[Slice]) -> f64 {
    let shape = Shape::decode(1, 1);
    let batch = Batch { replica: ReplicaId(0), slices, shape: shape.view() };
    executor.run(&batch).first.as_secs_f64() * 1e6
}

#[test]
fn blocks_grow_with_a_request_and_tokens_follow_from_what_was_sampled() {
    let seen = Rc::new(RefCell::new(Seen::default()));
    let room = Room { kv_blocks: 4, block_tokens: 16, slots: 2, rank_max: 64, vocab: 1000 };
    let (mut executor, mut hearing, log) =
        RealExecutor::new(Counting(seen.clone(), room, BTreeMap::new()), Box::new(cost()), vec![8, 16, 32]);
    let us = run(&mut executor, &[slice(1, None, 0, 16), slice(2, None, 0, 3)]);
    assert!((us - 2.0).abs() < 1e-6, "the measured span is the step's duration");
    run(&mut executor, &[slice(1, None, 16, 1), slice(2, None, 3, 1)]);
    {
        let seen = seen.borrow();
        let (first, second) = (&seen.steps[0], &seen.steps[1]);
        assert_eq!(second[0].0, [first[0].0[15] + 1], "a decode row computes the token that was sampled");
        assert_eq!((first[0].2.len(), second[0].2.len(), second[1].2.len()), (1, 2, 1));
        assert_eq!(second[0].2[0], first[0].2[0], "blocks stay where they are");
        assert!(!second[0].2.contains(&second[1].2[0]));
    }
    // Preempted: its blocks are free, and it begins again.
    let fact = Fact::Preempted { request: RequestId(1), replica: ReplicaId(0), blocks: 2, cut: 0 };
    hearing.observe(Time::ZERO, &fact);
    run(&mut executor, &[slice(3, None, 0, 48)]);
    assert_eq!(log.borrow().failure, None);
    run(&mut executor, &[slice(1, None, 0, 17)]);
    assert!(log.borrow().failure.as_ref().unwrap().contains("KV"), "four blocks hold no more");
    assert_eq!(log.borrow().steps.len(), 3);
}

#[test]
fn adapters_are_copied_when_the_engine_says_so_and_waited_for_when_a_step_needs_them() {
    let seen = Rc::new(RefCell::new(Seen::default()));
    let room = Room { kv_blocks: 64, block_tokens: 16, slots: 2, rank_max: 64, vocab: 1000 };
    let (mut executor, mut hearing, log) =
        RealExecutor::new(Counting(seen.clone(), room, BTreeMap::new()), Box::new(cost()), vec![8, 16, 32]);
    let started = |adapter: u32| Fact::LoadStarted {
        replica: ReplicaId(0),
        adapter: AdapterId(adapter),
        from: Tier::Host,
        bytes: 1,
        cause: LoadCause::Demand,
        start: Time::ZERO,
        done: Time::ZERO,
    };
    hearing.observe(Time::ZERO, &started(1));
    run(&mut executor, &[slice(1, None, 0, 4)]);
    assert_eq!(seen.borrow().loads, [(0, 16, false)], "it runs beside a step that does not need it");
    run(&mut executor, &[slice(2, Some(1), 0, 4)]);
    assert_eq!(seen.borrow().loads[1], (0, 16, true));
    // Nobody announced this one: the step fetches it.
    run(&mut executor, &[slice(2, Some(1), 4, 1), slice(3, Some(0), 0, 4)]);
    let evicted =
        |adapter: u32| Fact::Evicted { replica: ReplicaId(0), adapter: AdapterId(adapter), tier: Tier::Gpu, bytes: 1 };
    hearing.observe(Time::ZERO, &evicted(1));
    hearing.observe(Time::ZERO, &started(2));
    run(&mut executor, &[slice(3, Some(0), 4, 1), slice(4, Some(2), 0, 4)]);
    let slots: Vec<Vec<Option<u32>>> =
        seen.borrow().steps.iter().map(|step| step.iter().map(|given| given.3).collect()).collect();
    assert_eq!(slots, [vec![None], vec![Some(0)], vec![Some(0), Some(1)], vec![Some(1), Some(0)]]);
    let loads: Vec<(u32, bool)> = log.borrow().loads.iter().map(|load| (load.rank, load.announced)).collect();
    assert_eq!(loads, [(16, true), (8, false), (32, true)]);
    assert!(log.borrow().failure.is_none());
}

#[test]
fn jitter_is_off_without_measurements_and_repeats_with_its_seed() {
    let mut profile = profile();
    assert!(Jittered::new(Modelled(cost()), &profile, 1, 0).is_none());
    profile.spread.push(Spread {
        of: "step".to_owned(),
        samples: 100,
        levels: vec![0.05, 0.5, 0.95],
        ratio: vec![0.9, 1.0, 1.2],
        residual: vec![1.0, 1.0, 1.0],
    });
    profile.check().unwrap();
    let steps = |seed: u64| -> Vec<f64> {
        let mut jittered = Jittered::new(Modelled(cost()), &profile, seed, 0).unwrap();
        (0..400).map(|_| run(&mut jittered, &[slice(1, None, 1, 1)])).collect()
    };
    let price = run(&mut Modelled(cost()), &[slice(1, None, 1, 1)]);
    let drawn = steps(7);
    assert_eq!(drawn, steps(7));
    assert_ne!(drawn, steps(8));
    assert!(drawn.iter().all(|us| (0.89..1.21).contains(&(us / price))));
    let below = drawn.iter().filter(|us| **us < price).count();
    assert!((150..250).contains(&below), "half of them are below the price: {below}");
}

/// A draw of one changes nothing, neither what a step takes nor what it leaves of the clocks.
#[test]
fn jitter_leaves_the_clocks_as_the_step_does() {
    let mut profile = find("measured-h200-llama-2-7b").unwrap().profile().unwrap();
    assert!(profile.clock_sag.is_some());
    let step = profile.spread.iter_mut().find(|spread| spread.of == "step").expect("scatter of steps");
    step.ratio.fill(1.0);
    step.residual.fill(1.0);
    let cost = || CompiledCost::compile(&profile, LoraKernel::Segmented).unwrap();
    let price = |executor: &mut dyn Executor| {
        let (slices, shape) = ([slice(1, None, 0, 2048)], StepShape::prompt(2048, 0).probe(false));
        executor.run(&Batch { replica: ReplicaId(0), slices: &slices, shape: shape.view() })
    };
    let plain = price(&mut Modelled(cost()));
    let drawn = price(&mut Jittered::new(Modelled(cost()), &profile, 1, 0).unwrap());
    assert_ne!(plain.sag, Sag::NONE, "2,048 tokens make the clocks sag");
    assert_eq!(drawn.sag, plain.sag);
}
