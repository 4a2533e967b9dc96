//! Files and distributions become a workload.
//!
//! Read in this order: [`Traffic`] (what a scenario says), [`Traffic::build`], [`Workload`] (what the simulator draws
//! from), [`read()`] and [`Table`] (foreign files), [`shipped()`] (traces that are part of the program).

mod arrivals;
mod build;
mod cell;
mod choice;
mod error;
mod fit;
mod format;
mod input;
mod inspect;
mod lengths;
mod popularity;
mod predictor;
mod read;
mod resample;
mod rows;
mod servegen;
mod shipped;
mod table;
mod traffic;
mod vidur_costs;
mod workload;
mod write;

pub use arrivals::{ArrivalLaw, MmppState, Phase};
pub use build::Context;
pub use cell::TimeUnit;
pub use error::{Place, Position, TraceError};
pub use fit::{Fit, GENTD26, Locality, Measured, fit};
pub use format::{Columns, Format};
pub use inspect::{
    Ids, Inspect, Inspection, LRU_SLOTS, Prefix, SESSION_GAP, Sample, SessionFigures, Spread, inspect, lru_hit_rates,
};
pub use lengths::Length;
pub use popularity::{Popularity, WorkingSet, geometric_counts, uniform_sqrt_counts};
pub use predictor::Predictor;
pub use read::{Failures, ReadOptions, read};
pub use servegen::{Servegen, WithoutLengths};
pub use shipped::{Shipped, shipped};
pub use table::{Names, Table};
pub use traffic::{Client, ClosedLoop, LengthsFrom, MaxTokens, Rank, Resample, Start, TooLong, Traffic, Window};
pub use vidur_costs::read_vidur_costs;
pub use workload::{Description, Workload};
pub use write::write;
