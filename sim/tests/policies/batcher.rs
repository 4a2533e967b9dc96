//! What a step computes.

use aril_sim::batch::{Prefill, Segment};
use aril_sim::draft::Draft;
use aril_sim::policy::batcher::{
    Chunked, Fault, FcfsSameAdapter, NextAdapter, PrefillFirst, Punica, RegroupByAdapter, StaticConsecutive,
    WhenAdaptersFull,
};
use aril_sim::policy::load_path::{Blocking, JoinWhenReady};
use aril_sim::policy::preemptor::{Age, Newest};
use aril_sim::policy::{Batcher, Requeue};
use aril_sim::time::Span;

use super::stage::{Play, Stage, with};

/// So many requests at once: (adapter, prompt, output).
fn together(stage: Stage, requests: &[(u32, u32, u32)]) -> Stage {
    requests.iter().fold(stage, |stage, &(adapter, prompt, output)| stage.ask(0, adapter, prompt, output))
}

fn here() -> Newest {
    Newest { requeue: Requeue::Replica, by: Age::Arrival, ..Newest::default() }
}

/// Prompts and decode rows of each single step, stretches taken apart.
fn rows(play: &Play) -> Vec<(Vec<u32>, Vec<u32>)> {
    let steps = play.steps.iter();
    steps.flat_map(|steps| vec![(steps.prompts.clone(), steps.decodes.clone()); steps.steps as usize]).collect()
}

#[test]
fn punica_mixes_one_prompt_a_step_with_all_decode_rows() {
    let play = together(Stage::of(1).batcher(Punica::default()), &[(0, 8, 4), (1, 8, 4), (2, 8, 4)]).play();
    assert_eq!(
        rows(&play)[..4],
        [(vec![0], vec![]), (vec![1], vec![0]), (vec![2], vec![0, 1]), (vec![], vec![0, 1, 2]),]
    );
}

#[test]
fn the_artifact_takes_all_prompts_at_once() {
    let batcher = with(|p: &mut Punica| p.prefills_per_step = 0);
    let play = together(Stage::of(1).batcher(batcher), &[(0, 8, 4), (1, 8, 4), (2, 8, 4)]).play();
    assert_eq!(play.steps[0].prompts, [0, 1, 2]);
}

#[test]
fn under_punica_a_request_whose_adapter_is_on_its_way_lets_others_pass() {
    let stage = Stage::of(1).slots(4, 10).batcher(Punica::default()).load_path(JoinWhenReady::default());
    // Adapter 0 is loaded by the first request; then 1 is missing and 0 is there.
    let play = stage.ask(0, 0, 8, 40).ask(20_000, 1, 8, 2).ask(20_001, 0, 8, 2).play();
    assert_eq!(play.order(), [0, 2, 1]);
    assert!(play.began_ms(1) >= 30.0);
}

#[test]
fn a_prompt_longer_than_a_step_is_divided_rather_than_stuck() {
    for whole in 0..3 {
        let stage = Stage::of(1).each(|replica| replica.max_num_batched_tokens = 32);
        let stage = match whole {
            0 => stage.batcher(Punica::default()),
            1 => stage.batcher(PrefillFirst::default()),
            _ => stage.batcher(StaticConsecutive::default()),
        };
        let play = together(stage, &[(0, 100, 3), (0, 8, 3)]).play();
        assert!(play.prompt_steps() >= 4, "100 tokens at 32 a step");
    }
}

