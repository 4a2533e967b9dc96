//! An operation by its number of rows: launch, bytes, waves of tiles; and a measured correction where the form is not enough.

use aril_sim::profile::curve::{Curve, Waves};

use super::bounds::{self, Column};
use super::physics::Product;

/// Rows and microseconds, one a measured shape.
pub(super) type Samples = [(f64, f64)];

/// The shapes of tiles that libraries use: rows and outputs; (1, 0) stands for none.
const TILES: [(u32, u32); 8] = [(1, 0), (16, 0), (64, 0), (64, 128), (64, 256), (128, 128), (128, 256), (256, 128)];

/// Errors below this are noise of the measurement: no correction is worth its place for them.
const NOISE: f64 = 0.006;

/// Fits an operation whose bytes and arithmetic are known.
///
/// The form is fitted for each shape of tiles, and the best kept. Where its errors are beyond noise, the ratio of measured and form at each number of
/// rows is kept as a correction, never below what the hardware's peaks allow.
pub(super) fn fit(samples: &Samples, product: &Product, multiprocessors: u32) -> Option<Curve> {
    let mut samples = samples.to_vec();
    samples.sort_by(|a, b| a.0.total_cmp(&b.0));
    if samples.len() < 4 {
        return None;
    }
    let form = TILES
        .iter()
        .filter_map(|&tile| form(&samples, product, tile, multiprocessors))
        .min_by(|a, b| a.1.total_cmp(&b.1))
        .map(|(waves, _)| waves)?;
    Some(Curve::Waves(corrected(form, &samples, product)))
}

/// The form with tiles of one shape, and its loss.
fn form(
    samples: &Samples,
    product: &Product,
    (rows_per_tile, outputs): (u32, u32),
    multiprocessors: u32,
) -> Option<(Waves, f64)> {
    let (across, per_wave) = match outputs {
        0 => (1, 1),
        outputs => ((product.outputs / f64::from(outputs)).ceil().max(1.0) as u32, multiprocessors),
    };
    let mut waves = Waves {
        us: 0.0,
        bytes: product.bytes,
        bytes_per_row: product.bytes_per_row,
        flops_per_row: product.flops_per_row,
        rows_per_tile,
        tiles_across: across,
        tiles_per_wave: per_wave,
        gigabytes_per_second: product.peak_gigabytes_per_second,
        teraflops: product.peak_teraflops,
        rows: Vec::new(),
        factor: Vec::new(),
    };
    let us: Vec<f64> = samples.iter().map(|sample| sample.1).collect();
    // Time at the peaks; a coefficient says how much longer it takes. Weights never come faster than at the peak; what a step before left in
    // the cache may.
    let least = if product.bytes > 0.0 { 1.0 } else { 1e-3 };
    let memory: Vec<f64> = samples.iter().map(|(rows, _)| product.memory_us(*rows)).collect();
    let wave = waves.flops_per_wave() / (product.peak_teraflops * 1e6);
    let arithmetic: Vec<f64> = samples.iter().map(|(rows, _)| waves.waves(*rows) * wave).collect();
    let mut best: Option<(f64, [f64; 3])> = None;
    for edge in (0..samples.len()).step_by(3).chain([samples.len()]) {
        // Up to the edge the bytes bound it, beyond the arithmetic: a first guess.
        let mut bound_by_bytes: Vec<bool> =
            (0..samples.len()).map(|i| i < edge || product.flops_per_row == 0.0).collect();
        for _ in 0..8 {
            let masked = |values: &[f64], wanted: bool| -> Vec<f64> {
                values.iter().zip(&bound_by_bytes).map(|(value, by)| if *by == wanted { *value } else { 0.0 }).collect()
            };
            let columns = [
                Column::new(vec![1.0; us.len()]),
                Column { values: masked(&memory, true), lower: least },
                Column {
                    values: masked(&arithmetic, false),
                    lower: if product.flops_per_row > 0.0 { 1.0 } else { 0.0 },
                },
            ];
            let x = bounds::robust(&columns, &us);
            let says = |i: usize| x[0] + (x[1] * memory[i]).max(x[2] * arithmetic[i]);
            let loss: f64 = (0..us.len()).map(|i| (says(i) / us[i] - 1.0).abs().min(0.3)).sum();
            if best.is_none_or(|(least, _)| loss < least) {
                best = Some((loss, [x[0], x[1], x[2]]));
            }
            let next: Vec<bool> = (0..us.len()).map(|i| x[1] * memory[i] >= x[2] * arithmetic[i]).collect();
            if next == bound_by_bytes {
                break;
            }
            bound_by_bytes = next;
        }
    }
    let (_, [launch, bytes, flops]) = best?;
    waves.us = launch;
    waves.gigabytes_per_second /= bytes.max(1e-3);
    waves.teraflops /= flops.max(1.0);
    let loss: f64 = samples.iter().map(|(rows, us)| (waves.form_us(*rows) / us - 1.0).abs().min(0.3)).sum();
    loss.is_finite().then_some((waves, loss))
}

