//! `aril profile`.

mod check;
mod diff;
mod import_vidur;
mod plot;
mod show;

use std::path::Path;
use std::process::ExitCode;

use aril_sim::profile::Profile;
use clap::Subcommand;

use crate::error::ArilError;

#[derive(Debug, Subcommand)]
pub(super) enum ProfileCommand {
    /// Say what a profile says: steps, adapters, loads, held-out errors, provenance.
    Show(show::ShowArguments),
    /// Say whether to believe a profile: impossible figures, doubts, older kernels.
    Check(check::CheckProfileArguments),
    /// Say how far two profiles are apart, part by part.
    Diff(diff::DiffArguments),
    /// Draw a page: roofline, operations, a layer, steps, adapters; measurements beside the model where they are given.
    Plot(plot::PlotArguments),
    /// Make a profile of the prediction tables that Vidur keeps in its cache.
    ImportVidur(import_vidur::ImportVidurArguments),
    /// Print the JSON schema of profiles.
    Schema,
}

pub(super) fn profile(command: &ProfileCommand) -> Result<ExitCode, ArilError> {
    match command {
        ProfileCommand::Show(arguments) => show::show(arguments),
        ProfileCommand::Check(arguments) => check::check(arguments),
        ProfileCommand::Diff(arguments) => diff::diff(arguments),
        ProfileCommand::Plot(arguments) => plot::plot(arguments),
        ProfileCommand::ImportVidur(arguments) => import_vidur::import(arguments),
        ProfileCommand::Schema => super::output::print(&super::output::json(&aril_calibrate::text::schema())?),
    }
}

/// A profile by its path, or a shipped one by its full name.
fn load(name: &str) -> Result<Profile, ArilError> {
    let path = Path::new(name);
    if path.is_file() {
        let text = crate::document::read_text(path)?;
        return Ok(aril_calibrate::read(name, &text)?);
    }
    Ok(aril_calibrate::find(name)?.profile()?)
}
