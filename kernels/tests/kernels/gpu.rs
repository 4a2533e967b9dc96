//! What opening a GPU says, with or without one, and with libraries that are made here. The kernels' checks on a GPU are
//! `kernels/ci/gpu.sh`.

use std::process::Command;

use aril_kernels::Error;
use aril_kernels::gpu::Gpu;

#[test]
fn opening_a_gpu_works_or_says_what_is_missing() {
    match Gpu::open(0) {
        Ok(gpu) => assert!(gpu.chip().multiprocessors > 0 && gpu.l2_bytes() > 0),
        Err(error) => {
            let expected = matches!(
                error,
                Error::LibraryMissing { .. } | Error::LibraryTooOld { .. } | Error::NoGpu { .. } | Error::Driver { .. }
            );
            assert!(expected, "{error}");
            assert!(error.to_string().len() > 20, "{error}");
        }
    }
}

/// A process of its own opens a GPU, since a process loads a library once.
#[test]
#[ignore = "started by the tests below, with other libraries"]
fn opening_prints_its_error() {
    println!("{:?}", Gpu::open(2).map(|gpu| gpu.name().to_owned()));
}

/// What opening GPU 2 gives with a driver and an NVRTC of these versions (major · 1000 + minor · 10), and so many GPUs.
/// `None`, with a message, where there is no C++ compiler.
fn opened_with(driver: u32, nvrtc: u32, gpus: u32) -> Option<String> {
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "g++".to_owned());
    if !cfg!(target_os = "linux") || Command::new(&compiler).arg("--version").output().is_err() {
        eprintln!("skipped: libraries of other versions are made on Linux, with a C++ compiler");
        return None;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let libraries = [
        (
            "cuda",
            format!(
                "extern \"C\" int cuInit(unsigned) {{ return 0; }}\n\
                 extern \"C\" int cuDriverGetVersion(int* version) {{ return *version = {driver}, 0; }}\n\
                 extern \"C\" int cuDeviceGetCount(int* count) {{ return *count = {gpus}, 0; }}\n"
            ),
        ),
        (
            "nvrtc",
            format!(
                "extern \"C\" int nvrtcVersion(int* major, int* minor) {{ return *major = {}, *minor = {}, 0; }}\n",
                nvrtc / 1000,
                nvrtc % 1000 / 10
            ),
        ),
    ];
    for (name, source) in libraries {
        let path = folder.path().join(name).with_extension("cpp");
        std::fs::write(&path, source).expect("the temporary folder is writable");
        let library = folder.path().join(format!("lib{name}.so"));
        let made = Command::new(&compiler).args(["-shared", "-fPIC", "-o"]).arg(library).arg(path).output();
        let made = made.expect("the compiler starts");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }
    let others = std::env::var("LD_LIBRARY_PATH").unwrap_or_default();
    let output = Command::new(std::env::current_exe().expect("this test's own binary"))
        .args(["--exact", "gpu::opening_prints_its_error", "--ignored", "--nocapture"])
        .env("LD_LIBRARY_PATH", format!("{}:{others}", folder.path().display()))
        .output()
        .expect("it starts again");
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn a_driver_that_is_too_old_is_refused_by_its_version() {
    let Some(says) = opened_with(12_020, 13_000, 4) else { return };
    let expected = "LibraryTooOld { library: \"the CUDA driver\", found: \"12.2\", needed: \"12.3\" }";
    assert!(says.contains(expected), "{says}");
}

#[test]
fn an_nvrtc_that_is_too_old_is_refused_by_its_version() {
    let Some(says) = opened_with(12_030, 11_080, 4) else { return };
    assert!(says.contains("LibraryTooOld { library: \"NVRTC\", found: \"11.8\", needed: \"12.3\" }"), "{says}");
}

#[test]
fn a_gpu_that_the_driver_does_not_see_is_refused_by_its_number() {
    for gpus in [0, 2] {
        let Some(says) = opened_with(12_030, 12_030, gpus) else { return };
        assert!(says.contains(&format!("NoGpu {{ ordinal: 2, count: {gpus} }}")), "{says}");
    }
}

/// What `ci/gpu.sh` says of a folder of binaries: whether it succeeds, and its log. `None` where there is no shell.
#[cfg(unix)]
fn checked(binaries: &std::path::Path, parts: &[&str]) -> Option<(bool, String)> {
    let out = tempfile::tempdir().expect("a temporary folder");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/ci/gpu.sh");
    let Ok(output) = Command::new("sh").arg(script).arg(binaries).arg(out.path()).args(parts).output() else {
        eprintln!("skipped: there is no sh");
        return None;
    };
    let log = std::fs::read_to_string(out.path().join("checks.log")).expect("a log");
    Some((output.status.success(), log))
}

/// An executable that prints `says` after its first argument, and exits with `code`.
#[cfg(unix)]
fn stand_in(folder: &std::path::Path, name: &str, says: &str, code: i32) {
    use std::os::unix::fs::PermissionsExt;
    let path = folder.join(name);
    std::fs::write(&path, format!("#!/bin/sh\necho \"$1 {says}\"\nexit {code}\n")).expect("it is writable");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("it is ours");
}

#[test]
#[cfg(unix)]
fn checks_on_a_gpu_without_their_binaries_are_no_success() {
    let empty = tempfile::tempdir().expect("a temporary folder");
    for parts in [&["checks"][..], &["sanitize"], &["lora-counters", "lora"]] {
        let Some((success, log)) = checked(empty.path(), parts) else { return };
        assert!(!success, "{log}");
        let last = log.lines().last().expect("a last line");
        assert!(last.contains("something was skipped: 0 commands ran, 0 failed"), "{log}");
        assert!(log.contains("is not here: skipped"), "{log}");
    }
    let Some((_, log)) = checked(empty.path(), &["sanitize"]) else { return };
    for (tool, runs) in [("memcheck-", 19), ("synccheck-", 19), ("racecheck-", 19)] {
        // Whether clusters are judged rightly is asked beside the runs.
        let lines = log.lines().filter(|line| line.starts_with(tool) && !line.starts_with("synccheck-cluster"));
        assert_eq!(lines.count(), runs, "{tool}: {log}");
    }
    let Some((success, log)) = checked(empty.path(), &["chekcs"]) else { return };
    assert!(!success && log.contains("unknown part chekcs"), "{log}");
}

#[test]
#[cfg(unix)]
fn a_log_of_checks_on_a_gpu_names_the_kernels_and_what_failed() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    stand_in(folder.path(), "bench_attention", "is right", 0);
    let Some((success, log)) = checked(folder.path(), &["attention"]) else { return };
    assert!(success, "{log}");
    assert_eq!(log.lines().nth(2), Some("bench_attention: --source-hash is right"));
    assert!(log.contains("\nattention: exit 0, ") && log.contains(" s: --out is right\n"), "{log}");
    assert!(log.ends_with("nothing failed: 1 commands ran, 0 failed, 0 skipped, 0 left out\n"), "{log}");
    stand_in(folder.path(), "bench_attention", "is wrong", 1);
    let Some((success, log)) = checked(folder.path(), &["attention"]) else { return };
    assert!(!success && log.contains("something failed: 1 commands ran, 1 failed"), "{log}");
}