/// The form with a correction, where it needs one.
fn corrected(mut form: Waves, samples: &Samples, product: &Product) -> Waves {
    let mut errors: Vec<f64> = samples.iter().map(|(rows, us)| (us / form.form_us(*rows) - 1.0).abs()).collect();
    errors.sort_by(f64::total_cmp);
    if errors[errors.len() * 9 / 10] <= NOISE {
        return form;
    }
    for (rows, us) in samples {
        let floor = product.floor_us(*rows);
        form.rows.push(*rows);
        form.factor.push(us.max(floor) / form.form_us(*rows));
    }
    // Between knots the form could dip below the floor only where the factor is below one and the peak is near: it never is there, by `lower`.
    form
}

#[cfg(test)]
mod tests {
    use super::*;

    fn product() -> Product {
        Product {
            bytes: 4e8,
            bytes_per_row: 3e4,
            flops_per_row: 1e8,
            outputs: 12_288.0,
            peak_gigabytes_per_second: 4800.0,
            peak_teraflops: 990.0,
        }
    }

    fn truth() -> Waves {
        Waves {
            us: 2.0,
            bytes: 4e8,
            bytes_per_row: 3e4,
            flops_per_row: 1e8,
            rows_per_tile: 128,
            tiles_across: 48,
            tiles_per_wave: 132,
            gigabytes_per_second: 3900.0,
            teraflops: 640.0,
            rows: Vec::new(),
            factor: Vec::new(),
        }
    }

    fn samples(of: impl Fn(f64) -> f64) -> Vec<(f64, f64)> {
        let rows =
            [1, 2, 4, 8, 16, 32, 64, 96, 128, 129, 192, 256, 257, 384, 512, 768, 1024, 1536, 2048, 3000, 4096, 8192];
        rows.iter().map(|&rows| (f64::from(rows), of(f64::from(rows)))).collect()
    }

    #[test]
    fn waves_of_tiles_are_found_with_their_rates() {
        let truth = truth();
        let Some(Curve::Waves(found)) = fit(&samples(|rows| truth.form_us(rows)), &product(), 132) else { panic!() };
        assert_eq!((found.rows_per_tile, found.tiles_across, found.tiles_per_wave), (128, 48, 132));
        assert!((found.gigabytes_per_second / 3900.0 - 1.0).abs() < 0.01, "{found:?}");
        assert!((found.teraflops / 640.0 - 1.0).abs() < 0.01, "{found:?}");
        assert!((found.us - 2.0).abs() < 0.3 && found.rows.is_empty(), "{found:?}");
    }

    #[test]
    fn what_no_form_explains_is_corrected_at_what_was_measured() {
        let truth = truth();
        let wobble = |rows: f64| truth.form_us(rows) * (1.1 + 0.08 * (rows.log2() * 1.7).sin());
        let samples = samples(wobble);
        let curve = fit(&samples, &product(), 132).unwrap();
        for (rows, us) in &samples {
            assert!((curve.us(*rows) / us - 1.0).abs() < 1e-9, "{rows} rows");
        }
    }

    #[test]
    fn no_fit_is_faster_than_the_peaks() {
        let product = product();
        // Timers that lie: half of what the hardware needs.
        let samples = samples(|rows| product.floor_us(rows) * 0.5);
        let curve = fit(&samples, &product, 132).unwrap();
        for (rows, _) in &samples {
            assert!(curve.us(*rows) >= product.floor_us(*rows) * (1.0 - 1e-9), "{rows} rows");
        }
    }
}
