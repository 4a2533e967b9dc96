//! `aril profile`.

mod import_vidur;

use std::process::ExitCode;

use clap::Subcommand;

use crate::error::ArilError;

#[derive(Debug, Subcommand)]
pub(super) enum ProfileCommand {
    /// Make a profile of the prediction tables that Vidur keeps in its cache.
    ImportVidur(import_vidur::ImportVidurArguments),
}

pub(super) fn profile(command: &ProfileCommand) -> Result<ExitCode, ArilError> {
    match command {
        ProfileCommand::ImportVidur(arguments) => import_vidur::import(arguments),
    }
}
