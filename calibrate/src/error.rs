//! What can go wrong with a profile or a measurement, where, and what to do about it.

use std::path::PathBuf;

use aril_sim::gpu::memory::DoesNotFit;
use aril_sim::profile::check::BadProfile;
use aril_sim::profile::{SCHEMA, SCHEMA_OLDEST};

/// Why there is no profile.
#[derive(Debug, thiserror::Error)]
pub enum CalibrateError {
    /// The text is no profile: not TOML, a key is unknown, missing or of the wrong kind.
    #[error("{origin}:{line}:{column}: {message}")]
    Text {
        /// Where the text came from: a path or a name.
        origin: String,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// What is wrong.
        message: String,
    },
    /// The profile was written for another version of the format.
    #[error(
        "{origin}:{line}: the profile has format version {found}, this build reads versions {SCHEMA_OLDEST} to {SCHEMA}: {}",
        if *.found > i64::from(SCHEMA) { "use a newer build" } else { "make the profile again" }
    )]
    Version {
        /// Where the text came from.
        origin: String,
        /// Line, from 1.
        line: usize,
        /// The version that it says.
        found: i64,
    },
    /// The profile reads well and its figures are impossible.
    #[error("{origin}: {problem}")]
    Figures {
        /// Where the text came from.
        origin: String,
        /// Which and why.
        problem: BadProfile,
    },
    /// There is no such profile.
    #[error("there is no profile `{name}`{}; there are: {}", did_you_mean(.nearest), .known.join(", "))]
    Unknown {
        /// What was asked for.
        name: String,
        /// The most similar name, if any is.
        nearest: Option<String>,
        /// What there is.
        known: Vec<String>,
    },
    /// The profile exists, but not for this model and number of GPUs.
    #[error("profile `{family}` is not there for {model} on {tensor_parallel} GPU(s); it is there for: {}", .known.join(", "))]
    NotForModel {
        /// The profile.
        family: String,
        /// The model.
        model: String,
        /// The GPUs of a replica.
        tensor_parallel: u32,
        /// What it is there for.
        known: Vec<String>,
    },
    /// A file cannot be read or written.
    #[error("cannot {action} {}: {problem}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the system says.
        problem: String,
    },
    /// A file of measurements is damaged, cut short, or of two machines.
    #[error("{origin}:{line}: {problem}")]
    Recording {
        /// Where it came from.
        origin: String,
        /// Line, from 1.
        line: usize,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// A file of measurements was written in another format.
    #[error(
        "{origin}: the measurements have format version {found}, this build reads version {}: measure again, or use the build that wrote them",
        crate::recording::FORMAT
    )]
    RecordingVersion {
        /// Where it came from.
        origin: String,
        /// The version that it says.
        found: u32,
    },
    /// Measurements that no profile can be made of.
    #[error("{origin}: there is no profile in these measurements: {problem}")]
    NotEnough {
        /// Where they came from.
        origin: String,
        /// What is missing.
        problem: String,
    },
    /// The machine cannot be opened or gave up.
    #[error("{0}")]
    Machine(String),
    /// The GPUs cannot share the model.
    #[error("{0}")]
    Split(String),
    /// The model does not fit on the GPUs.
    #[error("{0}")]
    DoesNotFit(DoesNotFit),
    /// Published figures that contradict what is fitted to them.
    #[error("the published figures of {system} on {model} cannot be met: {problem}")]
    Fit {
        /// Whose figures.
        system: String,
        /// On which model.
        model: String,
        /// Why.
        problem: String,
    },
}

fn did_you_mean(name: &Option<String>) -> String {
    name.as_ref().map_or_else(String::new, |name| format!(" (did you mean `{name}`?)"))
}
