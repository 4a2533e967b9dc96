//! The bridge to hardware: makes, checks, compares and embeds cost profiles.
//!
//! Read in this order: [`text`] (the file), [`embedded`] (what ships), [`mod@derive`] (from data sheets), [`published`] (from papers).

pub mod derive;
pub mod embedded;
pub mod error;
pub mod published;
pub mod text;

pub use embedded::{Embedded, find, profiles, resolve};
pub use error::CalibrateError;
