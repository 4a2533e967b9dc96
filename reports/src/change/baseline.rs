//! What a scenario gave when somebody last looked and agreed: one file beside the scenario, made to be reviewed.
//!
//! A line of the file is one metric of one policy, a value for each seed, so that the difference of two versions of the file reads
//! as what moved. Digests of requests and results make it exact.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::fact_digest::Digests;
use super::recording::{Identity, Recorded, Recording, Values};
use crate::ReportError;
use crate::input::RunInfo;
use crate::metric::Metric;

/// The version that this build writes and reads.
pub(crate) const SCHEMA: u32 = 1;
/// How names of baselines end.
pub const SUFFIX: &str = ".baseline.toml";

/// The last line of a file that was not cut short.
const END: &str = "# end";
const UPDATE: &str = "look at what moved with `aril regress`, then write it anew with `aril regress --update`";

/// A baseline, as its file has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Baseline {
    /// The version of the format.
    pub schema: u32,
    /// Name of the scenario.
    pub name: String,
    /// Digest of the scenario and of the files it reads.
    pub scenario: String,
    /// The build that made it; not compared, as the build is what changes.
    pub build: String,
    /// Name and digest of each profile.
    pub profiles: Vec<(String, String)>,
    /// The seeds; every list below has a value for each.
    pub seeds: Vec<u64>,
    /// The policies, in the order of the scenario.
    pub policy: Vec<PolicyBaseline>,
}

/// The runs of one policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyBaseline {
    /// Its name.
    pub name: String,
    /// Where in the sweep.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub point: Vec<(String, String)>,
    /// Digests of the requests.
    pub requests: Vec<String>,
    /// Digests of what happened.
    pub results: Vec<String>,
    /// Measured requests.
    pub offered: Vec<u64>,
    /// Those that finished.
    pub finished: Vec<u64>,
    /// Was the cluster too slow?
    pub saturated: Vec<bool>,
    /// Over all requests; `nan` where a run has no value.
    pub all: BTreeMap<Metric, Vec<f64>>,
    /// By class.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub class: BTreeMap<String, BTreeMap<Metric, Vec<f64>>>,
}

