//! Decode attention: keys and values streamed by all rows, or one long row that nobody can share out.

use aril_sim::profile::attention::{DecodeAttention, DecodeBound};

use super::Sample;
use super::bounds::{self, Column};

/// Numbers of rows at which the streaming bound has coefficients, as far as they were measured.
const ROWS: [f64; 10] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];
/// The same for the longest row.
const FEW_ROWS: [f64; 4] = [1.0, 8.0, 64.0, 512.0];

/// Fits both bounds; `least_us_per_token` is a token's keys and values at the peak bandwidth.
pub(super) fn fit(samples: &[Sample], least_us_per_token: f64) -> Option<DecodeAttention> {
    let samples: Vec<&Sample> = samples.iter().filter(|sample| sample.shape.decode_rows() > 0).collect();
    if samples.len() < 8 {
        return None;
    }
    let us: Vec<f64> = samples.iter().map(|sample| sample.us).collect();
    let of = |value: &dyn Fn(&Sample) -> f64| -> Vec<f64> { samples.iter().map(|sample| value(sample)).collect() };
    let rows = of(&|s| f64::from(s.shape.decode_rows()));
    let sums = of(&|s| s.shape.context_sum() as f64);
    let longest = of(&|s| f64::from(s.shape.context_max()));
    let (many, few) = (within(&ROWS, &rows), within(&FEW_ROWS, &rows));
    let mut streaming = hats(&many, &rows, &vec![1.0; rows.len()], 0.0);
    streaming.extend(hats(&many, &rows, &sums, least_us_per_token));
    // Among many rows a long one still keeps its neighbours waiting.
    streaming.extend(hats(&many, &rows, &longest, 0.0));
    let mut alone = hats(&few, &rows, &vec![1.0; rows.len()], 0.0);
    alone.extend(hats(&few, &rows, &longest, 0.0));
    let share = samples.iter().map(|s| f64::from(s.shape.context_max()) / s.shape.context_sum().max(1) as f64);
    let mut starts = bounds::starts_by(&share.collect::<Vec<_>>());
    starts.push(vec![0; us.len()]);
    let one = bounds::fit(&[streaming.clone()], &us, &[]);
    let two = bounds::fit(&[streaming, alone], &us, &starts);
    let streaming = |coefficients: &[f64]| DecodeBound {
        name: "bandwidth".to_owned(),
        rows: many.clone(),
        us: coefficients[..many.len()].to_vec(),
        us_per_token: coefficients[many.len()..2 * many.len()].to_vec(),
        us_per_longest_token: coefficients[2 * many.len()..].to_vec(),
    };
    // A second bound must earn its place.
    if two.loss > one.loss * 0.9 {
        return Some(DecodeAttention { bounds: vec![streaming(&one.coefficients[0])] });
    }
    let alone = &two.coefficients[1];
    let alone = DecodeBound {
        name: "longest row".to_owned(),
        rows: few.clone(),
        us: alone[..few.len()].to_vec(),
        us_per_token: vec![0.0; few.len()],
        us_per_longest_token: alone[few.len()..].to_vec(),
    };
    Some(DecodeAttention { bounds: vec![streaming(&two.coefficients[0]), alone] })
}

/// The knots that samples lie between, the last one beyond them left out.
fn within(knots: &[f64], rows: &[f64]) -> Vec<f64> {
    let most = rows.iter().copied().fold(1.0, f64::max);
    knots.iter().copied().filter(|knot| *knot <= most).collect()
}

/// A column a knot: what the value there weighs in a sample, times the sample's quantity. Slopes stay beyond the last knot.
fn hats(knots: &[f64], rows: &[f64], times: &[f64], lower: f64) -> Vec<Column> {
    (0..knots.len())
        .map(|k| Column { values: rows.iter().zip(times).map(|(&r, t)| bounds::hat(knots, k, r) * t).collect(), lower })
        .collect()
}
