//! Drawn traffic follows its laws. Seeds are fixed; tolerances are four to five standard errors unless stated.

use std::collections::BTreeMap;

use aril_sim::workload::Offered;
use aril_traces::inspect;

use crate::given::{build, requests};

const LENGTHS: &str = "input_tokens = 8\noutput_tokens = 8\n";

fn arrivals(law: &str) -> Vec<f64> {
    requests(&format!("{LENGTHS}{law}")).iter().map(|offered| offered.request.arrival.as_secs_f64()).collect()
}

fn gaps(arrivals: &[f64]) -> (f64, f64) {
    let gaps: Vec<f64> = arrivals.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
    let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
    (mean, variance.sqrt() / mean)
}

#[test]
fn constant_arrivals_come_at_equal_gaps_without_drift() {
    let arrivals = arrivals("arrivals.constant.rate = 3.0\nrequests = 3001");
    assert_eq!((arrivals[0], arrivals[3000]), (0.0, 1000.0));
}

#[test]
fn poisson_and_gamma_arrivals_have_their_rate_and_burstiness() {
    let (mean, cv) = gaps(&arrivals("arrivals.poisson.rate = 5.0\nrequests = 40000"));
    assert!((mean * 5.0 - 1.0).abs() < 0.02 && (cv - 1.0).abs() < 0.03, "{mean} {cv}");
    for (given, tolerance) in [(0.25_f64, 0.02), (1.0, 0.03), (3.0, 0.15)] {
        let (mean, cv) = gaps(&arrivals(&format!("arrivals.gamma = {{ rate = 5.0, cv = {given} }}\nrequests = 40000")));
        assert!((mean * 5.0 - 1.0).abs() < 0.025 * given.max(1.0), "cv {given}: {mean}");
        assert!((cv - given).abs() < tolerance, "cv {given}: {cv}");
    }
}

#[test]
fn on_off_arrivals_come_in_bursts_at_the_long_run_rate() {
    let law = "arrivals.on-off = { rate_on = 20.0, on = \"10s\", off = \"30s\" }\nwindow.duration = \"20h\"";
    let workload = build(&format!("{LENGTHS}{law}"));
    assert_eq!(workload.len_hint(), 360_000);
    let figures = inspect(&workload);
    // 1,800 cycles of 40 s: the share of time that is on has a relative standard error of about 3 %.
    assert!((figures.requests as f64 / 360_000.0 - 1.0).abs() < 0.12, "{}", figures.requests);
    // Gaps of an interrupted Poisson process: cv² = 1 + 2 λ σ / (on + off rates)², with rates 1/10 and 1/30 a second.
    let (lambda, to_off, to_on) = (20.0, 0.1, 1.0 / 30.0);
    let cv = f64::sqrt(1.0 + 2.0 * lambda * to_off / f64::powi(to_off + to_on, 2));
    assert!((figures.gap_cv.unwrap() / cv - 1.0).abs() < 0.1, "{:?} {cv}", figures.gap_cv);
}

#[test]
fn a_markov_chain_spends_its_time_as_its_transitions_say() {
    let law = r#"
        arrivals.mmpp.states = [{ rate = 0.0, mean = "10s" }, { rate = 4.0, mean = "5s" }, { rate = 40.0, mean = "1s" }]
        arrivals.mmpp.transitions = [[0.0, 1.0, 0.0], [0.5, 0.0, 0.5], [0.0, 1.0, 0.0]]
        window.duration = "10h"
    "#;
    // Visits 1 : 2 : 1, so times 10 : 10 : 1 and (0·10 + 4·10 + 40·1) / 21 requests a second.
    let workload = build(&format!("{LENGTHS}{law}"));
    assert_eq!(workload.len_hint(), (36_000.0 * 80.0 / 21.0_f64).round() as u64);
    let drawn = workload.arrivals().count() as f64;
    assert!((drawn / (36_000.0 * 80.0 / 21.0) - 1.0).abs() < 0.06, "{drawn}");
}

