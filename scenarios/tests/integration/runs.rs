//! `aril run`: what it writes, and that it does not depend on anything but its input.

use super::bench::{Bench, SMALL};

/// The files that hold results: all but the manifests, in which wall-clock times stand.
fn results(bench: &Bench, folder: &str) -> Vec<(String, Vec<u8>)> {
    let files = bench.files(folder).into_iter().filter(|name| !name.ends_with("manifest.toml"));
    files.map(|name| (name.clone(), bench.read(&format!("{folder}/{name}")))).collect()
}

#[test]
fn a_run_directory_holds_a_report_a_summary_and_a_folder_a_run() {
    let bench = Bench::with(SMALL);
    let told = bench.ok(&["run", "s.toml", "--seeds", "2"]);
    for text in ["spread", "punica", "published", "report.html"] {
        assert!(told.contains(text), "{text} is not in\n{told}");
    }
    let files = bench.files("runs/small");
    for name in ["manifest.toml", "report.html", "summary.json"] {
        assert!(files.contains(&name.to_owned()), "{name} is not in {files:?}");
    }
    for policy in ["spread", "punica"] {
        for seed in [1, 2] {
            for name in ["requests.parquet", "steps.parquet", "events.parquet", "manifest.toml", "timeline.json.gz"] {
                let wanted = format!("runs/{policy}/seed-{seed}/{name}");
                assert!(files.contains(&wanted), "{wanted} is not in {files:?}");
            }
        }
    }
    let left: Vec<_> = std::fs::read_dir(bench.path("runs")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["small"], "nothing temporary is left");
}

#[test]
fn results_are_the_same_bytes_on_one_thread_and_on_two() {
    let bench = Bench::with(SMALL);
    bench.ok(&["run", "s.toml", "--seeds", "2", "--threads", "1", "--out", "one"]);
    bench.ok(&["run", "s.toml", "--seeds", "2", "--threads", "2", "--out", "two"]);
    let (one, two) = (results(&bench, "one"), results(&bench, "two"));
    assert!(one.len() > 10);
    assert_eq!(
        one.iter().map(|(name, _)| name).collect::<Vec<_>>(),
        two.iter().map(|(name, _)| name).collect::<Vec<_>>()
    );
    for ((name, one), (_, two)) in one.iter().zip(&two) {
        assert!(one == two, "{name} differs");
    }
}

#[test]
fn policies_see_the_same_requests_and_seeds_see_others() {
    let bench = Bench::with(SMALL);
    let json: serde_json::Value =
        serde_json::from_str(&bench.ok(&["run", "s.toml", "--seeds", "2", "--format", "json"])).expect("JSON");
    let runs = json["runs"].as_array().expect("runs");
    let offered = |policy: &str, seed: u64| {
        let run =
            runs.iter().find(|run| run["run"]["policy"] == policy && run["run"]["seed"] == seed).expect("the run");
        run["metrics"]["offered_per_s"].as_f64().expect("a rate")
    };
    assert_eq!(offered("spread", 1), offered("punica", 1));
    assert_eq!(offered("spread", 2), offered("punica", 2));
    assert_ne!(offered("spread", 1), offered("spread", 2));
}

#[test]
fn an_existing_run_directory_is_refused_and_replaced_only_by_force() {
    let bench = Bench::with(SMALL);
    bench.ok(&["run", "s.toml", "--out", "out"]);
    let before = bench.read("out/summary.json");
    let refused = bench.aril(&["run", "s.toml", "--out", "out", "--seed", "9"]);
    assert_eq!(
        (refused.code, refused.err.as_str()),
        (2, "error: out is already there: choose another --out, or replace it with --force\n")
    );
    assert_eq!(bench.read("out/summary.json"), before);
    bench.ok(&["run", "s.toml", "--out", "out", "--seed", "9", "--force"]);
    assert_ne!(bench.read("out/summary.json"), before);
}

#[test]
fn force_never_replaces_what_is_no_run_directory() {
    let bench = Bench::with(SMALL);
    bench.write("precious/thesis.tex", "years of work");
    let refused = bench.aril(&["run", "s.toml", "--out", "precious", "--force"]);
    assert_eq!(refused.code, 2, "{}", refused.err);
    assert_eq!(bench.text("precious/thesis.tex"), "years of work");
}

#[test]
fn one_policy_can_be_run_alone_and_gives_the_same_numbers() {
    let bench = Bench::with(SMALL);
    let all: serde_json::Value =
        serde_json::from_str(&bench.ok(&["run", "s.toml", "--format", "json", "--out", "all"])).expect("JSON");
    let one: serde_json::Value =
        serde_json::from_str(&bench.ok(&["run", "s.toml", "--policy", "punica", "--format", "json", "--out", "one"]))
            .expect("JSON");
    assert_eq!(one["runs"].as_array().expect("runs").len(), 1);
    assert_eq!(one["runs"][0], all["runs"][1]);
}

