//! `aril validate`: a scenario on a real GPU, and its simulation beside it.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use aril_calibrate::executor::steps;

use super::run::{load, placed, warn};
use super::{Format, ScenarioArguments, output};
use crate::error::ArilError;
use crate::registry::Registry;
use crate::run::validate as validate_plan;

#[derive(Debug, clap::Args)]
pub(super) struct ValidateArguments {
    #[command(flatten)]
    scenario: ScenarioArguments,
    /// The profile that simulates: a file or a shipped one, for every pool [default: the scenario's].
    #[arg(long)]
    profile: Option<String>,
    /// A table for people, or JSON for programs, on standard output.
    #[arg(long, default_value = "table")]
    format: Format,
    /// Write every step of the real run, with what the model says of it, as CSV.
    #[arg(long, value_name = "FILE")]
    steps: Option<PathBuf>,
}

/// Exits with 1 where a promised figure is missed.
pub(super) fn validate(registry: &Registry, arguments: &ValidateArguments) -> Result<ExitCode, ArilError> {
    let (document, plan) = load(registry, &arguments.scenario, arguments.profile.as_deref(), false)?;
    warn(&plan);
    let (validation, log) = validate_plan(&plan).map_err(|error| placed(&document, error))?;
    if let Some(path) = &arguments.steps {
        fs::write(path, steps::write(&log.steps)).map_err(ArilError::io("write", path))?;
    }
    match arguments.format {
        Format::Json => output::print(&output::json(&validation)?)?,
        Format::Table => output::print(&validation.to_string())?,
    };
    let missed = validation.pairs.iter().any(|p| p.within_percent.is_some_and(|within| p.percent().abs() > within));
    Ok(ExitCode::from(u8::from(missed)))
}
