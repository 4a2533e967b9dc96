//! `aril compare`.

use super::bench::{Bench, SMALL};

/// Two run directories of the small scenario, made with these arguments besides.
fn two(base: &[&str], new: &[&str]) -> Bench {
    let bench = Bench::with(SMALL);
    for (out, more) in [("base", base), ("new", new)] {
        let mut arguments = vec!["run", "s.toml", "--no-tables", "--out", out];
        arguments.extend(more);
        bench.ok(&arguments);
    }
    bench
}

#[test]
fn the_same_run_twice_is_the_same_to_the_last_digit() {
    let bench = two(&["--seeds", "3"], &["--seeds", "3"]);
    let out = bench.ok(&["compare", "base", "new"]);
    assert!(out.starts_with("The same to the last digit, in all 6 runs.\n"), "{out}");
    let out = bench.ok(&["compare", "base/summary.json", "new", "--format", "json"]);
    let json: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((&json["verdict"], &json["runs"]["identical"]), (&"same".into(), &6.into()));
}

#[test]
fn fewer_places_in_a_batch_are_worse_and_the_exit_code_says_so() {
    let bench = Bench::with(SMALL);
    bench.ok(&["run", "s.toml", "--no-tables", "--seeds", "8", "--out", "base"]);
    bench.ok(&["run", "s.toml", "--no-tables", "--seeds", "8", "--set", "engine.aril.max_num_seqs=2", "--out", "new"]);
    let refused = bench.aril(&["compare", "base", "new"]);
    assert_eq!(refused.code, 2, "{}", refused.out);
    assert!(
        refused.err.contains("different scenario: `small` (") && refused.err.contains("--allow scenario"),
        "{}",
        refused.err
    );
    let allowed = bench.aril(&["compare", "base", "new", "--allow", "scenario"]);
    assert_eq!(allowed.code, 10, "{}{}", allowed.out, allowed.err);
    let lines: Vec<&str> = allowed.out.lines().collect();
    assert!(
        lines[0].starts_with("different scenario: ") && lines[0].ends_with("(allowed by --allow scenario)"),
        "{}",
        lines[0]
    );
    assert!(lines[1].starts_with("Worse: "), "{}", lines[1]);
}

#[test]
fn adapters_that_are_there_at_once_are_better_and_that_is_no_failure() {
    let slow = "engine.aril.host_link={ figures = { latency = \"200ms\", gigabytes_per_second = 1.0 } }";
    let bench = two(&["--seeds", "8", "--set", slow], &["--seeds", "8", "--set", "engine.aril.host_link=instant"]);
    let done = bench.aril(&["compare", "base", "new", "--allow", "scenario,build"]);
    assert_eq!(done.code, 0, "{}{}", done.out, done.err);
    assert!(done.out.contains("\nBetter: TTFT p"), "{}", done.out);
}

#[test]
fn another_profile_is_named_before_anything_is_compared() {
    let bench = Bench::with(SMALL);
    bench.ok(&["run", "s.toml", "--no-tables", "--out", "base"]);
    bench.ok(&["run", "s.toml", "--no-tables", "--set", "pool.a100-80gb.profile=derived-a100-80gb", "--out", "new"]);
    let refused = bench.aril(&["compare", "base", "new"]);
    assert_eq!(refused.code, 2, "{}", refused.out);
    assert!(refused.err.contains("different profile: `punica-a100-80gb-llama-2-7b` ("), "{}", refused.err);
    assert!(!refused.err.contains("different scenario"), "{}", refused.err);
}

#[test]
fn seeds_that_do_not_match_are_said_and_never_paired() {
    let bench = two(&["--seeds", "4", "--seed", "1"], &["--seeds", "4", "--seed", "3"]);
    let half = bench.aril(&["compare", "base", "new"]).out;
    assert!(
        half.contains("note: `spread`: seeds do not match: 2 are paired, 4 runs without a partner are left out"),
        "{half}"
    );
    let bench = two(&["--seeds", "4", "--seed", "1"], &["--seeds", "4", "--seed", "100"]);
    let done = bench.aril(&["compare", "base", "new"]);
    assert!(done.out.contains("0 of 4 seeds are common to both sides"), "{}", done.out);
    assert_eq!(done.code, 12, "four seeds of a small scenario tell nothing: {}", done.out);
    assert!(done.out.contains("more seeds would"), "{}", done.out);
}

