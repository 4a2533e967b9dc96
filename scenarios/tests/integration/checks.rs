//! `aril check`: what it prints can be run, and is what was run.

use super::bench::{Bench, SMALL};

#[test]
fn what_check_prints_checks_to_itself() {
    for text in [
        SMALL.to_owned(),
        SMALL.replace("[engine.aril]\nmax_num_seqs = 8", "[engine.vllm]\nmax_loras = 4\nlora_kernel = \"sgmv\""),
        SMALL.replace("[policy]\nspread = { router = \"least-loaded\" }\npunica = { preset = \"punica-paper\" }\n", ""),
        SMALL.to_owned()
            + "[sweep]\n\"traffic.rate_scale\" = { from = 1, to = 4, points = 3, spacing = \"log\" }\n\"engine.aril.max_num_seqs\" = [4, 8]\n",
    ] {
        let bench = Bench::with(&text);
        let first = bench.ok(&["check", "s.toml"]);
        bench.write("resolved.toml", &first);
        assert_eq!(bench.ok(&["check", "resolved.toml"]), first);
        // Every default stands there.
        for key in ["gpu_memory_utilization = 0.9", "block_size = 16", "interval = \"0s\"", "timeline_events = 10000"] {
            assert!(first.contains(key), "{key} is not in\n{first}");
        }
    }
}

#[test]
fn a_resolved_scenario_gives_the_same_numbers_as_the_scenario() {
    let bench = Bench::with(SMALL);
    let resolved = bench.ok(&["check", "s.toml"]);
    bench.write("resolved.toml", &resolved);
    let run = |file| bench.ok(&["run", file, "--format", "json", "--out", &format!("out-{file}")]);
    assert_eq!(run("s.toml"), run("resolved.toml"));
}

#[test]
fn set_changes_a_value_before_anything_is_read() {
    let bench = Bench::with(SMALL);
    let printed = bench.ok(&[
        "check",
        "s.toml",
        "--set",
        "engine.aril.max_num_seqs=4",
        "--set",
        "traffic.ranks={ 8 = 1.0 }",
        "--set",
        "pool.a100-80gb.startup=90s",
        "--seed",
        "7",
        "--seeds",
        "3",
    ]);
    for line in ["max_num_seqs = 4", "max_loras = 4", "8 = 1.0", "startup = \"90s\"", "seeds = [7, 8, 9]"] {
        assert!(printed.contains(line), "{line} is not in\n{printed}");
    }
}

#[test]
fn an_overlay_goes_over_its_preset_and_its_preset_over_the_base() {
    let bench = Bench::changed(
        "punica = { preset = \"punica-paper\" }",
        "punica = { preset = \"punica-artifact\", batcher = { punica = { prefills_per_step = 2 } }, faults = [\"single-segment-decode\"] }",
    );
    let printed = bench.ok(&["check", "s.toml", "--format", "json"]);
    let json: serde_json::Value = serde_json::from_str(&printed).expect("JSON");
    let punica = &json["policy"]["punica"];
    assert_eq!(punica["router"]["punica-artifact"]["spare_blocks_per_sequence"], 1);
    assert_eq!(punica["batcher"]["punica"]["prefills_per_step"], 2);
    assert_eq!(punica["batcher"]["punica"]["faults"][0], "single-segment-decode");
    assert_eq!(punica["gpu_adapters"]["slots"], 38);
    assert_eq!(punica["host_link"], "instant");
    assert_eq!(json["engine"]["aril"]["gpu_adapters"]["slots"], 8);
}

#[test]
fn a_batcher_that_collects_garbage_pays_what_the_profile_says() {
    let bench = Bench::changed(
        "punica = { preset = \"punica-paper\" }",
        "hf = { gc_every = 16, batcher = \"static-consecutive\", lora_kernel = \"loop\", profile = \"profiles/hf.toml\" }",
    );
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/../calibrate/profiles/punica-a100-80gb-hf-llama-2-7b.toml");
    let profile = std::fs::read_to_string(shipped).expect("the profile is there");
    assert!(profile.contains("us_per_collection = 0.0\n"));
    bench.write("profiles/hf.toml", profile.replace("us_per_collection = 0.0\n", "us_per_collection = 1500.0\n"));
    let json: serde_json::Value =
        serde_json::from_str(&bench.ok(&["check", "s.toml", "--format", "json"])).expect("JSON");
    let batcher = &json["policy"]["hf"]["batcher"]["static-consecutive"];
    assert_eq!(batcher["gc_every"], 16);
    assert_eq!(batcher["gc_cost"], "1500us");
    assert_eq!(json["policy"]["hf"]["profile"], "profiles/hf.toml");
    bench.ok(&["run", "s.toml", "--policy", "hf"]);
}

