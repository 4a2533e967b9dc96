//! Which question comes when: each round asks the same share of every kind, and any part of a kind is spread over all of it.

use std::collections::BTreeMap;

use super::{Planned, Slots};
use crate::machine::{Limits, Question, StepShape};

/// Rounds of each stage.
const ROUNDS: [u32; 3] = [6, 6, 2];

/// Rounds for which adapter memory stays as it serves most questions.
const ROUNDS_A_CUT: u32 = 2;

/// So many questions are few.
const FEW: usize = 12;

/// The fractional part of the golden ratio: multiples of it fall into the largest gap that the earlier ones left.
const GOLDEN: f64 = 0.618_033_988_749_894_9;

/// Of what kind is a question? Kinds are what a cut budget must not leave out.
pub fn kind(question: &Question) -> String {
    match question {
        Question::Operation { operation, .. } => operation.as_str().to_owned(),
        Question::Lora { kernel, shape } => {
            format!("lora {kernel}, {}", if shape.prompts.is_empty() { "decode" } else { "with prompts" })
        }
        Question::Step { shape, .. } => {
            let with = if shape.adapters.is_empty() { "without" } else { "with" };
            format!("step, {} {with} adapters", step(shape))
        }
        Question::Added { shape } => format!("adapters of a step, {}", step(shape)),
        Question::Behind { .. } => "steps behind prompts".to_owned(),
        Question::Served { .. } => "steps of a run".to_owned(),
        Question::Host { .. } => "host".to_owned(),
        Question::Load { beside: Some(_), .. } => "load beside a step".to_owned(),
        Question::Load { pinned: true, .. } => "load, pinned".to_owned(),
        Question::Load { pinned: false, .. } => "load, pageable".to_owned(),
        Question::StepBesideLoad { .. } => "step beside a load".to_owned(),
        Question::Switch { .. } => "switch".to_owned(),
        Question::Copy { .. } => "copy".to_owned(),
    }
}

fn step(shape: &StepShape) -> &'static str {
    match (shape.decode.is_empty(), shape.prompts.is_empty()) {
        (false, true) => "decode",
        (true, _) => "prefill",
        (false, false) => "mixed",
    }
}

/// Gives every point its round. Points of a kind come as they were drafted, neighbours beside each other: a round takes some from
/// everywhere.
pub(super) fn into_rounds(points: Vec<Planned>, limits: &Limits, seed: u64) -> Vec<Planned> {
    let mut kinds: BTreeMap<(u32, String), Vec<Planned>> = BTreeMap::new();
    for point in points {
        kinds.entry((point.stage, kind(&point.question))).or_default().push(point);
    }
    let offset = seed as f64 * GOLDEN;
    let mut all = Vec::new();
    for ((stage, _), points) in kinds {
        let before: u32 = ROUNDS.iter().take(stage as usize - 1).sum();
        // Kinds of few questions come first: no profile is made without each of them.
        let rounds = if points.len() <= FEW { 2 } else { ROUNDS[(stage as usize - 1).min(ROUNDS.len() - 1)] };
        let mut places: Vec<(f64, Planned)> = points
            .into_iter()
            .enumerate()
            .map(|(index, point)| ((index as f64 * GOLDEN + offset).fract(), point))
            .collect();
        places.sort_by(|a, b| a.0.total_cmp(&b.0));
        let count = places.len();
        all.extend(places.into_iter().enumerate().map(|(place, (_, point))| {
            let round = (place * rounds as usize / count) as u32;
            // To cut memory anew takes seconds: questions that need it wait for each other.
            let slots = Slots::of(&point.question, limits);
            let round = if slots == Slots::OFF || slots.rank >= limits.rank {
                round
            } else {
                (round / ROUNDS_A_CUT * ROUNDS_A_CUT + ROUNDS_A_CUT - 1).min(rounds - 1)
            };
            Planned { round: before + round, ..point }
        }));
    }
    all
}
