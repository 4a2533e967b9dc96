//! Everything that can be wrong with a scenario, typed in, and the message it gets.

mod engine;
mod names;
mod not_built;
mod policies;
mod sweep;
mod text;
mod traffic;

use super::bench::Bench;

/// `aril check` refuses the scenario with exactly this message.
#[track_caller]
fn refused(bench: &Bench, message: &str) {
    let done = bench.aril(&["check", "s.toml"]);
    assert_eq!(done.err.trim_end(), message);
    assert_eq!((done.code, done.out.as_str()), (2, ""));
}

/// The same of the small scenario with one thing changed.
#[track_caller]
fn changed(from: &str, to: &str, message: &str) {
    refused(&Bench::changed(from, to), message);
}
