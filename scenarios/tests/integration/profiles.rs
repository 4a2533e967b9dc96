//! `aril calibrate`, `aril profile`, `aril validate`, and runs with the profiles they make: all but the timing, without a GPU.

use super::bench::{Bench, SMALL};

const PROFILE: &str = "made/synthetic-h200-llama-2-7b.toml";
const MEASUREMENTS: &str = "made/synthetic-h200-llama-2-7b.jsonl";

fn calibrate<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let mut arguments =
        vec!["calibrate", "--model", "llama-2-7b", "--machine", "synthetic", "--out", "made", "--quiet"];
    arguments.extend(more);
    arguments
}

/// The small scenario on one H200.
fn scenario() -> String {
    SMALL.replace("[pool.a100-80gb]\nreplicas = 2\nprofile = \"punica-a100-80gb\"", "[pool.h200]\nreplicas = 1")
}

#[test]
fn a_calibration_is_made_gone_on_with_shown_compared_and_drawn() {
    let bench = Bench::new();
    let told = bench.ok(&calibrate(&["--budget", "15s"]));
    assert!(told.contains("missing") && told.contains("--resume") && told.contains("held out"), "{told}");
    let done = bench.aril(&calibrate(&[]));
    assert!(done.code == 2 && done.err.contains("--resume"), "{}", done.err);
    let told = bench.ok(&calibrate(&["--budget", "10m", "--resume"]));
    assert!(told.contains(" 0 missing"), "{told}");

    let shown = bench.ok(&["profile", "show", PROFILE]);
    assert!(shown.contains("a load beside a step:         copies x 1.1"), "{shown}");
    assert!(shown.contains("made-up GPU") && shown.contains("a fifth at random"), "{shown}");
    let json: serde_json::Value =
        serde_json::from_str(&bench.ok(&["profile", "show", PROFILE, "--format", "json"])).expect("JSON");
    assert_eq!(json["schema"], 3);
    let checked = bench.ok(&["profile", "check", PROFILE]);
    assert!(checked.contains("nothing is strange"), "{checked}");
    let same = bench.ok(&["profile", "diff", PROFILE, PROFILE, "--within", "2"]);
    assert!(same.contains("they agree within 2 %"), "{same}");
    let apart = bench.aril(&["profile", "diff", PROFILE, "derived-h100-llama-2-7b", "--within", "2"]);
    assert!(apart.code == 1 && apart.out.contains("more than 2 % apart"), "{}", apart.out);
    let schema: serde_json::Value = serde_json::from_str(&bench.ok(&["profile", "schema"])).expect("JSON");
    assert!(schema["properties"]["held_out"].is_object());

    bench.ok(&["profile", "plot", PROFILE, "--measurements", MEASUREMENTS, "--out", "page.html"]);
    let page = bench.text("page.html");
    for text in
        ["Roofline", "(measured)", "(modelled)", "vLLM 0.5.0", "BLIS", "(another simulator)", "Punica on an A100"]
    {
        assert!(page.contains(text), "{text} is not on the page");
    }
    let again = bench.aril(&["profile", "plot", PROFILE, "--out", "page.html"]);
    assert!(again.code == 2 && again.err.contains("--force"), "{}", again.err);

    bench.write("s.toml", scenario());
    let told = bench.ok(&["run", "s.toml", "--profile", PROFILE, "--policy", "spread"]);
    assert!(told.contains("costs: synthetic-h200-llama-2-7b (derived)"), "{told}");
    // Jitter is off unless it is asked for, and repeats with its seed.
    let run = |out: &str, jitter: bool| {
        let mut arguments = vec!["run", "s.toml", "--profile", PROFILE, "--policy", "spread", "--out", out];
        if jitter {
            arguments.extend(["--set", "jitter=true"]);
        }
        bench.ok(&arguments);
        bench.read(&format!("{out}/runs/spread/seed-1/requests.parquet"))
    };
    let (plain, first, second) = (run("plain", false), run("first", true), run("second", true));
    assert!(first == second && first != plain);
    assert!(bench.text("plain/report.html").contains("sampled jitter"));
    assert!(!bench.text("first/report.html").contains("sampled jitter"));
}

/// A profile as if it had been measured with kernels of this hash.
fn measured(text: &str, hash: &str) -> String {
    let text = text.replacen("kind = \"derived\"", "kind = \"measured\"", 1);
    text.replacen("kernel_source_hash = \"synthetic\"", &format!("kernel_source_hash = \"{hash}\""), 1)
}

