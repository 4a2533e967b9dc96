//! Whatever the scenario, each built-in policy is deterministic, balances the books, blind to names, and keeps nobody
//! waiting for ever.

use aril_sim::conformance::{Check, Terrain};
use aril_sim::policy::batcher::{
    Chunked, Fault, FcfsSameAdapter, NextAdapter, PrefillFirst, Punica, RegroupByAdapter, SLora, StaticConsecutive,
    WhenAdaptersFull,
};
use aril_sim::policy::evictor::{AtOnce, Fifo, Lfu, Pinned, SizeAware};
use aril_sim::policy::load_path::{Blocking, JoinWhenReady, NextInQueue};
use aril_sim::policy::migrator::PunicaConsolidate;
use aril_sim::policy::preemptor::{Age, Newest, Oldest};
use aril_sim::policy::router::{
    AffinityHard, AffinitySoft, Dedicated, LeastLoaded, Load, Picker, PowerOfTwo, PunicaArtifact, PunicaPaper, Random,
    RoundRobin, Scorers,
};
use aril_sim::policy::scaler::PunicaHints;
use aril_sim::policy::{LoadMode, Requeue};
use aril_sim::time::Span;

use super::stage::{Stage, with};

fn check(name: &str, stage: Stage) {
    for terrain in [Terrain::Serveable, Terrain::Any] {
        let check = Check { scenarios: 60, terrain, ..Check::default() };
        if let Err(failure) = check.run(&stage.policies) {
            panic!("{name}: {failure}");
        }
    }
}

fn stage() -> Stage {
    Stage::of(1)
}

#[test]
fn routers_conform() {
    check("round-robin", stage().router(RoundRobin::default()));
    check("random", stage().router(Random::default()));
    for by in [Load::Requests, Load::Waiting, Load::Kv] {
        check("least-loaded", stage().router(LeastLoaded { by }));
        check("power-of-two", stage().router(PowerOfTwo { by, choices: 2 }));
    }
    for count in 1..3 {
        check("affinity-hard", stage().router(with(|p: &mut AffinityHard| p.replicas_per_adapter = count)));
    }
    for affinity_probability in [0.5, 1.0] {
        check(
            "affinity-soft",
            stage().router(AffinitySoft { affinity_probability, imbalance_max: 2, skip_full: true }),
        );
    }
    for picker in [Picker::MaxScore, Picker::Random, Picker::WeightedRandom] {
        let weights = |p: &mut Scorers| (p.picker, p.residency, p.load) = (picker, 1.0, 0.5);
        check("scorers", stage().router(with(weights)));
    }
    check("dedicated", stage().router(Dedicated::default()));
    check("punica-paper", stage().router(PunicaPaper::default()));
    let artifact = stage().router(PunicaArtifact::default()).preemptor(Oldest::default());
    check("punica-artifact", artifact.batcher(with(|p: &mut Punica| p.prefills_per_step = 0)));
}

#[test]
fn batchers_conform() {
    for faults in [vec![], vec![Fault::SingleSegmentDecode, Fault::PrefillCountsOneRow]] {
        check("punica", stage().batcher(with(|p: &mut Punica| p.faults = faults)));
    }
    check("prefill-first", stage().batcher(PrefillFirst::default()));
    check("prefill-first", stage().batcher(PrefillFirst { watermark: 0.2, counts_padding: true }));
    for when_adapters_full in [WhenAdaptersFull::Skip, WhenAdaptersFull::Stop] {
        for long_prefill_token_threshold in [0, 3] {
            check(
                "chunked",
                stage().batcher(Chunked { when_adapters_full, long_prefill_token_threshold, ..Chunked::default() }),
            );
        }
    }
    check("static-consecutive", stage().batcher(StaticConsecutive::default()));
    let collecting = |p: &mut StaticConsecutive| (p.gc_every, p.gc_cost) = (3, Span::from_ms(1));
    check("static-consecutive", stage().batcher(with(collecting)));
    check("fcfs-same-adapter", stage().batcher(FcfsSameAdapter::default()));
    for (max_wait_tokens, adapters_per_batch) in [(10, 0), (2, 2)] {
        let tunables =
            |p: &mut SLora| (p.max_wait_tokens, p.adapters_per_batch) = (max_wait_tokens, adapters_per_batch);
        check("s-lora", stage().batcher(with(tunables)).evictor(AtOnce::default()));
    }
    for next in [NextAdapter::OldestHead, NextAdapter::MostQueued] {
        for prefill_alone in [true, false] {
            let tunables = |p: &mut RegroupByAdapter| {
                (p.next, p.prefill_alone) = (next, prefill_alone);
                p.turn = if prefill_alone { Span::ZERO } else { Span::from_ms(5) };
            };
            check("regroup-by-adapter", stage().batcher(with(tunables)));
        }
    }
}

#[test]
fn evictors_and_load_paths_conform() {
    check("fifo", stage().evictor(Fifo::default()));
    check("lfu", stage().evictor(Lfu::default()));
    check("size-aware", stage().evictor(SizeAware::default()));
    check("pinned", stage().evictor(Pinned::default()));
    check("at-once", stage().evictor(AtOnce::default()));
    check("blocking", stage().load_path(Blocking::default()));
    check("join-when-ready", stage().load_path(JoinWhenReady::default()));
    for late in [LoadMode::Blocking, LoadMode::Overlapped] {
        check("next-in-queue", stage().load_path(NextInQueue { depth: 2, late }));
        check("at-once", stage().evictor(AtOnce::default()).load_path(NextInQueue { depth: 2, late }));
    }
}

#[test]
fn preemptors_migrators_and_scalers_conform() {
    for requeue in [Requeue::Replica, Requeue::Cluster] {
        for by in [Age::Arrival, Age::Admission] {
            for (each_finds_a_free_block, cuts_prompts) in [(false, false), (true, false), (false, true)] {
                check("newest", stage().preemptor(Newest { by, requeue, each_finds_a_free_block, cuts_prompts }));
            }
            for reserve_per_sequence in 0..2 {
                check("oldest", stage().preemptor(Oldest { by, requeue, reserve_per_sequence }));
            }
        }
    }
    let consolidate = PunicaConsolidate { period: Span::from_ms(3), ..PunicaConsolidate::default() };
    check("punica-consolidate", stage().migrator(consolidate.clone()));
    let hints = |p: &mut PunicaHints| (p.period, p.idle_for, p.light_batch) = (Span::from_ms(2), Span::from_ms(6), 1);
    check("punica-hints", stage().scaler(with(hints)));
    check("punica", stage().router(PunicaPaper::default()).migrator(consolidate).scaler(with(hints)));
}
