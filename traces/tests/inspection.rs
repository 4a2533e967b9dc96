//! Figures of traces, against those published and those computed independently.

use aril_traces::{Columns, Names, ReadOptions, Table, inspect, lru_hit_rates, read};
use proptest::prelude::*;

use crate::given::{beside, build};

/// Computed by other means over these very cuts of the files.
#[test]
fn the_shipped_azure_conversations_have_the_figures_of_their_file() {
    let figures = inspect(&build("trace = \"azure-llm-2023-conv\""));
    assert_eq!((figures.requests, figures.input_tokens.max, figures.output_tokens.max), (15_606, 14_050, 1_000));
    // Of the whole file, of which this is four fifths: mean prompt 1,155, median 1,020; mean output 211, median 129; gap CV 1.09.
    assert!(
        (figures.input_tokens.mean - 1_155.0).abs() < 40.0 && figures.input_tokens.p50.abs_diff(1_020) < 40,
        "{figures:?}"
    );
    assert!(
        (figures.output_tokens.mean - 211.0).abs() < 10.0 && figures.output_tokens.p50.abs_diff(129) < 15,
        "{figures:?}"
    );
    assert!((figures.gap_cv.unwrap() - 1.09).abs() < 0.05, "{figures:?}");
    assert!((figures.dispersion[0].1 - 1.39).abs() < 0.15, "{figures:?}");
    assert_eq!(figures.adapters.uses, 0);
    assert!(figures.sessions.is_none() && figures.lru_hit_rate.is_empty());
}

#[test]
fn azure_code_comes_in_bursts() {
    let figures = inspect(&build("trace = \"azure-llm-2023-code\""));
    assert!((figures.gap_cv.unwrap() - 13.2).abs() < 1.5, "{figures:?}");
    assert!(figures.dispersion[2].1 > 100.0, "{figures:?}");
}

#[test]
fn mooncake_s_prompts_share_their_first_block() {
    let Some(path) = beside("traces/mooncake_synthetic.jsonl.gz") else { return };
    let table = read(&path, None, &Columns::default(), &ReadOptions::default()).unwrap();
    let figures = inspect(&table);
    // Published analysis of the whole file: 64.0 % of blocks hit an unlimited cache, mean prompt 15,325.
    assert!((figures.prefix.unwrap().hit_rate - 0.640).abs() < 0.001, "{:?}", figures.prefix);
    assert!((figures.input_tokens.mean - 15_325.0).abs() < 1.0 && (figures.gap_cv.unwrap() - 1.01).abs() < 0.01);
}

#[test]
fn zipf_s_exponent_is_found_again() {
    for s in [0.5, 0.9, 1.4] {
        let text = format!(
            "closed-loop = {{ requests = 200000, input_tokens = 1, output_tokens = 1 }}\npopularity.zipf = {{ s = {s}, adapters = 200 }}"
        );
        let found = inspect(&build(&text)).adapters.zipf_s.unwrap();
        assert!((found - s).abs() < 0.02, "{found} in place of {s}");
    }
}

#[test]
fn a_trace_of_one_request_has_no_rates_and_no_nonsense() {
    let table = Table { arrivals_ps: Some(vec![5]), input_tokens: vec![3], output_tokens: vec![2], ..Table::default() };
    let figures = inspect(&table);
    assert_eq!((figures.requests, figures.rate_per_s, figures.gap_cv), (1, None, None));
    assert!(figures.dispersion.is_empty() && figures.peak_to_mean_60s.is_none());
    let json = serde_json::to_string(&figures).unwrap();
    assert!(!json.contains("NaN"), "{json}");
}

#[test]
fn sessions_end_after_half_an_hour() {
    let minutes = [0_u64, 10, 41, 41, 50];
    let table = Table {
        arrivals_ps: Some(minutes.iter().map(|m| m * 60_000_000_000_000).collect()),
        input_tokens: vec![1; 5],
        output_tokens: vec![1; 5],
        tenants: Some(Names { names: vec!["a".into(), "b".into()], rows: vec![0, 0, 0, 1, 0] }),
        adapters: Some(Names { names: vec!["x".into(), "y".into()], rows: vec![0, 0, 0, 1, 1] }),
        ..Table::default()
    };
    let sessions = inspect(&table).sessions.unwrap();
    // a: 0 and 10 min; 41 and 50 min; b: 41 min.
    assert_eq!((sessions.sessions, sessions.uses, sessions.adapters), (3, 5.0 / 3.0, 4.0 / 3.0));
    assert_eq!(sessions.repeats, 2.0 / 3.0);
}

proptest! {
    #[test]
    fn hit_rates_are_those_of_a_cache_that_is_simulated(uses in proptest::collection::vec(0_u32..12, 1..200), slots in 1_u32..10) {
        let mut cache: Vec<u32> = Vec::new();
        let mut hits = 0;
        for id in &uses {
            if let Some(at) = cache.iter().position(|other| other == id) {
                cache.remove(at);
                hits += 1;
            }
            cache.insert(0, *id);
            cache.truncate(slots as usize);
        }
        prop_assert_eq!(lru_hit_rates(&uses, &[slots]), vec![(slots, f64::from(hits) / uses.len() as f64)]);
    }
}
