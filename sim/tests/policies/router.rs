//! Who gets the request.

use aril_sim::policy::router::{
    AffinityHard, AffinitySoft, Assignment, Dedicated, LeastLoaded, Load, Picker, PowerOfTwo, PunicaArtifact,
    PunicaPaper, Random, RoundRobin, Scorers,
};
use aril_sim::time::Span;

use super::stage::{Stage, with};

/// One request after the other, close together: nobody finishes before the last has come.
fn burst(stage: Stage, requests: &[(u32, u32)]) -> Stage {
    let asked = requests.iter().enumerate();
    asked.fold(stage, |stage, (i, &(adapter, prompt))| stage.ask(i as u64, adapter, prompt, 100))
}

#[test]
fn round_robin_takes_turns_and_passes_over_what_is_off() {
    let mut stage = Stage::of(4).router(RoundRobin::default());
    stage.settings.replicas[1].starts_on = false;
    assert_eq!(burst(stage, &[(0, 8); 7]).play().placed(), [0, 2, 3, 0, 2, 3, 0]);
}

#[test]
fn random_reaches_everybody_and_repeats_with_its_seed() {
    let run = |seed| {
        let mut stage = Stage::of(4).router(Random::default());
        stage.settings.seed = seed;
        burst(stage, &[(0, 8); 60]).play().placed()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
    assert!((0..4).all(|replica| run(1).iter().filter(|&&placed| placed == replica).count() >= 5));
}

#[test]
fn the_least_loaded_has_the_fewest_sequences_and_ties_go_to_the_lowest_id() {
    let placed = burst(Stage::of(3).router(LeastLoaded::default()), &[(0, 8); 7]).play().placed();
    assert_eq!(placed, [0, 1, 2, 0, 1, 2, 0]);
}

#[test]
fn load_may_be_the_kv_memory_rather_than_the_number_of_sequences() {
    let requests = [(0, 1600), (0, 16), (0, 16), (0, 16), (0, 16)];
    let by = |by| burst(Stage::of(2).router(LeastLoaded { by }), &requests).play().placed();
    assert_eq!(by(Load::Kv), [0, 1, 1, 1, 1]);
    assert_eq!(by(Load::Requests), [0, 1, 0, 1, 0]);
}

#[test]
fn load_may_be_the_queue_before_the_batch() {
    // Replica 0 has three places and replica 1 has one: with three sequences against two, the queue of 1 is longer.
    let mut stage = Stage::of(2).router(LeastLoaded { by: Load::Waiting });
    stage.settings.replicas[0].max_num_seqs = 3;
    stage.settings.replicas[1].max_num_seqs = 1;
    let stage = (0..7).fold(stage, |stage, i| stage.ask(i * 2_000, 0, 8, 100));
    assert_eq!(stage.play().placed(), [0, 1, 0, 1, 0, 0, 1]);
}

#[test]
fn as_many_choices_as_replicas_find_the_least_loaded() {
    let drawn = burst(Stage::of(3).router(PowerOfTwo { choices: 3, by: Load::Requests }), &[(0, 8); 9]).play();
    assert_eq!(drawn.placed(), [0, 1, 2, 0, 1, 2, 0, 1, 2]);
}

#[test]
fn two_choices_balance_better_than_one() {
    let most = |choices| {
        let stage = Stage::of(20).seqs(64).router(PowerOfTwo { choices, by: Load::Requests });
        let placed = burst(stage, &[(0, 8); 200]).play().placed();
        (0..20).map(|replica| placed.iter().filter(|&&placed| placed == replica).count()).max().unwrap()
    };
    assert!(most(2) <= 13, "the fullest of 20 has {} of 200", most(2));
    assert!(most(1) > most(2), "one choice: {}, two: {}", most(1), most(2));
}

#[test]
fn a_pinned_adapter_goes_to_one_replica_however_full_it_is() {
    let placed = burst(Stage::of(8).router(AffinityHard::default()), &[(3, 8); 12]).play().placed();
    assert!(placed.iter().all(|&replica| replica == placed[0]));
}

#[test]
fn a_lost_replica_moves_only_the_adapters_that_were_pinned_to_it() {
    let requests: Vec<(u32, u32)> = (0..64).map(|adapter| (adapter, 8)).collect();
    let all = burst(Stage::of(8).router(AffinityHard::default()), &requests).play().placed();
    let mut stage = Stage::of(8).router(AffinityHard::default());
    stage.settings.replicas[5].starts_on = false;
    let without = burst(stage, &requests).play().placed();
    let mut moved = 0;
    for (before, after) in all.iter().zip(&without) {
        assert_ne!(*after, 5);
        assert!(before == after || *before == 5, "an adapter of replica {before} moved to {after}");
        moved += u32::from(before != after);
    }
    assert!((2..=20).contains(&moved), "{moved} of 64 adapters were pinned to one replica of 8");
    assert!((0..8).all(|replica| all.contains(&replica)), "every replica has adapters");
}

#[test]
fn two_pins_share_an_adapter_by_load() {
    let router = with(|p: &mut AffinityHard| p.replicas_per_adapter = 2);
    let placed = burst(Stage::of(8).router(router), &[(3, 8); 8]).play().placed();
    let on_first = placed.iter().filter(|&&replica| replica == placed[0]).count();
    assert_eq!(on_first, 4);
    assert_eq!(placed.iter().collect::<std::collections::BTreeSet<_>>().len(), 2);
}

#[test]
fn soft_affinity_follows_the_adapter_until_its_holder_has_too_much_more_than_the_emptiest() {
    let router = AffinitySoft { imbalance_max: 2, skip_full: false, affinity_probability: 1.0 };
    // Replica 0 holds adapter 5 after the first. It may have up to two more than the least, which has none.
    let placed = burst(Stage::of(2).router(router), &[(5, 8); 6]).play().placed();
    assert_eq!(placed[..4], [0, 0, 0, 1], "three on the holder, then the other becomes a holder too");
    assert_eq!(placed[4..], [1, 1], "of two holders the one with fewer");
}

#[test]
fn soft_affinity_passes_over_a_full_holder() {
    let router = |skip_full| AffinitySoft { imbalance_max: 100, skip_full, affinity_probability: 1.0 };
    let placed = |skip_full| burst(Stage::of(2).seqs(2).router(router(skip_full)), &[(5, 8); 4]).play().placed();
    assert_eq!(placed(true), [0, 0, 1, 1]);
    assert_eq!(placed(false), [0, 0, 0, 0]);
}

#[test]
fn many_holders_are_told_apart_as_few_are() {
    // 40 replicas hold the adapter: the index is walked instead of the list of holders.
    let router = AffinitySoft { imbalance_max: 0, skip_full: false, affinity_probability: 1.0 };
    let placed = burst(Stage::of(40).router(router), &[(5, 8); 80]).play().placed();
    assert_eq!(placed, (0..40).chain(0..40).collect::<Vec<_>>());
}

#[test]
fn affinity_that_is_never_preferred_is_least_loaded() {
    let router = AffinitySoft { affinity_probability: 0.0, ..AffinitySoft::default() };
    assert_eq!(burst(Stage::of(3).router(router), &[(5, 8); 6]).play().placed(), [0, 1, 2, 0, 1, 2]);
}

fn scorers(queue: f64, lora_affinity: f64) -> Scorers {
    with(|p: &mut Scorers| {
        p.queue = queue;
        p.lora_affinity = lora_affinity;
        p.kv_utilization = 0.0;
    })
}

#[test]
fn an_active_adapter_outweighs_a_free_slot_and_a_longer_queue_outweighs_an_active_adapter() {
    // Adapter 5 runs on one of two replicas. Another request for it: 1.0 beats 0.8 while the queues are empty.
    let stage = |weights| Stage::of(2).seqs(1).router(weights).ask(0, 5, 8, 100);
    let placed = stage(scorers(1.0, 2.0)).ask(10_000, 5, 8, 100).play().placed();
    assert_eq!(placed[0], placed[1]);
    // Now somebody waits there: the queue's score falls from 1 to 0, the adapter's only from 2.0 to 1.6.
    let placed = stage(scorers(1.0, 2.0)).ask(10_000, 5, 8, 100).ask(20_000, 5, 8, 100).play().placed();
    assert_eq!(placed[1], placed[0]);
    assert_ne!(placed[2], placed[0]);
}

#[test]
fn without_a_free_slot_elsewhere_the_active_adapter_wins_though_others_wait() {
    // One slot a replica: where another adapter is active, the score of a free slot is lost.
    let stage = Stage::of(2).seqs(2).slots(1, 0).router(scorers(0.1, 1.0));
    let stage = stage.ask(0, 5, 8, 100).ask(10_000, 6, 8, 100).ask(20_000, 5, 8, 100).ask(30_000, 5, 8, 50);
    let placed = stage.play().placed();
    assert_ne!(placed[0], placed[1], "adapter 6 finds its free slot");
    assert_eq!([placed[2], placed[3]], [placed[0], placed[0]]);
}

#[test]
fn an_awaited_adapter_scores_above_one_that_nobody_wants() {
    // Both replicas are taken by other adapters; adapter 7 waits on one of them, where the next request for it goes too.
    let stage = Stage::of(2).seqs(1).slots(1, 0).router(scorers(0.0, 1.0));
    let stage = stage.ask(0, 5, 8, 100).ask(10_000, 6, 8, 100).ask(20_000, 7, 8, 10);
    let stage = (3..10).fold(stage, |stage, i| stage.ask(i * 10_000, 7, 8, 10));
    let placed = stage.play().placed();
    assert!(placed[2..].iter().all(|&replica| replica == placed[2]), "{placed:?}");
}

#[test]
fn residency_prefers_the_gpu_then_a_free_slot_then_an_idle_adapter_to_replace() {
    use aril_sim::settings::AdapterMemory;
    let weights = || {
        with(|p: &mut Scorers| {
            p.residency = 1.0;
            p.queue = 0.0;
            p.kv_utilization = 0.0;
            p.lora_affinity = 0.0;
        })
    };
    let stage = |slots| {
        let stage = Stage::of(2).slots(slots, 0).router(weights());
        stage.each(|replica| replica.host_adapters = AdapterMemory::Slots(0))
    };
    // An adapter that lies idle on a GPU is as good as one that runs: `lora-affinity` would not see it.
    let placed = stage(4).ask(0, 5, 8, 1).ask(50_000, 5, 8, 10).ask(90_000, 5, 8, 1).play().placed();
    assert!(placed.iter().all(|&replica| replica == placed[0]));
    // A free slot beats an idle adapter, which beats one in use.
    let placed = stage(1).ask(0, 5, 8, 1).ask(50_000, 6, 8, 100).ask(60_000, 7, 8, 10).play().placed();
    assert_ne!(placed[0], placed[1], "the free slot");
    assert_eq!(placed[2], placed[0], "the idle one makes room");
}

#[test]
fn kv_use_is_a_score() {
    let weights = with(|p: &mut Scorers| {
        p.kv_utilization = 1.0;
        p.queue = 0.0;
        p.lora_affinity = 0.0;
    });
    let stage = Stage::of(2).router(weights);
    let placed = burst(stage, &[(0, 1600), (0, 16), (0, 16), (0, 16)]).play().placed();
    assert!(placed[1..].iter().all(|&replica| replica != placed[0]));
}

#[test]
fn a_weighted_pick_follows_the_scores_and_a_random_one_does_not() {
    let share = |picker| {
        let weights = with(|p: &mut Scorers| {
            p.kv_utilization = 1.0;
            p.queue = 0.0;
            p.lora_affinity = 0.0;
            p.picker = picker;
        });
        // Half of the memory of replica 0 is taken, so that it scores half as much.
        let mut stage = Stage::of(2).seqs(1_000).blocks(1_000_000).router(weights);
        stage.settings.replicas[0].kv_blocks = 2;
        let stage = stage.each(|replica| replica.max_num_batched_tokens = 1_000_000);
        let placed = (0..300).fold(stage, |stage, i| stage.ask(i * 2_000, 0, 16, 1)).play().placed();
        placed.iter().filter(|&&replica| replica == 0).count()
    };
    // Empty, both score 1: each request is over before the next.
    assert!((120..180).contains(&share(Picker::WeightedRandom)), "{}", share(Picker::WeightedRandom));
    assert!((120..180).contains(&share(Picker::Random)), "{}", share(Picker::Random));
}

#[test]
fn a_dedicated_replica_sees_the_adapters_of_its_group_alone() {
    let requests = [(0, 8), (1, 8), (2, 8), (0, 8), (1, 8), (2, 8), (0, 8), (3, 8)];
    let placed = burst(Stage::of(3).router(Dedicated::default()), &requests).play().placed();
    assert_eq!(placed[..7], [0, 1, 2, 0, 1, 2, 0]);
    assert_eq!(placed[7], 1, "a fourth adapter joins the group with the fewest requests so far");
    let modulo = with(|p: &mut Dedicated| p.assignment = Assignment::Modulo);
    let placed = burst(Stage::of(3).router(modulo), &[(4, 8), (0, 8), (1, 8), (3, 8)]).play().placed();
    assert_eq!(placed, [1, 0, 1, 0]);
}

#[test]
fn a_group_with_two_replicas_balances_between_them() {
    let router = with(|p: &mut Dedicated| p.groups = 2);
    let placed = burst(Stage::of(4).router(router), &[(0, 8), (1, 8), (0, 8), (1, 8), (0, 8)]).play().placed();
    assert_eq!(placed, [0, 1, 2, 3, 0]);
}

#[test]
fn the_paper_fills_the_largest_working_set_first_and_ties_go_to_the_highest_id() {
    let placed = burst(Stage::of(3).router(PunicaPaper::default()), &[(0, 8); 9]).play().placed();
    assert_eq!(placed, [2, 2, 2, 2, 1, 1, 1, 1, 0]);
}

#[test]
fn the_paper_looks_for_memory_before_it_counts_sequences() {
    // 100 blocks each: 90 + 6 leave 4 on replica 2, so that a prompt of 5 blocks goes elsewhere though its working set is larger.
    let stage = Stage::of(3).blocks(100).router(PunicaPaper::default());
    let placed = burst(stage, &[(0, 90 * 16), (0, 6 * 16 - 1), (0, 5 * 16), (0, 3 * 16)]).play();
    assert_eq!(placed.routes[&2][0], 1);
    assert_eq!(placed.routes[&3][0], 2);
}

#[test]
fn who_fits_nowhere_waits_in_the_clusters_queue_first_come_first_served() {
    let stage = Stage::of(1).seqs(2).router(PunicaPaper::default());
    let stage = stage.ask(0, 0, 8, 10).ask(1, 0, 8, 50).ask(2, 0, 8, 10).ask(3, 0, 8, 10);
    let play = stage.play();
    assert_eq!(play.held, [2, 3]);
    assert_eq!(play.order(), [0, 1, 2, 3]);
    assert!(play.scheduled[&2] >= play.finished[&0], "a place must have become free");
}

#[test]
fn a_held_head_blocks_those_behind_it_though_they_would_fit() {
    for artifact in [false, true] {
        let stage = Stage::of(1).blocks(100);
        let stage = match artifact {
            true => stage.router(PunicaArtifact::default()),
            false => stage.router(PunicaPaper::default()),
        };
        let play = stage.ask(0, 0, 80 * 16, 20).ask(1_500, 0, 60 * 16, 2).ask(1_600, 0, 16, 2).play();
        assert_eq!(play.held, [1, 2]);
        assert!(play.scheduled[&1] >= play.finished[&0]);
        assert!(play.scheduled[&2] >= play.scheduled[&1]);
    }
}

#[test]
fn a_smaller_working_set_than_the_batch_may_be_asked_for() {
    let router = with(|p: &mut PunicaPaper| p.working_set_max = 2);
    assert_eq!(burst(Stage::of(3).router(router), &[(0, 8); 5]).play().placed(), [2, 2, 1, 1, 0]);
}

/// Three replicas with one large request each, on 2, 1, 0, with adapters 1, 2, 3; then one for `adapter`.
fn artifact(blocks: [u32; 3], adapter: u32) -> u32 {
    let stage = Stage::of(3).blocks(100).router(PunicaArtifact::default());
    let requests = [(1, blocks[0] * 16), (2, blocks[1] * 16), (3, blocks[2] * 16), (adapter, 16)];
    let play = burst(stage, &requests).play();
    assert_eq!((0..3).map(|request| play.routes[&request][0]).collect::<Vec<_>>(), [2, 1, 0]);
    play.routes[&3][0]
}

#[test]
fn the_artifact_breaks_ties_by_same_adapter_then_fewest_free_blocks_then_highest_id() {
    assert_eq!(artifact([60, 70, 60], 3), 0, "the same adapter");
    assert_eq!(artifact([60, 70, 60], 9), 1, "the fewest free blocks");
    assert_eq!(artifact([60, 60, 60], 9), 2, "the highest id");
}

#[test]
fn the_artifact_wants_a_spare_block_for_each_sequence() {
    // 100 blocks: after 90, the next needs its own and two to spare: 8 + 2 fit, 9 + 2 do not.
    let second = |blocks: u32| {
        let stage = Stage::of(2).blocks(100).router(PunicaArtifact::default());
        burst(stage, &[(0, 90 * 16 - 8), (0, blocks * 16)]).play().routes[&1][0]
    };
    assert_eq!(second(8), 1);
    assert_eq!(second(9), 0);
    let paper = |blocks: u32| {
        let stage = Stage::of(2).blocks(100).router(PunicaPaper::default());
        burst(stage, &[(0, 90 * 16 - 8), (0, blocks * 16)]).play().routes[&1][0]
    };
    assert_eq!([paper(9), paper(10), paper(11)], [1, 1, 0], "the paper wants room for the prompt alone");
}

#[test]
fn stale_signals_make_the_least_loaded_herd_and_two_choices_do_not() {
    let most = |stage: Stage| {
        let mut stage = stage;
        stage.settings.signals_interval = Span::from_secs(1);
        let placed = burst(stage, &[(0, 8); 40]).play().placed();
        (0..10).map(|replica| placed.iter().filter(|&&placed| placed == replica).count()).max().unwrap()
    };
    assert_eq!(most(Stage::of(10).router(LeastLoaded::default())), 40);
    assert!(most(Stage::of(10).router(PowerOfTwo::default())) <= 12);
}
