//! S-LoRA's admission, and its GPU memory without idle adapters.

use aril_sim::policy::batcher::{Chunked, SLora};
use aril_sim::policy::evictor::AtOnce;

use super::stage::{Play, Stage, with};

/// Prompts and decode rows of each single step, stretches taken apart.
fn rows(play: &Play) -> Vec<(Vec<u32>, Vec<u32>)> {
    let steps = play.steps.iter();
    steps.flat_map(|steps| vec![(steps.prompts.clone(), steps.decodes.clone()); steps.steps as usize]).collect()
}

/// With pages of one token, as S-LoRA has them.
fn stage() -> Stage {
    Stage::of(1).each(|replica| replica.block_size = 1).blocks(16_000).batcher(SLora::default())
}

#[test]
fn a_newcomer_waits_until_ten_tokens_were_decoded() {
    let rows = rows(&stage().ask(0, 0, 8, 40).ask(500, 1, 8, 4).play());
    assert_eq!(rows[0], (vec![0], vec![]));
    assert!(rows[1..11].iter().all(|row| *row == (vec![], vec![0])), "{rows:?}");
    assert_eq!(rows[11], (vec![1], vec![]), "alone, as soon as it may");
}

#[test]
fn the_ten_tokens_are_counted_from_the_last_part_of_a_divided_prompt() {
    let stage = stage().each(|replica| replica.max_num_batched_tokens = 32);
    let rows = rows(&stage.ask(0, 0, 40, 40).ask(500, 1, 8, 4).play());
    assert_eq!(rows[..2], [(vec![0], vec![]), (vec![0], vec![])]);
    assert!(rows[2..12].iter().all(|row| *row == (vec![], vec![0])), "{rows:?}");
    assert_eq!(rows[12], (vec![1], vec![]));
}

#[test]
fn an_idle_replica_serves_whoever_comes_at_once() {
    let play = stage().ask(0, 0, 8, 3).ask(5_000, 1, 8, 3).play();
    assert_eq!(play.began_ms(1), 5.0);
}

#[test]
fn nobody_is_admitted_while_the_batch_could_run_out_of_memory() {
    // Together they come to 18 + 2 · 22 = 62 slots when the shorter ends, and have to stay below what there is.
    let both = |slots| stage().blocks(slots).ask(0, None, 8, 30).ask(0, None, 8, 23).play().steps[0].prompts.len();
    assert_eq!((both(63), both(62)), (2, 1));
    // Of 64, 18 + 2 · 23 = 64 are too many. After n decode steps of the first it is 74 − n: the eleventh makes room.
    let apart = stage().blocks(64).ask(0, None, 8, 30).ask(0, None, 8, 24).play();
    let rows = rows(&apart);
    assert_eq!(rows[0], (vec![0], vec![]));
    assert!(rows[1..12].iter().all(|row| *row == (vec![], vec![0])), "{rows:?}");
    assert_eq!(rows[12], (vec![1], vec![]));
    assert!(apart.preempted.is_empty(), "who is in has room to the end");
}

#[test]
fn adapters_take_their_slots_out_of_the_same_pool() {
    // 256 slots, 64 for each adapter of rank 16. Two outputs of 56 come to 18 + 2 · 55 = 128.
    let two = stage().blocks(256).ask(0, 0, 8, 56).ask(0, 1, 8, 56).play();
    assert_eq!(two.steps[0].prompts, [0]);
    let one = stage().blocks(256).ask(0, 0, 8, 56).ask(0, 0, 8, 56).play();
    assert_eq!(one.steps[0].prompts, [0, 1]);
}

#[test]
fn a_cap_beyond_the_pool_is_served_alone() {
    let play = stage().blocks(64).ask(0, 0, 8, 40).ask(0, 1, 8, 40).play();
    assert_eq!(play.order(), [0, 1], "64 slots for the adapter alone leave none, and yet nobody waits for ever");
}

#[test]
fn a_crowded_batch_takes_those_of_its_adapters_first() {
    let asked = |batcher| {
        let stage = Stage::of(1).seqs(2).batcher(batcher);
        stage.ask(0, 0, 8, 40).ask(500, 1, 8, 4).ask(501, 0, 8, 4).play()
    };
    assert_eq!(asked(SLora::default()).order(), [0, 1, 2]);
    assert_eq!(asked(with(|p: &mut SLora| p.adapters_per_batch = 1)).order(), [0, 2, 1]);
    assert_eq!(asked(with(|p: &mut SLora| p.adapters_per_batch = 2)).order(), [0, 1, 2], "one adapter is no crowd yet");
}

#[test]
fn an_adapter_leaves_with_the_last_sequence_that_used_it() {
    let stage = Stage::of(1).slots(4, 1).evictor(AtOnce::default());
    let play = stage.ask(0, 0, 8, 100).ask(10_000, 1, 8, 2).ask(20_000, 0, 8, 2).ask(40_000, 1, 8, 2).play();
    assert_eq!(play.evicted, [1, 1, 0], "0 stays as long as request 0 runs; 1 is loaded twice");
}

#[test]
fn an_adapter_leaves_with_a_sequence_that_gives_way() {
    let stage = Stage::of(1).blocks(12).batcher(Chunked::default()).evictor(AtOnce::default());
    let play = stage.ask(0, 0, 63, 60).ask(0, 1, 63, 60).play();
    assert_eq!((play.preempted, play.evicted), (vec![1], vec![1, 0, 1]));
}
