//! What can go wrong between a scenario and its results, and what the program's exit code says of it.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use aril_calibrate::CalibrateError;
use aril_reports::ReportError;
use aril_sim::engine::Stalled;
use aril_sim::time::Span;
use aril_traces::TraceError;

use crate::wrong::{Wrong, suggest};

/// Why a command did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum ArilError {
    /// Something is wrong with a scenario.
    #[error(transparent)]
    Scenario(#[from] Wrong),
    /// A file cannot be used as what it was given for.
    #[error("{}: {problem}{}", path.display(), help_line(help))]
    Input {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
        /// What to do; empty if nothing helps.
        help: String,
    },
    /// Something is wrong with a trace.
    #[error(transparent)]
    Trace(TraceError),
    /// There is no usable profile.
    #[error(transparent)]
    Profile(#[from] CalibrateError),
    /// A simulation came to a standstill with work left.
    #[error(
        "policy `{policy}`, seed {seed}: {stalled}\n  = help: the policy never lets these requests in: look at its batcher and router, or set a horizon"
    )]
    Stalled {
        /// Under which policy.
        policy: String,
        /// With which seed.
        seed: u64,
        /// Who waits for what.
        stalled: Stalled,
    },
    /// A simulation is not over when the clock ends.
    #[error(
        "policy `{policy}`, seed {seed}: requests are left after {} of simulated time, the longest that a run can last\n  = help: offer less traffic, or say with `horizon` when the run is cut",
        Span::RUN_MAX
    )]
    TooLong {
        /// Under which policy.
        policy: String,
        /// With which seed.
        seed: u64,
    },
    /// Results cannot be made or written.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// The system refused to read or write.
    #[error("cannot {action} {}: {source}{}", path.display(), advice(source, path))]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// What is wrong with the `[traffic]` of a scenario has a place in it; what is wrong with a trace has one of its own.
impl From<TraceError> for ArilError {
    fn from(error: TraceError) -> ArilError {
        match error {
            TraceError::Setting { key, problem, advice } => {
                Wrong::at(&format!("traffic.{key}"), problem).help(advice).into()
            }
            TraceError::UnknownTrace { name, shipped, .. } => {
                let help = suggest(&name, shipped.into_iter(), "shipped are");
                Wrong::at("traffic.trace", format!("there is no such file and no shipped trace `{name}`"))
                    .help(help)
                    .into()
            }
            other => ArilError::Trace(other),
        }
    }
}

/// What messages call it.
pub(crate) const STANDARD_OUTPUT: &str = "standard output";

fn help_line(help: &str) -> String {
    if help.is_empty() { String::new() } else { format!("\n  = help: {help}") }
}

fn advice(error: &io::Error, path: &std::path::Path) -> &'static str {
    match error.kind() {
        // Whatever is on the disk is complete: only the telling failed.
        _ if path == std::path::Path::new(STANDARD_OUTPUT) => "",
        io::ErrorKind::FileTooLarge => {
            " (nothing was left behind: raise the limit on the size of files, `ulimit -f`, or leave the tables out with --no-tables)"
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            " (nothing was left behind: make room, or write elsewhere with --out)"
        }
        io::ErrorKind::PermissionDenied => " (choose a folder that you may write to)",
        _ => "",
    }
}

impl ArilError {
    /// An error of the file system, with what was tried on which path.
    pub fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> ArilError {
        let path = path.into();
        move |source| ArilError::Io { action, path, source }
    }

    /// What the program exits with: 2 for what the user can put right, 3 for a stuck simulation, 4 for the system.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            ArilError::Profile(CalibrateError::Machine(_) | CalibrateError::File { .. }) => 4,
            ArilError::Trace(TraceError::Io { source, .. }) if !is_of_the_file(source.kind()) => 4,
            ArilError::Scenario(_)
            | ArilError::Input { .. }
            | ArilError::Trace(_)
            | ArilError::Profile(_)
            | ArilError::TooLong { .. } => 2,
            ArilError::Stalled { .. } => 3,
            ArilError::Report(
                ReportError::Exists(_)
                | ReportError::NotARunDirectory { .. }
                | ReportError::NotComparable(_)
                | ReportError::Unusable { .. },
            ) => 2,
            ArilError::Report(_) | ArilError::Io { .. } => 4,
        })
    }
}

/// A file that is not there or is damaged is the user's to put right; what else goes wrong with it, the system's.
fn is_of_the_file(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{InvalidData, InvalidInput, IsADirectory, NotFound, UnexpectedEof};
    matches!(kind, InvalidData | InvalidInput | IsADirectory | NotFound | UnexpectedEof)
}
