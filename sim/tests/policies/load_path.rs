//! How adapters come.

use aril_sim::policy::LoadMode;
use aril_sim::policy::load_path::{Blocking, JoinWhenReady, NextInQueue, OnArrival};
use aril_sim::time::Span;

use super::stage::Stage;

/// Copies take 10 ms; request 0 runs from the start, 1 wants another adapter at 15.5 ms.
fn stage() -> Stage {
    Stage::of(1).slots(4, 10).ask(0, 0, 8, 40).ask(15_500, 1, 8, 3)
}

#[test]
fn a_blocking_load_holds_up_everybody_in_the_step() {
    let play = stage().load_path(Blocking::default()).play();
    let stalls: Vec<Span> = play.steps.iter().map(|steps| steps.stall).filter(|stall| !stall.is_zero()).collect();
    assert_eq!(stalls, [Span::from_ms(10); 2], "the first load, and the second in the middle of the first's decoding");
    assert_eq!(play.began_ms(1), 16.0);
    assert_eq!(play.finished[&0].as_secs_f64(), 0.060);
}

#[test]
fn with_overlapped_loads_steps_go_on_and_the_request_joins_when_its_adapter_is_there() {
    let play = stage().load_path(JoinWhenReady::default()).play();
    assert!(play.steps.iter().all(|steps| steps.stall.is_zero()));
    // Its turn comes at the step boundary, 16 ms; the copy takes 10.
    assert_eq!(play.began_ms(1), 26.0);
    assert_eq!(play.finished[&0].as_secs_f64(), 0.050);
}

#[test]
fn on_arrival_the_copy_starts_before_the_step_is_over() {
    let play = stage().load_path(OnArrival::default()).play();
    assert_eq!(play.loads[1].0.as_secs_f64(), 0.0155);
    assert_eq!(play.began_ms(1), 26.0);
}

#[test]
fn copies_ahead_hide_behind_a_full_batch_and_reach_as_deep_as_told() {
    let loads_before = |depth| {
        let path = NextInQueue { depth, late: LoadMode::Overlapped };
        let stage = Stage::of(1).seqs(1).slots(8, 10).load_path(path).ask(0, 0, 8, 100);
        let play = (1..5).fold(stage, |stage, i| stage.ask(20_000 + i, i as u32, 8, 2)).play();
        let first_end = play.finished[&0];
        let waited = play.began_ms(1) - first_end.as_secs_f64() * 1e3;
        (play.loads.iter().filter(|(start, _)| *start < first_end).count(), waited)
    };
    assert_eq!(loads_before(1), (2, 0.0));
    assert_eq!(loads_before(3), (4, 0.0));
    let on_demand = {
        let stage = Stage::of(1).seqs(1).slots(8, 10).load_path(JoinWhenReady::default());
        let play = stage.ask(0, 0, 8, 100).ask(20_000, 1, 8, 2).play();
        play.began_ms(1) - play.finished[&0].as_secs_f64() * 1e3
    };
    assert_eq!(on_demand, 10.0);
}

#[test]
fn a_copy_ahead_of_need_never_evicts_what_somebody_waits_for() {
    // Two slots: adapter 0 runs, 1 is awaited by the head of the queue; 2 and 3 must not push it out.
    let stage = Stage::of(1).seqs(1).slots(2, 1).load_path(OnArrival::default()).ask(0, 0, 8, 50);
    let play = (1..4).fold(stage, |stage, i| stage.ask(10_000 * i, i as u32, 8, 2)).play();
    assert!(!play.evicted[..1].contains(&1), "{:?}", play.evicted);
    assert_eq!(play.loads.iter().filter(|(_, adapter)| *adapter == 1).count(), 1);
}
