//! `aril check`.

use std::process::ExitCode;

use super::run::{load, placed};
use super::{CheckArguments, CheckFormat, output};
use crate::error::{ArilError, STANDARD_OUTPUT};
use crate::registry::Registry;
use crate::run::check as check_plan;

pub(super) fn check(registry: &Registry, arguments: &CheckArguments) -> Result<ExitCode, ArilError> {
    let (document, plan) = load(registry, &arguments.scenario, None, true)?;
    check_plan(&plan).map_err(|error| placed(&document, error))?;
    let text = match arguments.format {
        CheckFormat::Json => output::json(&plan.scenario)?,
        CheckFormat::Toml => toml::to_string(&plan.scenario)
            .map_err(|error| ArilError::io("write to", STANDARD_OUTPUT)(std::io::Error::other(error)))?,
    };
    output::print(&text)
}
