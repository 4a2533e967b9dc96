//! Who moves.

use aril_sim::policy::migrator::PunicaConsolidate;
use aril_sim::policy::router::{PunicaPaper, RoundRobin};
use aril_sim::time::Span;

use super::stage::Stage;

fn consolidate() -> PunicaConsolidate {
    PunicaConsolidate { period: Span::from_ms(10), ..PunicaConsolidate::default() }
}

#[test]
fn the_smallest_working_set_moves_to_the_largest_that_fits() {
    // Round robin over 3: two on replica 0, two on 1, one on 2.
    let stage = Stage::of(3).router(RoundRobin::default()).migrator(consolidate());
    let stage = (0..5).fold(stage, |stage, i| stage.ask(i, 0, 8, 30));
    let play = stage.play();
    assert_eq!(play.migrated[0], (4 - 2, 2, 1), "from the smallest to the highest id of the largest");
    assert_eq!(play.migrated.iter().filter(|moved| moved.1 == 2).count(), 1);
}

#[test]
fn nobody_moves_unless_all_of_it_fits() {
    // Working sets 2 and 3 with four places: one would fit, the other would not.
    let stage = Stage::of(2).router(RoundRobin::default()).migrator(consolidate());
    let play = (0..5).fold(stage, |stage, i| stage.ask(i, 0, 8, 25)).play();
    assert_eq!(play.migrated, []);
}

#[test]
fn places_and_blocks_promised_to_one_are_not_promised_to_another() {
    // Requests 0 and 3 are left on replica 0. Replica 1 has three of four places: it takes one, replica 2 the other.
    let stage = Stage::of(3).router(RoundRobin::default()).migrator(consolidate());
    let play = (0..8).fold(stage, |stage, i| stage.ask(i, 0, 8, if i == 6 { 2 } else { 40 })).play();
    assert_eq!(play.migrated[..2], [(0, 0, 1), (3, 0, 2)]);
    // Two sequences of 11 blocks run on the target. The newcomer needs 11 blocks too, and one to spare for each of three.
    let moved = |kv_blocks| {
        let stage = Stage::of(3).blocks(kv_blocks).router(RoundRobin::default()).migrator(consolidate());
        (0..5).fold(stage, |stage, i| stage.ask(i, 0, 160, 15)).play().migrated
    };
    assert_eq!(moved(36), [(2, 2, 1)]);
    assert_eq!(moved(35), []);
}

#[test]
fn idle_replicas_are_no_targets_and_heavy_ones_no_sources() {
    let play = Stage::of(3).router(PunicaPaper::default()).migrator(consolidate()).ask(0, 0, 8, 50).play();
    assert_eq!(play.migrated, []);
    let heavy = PunicaConsolidate { light_batch: 1, ..consolidate() };
    let stage = Stage::of(2).seqs(8).router(RoundRobin::default()).migrator(heavy);
    assert_eq!((0..4).fold(stage, |stage, i| stage.ask(i, 0, 8, 25)).play().migrated, []);
}

#[test]
fn several_replicas_may_be_emptied_at_once() {
    let many = PunicaConsolidate { replicas_per_period: 8, ..consolidate() };
    let stage = Stage::of(5).seqs(16).router(RoundRobin::default()).migrator(many);
    let play = (0..5).fold(stage, |stage, i| stage.ask(i, 0, 8, 60)).play();
    let first = play.migrated.iter().take(4).map(|moved| (moved.1, moved.2)).collect::<Vec<_>>();
    assert_eq!(first, [(0, 4), (1, 4), (2, 4), (3, 4)]);
}

#[test]
fn consolidation_empties_replicas_and_costs_the_movers_a_recomputation() {
    let run = |stage: Stage| (0..12).fold(stage.router(RoundRobin::default()), |s, i| s.ask(i, 0, 8, 200)).play();
    let busy = |play: &super::stage::Play| {
        let used = |replica: u32| play.steps.iter().filter(|s| s.replica == replica).map(|s| s.steps).sum::<u32>();
        (0..6).filter(|&replica| used(replica) > 100).count()
    };
    let still = run(Stage::of(6));
    let moved = run(Stage::of(6).migrator(consolidate()));
    assert_eq!((busy(&still), busy(&moved)), (6, 3));
    assert!(moved.finished.values().max() > still.finished.values().max());
}
