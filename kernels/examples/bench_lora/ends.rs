//! The two 16-bit parts of v on a GPU, from one end of their range to the other and beyond: within the documented bound, or no
//! number. Every row tile, in both lengths of the code, on both code paths, with either exchange.

use aril_kernels::lora::plan::{Exchange, Tuning};
use aril_kernels::lora::variant::RowTile;
use aril_kernels::reference::lora::split_error_max;
use aril_kernels::{Element, Error};

use crate::bench::{Bench, GUARD};
use crate::inputs::Inputs;
use crate::points::Point;

/// scale·v of one segment each.
const SCALED: [f32; 16] = [
    65_504.0, 65_505.71, 65_535.99, 80_000.3, 98_303.9, 131_008.0, 131_023.98, 131_024.0, 131_040.0, 2e5, 1e9, 1.0,
    0.117, 1e-3, 1e-5, 3e-8,
];
const SCALED_BF16: [f32; 8] = [65_504.0, 131_072.0, 1e9, 1e30, 1.0, 1e-5, 1e-20, 1e-30];

/// How many launches there were, and what was wrong with some.
pub(crate) fn ends(bench: &mut Bench) -> Result<(usize, Vec<String>), Error> {
    let (mut launches, mut wrong) = (0, Vec::new());
    for element in Element::ALL {
        for row_tile in RowTile::ALL {
            let (point, inputs, scales) = case(element, if row_tile.is_staged() { 19 } else { 3 });
            let groups = point.segments.iter().map(|&(rows, _)| rows.div_ceil(row_tile.rows())).sum::<u32>();
            for (ampere, exchange) in [(false, Exchange::Cluster), (false, Exchange::Global), (true, Exchange::Global)]
            {
                for short in [false, true].into_iter().filter(|short| !(short & row_tile.is_staged())) {
                    let tuning = Tuning {
                        row_tile: Some(row_tile),
                        exchange: Some(exchange),
                        blocks: Some(2 * groups),
                        short,
                        ..Tuning::default()
                    };
                    let results = bench.results(&point, std::slice::from_ref(&inputs), &scales, tuning, ampere)?;
                    for (result, how) in results.iter().zip(["pair", "graph", "shrink and expand"]) {
                        launches += 1;
                        if let Err(why) = judge(&point, &inputs, &scales, result) {
                            wrong.push(format!("{element:?} {tuning:?} sm_80 {ampere} {how}: {why}"));
                        }
                    }
                }
            }
        }
    }
    Ok((launches, wrong))
}

/// A segment for each value: every x of a row is zero but one, so that v is a line of A. One rank has the value.
fn case(element: Element, rows: u32) -> (Point, Inputs, Vec<f32>) {
    let values: &[f32] = if element == Element::F16 { &SCALED } else { &SCALED_BF16 };
    let ranks = [16, 8, 40, 24, 1, 64, 7, 100].into_iter().cycle();
    let segments: Vec<_> = values.iter().zip(ranks).map(|(_, rank)| (rows, rank)).collect();
    let batch = "ends of the range of v".to_owned();
    let (inputs, outputs) = (1000, 520);
    let point = Point { group: "other", element, inputs, outputs, also: Vec::new(), batch, segments };
    let (least, most) = if element == Element::F16 { (-13, 9) } else { (-100, 100) };
    let weights = point.segments.iter().zip(values).enumerate().map(|(index, (&(_, rank), value))| {
        let its = index as u32 % rank;
        let a = (0..inputs * rank)
            .map(|n| element.encode(if n % rank == its { 2.0 } else { 1.0 - (n % 3) as f32 / 4096.0 }));
        let size = 2_f32.powi((-value.log2().floor() as i32).clamp(least, most));
        let b = (0..rank * outputs).map(|n| {
            let sign = if n * 7 % 5 < 2 { -1.0 } else { 1.0 };
            element.encode(sign * size * (1.0 + (n % 11) as f32 / 16.0))
        });
        (a.collect(), b.collect())
    });
    let rows = point.rows();
    let x = (0..rows * inputs).map(|n| element.encode(if n % inputs == hot(n / inputs, inputs) { 1.0 } else { 0.0 }));
    let inputs = Inputs { weights: weights.collect(), x: x.collect(), y: vec![0; (rows * outputs) as usize] };
    let scales = values.iter().map(|value| value / 2.0).collect();
    (point, inputs, scales)
}

/// The input of a row that is not zero.
fn hot(row: u32, inputs: u32) -> u32 {
    row * 37 % inputs
}

fn judge(point: &Point, inputs: &Inputs, scales: &[f32], y: &[u16]) -> Result<(), String> {
    let (element, outputs) = (point.element, point.outputs as usize);
    let (rounding, least) = match element {
        Element::F16 => (2_f64.powi(-11), 2_f64.powi(-25)),
        Element::Bf16 => (2_f64.powi(-8), 2_f64.powi(-134)),
    };
    let decode = |bits: u16| f64::from(element.decode(bits));
    let mut row = 0;
    for ((&(rows, rank), (a, b)), &scale) in point.segments.iter().zip(&inputs.weights).zip(scales) {
        for row in row..row + rows {
            let line = &a[(hot(row, point.inputs) * rank) as usize..][..rank as usize];
            for column in 0..outputs {
                let (mut expected, mut error_max) = (0.0, 0.0);
                for (r, &v) in line.iter().enumerate() {
                    let (scaled, b) = (f64::from(scale) * decode(v), decode(b[r * outputs + column]));
                    expected += scaled * b;
                    // Sums of so many in fp32, too.
                    error_max += b.abs() * (split_error_max(element, scaled) + scaled.abs() * 2_f64.powi(-20));
                }
                error_max += rounding * (expected.abs() + error_max) + least;
                let got = decode(y[row as usize * outputs + column]);
                let right = if error_max.is_finite() { (got - expected).abs() <= error_max } else { !got.is_finite() };
                if !right {
                    let scaled = scale * 2.0;
                    return Err(format!("rank {rank}, scale·v {scaled}: {got}, not {expected} to within {error_max}"));
                }
            }
        }
        row += rows;
    }
    if y[row as usize * outputs..].iter().all(|&bits| bits == GUARD) { Ok(()) } else { Err("the guard".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_where_there_can_be_none_and_a_digit_too_few_are_wrong() {
        let (point, inputs, scales) = case(Element::F16, 1);
        let outputs = point.outputs as usize;
        let mut y = vec![GUARD; point.rows() as usize * outputs + 8];
        for (row, ((&(_, rank), (a, b)), &scale)) in point.segments.iter().zip(&inputs.weights).zip(&scales).enumerate()
        {
            let line = &a[(hot(row as u32, point.inputs) * rank) as usize..][..rank as usize];
            for column in 0..outputs {
                let product =
                    |(r, &v): (usize, &u16)| Element::F16.decode(v) * Element::F16.decode(b[r * outputs + column]);
                let sum: f32 = line.iter().enumerate().map(product).sum();
                let is_number = scale * 2.0 < 131_024.0;
                y[row * outputs + column] = Element::F16.encode(if is_number { sum * scale } else { f32::NAN });
            }
        }
        judge(&point, &inputs, &scales, &y).expect("right");
        for (row, wrong) in [(8, 1.0), (7, 4000.0), (0, f32::INFINITY)] {
            let mut other = y.clone();
            other[row * outputs + 3] = Element::F16.encode(wrong);
            assert!(judge(&point, &inputs, &scales, &other).is_err(), "row {row}");
        }
    }
}
