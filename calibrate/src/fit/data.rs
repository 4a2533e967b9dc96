//! The measurements of a recording, sorted by what they tell.

use std::collections::BTreeMap;

use aril_sim::profile::lora::LoraKernel;
use aril_sim::profile::{Range, Validity, pad};

use super::Sample;
use super::others::LoadSample;
use super::rows::RowSample;
use super::sag::InARow;
use crate::machine::{Part, Question, StepShape};
use crate::measure::median;
use crate::recording::{Point, Recording};

/// Medians by what they tell, and the scatter of single answers around them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Data {
    rows: BTreeMap<Part, Vec<RowSample>>,
    pub(super) decode: Vec<Sample>,
    pub(super) prompts: Vec<Sample>,
    pub(super) lora: BTreeMap<LoraKernel, Vec<Sample>>,
    pub(super) steps: Vec<Sample>,
    /// What our adapters add to steps; parts with them and without.
    pub(super) added: Vec<Sample>,
    pub(super) in_a_row: Vec<InARow>,
    pub(super) host: Vec<Sample>,
    pub(super) loads: Vec<LoadSample>,
    /// Merging another adapter into the weights, of each rank that was asked.
    switches_us: Vec<f64>,
    beside: Vec<(StepShape, f64)>,
    /// Single answers over the median of their question, by what was asked.
    pub(super) ratios: BTreeMap<String, Vec<f64>>,
    points: Vec<Point>,
}

impl Data {
    /// Of all points that count.
    pub(crate) fn of(recording: &Recording) -> Data {
        Data::of_points(recording.sound().into_iter().cloned().collect())
    }

    /// The same with the rows of each operation as the machine pads them; what was measured at one size counts with its median.
    pub(super) fn padded(&self, buckets: &[u32]) -> Data {
        let mut data = self.clone();
        for samples in data.rows.values_mut() {
            let mut by: BTreeMap<u32, Vec<RowSample>> = BTreeMap::new();
            for sample in samples.iter() {
                by.entry(pad(buckets, sample.rows as u32)).or_default().push(*sample);
            }
            let middle = |all: &[RowSample]| median(&all.iter().map(|s| s.us).collect::<Vec<_>>());
            *samples = by
                .into_iter()
                .map(|(rows, all)| RowSample {
                    rows: f64::from(rows),
                    us: middle(&all),
                    // Row counts that pad to one size are one question asked at several moments: what it may take is what any of them took.
                    low: all.iter().map(|s| s.low).fold(f64::INFINITY, f64::min),
                    high: all.iter().map(|s| s.high).fold(0.0, f64::max),
                })
                .collect();
        }
        data
    }

    /// Of the points for which `keep` holds.
    pub(super) fn keep(&self, keep: impl Fn(&Question) -> bool) -> Data {
        Data::of_points(self.points.iter().filter(|point| keep(&point.question)).cloned().collect())
    }

    fn of_points(points: Vec<Point>) -> Data {
        let mut data = Data::default();
        for point in &points {
            data.take(point);
        }
        data.points = points;
        data
    }

    fn take(&mut self, point: &Point) {
        let us = median(&point.us);
        if us <= 0.0 {
            return;
        }
        let parts: Vec<f64> = point.parts.iter().map(|part| median(part)).collect();
        if let Some(steps) = InARow::of(&point.question, &parts) {
            self.in_a_row.push(steps);
            return;
        }
        let ratios = self.ratios.entry(of(&point.question)).or_default();
        ratios.extend(point.us.iter().map(|sample| sample / us).filter(|ratio| *ratio > 0.0));
        let sample =
            |kernel: LoraKernel, shape: &StepShape| Sample { shape: shape.clone(), kernel, us, parts: parts.clone() };
        match &point.question {
            Question::Operation { operation: Part::DecodeAttention, shape } => {
                self.decode.push(sample(LoraKernel::None, shape));
            }
            Question::Operation { operation: Part::PrefillAttention, shape } => {
                self.prompts.push(sample(LoraKernel::None, shape));
            }
            Question::Operation { operation, shape } => {
                let rows = if operation.is_by_sequence() { shape.sequences() } else { shape.rows() };
                let [low, high] = [0.1, 0.9].map(|share| quantile(&point.us, share));
                self.rows.entry(*operation).or_default().push(RowSample { rows: f64::from(rows), us, low, high });
            }
            Question::Lora { kernel, shape } => self.lora.entry(*kernel).or_default().push(sample(*kernel, shape)),
            Question::Step { kernel, shape } => self.steps.push(sample(*kernel, shape)),
            Question::Added { shape } => self.added.push(sample(LoraKernel::Segmented, shape)),
            Question::Host { kernel, shape } => self.host.push(sample(*kernel, shape)),
            Question::Load { rank, pinned, beside } => {
                self.loads.push(LoadSample { rank: *rank, pinned: *pinned, beside: beside.is_some(), us });
            }
            Question::StepBesideLoad { shape } => self.beside.push((shape.clone(), us)),
            Question::Switch { .. } => self.switches_us.push(us),
            Question::Behind { .. } | Question::Served { .. } | Question::Copy { .. } => {}
        }
    }

