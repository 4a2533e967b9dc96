//! `summary.json`: every number of a report, for programs.

use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};

use crate::compare::{Comparison, by_point, compare};
use crate::expectation::Expectation;
use crate::input::{ReportInput, RunInfo, Trust};
use crate::metrics::RunMetrics;
use crate::pooled::Pooled;

/// What `schema` says in a summary of this version.
pub const SCHEMA: &str = "aril-summary/1";

/// Every number of a report. Times are seconds, shares are of one; what does not exist is null.
///
/// Fields may be added within a version; a change of meaning or a removal makes a new one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Summary {
    /// [`SCHEMA`].
    pub schema: String,
    /// Name of the scenario.
    pub name: String,
    /// What it asks.
    pub description: String,
    /// How far to trust the numbers.
    pub trust: Trust,
    /// Policies against each other.
    pub comparison: Comparison,
    /// Policies over their seeds.
    pub policies: Vec<Pooled>,
    /// Each run.
    pub runs: Vec<RunSummary>,
    /// Comparisons with published figures.
    pub expectations: Vec<Expectation>,
}

/// One run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunSummary {
    /// Which.
    pub run: RunInfo,
    /// Its folder, relative to the summary: tables, timeline and manifest.
    pub folder: String,
    /// Its numbers.
    pub metrics: RunMetrics,
}

impl Summary {
    /// Of a report.
    pub fn of(input: &ReportInput) -> Summary {
        Summary {
            schema: SCHEMA.to_owned(),
            name: input.name.clone(),
            description: input.description.clone(),
            trust: input.trust.clone(),
            comparison: compare(input),
            policies: by_point(input)
                .iter()
                .flat_map(|(point, policies)| policies.iter().map(|policy| Pooled::of(point, policy)))
                .collect(),
            runs: input
                .runs
                .iter()
                .map(|(info, result)| RunSummary {
                    run: info.clone(),
                    folder: info.folder(),
                    metrics: result.metrics.clone(),
                })
                .collect(),
            expectations: input.expectations.clone(),
        }
    }
}

/// The JSON schema of `summary.json`.
pub fn summary_schema() -> Schema {
    schemars::schema_for!(Summary)
}
