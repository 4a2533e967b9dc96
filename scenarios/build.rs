//! Says which commit, compiler and target a build is of, for manifests. Outside a checkout the commit is unknown.

use std::path::Path;
use std::process::Command;

fn main() {
    let commit = run("git", &["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".to_owned());
    let compiler = std::env::var("RUSTC").ok().and_then(|rustc| run(&rustc, &["--version"]));
    println!("cargo:rustc-env=ARIL_COMMIT={commit}");
    println!("cargo:rustc-env=ARIL_RUSTC={}", compiler.unwrap_or_else(|| "unknown".to_owned()));
    println!("cargo:rustc-env=ARIL_TARGET={}", std::env::var("TARGET").unwrap_or_else(|_| "unknown".to_owned()));
    println!("cargo:rerun-if-changed=build.rs");
    // A new commit is a new build: the log of HEAD grows with each. The path is relative, so that another checkout which
    // shares the target directory watches its own.
    let log = Path::new("../.git/logs/HEAD");
    if log.is_file() {
        println!("cargo:rerun-if-changed={}", log.display());
    } else if let Some(log) = run("git", &["rev-parse", "--git-path", "logs/HEAD"]) {
        // A worktree keeps it elsewhere.
        println!("cargo:rerun-if-changed={log}");
    }
}

fn run(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}
