//! What can go wrong between a fact and a page.

use std::io;
use std::path::{Path, PathBuf};

/// Why there is no table, no metric or no page.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The file system refused.
    #[error("cannot {action} {}: {source}{}", path.display(), advice(source))]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A run directory is already there.
    #[error("{} is already there: choose another --out, or replace it with --force", .0.display())]
    Exists(PathBuf),
    /// What would be replaced does not look like a run directory.
    #[error("{} holds no `{marker}`, so it is not a run directory and --force does not replace it: choose another --out, or remove it yourself", path.display())]
    NotARunDirectory {
        /// What was to be replaced.
        path: PathBuf,
        /// The file that every run directory has.
        marker: &'static str,
    },
    /// A table could not be encoded.
    #[error("cannot write the table {}: {message}", path.display())]
    Table {
        /// Which file.
        path: PathBuf,
        /// What the encoder said.
        message: String,
    },
    /// The recorder was set up wrongly.
    #[error("the recorder's settings do not fit the cluster: {0}")]
    Settings(String),
    /// Nothing is left to measure.
    #[error("nothing to measure: {0}")]
    Empty(String),
    /// A conserved quantity was not conserved: a fault of the simulator, never of its input.
    #[error("the books of the run do not balance: {0}; the run is void, please report it with its manifest")]
    Books(String),
    /// The runs given cannot be compared.
    #[error("these runs cannot be compared: {0}")]
    NotComparable(String),
    /// A result, a baseline or a history of an earlier run cannot be used.
    #[error("{}: {problem}\n  = help: {help}", path.display())]
    Unusable {
        /// Which file or folder.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
        /// What to do.
        help: &'static str,
    },
    /// A figure could not be drawn.
    #[error("cannot draw the figure `{figure}`: {message}")]
    Figure {
        /// Which.
        figure: String,
        /// What the plotter said.
        message: String,
    },
    /// The summary could not be written as JSON.
    #[error("cannot encode the summary: {0}")]
    Json(#[from] serde_json::Error),
}

impl ReportError {
    /// An error of the file system, with what was tried on which path.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ReportError {
        let path = path.to_owned();
        move |source| ReportError::Io { action, path, source }
    }
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            " (nothing was left behind: make room, write elsewhere with --out, or record no tables)"
        }
        io::ErrorKind::PermissionDenied => " (choose a folder that you may write to)",
        _ => "",
    }
}
