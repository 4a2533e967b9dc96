//! Who gives way.

use aril_sim::policy::batcher::Punica;
use aril_sim::policy::preemptor::{Age, Newest, Oldest};
use aril_sim::policy::router::{PunicaArtifact, PunicaPaper};
use aril_sim::policy::{Preemptor, Requeue, Running};
use aril_sim::time::Time;
use aril_sim::workload::RequestId;

use super::stage::Stage;

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
}

#[test]
fn the_oldest_may_stay_on_its_replica() {
    let oldest = Oldest { requeue: Requeue::Replica, reserve_per_sequence: 0, by: Age::Arrival };
    let play = Stage::of(1).blocks(12).preemptor(oldest).ask(0, 0, 75, 60).ask(10, 0, 75, 60).play();
    assert_eq!(play.preempted[0], 0);
    assert_eq!(play.routes[&0], [0]);
    assert!(play.finished[&1] < play.finished[&0]);
}