#[test]
fn a_fault_counts_every_decode_row_to_the_adapter_admitted_last() {
    let segments = |faults: Vec<Fault>| {
        let stage = Stage::of(1).batcher(with(|p: &mut Punica| p.faults = faults));
        together(stage, &[(0, 8, 9), (1, 8, 9), (2, 8, 9)]).play().shapes
    };
    let segment = |prefill_rows, decode_rows| Segment { rank: 16, prefill_rows, decode_rows };
    let right = segments(vec![]);
    assert_eq!(right[2].segments, [segment(0, 1), segment(0, 1), segment(8, 0)]);
    assert_eq!(right[3].segments, [segment(0, 1); 3]);
    let wrong = segments(vec![Fault::SingleSegmentDecode]);
    assert_eq!(wrong[2].segments, [segment(8, 2)], "one segment, with the prompt's");
    assert_eq!(wrong[3].segments, [segment(0, 3)]);
    let short = segments(vec![Fault::PrefillCountsOneRow]);
    assert_eq!(short[2].segments, [segment(0, 1), segment(0, 1), segment(1, 0)]);
    assert_eq!(short[2].prefills, [Prefill { chunk: 8, prefix: 0 }], "the prompt itself is computed");
}

#[test]
fn prefill_first_never_mixes_and_lets_decode_rows_wait() {
    let stage = Stage::of(1).batcher(PrefillFirst::default()).ask(0, 0, 8, 20);
    let play = (1..4).fold(stage, |stage, i| stage.ask(i * 5_000 + 500, i as u32, 8, 5)).play();
    assert!(play.steps.iter().all(|steps| steps.prompts.is_empty() || steps.decodes.is_empty()));
    assert_eq!(play.prompt_steps(), 4);
    assert_eq!(play.began_ms(1), 6.0, "the next step after its arrival");
}

#[test]
fn prefill_first_takes_prompts_up_to_the_token_budget() {
    let stage = Stage::of(1).each(|replica| replica.max_num_batched_tokens = 20).batcher(PrefillFirst::default());
    let play = together(stage, &[(0, 8, 4), (1, 8, 4), (2, 8, 4), (3, 8, 4)]).play();
    assert_eq!(rows(&play)[..2], [(vec![0, 1], vec![]), (vec![2, 3], vec![])]);
}

#[test]
fn a_budget_that_counts_padding_counts_every_prompt_as_the_longest() {
    let chunks = |counts_padding| {
        let stage = Stage::of(1).each(|replica| replica.max_num_batched_tokens = 20);
        let stage = stage.batcher(PrefillFirst { counts_padding, ..PrefillFirst::default() });
        let play = together(stage, &[(0, 4, 2), (0, 4, 2), (0, 8, 2), (0, 4, 2)]).play();
        play.steps.iter().map(|steps| steps.prompts.len()).filter(|&prompts| prompts > 0).collect::<Vec<_>>()
    };
    assert_eq!(chunks(false), [4]);
    assert_eq!(chunks(true), [2, 2], "three times 8 is more than 20");
}

#[test]
fn prefill_first_keeps_the_watermark_free() {
    let began = |watermark| {
        let stage =
            Stage::of(1).blocks(100).batcher(PrefillFirst { watermark, ..PrefillFirst::default() }).preemptor(here());
        stage.ask(0, 0, 90 * 16, 10).ask(500, 0, 8 * 16 - 4, 2).play().began_ms(1)
    };
    // After the first prompt 9 blocks are free at the second's turn; 8 are wanted.
    assert_eq!(began(0.0), 1.0);
    assert!(began(0.05) >= 10.0, "it waits until the first is done");
}

#[test]
fn a_chunked_prompt_takes_what_the_decode_rows_leave() {
    let stage = Stage::of(1).each(|replica| replica.max_num_batched_tokens = 10).batcher(Chunked::default());
    let play = together(stage, &[(0, 4, 9), (0, 4, 9), (0, 21, 3)]).play();
    let prefills: Vec<Vec<u32>> =
        play.shapes.iter().map(|shape| shape.prefills.iter().map(|prefill| prefill.chunk).collect()).collect();
    assert_eq!(prefills[..4], [vec![4, 4, 2], vec![8], vec![8], vec![3]]);
    assert_eq!(play.shapes[2].prefills[0].prefix, 10);
}