#[test]
fn a_changing_rate_is_followed_from_minute_to_minute() {
    let within = |law: &str, from: f64, to: f64, expected: f64| {
        let drawn = arrivals(law).iter().filter(|at| (from..to).contains(*at)).count() as f64;
        assert!((drawn - expected).abs() < 4.5 * expected.sqrt() + 1e-9, "{law}: {drawn} in place of {expected}");
    };
    let ramp = "arrivals.ramp = { from = 0.0, to = 20.0 }\nwindow.duration = \"1000s\"";
    within(ramp, 0.0, 500.0, 2_500.0);
    within(ramp, 500.0, 1000.0, 7_500.0);
    let lines = "arrivals.piecewise.points = [[\"0s\", 10.0], [\"100s\", 10.0], [\"100s\", 0.0], [\"200s\", 0.0], [\"200s\", 5.0]]\nwindow.duration = \"400s\"";
    within(lines, 0.0, 100.0, 1_000.0);
    within(lines, 100.0, 200.0, 0.0);
    within(lines, 200.0, 400.0, 1_000.0);
    let day = "arrivals.diurnal = { peak = 1.0, trough = 0.2, peak_at = \"14h\" }\nwindow.duration = \"24h\"";
    within(day, 0.0, 86_400.0, 0.6 * 86_400.0);
    let hour = |around: f64| {
        let mean = (1.0 + (std::f64::consts::TAU * (around - 14.0) / 24.0).cos()) * 0.4 + 0.2;
        within(day, (around - 0.5) * 3600.0, (around + 0.5) * 3600.0, mean * 3600.0);
    };
    hour(14.0);
    hour(2.0);
    hour(8.0);
}

#[test]
fn lengths_follow_their_laws_within_their_bounds() {
    let drawn = |law: &str| -> Vec<u32> {
        let all = requests(&format!("closed-loop.requests = 50000\noutput_tokens = 1\ninput_tokens = {law}"));
        all.iter().map(|offered| offered.request.prompt_tokens).collect()
    };
    let mean = |all: &[u32]| all.iter().map(|length| f64::from(*length)).sum::<f64>() / all.len() as f64;
    let range = |all: &[u32]| (*all.iter().min().unwrap(), *all.iter().max().unwrap());
    assert_eq!(range(&drawn("77")), (77, 77));
    assert_eq!(range(&drawn("{ fixed = 77 }")), (77, 77));
    let uniform = drawn("{ uniform = [8, 512] }");
    assert_eq!(range(&uniform), (8, 511));
    assert!((mean(&uniform) - 259.5).abs() < 3.0);
    let exponential = drawn("{ exponential = { mean = 200.0, min = 1, max = 100000 } }");
    // Cut to whole tokens, the mean is half a token less.
    assert!((mean(&exponential) - 199.5).abs() < 4.5, "{}", mean(&exponential));
    let mut lognormal = drawn("{ lognormal = { s = 1.0, scale = 100.0, min = 10, max = 5000 } }");
    assert!(range(&lognormal).0 >= 10 && range(&lognormal).1 <= 5000);
    lognormal.sort_unstable();
    let (median, p84) = (f64::from(lognormal[25_000]), f64::from(lognormal[42_067]));
    assert!((median / 100.0 - 1.0).abs() < 0.03 && (p84 / 100.0 - 1.0_f64.exp()).abs() < 0.1, "{median} {p84}");
}

#[test]
fn lengths_from_a_trace_are_drawn_as_pairs() {
    let pairs: std::collections::BTreeSet<(u32, u32)> =
        requests("trace = \"vidur-arxiv-lengths\"\narrivals = \"closed\"")
            .iter()
            .map(|offered| (offered.request.prompt_tokens, offered.outcome.output_tokens))
            .collect();
    let drawn = requests("arrivals.poisson.rate = 2.0\nrequests = 5000\nlengths.trace = \"vidur-arxiv-lengths\"");
    assert!(drawn.iter().all(|o| pairs.contains(&(o.request.prompt_tokens, o.outcome.output_tokens))));
    let distinct: std::collections::BTreeSet<u32> = drawn.iter().map(|offered| offered.request.prompt_tokens).collect();
    assert!(distinct.len() > 1_000);
}

