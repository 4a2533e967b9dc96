//! The composition root: scenarios, the policy registry and the `aril` command.
//!
//! A researcher adds a policy in a crate of their own, without a fork:
//!
//! ```no_run
//! # use aril::policy::router::RoundRobin as StickyDrain;
//! use std::process::ExitCode;
//!
//! fn main() -> ExitCode {
//!     aril::Cli::new().router::<StickyDrain>("sticky-drain").run()
//! }
//! ```
//!
//! Read in this order: [`scenario`] (what a file may say), [`registry`] (which policies it can name), [`plan`] (which runs it
//! asks for), [`setup`] (what the simulator is given), [`run`] (all runs, and the run directory).

mod builtin;
mod bytes;
mod catalog;
mod cli;
mod compare_command;
mod document;
mod error;
mod interrupt;
mod manifest;
pub mod node;
pub mod plan;
mod refused;
pub mod registry;
mod regress;
pub mod run;
pub mod scenario;
pub mod setup;
pub mod source;
pub mod wrong;

pub use aril_sim::policy;
pub use bytes::Bytes;
pub use cli::Cli;
pub use document::{Changes, Document};
pub use error::ArilError;
pub use manifest::{Build, Input, build, inputs};
pub use plan::Plan;
pub use registry::{Registry, Tunables};
