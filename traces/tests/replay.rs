//! Replaying a trace: as it is, in part, faster, and in another order.

use std::collections::BTreeMap;

use aril_sim::workload::Offered;
use proptest::prelude::*;

use crate::given::{SEED, build, file, requests, try_build};

const CONV: &str = "trace = \"azure-llm-2023-conv\"\n";

fn replica(text: &str, seed: u64, replica: u32) -> Vec<Offered> {
    try_build(text, ".".as_ref(), seed, replica).unwrap().arrivals().collect()
}

#[test]
fn the_seed_that_replays_the_trace_as_recorded_draws_nothing() {
    assert_eq!(replica(CONV, 1, 0), replica(CONV, 2, 0));
    let first = &replica(CONV, 1, 0)[0];
    assert_eq!((first.request.prompt_tokens, first.outcome.output_tokens), (374, 44));
}

#[test]
fn further_seeds_reorder_blocks_and_keep_what_is_in_them() {
    let text = format!("{CONV}window = {{ duration = \"40m\" }}");
    let original = replica(&text, SEED, 0);
    let known: std::collections::BTreeSet<(u32, u32)> =
        original.iter().map(|o| (o.request.prompt_tokens, o.outcome.output_tokens)).collect();
    let mut counts = Vec::new();
    for k in 1..=5 {
        let resampled = replica(&text, SEED + u64::from(k), k);
        assert!(resampled.is_sorted_by_key(|offered| offered.request.arrival));
        assert!(resampled.iter().enumerate().all(|(i, offered)| offered.request.id.index() == i));
        assert!(resampled.iter().all(|o| known.contains(&(o.request.prompt_tokens, o.outcome.output_tokens))));
        assert!(resampled.last().unwrap().request.arrival.as_secs_f64() < 2400.0);
        counts.push(resampled.len() as f64);
        assert_ne!(resampled, original);
    }
    // 40 blocks of about 330 requests with a coefficient of variation of about 0.2.
    let mean = counts.iter().sum::<f64>() / 5.0;
    assert!((mean / original.len() as f64 - 1.0).abs() < 0.1, "{counts:?} {}", original.len());
}

/// Inside a block gaps are the trace's own: only seams are new.
#[test]
fn blocks_are_copied_with_their_gaps() {
    let text = format!("{CONV}window = {{ duration = \"40m\" }}\nresample.block = \"120s\"");
    let gaps = |all: &[Offered]| -> Vec<(u64, u32, u32)> {
        let gap = |pair: &[Offered]| {
            let gap = pair[1].request.arrival.since(pair[0].request.arrival).as_ps();
            (gap, pair[0].request.prompt_tokens, pair[1].request.prompt_tokens)
        };
        all.windows(2).map(gap).collect()
    };
    let known: std::collections::BTreeSet<_> = gaps(&replica(&text, SEED, 0)).into_iter().collect();
    let new = gaps(&replica(&text, SEED, 1)).into_iter().filter(|gap| !known.contains(gap)).count();
    // 20 blocks, and around the end of the trace one seam more.
    assert!(new <= 21, "{new}");
}

#[test]
fn a_reach_keeps_the_shape_of_the_day() {
    // Twice as fast in the second half.
    let rows: String = (0..6000)
        .map(|i| format!("{},1,1\n", if i < 2000 { i as f64 } else { 2000.0 + (i - 2000) as f64 / 2.0 }))
        .collect();
    let (folder, _) = file("t.csv", format!("arrival_s,input_tokens,output_tokens\n{rows}"));
    let late_share = |resample: &str| {
        let workload = try_build(&format!("trace = \"t.csv\"\n{resample}"), folder.path(), 3, 1).unwrap();
        let all: Vec<f64> = workload.arrivals().map(|offered| offered.request.arrival.as_secs_f64()).collect();
        all.iter().filter(|at| **at >= 2000.0).count() as f64 / all.len() as f64
    };
    let near = late_share("resample = { block = \"60s\", reach = \"120s\" }");
    let anywhere = late_share("resample = { block = \"60s\" }");
    assert!((near - 2.0 / 3.0).abs() < 0.03, "{near}");
    assert!((anywhere - 0.5).abs() < 0.12, "{anywhere}");
}

