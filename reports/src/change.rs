//! Did a change make anything worse? Two recordings of one scenario against each other, and a folder of them against baselines.
//!
//! Two kinds of change are told apart. *Behaviour* is simulated and deterministic: with the same seeds any difference is a
//! difference, and what remains to be judged is whether it matters and whether it holds beyond these seeds. *Speed* of the
//! simulator itself is measured and noisy. Read in this order: [`Recording`], [`Estimate`],
//! [`holm()`], [`compare_recordings`].

mod baseline;
mod change_point;
mod chart;
mod comparable;
mod compared;
mod estimate;
mod fact_digest;
mod history;
mod holm;
mod junit;
mod markdown;
mod matched;
mod page;
mod power;
mod read;
mod recording;
mod regression;
mod speed;
mod watched;
mod words;
mod write;

pub use self::baseline::{Baseline, PolicyBaseline, SUFFIX as BASELINE_SUFFIX};
pub use self::change_point::{ChangePoint, change_points};
pub use self::chart::{Chart, Drawn, charts};
pub use self::comparable::{Aspect, Unlike};
pub use self::compared::{Compared, Finding, Row, Rules, RunCount, Subject, Verdict, compare_recordings};
pub use self::estimate::{Estimate, Pairing, Scale};
pub use self::fact_digest::{Digests, FactDigest, digest_of};
pub use self::history::{Entry, History, Level, SUFFIX as HISTORY_SUFFIX};
pub use self::holm::holm;
pub use self::junit::junit;
pub use self::markdown::{markdown, markdown_of};
pub use self::page::page;
pub use self::power::Spread;
pub use self::read::scenario_digest;
pub use self::recording::{Identity, Recorded, Recording, Values};
pub use self::regression::{Outcome, Regression, SCHEMA, ScenarioOutcome};
pub use self::speed::{Quantity, Speed, SpeedRow, SpeedRules, SpeedSamples};
pub use self::watched::{Threshold, Thresholds, WATCHED, key, metric_of};
pub use self::write::write_regression;
