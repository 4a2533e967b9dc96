//! Facts become tables, metrics, figures and pages.
//!
//! Straight through: a [`Recorder`] watches a run and streams its tables; its [`metrics`] are measured when the run ends; [`compare()`]
//! pairs policies on the same requests; [`write()`] makes the page and the summary of all runs, inside a [`RunDir`] that appears as a
//! whole or not at all. Read in this order: [`settings`], [`Recorder`], [`metrics`], [`metric`], [`compare()`], [`input`], [`write()`].

pub mod calibration;
pub mod change;
pub mod compare;
pub mod distribution;
mod error;
pub mod expectation;
mod figure;
pub mod format;
pub mod histogram;
pub mod input;
pub mod metric;
pub mod metrics;
mod page;
pub mod pooled;
mod recorder;
mod run_dir;
pub mod settings;
pub mod statistics;
pub mod summary;
pub mod terminal;
mod time_bins;
mod timeline;
mod write;

pub use crate::compare::{Comparison, compare};
pub use crate::error::ReportError;
pub use crate::expectation::{Expectation, ExpectedCell};
pub use crate::input::{CoverageNote, ProfileNote, Provenance, ReportInput, RunInfo, Trust};
pub use crate::metric::Metric;
pub use crate::metrics::{RunMetrics, RunResult};
pub use crate::recorder::Recorder;
pub use crate::run_dir::{Existing, MARKER, RunDir};
pub use crate::settings::{RecorderSettings, SloClass, Traffic};
pub use crate::summary::{Summary, summary_schema};
pub use crate::terminal::{TextTable, legend, tables};
pub use crate::write::{Written, write};
