//! Where the time before the first token goes, to the picosecond, in cases that can be reckoned by hand. Every step takes a second.

use aril_sim::batch::{Batch, Executor, Price};
use aril_sim::engine;
use aril_sim::fact::{Fact, Observer, Waits};
use aril_sim::fleet::Fleet;
use aril_sim::policy::{LoadMode, LoadPath, Make, Policies, Scale, Scaler};
use aril_sim::profile::ClockSag;
use aril_sim::settings::ClusterSettings;
use aril_sim::time::{Span, Time};
use aril_sim::workload::{AdapterId, Offered, Outcome, ReplicaId, Request, RequestId, TenantId};

use super::station::{catalog, first_come, servers};

const SECOND: Span = Span::from_secs(1);

struct Second;

impl Executor for Second {
    fn run(&mut self, batch: &Batch<'_>) -> Price {
        let steps = if batch.shape.is_decode_only() { u32::MAX } else { 1 };
        Price::lasting(SECOND, steps)
    }
}

/// At rest a prompt takes a second, and a step of decode rows a tenth; on clocks that prompts made sag both take half as much longer.
struct Sagging;

impl Executor for Sagging {
    fn run(&mut self, batch: &Batch<'_>) -> Price {
        let sag = ClockSag { us: 1e5, prompt_tokens: 100.0, decode: 0.5, decode_row: 0.0, prompts: 0.5, own: 0.0 };
        let shape = &batch.shape;
        let us = if shape.is_decode_only() { 1e5 } else { 1e6 };
        let rested_us = shape.rested.as_secs_f64() * 1e6;
        let (longer_us, sag) = sag.behind(shape.sag, rested_us, shape.into(), us);
        Price { sag, ..Price::once(Span::from_secs_f64((us + longer_us) * 1e-6)) }
    }
}

struct Join;

impl LoadPath for Join {
    fn mode(&self) -> LoadMode {
        LoadMode::Overlapped
    }
}

/// What was told of one request.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    waits: Waits,
    /// Seconds.
    first_token: f64,
    end: f64,
    preemptions: u32,
    hit: Option<bool>,
}

#[derive(Default)]
struct Lives(Vec<Seen>);

impl Observer for Lives {
    fn observe(&mut self, now: Time, fact: &Fact<'_>) {
        if let Fact::Ended(life) = fact {
            let position = life.offered.request.id.index();
            self.0.resize(self.0.len().max(position + 1), Seen::default());
            self.0[position] = Seen {
                waits: life.waits,
                first_token: life.first_token.map_or(f64::NAN, Time::as_secs_f64),
                end: now.as_secs_f64(),
                preemptions: life.preemptions,
                hit: life.adapter_hit,
            };
        }
    }
}

/// Arrival (ms), adapter, prompt tokens, output tokens.
type Asks = (u64, Option<u32>, u32, u32);

fn lives(settings: &ClusterSettings, policies: &Policies, asks: &[Asks]) -> Vec<Seen> {
    lives_by(Box::new(Second), settings, policies, asks)
}

fn lives_by(executor: Box<dyn Executor>, settings: &ClusterSettings, policies: &Policies, asks: &[Asks]) -> Vec<Seen> {
    let offered = asks.iter().zip(0..).map(|(&(arrival, adapter, prompt_tokens, output_tokens), id)| {
        let request = Request {
            id: RequestId(id),
            tenant: TenantId(0),
            adapter: adapter.map(AdapterId),
            arrival: Time::ZERO + Span::from_ms(arrival),
            prompt_tokens,
            max_tokens: output_tokens,
            predicted_output_tokens: None,
            prefix: None,
        };
        Offered { request, outcome: Outcome { output_tokens } }
    });
    let mut lives = Lives::default();
    let mut executors: Vec<Box<dyn Executor>> = vec![executor];
    let mut arrivals = offered.collect::<Vec<_>>().into_iter();
    engine::run(settings, &catalog(4), policies, &mut executors, &mut arrivals, &mut lives).expect("all are served");
    lives.0
}

fn waits(change: impl FnOnce(&mut Waits)) -> Waits {
    let mut waits = Waits::default();
    change(&mut waits);
    waits
}