#[test]
fn a_run_warns_where_its_profile_is_of_other_kernels_than_the_build_and_where_it_leaves_its_range() {
    let bench = Bench::new();
    bench.ok(&calibrate(&["--budget", "30s"]));
    let text = bench.text(PROFILE);
    bench.write("old.toml", measured(&text, "0123456789abcdef"));
    let own = aril_calibrate::check::built_hash().expect("the sources are built in");
    bench.write("own.toml", measured(&text, &own));
    bench.write("s.toml", scenario());
    let run = |profile: &str, out: &str| {
        bench.aril(&["run", "s.toml", "--profile", profile, "--policy", "spread", "--out", out])
    };
    let old = run("old.toml", "old");
    assert_eq!(old.code, 0, "{}", old.err);
    let warning = format!("measured with kernels 0123456789ab, this build has {}", &own[..12]);
    assert!(old.err.contains("warning: synthetic-h200-llama-2-7b") && old.err.contains(&warning), "{}", old.err);
    assert!(bench.text("old/report.html").contains(&warning));
    let own = run("own.toml", "own");
    assert!(own.code == 0 && !own.err.contains("warning"), "{}", own.err);
    assert!(!own.out.contains("outside"), "{}", own.out);

    // No context is as short as those of the run.
    let at = text.find("[validity.context]").expect("a range of contexts");
    let end = at + text[at..].find("max = ").expect("its end") + "max = ".len();
    let rest = text[end..].trim_start_matches(|c: char| c.is_ascii_digit());
    bench.write("narrow.toml", format!("{}2{rest}", &text[..end]));
    let narrow = run("narrow.toml", "narrow");
    assert!(narrow.out.contains("% of cost look-ups outside their range"), "{}{}", narrow.out, narrow.err);
    let report = bench.text("narrow/report.html");
    assert!(report.contains("context: "), "the report counts what was outside, and why");
}

#[test]
fn a_scenario_without_a_pool_runs_on_the_best_gpu_that_its_model_was_measured_on() {
    let bench = Bench::with(&SMALL.replace("[pool.a100-80gb]\nreplicas = 2\nprofile = \"punica-a100-80gb\"", ""));
    let told = bench.ok(&["run", "s.toml", "--policy", "spread"]);
    assert!(told.contains("costs: measured-") && told.contains("(measured)"), "{told}");
    let told = bench.ok(&["run", "s.toml", "--policy", "spread", "--profile", "derived-h200", "--out", "other"]);
    assert!(told.contains("costs: derived-h200-llama-2-7b (derived)"), "{told}");
    bench.write("m.toml", bench.text("s.toml").replace("llama-2-7b", "qwen2.5-7b"));
    let done = bench.aril(&["run", "m.toml"]);
    assert!(done.code == 2 && done.err.contains("no measured profile of"), "{}", done.err);
}

#[test]
fn what_is_damaged_is_refused_with_its_line() {
    let bench = Bench::new();
    bench.ok(&calibrate(&["--budget", "30s"]));
    let text = bench.text(MEASUREMENTS);
    bench.write("bad.jsonl", text.replacen("\"us\":[", "\"us\":[9", 1));
    let done = bench.aril(&["profile", "plot", PROFILE, "--measurements", "bad.jsonl"]);
    assert!(done.code == 2 && done.err.contains("bad.jsonl:") && done.err.contains("damaged"), "{}", done.err);
    bench.write("old.jsonl", text.replacen("\"format\":2", "\"format\":9", 1));
    let done = bench.aril(&["profile", "plot", PROFILE, "--measurements", "old.jsonl"]);
    assert!(done.code == 2, "{}", done.err);
    bench.write("new.toml", bench.text(PROFILE).replacen("schema = 3", "schema = 9", 1));
    let done = bench.aril(&["profile", "show", "new.toml"]);
    assert!(done.code == 2 && done.err.contains("new.toml:1") && done.err.contains("newer build"), "{}", done.err);
    let done = bench.aril(&["profile", "show", "derived-h20-llama-2-7b"]);
    assert!(done.code == 2 && done.err.contains("did you mean"), "{}", done.err);
}

#[test]
fn a_calibration_that_cannot_be_made_says_what_is_missing() {
    let bench = Bench::new();
    let done = bench.aril(&calibrate(&["--budget", "1s"]));
    assert!(
        done.code == 2 && done.err.contains("questions are missing") && done.err.contains("--resume"),
        "{}",
        done.err
    );
    let done = bench.aril(&["calibrate", "--model", "llama-2-13b", "--machine", "synthetic", "--out", "other"]);
    assert!(done.code == 2 && done.err.contains("it computes llama-2-7b"), "{}", done.err);
}

#[test]
fn jitter_without_measurements_is_refused() {
    let bench = Bench::with(&format!("jitter = true\n{SMALL}"));
    let done = bench.aril(&["run", "s.toml"]);
    assert!(done.code == 2 && done.err.contains("does not say how steps scatter"), "{}", done.err);
}

/// On a machine with a GPU these run; CI has none.
#[test]
fn without_a_gpu_commands_that_need_one_say_so() {
    if std::path::Path::new("/dev/nvidiactl").exists() {
        return;
    }
    let bench = Bench::with(&scenario());
    for arguments in [
        ["calibrate", "--model", "llama-2-7b", "--out", "made"].as_slice(),
        ["validate", "s.toml"].as_slice(),
        ["run", "s.toml", "--executor", "gpu"].as_slice(),
    ] {
        let done = bench.aril(arguments);
        assert!(done.code == 4 && done.err.contains("GPU"), "{arguments:?}: {} {}", done.code, done.err);
    }
    assert!(bench.files("runs").is_empty(), "nothing is left behind");
    let done = bench.aril(&["calibrate", "--model", "llama-2-70b", "--out", "made"]);
    assert!(done.code == 4 && done.err.contains("llama-2-7b"), "{}", done.err);
}
