//! How far is a fit from what it never saw? Shapes held out at random, and regions held out whole.

use std::collections::BTreeMap;
use std::fmt;

use aril_sim::profile::{HeldOutError, Profile};
use statrs::statistics::{Data as Statistics, Distribution, OrderStatistics};
use statrs::stats_tests::ttest_onesample::ttest_onesample;
use statrs::stats_tests::{Alternative, NaNPolicy};

use super::data::{self, Data};
use super::model;
use super::predict::Predictor;
use crate::error::CalibrateError;
use crate::machine::{Identity, Question, StepShape};
use crate::recording::Recording;

/// Parts into which points are dealt: each is judged once by a fit to the other four.
const FOLDS: u64 = 5;

/// A systematic error of whole steps of one kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Bias {
    /// Of which steps: `batch 9 to 32`.
    pub steps: String,
    /// How many were judged, each by a fit that had not seen it.
    pub shapes: u32,
    /// Mean of modelled / measured − 1, percent.
    pub mean_signed_percent: f64,
    /// How likely a mean this far from zero is by chance (Student's t, two-sided).
    pub p_value: f64,
}

impl fmt::Display for Bias {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Bias { steps, shapes, mean_signed_percent, p_value } = self;
        write!(f, "{steps:<28} {shapes:>4} steps: mean {mean_signed_percent:+.2} %, p = {p_value:.3}")
    }
}

/// What judging gives.
pub(super) struct Judged {
    pub(super) held_out: Vec<HeldOutError>,
    pub(super) bias: Vec<Bias>,
}

/// Shapes that a fit does not see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Split {
    Fold(u64),
    LongestContexts,
    LargestBatches,
    LongestPrompts,
    MostAdapters,
}

/// The largest of everything measured: regions begin at half of it.
struct Extent {
    context: u32,
    decode_rows: u32,
    rows: u32,
    prompt: u32,
    adapters: usize,
    row_buckets: Vec<u32>,
}

/// A point that was held out, beside what a fit without it says.
#[derive(Clone, Debug, PartialEq)]
pub struct Residual {
    /// As in the tables of errors.
    pub of: String,
    /// The question, as recordings write it.
    pub question: String,
    /// The median of its answers, microseconds.
    pub measured_us: f64,
    /// Modelled / measured − 1, percent.
    pub signed_percent: f64,
}

/// Every point of a recording, each held out once.
///
/// # Errors
/// As [`fn@crate::fit::fit`].
pub fn residuals(recording: &Recording, origin: &str) -> Result<Vec<Residual>, CalibrateError> {
    let (data, identity) = (Data::of(recording), recording.machine());
    let extent = Extent::of(&data, &identity.row_buckets);
    let folds: Vec<Split> = (0..FOLDS).map(Split::Fold).collect();
    let mut all = Vec::new();
    for errors in side_by_side(&data, identity, origin, &extent, &folds) {
        all.extend(errors?.into_iter().map(|error| Residual {
            measured_us: error.us / error.signed.abs().max(1e-12),
            signed_percent: error.signed * 100.0,
            of: error.of,
            question: error.question,
        }));
    }
    Ok(all)
}

/// One judged point.
struct Error {
    of: String,
    question: String,
    shape: Option<StepShape>,
    signed: f64,
    /// |modelled − measured|, microseconds.
    us: f64,
}

/// Fits again and again without some of the points, and asks each fit about them.
pub(super) fn judge(data: &Data, identity: &Identity, origin: &str) -> Result<Judged, CalibrateError> {
    let extent = Extent::of(data, &identity.row_buckets);
    let regions = [
        (Split::LongestContexts, "all contexts beyond half of the longest"),
        (Split::LargestBatches, "all batches beyond half of the largest"),
        (Split::LongestPrompts, "all prompts beyond half of the longest"),
        (Split::MostAdapters, "all steps beyond half of the most adapters"),
    ];
    let splits: Vec<Split> = (0..FOLDS).map(Split::Fold).chain(regions.map(|(split, _)| split)).collect();
    let mut judged = side_by_side(data, identity, origin, &extent, &splits).into_iter();
    let mut random = Vec::new();
    for errors in judged.by_ref().take(FOLDS as usize) {
        random.extend(errors?);
    }
    let mut held_out = summarise(&random, "a fifth at random, each in turn");
    for ((_, name), errors) in regions.into_iter().zip(judged) {
        // A region without which nothing can be fitted is no test of the fit.
        if let Ok(errors) = errors {
            held_out.extend(summarise(&errors, name));
        }
    }
    held_out.extend(summarise(&at_other_moments(data), "the same work, measured at another moment"));
    Ok(Judged { held_out, bias: bias(&random) })
}