    /// Merging another adapter into the weights: every rank rewrites all of them, so the mean of the ranks.
    pub(super) fn switch_us(&self) -> Option<f64> {
        let count = self.switches_us.len();
        (count > 0).then(|| self.switches_us.iter().sum::<f64>() / count as f64)
    }

    /// What a part took, by rows.
    pub(super) fn rows(&self, part: Part) -> &[RowSample] {
        self.rows.get(&part).map_or(&[], Vec::as_slice)
    }

    /// The points.
    pub(super) fn points(&self) -> &[Point] {
        &self.points
    }

    /// Steps beside a copy over the same steps without.
    pub(super) fn step_slowdowns(&self) -> Vec<f64> {
        let alone = |shape: &StepShape| {
            self.steps.iter().find(|sample| sample.kernel == LoraKernel::None && sample.shape == *shape).map(|s| s.us)
        };
        self.beside.iter().filter_map(|(shape, us)| Some(us / alone(shape)?)).collect()
    }

    /// Where something was measured.
    pub(super) fn validity(&self) -> Validity {
        let range = |values: Vec<u32>| {
            let (min, max) = (values.iter().copied().min()?, values.iter().copied().max()?);
            (max > 0).then_some(Range { min: min.max(1), max })
        };
        let prompts = || self.prompts.iter().flat_map(|sample| &sample.shape.prompts);
        let lora = || self.lora.get(&LoraKernel::Segmented).into_iter().flatten();
        let rows = self.rows(Part::GateUp).iter().map(|sample| sample.rows as u32).collect();
        let prefix = prompts().map(|p| p.prefix).max();
        Validity {
            decode_rows: range(self.decode.iter().map(|s| s.shape.decode_rows()).collect()),
            // A row of one token is cheaper than one of sixteen, and nobody cares by how much.
            context: range(self.decode.iter().map(|s| s.shape.context_max()).collect()).map(|r| Range { min: 1, ..r }),
            rows: range(rows),
            // The same for a chunk that is the end of a prompt.
            chunk: range(prompts().map(|p| p.chunk).collect()).map(|r| Range { min: 1, ..r }),
            prefix: prefix.map(|max| Range { min: 0, max }),
            segments: range(lora().map(|s| s.shape.adapters.len() as u32).collect()),
            rank: range(lora().flat_map(|s| s.shape.adapters.iter().map(|a| a.rank)).collect()),
        }
    }
}

/// The answer that such a share of the answers is at most.
fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get((share * (sorted.len() - 1) as f64).round() as usize).copied().unwrap_or(0.0)
}

/// What errors and spreads call a question.
pub(super) fn of(question: &Question) -> String {
    match question {
        Question::Operation { operation, .. } => operation.as_str().to_owned(),
        Question::Lora { kernel, .. } => format!("lora-{kernel}"),
        Question::Step { .. } | Question::StepBesideLoad { .. } => "step".to_owned(),
        Question::Added { .. } => "adapters-of-a-step".to_owned(),
        Question::Behind { .. } => "steps-behind-prompts".to_owned(),
        Question::Served { .. } => "steps-of-a-run".to_owned(),
        Question::Host { .. } => "host".to_owned(),
        Question::Load { pinned: true, .. } => "load-pinned".to_owned(),
        Question::Load { pinned: false, .. } => "load-pageable".to_owned(),
        Question::Switch { .. } => "switch".to_owned(),
        Question::Copy { .. } => "copy".to_owned(),
    }
}