#[test]
fn no_tables_writes_none() {
    let bench = Bench::with(SMALL);
    bench.ok(&["run", "s.toml", "--no-tables", "--out", "out"]);
    let files = bench.files("out");
    assert!(files.iter().all(|name| !name.ends_with(".parquet") && !name.ends_with(".gz")), "{files:?}");
}

#[test]
fn names_with_markup_stay_names() {
    let markup = "<script>alert(1)</script>";
    let bench = Bench::with(&SMALL.replace(
        "name = \"small\"",
        &format!("name = \"{markup}\"\ndescription = \"a <b>bold</b> \\u001b[31m claim\""),
    ));
    let bench_text = bench.text("s.toml").replace("spread = {", "\"../<i>x\" = {");
    bench.write("s.toml", bench_text);
    let told = bench.ok(&["run", "s.toml"]);
    assert!(!told.contains('\u{1b}'), "control characters reach the terminal");
    let folders: Vec<_> = std::fs::read_dir(bench.path("runs")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(folders.len(), 1);
    let report = bench.text(&format!("runs/{}/report.html", folders[0].to_string_lossy()));
    assert!(
        !report.contains(markup) && !report.contains("<b>bold</b>") && !report.contains("<i>x"),
        "markup reaches the page"
    );
    assert!(report.contains("&lt;script&gt;"));
}

#[test]
fn a_simulation_that_stands_still_exits_with_3_and_says_who_waits() {
    // A pinned set that fills the memory: the first request for another adapter waits for ever.
    let bench = Bench::changed(
        "[engine.aril]\nmax_num_seqs = 8",
        "[evictor]\npinned = { ids = [0, 1, 2, 3, 4, 5, 6, 7] }\n\n[engine.aril]\nmax_num_seqs = 8\nmax_loras = 1\nmax_lora_rank = 16\ngpu_adapters = { slots = 1 }",
    );
    let done = bench.aril(&["run", "s.toml", "--policy", "spread"]);
    assert_eq!(done.code, 3, "{}{}", done.err, done.out);
    assert!(
        done.err.contains("the simulation is stuck at") && done.err.contains("policy `spread`, seed 1"),
        "{}",
        done.err
    );
    assert!(bench.files("runs").is_empty(), "nothing is left behind");
}

#[test]
fn a_run_that_the_clock_ends_exits_with_2_unless_its_horizon_is_there() {
    let bench = Bench::changed("arrivals = { poisson = { rate = 4.0 } }\nrequests = 60", "trace = \"t.csv\"");
    // The second request arrives in time, and is not done in time.
    bench.write("t.csv", "arrival,input_tokens,output_tokens\n0,9,9\n17279999.999,9,9\n");
    let done = bench.aril(&["run", "s.toml", "--policy", "spread"]);
    assert_eq!(done.code, 2, "{}{}", done.err, done.out);
    let told =
        "policy `spread`, seed 1: requests are left after 200d of simulated time, the longest that a run can last";
    assert!(done.err.contains(told) && done.err.contains("`horizon`"), "{}", done.err);
    assert!(bench.files("runs").is_empty(), "nothing is left behind");
    bench.ok(&["run", "s.toml", "--policy", "spread", "--set", "horizon=200d"]);
}

/// A limit on the size of files fails in the middle of writing, as a full disk does.
#[cfg(unix)]
#[test]
fn a_disk_that_takes_no_more_gives_one_clear_error_and_nothing_half_written() {
    let bench = Bench::with(SMALL);
    let output = std::process::Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 8; exec \"$0\" run s.toml --out out", env!("CARGO_BIN_EXE_aril")])
        .current_dir(bench.path(""))
        .output()
        .expect("the shell starts");
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{err}");
    assert!(err.starts_with("error: cannot ") && err.trim_end().lines().count() == 1, "{err}");
    assert_eq!(bench.files(""), ["s.toml"], "nothing half-written is left");
}

