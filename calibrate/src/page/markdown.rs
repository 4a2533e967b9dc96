//! The quoted figures as Markdown, beside the paper's: what the README shows, made and never typed.

use std::fmt::Write;

use aril_sim::profile::Profile;
use aril_sim::profile::lora::LoraKernel;

use super::Answered;
use super::tables::quoted_questions;
use crate::error::CalibrateError;
use crate::fit::predict::Predictor;
use crate::machine::{Question, StepShape};
use crate::measure::median;
use crate::published::facts;
use crate::recording::Recording;

/// A table of measured, modelled and published figures of Llama-2-7B.
///
/// # Errors
/// When the profile's or the published figures are impossible.
pub fn markdown(profile: &Profile, recordings: &[Recording]) -> Result<String, CalibrateError> {
    let points: Vec<_> = recordings.iter().flat_map(Recording::sound).collect();
    let answered: Vec<Answered<'_>> =
        points.iter().map(|point| Answered { question: &point.question, us: median(&point.us) }).collect();
    let facts = facts()?;
    let mut predictor = Predictor::new(profile);
    let gpu = profile.provenance.gpu.as_deref().unwrap_or(&profile.gpu.name);
    let mut text = format!(
        "| {} on one {gpu} | measured | modelled | Punica, A100 80 GB |\n|---|---|---|---|\n",
        profile.model.name
    );
    let ms = |us: Option<f64>| us.map_or_else(|| "–".to_owned(), |us| format!("{:.2} ms", us * 1e-3));
    let measured = |question: &Question| answered.iter().find(|a| a.question == question).map(|a| a.us);
    for (what, question) in quoted_questions(profile) {
        let paper = match &question {
            Question::Step { kernel: LoraKernel::None, shape } => facts
                .decode_step
                .iter()
                .find(|step| shape.decode == [(step.rows, step.context)])
                .map_or_else(|| "–".to_owned(), |step| format!("{:.0} ms", step.ms)),
            Question::Load { .. } => "2 ms (expected)".to_owned(),
            _ => "–".to_owned(),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "| {what} | {} | {} | {paper} |", ms(measured(&question)), ms(predictor.us(&question)?));
    }
    // The share of LoRA in the paper's largest short step: 32 rows, each its own adapter.
    let bare = StepShape::decode(32, 128);
    let off = Question::Step { kernel: LoraKernel::None, shape: bare.clone() };
    let on = Question::Step { kernel: LoraKernel::Segmented, shape: bare.with_adapters(16, &[1; 32]) };
    let share = |off: Option<f64>, on: Option<f64>| match (off, on) {
        (Some(off), Some(on)) => format!("{:.1} %, {:.2} ms", (on - off) / on * 100.0, (on - off) * 1e-3),
        _ => "–".to_owned(),
    };
    let (of_measured, of_modelled) =
        (share(measured(&off), measured(&on)), share(predictor.us(&off)?, predictor.us(&on)?));
    let _ = writeln!(
        text,
        "| LoRA's share of the step of 32 rows of 128, 32 adapters | {of_measured} | {of_modelled} | {:.0} ms a token |",
        facts.lora.ms_per_token
    );
    Ok(text)
}
