//! `aril regress`.

use super::bench::{Bench, SMALL};

/// A folder with the small scenario under three seeds, and its baseline.
fn agreed() -> Bench {
    let bench = Bench::new();
    bench.write("r/small.toml", format!("seeds = 3\n{SMALL}"));
    bench.ok(&["regress", "r", "--update", "--commit", "aaaaaaa"]);
    bench
}

#[test]
fn what_was_agreed_to_passes_and_everything_is_written() {
    let bench = agreed();
    assert_eq!(bench.files("r"), ["small.baseline.toml", "small.history.jsonl", "small.toml"]);
    let baseline = bench.text("r/small.baseline.toml");
    let out = bench.ok(&["regress", "r", "--out", "report"]);
    assert!(out.contains("unchanged") && out.contains("to the last digit"), "{out}");
    assert_eq!(bench.text("r/small.baseline.toml"), baseline);
    let files = bench.files("report");
    for file in [
        "report.html",
        "summary.md",
        "junit.xml",
        "summary.json",
        "plots/small.ttft-p99.svg",
        "plots/small.goodput.svg",
    ] {
        assert!(files.iter().any(|name| name == file), "{file} is not among {files:?}");
    }
    assert!(
        bench.text("report/junit.xml").contains("failures=\"0\" errors=\"0\""),
        "{}",
        bench.text("report/junit.xml")
    );
    // The second report takes the place of the first; a folder that is not a report is left alone.
    bench.ok(&["regress", "r", "--out", "report"]);
    bench.write("mine/file", "");
    let refused = bench.aril(&["regress", "r", "--out", "mine"]);
    assert_eq!((refused.code, bench.files("mine")), (2, vec!["file".to_owned()]));
}

#[test]
fn a_change_of_behaviour_fails_and_an_update_agrees_to_it() {
    let bench = agreed();
    let scenario = bench.text("r/small.toml");
    let profile = String::from_utf8(bench.read("r/small.baseline.toml")).expect("text");
    // Another profile is a change under test: it is named, and compared all the same.
    bench.write("r/small.toml", scenario.replace("least-loaded", "round-robin"));
    let other = bench.aril(&["regress", "r"]);
    assert_eq!(other.code, 13, "another question: {}", other.out);
    assert!(other.out.contains("not the one that the baseline was written for"), "{}", other.out);
    bench.write("r/small.toml", &scenario);
    // A baseline with one digit off is as good as a simulator that changed.
    let line = profile.lines().find(|line| line.starts_with("ttft-p99")).expect("the line");
    let digits = line.replacen("= [", "= [1", 1);
    bench.write(
        "r/small.baseline.toml",
        profile.replacen(line, &digits, 1).replacen("results = [\"", "results = [\"0", 1),
    );
    let changed = bench.aril(&["regress", "r", "--out", "report"]);
    assert!([10, 11].contains(&changed.code), "{} {}", changed.code, changed.out);
    assert!(bench.text("report/summary.md").contains("TTFT p99"), "{}", bench.text("report/summary.md"));
    let junit = bench.text("report/junit.xml");
    assert!(junit.contains("<failure type=\"changed\"") || junit.contains("<failure type=\"worse\""), "{junit}");
    let json: serde_json::Value = serde_json::from_str(&bench.text("report/summary.json")).expect("JSON");
    assert_eq!((&json["schema"], &json["scenarios"][0]["file"]), (&"aril-regression/1".into(), &"small.toml".into()));
    let updated = bench.ok(&["regress", "r", "--update", "--commit", "bbbbbbb"]);
    assert!(updated.contains("written anew"), "{updated}");
    assert_eq!(bench.text("r/small.history.jsonl").lines().count(), 2);
    bench.ok(&["regress", "r"]);
}