#[cfg(unix)]
#[test]
fn an_interrupt_leaves_nothing_behind() {
    let bench = Bench::changed("requests = 60", "requests = 3000000");
    let mut run = std::process::Command::new(env!("CARGO_BIN_EXE_aril"))
        .args(["run", "s.toml", "--out", "out"])
        .current_dir(bench.path(""))
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("the program starts");
    let began = std::time::Instant::now();
    while !bench.files("").iter().any(|name| name.ends_with("requests.parquet")) {
        assert!(began.elapsed().as_secs() < 60, "the run never began to write");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let killed =
        std::process::Command::new("kill").args(["-INT", &run.id().to_string()]).status().expect("kill is there");
    assert!(killed.success());
    assert_eq!(run.wait().expect("it ends").code(), Some(130));
    assert_eq!(bench.files(""), ["s.toml"]);
}

#[test]
fn a_baseline_that_is_not_run_is_no_mistake() {
    let bench = Bench::changed("[policy]", "[compare]\nbaseline = \"spread\"\n\n[policy]");
    bench.ok(&["run", "s.toml", "--policy", "punica"]);
}

#[test]
fn classes_pools_and_prices_reach_the_summary() {
    let text = SMALL
        .replace("replicas = 2\n", "replicas = 1\nusd_per_gpu_hour = 2.0\n")
        .replace(
            "[slo.all]",
            "[pool.spot]\nreplicas = 2\ngpu = \"a100-80gb\"\nprofile = \"punica-a100-80gb\"\nusd_per_gpu_hour = 1.0\nstartup = \"5s\"\nstarts_on = 1\n\n[slo.gold]\ntenants = \"gold.txt\"\nttft = \"200ms\"\n\n[slo.all]",
        )
        .replace("{ preset = \"punica-paper\" }", "{ preset = \"punica-consolidate\" }");
    let bench = Bench::with(&text);
    bench.write("gold.txt", "tenant-1\ntenant-2\nsomebody-else\n");
    let json: serde_json::Value =
        serde_json::from_str(&bench.ok(&["run", "s.toml", "--format", "json"])).expect("JSON");
    for run in json["runs"].as_array().expect("runs") {
        let classes = run["metrics"]["classes"].as_array().expect("classes");
        let names: Vec<_> = classes.iter().map(|class| class["name"].as_str().expect("a name")).collect();
        assert_eq!(names, ["gold", "all"]);
        let offered: u64 = classes.iter().map(|class| class["offered"].as_u64().expect("a number")).sum();
        assert_eq!(offered, 60);
        assert!(classes.iter().all(|class| class["offered"] != 0));
        assert!(run["metrics"]["cost"]["usd_per_million_tokens"].as_f64().is_some_and(|usd| usd > 0.0));
    }
    let hours = |policy: usize| json["runs"][policy]["metrics"]["gpu"]["hours_held"].as_f64().expect("hours");
    let run_s = json["runs"][0]["metrics"]["window"]["run_s"].as_f64().expect("seconds");
    assert!((hours(0) - 2.0 * run_s / 3600.0).abs() < 1e-9, "two replicas of three are on: {} in {run_s} s", hours(0));
    bench.write("gold.txt", "nobody\n");
    let done = bench.aril(&["check", "s.toml"]);
    assert_eq!(done.code, 2);
    assert!(done.err.starts_with("error: `slo`: none of the 1 listed tenants is in the traffic\n"), "{}", done.err);
}

/// Which seed replays a trace as recorded is told by the scenario, not by the order in which seeds are run.
#[test]
fn a_seed_of_a_replayed_trace_means_the_same_wherever_it_stands() {
    let rows: String = (0..400).map(|i| format!("{},{},{}\n", i as f64 * 0.4, 1 + i % 50, 1 + i % 7)).collect();
    let text = SMALL.replacen(
        "arrivals = { poisson = { rate = 4.0 } }\nrequests = 60\ninput_tokens = 32\noutput_tokens = { uniform = [1, 64] }",
        "trace = \"t.csv\"\nresample.block = \"10s\"",
        1,
    );
    let bench = Bench::with(&text);
    bench.write("t.csv", format!("arrival_s,input_tokens,output_tokens\n{rows}"));
    bench.ok(&["run", "s.toml", "--policy", "spread", "--seeds", "3", "--out", "three"]);
    let requests = |folder: &str, seed: u64| {
        let files = bench.files(folder);
        let name = files
            .iter()
            .find(|file| file.contains(&format!("seed-{seed}/")) && file.ends_with("requests.parquet"))
            .unwrap_or_else(|| panic!("{files:?}"));
        bench.read(&format!("{folder}/{name}"))
    };
    let three: Vec<Vec<u8>> = (1..=3).map(|seed| requests("three", seed)).collect();
    assert!(three[0] != three[1] && three[1] != three[2], "other seeds draw other blocks");
    for (seed, expected) in (1..=3).zip(&three) {
        let (seed_text, out) = (seed.to_string(), format!("one-{seed}"));
        bench.ok(&["run", "s.toml", "--policy", "spread", "--seed", &seed_text, "--out", &out]);
        assert!(requests(&out, seed) == *expected, "seed {seed} alone is seed {seed} among others");
        let file = format!("{seed}.csv");
        bench.ok(&["trace", "generate", "s.toml", "--seed", &seed_text, "--out", &file]);
    }
    assert_ne!(bench.text("1.csv"), bench.text("2.csv"));
    assert_ne!(bench.text("2.csv"), bench.text("3.csv"));
}
