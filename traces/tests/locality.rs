//! Tenancy with locality against the measured stream, and what independent draws give in its place.

use aril_traces::{GENTD26, Inspection, Locality, Traffic, WorkingSet, fit, inspect};

use crate::given::{build, traffic, try_build};

/// The stream of the fit: as many uses as measured, at the measured rate in active hours.
const STREAM: &str = r#"
    requests = 4858
    arrivals.on-off = { rate_on = 0.0065, on = "3h", off = "5h" }
    input_tokens = 1
    output_tokens = 1
"#;
/// None of them was used for the fit.
const SEEDS: std::ops::Range<u64> = 101..109;

fn streams(popularity: &str) -> Vec<Inspection> {
    let text = format!("{STREAM}\n{popularity}");
    SEEDS.map(|seed| inspect(&try_build(&text, ".".as_ref(), seed, 0).unwrap())).collect()
}

fn mean_hit_rates(streams: &[Inspection]) -> Vec<(u32, f64)> {
    let mean =
        |slot: usize| streams.iter().map(|stream| stream.lru_hit_rate[slot].1).sum::<f64>() / streams.len() as f64;
    streams[0].lru_hit_rate.iter().enumerate().map(|(i, (slots, _))| (*slots, mean(i))).collect()
}

/// (slots, drawn, measured)
fn beside_measured(streams: &[Inspection]) -> Vec<(u32, f64, f64)> {
    let measured = Locality::from(GENTD26);
    mean_hit_rates(streams)
        .into_iter()
        .zip(measured.lru_hit_rate)
        .map(|((slots, drawn), (_, real))| (slots, drawn, real))
        .collect()
}

#[test]
fn the_working_set_hits_as_the_measured_stream_does_at_every_number_of_slots_and_zipf_does_not() {
    let sessions = streams("popularity.working-set = { tenants = 537, adapters = 874 }");
    for (slots, drawn, measured) in beside_measured(&sessions) {
        assert!((drawn - measured).abs() <= 0.05, "{slots} slots: drawn {drawn:.3}, measured {measured:.3}");
    }
    for s in [0.85, 0.92] {
        let independent = beside_measured(&streams(&format!("popularity.zipf = {{ s = {s}, adapters = 389 }}")));
        assert!(independent.iter().all(|(_, drawn, measured)| measured - drawn > 0.05), "{independent:?}");
        let (_, drawn, measured) = independent[3];
        assert!(measured / drawn > 4.0, "at 8 slots: drawn {drawn:.3}, measured {measured:.3}");
    }
}

#[test]
fn the_stream_also_has_the_measured_adapters_sessions_and_repeats() {
    let streams = streams("popularity.working-set = { tenants = 537, adapters = 874 }");
    let mean = |of: &dyn Fn(&Inspection) -> f64| streams.iter().map(of).sum::<f64>() / streams.len() as f64;
    let near = |what: &str, drawn: f64, measured: f64, share: f64| {
        assert!((drawn / measured - 1.0).abs() < share, "{what}: drawn {drawn:.3}, measured {measured}");
    };
    near("adapters", mean(&|s| s.adapters.distinct as f64), 389.0, 0.1);
    near("sessions", mean(&|s| s.sessions.unwrap().sessions as f64), 642.0, 0.1);
    near("uses of a session", mean(&|s| s.sessions.unwrap().uses), 7.6, 0.1);
    near("repeats", mean(&|s| s.sessions.unwrap().repeats), 0.682, 0.05);
    // Not fitted.
    near("adapters of a session", mean(&|s| s.sessions.unwrap().adapters), 1.64, 0.15);
    near("rate in active hours", mean(&|s| s.span_s.unwrap() / 86_400.0), 23.0, 0.15);
}

#[test]
fn the_fit_comes_nearer_from_a_bad_start() {
    let traffic: Traffic = traffic(&STREAM.replace("4858", "1500"));
    let bad = WorkingSet {
        tenants: 537,
        adapters: 874,
        returning: 0.1,
        fresh: 0.9,
        session_requests: 20.0,
        ..WorkingSet::default()
    };
    let measured = Locality::from(GENTD26);
    let before = fit(&traffic, &bad, &measured, &[1], 0).unwrap().locality.hit_rate_error(&measured);
    let after = fit(&traffic, &bad, &measured, &[1], 60).unwrap().locality.hit_rate_error(&measured);
    assert!(before > 0.15 && after < before / 2.0, "before {before:.3}, after {after:.3}");
}

/// At a production rate many sessions interleave: locality falls with the rate, and every tenant keeps its share.
#[test]
fn locality_falls_as_more_tenants_interleave() {
    let at = |rate: f64| {
        let text = format!(
            "requests = 20000\narrivals.poisson = {{ rate = {rate} }}\ninput_tokens = 1\noutput_tokens = 1\n\
             popularity.working-set = {{ tenants = 128, adapters = 512 }}"
        );
        inspect(&build(&text))
    };
    let (slow, fast) = (at(0.005), at(5.0));
    for ((slots, slow), (_, fast)) in slow.lru_hit_rate.iter().zip(&fast.lru_hit_rate).take(5) {
        assert!(slow - fast > 0.15, "{slots} slots: {slow:.3} at 0.005/s, {fast:.3} at 5/s");
    }
    assert!(fast.tenants.distinct > 115 && fast.adapters.distinct > 300, "{:?} {:?}", fast.tenants, fast.adapters);
    assert!(fast.tenants.top_1 < 0.5, "{:?}", fast.tenants);
}

#[test]
fn it_keeps_its_pace_at_a_million_requests() {
    let text = "requests = 1000000\narrivals.poisson = { rate = 800.0 }\ninput_tokens = 1\noutput_tokens = 1\n\
                popularity.working-set = { tenants = 2000, adapters = 10000 }";
    let adapters: std::collections::BTreeSet<_> =
        build(text).arrivals().take(200_000).filter_map(|o| o.request.adapter).collect();
    assert!(adapters.len() > 2000, "{}", adapters.len());
}