#[test]
fn one_seed_tells_nothing_and_says_what_would() {
    let bench = two(&[], &["--set", "engine.aril.max_num_seqs=2"]);
    let done = bench.aril(&["compare", "base", "new", "--allow", "scenario"]);
    assert_eq!(done.code, 12, "{}", done.out);
    assert!(done.out.contains("one seed shows no spread"), "{}", done.out);
}

#[test]
fn what_is_no_result_is_refused_with_its_name_and_the_way_out() {
    let bench = two(&[], &[]);
    let summary = bench.text("new/summary.json");
    let refused = |path: &str, parts: &[&str]| {
        let done = bench.aril(&["compare", "base", path]);
        assert_eq!(done.code, 2, "{path}: {}{}", done.out, done.err);
        for part in parts {
            assert!(done.err.contains(part), "{path}: {part:?} is not in {}", done.err);
        }
    };
    refused("nowhere", &["nowhere: there is no such file or folder", "aril run"]);
    bench.write("empty/manifest.toml", "");
    refused("empty", &["has no summary.json", "cut short"]);
    bench.write("cut/summary.json", &summary[..summary.len() / 2]);
    refused("cut", &["cut/summary.json: the file is cut short", "run the scenario again"]);
    bench.write("other/summary.json", summary.replace("aril-summary/1", "aril-summary/9"));
    refused("other", &["its schema is `aril-summary/9`, this aril reads `aril-summary/1`"]);
    bench.write("not.json", "hello");
    refused("not.json", &["no summary of a run"]);
    bench.write("json.json", "{}");
    refused("json.json", &["it names no schema"]);
    bench.write("binary.json", [0xff, 0xfe, 0x00, 0x01]);
    refused("binary.json", &["not text"]);
    bench.write("bad/summary.json", &summary);
    bench.write("bad/manifest.toml", "[manifest\n");
    refused("bad", &["bad/manifest.toml: the manifest cannot be read"]);
    let mut json: serde_json::Value = serde_json::from_str(&summary).expect("JSON");
    json["runs"] = serde_json::json!([]);
    bench.write("none/summary.json", json.to_string());
    refused("none", &["it holds no run"]);
    let done = bench.aril(&["compare", "base", "new", "--threshold", "ttft-p98=2%"]);
    assert!(
        done.code == 2 && done.err.contains("there is no metric `ttft-p98`") && done.err.contains("ttft-p99"),
        "{}",
        done.err
    );
    let done = bench.aril(&["compare", "base", "new", "--alpha", "2"]);
    assert!(done.code == 2 && done.err.contains("2 is no chance"), "{}", done.err);
}

#[test]
fn runs_that_finish_nothing_have_a_stated_verdict() {
    let endless = ["--set", "traffic.output_tokens=900", "--set", "horizon=2s"];
    let bench = two(&endless, &endless);
    let summary: serde_json::Value = serde_json::from_str(&bench.text("base/summary.json")).expect("JSON");
    assert_eq!(summary["runs"][0]["metrics"]["measured"]["finished"], 0, "the scenario was meant to finish nothing");
    let done = bench.aril(&["compare", "base", "new"]);
    assert_eq!(done.code, 12, "{}", done.out);
    assert!(done.out.contains("`spread` finished no request on either side"), "{}", done.out);
    bench.ok(&["run", "s.toml", "--no-tables", "--out", "all"]);
    let done = bench.aril(&["compare", "all", "base", "--allow", "scenario"]);
    assert_eq!(done.code, 10, "{}", done.out);
    assert!(done.out.contains("`spread` finishes no request any more"), "{}", done.out);
}
