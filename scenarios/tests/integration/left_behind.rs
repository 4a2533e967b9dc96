//! However a run ends, nothing half-written stays, and the exit code says how it ended.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::bench::{Bench, SMALL};

fn aril(bench: &Bench, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_aril"));
    command.args(arguments).current_dir(bench.path("")).stdin(Stdio::null());
    command
}

/// What lies in a folder, hidden names included.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn a_limit_on_the_size_of_files_is_an_error_like_a_full_disk() {
    let bench = Bench::with(SMALL);
    for command in ["run s.toml --out out/of/here", "trace convert azure-llm-2023-conv t.csv"] {
        let line = format!("ulimit -f 2; exec {} {command}", env!("CARGO_BIN_EXE_aril"));
        let output =
            Command::new("sh").args(["-c", &line]).current_dir(bench.path("")).output().expect("there is a shell");
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(4), "{command}: {error}");
        assert!(error.contains("File too large"), "{error}");
        assert_eq!(names(&bench.path("")), ["s.toml"], "{command}");
    }
}

/// Whether whoever started the tests told them to ignore a signal, as `nohup` does, and with them everything that they start.
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

#[test]
fn a_closed_terminal_or_an_interrupt_leaves_nothing() {
    for (signal, code) in [("HUP", 129), ("INT", 130), ("TERM", 143)] {
        if is_ignored(code - 128) {
            eprintln!("{signal} is ignored here: not tried");
            continue;
        }
        let bench = Bench::changed("requests = 60", "requests = 3000000");
        let mut child = aril(&bench, &["run", "s.toml", "--out", "out/here", "--quiet"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program starts");
        let began = Instant::now();
        while names(&bench.path("out")).is_empty() && began.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(20));
        }
        // The listener is set up right after the folder.
        std::thread::sleep(Duration::from_millis(300));
        let sent = Command::new("kill").args([format!("-{signal}"), child.id().to_string()]).status();
        assert!(sent.expect("there is a kill").success());
        assert_eq!(child.wait().expect("it ends").code(), Some(code), "{signal}");
        assert_eq!(names(&bench.path("")), ["s.toml"], "{signal}");
    }
}

#[test]
fn a_run_that_cannot_be_told_is_complete_all_the_same() {
    let bench = Bench::with(SMALL);
    let Ok(full) = File::options().write(true).open("/dev/full") else { return };
    let output =
        aril(&bench, &["run", "s.toml", "--out", "out", "--quiet"]).stdout(full).output().expect("the program starts");
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4));
    assert!(error.contains("out is complete") && !error.contains("nothing was left behind"), "{error}");
    assert!(bench.path("out/report.html").is_file());
}

#[test]
fn a_run_that_is_refused_makes_no_folder() {
    let bench = Bench::with(SMALL);
    let done = bench.aril(&["run", "s.toml", "--executor", "gpu"]);
    assert_ne!(done.code, 0);
    assert_eq!(names(&bench.path("")), ["s.toml"]);
}

#[test]
fn threads_are_a_number_that_makes_sense() {
    let bench = Bench::with(SMALL);
    assert_eq!(bench.aril(&["run", "s.toml", "--threads", "0"]).code, 2);
    bench.ok(&["run", "s.toml", "--threads", "999999999", "--no-tables"]);
    assert!(!bench.text("runs/small/manifest.toml").contains("threads = 999"), "as many as there are runs");
}

#[test]
fn a_profile_in_another_encoding_is_refused_with_its_line() {
    let bench = Bench::changed("profile = \"punica-a100-80gb\"", "profile = \"p.toml\"");
    bench.write("p.toml", b"name = \"x\"\n# caf\xe9\n");
    for arguments in [&["profile", "check", "p.toml"][..], &["check", "s.toml"][..]] {
        let done = bench.aril(arguments);
        assert_eq!(done.code, 2, "{}", done.err);
        assert!(done.err.contains("line 2: this is not text in UTF-8"), "{}", done.err);
    }
}
