//! The bridge to hardware: makes, checks, compares and embeds cost profiles.
//!
//! Read in this order: [`text`] (the file), [`embedded`] (what ships), [`mod@derive`] (from data sheets),
//! [`published`] (from papers), [`mod@show`], [`mod@diff`] and [`mod@check`] (what a profile says and whether to believe it).
//! Then what measures: [`machine`] (who is asked), [`plan`] (what is asked), [`mod@measure`] (the asking), [`recording`] (the answers on
//! disk), [`mod@fit`] (a profile from them). Last, real hardware under the simulator's scheduler: [`executor`], [`validate`],
//! and [`jitter`].

pub mod check;
pub mod derive;
pub mod diff;
pub mod embedded;
pub mod error;
pub mod executor;
pub mod fit;
pub mod jitter;
pub mod machine;
pub mod measure;
pub mod page;
pub mod plan;
pub mod probe;
pub mod published;
pub mod recording;
pub mod show;
pub mod text;
pub mod validate;

pub use check::check;
pub use derive::derive;
pub use diff::diff;
pub use embedded::{Embedded, find, profiles, resolve};
pub use error::CalibrateError;
pub use show::show;
pub use text::{read, write};