/// What the host took for one question beside what it took for each other one that is the same work to it: as many sequences, prompts and
/// adapters. No form can be nearer to one of them than they are to each other.
fn at_other_moments(data: &Data) -> Vec<Error> {
    let work = |shape: &StepShape| (shape.sequences(), shape.prompts.len(), shape.adapters.len());
    let mut errors = Vec::new();
    for (index, one) in data.host.iter().enumerate() {
        let others = data.host.iter().enumerate().filter(|(other, _)| *other != index).map(|(_, other)| other);
        for other in others.filter(|other| work(&other.shape) == work(&one.shape)) {
            errors.push(Error {
                of: "host".to_owned(),
                question: String::new(),
                shape: None,
                signed: other.us / one.us - 1.0,
                us: (other.us - one.us).abs(),
            });
        }
    }
    errors
}

/// The errors of each split, in order: fits know nothing of each other, and are made at once.
fn side_by_side(
    data: &Data,
    identity: &Identity,
    origin: &str,
    extent: &Extent,
    splits: &[Split],
) -> Vec<Result<Vec<Error>, CalibrateError>> {
    std::thread::scope(|scope| {
        let started: Vec<_> =
            splits.iter().map(|&split| scope.spawn(move || errors(data, identity, origin, extent, split))).collect();
        started.into_iter().map(|thread| thread.join().expect("a fit does not panic")).collect()
    })
}

fn errors(
    data: &Data,
    identity: &Identity,
    origin: &str,
    extent: &Extent,
    split: Split,
) -> Result<Vec<Error>, CalibrateError> {
    let (train, unseen) = apart(data, extent, split);
    if unseen.points().is_empty() {
        return Ok(Vec::new());
    }
    let mut notes = Vec::new();
    let profile = model(&train, identity, origin, &mut notes)?;
    predictions(&unseen, &profile)
}

/// What a fit is made of, and what it never saw and is judged by.
fn apart(data: &Data, extent: &Extent, split: Split) -> (Data, Data) {
    let train = data.keep(|question| !split.holds(question, extent));
    (train, data.keep(|question| split.holds(question, extent) && split.judges(question)))
}

/// What a profile says of every point, beside what was measured.
fn predictions(data: &Data, profile: &Profile) -> Result<Vec<Error>, CalibrateError> {
    let mut predictor = Predictor::new(profile);
    let mut errors = Vec::new();
    for point in data.points() {
        let Some(us) = predictor.us(&point.question)? else { continue };
        let measured = crate::measure::median(&point.us);
        if measured > 0.0 {
            errors.push(Error {
                of: data::of(&point.question),
                question: point.question.key(),
                shape: point.question.shape().cloned(),
                signed: us / measured - 1.0,
                us: (us - measured).abs(),
            });
        }
    }
    Ok(errors)
}

/// Errors by what they are of, steps also by their kind.
fn summarise(errors: &[Error], split: &str) -> Vec<HeldOutError> {
    let mut by: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    for error in errors {
        let both = (error.signed * 100.0, error.us);
        by.entry(error.of.clone()).or_default().push(both);
        if let ("step", Some(shape)) = (error.of.as_str(), &error.shape) {
            let kind = match (shape.decode.is_empty(), shape.prompts.is_empty()) {
                (false, true) => "decode",
                (true, _) => "prefill",
                (false, false) => "mixed",
            };
            let with = if shape.adapters.is_empty() { "without" } else { "with" };
            by.entry(format!("step, {kind} {with} adapters")).or_default().push(both);
        }
    }
    by.into_iter()
        .map(|(of, both)| {
            let (signed, us): (Vec<f64>, Vec<f64>) = both.into_iter().unzip();
            let mut us = Statistics::new(us);
            let mean = Statistics::new(signed.clone()).mean().unwrap_or(0.0);
            let mut sizes = Statistics::new(signed.iter().map(|percent| percent.abs()).collect::<Vec<_>>());
            HeldOutError {
                of,
                split: split.to_owned(),
                shapes: signed.len() as u32,
                median_percent: sizes.median(),
                p95_percent: sizes.percentile(95),
                mean_signed_percent: mean,
                median_us: Some(us.median()),
                p95_us: Some(us.percentile(95)),
            }
        })
        .collect()
}

/// Whole steps by batch, context and adapters: is the mean error of any kind away from zero?
fn bias(errors: &[Error]) -> Vec<Bias> {
    let steps: Vec<(&StepShape, f64)> = errors
        .iter()
        .filter(|error| error.of == "step")
        .filter_map(|error| Some((error.shape.as_ref()?, error.signed * 100.0)))
        .collect();
    type Edges<'a> = (&'a str, &'a dyn Fn(&StepShape) -> u32, &'a [u32]);
    let edges: [Edges<'_>; 4] = [
        ("batch", &|shape| shape.decode_rows(), &[1, 8, 32, 128, 512]),
        ("context", &|shape| shape.context_max(), &[1, 256, 1024, 4096, 32_768]),
        ("prompt rows", &|shape| shape.prompt_rows(), &[1, 128, 512, 2048, 8192]),
        ("adapters", &|shape| shape.adapters.len() as u32, &[1, 8, 32, 128, 256]),
    ];
    let mut all = Vec::new();
    for (name, quantity, edges) in edges {
        for pair in edges.windows(2) {
            let low = if pair[0] == 1 { 1 } else { pair[0] + 1 };
            let mine: Vec<f64> = steps
                .iter()
                .filter(|(shape, _)| (low..=pair[1]).contains(&quantity(shape)))
                .map(|(_, percent)| *percent)
                .collect();
            let mean = Statistics::new(mine.clone()).mean().unwrap_or(0.0);
            let shapes = mine.len() as u32;
            if let Ok((_, p_value)) = ttest_onesample(mine, 0.0, Alternative::TwoSided, NaNPolicy::Emit)
                && p_value.is_finite()
            {
                all.push(Bias {
                    steps: format!("{name} {low} to {}", pair[1]),
                    shapes,
                    mean_signed_percent: mean,
                    p_value,
                });
            }
        }
    }
    all
}