#[test]
fn a_cold_adapter_stalls_its_step_for_exactly_one_load() {
    let settings = servers(1, 4, Span::from_ms(300));
    let seen =
        lives(&settings, &first_come(u32::MAX), &[(0, Some(0), 1, 1), (5_000, Some(0), 1, 1), (9_000, Some(1), 1, 1)]);
    let cold = waits(|w| (w.load, w.prefill) = (Span::from_ms(300), SECOND));
    assert_eq!(seen[0].waits, cold);
    assert_eq!(seen[1].waits, waits(|w| w.prefill = SECOND));
    assert_eq!(seen[2].waits, cold);
    assert_eq!(seen.iter().map(|s| s.hit).collect::<Vec<_>>(), [Some(false), Some(true), Some(false)]);
}

#[test]
fn prompts_leave_clocks_behind_that_sag_on_their_own_replica_until_it_has_rested() {
    // Of a half, over a tenth of a second, in which what is drawn falls to 1/e, and clocks that follow it to 2/e.
    let e = 1.0_f64.exp();
    let longer = [0.05 * (2.0 - 3.0 / e), 0.05 * (2.0 / e * (1.0 - 1.0 / e) + 1.0 / e * (1.0 - 2.0 / e))];
    // Request 0 alone; 1 and 2 meet on the second replica, the prompt of 2 right behind that of 1; 3 finds the first at rest.
    let asks = [(0, None, 100, 3), (0, None, 100, 1), (500, None, 100, 1), (9_000, None, 100, 2)];
    let policies = first_come(1);
    let seen = lives_by(Box::new(Sagging), &servers(2, 1, Span::ZERO), &policies, &asks);
    let ends = [1.2 + longer[0] + longer[1], 1.0, 2.0 + 0.1 * (1.0 - 6.0 * (-10.0_f64).exp()), 10.1 + longer[0]];
    for (seen, end) in seen.iter().zip(ends) {
        assert!((seen.end - end).abs() < 1e-4, "{} instead of {end}", seen.end);
    }
}

#[test]
fn a_load_beside_running_steps_is_waited_for_until_it_is_there_and_then_the_step() {
    let policies = Policies { load_path: Box::new(|| Box::new(Join)), ..first_come(u32::MAX) };
    let settings = servers(1, 4, Span::from_ms(2_300));
    // Request 0 decodes from 1 s on, second by second. Request 1 is seen at 2 s; its copy is there at 4.3 s, a step ends at 5 s.
    let seen = lives(&settings, &policies, &[(0, None, 1, 20), (1_500, Some(0), 1, 1)]);
    let expected = waits(|w| {
        (w.queue, w.load, w.prefill) = (Span::from_ms(500 + 700), Span::from_ms(2_300), SECOND);
    });
    assert_eq!(seen[1].waits, expected);
    assert_eq!(seen[0].end, 20.0, "steps went on");
}

/// Begins the copy of whoever is next.
struct Ahead;

impl LoadPath for Ahead {
    fn mode(&self) -> LoadMode {
        LoadMode::Overlapped
    }

    fn ahead(&self) -> usize {
        1
    }
}

#[test]
fn a_copy_that_ends_within_the_running_step_is_not_blamed_for_the_rest_of_the_step() {
    let waited = |load| {
        let policies = Policies { load_path: Box::new(|| Box::new(Ahead)), ..first_come(u32::MAX) };
        lives(&servers(1, 4, load), &policies, &[(0, None, 1, 20), (1_500, Some(0), 1, 1)])[1].waits
    };
    // The copy begins on arrival, at 1.5 s; the step ends at 2 s.
    let copied = |load| waits(|w| (w.queue, w.load, w.prefill) = (Span::from_ms(500) - load, load, SECOND));
    for load in [Span::from_ms(300), Span::from_ms(500)] {
        assert_eq!(waited(load), copied(load));
    }
    assert_eq!(waited(Span::ZERO), copied(Span::ZERO), "what takes no time is not waited for");
}

