//! Which adapter makes room.

use aril_sim::policy::evictor::{Fifo, Lfu, Lru, Pinned, Rest, SizeAware};
use aril_sim::policy::{Evictor, Idle};
use aril_sim::settings::AdapterMemory;
use aril_sim::time::Time;
use aril_sim::workload::AdapterId;

use super::stage::Stage;

/// Two slots; requests for these adapters, one after the other is done: who is evicted?
fn evicted(evictor: impl Evictor + Clone + Send + Sync + 'static, adapters: &[u32]) -> Vec<u32> {
    let stage = Stage::of(1).slots(2, 1).evictor(evictor);
    let asked = adapters.iter().zip(0..);
    asked.fold(stage, |stage, (&adapter, i)| stage.ask(i * 20_000, adapter, 8, 2)).play().evicted
}

#[test]
fn the_least_recently_used_goes() {
    assert_eq!(evicted(Lru::default(), &[0, 1, 0, 2, 0, 3]), [1, 2]);
}

#[test]
fn the_first_in_goes_whatever_was_used_since() {
    assert_eq!(evicted(Fifo::default(), &[0, 1, 0, 2, 0, 3]), [0, 1, 2]);
}

#[test]
fn the_least_frequently_used_goes() {
    assert_eq!(evicted(Lfu::default(), &[0, 0, 0, 1, 2, 3]), [1, 2]);
    assert_eq!(evicted(Lru::default(), &[0, 0, 0, 1, 2, 3]), [0, 1]);
}

#[test]
fn an_adapter_in_use_never_goes() {
    let stage = Stage::of(1).slots(2, 1).evictor(Fifo::default());
    let play = stage.ask(0, 0, 8, 100).ask(10_000, 1, 8, 2).ask(30_000, 2, 8, 2).ask(50_000, 3, 8, 2).play();
    assert_eq!(play.evicted, [1, 2]);
}

#[test]
fn pinned_adapters_stay() {
    let pinned = Pinned { ids: vec![0], rest: Rest::Fifo };
    assert_eq!(evicted(pinned, &[0, 1, 2, 3, 0, 4]), [1, 2, 3]);
}

#[test]
fn a_memory_full_of_pinned_adapters_is_reported_rather_than_waited_for() {
    let stage = Stage::of(1).slots(2, 1).evictor(Pinned { ids: vec![0, 1], rest: Rest::Lru });
    let stage = stage.ask(0, 0, 8, 2).ask(20_000, 1, 8, 2).ask(40_000, 2, 8, 2);
    let (ended, play) = stage.try_play();
    let stalled = ended.expect_err("adapter 2 can never be loaded");
    assert_eq!((stalled.count, play.finished.len()), (1, 2));
}

fn idle(adapter: u32, bytes: u64, last_used_us: u64, uses: u64) -> Idle {
    let last_used = Time::from_ps(last_used_us * 1_000_000);
    Idle { adapter: AdapterId(adapter), bytes, loaded: Time::ZERO, last_used, uses }
}

#[test]
fn a_large_adapter_outlives_a_small_one_of_the_same_popularity() {
    let now = Time::from_ps(1_000_000_000);
    let both = [idle(0, 800, 10, 4), idle(1, 100, 10, 4)];
    assert_eq!(SizeAware::default().victim(now, &both), Some(1));
    let popular = [idle(0, 800, 10, 1), idle(1, 100, 10, 100)];
    assert_eq!(SizeAware::default().victim(now, &popular), Some(0));
    let recency = SizeAware { frequency: 0.0, recency: 1.0, size: 0.0 };
    assert_eq!(recency.clone().victim(now, &[idle(0, 8, 20, 1), idle(1, 8, 10, 9)]), Some(1));
}

#[test]
fn a_large_newcomer_evicts_as_many_as_it_needs() {
    let mut stage = Stage::of(1).evictor(Lru::default());
    stage.catalog.adapters[3].bytes = 250;
    let stage = stage.each(|replica| replica.gpu_adapters = AdapterMemory::Bytes(350));
    let play = stage.ask(0, 0, 8, 2).ask(10_000, 1, 8, 2).ask(20_000, 2, 8, 2).ask(30_000, 3, 8, 2).play();
    assert_eq!(play.evicted, [0, 1]);
}
