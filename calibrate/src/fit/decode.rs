//! Decode attention: keys and values streamed by all rows, or one long row that nobody can share out; and short contexts apart, which no
//! kernel splits over blocks.

use aril_sim::profile::attention::{DecodeAttention, DecodeBound, DecodeRegime};

mod regimes;
mod rounds;
mod ways;

use super::Sample;
use super::bounds::{self, Column};
pub(super) use ways::Sharing;

/// Numbers of rows at which the streaming bound has coefficients, as far as they were measured.
const ROWS: [f64; 10] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];
/// The same for the longest row, and for what changes little.
const FEW_ROWS: [f64; 4] = [1.0, 8.0, 64.0, 512.0];

/// Contexts that are tried as the longest of short ones; 0: there are no short ones.
const SHORT: [u32; 5] = [0, 32, 64, 96, 128];

/// What a regime of its own must gain: a share of the loss.
const WORTH: f64 = 0.9;

/// Fits every form and keeps the best: the ways in which our kernel's plan shares work out, or bounds that know of no plan.
pub(super) fn fit(samples: &[Sample], sharing: Sharing) -> Option<DecodeAttention> {
    let least_us_per_token = sharing.least_us_per_token;
    let samples: Vec<&Sample> = samples.iter().filter(|sample| sample.shape.decode_rows() > 0).collect();
    if samples.len() < 8 {
        return None;
    }
    let mut best: Option<(DecodeAttention, f64)> = None;
    for context_max in SHORT {
        let of = |short: bool| -> Vec<&Sample> {
            samples.iter().copied().filter(|s| (s.shape.context_max() <= context_max) == short).collect()
        };
        let (short, long) = (of(true), of(false));
        if long.len() < 8 || (context_max > 0 && short.len() < 8) {
            continue;
        }
        let bounds = regime(&long, least_us_per_token);
        let mut attention = DecodeAttention { bounds, ..DecodeAttention::default() };
        if context_max > 0 {
            let bounds = lines(&short, least_us_per_token);
            // What holds for short contexts bounds longer ones too: a batch that grows never gets cheaper.
            attention.bounds.extend(bounds.iter().cloned());
            attention.regimes.push(DecodeRegime::short(context_max, bounds));
        }
        let loss = loss(&attention, &samples);
        // What is one regime more must be worth it.
        let bar = best
            .as_ref()
            .map_or(f64::INFINITY, |(known, loss)| loss * if known.regimes.is_empty() { WORTH } else { 1.0 });
        if loss < bar {
            best = Some((attention, loss));
        }
    }
    let (bounds, least) = best?;
    let ways = ways::fit(&samples, sharing);
    let ways = [ways, regimes::fit(&samples, sharing)].into_iter().flatten();
    let best = ways.map(|ways| (loss(&ways, &samples), ways)).min_by(|a, b| a.0.total_cmp(&b.0));
    Some(best.filter(|(loss, _)| *loss < least).map_or(bounds, |(_, ways)| ways))
}

fn loss(attention: &DecodeAttention, samples: &[&Sample]) -> f64 {
    let says = |s: &Sample| attention.us(s.shape.decode_rows(), s.shape.context_sum(), s.shape.context_max());
    samples.iter().map(|sample| bounds::huber(says(sample) / sample.us - 1.0)).sum()
}