impl Split {
    fn holds(self, question: &Question, extent: &Extent) -> bool {
        if let Split::Fold(fold) = self {
            return hash(&question.key()) % FOLDS == fold && !extent.is_bucket(question);
        }
        let Some(shape) = question.shape() else { return false };
        match self {
            Split::Fold(_) => false,
            Split::LongestContexts => shape.context_max() > extent.context / 2,
            Split::LargestBatches => {
                shape.decode_rows() > extent.decode_rows / 2
                    || matches!(question, Question::Operation { operation, .. }
                        if operation.is_by_rows() && shape.rows() > extent.rows / 2)
            }
            Split::LongestPrompts => shape.prompts.iter().any(|p| p.chunk + p.prefix > extent.prompt / 2),
            Split::MostAdapters => shape.adapters.len() > extent.adapters / 2,
        }
    }

    /// Is the question about what the region is a region of?
    fn judges(self, question: &Question) -> bool {
        let by_rows = matches!(question, Question::Operation { operation, .. } if operation.is_by_rows());
        match self {
            Split::Fold(_) => true,
            Split::LargestBatches => !matches!(question, Question::Lora { .. }),
            Split::LongestContexts | Split::LongestPrompts => !by_rows && !matches!(question, Question::Lora { .. }),
            Split::MostAdapters => !by_rows,
        }
    }
}

impl Extent {
    /// Is it an operation at a size that the machine pads to? There are so many, and no others are ever computed: each is measured, and
    /// what can be held out are the row counts between them.
    fn is_bucket(&self, question: &Question) -> bool {
        match question {
            Question::Operation { operation, shape } if operation.is_by_rows() => {
                let rows = if operation.is_by_sequence() { shape.sequences() } else { shape.rows() };
                self.row_buckets.contains(&rows)
            }
            _ => false,
        }
    }

    fn of(data: &Data, row_buckets: &[u32]) -> Extent {
        let row_buckets = row_buckets.to_vec();
        let mut extent = Extent { context: 0, decode_rows: 0, rows: 0, prompt: 0, adapters: 0, row_buckets };
        for point in data.points() {
            let Some(shape) = point.question.shape() else { continue };
            extent.context = extent.context.max(shape.context_max());
            extent.decode_rows = extent.decode_rows.max(shape.decode_rows());
            extent.rows = extent.rows.max(shape.rows());
            extent.adapters = extent.adapters.max(shape.adapters.len());
            let prompt = shape.prompts.iter().map(|p| p.chunk + p.prefix).max().unwrap_or(0);
            extent.prompt = extent.prompt.max(prompt);
        }
        extent
    }
}

/// FNV-1a: the same folds for the same questions, whatever else was measured.
fn hash(text: &str) -> u64 {
    let hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    // The low bits of FNV are its weakest.
    hash ^ (hash >> 29)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    #[test]
    fn what_is_judged_was_no_part_of_the_fit_and_every_fold_is_judged_once() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("measurements/measured-h200-llama-2-7b.jsonl.gz");
        let recording = Recording::read(&file).expect("committed");
        let (data, machine) = (Data::of(&recording), recording.machine());
        let extent = Extent::of(&data, &machine.row_buckets);
        let keys =
            |data: &Data| -> BTreeSet<String> { data.points().iter().map(|point| point.question.key()).collect() };
        let mut judged = BTreeSet::new();
        for fold in 0..FOLDS {
            let (train, unseen) = apart(&data, &extent, Split::Fold(fold));
            let (train, unseen) = (keys(&train), keys(&unseen));
            assert!(train.is_disjoint(&unseen) && unseen.len() > 100, "fold {fold}: {} unseen", unseen.len());
            assert_eq!(train.len() + unseen.len(), keys(&data).len());
            assert!(judged.is_disjoint(&unseen), "fold {fold} is judged twice");
            judged.extend(unseen);
        }
        for split in [Split::LongestContexts, Split::LargestBatches, Split::LongestPrompts, Split::MostAdapters] {
            let (train, unseen) = apart(&data, &extent, split);
            assert!(keys(&train).is_disjoint(&keys(&unseen)) && !unseen.points().is_empty());
        }
        let never = data.points().iter().filter(|point| !judged.contains(&point.question.key()));
        assert!(
            never.into_iter().all(|point| extent.is_bucket(&point.question)),
            "only padded sizes are never held out"
        );
    }
}
