//! `aril trace`.

use super::bench::{Bench, SMALL};

#[test]
fn a_shipped_trace_is_inspected_by_its_name() {
    let bench = Bench::new();
    let told = bench.ok(&["trace", "inspect", "azure-llm-2023-code"]);
    assert!(told.contains("requests"), "{told}");
    let json: serde_json::Value =
        serde_json::from_str(&bench.ok(&["trace", "inspect", "punica-textgen-1024", "--format", "json"]))
            .expect("JSON");
    assert_eq!(json["requests"], 1024);
}

#[test]
fn generated_traffic_replays_to_the_same_numbers() {
    let bench = Bench::with(SMALL);
    bench.ok(&["trace", "generate", "s.toml", "--out", "t.csv"]);
    let refused = bench.aril(&["trace", "generate", "s.toml", "--out", "t.csv"]);
    assert_eq!((refused.code, refused.err.contains("already there")), (2, true));
    let json: serde_json::Value =
        serde_json::from_str(&bench.ok(&["trace", "inspect", "t.csv", "--format", "json"])).expect("JSON");
    assert_eq!(json["requests"], 60);
    bench.ok(&["trace", "convert", "t.csv", "t.parquet"]);
    let again: serde_json::Value =
        serde_json::from_str(&bench.ok(&["trace", "inspect", "t.parquet", "--format", "json"])).expect("JSON");
    assert_eq!(json, again);
}

#[test]
fn a_format_that_does_not_exist_names_those_that_do() {
    let done = Bench::new().aril(&["trace", "inspect", "x.csv", "--trace-format", "azur"]);
    assert_eq!(done.code, 2);
    assert!(done.err.contains("did you mean `azure`?"), "{}", done.err);
}

/// A file as pandas writes it, with small integers, categories, and columns of types that no trace has.
const PANDAS: &[u8] = include_bytes!("../../../traces/tests/data/pandas.parquet");

#[test]
fn damaged_parquet_files_are_refused_without_a_panic_on_the_screen() {
    let bench = Bench::new();
    let mut refused = 0;
    for at in (4..PANDAS.len()).step_by(167) {
        let mut damaged = PANDAS.to_vec();
        damaged[at] ^= 0x5a;
        bench.write("t.parquet", damaged);
        let done = bench.aril(&["trace", "inspect", "t.parquet"]);
        assert!(matches!(done.code, 0 | 2), "byte {at}: {}", done.err);
        assert!(!done.err.contains("panicked"), "byte {at}: {}", done.err);
        refused += i32::from(done.code == 2);
    }
    assert!(refused > 5, "{refused}");
}
