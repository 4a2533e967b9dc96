//! A run is repeated from its manifest, byte for byte.

use super::bench::{Bench, SMALL};

const TABLES: [&str; 3] = ["requests.parquet", "steps.parquet", "events.parquet"];

#[test]
fn a_whole_run_directory_is_repeated_from_its_manifest() {
    let bench = Bench::with(SMALL);
    bench.ok(&["run", "s.toml", "--seeds", "2", "--out", "first"]);
    bench.ok(&["run", "first/manifest.toml", "--out", "again"]);
    assert_eq!(bench.text("first/summary.json"), bench.text("again/summary.json"));
    assert_eq!(bench.files("first"), bench.files("again"));
    for name in bench.files("first").iter().filter(|name| name.ends_with(".parquet")) {
        assert!(bench.read(&format!("first/{name}")) == bench.read(&format!("again/{name}")), "{name} differs");
    }
}

#[test]
fn one_run_is_repeated_from_its_own_manifest() {
    let swept = SMALL.to_owned()
        + "[sweep]\n\"engine.aril.max_num_seqs\" = [4, 8]\n\"traffic.popularity\" = [\"distinct\", { zipf = { s = 0.5, adapters = 8 } }]\n";
    let bench = Bench::with(&swept);
    bench.ok(&["run", "s.toml", "--seeds", "2", "--out", "first"]);
    let runs: Vec<String> = bench
        .files("first")
        .into_iter()
        .filter_map(|name| name.strip_suffix("/manifest.toml").map(str::to_owned))
        .collect();
    assert_eq!(runs.len(), 4 * 2 * 2);
    for run in runs.iter().step_by(3) {
        let manifest = format!("first/{run}/manifest.toml");
        bench.ok(&["run", &manifest, "--out", "again", "--force"]);
        for table in TABLES {
            let name = bench.files("again").into_iter().find(|name| name.ends_with(table)).expect("the table");
            assert!(
                bench.read(&format!("first/{run}/{table}")) == bench.read(&format!("again/{name}")),
                "{run}/{table} differs"
            );
        }
    }
}

#[test]
fn a_run_whose_input_has_changed_is_not_repeated() {
    let traffic = "arrival_s,input_tokens,output_tokens\n0,10,5\n1,20,6\n2,30,7\n";
    let bench = Bench::with(&SMALL.replace(
        "arrivals = { poisson = { rate = 4.0 } }\nrequests = 60\ninput_tokens = 32\noutput_tokens = { uniform = [1, 64] }",
        "trace = \"t.csv\"",
    ));
    bench.write("t.csv", traffic);
    bench.ok(&["run", "s.toml", "--out", "first"]);
    bench.ok(&["run", "first/manifest.toml", "--out", "again"]);
    assert_eq!(bench.text("first/summary.json"), bench.text("again/summary.json"));
    bench.write("t.csv", traffic.replace("30", "31"));
    let done = bench.aril(&["run", "first/manifest.toml", "--out", "third"]);
    assert_eq!(done.code, 2);
    assert!(
        done.err.starts_with("error: t.csv is no longer the file of that run: its contents have changed\n"),
        "{}",
        done.err
    );
}