#[test]
fn a_digest_alone_is_enough_to_be_noticed() {
    let bench = agreed();
    let baseline = bench.text("r/small.baseline.toml");
    bench.write("r/small.baseline.toml", baseline.replacen("results = [\"", "results = [\"0", 1));
    let done = bench.aril(&["regress", "r"]);
    assert_eq!(done.code, 11, "{}", done.out);
    assert!(done.out.contains("no watched metric moved"), "{}", done.out);
}

#[test]
fn recording_adds_a_commit_whether_or_not_it_moved() {
    let bench = agreed();
    for commit in ["bbbbbbb", "ccccccc", "ccccccc"] {
        bench.ok(&["regress", "r", "--record", "--commit", commit]);
    }
    assert_eq!(bench.text("r/small.history.jsonl").lines().count(), 3);
    assert!(bench.text("regress-report/plots/small.ttft-p99.svg").contains(">ccccccc<"));
}

#[test]
fn what_cannot_be_compared_never_passes() {
    let cannot = |bench: &Bench, part: &str| {
        let done = bench.aril(&["regress", "r", "--out", "report"]);
        assert_eq!(done.code, 13, "{part}: {}{}", done.out, done.err);
        let out = done.out.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(out.contains(part), "{part:?} is not in {out}");
        assert!(bench.text("report/junit.xml").contains("<error type=\"cannot run\""));
    };
    let bench = Bench::new();
    bench.write("r/small.toml", SMALL);
    cannot(&bench, "It has no baseline");

    let bench = agreed();
    let baseline = bench.text("r/small.baseline.toml");
    bench.write("r/gone.baseline.toml", &baseline);
    cannot(&bench, "Its scenario is not there");

    let bench = agreed();
    bench.write("r/small.baseline.toml", baseline.replace("schema = 1", "schema = 7"));
    cannot(&bench, "the baseline has schema 7, this aril reads 1");
    bench.write("r/small.baseline.toml", &baseline[..baseline.len() - 40]);
    cannot(&bench, "Its baseline cannot be used");
    bench.write("r/small.baseline.toml", baseline.replace("seeds = [1, 2, 3]", "seeds = [1, 2, 4]"));
    cannot(&bench, "Its seeds do not match: the baseline has 1, 2, 4, the scenario 1, 2, 3");

    let bench = agreed();
    bench.write("r/small.toml", format!("seeds = 3\nsurprise = 1\n{SMALL}"));
    cannot(&bench, "unknown");

    let bench = agreed();
    bench.write("r/small.history.jsonl", "{\"schema\":1,\n");
    cannot(&bench, "Its history cannot be read");
}

#[test]
fn a_scenario_that_finishes_nothing_is_no_baseline() {
    let bench = Bench::new();
    bench.write(
        "r/small.toml",
        format!("seeds = 2\nhorizon = \"2s\"\n{}", SMALL.replace("{ uniform = [1, 64] }", "900")),
    );
    let done = bench.aril(&["regress", "r", "--update"]);
    assert_eq!(done.code, 13, "{}", done.out);
    assert!(done.out.contains("finishes no request: there is nothing to compare"), "{}", done.out);
    assert_eq!(bench.files("r"), ["small.toml"]);
}

#[test]
fn one_scenario_that_fails_does_not_hide_the_others() {
    let bench = agreed();
    bench.write("r/broken.toml", "name = \"broken\"\n");
    let done = bench.aril(&["regress", "r", "--out", "report"]);
    assert_eq!(done.code, 13);
    let json: serde_json::Value = serde_json::from_str(&bench.text("report/summary.json")).expect("JSON");
    let outcomes: Vec<_> =
        json["scenarios"].as_array().expect("a list").iter().map(|s| s["outcome"].as_str().unwrap_or("")).collect();
    assert_eq!(outcomes, ["cannot-run", "unchanged"]);
    bench.ok(&["regress", "r", "--only", "small"]);
    let unknown = bench.aril(&["regress", "r", "--only", "smal"]);
    assert!(
        unknown.code == 2 && unknown.err.contains("there is no such scenario") && unknown.err.contains("small"),
        "{}",
        unknown.err
    );
}