impl Baseline {
    /// Of a recording whose policies all ran with the same seeds, with digests.
    ///
    /// # Errors
    /// [`ReportError::Empty`] of a recording without runs.
    pub fn of(recording: &Recording) -> Result<Baseline, ReportError> {
        let mut seeds: Vec<u64> = Vec::new();
        let mut policies: Vec<(&RunInfo, Vec<&Recorded>)> = Vec::new();
        for run in &recording.runs {
            if !seeds.contains(&run.run.seed) {
                seeds.push(run.run.seed);
            }
            match policies.iter_mut().find(|(info, _)| info.policy == run.run.policy && info.point == run.run.point) {
                Some((_, runs)) => runs.push(run),
                None => policies.push((&run.run, vec![run])),
            }
        }
        if let Some((info, runs)) =
            policies.iter().find(|(_, runs)| runs.iter().map(|run| run.run.seed).ne(seeds.iter().copied()))
        {
            return Err(ReportError::Empty(format!(
                "`{}` ran with {} of {} seeds: a baseline needs all",
                info.policy,
                runs.len(),
                seeds.len()
            )));
        }
        if policies.is_empty() {
            return Err(ReportError::Empty("a baseline needs at least one run".to_owned()));
        }
        let identity = &recording.identity;
        Ok(Baseline {
            schema: SCHEMA,
            name: identity.name.clone(),
            scenario: identity.scenario.clone().unwrap_or_default(),
            build: identity.build.clone().unwrap_or_default(),
            profiles: identity.profiles.clone(),
            seeds,
            policy: policies.iter().map(|(info, runs)| PolicyBaseline::of(info, runs)).collect(),
        })
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`ReportError::Unusable`] for another version and for anything that is not as this build writes it.
    pub fn read(path: &Path) -> Result<Baseline, ReportError> {
        let unusable = |problem: String| ReportError::Unusable { path: path.to_owned(), problem, help: UPDATE };
        let text = fs::read_to_string(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => unusable("there is no such baseline".to_owned()),
            io::ErrorKind::InvalidData => unusable("this is not text".to_owned()),
            _ => ReportError::io("read", path)(error),
        })?;
        let table: toml::Table =
            text.parse().map_err(|error| unusable(format!("the baseline cannot be read: {error}")))?;
        match table.get("schema").and_then(toml::Value::as_integer) {
            Some(schema) if schema == i64::from(SCHEMA) => {}
            Some(schema) => {
                return Err(unusable(format!("the baseline has schema {schema}, this aril reads {SCHEMA}")));
            }
            None => return Err(unusable("the baseline names no schema".to_owned())),
        }
        if text.lines().next_back().map(str::trim) != Some(END) {
            return Err(unusable("the baseline is cut short".to_owned()));
        }
        let baseline: Baseline = table
            .try_into()
            .map_err(|error| unusable(format!("the baseline is not as this aril writes it: {error}")))?;
        baseline.check().map_err(unusable)?;
        Ok(baseline)
    }

    fn check(&self) -> Result<(), String> {
        let seeds = self.seeds.len();
        if seeds == 0 || self.policy.is_empty() {
            return Err("the baseline holds no run".to_owned());
        }
        for policy in &self.policy {
            let lists = policy
                .all
                .iter()
                .chain(policy.class.values().flatten())
                .map(|(metric, list)| (super::watched::key(*metric), list.len()));
            let named = [
                ("requests", policy.requests.len()),
                ("results", policy.results.len()),
                ("offered", policy.offered.len()),
                ("finished", policy.finished.len()),
                ("saturated", policy.saturated.len()),
            ];
            let named = named.map(|(name, len)| (name.to_owned(), len));
            if let Some((name, len)) = named.into_iter().chain(lists).find(|(_, len)| *len != seeds) {
                return Err(format!("`{name}` of policy `{}` has {len} values for {seeds} seeds", policy.name));
            }
        }
        Ok(())
    }

    /// As one side of a comparison.
    pub fn recording(&self, path: &Path) -> Recording {
        let identity = Identity {
            name: self.name.clone(),
            scenario: Some(self.scenario.clone()),
            profiles: self.profiles.clone(),
            build: Some(self.build.clone()),
        };
        let runs = self
            .policy
            .iter()
            .flat_map(|policy| (0..self.seeds.len()).map(|index| policy.run(index, self.seeds[index])))
            .collect();
        Recording { place: path.display().to_string(), identity, runs }
    }

    /// The text of the file.
    ///
    /// # Errors
    /// [`ReportError::Table`] if it cannot be put into TOML.
    pub fn text(&self, path: &Path) -> Result<String, ReportError> {
        let text = toml::to_string(self)
            .map_err(|error| ReportError::Table { path: path.to_owned(), message: error.to_string() })?;
        Ok(format!(
            "# What `{}` gave when this was last agreed to. Written by `aril regress --update`, reviewed by people, changed by neither hand nor merge.\n{text}{END}\n",
            self.name
        ))
    }

    /// Writes the file as a whole or not at all.
    ///
    /// # Errors
    /// Anything the file system refuses.
    pub fn write(&self, path: &Path) -> Result<(), ReportError> {
        save_whole(path, self.text(path)?.as_bytes())
    }
}

/// Writes under a temporary name, then renames.
pub(crate) fn save_whole(path: &Path, bytes: &[u8]) -> Result<(), ReportError> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file =
        tempfile::NamedTempFile::new_in(folder).map_err(ReportError::io("create a temporary file in", folder))?;
    file.write_all(bytes).and_then(|()| file.flush()).map_err(ReportError::io("write", path))?;
    readable(file.path()).map_err(ReportError::io("write", path))?;
    file.persist(path).map_err(|error| ReportError::io("write", path)(error.error))?;
    Ok(())
}

