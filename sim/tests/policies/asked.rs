//! What the engine asks its policies about, when, and what it does then.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use aril_sim::draft::Draft;
use aril_sim::fact::Power;
use aril_sim::fleet::Fleet;
use aril_sim::policy::batcher::Chunked;
use aril_sim::policy::evictor::AtOnce;
use aril_sim::policy::load_path::OnArrival;
use aril_sim::policy::preemptor::Newest;
use aril_sim::policy::{Asked, Batcher, Migrator, Move, Requeue, Route, Router, Scale, Scaler};
use aril_sim::random::Stream;
use aril_sim::time::{Span, Time};
use aril_sim::workload::{ReplicaId, RequestId};

use super::stage::Stage;

/// Long prompts wait until nobody is there, and behind short ones.
#[derive(Clone)]
struct ShortFirst;

impl Router for ShortFirst {
    fn route(&mut self, asked: &Asked<'_>, fleet: &Fleet<'_>, _: &mut Stream) -> Route {
        let waits = asked.tokens > 100 && fleet.working_set(ReplicaId(0)) > 0;
        if waits { Route::Hold } else { Route::To(ReplicaId(0)) }
    }

    fn queue_key(&self, asked: &Asked<'_>) -> u64 {
        u64::from(asked.tokens)
    }
}

#[test]
fn who_comes_to_the_head_of_the_clusters_queue_is_asked_about_at_once() {
    let stage = Stage::of(1).router(ShortFirst).ask(0, None, 8, 50).ask(2_000, None, 200, 5).ask(4_000, None, 8, 5);
    let play = stage.play();
    assert_eq!(play.held, [1, 2], "nobody passes a queue unasked");
    assert_eq!((play.began_ms(2), play.began_ms(1)), (4.0, 50.0));
}

/// Two sequences at a time.
#[derive(Clone)]
struct Two;

impl Router for Two {
    fn route(&mut self, _: &Asked<'_>, fleet: &Fleet<'_>, _: &mut Stream) -> Route {
        if fleet.working_set(ReplicaId(0)) < 2 { Route::To(ReplicaId(0)) } else { Route::Hold }
    }
}

#[test]
fn whoever_is_held_has_the_place_of_a_client_that_gave_up_before_the_step_is_over() {
    let mut stage = Stage::of(1).router(Two).ask(0, None, 8, 1_000).ask(10, None, 8, 1_000).ask(50_000, None, 8, 5);
    stage.settings.client_timeout = Some(Span::from_us(100_200));
    let (ended, play) = stage.try_play();
    ended.expect("the run ends");
    assert_eq!(play.held, [2]);
    assert_eq!(play.routed[2], (Time::ZERO + Span::from_us(100_200), 2));
}

#[test]
fn a_request_that_leaves_no_block_to_spare_is_turned_away_where_each_must_find_one() {
    let ends = |blocks, each_finds_a_free_block| {
        let newest = Newest { each_finds_a_free_block, ..Newest::default() };
        let (ended, play) = Stage::of(1).blocks(blocks).preemptor(newest).ask(0, None, 100, 29).try_play();
        ended.expect("the run ends");
        (play.finished.len(), play.rejected.len())
    };
    assert_eq!([ends(8, false), ends(8, true), ends(9, true)], [(1, 0), (0, 1), (1, 0)]);
}

/// Everybody to the first.
#[derive(Clone)]
struct First;

impl Router for First {
    fn route(&mut self, _: &Asked<'_>, _: &Fleet<'_>, _: &mut Stream) -> Route {
        Route::To(ReplicaId(0))
    }
}

/// Admits nobody.
#[derive(Clone)]
struct Idle;

impl Batcher for Idle {
    fn compose(&mut self, _: &mut Draft<'_>) {}
}

/// Lets go of the first replica.
#[derive(Clone)]
struct LetGo;

impl Scaler for LetGo {
    fn period(&self) -> Span {
        Span::from_ms(10)
    }

