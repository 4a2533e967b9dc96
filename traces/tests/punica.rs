//! Punica's laws (MLSys 2024, benchmark generator of its artifact).

use std::collections::BTreeMap;

use aril_sim::workload::Offered;
use aril_traces::{geometric_counts, uniform_sqrt_counts};

use crate::given::{build, requests};

fn counts(text: &str) -> Vec<u64> {
    let mut by_adapter = BTreeMap::new();
    for offered in requests(text) {
        *by_adapter.entry(offered.request.adapter).or_insert(0_u64) += 1;
    }
    let mut counts: Vec<u64> = by_adapter.into_values().collect();
    counts.sort_by(|a, b| b.cmp(a));
    counts
}

#[test]
fn segments_of_a_batch_are_those_of_the_artifact() {
    assert_eq!(uniform_sqrt_counts(32), [6, 6, 5, 5, 5, 5]);
    assert_eq!(geometric_counts(32, 1.5), [11, 7, 5, 3, 2, 2, 1, 1]);
    assert_eq!(geometric_counts(64, 1.5), [17, 17, 11, 7, 5, 3, 2, 1, 1]);
    assert_eq!(uniform_sqrt_counts(1024), [32; 32]);
    let skewed = [291, 194, 157, 129, 86, 57, 38, 25, 17, 11, 7, 5, 3, 2, 1, 1];
    assert_eq!(geometric_counts(1024, 1.5), skewed);
}

#[test]
fn drawn_requests_have_exactly_the_law_s_counts() {
    let closed = |popularity: &str| {
        format!("closed-loop = {{ requests = 1024, input_tokens = 1, output_tokens = 1, popularity = {popularity} }}")
    };
    assert_eq!(counts(&closed("\"geometric\"")), geometric_counts(1024, 1.5));
    assert_eq!(counts(&closed("\"uniform-sqrt\"")), [32; 32]);
    assert_eq!(counts(&closed("\"identical\"")), [1024]);
    assert_eq!(counts(&closed("\"distinct\"")), [1; 1024]);
}

#[test]
fn the_artifact_s_own_requests_come_in_queue_order_under_four_popularities() {
    for (column, adapters, most) in [
        ("adapter_distinct", 1024, 1),
        ("adapter_uniform", 32, 32),
        ("adapter_skewed", 16, 291),
        ("adapter_identical", 1, 1024),
    ] {
        let text =
            format!("trace = \"punica-textgen-1024\"\narrivals = \"closed\"\ncolumns = {{ adapter = \"{column}\" }}");
        let workload = build(&text);
        let all: Vec<_> = workload.arrivals().collect();
        assert_eq!(all.len(), 1024);
        assert_eq!(all.iter().map(|o| u64::from(o.request.prompt_tokens)).sum::<u64>(), 24_190);
        assert_eq!(all.iter().map(|o| u64::from(o.outcome.output_tokens)).sum::<u64>(), 1_009_565);
        assert_eq!((all[0].request.prompt_tokens, all[0].outcome.output_tokens), (24, 45));
        assert_eq!(workload.catalog.adapters.len(), adapters);
        assert_eq!(counts(&text)[0], most);
    }
}

#[test]
fn the_lognormal_law_has_the_statistics_of_the_artifact_s_requests() {
    let law = "input_tokens = { lognormal = { s = 0.8, loc = -1, scale = 18, min = 1, max = 2046 } }\ntotal_tokens = { uniform = [0, 2048] }";
    let drawn = requests(&format!("closed-loop.requests = 100000\n{law}"));
    let artifact = requests("trace = \"punica-textgen-1024\"\narrivals = \"closed\"");
    let spread = |all: &[Offered], of: &dyn Fn(&Offered) -> u32| {
        let mut lengths: Vec<u32> = all.iter().map(of).collect();
        lengths.sort_unstable();
        let mean = lengths.iter().map(|length| f64::from(*length)).sum::<f64>() / lengths.len() as f64;
        (mean, f64::from(lengths[lengths.len() / 2]))
    };
    let input = |offered: &Offered| offered.request.prompt_tokens;
    let output = |offered: &Offered| offered.outcome.output_tokens;
    let ((mean, median), (artifact_mean, artifact_median)) = (spread(&drawn, &input), spread(&artifact, &input));
    // Standard errors of 1,024 draws: 0.7 tokens for the mean prompt, 18 for the mean output.
    assert!(
        (mean - artifact_mean).abs() < 2.0 && (median - artifact_median).abs() <= 1.0,
        "{mean} {artifact_mean} {median}"
    );
    let ((mean, median), (artifact_mean, artifact_median)) = (spread(&drawn, &output), spread(&artifact, &output));
    assert!((mean - artifact_mean).abs() < 50.0 && (median - artifact_median).abs() < 80.0, "{mean} {artifact_mean}");
    assert!(drawn.iter().all(|o| input(o) + output(o) <= 2048 && input(o) <= 2046 && output(o) >= 2));
}

#[test]
fn the_cluster_hour_rises_and_falls_as_the_paper_says() {
    let text = "arrivals.vary = { rps = 10.0 }\nwindow = { duration = \"1h\" }\ninput_tokens = 1\noutput_tokens = 1";
    let workload = build(text);
    // 10 · 1.2 / 2.2 requests a second on average.
    assert_eq!(workload.len_hint(), 19_636);
    let arrivals: Vec<f64> = workload.arrivals().map(|offered| offered.request.arrival.as_secs_f64()).collect();
    assert!((arrivals.len() as f64 - 19_636.0).abs() < 4.0 * 19_636_f64.sqrt(), "{}", arrivals.len());
    for (from, to) in [(0.0, 300.0), (900.0, 1200.0), (1650.0, 1950.0), (3300.0, 3600.0)] {
        let rate = |t: f64| 10.0 * (1.2 - (std::f64::consts::TAU * t / 3600.0).cos()) / 2.2;
        let expected: f64 = (0..300).map(|i| rate(from + f64::from(i) + 0.5)).sum();
        let drawn = arrivals.iter().filter(|at| (from..to).contains(*at)).count() as f64;
        assert!((drawn - expected).abs() < 4.5 * expected.sqrt(), "{from}: {drawn} of {expected:.0}");
    }
    let peak_first = build(
        "arrivals.vary = { rps = 10.0, starts = \"peak\" }\nwindow = { duration = \"1h\" }\ninput_tokens = 1\noutput_tokens = 1",
    );
    let early = peak_first.arrivals().filter(|offered| offered.request.arrival.as_secs_f64() < 300.0).count();
    assert!(early > 2_500, "{early}");
}
