//! What a scenario gave at each commit that was recorded: a line each, beside the baseline.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::baseline::save_whole;
use super::matched::label;
use super::recording::Recording;
use super::speed::Quantity;
use super::watched::{WATCHED, key};
use crate::ReportError;
use crate::statistics::t_interval;

/// How names of histories end.
pub const SUFFIX: &str = ".history.jsonl";
/// The version that this build writes and reads.
pub(crate) const SCHEMA: u32 = 1;
/// Confidence of the recorded intervals.
const CONFIDENCE: f64 = 0.95;

/// The recorded commits, oldest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// A commit each.
    pub entries: Vec<Entry>,
}

/// What was recorded at one commit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The version of the format.
    pub schema: u32,
    /// Name of the commit; with a `+` where the checkout held more than that.
    pub commit: String,
    /// When it was recorded.
    pub at: String,
    /// By policy, then by metric: mean, and the ends of its interval over seeds where there is one.
    pub series: BTreeMap<String, BTreeMap<String, Vec<f64>>>,
    /// The simulator's own speed, where it was measured: by quantity, mean and the ends of its interval over runs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub speed: BTreeMap<Quantity, Vec<f64>>,
}

/// A value at a commit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Level {
    /// Mean over seeds.
    pub mean: f64,
    /// Its 95 % interval.
    pub interval: Option<(f64, f64)>,
}

impl Entry {
    /// The means of a recording.
    pub fn of(recording: &Recording, commit: &str, at: &str) -> Entry {
        let mut series: BTreeMap<String, BTreeMap<String, Vec<f64>>> = BTreeMap::new();
        for run in &recording.runs {
            series.entry(label(&run.run.point, &run.run.policy)).or_default();
        }
        for (name, metrics) in &mut series {
            let runs = || recording.runs.iter().filter(|run| label(&run.run.point, &run.run.policy) == *name);
            for metric in WATCHED {
                let values: Vec<f64> = runs().filter_map(|run| run.value(None, metric)).collect();
                if values.is_empty() {
                    continue;
                }
                metrics.insert(key(metric), recorded(&values));
            }
        }
        Entry { schema: SCHEMA, commit: commit.to_owned(), at: at.to_owned(), series, speed: BTreeMap::new() }
    }

    /// The value of a series.
    pub fn level(&self, policy: &str, metric: &str) -> Option<Level> {
        level_of(self.series.get(policy)?.get(metric)?)
    }

    /// The speed of the simulator.
    pub fn speed_level(&self, quantity: Quantity) -> Option<Level> {
        level_of(self.speed.get(&quantity)?)
    }
}

fn level_of(recorded: &[f64]) -> Option<Level> {
    match recorded {
        [mean] => Some(Level { mean: *mean, interval: None }),
        [mean, low, high] => Some(Level { mean: *mean, interval: Some((*low, *high)) }),
        _ => None,
    }
}

/// Mean and the ends of its interval, as a history keeps them; none of no values.
pub(super) fn recorded(values: &[f64]) -> Vec<f64> {
    let level = match t_interval(values, CONFIDENCE) {
        Some(interval) => vec![interval.mean, interval.low, interval.high],
        None => values.to_vec(),
    };
    level.into_iter().map(six_digits).collect()
}

impl History {
    /// Reads a file; a file that is not there is a history that has not begun.
    ///
    /// # Errors
    /// [`ReportError::Unusable`] with the line that cannot be read.
    pub fn read(path: &Path) -> Result<History, ReportError> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(History::default()),
            Err(error) => return Err(ReportError::io("read", path)(error)),
        };
        let mut entries = Vec::new();
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let unusable = |problem: String| ReportError::Unusable {
                path: path.to_owned(),
                problem: format!("line {}: {problem}", number + 1),
                help: "restore the file from version control; a history is only ever appended to",
            };
            let value: serde_json::Value =
                serde_json::from_str(line).map_err(|error| unusable(format!("not a recorded commit: {error}")))?;
            match value.get("schema").and_then(serde_json::Value::as_u64) {
                Some(schema) if schema == u64::from(SCHEMA) => {}
                Some(schema) => return Err(unusable(format!("schema {schema}, this aril reads {SCHEMA}"))),
                None => return Err(unusable("it names no schema".to_owned())),
            }
            entries.push(serde_json::from_value(value).map_err(|error| unusable(error.to_string()))?);
        }
        Ok(History { entries })
    }

    /// Adds a commit; one of the same name as the last takes its place.
    pub fn push(&mut self, entry: Entry) {
        if self.entries.last().is_some_and(|last| last.commit == entry.commit) {
            self.entries.pop();
        }
        self.entries.push(entry);
    }

    /// Writes the file as a whole or not at all.
    ///
    /// # Errors
    /// Anything the file system refuses.
    pub fn write(&self, path: &Path) -> Result<(), ReportError> {
        let mut text = String::new();
        for entry in &self.entries {
            text += &serde_json::to_string(entry)?;
            text.push('\n');
        }
        save_whole(path, text.as_bytes())
    }

    /// Policies and metrics of which there is a value anywhere, policies in the order of the last entry.
    pub fn policies(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for name in self.entries.iter().rev().flat_map(|entry| entry.series.keys()) {
            if !names.contains(&name.as_str()) {
                names.push(name);
            }
        }
        names
    }
}

fn six_digits(value: f64) -> f64 {
    format!("{value:.5e}").parse().unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::recording::{Recorded, Values};
    use crate::input::RunInfo;
    use crate::metric::Metric;

    fn recording(values: &[f64]) -> Recording {
        let run = |(seed, value): (usize, &f64)| Recorded {
            run: RunInfo { policy: "p".to_owned(), seed: seed as u64, ..RunInfo::default() },
            groups: vec![(None, Values::from([(Metric::TtftP99, *value)]))],
            ..Recorded::default()
        };
        Recording { runs: values.iter().enumerate().map(run).collect(), ..Recording::default() }
    }

    #[test]
    fn commits_are_lines_and_the_same_commit_is_not_recorded_twice() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.history.jsonl");
        let mut history = History::read(&path).unwrap();
        history.push(Entry::of(&recording(&[1.0]), "aaa", "2026-01-01T00:00:00Z"));
        history.push(Entry::of(&recording(&[2.0]), "bbb", "2026-01-02T00:00:00Z"));
        history.push(Entry::of(&recording(&[1.0, 3.0]), "bbb", "2026-01-02T00:00:00Z"));
        history.write(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 2);
        let again = History::read(&path).unwrap();
        assert_eq!(again, history);
        assert_eq!(again.entries[0].level("p", "ttft-p99"), Some(Level { mean: 1.0, interval: None }));
        let level = again.entries[1].level("p", "ttft-p99").unwrap();
        // t(0.975, 1) = 12.7062
        assert_eq!((level.mean, level.interval), (2.0, Some((-10.7062, 14.7062))));
        assert_eq!(again.policies(), ["p"]);
    }

    #[test]
    fn a_broken_line_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.history.jsonl");
        let good = serde_json::to_string(&Entry::of(&recording(&[1.0]), "a", "")).unwrap();
        for (line, part) in [
            ("{\"schema\":1,\"com", "line 2: not a recorded commit"),
            ("{\"schema\":9}", "schema 9"),
            ("{}", "no schema"),
        ] {
            fs::write(&path, format!("{good}\n{line}\n")).unwrap();
            let error = History::read(&path).unwrap_err().to_string();
            assert!(error.contains(part) && error.contains("version control"), "{error}");
        }
    }
}
