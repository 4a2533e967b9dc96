//! `aril profile check`.

use std::process::ExitCode;

use crate::cli::output;
use crate::error::ArilError;

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct CheckProfileArguments {
    /// A file, or a shipped profile by its full name.
    profile: String,
}

/// Exits with 1 where there are doubts.
pub(super) fn check(arguments: &CheckProfileArguments) -> Result<ExitCode, ArilError> {
    let profile = super::load(&arguments.profile)?;
    let doubts = aril_calibrate::check(&profile)?;
    if doubts.is_empty() {
        return output::print(&format!("{}: every figure is possible, and nothing is strange\n", profile.name));
    }
    let lines: String = doubts.iter().map(|doubt| format!("{doubt}\n")).collect();
    output::print(&format!("{}: {} doubts\n{lines}", profile.name, doubts.len()))?;
    Ok(ExitCode::from(1))
}
