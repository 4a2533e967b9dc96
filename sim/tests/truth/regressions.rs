//! Every failure that the differential runs found, as small as it was shrunk to: under many policies here, as files in `regressions`. (What
//! a seed means changes with what is drawn, so cases are written down.)

use aril_sim::conformance::{Promise, RandomPolicies, Scenario, ToyPrices};
use aril_sim::policy::LoadMode;
use aril_sim::settings::{AdapterMemory, ClusterSettings, Link, ReplicaSettings};
use aril_sim::time::{Span, Time};
use aril_sim::workload::{Adapter, AdapterId, Catalog, Offered, Outcome, Request, RequestId, Tenant, TenantId};

use super::case::Case;

const fn ps(ps: u64) -> Span {
    Span::from_ps(ps)
}

/// Arrival (ps), adapter, prompt tokens, output tokens.
type Asks = (u64, Option<u32>, u32, u32);

fn offered(id: usize, &(arrival, adapter, prompt_tokens, output_tokens): &Asks) -> Offered {
    let request = Request {
        id: RequestId(id as u32),
        tenant: TenantId(0),
        adapter: adapter.map(AdapterId),
        arrival: Time::from_ps(arrival),
        prompt_tokens,
        max_tokens: output_tokens,
        predicted_output_tokens: None,
        prefix: None,
    };
    Offered { request, outcome: Outcome { output_tokens } }
}

fn replica(max_num_seqs: u32, block_size: u32, kv_blocks: u32) -> ReplicaSettings {
    ReplicaSettings {
        max_num_seqs,
        max_num_batched_tokens: 1_000,
        max_loras: 4,
        max_lora_rank: 64,
        block_size,
        kv_blocks,
        ..ReplicaSettings::boundless()
    }
}

/// Step, row, context and prompt token, ps.
fn prices([step, row, context, prompt_token]: [u64; 4]) -> ToyPrices {
    ToyPrices {
        step: ps(step),
        row: ps(row),
        context: ps(context),
        prompt_token: ps(prompt_token),
        segment: Span::ZERO,
        copy: Span::ZERO,
        sag: Span::ZERO,
        parts: Span::ZERO,
        promise: Promise::Affine(u32::MAX),
    }
}

fn scenario(replicas: Vec<ReplicaSettings>, prices: ToyPrices, asks: &[Asks]) -> Scenario {
    let settings = ClusterSettings::of(replicas, 2);
    let adapter = |bytes| Adapter { name: format!("{bytes} bytes"), rank: 16, bytes, owner: None };
    Scenario {
        seed: 2,
        unit: ps(1),
        settings,
        catalog: Catalog {
            tenants: vec![Tenant { name: "everybody".to_owned(), weight: 1.0, slo_class: 0 }],
            adapters: [20, 11, 11].map(adapter).into(),
        },
        offered: asks.iter().enumerate().map(|(id, ask)| offered(id, ask)).collect(),
        prices,
    }
}

/// The run is the same step by step, and its books balance.
fn holds(scenario: &Scenario, policies: &RandomPolicies) {
    let case = Case { rule: None, policies: policies.clone(), scenario: scenario.clone() };
    assert_eq!(case.fails(), None);
}

#[test]
fn a_sequence_preempted_to_the_cluster_remembers_its_last_token() {
    let asks = [(0, None, 9, 17), (220, None, 12, 14)];
    let scenario = scenario(vec![replica(5, 3, 17)], prices([90, 0, 0, 0]), &asks);
    for seed in 0..20 {
        holds(&scenario, &RandomPolicies { requeue_to_cluster: true, ..RandomPolicies::plain(seed) });
    }
}

#[test]
fn after_a_preemption_the_batcher_is_asked_at_the_next_step() {
    let asks = [(156, None, 4, 24), (210, None, 12, 16)];
    let scenario = scenario(vec![replica(4, 5, 12)], prices([3, 0, 1, 0]), &asks);
    for seed in 0..20 {
        holds(&scenario, &RandomPolicies { reserve: 2, ..RandomPolicies::plain(seed) });
    }
}

