//! Who gives way.

use aril_sim::policy::batcher::{Chunked, Punica};
use aril_sim::policy::load_path::JoinWhenReady;
use aril_sim::policy::preemptor::{Age, Newest, Oldest};
use aril_sim::policy::router::{PunicaArtifact, PunicaPaper};
use aril_sim::policy::{Preemptor, Requeue, Running};
use aril_sim::time::Time;
use aril_sim::workload::RequestId;

use super::stage::{Play, Stage, Steps};

/// Two replicas of 12 blocks; two sequences of five blocks on the one with the highest id outgrow it.
fn stage() -> Stage {
    Stage::of(2).blocks(12).batcher(Punica::default()).ask(0, 0, 75, 60).ask(10, 0, 75, 60)
}

#[test]
fn the_newest_gives_way_and_moves_to_another_replica() {
    let play = stage().router(PunicaPaper::default()).preemptor(Newest::default()).play();
    assert_eq!(play.preempted, [1]);
    assert_eq!(play.routes[&1], [1, 0]);
    assert_eq!(play.routes[&0], [1]);
}

#[test]
fn the_artifact_evicts_the_oldest_before_blocks_run_out() {
    let play = stage().router(PunicaArtifact::default()).preemptor(Oldest::default()).play();
    assert_eq!(play.preempted[0], 0);
    // Two running sequences want two free blocks: at most 10 of 12 are in use together.
    let together = play.steps.iter().filter(|steps| steps.replica == 1 && steps.decodes.len() == 2);
    assert!(together.map(|steps| steps.kv_blocks_used).max().unwrap() <= 12);
    assert_eq!(play.routes[&0][0], 1);
}

#[test]
fn recomputed_on_its_replica_the_victim_is_next_in_line() {
    let newest = Newest { requeue: Requeue::Replica, by: Age::Admission, ..Newest::default() };
    let stage = Stage::of(1).blocks(12).preemptor(newest).ask(0, 0, 75, 60).ask(10, 0, 75, 60).ask(20_000, 0, 120, 2);
    let play = stage.play();
    assert_eq!(play.preempted[0], 1);
    assert_eq!(play.routes[&1], [0], "it never leaves its replica");
    let again = play.steps.iter().filter(|steps| steps.prompts.contains(&1)).nth(1).expect("computed again");
    let third = play.steps.iter().find(|steps| steps.prompts.contains(&2)).expect("served");
    assert!(again.start <= third.start, "the victim is in front of those who came later");
}

#[test]
fn who_came_back_is_new_by_admission_and_old_by_arrival() {
    let running = |request, arrival, admitted| Running {
        request: RequestId(request),
        adapter: None,
        arrival: Time::from_ps(arrival),
        admitted,
        computed: 10,
        target: 10,
        emitted: 1,
        max_tokens: 100,
        kv_blocks: 1,
    };
    // Request 3 came first, was preempted, and was admitted again after the others.
    let batch = [running(4, 20, 2), running(5, 30, 3), running(3, 10, 7)];
    let newest = |by| Newest { by, ..Newest::default() }.victim(&batch);
    let oldest = |by| Oldest { by, ..Oldest::default() }.victim(&batch);
    assert_eq!((newest(Age::Arrival), newest(Age::Admission)), (1, 2));
    assert_eq!((oldest(Age::Arrival), oldest(Age::Admission)), (2, 0));
    let at_once = [running(7, 20, 1), running(6, 20, 2)];
    let by_number = (Newest::default().victim(&at_once), Oldest::default().victim(&at_once));
    assert_eq!(by_number, (0, 1), "who came at the same instant came in the order of their numbers");
}

#[test]
fn who_joins_later_is_newer_by_admission_whenever_it_came() {
    let preempted = |by| {
        let stage = Stage::of(1).blocks(12).slots(4, 10).load_path(JoinWhenReady::default());
        let stage = stage.batcher(Chunked::default()).preemptor(Newest { by, ..Newest::default() });
        stage.ask(0, 0, 63, 60).ask(0, None, 63, 60).play().preempted[0]
    };
    assert_eq!((preempted(Age::Arrival), preempted(Age::Admission)), (1, 0), "the first waits for its copy");
}

/// When one of two requests, which came at these microseconds with these prompts, decodes alone, in milliseconds.
fn alone_ms(blocks: u32, asks: [(u64, u32); 2], preemptor: impl Preemptor + Clone + Send + Sync + 'static) -> f64 {
    let stage = Stage::of(1).blocks(blocks).batcher(Chunked::default()).preemptor(preemptor);
    // With a block to spare, 8 are enough for one alone.
    let output = if blocks > 10 { 60 } else { 40 };
    let play = asks.into_iter().fold(stage, |stage, (at, prompt)| stage.ask(at, None, prompt, output)).play();
    let is_alone = |steps: &&Steps| steps.decodes.len() == 1 && steps.prompts.is_empty();
    let alone = play.steps.iter().find(is_alone).expect("there is no room for both");
    alone.start.as_secs_f64() * 1e3
}