    fn plan(&mut self, _: &Fleet<'_>, _: usize) -> Vec<Scale> {
        vec![Scale::Release(ReplicaId(0))]
    }
}

#[test]
fn a_replica_that_drains_is_off_when_the_last_client_gives_up() {
    let mut stage = Stage::of(2).router(First).batcher(Idle).scaler(LetGo).ask(0, None, 8, 5);
    stage.settings.client_timeout = Some(Span::from_us(100_200));
    let (ended, play) = stage.try_play();
    ended.expect("the run ends");
    let off = play.power.iter().find(|(_, replica, power)| (*replica, *power) == (0, Power::Off));
    assert_eq!(off.expect("it is let go of").0, Time::ZERO + Span::from_us(100_200));
}

/// Moves the second request to the second replica.
#[derive(Clone)]
struct Second;

impl Migrator for Second {
    fn period(&self) -> Span {
        Span::from_ms(50)
    }

    fn plan(&mut self, _: &Fleet<'_>, _: &mut Stream) -> Vec<Move> {
        vec![Move { request: RequestId(1), from: ReplicaId(0), to: ReplicaId(1) }]
    }
}

#[test]
fn an_adapter_goes_with_the_only_request_that_waited_for_it() {
    let stage = Stage::of(2).seqs(1).slots(4, 10).router(First).load_path(OnArrival::default());
    let stage = stage.evictor(AtOnce::default()).migrator(Second);
    let play = stage.ask(0, 0, 8, 500).ask(1_000, 1, 8, 500).play();
    assert_eq!(play.migrated, [(1, 0, 1)]);
    assert_eq!((play.evicted[0], play.evicted_at[0]), (1, Time::ZERO + Span::from_ms(50)));
}

/// What was seen of a request last: by the router, and its cap by the batcher.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Look {
    tokens: u32,
    emitted: u32,
    max_tokens: u32,
}

#[derive(Clone, Default)]
struct Seen(Arc<Mutex<BTreeMap<u32, Look>>>);

impl Router for Seen {
    fn route(&mut self, asked: &Asked<'_>, _: &Fleet<'_>, _: &mut Stream) -> Route {
        let mut seen = self.0.lock().unwrap();
        let look = seen.entry(asked.request.id.0).or_default();
        (look.tokens, look.emitted) = (asked.tokens, asked.emitted);
        Route::To(ReplicaId(0))
    }
}

#[derive(Clone)]
struct Watched(Chunked, Seen);

impl Batcher for Watched {
    fn compose(&mut self, draft: &mut Draft<'_>) {
        self.0.compose(draft);
        let mut seen = self.1.0.lock().unwrap();
        for running in draft.running() {
            seen.get_mut(&running.request.0).unwrap().max_tokens = running.max_tokens;
        }
    }
}

// As in the test of the preemptor, 30 tokens of the second prompt become output.
#[test]
fn a_prompt_that_was_cut_is_shorter_and_its_cap_longer_wherever_it_waits() {
    for requeue in [Requeue::Replica, Requeue::Cluster] {
        let seen = Seen::default();
        let newest = Newest { requeue, cuts_prompts: true, ..Newest::default() };
        let stage = Stage::of(1).blocks(12).each(|replica| replica.max_num_batched_tokens = 9);
        let stage = stage.router(seen.clone()).batcher(Watched(Chunked::default(), seen.clone())).preemptor(newest);
        let play = stage.ask(0, None, 16, 20).ask(0, None, 160, 10).play();
        assert_eq!((play.cut, play.emitted[&1]), (30, 40));
        // The router has it again, or it does not.
        let tokens = if requeue == Requeue::Cluster { 130 } else { 160 };
        let look = Look { tokens, emitted: 0, max_tokens: 40 };
        assert_eq!(seen.0.lock().unwrap()[&1], look, "{requeue:?}");
    }
}