#[test]
fn ids_stay_with_their_requests_when_blocks_move() {
    let rows: String = (0..3000).map(|i| format!("{i},tenant-{},lora-{},{},{}\n", i % 7, i % 11, i + 1, 5)).collect();
    let (folder, _) = file("t.csv", format!("arrival_s,tenant,adapter,input_tokens,output_tokens\n{rows}"));
    let workload = try_build("trace = \"t.csv\"", folder.path(), 5, 3).unwrap();
    for offered in workload.arrivals() {
        let row = offered.request.prompt_tokens - 1;
        assert_eq!(workload.catalog.tenants[offered.request.tenant.index()].name, format!("tenant-{}", row % 7));
        let adapter = offered.request.adapter.unwrap();
        assert_eq!(workload.catalog.adapters[adapter.index()].name, format!("lora-{}", row % 11));
    }
}

#[test]
fn a_scaled_rate_squeezes_time_and_nothing_else() {
    let text = |scale: f64| {
        format!(
            "{CONV}window = {{ duration = \"40m\", warmup = \"5m\" }}\nrate_scale = {scale}\npopularity.working-set = {{}}"
        )
    };
    let (slow, fast) = (requests(&text(1.0)), requests(&text(4.0)));
    assert_eq!(slow.len(), fast.len());
    for (slow, fast) in slow.iter().zip(&fast) {
        assert!((slow.request.arrival.as_ps() as f64 / 4.0 - fast.request.arrival.as_ps() as f64).abs() <= 1.0);
        assert_eq!(
            (slow.request.adapter, slow.request.tenant, slow.outcome),
            (fast.request.adapter, fast.request.tenant, fast.outcome)
        );
    }
    let traffic = crate::given::traffic(&text(4.0));
    assert_eq!(traffic.warmup().to_string(), "75s");
    assert_eq!(build(&text(4.0)).span().to_string(), "10m");
}

#[test]
fn a_trace_s_requests_may_come_at_other_times() {
    let rows = requests(CONV);
    let retimed = requests(&format!("{CONV}arrivals.poisson.rate = 100.0\nrequests = 2000"));
    assert_eq!(retimed.len(), 2000);
    assert!(retimed.last().unwrap().request.arrival.as_secs_f64() < 30.0);
    assert!(
        rows.iter()
            .zip(&retimed)
            .all(|(a, b)| (a.request.prompt_tokens, a.outcome) == (b.request.prompt_tokens, b.outcome))
    );
    let closed = replica("trace = \"punica-textgen-1024\"\narrivals = \"closed\"", 9, 1);
    assert_eq!(closed.len(), 1024);
    assert_ne!(closed[0].request.prompt_tokens, 24);
}

