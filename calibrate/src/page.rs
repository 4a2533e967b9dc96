//! What one GPU does, as charts: every measured figure beside what the profile makes of it, and the paper's GPU beside both.
//!
//! Numbers alone; how they are drawn is the business of whoever draws them. Measured, modelled and published series carry their kind.

mod adapters;
mod charts;
mod markdown;
mod published;
mod tables;

pub use markdown::markdown;

use aril_sim::profile::Profile;

use crate::error::CalibrateError;
use crate::fit::predict::Predictor;
use crate::machine::Question;
use crate::measure::median;
use crate::recording::Recording;

/// How a series is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Measured on the GPU that the page is about.
    Measured,
    /// What the profile says.
    Modelled,
    /// Measured by others, on another GPU or another engine.
    Published,
    /// What another simulator says.
    OtherModel,
    /// What the data sheet allows.
    Peak,
}

/// Points that belong together.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// What it is; series of one name and different kinds belong together.
    pub name: String,
    /// How it is known.
    pub kind: Kind,
    /// Its points, by x.
    pub points: Vec<(f64, f64)>,
}

/// A chart.
#[derive(Clone, Debug, PartialEq)]
pub struct Chart {
    /// What it shows.
    pub title: String,
    /// How to read it.
    pub note: String,
    /// Name and unit of x.
    pub x: String,
    /// Name and unit of y.
    pub y: String,
    /// Logarithmic axes?
    pub log: (bool, bool),
    /// What is drawn.
    pub series: Vec<Series>,
}

/// A table.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// What it shows.
    pub title: String,
    /// How to read it.
    pub note: String,
    /// Headings.
    pub headings: Vec<String>,
    /// Rows.
    pub rows: Vec<Vec<String>>,
}

/// A page about one profile.
#[derive(Clone, Debug, PartialEq)]
pub struct Content {
    /// The GPU and the model.
    pub title: String,
    /// Its figures in a sentence.
    pub verdict: String,
    /// Key and value of what was measured with what.
    pub facts: Vec<(String, String)>,
    /// The charts, in order.
    pub charts: Vec<Chart>,
    /// The tables, in order.
    pub tables: Vec<Table>,
}

/// A measured question: its median.
pub(crate) struct Answered<'a> {
    pub(crate) question: &'a Question,
    pub(crate) us: f64,
}

/// Everything that a page of a profile shows; measurements where they are given.
///
/// # Errors
/// When the profile's figures are impossible, or the measurements are of another model.
pub fn content(profile: &Profile, recordings: &[Recording]) -> Result<Content, CalibrateError> {
    for recording in recordings {
        let measured = &recording.machine().model;
        if *measured != profile.model {
            return Err(CalibrateError::NotEnough {
                origin: "these measurements".to_owned(),
                problem: format!("they are of {}, and the profile is of {}", measured.name, profile.model.name),
            });
        }
    }
    let points: Vec<_> = recordings.iter().flat_map(Recording::sound).collect();
    let answered: Vec<Answered<'_>> =
        points.iter().map(|point| Answered { question: &point.question, us: median(&point.us) }).collect();
    let mut predictor = Predictor::new(profile);
    let mut all = vec![charts::roofline(profile, &answered)];
    all.extend(charts::operations(&mut predictor, &answered)?);
    all.push(charts::decode_attention(&mut predictor, &answered)?);
    all.push(charts::prefill_attention(&mut predictor, &answered)?);
    all.push(charts::layer(profile, &mut predictor, &answered)?);
    all.push(adapters::layer(profile, &mut predictor, &answered)?);
    all.push(charts::decode_steps(profile, &mut predictor, &answered)?);
    all.push(charts::prefill_steps(&mut predictor, &answered)?);
    all.extend(adapters::curves(&mut predictor, &answered)?);
    all.push(charts::loads(&mut predictor, &answered)?);
    all.push(charts::residuals(&mut predictor, &answered)?);
    all.retain(|chart| chart.series.iter().any(|series| !series.points.is_empty()));
    Ok(Content {
        title: format!("What one {} does with {}", profile.gpu.name.to_uppercase(), profile.model.name),
        verdict: tables::verdict(profile),
        facts: tables::facts(profile, recordings),
        charts: all,
        tables: tables::tables(profile, &answered)?,
    })
}