#[test]
fn a_threshold_divides_long_prompts_further() {
    let batcher = Chunked { long_prefill_token_threshold: 5, ..Chunked::default() };
    let play = together(Stage::of(1).batcher(batcher), &[(0, 12, 2), (0, 3, 2)]).play();
    let chunks: Vec<u32> = play.shapes[0].prefills.iter().map(|prefill| prefill.chunk).collect();
    assert_eq!(chunks, [5, 3]);
    assert_eq!(play.shapes[1].prefills, [Prefill { chunk: 5, prefix: 5 }]);
}

fn skipping(when_adapters_full: WhenAdaptersFull) -> Play {
    let stage = Stage::of(1).slots(1, 0).load_path(Blocking::default());
    let stage = stage.batcher(Chunked { when_adapters_full, ..Chunked::default() });
    stage.ask(0, 0, 8, 20).ask(2_500, 1, 8, 3).ask(2_600, 0, 8, 3).play()
}

#[test]
fn a_skipped_request_lets_others_with_resident_adapters_pass() {
    let play = skipping(WhenAdaptersFull::Skip);
    assert_eq!(play.began_ms(2), 3.0);
    assert_eq!(play.scheduled[&1], play.finished[&0], "the other adapter has its turn when the first is done");
    let play = skipping(WhenAdaptersFull::Stop);
    assert!(play.scheduled[&2] >= play.scheduled[&1]);
}

#[test]
fn a_step_that_preempted_admits_nobody() {
    // Ten blocks: two sequences of four grow until they collide; a third would fit into what the victim left.
    let stage = Stage::of(1).blocks(10).batcher(Chunked::default()).preemptor(here());
    let play = stage.ask(0, 0, 63, 90).ask(0, 0, 63, 60).ask(10_000, 0, 70, 2).play();
    assert_eq!(play.preempted[0], 1);
    let victim_again = play.steps.iter().position(|steps| steps.prompts.contains(&1) && steps.start.as_ps() > 0);
    let alone = play.steps.iter().find(|steps| steps.decodes == [0] && steps.prompts.is_empty());
    assert!(alone.is_some() && victim_again.is_some(), "the step after the preemption has nobody new");
}

#[test]
fn a_static_batch_runs_until_its_longest_member_and_prices_the_padding() {
    let play = together(Stage::of(1).batcher(StaticConsecutive::default()), &[(0, 8, 2), (0, 20, 6), (0, 3, 4)]).play();
    assert_eq!(play.all_steps(), 6, "as many as the longest output");
    let first = &play.shapes[0];
    assert_eq!(first.prefills, [Prefill { chunk: 20, prefix: 0 }; 3], "all prompts at the length of the longest");
    assert_eq!(first.segments, [Segment { rank: 16, prefill_rows: 60, decode_rows: 0 }]);
    // Request 0 is done after its second token, request 2 after its fourth: their rows go on for nobody.
    let padding: Vec<(u32, u32)> = play.steps.iter().map(|steps| (steps.steps, steps.padding_rows)).collect();
    assert_eq!(padding, [(1, 0), (1, 0), (2, 1), (2, 2)]);
    for shape in &play.shapes[1..] {
        assert_eq!(shape.contexts.len(), 3);
        assert!(shape.contexts.iter().all(|&context| context == shape.contexts[0]), "{:?}", shape.contexts);
        assert_eq!(shape.segments, [Segment { rank: 16, prefill_rows: 0, decode_rows: 3 }]);
    }
    let contexts: Vec<u32> = play.shapes[1..].iter().map(|shape| shape.contexts[0]).collect();
    assert_eq!(contexts, [21, 22, 24]);
}

#[test]
fn without_padding_to_the_longest_only_the_members_that_are_done_are_padding() {
    let batcher = with(|p: &mut StaticConsecutive| p.pad_to_longest = false);
    let play = together(Stage::of(1).batcher(batcher), &[(0, 8, 2), (0, 20, 6)]).play();
    assert_eq!(play.shapes[0].prefills.iter().map(|prefill| prefill.chunk).collect::<Vec<_>>(), [8, 20]);
    assert_eq!(play.shapes[1].contexts, [9, 21]);
    assert_eq!(play.shapes[2].contexts, [22, 22], "the row that is done attends to the padded length");
}

