//! Work that nothing will ever serve fails loudly, and says who waits for what.

use aril_sim::batch::{Batch, Executor, Price};
use aril_sim::draft::Draft;
use aril_sim::engine::Stalled;
use aril_sim::fleet::Fleet;
use aril_sim::policy::{Asked, Batcher, Policies, Route, Router};
use aril_sim::random::{self, Stream};
use aril_sim::settings::ClusterSettings;
use aril_sim::time::Span;
use aril_sim::workload::RequestId;

use super::station::{catalog, first_come, poisson, servers, visits};

struct Second;

impl Executor for Second {
    fn run(&mut self, _: &Batch<'_>) -> Price {
        Price::once(Span::from_secs(1))
    }
}

struct HoldsForEver;

impl Router for HoldsForEver {
    fn route(&mut self, _: &Asked<'_>, _: &Fleet<'_>, _: &mut Stream) -> Route {
        Route::Hold
    }
}

struct NeverAdmits;

impl Batcher for NeverAdmits {
    fn compose(&mut self, _: &mut Draft<'_>) {}
}

/// Admits everybody and decodes nobody.
struct NeverDecodes;

impl Batcher for NeverDecodes {
    fn compose(&mut self, draft: &mut Draft<'_>) {
        for position in 0..draft.waiting_len() {
            let _ = draft.admit(position);
        }
    }
}

/// Decodes as long as somebody waits.
struct Rests;

impl Batcher for Rests {
    fn compose(&mut self, draft: &mut Draft<'_>) {
        if draft.waiting_len() > 0 {
            draft.decode_all();
            let _ = draft.admit(0);
        }
    }
}

fn stalls(settings: &ClusterSettings, policies: &Policies) -> Stalled {
    let offered = poisson(&mut random::stream(1, "stalled"), 10.0, 5, |_, offered| {
        offered.outcome.output_tokens = 3;
        offered.request.prompt_tokens = 10;
    });
    let stalled = visits(settings, &catalog(0), policies, Second, offered).expect_err("nothing serves them");
    assert_eq!(stalled.count, 5);
    let first: Vec<RequestId> = stalled.waiting.iter().map(|(request, _)| *request).collect();
    assert_eq!(first, [0, 1, 2].map(RequestId));
    stalled
}

#[test]
fn a_router_that_holds_for_ever_is_named_with_those_it_holds() {
    let policies = Policies { router: Box::new(|| Box::new(HoldsForEver)), ..first_come(1) };
    let mut settings = servers(2, 1, Span::ZERO);
    // Whether clocks tick meanwhile or not.
    for interval in [Span::ZERO, Span::from_ms(100)] {
        settings.signals_interval = interval;
        let stalled = stalls(&settings, &policies);
        assert!(stalled.waiting[0].1.contains("the router holds it"), "{stalled}");
        assert!(stalled.to_string().contains("5 requests wait"), "{stalled}");
    }
}

#[test]
fn a_batcher_that_never_admits_is_named_with_what_its_replica_has_free() {
    let policies = Policies { batcher: Box::new(|| Box::new(NeverAdmits)), ..first_come(u32::MAX) };
    let stalled = stalls(&servers(1, 8, Span::ZERO), &policies);
    let text = &stalled.waiting[0].1;
    assert!(text.contains("queue of replica 0") && text.contains("1000000 of 1000000 KV blocks free"), "{stalled}");
}

#[test]
fn a_batcher_that_leaves_a_row_out_for_ever_is_named() {
    let policies = Policies { batcher: Box::new(|| Box::new(NeverDecodes)), ..first_come(u32::MAX) };
    let stalled = stalls(&servers(1, 8, Span::ZERO), &policies);
    assert!(stalled.waiting[0].1.contains("in the batch of replica 0"), "{stalled}");
    assert!(stalled.waiting[0].1.contains("leaves it out"), "{stalled}");
}

#[test]
fn a_prompt_that_fits_no_step_stalls_under_a_batcher_that_does_not_divide_it() {
    let mut settings = servers(1, 8, Span::ZERO);
    settings.replicas[0].max_num_batched_tokens = 9;
    let stalled = stalls(&settings, &first_come(u32::MAX));
    assert!(stalled.waiting[0].1.contains("(10 tokens, base model)"), "{stalled}");
}

#[test]
fn a_request_that_fills_the_memory_exactly_is_served_and_one_token_more_is_turned_away() {
    // 10 prompt and 39 output tokens: the KV of the last is never computed.
    let mut settings = servers(1, 8, Span::ZERO);
    (settings.replicas[0].block_size, settings.replicas[0].kv_blocks) = (16, 3);
    for (output_tokens, fits) in [(39, true), (40, false)] {
        let offered = poisson(&mut random::stream(1, "memory"), 10.0, 3, |_, offered| {
            offered.outcome.output_tokens = output_tokens;
            offered.request.prompt_tokens = 10;
        });
        let seen = visits(&settings, &catalog(0), &first_come(u32::MAX), Second, offered).expect("all end");
        assert!(seen.iter().all(|visit| visit.finished == fits), "{output_tokens}: {seen:?}");
    }
}

#[test]
fn a_client_that_gives_up_ends_the_wait() {
    let policies = Policies { router: Box::new(|| Box::new(HoldsForEver)), ..first_come(1) };
    let mut settings = servers(1, 1, Span::ZERO);
    settings.client_timeout = Some(Span::from_secs(2));
    let offered = poisson(&mut random::stream(1, "stalled"), 10.0, 5, |_, _| {});
    let seen = visits(&settings, &catalog(0), &policies, Second, offered).expect("all give up");
    assert!(seen.len() == 5 && seen.iter().all(|visit| !visit.finished && visit.sojourn == 2.0), "{seen:?}");
}

#[test]
fn a_batcher_that_rests_with_a_full_batch_is_asked_again_when_somebody_comes() {
    let policies = Policies { batcher: Box::new(|| Box::new(Rests)), ..first_come(u32::MAX) };
    let offered = poisson(&mut random::stream(1, "rests"), 0.1, 2, |_, offered| {
        offered.outcome.output_tokens = if offered.request.id.0 == 0 { 3 } else { 1 };
    });
    let visits = visits(&servers(1, 1, Span::ZERO), &catalog(0), &policies, Second, offered).expect("both are served");
    assert_eq!(visits.len(), 2);
}
