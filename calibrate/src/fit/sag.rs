//! What prompts leave behind: how fast a GPU's clocks sag and come back, and what that costs.

use aril_sim::profile::{ClockSag, Clocks, Profile, StepRows};

use super::least_squares::non_negative;
use crate::machine::{AT_REST, BEHIND, Question, StepShape, rest_us, served};
use crate::measure::median;

/// Steps one after the other, on a card that was at rest.
#[derive(Clone, Debug)]
pub(super) struct InARow(Vec<Step>);

#[derive(Clone, Debug)]
struct Step {
    rows: StepRows,
    /// Of the card before it, microseconds.
    rested_us: f64,
    /// What the same step takes at rest, and what it took, microseconds.
    alone_us: f64,
    us: f64,
}

impl InARow {
    /// Of a question that asks for such, by the median of each of its parts; empty where not all were measured.
    pub(super) fn of(question: &Question, parts: &[f64]) -> Option<InARow> {
        let steps = match question {
            Question::Behind { prompts, times, shape } => behind(prompts, *times as usize, shape, parts),
            Question::Served { shapes, steps, pauses } => served(shapes, *steps, *pauses, parts),
            _ => return None,
        };
        Some(InARow(steps.unwrap_or_default()))
    }
}

/// Prompts over the first of them, and what is behind them over the steps before.
fn behind(prompts: &StepShape, times: usize, shape: &StepShape, parts: &[f64]) -> Option<Vec<Step>> {
    let (before, after) = parts.split_at_checked(AT_REST).filter(|(_, after)| after.len() == times + BEHIND)?;
    let step = |(index, &us): (usize, &f64)| {
        let (shape, alone_us) = if index < times { (prompts, after[0]) } else { (shape, median(before)) };
        Step { rows: step_rows(shape), rested_us: 0.0, alone_us, us }
    };
    Some(after.iter().enumerate().map(step).collect())
}

/// Each over the same alone.
fn served(shapes: &[StepShape], steps: u32, pauses: bool, parts: &[f64]) -> Option<Vec<Step>> {
    let (alone, run) = parts.split_at_checked(shapes.len()).filter(|(_, run)| run.len() == steps as usize)?;
    let step = |(served, &us): (served::Served, &f64)| {
        let (rows, alone_us) = (step_rows(&shapes[served.shape]), alone[served.shape]);
        Step { rows, rested_us: served.rested_us, alone_us, us }
    };
    Some(served::order(shapes, steps, pauses).into_iter().zip(run).map(step).collect())
}

/// Constants of time that are tried, and numbers of tokens.
const TIMES_MS: std::ops::RangeInclusive<u32> = 5..=120;
const TOKENS: [f64; 7] = [256.0, 384.0, 512.0, 768.0, 1024.0, 1536.0, 2048.0];

/// The pair of time and tokens by which least squares come nearest to what steps took over the same steps at rest. Nothing where too few were measured, or
/// where none took longer.
pub(super) fn fit(rows: &[InARow]) -> Option<ClockSag> {
    let rows: Vec<&[Step]> = rows.iter().map(|row| row.0.as_slice()).filter(|steps| !steps.is_empty()).collect();
    if rows.len() < 3 {
        return None;
    }
    let tries = TIMES_MS.flat_map(|ms| TOKENS.map(|tokens| (f64::from(ms) * 1e3, tokens)));
    let (_, sag) = tries.map(|(us, tokens)| by(&rows, us, tokens)).min_by(|a, b| a.0.total_cmp(&b.0))?;
    (sag.decode + sag.decode_row + sag.prompts > 0.0).then_some(sag)
}

/// What is further from the fit than this, share of a step, was disturbed by something else.
const DISTURBED: f64 = 0.05;

/// What the squares sum to with this pair, and the three shares that make them least.
fn by(rows: &[&[Step]], us: f64, prompt_tokens: f64) -> (f64, ClockSag) {
    let (mut columns, mut target) = (vec![Vec::new(); 3], Vec::new());
    for steps in rows {
        let mut clocks = Clocks::default();
        for step in *steps {
            let load = (f64::from(step.rows.prompt_tokens) / prompt_tokens).min(1.0);
            clocks.run(0.0, step.rested_us / us);
            let felt = clocks.run(load, step.alone_us / us) * us / step.alone_us;
            // Prompts have so many rows that they take longer by the most.
            let prompts = step.rows.prompt_tokens > 0;
            let (few, many) = if prompts { (0.0, felt) } else { (felt, 0.0) };
            columns[0].push(few);
            columns[1].push(few * f64::from(step.rows.decode_rows));
            columns[2].push(many);
            target.push(step.us / step.alone_us - 1.0);
        }
    }
    let solve = |weights: &[f64]| {
        let x = non_negative(&columns, &[0.0; 3], &target, weights);
        let said = |row: usize| columns.iter().zip(&x).map(|(column, x)| column[row] * x).sum::<f64>();
        let errors: Vec<f64> = (0..target.len()).map(|row| said(row) - target[row]).collect();
        (x, errors)
    };
    // Steps of a run are told once: what disturbed one counts by its distance, not by its square.
    let weight = |error: &f64| (DISTURBED / error.abs()).min(1.0);
    let (_, errors) = solve(&vec![1.0; target.len()]);
    let weights: Vec<f64> = errors.iter().map(weight).collect();
    let (x, errors) = solve(&weights);
    let squares = errors.iter().zip(&weights).map(|(error, weight)| weight * error * error).sum();
    (squares, ClockSag { us, prompt_tokens, decode: x[0], decode_row: x[1], prompts: x[2], own: 0.0 })
}

/// What a step took longer for having been measured again and again, its card at rest only in part, microseconds.
pub(super) fn repeated_us(profile: &Profile, shape: &StepShape, us: f64) -> f64 {
    let rested_us = rest_us(shape.rows(), us);
    profile.clock_sag.map_or(0.0, |sag| sag.repeated(step_rows(shape), us, rested_us))
}

/// What the clocks feel of a shape.
pub(super) fn step_rows(shape: &StepShape) -> StepRows {
    StepRows { prompt_tokens: shape.prompt_rows(), decode_rows: shape.decode_rows() }
}
