//! Punica's laws (MLSys 2024, benchmark generator of its artifact).

use std::collections::BTreeMap;

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
