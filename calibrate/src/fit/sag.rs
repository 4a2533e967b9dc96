//! What prompts leave behind: how fast a GPU's clocks sag and come back, and what that costs.

use aril_sim::profile::{ClockSag, Clocks, Profile, StepRows};

use super::least_squares::non_negative;
use crate::machine::{AT_REST, BEHIND, StepShape, rest_us};
use crate::measure::median;

/// A row of steps: at rest, prompts, and behind them.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct BehindSample {
    pub(super) prompt_tokens: u32,
    pub(super) times: usize,
    /// Of the steps at rest and behind.
    pub(super) decode_rows: u32,
    /// The median of each, microseconds.
    pub(super) steps_us: Vec<f64>,
}

/// Constants of time that are tried, and numbers of tokens.
const TIMES_MS: std::ops::RangeInclusive<u32> = 5..=120;
const TOKENS: [f64; 7] = [256.0, 384.0, 512.0, 768.0, 1024.0, 1536.0, 2048.0];

/// The pair of time and tokens by which least squares come nearest to what steps took over the same steps at rest: of decode rows over those before the prompts, of
/// prompts over the first of them. Nothing where too few were measured, or where none took longer.
pub(super) fn fit(samples: &[BehindSample]) -> Option<ClockSag> {
    let rows: Vec<&BehindSample> =
        samples.iter().filter(|sample| sample.steps_us.len() == AT_REST + sample.times + BEHIND).collect();
    if rows.len() < 3 {
        return None;
    }
    let tries = TIMES_MS.flat_map(|ms| TOKENS.map(|tokens| (f64::from(ms) * 1e3, tokens)));
    let (_, sag) = tries.map(|(us, tokens)| by(&rows, us, tokens)).min_by(|a, b| a.0.total_cmp(&b.0))?;
    (sag.decode + sag.decode_row + sag.prompts > 0.0).then_some(sag)
}

/// What the squares sum to with this pair, and the three shares that make them least.
fn by(rows: &[&BehindSample], us: f64, prompt_tokens: f64) -> (f64, ClockSag) {
    let (mut columns, mut target) = (vec![Vec::new(); 3], Vec::new());
    for row in rows {
        let load = (f64::from(row.prompt_tokens) / prompt_tokens).min(1.0);
        let (rest, prompts) = (median(&row.steps_us[..AT_REST]), row.steps_us[AT_REST]);
        let mut clocks = Clocks::default();
        for (step, &took) in row.steps_us.iter().enumerate().skip(AT_REST) {
            let (load, decode_rows, alone) =
                if step < AT_REST + row.times { (load, 0, prompts) } else { (0.0, row.decode_rows, rest) };
            let felt = clocks.run(load, alone / us) * us / alone;
            columns[0].push(felt * (1.0 - load));
            columns[1].push(felt * (1.0 - load) * f64::from(decode_rows));
            columns[2].push(felt * load);
            target.push(took / alone - 1.0);
        }
    }
    let x = non_negative(&columns, &[0.0; 3], &target, &vec![1.0; target.len()]);
    let error = |row: usize| columns.iter().zip(&x).map(|(column, x)| column[row] * x).sum::<f64>() - target[row];
    let squares = (0..target.len()).map(|row| error(row).powi(2)).sum();
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