#[test]
fn a_client_may_give_up_while_its_step_is_stalled() {
    let asks = [(56, Some(0), 1, 2), (73, Some(2), 1, 1), (73, Some(1), 1, 1)];
    let disk_link = Link { latency: ps(13), bytes_per_second: Some(500_000_000_000) };
    let replica = ReplicaSettings { host_adapters: AdapterMemory::Slots(1), disk_link, ..replica(6, 4, 1_000) };
    let mut scenario = scenario(vec![replica], prices([9, 0, 1, 0]), &asks);
    for timeout in (1..160).step_by(3) {
        scenario.settings.client_timeout = Some(ps(timeout));
        holds(&scenario, &RandomPolicies::plain(1));
    }
}

#[test]
fn who_stood_behind_a_request_that_left_the_queue_is_tried_at_the_next_step() {
    let asks = [(0, None, 20, 26), (20, None, 30, 1), (290, None, 2, 1)];
    let mut scenario = scenario(vec![replica(4, 1, 47); 2], prices([50, 20, 10, 10]), &asks);
    for seed in 0..100 {
        scenario.settings.seed = seed;
        holds(&scenario, &RandomPolicies { migrator_period: Some(ps(200)), ..RandomPolicies::plain(seed) });
    }
}

#[test]
fn a_stretch_that_ends_now_ends_in_its_turn_when_a_request_is_routed_to_it() {
    let asks = [
        (0, None, 1, 25),
        (47, None, 3, 12),
        (67, None, 4, 16),
        (108, None, 3, 14),
        (108, None, 3, 1),
        (108, None, 1, 1),
    ];
    let scenario = scenario(vec![replica(6, 6, 18); 2], prices([6, 2, 0, 1]), &asks);
    for seed in 0..200 {
        let hold = RandomPolicies { hold: 103, scaler_period: Some(ps(33)), ..RandomPolicies::plain(seed) };
        holds(&scenario, &hold);
    }
}

#[test]
fn a_request_preempted_to_the_cluster_does_not_join_a_step_that_has_begun() {
    let asks = [(0, None, 1, 1), (25, None, 3, 18), (34, None, 2, 13), (42, None, 1, 7)];
    let scenario = scenario(vec![replica(2, 2, 23), replica(3, 6, 5)], prices([1, 0, 0, 2]), &asks);
    for seed in 0..200 {
        holds(&scenario, &RandomPolicies { requeue_to_cluster: true, ..RandomPolicies::plain(seed) });
    }
}

#[test]
fn why_a_request_waits_does_not_depend_on_who_joins_a_full_batch() {
    let asks = [(0, None, 4, 26), (46, Some(0), 11, 15), (124, None, 18, 8), (124, None, 14, 8), (173, Some(1), 1, 1)];
    let disk_link = Link { latency: ps(20), bytes_per_second: Some(500_000_000_000) };
    let host_adapters = AdapterMemory::Bytes(32);
    let replica = ReplicaSettings { host_adapters, disk_link, max_loras: 1, ..replica(4, 4, 27) };
    let scenario = scenario(vec![replica], prices([3, 1, 0, 1]), &asks);
    for seed in 0..100 {
        let skips = RandomPolicies { decode_first: true, stop_at_refusal: false, ..RandomPolicies::plain(seed) };
        holds(&scenario, &skips);
        holds(&scenario, &RandomPolicies { load_mode: LoadMode::Overlapped, ahead: 2, ..skips });
    }
}

#[test]
fn every_case_that_was_kept_holds() {
    let files = std::fs::read_dir(Case::folder()).expect("the folder of regressions");
    let mut held = 0;
    for file in files.map(|entry| entry.expect("an entry").path()) {
        let case = Case::of_toml(&std::fs::read_to_string(&file).expect("a text"));
        assert_eq!(case.fails(), None, "{}", file.display());
        held += 1;
    }
    assert!(held > 0, "no file in {}", Case::folder().display());
}
