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

#[test]
fn a_foreign_table_is_read_by_the_options_that_its_errors_name() {
    let bench = Bench::new();
    bench.write("t.csv", "when,who,in,out,colour\n3000,a,10,5,red\n1000,b,20,6,blue\n");
    let said = |arguments: &[&str], words: &[&str]| {
        let done = bench.aril(&[&["trace", "inspect", "t.csv"], arguments].concat());
        assert_eq!(done.code, 2, "{}", done.err);
        for word in words {
            assert!(done.err.contains(word), "{word}: {}", done.err);
        }
    };
    said(&[], &["--trace-format", "--columns arrival=…,input_tokens=…,output_tokens=…"]);
    let columns = ["--columns", "arrival=when,tenant=who,input_tokens=in,output_tokens=out"];
    said(&columns, &["--sort", "t.csv:3: the arrival \"1000\" is before the one above it, \"3000\" in line 2"]);
    said(&["--columns", "arival=when"], &["did you mean `arrival`?"]);
    said(&["--columns", "arrival=wen,input_tokens=in,output_tokens=out"], &["no column `wen`", "with `--columns`"]);
    said(&["--arrival-unit", "msec"], &["did you mean `ms`?"]);
    let told = bench.ok(&[&["trace", "inspect", "t.csv", "--sort", "--arrival-unit", "ms"], &columns[..]].concat());
    assert!(told.contains("| span, s") && told.contains("| 2.000"), "{told}");
    assert!(told.contains("note: columns that are not read: colour"), "{told}");
    let told =
        bench.ok(&[&["trace", "convert", "t.csv", "c.csv", "--sort", "--arrival-unit", "ms"], &columns[..]].concat());
    assert!(told.contains("columns that are not read: colour"), "{told}");
    assert_eq!(bench.text("c.csv"), "request,arrival_s,tenant,input_tokens,output_tokens\n0,0,b,20,6\n1,2,a,10,5\n");
}

#[test]
fn a_column_called_arrival_is_one_and_what_is_no_time_in_it_is_refused() {
    let bench = Bench::new();
    bench.write("t.csv", "arrival,input_tokens,output_tokens\n0,10,5\n2.5,20,6\n");
    assert!(bench.ok(&["trace", "inspect", "t.csv"]).contains("| 2.500"));
    for time in ["inf", "nan", "1e15"] {
        bench.write("t.csv", format!("arrival,input_tokens,output_tokens\n0,10,5\n{time},20,6\n"));
        let done = bench.aril(&["trace", "inspect", "t.csv"]);
        assert_eq!((done.code, done.err.contains("t.csv:3: column `arrival`")), (2, true), "{}", done.err);
    }
}

#[test]
fn a_shipped_trace_is_told_as_the_same_file_is() {
    let told = Bench::new().ok(&["trace", "inspect", "azure-llm-2023-conv", "--format", "json"]);
    let json: serde_json::Value = serde_json::from_str(&told).expect("JSON");
    assert_eq!(json["tenants"]["distinct"], 0, "it names none");
}

#[test]
fn a_trace_is_generated_of_one_seed() {
    let bench = Bench::with(SMALL);
    let done = bench.aril(&["trace", "generate", "s.toml", "--seeds", "3", "--out", "t.csv"]);
    assert_eq!((done.code, done.err.contains("a trace is the traffic of one seed")), (2, true), "{}", done.err);
}

#[test]
fn a_run_on_a_trace_without_adapters_says_so_on_the_terminal() {
    let bench = Bench::changed(
        "arrivals = { poisson = { rate = 4.0 } }\nrequests = 60\ninput_tokens = 32\noutput_tokens = { uniform = [1, 64] }\npopularity = { zipf = { s = 0.9, adapters = 8 } }\nranks = { 16 = 1.0 }",
        "trace = \"t.csv\"\npopularity = \"trace\"",
    );
    bench.write("t.csv", "arrival_s,input_tokens,output_tokens\n0,10,5\n2.5,20,6\n");
    let told = bench.ok(&["run", "s.toml", "--no-tables"]);
    assert!(told.contains("note: no adapters: the trace has none"), "{told}");
}