#[test]
fn lists_schemas_and_completions_are_printed() {
    let bench = Bench::new();
    let policies = bench.ok(&["list", "policies"]);
    for name in ["punica-paper", "chunked", "lru", "on-arrival", "newest", "punica-consolidate", "punica-hints"] {
        assert!(policies.contains(name), "{name}");
    }
    for what in ["profiles", "traces", "models", "gpus"] {
        let json: serde_json::Value =
            serde_json::from_str(&bench.ok(&["list", what, "--format", "json"])).expect("a list as JSON");
        assert!(json.as_array().is_some_and(|rows| !rows.is_empty()), "{what}");
    }
    let schema: serde_json::Value = serde_json::from_str(&bench.ok(&["schema", "scenario"])).expect("a schema");
    let routers = schema.pointer("/properties/router/anyOf/0/enum").expect("routers by name");
    assert!(routers.as_array().expect("a list").contains(&"punica-paper".into()));
    for what in ["summary", "profile"] {
        bench.ok(&["schema", what]);
    }
    for shell in ["bash", "zsh", "fish"] {
        assert!(bench.ok(&["completions", shell]).contains("aril"));
    }
    assert!(bench.ok(&["run", "--help"]).contains("Exit codes"));
}

/// Every scenario that comes with aril: what `check` prints of it, `check` takes and prints again.
#[test]
fn what_is_printed_of_a_shipped_scenario_is_a_scenario() {
    let home = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut checked = 0;
    for folder in ["azure", "bench", "punica", "regression", "vidur"] {
        for entry in std::fs::read_dir(home.join(folder)).expect("the folder is there") {
            let path = entry.expect("it can be listed").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let is_scenario = name.ends_with(".toml") && !name.ends_with(".baseline.toml") && name != "regress.toml";
            if !is_scenario || !std::fs::read_to_string(&path).expect("it is text").contains("[traffic") {
                continue;
            }
            let bench = Bench::new();
            let text = bench.ok(&["check", &path.display().to_string()]);
            // Beside the original: its paths are relative.
            let copy = tempfile::Builder::new()
                .prefix(".checked-")
                .suffix(".partial")
                .tempfile_in(home.join(folder))
                .expect("a temporary file");
            std::fs::write(copy.path(), &text).expect("it can be written");
            let again = bench.aril(&["check", &copy.path().display().to_string()]);
            assert_eq!((again.code, again.err.as_str()), (0, ""), "{name}");
            assert_eq!(again.out, text, "{name}");
            checked += 1;
        }
    }
    assert!(checked > 15, "{checked}");
}

/// What follows from a swept value is not written down: it would hold at every point.
#[test]
fn a_swept_scenario_that_was_printed_gives_the_same_results() {
    let text = SMALL
        .replacen(
            "[engine.aril]\nmax_num_seqs = 8",
            "[engine.aril]\nmax_num_seqs = 4\n\n[router.scorers]\nqueue = 1.0",
            1,
        )
        .replacen("spread = { router = \"least-loaded\" }", "spread = {}", 1)
        + "\n[sweep]\n\"engine.aril.max_num_seqs\" = [4, 16]\n\"router.scorers.load\" = [0.0, 5.0]\n\"pool.a100-80gb.replicas\" = [1, 2]\n";
    let bench = Bench::with(&text);
    let printed = bench.ok(&["check", "s.toml"]);
    for derived in ["max_loras", "gpu_adapters", "starts_on"] {
        assert!(!printed.contains(derived), "{derived} is in\n{printed}");
    }
    bench.write("printed.toml", &printed);
    let run = |file| bench.ok(&["run", file, "--no-tables", "--format", "json", "--out", &format!("out-{file}")]);
    assert_eq!(run("s.toml"), run("printed.toml"));
}
