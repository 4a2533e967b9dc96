//! How long the program itself takes, against another build of it: whole runs, in pairs, each order as often as the other.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use aril_reports::change::{Quantity, Speed, SpeedRules, SpeedSamples};
use tempfile::TempDir;

use super::folder::{Folder, ScenarioFile};
use crate::error::ArilError;

/// Counts of instructions repeat almost exactly, and counting slows a run fifty times: few pairs are enough.
const COUNTED_PAIRS: usize = 5;

/// Runs every scenario with both programs.
///
/// # Errors
/// A base that is no program; a system that cannot start one.
pub(super) fn measure(folder: &Folder, base: &Path, pairs: u32, rules: SpeedRules) -> Result<Speed, ArilError> {
    let this = std::env::current_exe().map_err(ArilError::io("find", "this program"))?;
    let is_aril = Command::new(base).arg("--version").output().is_ok_and(|output| output.stdout.starts_with(b"aril "));
    if !is_aril {
        return Err(ArilError::Input {
            path: base.to_owned(),
            problem: "this is not an aril that can be run".to_owned(),
            help: "build the other commit, and name its program".to_owned(),
        });
    }
    let scratch = tempfile::tempdir().map_err(ArilError::io("create a temporary folder in", std::env::temp_dir()))?;
    let can_count = Command::new("valgrind")
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    let mut notes = Vec::new();
    if !can_count {
        notes.push("valgrind is not installed: instructions were not counted".to_owned());
    }
    let mut samples = Vec::new();
    for scenario in &folder.scenarios {
        // Once each, unmeasured: files are in memory afterwards, and a base that cannot read the scenario shows.
        let warm = [base, &this].map(|program| timed(program, scenario, &scratch));
        if warm.iter().any(Option::is_none) {
            notes.push(format!("{}: one of the two programs cannot run it", scenario.file));
            continue;
        }
        let of = |count: usize, quantity: Quantity, run: &dyn Fn(&Path) -> Option<f64>| SpeedSamples {
            scenario: scenario.file.trim_end_matches(".toml").to_owned(),
            quantity,
            pairs: (0..count).filter_map(|turn| pair(turn, base, &this, run)).collect(),
        };
        samples.push(of(pairs as usize, Quantity::WallTime, &|program| timed(program, scenario, &scratch)));
        if can_count {
            samples.push(of(COUNTED_PAIRS, Quantity::Instructions, &|program| counted(program, scenario, &scratch)));
        }
    }
    Ok(Speed::judge(&base.display().to_string(), &samples, rules, notes))
}

/// Both programs one after the other, the base first in every other pair.
fn pair(turn: usize, base: &Path, this: &Path, run: &dyn Fn(&Path) -> Option<f64>) -> Option<(f64, f64)> {
    if turn.is_multiple_of(2) {
        let base = run(base)?;
        return Some((base, run(this)?));
    }
    let this = run(this)?;
    Some((run(base)?, this))
}

/// The arguments of a run that measures the simulator and not the disk.
fn arguments(command: &mut Command, scenario: &ScenarioFile, scratch: &TempDir) {
    command.arg("run").arg(&scenario.path).arg("--out").arg(scratch.path().join("out"));
    command.args(["--force", "--no-tables", "--quiet", "--threads", "1"]).stdin(Stdio::null()).stdout(Stdio::null());
}

/// Wall time of a run, seconds; none if it fails.
fn timed(program: &Path, scenario: &ScenarioFile, scratch: &TempDir) -> Option<f64> {
    let mut command = Command::new(program);
    arguments(&mut command, scenario, scratch);
    let began = Instant::now();
    let status = command.stderr(Stdio::null()).status().ok()?;
    // 1: a published figure was missed, which is no matter of speed.
    matches!(status.code(), Some(0 | 1)).then(|| began.elapsed().as_secs_f64())
}

/// Instructions of a run; none if it fails.
fn counted(program: &Path, scenario: &ScenarioFile, scratch: &TempDir) -> Option<f64> {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(program);
    arguments(&mut command, scenario, scratch);
    let output = command.stderr(Stdio::piped()).output().ok()?;
    collected(&String::from_utf8_lossy(&output.stderr))
}

/// The total that callgrind prints when it ends: `==12345== Collected : 678`.
fn collected(text: &str) -> Option<f64> {
    let line = text.lines().rev().find(|line| line.contains("Collected :"))?;
    line.rsplit(':').next()?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_read_where_callgrind_prints_it() {
        let text = "==9== Callgrind, a call-graph generating cache profiler\n==9== \n==9== Events    : Ir\n==9== Collected : 1234567\n==9== \n";
        assert_eq!(collected(text), Some(1_234_567.0));
        assert_eq!(collected("Killed"), None);
    }

    #[test]
    fn the_order_within_pairs_alternates_and_the_base_stays_first_of_the_two() {
        let order = std::cell::RefCell::new(Vec::new());
        let run = |program: &Path| {
            order.borrow_mut().push(program.display().to_string());
            Some(if program == Path::new("base") { 1.0 } else { 2.0 })
        };
        let pairs: Vec<_> = (0..2).filter_map(|turn| pair(turn, Path::new("base"), Path::new("this"), &run)).collect();
        assert_eq!(pairs, [(1.0, 2.0), (1.0, 2.0)]);
        assert_eq!(order.into_inner(), ["base", "this", "this", "base"]);
    }
}