#[test]
fn an_adapter_that_one_tenant_alone_uses_is_its_own() {
    let (folder, _) = file(
        "t.csv",
        "arrival_s,tenant,adapter,input_tokens,output_tokens\n0,a,x,1,1\n1,a,y,1,1\n2,b,y,1,1\n3,b,,1,1\n4,,z,1,1\n",
    );
    let workload = try_build("trace = \"t.csv\"", folder.path(), 1, 0).unwrap();
    let owners: BTreeMap<&str, Option<&str>> = workload
        .catalog
        .adapters
        .iter()
        .map(|a| (a.name.as_str(), a.owner.map(|owner| workload.catalog.tenants[owner.index()].name.as_str())))
        .collect();
    assert_eq!(owners, BTreeMap::from([("x", Some("a")), ("y", None), ("z", None)]));
    let last = workload.arrivals().last().unwrap();
    assert_eq!(workload.catalog.tenants[last.request.tenant.index()].name, "(none)");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn every_workload_is_in_order_numbered_and_refers_to_its_catalogue(
        seed in any::<u64>(),
        replica in 0_u32..4,
        arrivals in 0_usize..5,
        popularity in 0_usize..9,
        scale in 0.1_f64..50.0,
        base_share in 0.0_f64..1.0,
    ) {
        let arrivals = [
            "trace = \"mooncake-conversation-5min\"",
            "trace = \"azure-llm-2023-code\"\nwindow = { start = \"3m\", duration = \"5m\" }",
            "trace = \"ragpulse-day\"\narrivals.gamma = { rate = 3.0, cv = 4.0 }",
            "arrivals.vary = { rps = 4.0 }\nwindow.duration = \"5m\"\ninput_tokens = { uniform = [1, 9] }\ntotal_tokens = { uniform = [0, 99] }",
            "closed-loop.requests = 500\ninput_tokens = { lognormal = { s = 4.0, scale = 1000.0 } }\noutput_tokens = { exponential.mean = 1e5 }",
        ][arrivals];
        let popularity = [
            "\"trace\"", "\"base\"", "\"distinct\"", "\"identical\"", "\"uniform-sqrt\"", "\"geometric\"",
            "{ zipf = {} }", "{ power = { alpha = 0.3 } }", "\"working-set\"",
        ][popularity];
        let text = format!("{arrivals}\npopularity = {popularity}\nrate_scale = {scale}\nbase_share = {base_share}\noutput_predictor.noisy.relative_error = 2.0");
        let workload = try_build(&text, ".".as_ref(), seed, replica).unwrap();
        let mut before = aril_sim::time::Time::ZERO;
        let mut n = 0;
        for offered in workload.arrivals() {
            let request = &offered.request;
            prop_assert_eq!(request.id.index(), n);
            prop_assert!(request.arrival >= before);
            prop_assert!(request.tenant.index() < workload.catalog.tenants.len());
            prop_assert!(request.adapter.is_none_or(|adapter| adapter.index() < workload.catalog.adapters.len()));
            prop_assert!(request.prompt_tokens >= 1 && request.max_tokens >= 1);
            prop_assert!(request.prompt_tokens + request.max_tokens <= 200_000);
            prop_assert!((1..=request.max_tokens).contains(&offered.outcome.output_tokens));
            prop_assert!(request.predicted_output_tokens.unwrap() >= 1);
            before = request.arrival;
            n += 1;
        }
        prop_assert!(n > 0);
    }
}

#[test]
fn prompts_that_were_cut_are_counted_among_the_requests_that_are_replayed() {
    let notes = |text: &str| {
        let traffic = crate::given::traffic(&format!("trace = \"azure-llm-2023-conv\"\n{text}"));
        let context = aril_traces::Context {
            base: ".".as_ref(),
            seed: 1,
            as_recorded: true,
            adapter_bytes: &|_| 0,
            max_model_len: 2048,
        };
        let workload = traffic.build(&context).unwrap();
        (workload.len_hint(), workload.description().notes.join("\n"))
    };
    let (all, whole) = notes("too_long = \"clip\"");
    assert!(whole.contains(&format!(" of {all} prompts of azure-llm-2023-conv")), "{whole}");
    let (some, part) = notes("too_long = \"clip\"\nwindow.duration = \"30s\"");
    assert!(some < 500 && part.contains(&format!(" of {some} prompts of azure-llm-2023-conv")), "{some}: {part}");
    let (left, dropped) = notes("too_long = \"drop\"\nwindow.duration = \"30s\"");
    let count = |text: &str| text.split(' ').next().unwrap().parse::<u64>().unwrap();
    assert!(dropped.contains(&format!(" of {} prompts", left + count(&dropped))), "{left}: {dropped}");
    assert_eq!(count(&dropped), count(&part));
}