/// One regime: streaming, and the longest row alone where that earns its place. Every coefficient rises with the rows, so that no batch
/// costs less than a part of it.
fn regime(samples: &[&Sample], least_us_per_token: f64) -> Vec<DecodeBound> {
    let us: Vec<f64> = samples.iter().map(|sample| sample.us).collect();
    let of = |value: &dyn Fn(&Sample) -> f64| -> Vec<f64> { samples.iter().map(|sample| value(sample)).collect() };
    let rows = of(&|s| f64::from(s.shape.decode_rows()));
    let sums = of(&|s| s.shape.context_sum() as f64);
    let longest = of(&|s| f64::from(s.shape.context_max()));
    let (many, few) = (within(&ROWS, &rows), within(&FEW_ROWS, &rows));
    let ones = vec![1.0; us.len()];
    let mut streaming = rising(&many, &rows, &ones, 0.0);
    streaming.extend(rising(&few, &rows, &sums, least_us_per_token));
    // Among many rows a long one still keeps its neighbours waiting, the same whatever their number: in even batches the longest says what
    // the sum says.
    streaming.push(Column::new(longest.clone()));
    let alone = vec![Column::new(ones), Column::new(longest)];
    let share = samples.iter().map(|s| f64::from(s.shape.context_max()) / s.shape.context_sum().max(1) as f64);
    let mut starts = bounds::starts_by(&share.collect::<Vec<_>>());
    starts.push(vec![0; us.len()]);
    let one = bounds::fit(&[streaming.clone()], &us, &[]);
    let two = bounds::fit(&[streaming, alone], &us, &starts);
    // A second bound must earn its place.
    let fit = if two.loss > one.loss * WORTH { one } else { two };
    let streaming = {
        let c = &fit.coefficients[0];
        let token = summed(&few, &c[many.len()..many.len() + few.len()], &many);
        let longest_token = vec![c[many.len() + few.len()]; many.len()];
        DecodeBound {
            name: "bandwidth".to_owned(),
            us: summed(&many, &c[..many.len()], &many),
            rows: many,
            us_per_token: token,
            us_per_longest_token: longest_token,
        }
    };
    let mut bounds = vec![streaming];
    if let Some(c) = fit.coefficients.get(1) {
        bounds.push(DecodeBound {
            name: "longest row".to_owned(),
            rows: vec![1.0],
            us: vec![c[0]],
            us_per_token: vec![0.0],
            us_per_longest_token: vec![c[1]],
        });
    }
    bounds
}

/// Short contexts: the larger of two lines in rows and tokens, what pieces of work take to begin and end and what their bytes take; or one
/// of them, where two are not worth it.
fn lines(samples: &[&Sample], least_us_per_token: f64) -> Vec<DecodeBound> {
    const ENDS: [f64; 2] = [1.0, 512.0];
    let us: Vec<f64> = samples.iter().map(|sample| sample.us).collect();
    let rows: Vec<f64> = samples.iter().map(|s| f64::from(s.shape.decode_rows())).collect();
    let sums: Vec<f64> = samples.iter().map(|s| s.shape.context_sum() as f64).collect();
    let mut line = rising(&ENDS, &rows, &vec![1.0; us.len()], 0.0);
    line.push(Column { values: sums.clone(), lower: least_us_per_token });
    let one = bounds::fit(&[line.clone()], &us, &[]);
    // Pieces take their time whatever their bytes; that no byte comes faster than at the peak is the other's business.
    let mut pieces = line.clone();
    pieces.iter_mut().for_each(|column| column.lower = 0.0);
    let mut starts = bounds::starts_by(&rows);
    starts.extend(bounds::starts_by(&sums));
    let two = bounds::fit(&[pieces, line], &us, &starts);
    let fit = if us.len() >= 12 && two.loss < one.loss * WORTH { two } else { one };
    let bound = |(c, name): (&Vec<f64>, &str)| DecodeBound {
        name: name.to_owned(),
        rows: ENDS.to_vec(),
        us: vec![c[0], c[0] + c[1]],
        us_per_token: vec![c[2]; 2],
        us_per_longest_token: vec![0.0; 2],
    };
    fit.coefficients.iter().zip(["pieces", "bandwidth"]).map(bound).collect()
}

/// The knots that samples lie between, the last one beyond them left out.
fn within(knots: &[f64], rows: &[f64]) -> Vec<f64> {
    let most = rows.iter().copied().fold(1.0, f64::max);
    knots.iter().copied().filter(|knot| *knot <= most).collect()
}

/// Columns of a coefficient that rises with the rows, times the sample's quantity: its value at the first knot, never below `lower`, and
/// what each further knot adds. It stays beyond the last.
fn rising(knots: &[f64], rows: &[f64], times: &[f64], lower: f64) -> Vec<Column> {
    (0..knots.len())
        .map(|k| {
            let share = |row: f64| match k {
                0 => 1.0,
                _ => ((row - knots[k - 1]) / (knots[k] - knots[k - 1])).clamp(0.0, 1.0),
            };
            let values = rows.iter().zip(times).map(|(&row, t)| share(row) * t).collect();
            Column { values, lower: if k == 0 { lower } else { 0.0 } }
        })
        .collect()
}

/// The values of such a coefficient at other knots.
fn summed(knots: &[f64], steps: &[f64], at: &[f64]) -> Vec<f64> {
    let columns = rising(knots, at, &vec![1.0; at.len()], 0.0);
    (0..at.len()).map(|i| columns.iter().zip(steps).map(|(column, step)| column.values[i] * step).sum()).collect()
}
