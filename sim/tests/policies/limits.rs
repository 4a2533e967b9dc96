//! Each limit of the built-in batchers: exactly up to it, and not one beyond.

use aril_sim::policy::Requeue;
use aril_sim::policy::batcher::{Chunked, PrefillFirst, Punica, RegroupByAdapter, SLora, StaticConsecutive};
use aril_sim::policy::load_path::JoinWhenReady;
use aril_sim::policy::preemptor::Newest;
use aril_sim::time::Span;

use super::stage::{Play, Stage, with};

type Batched = (&'static str, fn(Stage) -> Stage);

/// Those that may admit more than one request to a step.
const ADMIT_MANY: [Batched; 6] = [
    ("chunked", |stage| stage.batcher(Chunked::default())),
    ("prefill-first", |stage| stage.batcher(PrefillFirst::default())),
    ("punica", |stage| stage.batcher(with(|p: &mut Punica| p.prefills_per_step = 0))),
    ("regroup-by-adapter", |stage| stage.batcher(with(|p: &mut RegroupByAdapter| p.admissions_per_step = 0))),
    ("s-lora", |stage| stage.batcher(SLora::default())),
    ("static-consecutive", |stage| stage.batcher(with(|p: &mut StaticConsecutive| p.pad_to_longest = false))),
];

/// So many requests of one adapter at once, with these prompts.
fn prompts(stage: Stage, prompts: &[u32]) -> Play {
    prompts.iter().fold(stage, |stage, &prompt| stage.ask(0, 0, prompt, 3)).play()
}

/// The prompt tokens of each step that has any.
fn chunks(play: &Play) -> Vec<Vec<u32>> {
    let chunks = |shape: &super::stage::Shape| shape.prefills.iter().map(|prefill| prefill.chunk).collect();
    play.shapes.iter().map(chunks).filter(|chunks: &Vec<u32>| !chunks.is_empty()).collect()
}

/// 100 blocks of which so many have to stay free.
fn above(watermark: f64) -> [Stage; 2] {
    let stage = || Stage::of(1).blocks(100).preemptor(with(|p: &mut Newest| p.requeue = Requeue::Replica));
    [
        stage().batcher(Chunked { watermark, ..Chunked::default() }),
        stage().batcher(PrefillFirst { watermark, ..PrefillFirst::default() }),
    ]
}

#[test]
fn an_admission_leaves_the_watermark_and_not_a_block_less() {
    for (watermark, blocks) in [(0.01, 1), (0.05, 5), (0.059, 5)] {
        // The first has room for all its output, up to 8 ms; the second wants 8 blocks.
        let began = |held: u32| {
            above(watermark).map(|stage| stage.ask(0, 0, held * 16 - 10, 8).ask(500, 0, 8 * 16, 2).play().began_ms(1))
        };
        assert_eq!(began(100 - 8 - blocks), [1.0; 2], "{blocks} are left");
        assert_eq!(began(100 - 8 - blocks + 1), [8.0; 2], "{blocks} would not be");
    }
}

#[test]
fn alone_a_request_may_have_what_the_watermark_keeps() {
    assert_eq!(above(0.05).map(|stage| stage.ask(0, 0, 98 * 16, 2).play().began_ms(0)), [0.0; 2]);
}

#[test]
fn prompts_fill_the_budget_to_the_last_token() {
    for (name, batched) in ADMIT_MANY {
        let stage = || batched(Stage::of(1).each(|replica| replica.max_num_batched_tokens = 20));
        assert_eq!(chunks(&prompts(stage(), &[8, 12]))[0], [8, 12], "{name}");
        let beyond = chunks(&prompts(stage(), &[8, 13]));
        assert_eq!(beyond, if name == "chunked" { [vec![8, 12], vec![1]] } else { [vec![8], vec![13]] }, "{name}");
    }
}

#[test]
fn a_prompt_as_long_as_a_step_is_not_divided() {
    let stage = || Stage::of(1).each(|replica| replica.max_num_batched_tokens = 20).batcher(PrefillFirst::default());
    assert_eq!(chunks(&prompts(stage(), &[8, 20])), [[8], [20]]);
    assert_eq!(chunks(&prompts(stage(), &[8, 21])), [vec![8, 12], vec![9]]);
}

#[test]
fn a_padded_budget_is_filled_to_the_last_token_of_padding() {
    let stage = || Stage::of(1).each(|replica| replica.max_num_batched_tokens = 20);
    let stage = || stage().batcher(PrefillFirst { counts_padding: true, ..PrefillFirst::default() });
    assert_eq!(chunks(&prompts(stage(), &[10, 10])), [[10, 10]]);
    assert_eq!(chunks(&prompts(stage(), &[11, 9])), [[11], [9]], "twice 11");
    assert_eq!(chunks(&prompts(stage(), &[7, 5, 5])), [vec![7, 5], vec![5]], "three times 7");
}

#[test]
fn a_batch_has_as_many_sequences_as_it_may_and_not_one_more() {
    for (name, batched) in ADMIT_MANY {
        let play = prompts(batched(Stage::of(1).seqs(2)), &[8; 3]);
        assert_eq!(play.steps[0].prompts, [0, 1], "{name}");
        assert!(play.scheduled[&2] >= play.finished[&0], "{name}");
    }
}

#[test]
fn a_batch_has_as_many_adapters_as_it_may_and_not_one_more() {
    for (name, batched) in
        ADMIT_MANY.into_iter().filter(|(name, _)| !["regroup-by-adapter", "static-consecutive"].contains(name))
    {
        let stage = batched(Stage::of(1).each(|replica| replica.max_loras = 2));
        let play = stage.ask(0, 0, 8, 3).ask(0, 1, 8, 3).ask(0, 2, 8, 3).play();
        assert_eq!(play.steps[0].prompts, [0, 1], "{name}");
        assert_eq!(play.scheduled[&2], play.finished[&0], "{name}");
    }
}

#[test]
fn a_prompt_fills_the_memory_to_the_last_block() {
    for (name, batched) in ADMIT_MANY {
        // 10 blocks, in which all of the output has room.
        let began = |blocks: u32| {
            let stage = batched(Stage::of(1).blocks(10));
            stage.ask(0, 0, 6 * 16 - 10, 3).ask(0, 0, blocks * 16 - 10, 3).play().began_ms(1)
        };
        assert_eq!(began(4) == 0.0, name != "s-lora", "{name}");
        assert!(began(5) > 0.0, "{name}");
    }
}

#[test]
fn a_step_takes_as_many_prompts_as_it_may_and_not_one_more() {
    let batched: [fn(Stage) -> Stage; 2] = [
        |stage| stage.batcher(with(|p: &mut Punica| p.prefills_per_step = 2)),
        |stage| stage.batcher(with(|p: &mut RegroupByAdapter| p.admissions_per_step = 2)),
    ];
    for batched in batched {
        assert_eq!(chunks(&prompts(batched(Stage::of(1)), &[8; 3])), [vec![8, 8], vec![8]]);
    }
}

#[test]
fn a_prompt_that_goes_on_is_one_of_those_of_its_step() {
    let stage = Stage::of(1).each(|replica| replica.max_num_batched_tokens = 32).batcher(Punica::default());
    let play = prompts(stage, &[100, 8]);
    assert_eq!(play.began_ms(1), 4.0, "the last of 100 leave room in the step from 3 to 4 ms");
}

#[test]
fn a_turn_is_over_to_the_picosecond() {
    let began = |turn| {
        let stage = Stage::of(1).batcher(with(|p: &mut RegroupByAdapter| p.turn = turn));
        stage.ask(0, 0, 8, 40).ask(100, 1, 8, 3).ask(18_500, 0, 8, 3).play().began_ms(2)
    };
    assert_eq!(began(Span::from_ms(19) + Span::from_ps(1)), 19.0);
    assert!(began(Span::from_ms(19)) > 40.0);
}

#[test]
fn a_copy_may_take_longer_than_a_turn() {
    let stage = Stage::of(1).slots(4, 10).load_path(JoinWhenReady::default());
    let stage = stage.batcher(with(|p: &mut RegroupByAdapter| p.turn = Span::from_ms(5)));
    assert_eq!(stage.ask(0, 0, 8, 3).ask(0, 1, 8, 3).play().began_ms(0), 10.0);
}

#[test]
fn after_a_single_preemption_nobody_joins_the_step() {
    let batched: [fn(Stage) -> Stage; 3] = [
        |stage| stage.batcher(Chunked::default()),
        |stage| stage.batcher(with(|p: &mut Punica| p.prefills_per_step = 0)),
        |stage| stage.batcher(with(|p: &mut RegroupByAdapter| (p.prefill_alone, p.admissions_per_step) = (false, 0))),
    ];
    for batched in batched {
        // 9 blocks: two of 4 both want one more from 2 ms on. What the newer leaves would do for the third, who stands first.
        let stage = batched(Stage::of(1).blocks(9)).ask(0, 0, 63, 40).ask(0, 0, 63, 40).ask(500, 0, 20, 2);
        let play = stage.play();
        assert_eq!((play.preempted[0], play.began_ms(2)), (1, 3.0));
    }
}
