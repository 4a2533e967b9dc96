//! An operation by its number of rows: launch, bytes, waves of tiles; and a measured correction where the form is not enough.

use aril_sim::profile::curve::{Curve, Waves};

use super::bounds::{self, Column};
use super::physics::Product;

/// What was measured at one number of rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct RowSample {
    pub(super) rows: f64,
    /// The median of the answers, microseconds.
    pub(super) us: f64,
    /// A tenth of the answers are below, a tenth above.
    pub(super) low: f64,
    pub(super) high: f64,
}

/// One a number of rows.
pub(super) type Samples = [RowSample];

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
    samples.sort_by(|a, b| a.rows.total_cmp(&b.rows));
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
    let us: Vec<f64> = samples.iter().map(|sample| sample.us).collect();
    // Time at the peaks; a coefficient says how much longer it takes. Weights never come faster than at the peak; what a step before left in
    // the cache may.
    let least = if product.bytes > 0.0 { 1.0 } else { 1e-3 };
    let memory: Vec<f64> = samples.iter().map(|s| product.memory_us(s.rows)).collect();
    let wave = waves.flops_per_wave() / (product.peak_teraflops * 1e6);
    let arithmetic: Vec<f64> = samples.iter().map(|s| waves.waves(s.rows) * wave).collect();
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
    let loss: f64 = samples.iter().map(|s| (waves.form_us(s.rows) / s.us - 1.0).abs().min(0.3)).sum();
    loss.is_finite().then_some((waves, loss))
}

/// The form with a correction, where it needs one.
fn corrected(mut form: Waves, samples: &Samples, product: &Product) -> Waves {
    let ratios: Vec<f64> = samples.iter().map(|s| s.us / form.form_us(s.rows)).collect();
    let mut errors: Vec<f64> = ratios.iter().map(|ratio| (ratio - 1.0).abs()).collect();
    errors.sort_by(f64::total_cmp);
    if errors[errors.len() * 9 / 10] <= NOISE {
        return form;
    }
    let smooth = smoothed(&ratios, samples);
    let mut us: Vec<f64> = samples.iter().zip(&smooth).map(|(s, ratio)| ratio * form.form_us(s.rows)).collect();
    rising(&mut us, samples);
    for (sample, us) in samples.iter().zip(us) {
        form.rows.push(sample.rows);
        form.factor.push(us.max(product.floor_us(sample.rows)) / form.form_us(sample.rows));
    }
    // Between knots the form could dip below the floor only where the factor is below one and the peak is near: it never is there, by `lower`.
    form
}

/// How much a library's next kernel may differ from the one before, share of its time.
const BETWEEN: f64 = 0.03;
/// No median is better known than this.
const KNOWN: f64 = 0.002;

/// How well a sample is known: its scatter as a standard deviation, share of it. Answers of one question are of one moment of a card at its
/// power limit: more of them do not make it better.
fn deviation(sample: &RowSample) -> f64 {
    ((sample.high - sample.low) / sample.us.max(1e-9) / 2.56).max(KNOWN)
}

/// The likeliest ratios if neighbours differ by [`BETWEEN`] and each is known to its scatter: what is known well stays as it is.
fn smoothed(ratios: &[f64], samples: &Samples) -> Vec<f64> {
    let n = ratios.len();
    let weight: Vec<f64> = samples.iter().map(|s| (BETWEEN / deviation(s)).powi(2)).collect();
    // A tridiagonal system, by elimination (Thomas).
    let links = |i: usize| f64::from(u8::from(i > 0) + u8::from(i + 1 < n));
    let (mut upper, mut right) = (vec![0.0; n], vec![0.0; n]);
    for i in 0..n {
        let (above, known) = if i > 0 { (upper[i - 1], right[i - 1]) } else { (0.0, 0.0) };
        let diagonal = weight[i] + links(i) + above;
        upper[i] = if i + 1 < n { -1.0 / diagonal } else { 0.0 };
        right[i] = (weight[i] * ratios[i] + known) / diagonal;
    }
    for i in (0..n.saturating_sub(1)).rev() {
        right[i] -= upper[i] * right[i + 1];
    }
    right
}