#[test]
fn who_finds_the_only_slot_in_use_waits_for_the_slot() {
    let settings = servers(1, 4, Span::from_ms(100));
    // Adapter 0 is in use until 4.1 s: a load, a prefill and three decodes.
    let seen = lives(&settings, &first_come(u32::MAX), &[(0, Some(0), 1, 4), (600, Some(1), 1, 1)]);
    let expected = waits(|w| {
        (w.queue, w.slot) = (Span::from_ms(500), SECOND * 3);
        (w.load, w.prefill) = (Span::from_ms(100), SECOND);
    });
    assert_eq!(seen[1].waits, expected);
}

#[test]
fn who_finds_the_step_full_and_then_the_slot_in_use_waits_for_the_one_and_then_for_the_other() {
    let mut settings = servers(1, 4, Span::ZERO);
    settings.replicas[0].max_num_batched_tokens = 2;
    // Adapter 0 is there. At 2 s the prompt of request 1 is all that a step takes; from 3 s to 6 s it decodes with the only slot.
    let asks = [(0, Some(0), 1, 1), (2_000, Some(0), 2, 4), (2_000, Some(1), 1, 1)];
    let seen = lives(&settings, &first_come(u32::MAX), &asks);
    assert_eq!(seen[2].waits, waits(|w| (w.queue, w.slot, w.prefill) = (SECOND, SECOND * 3, SECOND)));
}

#[test]
fn who_finds_no_place_in_the_batch_waits_in_the_queue_and_who_is_held_waits_for_the_router() {
    let asks = [(0, None, 1, 3), (500, None, 1, 1)];
    let in_replica = lives(&servers(1, 1, Span::ZERO), &first_come(u32::MAX), &asks);
    assert_eq!(in_replica[1].waits, waits(|w| (w.queue, w.prefill) = (Span::from_ms(2_500), SECOND)));
    let in_cluster = lives(&servers(1, 1, Span::ZERO), &first_come(1), &asks);
    assert_eq!(in_cluster[1].waits, waits(|w| (w.router, w.prefill) = (Span::from_ms(2_500), SECOND)));
}

#[test]
fn a_preempted_sequence_goes_first_again_and_computes_its_tokens_again() {
    let mut settings = servers(1, 4, Span::ZERO);
    (settings.replicas[0].block_size, settings.replicas[0].kv_blocks) = (1, 10);
    // Two of 3 + 7 blocks cannot grow together. At 2 s each has computed 4 tokens, at 3 s 5: no block is left, and the
    // newer one gives way with 3 tokens out. Request 2 came before that, and still stands behind it.
    let seen = lives(&settings, &first_come(u32::MAX), &[(0, None, 3, 7), (0, None, 3, 7), (2_500, None, 1, 1)]);
    assert_eq!((seen[0].preemptions, seen[0].end), (0, 7.0));
    // Alone from 7 s on: a prefill of 3 + 3 tokens emits the fourth, and three decodes follow.
    assert_eq!((seen[1].preemptions, seen[1].end), (1, 11.0));
    assert_eq!((seen[1].first_token, seen[1].waits), (1.0, waits(|w| w.prefill = SECOND)));
    assert_eq!(seen[2].first_token, 8.0, "together with the prefill of request 1");
}

/// Lets go of the replica after one second, and wants it back after three.
struct Fickle;

impl Scaler for Fickle {
    fn period(&self) -> Span {
        SECOND
    }

    fn plan(&mut self, fleet: &Fleet<'_>, _: usize) -> Vec<Scale> {
        match fleet.now().as_secs_f64() {
            1.0 => vec![Scale::Release(ReplicaId(0))],
            3.0 => vec![Scale::Acquire(ReplicaId(0))],
            _ => Vec::new(),
        }
    }
}

#[test]
fn a_draining_replica_that_is_wanted_back_takes_who_was_held_meanwhile() {
    let scaler: Option<Make<dyn Scaler>> = Some(Box::new(|| Box::new(Fickle)));
    let policies = Policies { scaler, ..first_come(u32::MAX) };
    let seen = lives(&servers(1, 4, Span::ZERO), &policies, &[(0, None, 1, 20), (2_500, None, 1, 1)]);
    assert_eq!(seen[1].waits, waits(|w| (w.router, w.prefill) = (Span::from_ms(500), SECOND)));
}
