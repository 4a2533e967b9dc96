//! What a report is made of.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::expectation::Expectation;
use crate::metric::Metric;
use crate::metrics::RunResult;

/// Which run was it?
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunInfo {
    /// The policy's name in the scenario.
    pub policy: String,
    /// The seed.
    pub seed: u64,
    /// Where in the sweep: axes and values, in order. Empty without a sweep.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub point: Vec<(String, String)>,
    /// Does the policy know what no policy can? Then it is a bound, not a choice.
    #[serde(default)]
    pub bound: bool,
}

impl RunInfo {
    /// The folder of the run inside the run directory, with `/` between its parts: unique, and safe on every file system.
    pub fn folder(&self) -> String {
        // Below a folder of their own: no policy can be called `report.html`.
        let mut parts = vec!["runs".to_owned()];
        if !self.point.is_empty() {
            let point: Vec<_> = self.point.iter().map(|(axis, value)| format!("{axis}={value}")).collect();
            parts.push(file_name(&point.join(",")));
        }
        parts.push(file_name(&self.policy));
        parts.push(format!("seed-{}", self.seed));
        parts.join("/")
    }
}

/// A name that every file system takes; two different texts never get the same one.
fn file_name(text: &str) -> String {
    let safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '=' | ',');
    let name: String = text.chars().map(|c| if safe(c) { c } else { '-' }).take(80).collect();
    // Upper case would clash on file systems that ignore it.
    let is_plain =
        name == text && !name.starts_with('.') && !name.is_empty() && !name.chars().any(|c| c.is_ascii_uppercase());
    if is_plain { name } else { format!("{}-{:08x}", name.trim_start_matches('.'), fnv1a(text)) }
}

/// The 32-bit FNV-1a hash of a text.
fn fnv1a(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// Where a cost comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Provenance {
    /// Measured with the project's own harness, samples kept.
    Measured,
    /// Taken from somebody's publication.
    Published,
    /// Computed from data sheets.
    Derived,
}

impl Provenance {
    /// One word for pages.
    pub fn name(self) -> &'static str {
        match self {
            Provenance::Measured => "measured",
            Provenance::Published => "published",
            Provenance::Derived => "derived",
        }
    }
}

/// A profile that results rest on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ProfileNote {
    /// Its name.
    pub name: String,
    /// Where its costs come from.
    pub kind: Provenance,
    /// Who measured or published what, where and when.
    pub source: String,
}

/// Look-ups in the cost models of all runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CoverageNote {
    /// Look-ups made.
    pub lookups: u64,
    /// Look-ups outside of what the profile knows, by what was out of range.
    pub outside: Vec<(String, u64)>,
}

impl CoverageNote {
    /// At least so many look-ups were out of range: one may be so in several ways, and counts in each.
    pub fn outside_least(&self) -> u64 {
        self.outside.iter().map(|(_, count)| *count).max().unwrap_or(0)
    }
}

/// How far to trust the numbers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Trust {
    /// What costs rest on.
    pub profiles: Vec<ProfileNote>,
    /// How often costs were asked for beyond what is known.
    pub coverage: CoverageNote,
    /// The seeds.
    pub seeds: Vec<u64>,
    /// Which part of the runs counts, in words.
    pub warmup: String,
    /// What the simulation leaves out.
    pub not_modelled: Vec<String>,
    /// Which build made it.
    pub build: String,
}

/// All that a report is made of.
#[derive(Clone, Debug)]
pub struct ReportInput {
    /// Name of the scenario.
    pub name: String,
    /// What it asks, in a sentence or two.
    pub description: String,
    /// How far to trust the numbers.
    pub trust: Trust,
    /// The runs, in the order of the scenario.
    pub runs: Vec<(RunInfo, RunResult)>,
    /// The policy that the others are compared with; none: the best one at each point.
    pub baseline: Option<String>,
    /// What decides.
    pub primary: Metric,
    /// Comparisons with published figures.
    pub expectations: Vec<Expectation>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_safe_and_different_names_never_share_one() {
        let folder = |policy: &str| RunInfo { policy: policy.to_owned(), seed: 7, ..RunInfo::default() }.folder();
        assert_eq!(folder("punica-paper"), "runs/punica-paper/seed-7");
        for (a, b) in [("a/b", "a-b"), ("../x", "x"), ("A", "a"), ("", "-"), ("<b>", "-b-")] {
            assert_ne!(folder(a), folder(b));
            assert!(!folder(a).contains("..") && folder(a).matches('/').count() == 2, "{}", folder(a));
        }
    }
}