/// Makes times rise with the rows, but where the measurements say beyond doubt that they fall: pools of neighbours that violate the order
/// become their mean (Ayer and others 1955).
fn rising(us: &mut [f64], samples: &Samples) {
    let mut begin = 0;
    for end in 1..=us.len() {
        if end < us.len() && !really_falls(&samples[end - 1], &samples[end]) {
            continue;
        }
        let mut pools: Vec<(f64, f64, usize)> = Vec::new();
        for i in begin..end {
            let weight = deviation(&samples[i]).powi(-2);
            pools.push((us[i], weight, 1));
            while let [.., (a, wa, na), (b, wb, nb)] = pools[..]
                && a > b
            {
                pools.truncate(pools.len() - 2);
                pools.push(((a * wa + b * wb) / (wa + wb), wa + wb, na + nb));
            }
        }
        let values = pools.into_iter().flat_map(|(value, _, count)| std::iter::repeat_n(value, count));
        us[begin..end].iter_mut().zip(values).for_each(|(us, value)| *us = value);
        begin = end;
    }
}

/// Is the larger one quicker beyond its scatter, and by enough to matter?
fn really_falls(smaller: &RowSample, larger: &RowSample) -> bool {
    larger.high < smaller.low && larger.us < smaller.us * 0.99
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

    fn samples(of: impl Fn(f64) -> f64) -> Vec<RowSample> {
        let rows =
            [1, 2, 4, 8, 16, 32, 64, 96, 128, 129, 192, 256, 257, 384, 512, 768, 1024, 1536, 2048, 3000, 4096, 8192];
        rows.iter().map(|&rows| exact(f64::from(rows), of(f64::from(rows)))).collect()
    }

    fn exact(rows: f64, us: f64) -> RowSample {
        RowSample { rows, us, low: us, high: us }
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
        let wobble = |rows: f64| truth.form_us(rows) * (1.1 + 0.02 * (rows.log2() * 1.7).sin());
        let samples = samples(wobble);
        let curve = fit(&samples, &product(), 132).unwrap();
        for sample in &samples {
            assert!((curve.us(sample.rows) / sample.us - 1.0).abs() < 0.01, "{} rows", sample.rows);
        }
    }

    #[test]
    fn times_rise_with_the_rows_unless_the_measurements_say_otherwise_beyond_doubt() {
        let scattered = |rows: f64, us: f64, spread: f64| RowSample {
            rows,
            us,
            low: us * (1.0 - spread),
            high: us * (1.0 + spread),
        };
        // 96 rows seem quicker than 64, within their scatter; 256 really are quicker than 192.
        let known = [
            (32.0, 100.0, 0.001),
            (64.0, 112.0, 0.1),
            (96.0, 110.0, 0.1),
            (192.0, 130.0, 0.001),
            (256.0, 120.0, 0.001),
        ];
        let samples: Vec<RowSample> = known.map(|(rows, us, spread)| scattered(rows, us, spread)).to_vec();
        let mut us: Vec<f64> = samples.iter().map(|s| s.us).collect();
        rising(&mut us, &samples);
        assert_eq!((us[0], us[3], us[4]), (100.0, 130.0, 120.0));
        assert!(us[1] == us[2] && (us[1] - 111.0).abs() < 0.1, "{us:?}");
    }

    #[test]
    fn what_is_known_well_stays_and_what_scatters_follows_its_neighbours() {
        let at = |rows: f64, us: f64, spread: f64| RowSample { rows, us, low: us - spread, high: us + spread };
        let samples = [at(1.0, 1.0, 0.0), at(2.0, 1.2, 0.4), at(3.0, 1.0, 0.0), at(4.0, 1.1, 0.0)];
        let smooth = smoothed(&[1.0, 1.2, 1.0, 1.1], &samples);
        assert!((smooth[0] - 1.0).abs() < 0.003 && (smooth[3] - 1.1).abs() < 0.003, "{smooth:?}");
        assert!((smooth[1] - 1.0).abs() < 0.02, "{smooth:?}");
    }

    #[test]
    fn no_fit_is_faster_than_the_peaks() {
        let product = product();
        // Timers that lie: half of what the hardware needs.
        let samples = samples(|rows| product.floor_us(rows) * 0.5);
        let curve = fit(&samples, &product, 132).unwrap();
        for RowSample { rows, .. } in &samples {
            assert!(curve.us(*rows) >= product.floor_us(*rows) * (1.0 - 1e-9), "{rows} rows");
        }
    }
}