#[test]
fn a_static_batch_ends_where_the_adapter_changes_or_the_batch_is_full() {
    let requests = [(0, 8, 2), (0, 8, 2), (1, 8, 2), (0, 8, 2), (0, 8, 2), (0, 8, 2), (0, 8, 2), (0, 8, 2)];
    let play = together(Stage::of(1).batcher(StaticConsecutive::default()), &requests).play();
    let batches: Vec<&Vec<u32>> =
        play.steps.iter().map(|steps| &steps.prompts).filter(|prompts| !prompts.is_empty()).collect();
    assert_eq!(batches, [&vec![0, 1], &vec![2], &vec![3, 4, 5, 6], &vec![7]]);
}

#[test]
fn nobody_joins_a_static_batch_that_runs() {
    let stage = Stage::of(1).batcher(StaticConsecutive::default()).ask(0, 0, 8, 30).ask(2_500, 0, 8, 2);
    assert_eq!(stage.play().began_ms(1), 30.0);
}

#[test]
fn every_sixteenth_decode_step_of_the_run_collects_memory() {
    let batcher = with(|p: &mut StaticConsecutive| {
        p.gc_every = 16;
        p.gc_cost = Span::from_ms(5);
    });
    // Twice 20 output tokens: twice 19 decode steps, of which the 16th and the 32nd collect; counted over the whole run.
    for stretches in [true, false] {
        let mut stage = together(Stage::of(1).seqs(1).batcher(batcher.clone()), &[(0, 8, 20), (0, 8, 20)]);
        stage.settings.stretches = stretches;
        let play = stage.play();
        let mut decode_steps = 0;
        let mut collections = Vec::new();
        for steps in play.steps.iter().filter(|steps| steps.prompts.is_empty()) {
            if steps.first == Span::from_ms(6) {
                assert_eq!(steps.steps, 1);
                collections.push(decode_steps + 1);
            }
            decode_steps += steps.steps;
        }
        assert_eq!((decode_steps, collections), (38, vec![16, 32]));
        assert_eq!(play.finished[&1].as_secs_f64(), 0.050);
    }
}

/// Has something to do for a millisecond before each step.
#[derive(Clone)]
struct Slow(Punica);

impl Batcher for Slow {
    fn compose(&mut self, draft: &mut Draft<'_>) {
        draft.overhead(Span::from_ms(1));
        self.0.compose(draft);
    }
}

#[test]
fn what_a_batcher_adds_to_a_step_comes_on_top_of_a_copy_that_is_waited_for() {
    let stage = Stage::of(1).slots(4, 10).load_path(Blocking::default()).batcher(Slow(Punica::default()));
    let play = stage.ask(0, 0, 8, 3).play();
    let told: Vec<(Span, Span)> = play.steps.iter().map(|steps| (steps.stall, steps.first)).collect();
    assert_eq!(told, [(10, 2), (0, 2), (0, 2)].map(|(stall, first)| (Span::from_ms(stall), Span::from_ms(first))));
    assert_eq!(play.finished[&0].as_secs_f64(), 0.016);
}

#[test]
fn the_parts_of_a_divided_prompt_are_no_decode_steps() {
    let collecting = |p: &mut StaticConsecutive| (p.gc_every, p.gc_cost) = (4, Span::from_ms(5));
    let stage = Stage::of(1).each(|replica| replica.max_num_batched_tokens = 8).batcher(with(collecting));
    let play = stage.ask(0, 0, 20, 6).play();
    let costs: Vec<(Vec<u32>, u32, Span)> =
        play.steps.iter().map(|steps| (steps.decodes.clone(), steps.steps, steps.first)).collect();
    let (none, one) = (Vec::new(), vec![0]);
    let [short, long] = [1, 6].map(Span::from_ms);
    let prompt = (none, 1, short);
    assert_eq!(costs[..3], [prompt.clone(), prompt.clone(), prompt]);
    assert_eq!(costs[3..], [(one.clone(), 3, short), (one.clone(), 1, long), (one, 1, short)]);
}

