//! The two 16-bit parts that the expand multiplies v in: as exact as documented from one end of their range to the other,
//! and beyond it no number at all.

use aril_kernels::Element;
use aril_kernels::lora::plan::{Plan, Tuning};
use aril_kernels::lora::variant::RowTile;
use aril_kernels::reference::lora::split_error_max;

use super::{ARCHITECTURES, Batch, CHIP, EXPAND, LATE_PAIR, Launch, PAIR, SHRINK, floats_of, part, plan_of, runner};
use crate::shim::Runner;

/// scale·v of one segment each: both ends of what fp16 has, and what lies beyond.
const SCALED: [f32; 16] = [
    65_504.0, 65_505.71, 65_535.99, 80_000.3, 98_303.9, 131_008.0, 131_023.98, 131_024.0, 131_040.0, 2e5, 1e9, 1.0,
    0.117, 1e-3, 1e-5, 3e-8,
];
const SCALED_BF16: [f32; 8] = [65_504.0, 131_072.0, 1e9, 1e30, 1.0, 1e-5, 1e-20, 1e-30];

/// A segment for each value of scale·v: every x of a row is zero but one, so that v is exact. Ranks of every kind of code.
pub(super) fn extremes(element: Element, rows: u32) -> Batch {
    let values: &[f32] = if element == Element::F16 { &SCALED } else { &SCALED_BF16 };
    let ranks = [16, 8, 40, 24, 1, 64, 7, 100];
    let parts: Vec<_> = values.iter().zip(ranks.into_iter().cycle()).map(|(_, rank)| part(rows, rank)).collect();
    let mut batch = Batch::new(element, 200, &[136, 40], &parts, 3);
    let one = element.encode(1.0);
    let inputs = batch.site.inputs() as usize;
    for (row, x) in batch.x.chunks_exact_mut(inputs).enumerate() {
        x.fill(0);
        x[row * 37 % inputs] = one;
    }
    batch.y.iter_mut().flatten().for_each(|y| *y = 0);
    batch.segments.iter_mut().zip(values).for_each(|(segment, value)| segment.3 = value / 2.0);
    let (least, most) = if element == Element::F16 { (-13, 9) } else { (-100, 100) };
    let (mut index, projections) = (0, batch.site.places().len());
    batch.change_weights(|rank, a, b| {
        // One rank has the value, the others half of it or a little less; B is such that y is a number.
        let its = index % rank as usize;
        a.iter_mut().enumerate().for_each(|(n, a)| {
            let value = if n % rank as usize == its { 2.0 } else { 1.0 - (n % 3) as f32 / 4096.0 };
            *a = element.encode(value);
        });
        let value = values[index / projections];
        index += 1;
        let size = 2_f32.powi((-value.log2().floor() as i32).clamp(least, most));
        b.iter_mut().enumerate().for_each(|(n, b)| {
            let sign = if n * 7 % 5 < 2 { -1.0 } else { 1.0 };
            *b = element.encode(sign * size * (1.0 + (n % 11) as f32 / 16.0));
        });
    });
    batch
}

/// Whether y is within the documented bound where there is one, and no number where there is none.
pub(super) fn is_bounded(batch: &Batch, y: &[Vec<u16>]) -> Result<(), String> {
    let element = batch.site.element();
    let (rounding, least) = match element {
        Element::F16 => (2_f64.powi(-11), 2_f64.powi(-25)),
        Element::Bf16 => (2_f64.powi(-8), 2_f64.powi(-134)),
    };
    for (projection, y) in y.iter().enumerate() {
        let (outputs, y) = (batch.site.places()[projection].shape.outputs as usize, batch.decode(y));
        let expected = batch.expected_y(projection);
        let v = batch.expected_v(projection, 256, 0.0);
        for &(first, rows, adapter, scale) in &batch.segments {
            let (rank, b) =
                (batch.adapters[adapter].rank as usize, batch.decode(&batch.adapters[adapter].weights[projection].1));
            for (row, column) in
                (first..first + rows).flat_map(|row| (0..outputs).map(move |column| (row as usize, column)))
            {
                let (mut error_max, mut size) = (0.0, 0.0);
                for r in 0..rank {
                    let (scaled, b) = (f64::from(scale) * v[row * 256 + r], f64::from(b[r * outputs + column]).abs());
                    error_max += b * split_error_max(element, scaled);
                    size += b * scaled.abs();
                }
                let (got, expected) = (f64::from(y[row * outputs + column]), expected[row * outputs + column]);
                // Sums of so many in fp32.
                error_max += size * 2_f64.powi(-21);
                error_max += rounding * (expected.abs() + error_max) + least;
                let right = if error_max.is_finite() { (got - expected).abs() <= error_max } else { !got.is_finite() };
                if !right {
                    let scaled = f64::from(scale) * 2.0;
                    return Err(format!(
                        "rank {rank}, scale·v up to {scaled}, y[{row}][{column}] is {got}, not {expected} to within {error_max}"
                    ));
                }
            }
        }
    }
    Ok(())
}

/// All ways to y of one plan.
pub(super) fn holds(
    runner: &Runner,
    batch: &Batch,
    plan: &Plan,
    architecture: &'static str,
    planted: usize,
    judge: impl Fn(&Batch, &[Vec<u16>]) -> Result<(), String>,
) -> Result<(), String> {
    let launch = Launch { planted, ..Launch::new(batch, plan.clone(), 5, architecture) };
    for kernel in [PAIR, LATE_PAIR] {
        judge(batch, &launch.y_of(&launch.run(runner, kernel, &[])?)).map_err(|wrong| format!("pair: {wrong}"))?;
    }
    let v: Vec<Vec<f32>> = launch.run(runner, SHRINK, &[])?.iter().map(|bytes| floats_of(bytes)).collect();
    super::is_close_v(batch, &v, launch.v_stride()).map_err(|wrong| format!("shrink: {wrong}"))?;
    judge(batch, &launch.y_of(&launch.run(runner, EXPAND, &v)?)).map_err(|wrong| format!("expand: {wrong}"))
}

#[test]
fn y_is_as_exact_as_documented_or_no_number() {
    let Some(runner) = runner() else { return };
    for element in Element::ALL {
        for row_tile in RowTile::ALL {
            let batch = extremes(element, if row_tile.is_staged() { 9 } else { 2 });
            let plan =
                plan_of(&batch, CHIP, Tuning { row_tile: Some(row_tile), blocks: Some(60), ..Tuning::default() });
            for architecture in ARCHITECTURES.into_iter().take(if row_tile.is_staged() { 2 } else { 1 }) {
                if let Err(wrong) = holds(runner, &batch, &plan, architecture, 0, is_bounded) {
                    panic!("{element:?} {row_tile:?} {architecture}: {wrong}");
                }
            }
        }
    }
}