#[test]
fn a_folder_that_is_none_is_refused() {
    let bench = Bench::with(SMALL);
    for (path, part) in [("nowhere", "there is no such folder"), ("s.toml", "this is a file")] {
        for more in [&[][..], &["--update"]] {
            let mut arguments = vec!["regress", path];
            arguments.extend(more);
            let done = bench.aril(&arguments);
            assert!(done.code == 2 && done.err.contains(part), "{path}: {} {}", done.code, done.err);
        }
    }
    std::fs::create_dir(bench.path("empty")).expect("a folder");
    let done = bench.aril(&["regress", "empty"]);
    assert!(done.code == 2 && done.err.contains("there is no scenario in this folder"), "{}", done.err);
    bench.write("r/regress.toml", "alfa = 0.01\n");
    bench.write("r/small.toml", SMALL);
    let done = bench.aril(&["regress", "r"]);
    assert!(done.code == 2 && done.err.contains("alfa"), "{}", done.err);
}

#[test]
fn names_with_markup_stay_text_in_every_file() {
    let bench = Bench::new();
    let scenario = SMALL.replace("spread =", "\"<img src=x onerror=alert(1)>|`x`\" =");
    bench.write("r/small.toml", format!("seeds = 2\n{scenario}"));
    bench.ok(&["regress", "r", "--update", "--out", "report"]);
    for file in ["report.html", "summary.md", "junit.xml", "plots/small.ttft-p99.svg"] {
        assert!(!bench.text(&format!("report/{file}")).contains("<img"), "{file}");
    }
}

/// Without valgrind, whose counting would take minutes: what cannot be counted is said.
#[test]
fn the_speed_of_a_build_against_itself_is_measured_in_pairs() {
    let bench = agreed();
    let this = env!("CARGO_BIN_EXE_aril");
    let output = std::process::Command::new(this)
        .args(["regress", "r", "--speed-base", this, "--pairs", "4", "--out", "report"])
        .current_dir(bench.path("."))
        .env("PATH", "")
        .output()
        .expect("the program starts");
    let out = String::from_utf8_lossy(&output.stdout);
    assert!(out.contains("Speed: "), "{out}{}", String::from_utf8_lossy(&output.stderr));
    let json: serde_json::Value = serde_json::from_str(&bench.text("report/summary.json")).expect("JSON");
    let speed = &json["speed"];
    assert_eq!(
        (&speed["rows"][0]["quantity"], &speed["rows"][0]["estimate"]["seeds_base"]),
        (&"wall-time".into(), &4.into())
    );
    assert_eq!(speed["notes"][0], "valgrind is not installed: instructions were not counted");
    // Behaviour and speed never share a rule.
    assert_eq!((&speed["rows"][0]["least"], &json["rules"]["alpha"]), (&0.05.into(), &0.01.into()));
    let wrong = bench.aril(&["regress", "r", "--speed-base", "/bin/ls"]);
    assert!(wrong.code == 2 && wrong.err.contains("not an aril"), "{}", wrong.err);
}

#[cfg(unix)]
#[test]
fn two_updates_at_once_are_refused() {
    let bench = agreed();
    let baseline = bench.text("r/small.baseline.toml");
    let other = std::fs::File::open(bench.path("r")).expect("the folder");
    other.try_lock().expect("nobody else has it");
    for argument in ["--update", "--record"] {
        let done = bench.aril(&["regress", "r", argument]);
        assert!(
            done.code == 2 && done.err.contains("another `aril regress` is writing the baselines"),
            "{} {}",
            done.code,
            done.err
        );
    }
    // Looking is not writing.
    bench.ok(&["regress", "r"]);
    drop(other);
    bench.ok(&["regress", "r", "--update"]);
    assert_eq!(bench.text("r/small.baseline.toml"), baseline, "nothing moved, so nothing is written");
}