#[test]
fn strict_fcfs_waits_for_the_set_to_drain_though_later_requests_would_fit() {
    let requests = [(0, 8, 5), (1, 8, 3), (0, 8, 3)];
    let play = together(Stage::of(1).batcher(FcfsSameAdapter::default()), &requests).play();
    assert_eq!(play.scheduled[&1], play.finished[&0]);
    assert_eq!(play.scheduled[&2], play.finished[&1]);
    assert!(play.steps.iter().all(|steps| steps.segments <= 1));
}

#[test]
fn strict_fcfs_admits_one_prompt_a_step_alone() {
    let play = together(Stage::of(1).batcher(FcfsSameAdapter::default()), &[(0, 8, 5); 3]).play();
    let rows = rows(&play);
    assert_eq!(rows[..4], [(vec![0], vec![]), (vec![1], vec![]), (vec![2], vec![]), (vec![], vec![0, 1, 2])]);
}

#[test]
fn regrouping_takes_the_running_adapter_from_anywhere_in_the_queue() {
    let requests = [(0, 8, 5), (1, 8, 3), (0, 8, 3), (1, 8, 3), (1, 8, 3)];
    let play = together(Stage::of(1).batcher(RegroupByAdapter::default()), &requests).play();
    assert_eq!(play.order(), [0, 2, 1, 3, 4]);
    assert_eq!(play.scheduled[&1], play.finished[&0]);
    assert!(play.steps.iter().all(|steps| steps.segments <= 1));
}

#[test]
fn the_next_turn_goes_to_the_oldest_head_or_to_the_most_queued() {
    let requests = [(0, 8, 5), (1, 8, 3), (2, 8, 3), (2, 8, 3)];
    let order = |next| {
        let batcher = with(|p: &mut RegroupByAdapter| p.next = next);
        together(Stage::of(1).batcher(batcher), &requests).play().order()
    };
    assert_eq!(order(NextAdapter::OldestHead), [0, 1, 2, 3]);
    assert_eq!(order(NextAdapter::MostQueued), [2, 3, 0, 1]);
}

#[test]
fn a_turn_that_is_over_lets_the_other_adapters_have_theirs() {
    // Adapter 0 has a new request every 4 ms, each of 6 steps: its set never drains by itself.
    let began = |turn| {
        let batcher = with(|p: &mut RegroupByAdapter| p.turn = turn);
        let stage = Stage::of(1).batcher(batcher).ask(0, 0, 8, 6).ask(100, 1, 8, 3);
        (1..50).fold(stage, |stage, i| stage.ask(i * 4_000, 0, 8, 6)).play().began_ms(1)
    };
    assert!(began(Span::ZERO) > 190.0);
    assert!(began(Span::from_ms(20)) < 40.0);
}

#[test]
fn regrouping_may_mix_prompts_and_decode_rows() {
    let batcher = with(|p: &mut RegroupByAdapter| {
        p.prefill_alone = false;
        p.admissions_per_step = 0;
    });
    let stage = Stage::of(1).batcher(batcher).ask(0, 0, 8, 9).ask(2_500, 0, 8, 3).ask(2_500, 0, 8, 3);
    let play = stage.play();
    assert!(play.steps.iter().any(|steps| steps.prompts == [1, 2] && steps.decodes == [0]));
}

#[test]
fn an_adapter_that_is_being_loaded_keeps_its_turn() {
    let stage = Stage::of(1).slots(4, 10).load_path(JoinWhenReady::default());
    let batcher = with(|p: &mut RegroupByAdapter| p.next = NextAdapter::MostQueued);
    let stage = stage.batcher(batcher).ask(0, 0, 8, 5).ask(1_000, 1, 8, 5).ask(1_100, 1, 8, 5);
    assert_eq!(stage.play().order(), [0, 1, 2]);
}