// A step at k ms computes token 63 + k of a prompt of 63: it wants the 5th block at 2 ms, the 6th at 18 ms, the 7th at 34 ms.
#[test]
fn blocks_kept_for_every_sequence_are_free_before_each_step() {
    let oldest = |reserve_per_sequence| Oldest { reserve_per_sequence, ..Oldest::default() };
    let alone_ms = |blocks, reserve| alone_ms(blocks, [(0, 63); 2], oldest(reserve));
    assert_eq!([13, 14].map(|blocks| alone_ms(blocks, 1)), [19.0, 35.0], "one is free after 18 ms, or two");
    assert_eq!([13, 14].map(|blocks| alone_ms(blocks, 0)), [34.0, 50.0], "it is the next block that is missing");
}

#[test]
fn each_may_want_to_find_a_block_free_even_if_its_last_has_room() {
    let newest = |each_finds_a_free_block| Newest { each_finds_a_free_block, ..Newest::default() };
    let alone_ms = |blocks, asks, each| alone_ms(blocks, asks, newest(each));
    assert_eq!([8, 9, 10].map(|blocks| alone_ms(blocks, [(0, 63); 2], true)), [1.0, 2.0, 3.0]);
    assert_eq!([8, 9, 10].map(|blocks| alone_ms(blocks, [(0, 63); 2], false)), [2.0, 2.0, 18.0]);
    // At 2 ms one block is left: for the first, and the last finds none; or for the last, which does.
    let left_at_2_ms = [[(0, 63), (1, 50)], [(0, 49), (1, 64)]];
    assert_eq!(left_at_2_ms.map(|asks| alone_ms(9, asks, true)), [2.0, 3.0]);
}

// Eight tokens a step beside a decode: of the prompt of 160, 130 are computed when the other wants its third block, at 18 ms.
#[test]
fn what_is_left_of_a_prompt_may_become_output() {
    let play = |cuts_prompts| {
        let newest = Newest { requeue: Requeue::Replica, cuts_prompts, ..Newest::default() };
        let stage = Stage::of(1).blocks(12).each(|replica| replica.max_num_batched_tokens = 9);
        stage.batcher(Chunked::default()).preemptor(newest).ask(0, None, 16, 20).ask(0, None, 160, 10).play()
    };
    let (whole, cut) = (play(false), play(true));
    assert_eq!([&whole, &cut].map(|play| &play.preempted[..]), [[1], [1]]);
    assert_eq!((whole.cut, cut.cut), (0, 30));
    assert_eq!([&whole, &cut].map(|play| (play.emitted[&0], play.emitted[&1])), [(20, 10), (20, 40)]);
    let decoded = |play: &Play| {
        let of = play.steps.iter().filter(|steps| steps.decodes.contains(&1));
        of.map(|steps| steps.steps).sum::<u32>()
    };
    assert_eq!([&whole, &cut].map(decoded), [9, 39], "one token each came with the prompt");
}

#[test]
fn a_step_that_preempted_may_admit_whoever_fits() {
    let again_ms = |admits_after_preemption| {
        let newest = Newest { requeue: Requeue::Replica, cuts_prompts: true, ..Newest::default() };
        let batcher = Chunked { admits_after_preemption, ..Chunked::default() };
        let stage = Stage::of(1).blocks(12).each(|replica| replica.max_num_batched_tokens = 9).batcher(batcher);
        let play = stage.preemptor(newest).ask(0, None, 16, 20).ask(0, None, 160, 10).play();
        let again = play.steps.iter().find(|steps| steps.start.as_secs_f64() >= 0.018 && steps.prompts.contains(&1));
        again.expect("it is computed again").start.as_secs_f64() * 1e3
    };
    assert_eq!(
        [true, false].map(again_ms),
        [18.0, 19.0],
        "nine blocks are free for the 130 tokens that are left of it"
    );
}

#[test]
fn the_oldest_may_stay_on_its_replica() {
    let oldest = Oldest { requeue: Requeue::Replica, reserve_per_sequence: 0, by: Age::Arrival };
    let play = Stage::of(1).blocks(12).preemptor(oldest).ask(0, 0, 75, 60).ask(10, 0, 75, 60).play();
    assert_eq!(play.preempted[0], 0);
    assert_eq!(play.routes[&0], [0]);
    assert!(play.finished[&1] < play.finished[&0]);
}