#[test]
fn independent_popularities_have_their_shares() {
    let shares = |law: &str| {
        let text = format!("closed-loop.requests = 100000\n{LENGTHS}popularity = {law}");
        let mut counts = BTreeMap::new();
        for offered in requests(&text) {
            *counts.entry(offered.request.adapter.unwrap().0).or_insert(0_u32) += 1;
        }
        move |adapter: u32| f64::from(counts.get(&adapter).copied().unwrap_or(0)) / 100_000.0
    };
    let zipf = shares("{ zipf = { s = 1.0, adapters = 100 } }");
    let harmonic: f64 = (1..=100).map(|rank| 1.0 / f64::from(rank)).sum();
    for rank in [1, 2, 10, 100] {
        let expected = 1.0 / f64::from(rank) / harmonic;
        assert!((zipf(rank - 1) - expected).abs() < 5.0 * (expected / 100_000.0).sqrt(), "rank {rank}");
    }
    // S-LoRA: P(adapter < k) = (k/n)^α.
    let power = shares("{ power = { alpha = 0.5, adapters = 100 } }");
    let first_quarter: f64 = (0..25).map(&power).sum();
    assert!((first_quarter - 0.5).abs() < 0.01, "{first_quarter}");
    let uniform = shares("{ uniform = { adapters = 4 } }");
    assert!((0..4).all(|adapter| (uniform(adapter) - 0.25).abs() < 0.01));
}

#[test]
fn ranks_are_mixed_by_weight_and_a_share_goes_to_the_base_model() {
    let text = format!(
        "closed-loop.requests = 4000\n{LENGTHS}popularity = \"distinct\"\nranks = {{ 8 = 0.4, 16 = 0.4, 64 = 0.2 }}\nbase_share = 0.25"
    );
    let workload = build(&text);
    let share = |rank: u32| workload.catalog.adapters.iter().filter(|a| a.rank == rank).count() as f64 / 4000.0;
    assert!((share(8) - 0.4).abs() < 0.04 && (share(16) - 0.4).abs() < 0.04 && (share(64) - 0.2).abs() < 0.04);
    assert!(workload.catalog.adapters.iter().all(|adapter| adapter.bytes == u64::from(adapter.rank) * 1_000_000));
    let base = workload.arrivals().filter(|offered| offered.request.adapter.is_none()).count() as f64 / 4000.0;
    assert!((base - 0.25).abs() < 0.03, "{base}");
}

#[test]
fn predictions_are_unbiased_and_err_as_much_as_they_should() {
    let with = |predictor: &str| {
        requests(&format!("closed-loop.requests = 50000\ninput_tokens = 1\noutput_tokens = 2000\n{predictor}"))
    };
    assert!(with("").iter().all(|offered| offered.request.predicted_output_tokens.is_none()));
    assert!(
        with("output_predictor = \"exact\"")
            .iter()
            .all(|offered| offered.request.predicted_output_tokens == Some(2000))
    );
    let noisy = with("output_predictor = { noisy = { relative_error = 0.3 } }");
    let ratios: Vec<f64> =
        noisy.iter().map(|o| f64::from(o.request.predicted_output_tokens.unwrap()) / 2000.0).collect();
    let mean = ratios.iter().sum::<f64>() / 50_000.0;
    let sd = (ratios.iter().map(|ratio| (ratio - mean).powi(2)).sum::<f64>() / 50_000.0).sqrt();
    assert!((mean - 1.0).abs() < 0.006 && (sd - 0.3).abs() < 0.01, "{mean} {sd}");
}

#[test]
fn max_tokens_is_what_the_model_leaves_and_tells_nothing_of_the_output_unless_asked() {
    let caps = |setting: &str| -> Vec<(u32, u32)> {
        let all = requests(&format!("trace = \"azure-llm-2023-conv\"\nrequests = 500\n{setting}"));
        all.iter().map(|offered: &Offered| (offered.request.max_tokens, offered.outcome.output_tokens)).collect()
    };
    let prompts: Vec<u32> =
        requests("trace = \"azure-llm-2023-conv\"\nrequests = 500").iter().map(|o| o.request.prompt_tokens).collect();
    assert!(caps("").iter().zip(prompts).all(|((cap, _), prompt)| *cap == 200_000 - prompt));
    assert!(caps("max_tokens = 100").iter().all(|(cap, output)| *cap == 100 && *output <= 100));
    assert!(caps("max_tokens = \"output\"").iter().all(|(cap, output)| cap == output));
}

#[test]
fn thirty_million_requests_are_drawn_without_being_kept() {
    let text = format!("{LENGTHS}arrivals.poisson.rate = 1000.0\nrequests = 30000000\npopularity = \"uniform-sqrt\"");
    let workload = build(&text);
    assert_eq!(workload.len_hint(), 30_000_000);
    assert_eq!(workload.catalog.adapters.len(), 5_478);
    let last = workload.arrivals().take(100_000).last().unwrap();
    assert!((last.request.arrival.as_secs_f64() - 100.0).abs() < 2.0);
}