/// Temporary files are private; what is committed is not.
#[cfg(unix)]
fn readable(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn readable(_: &Path) -> io::Result<()> {
    Ok(())
}

impl PolicyBaseline {
    fn of(info: &RunInfo, runs: &[&Recorded]) -> PolicyBaseline {
        let digest = |of: fn(&Digests) -> &String| {
            runs.iter().map(|run| run.digests.as_ref().map(of).cloned().unwrap_or_default()).collect()
        };
        let mut names: Vec<Option<&str>> = Vec::new();
        for (name, _) in runs.iter().flat_map(|run| &run.groups) {
            if !names.contains(&name.as_deref()) {
                names.push(name.as_deref());
            }
        }
        let values = |name: Option<&str>| -> BTreeMap<Metric, Vec<f64>> {
            let list =
                |metric: Metric| runs.iter().map(|run| run.value(name, metric).unwrap_or(f64::NAN)).collect::<Vec<_>>();
            Metric::ALL
                .into_iter()
                .map(|metric| (metric, list(metric)))
                .filter(|(_, list)| list.iter().any(|value| !value.is_nan()))
                .collect()
        };
        PolicyBaseline {
            name: info.policy.clone(),
            point: info.point.clone(),
            requests: digest(|digests| &digests.requests),
            results: digest(|digests| &digests.results),
            offered: runs.iter().map(|run| run.offered).collect(),
            finished: runs.iter().map(|run| run.finished).collect(),
            saturated: runs.iter().map(|run| run.saturated).collect(),
            all: values(None),
            class: names.into_iter().flatten().map(|name| (name.to_owned(), values(Some(name)))).collect(),
        }
    }

    fn run(&self, index: usize, seed: u64) -> Recorded {
        let values = |lists: &BTreeMap<Metric, Vec<f64>>| -> Values {
            lists.iter().map(|(metric, list)| (*metric, list[index])).filter(|(_, value)| !value.is_nan()).collect()
        };
        let classes = self.class.iter().map(|(name, lists)| (Some(name.clone()), values(lists)));
        Recorded {
            run: RunInfo { policy: self.name.clone(), seed, point: self.point.clone(), bound: false },
            digests: Some(Digests { requests: self.requests[index].clone(), results: self.results[index].clone() }),
            offered: self.offered[index],
            finished: self.finished[index],
            saturated: self.saturated[index],
            groups: std::iter::once((None, values(&self.all))).chain(classes).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recording() -> Recording {
        let run = |policy: &str, seed: u64| Recorded {
            run: RunInfo { policy: policy.to_owned(), seed, ..RunInfo::default() },
            digests: Some(Digests { requests: "aa".to_owned(), results: format!("{policy}{seed}") }),
            offered: 10,
            finished: 9,
            saturated: seed == 2,
            groups: vec![
                (
                    None,
                    [(Metric::TtftP99, 0.125 * seed as f64)]
                        .into_iter()
                        .chain((seed == 2).then_some((Metric::TpotP99, 1.0 / 3.0)))
                        .collect(),
                ),
                (Some("gold \"x\"".to_owned()), Values::from([(Metric::Attainment, 1.0)])),
            ],
        };
        let runs = ["a", "b"].into_iter().flat_map(|policy| [1, 2].map(|seed| run(policy, seed))).collect();
        let identity = Identity {
            name: "x".to_owned(),
            scenario: Some("d".to_owned()),
            profiles: vec![("p".to_owned(), "q".to_owned())],
            build: Some("b".to_owned()),
        };
        Recording { place: String::new(), identity, runs }
    }

    #[test]
    fn what_is_written_is_read_again_and_a_line_is_a_metric() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.baseline.toml");
        let baseline = Baseline::of(&recording()).unwrap();
        baseline.write(&path).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains("\nttft-p99 = [0.125, 0.25]\n"), "{text}");
        assert!(text.contains("\ntpot-p99 = [nan, 0.3333333333333333]\n"), "{text}");
        let again = Baseline::read(&path).unwrap().recording(&path);
        assert_eq!(again.runs, recording().runs);
        assert_eq!(again.identity, recording().identity);
    }

    #[test]
    fn what_is_not_a_baseline_of_this_version_is_refused_with_the_way_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.baseline.toml");
        let good = Baseline::of(&recording()).unwrap().text(&path).unwrap();
        for (text, part) in [
            (good.replace("schema = 1", "schema = 2"), "has schema 2, this aril reads 1"),
            (good.replace("schema = 1\n", ""), "names no schema"),
            (
                good.replace("ttft-p99 = [0.125, 0.25]", "ttft-p99 = [0.125]"),
                "`ttft-p99` of policy `a` has 1 values for 2 seeds",
            ),
            (good.replace("ttft-p99", "ttft-p98"), "not as this aril writes it"),
            (good[..good.find("[policy.all]").unwrap()].to_owned(), "cut short"),
            (good[..good.len() / 3].to_owned(), "the baseline"),
            ("<<<<<<< HEAD\n".to_owned() + &good, "cannot be read"),
            (String::new(), "names no schema"),
        ] {
            fs::write(&path, text).unwrap();
            let error = Baseline::read(&path).unwrap_err().to_string();
            assert!(error.contains(part) && error.contains("--update"), "{error}");
        }
        fs::write(&path, [0xff, 0xfe, 0x00]).unwrap();
        assert!(Baseline::read(&path).unwrap_err().to_string().contains("not text"));
    }

    #[test]
    fn a_baseline_needs_every_policy_with_every_seed() {
        let mut short = recording();
        short.runs.pop();
        assert!(Baseline::of(&short).unwrap_err().to_string().contains("1 of 2 seeds"));
        assert!(Baseline::of(&Recording::default()).is_err());
    }
}
