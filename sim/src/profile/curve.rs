//! A cost as a function of one number of rows.

mod waves;

pub use waves::Waves;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What does an operation on so many rows cost, microseconds? No rows cost nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Curve {
    /// `us + us_per_row × rows`.
    Affine {
        /// Once.
        #[serde(default)]
        us: f64,
        /// Each row.
        #[serde(default)]
        us_per_row: f64,
    },
    /// Straight lines between measured points; below the first point its value, beyond the last the slope of the last two.
    Table {
        /// Strictly increasing, at least one.
        rows: Vec<f64>,
        /// The cost at each.
        us: Vec<f64>,
    },
    /// The larger of the time for its bytes and the time for its arithmetic, after a fixed start.
    Roofline(Roofline),
    /// The larger of the time for its bytes and the time for whole waves of whole tiles, with a measured correction.
    Waves(Waves),
}

/// The larger of the time for the bytes and the time for the arithmetic, after a fixed start.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Roofline {
    /// Start of the kernels.
    #[serde(default)]
    pub us: f64,
    /// Bytes moved whatever the rows: the weights.
    pub bytes: f64,
    /// Bytes moved for each row: what goes in and out.
    #[serde(default)]
    pub bytes_per_row: f64,
    /// Operations for each row.
    pub flops_per_row: f64,
    /// Rows are computed in whole tiles of so many.
    #[serde(default = "one_row")]
    pub rows_per_tile: u32,
    /// Bandwidth reached, 10⁹ bytes a second.
    pub gigabytes_per_second: f64,
    /// Arithmetic reached, 10¹² operations a second.
    pub teraflops: f64,
}

fn one_row() -> u32 {
    1
}

impl Curve {
    /// A constant for any number of rows above zero.
    pub const fn constant(us: f64) -> Curve {
        Curve::Affine { us, us_per_row: 0.0 }
    }

    /// Proportional to the rows.
    pub const fn per_row(us_per_row: f64) -> Curve {
        Curve::Affine { us: 0.0, us_per_row }
    }

    /// The cost of so many rows, microseconds.
    pub fn us(&self, rows: f64) -> f64 {
        if rows <= 0.0 {
            return 0.0;
        }
        match self {
            Curve::Affine { us, us_per_row } => us + us_per_row * rows,
            Curve::Table { rows: xs, us } => interpolate(xs, us, rows),
            Curve::Roofline(roofline) => roofline.us(rows),
            Curve::Waves(waves) => waves.us(rows),
        }
    }

    /// What is wrong with its figures?
    pub(crate) fn check(&self) -> Result<(), String> {
        match self {
            Curve::Affine { us, us_per_row } => {
                finite("us", *us)?;
                finite("us_per_row", *us_per_row)
            }
            Curve::Table { rows, us } => {
                increasing("rows", rows)?;
                if us.len() != rows.len() {
                    return Err(format!("{} rows but {} us: one for each", rows.len(), us.len()));
                }
                us.iter().try_for_each(|&us| not_negative("us", us))
            }
            Curve::Roofline(roofline) => roofline.check(),
            Curve::Waves(waves) => waves.check(),
        }
    }
}

impl Roofline {
    fn us(&self, rows: f64) -> f64 {
        let tile = f64::from(self.rows_per_tile.max(1));
        let computed = (rows / tile).ceil() * tile;
        // 10⁹ bytes a second are 10³ bytes a microsecond, 10¹² operations a second 10⁶.
        let memory = (self.bytes + self.bytes_per_row * rows) / (self.gigabytes_per_second * 1e3);
        let arithmetic = self.flops_per_row * computed / (self.teraflops * 1e6);
        self.us + memory.max(arithmetic)
    }

    fn check(&self) -> Result<(), String> {
        for (key, value) in [
            ("us", self.us),
            ("bytes", self.bytes),
            ("bytes_per_row", self.bytes_per_row),
            ("flops_per_row", self.flops_per_row),
        ] {
            not_negative(key, value)?;
        }
        above_zero("gigabytes_per_second", self.gigabytes_per_second)?;
        above_zero("teraflops", self.teraflops)?;
        if self.rows_per_tile == 0 { Err("rows_per_tile is 0: at least 1".to_owned()) } else { Ok(()) }
    }
}

/// Straight lines between the points; below the first its value, beyond the last the slope of the last two.
pub(crate) fn interpolate(xs: &[f64], ys: &[f64], x: f64) -> f64 {
    let last = xs.len().min(ys.len()).saturating_sub(1);
    if last == 0 || x <= xs[0] {
        return ys.first().copied().unwrap_or(0.0);
    }
    let right = xs[..=last].partition_point(|&point| point < x).clamp(1, last);
    let left = right - 1;
    let slope = (ys[right] - ys[left]) / (xs[right] - xs[left]);
    (ys[left] + slope * (x - xs[left])).max(0.0)
}

/// Straight lines between points that may be below zero; the last slope goes on on both sides.
pub(crate) fn interpolate_signed(xs: &[f64], ys: &[f64], x: f64) -> f64 {
    let last = xs.len().min(ys.len()).saturating_sub(1);
    if last == 0 {
        return ys.first().copied().unwrap_or(0.0);
    }
    let right = xs[..=last].partition_point(|&point| point < x).clamp(1, last);
    let left = right - 1;
    ys[left] + (ys[right] - ys[left]) / (xs[right] - xs[left]) * (x - xs[left])
}

pub(crate) fn finite(key: &str, value: f64) -> Result<(), String> {
    if value.is_finite() { Ok(()) } else { Err(format!("{key} is {value}: a finite number is needed")) }
}

pub(crate) fn not_negative(key: &str, value: f64) -> Result<(), String> {
    if value.is_finite() && value >= 0.0 { Ok(()) } else { Err(format!("{key} is {value}: a cost is zero or above")) }
}

pub(crate) fn above_zero(key: &str, value: f64) -> Result<(), String> {
    if value.is_finite() && value > 0.0 { Ok(()) } else { Err(format!("{key} is {value}: it must be above zero")) }
}

pub(crate) fn increasing(key: &str, values: &[f64]) -> Result<(), String> {
    if values.is_empty() {
        return Err(format!("{key} is empty: at least one is needed"));
    }
    values.iter().try_for_each(|&value| not_negative(key, value))?;
    match values.windows(2).find(|pair| pair[0] >= pair[1]) {
        Some(pair) => Err(format!("{key} must increase, but {} is followed by {}", pair[0], pair[1])),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_goes_through_its_points_is_flat_before_them_and_keeps_its_slope_after() {
        let table = Curve::Table { rows: vec![2.0, 4.0, 8.0], us: vec![10.0, 12.0, 20.0] };
        for (rows, us) in
            [(0.0, 0.0), (1.0, 10.0), (2.0, 10.0), (3.0, 11.0), (4.0, 12.0), (6.0, 16.0), (8.0, 20.0), (16.0, 36.0)]
        {
            assert_eq!(table.us(rows), us, "{rows} rows");
        }
    }

    #[test]
    fn a_roofline_is_bound_by_bytes_first_and_by_arithmetic_later_in_whole_tiles() {
        let roofline = Curve::Roofline(Roofline {
            us: 1.0,
            bytes: 2_000.0,
            bytes_per_row: 0.0,
            flops_per_row: 1e6,
            rows_per_tile: 4,
            gigabytes_per_second: 1.0,
            teraflops: 2.0,
        });
        assert_eq!(roofline.us(1.0), 3.0);
        assert_eq!(roofline.us(4.0), 3.0);
        assert_eq!(roofline.us(5.0), 5.0);
        assert_eq!(roofline.us(8.0), 5.0);
    }

    #[test]
    fn damaged_figures_are_named() {
        for (curve, word) in [
            (Curve::Table { rows: vec![], us: vec![] }, "empty"),
            (Curve::Table { rows: vec![1.0, 1.0], us: vec![1.0, 1.0] }, "increase"),
            (Curve::Table { rows: vec![1.0, 2.0], us: vec![1.0] }, "one for each"),
            (Curve::Table { rows: vec![1.0], us: vec![-1.0] }, "zero or above"),
            (Curve::Affine { us: f64::NAN, us_per_row: 0.0 }, "finite"),
        ] {
            let error = curve.check().unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }
}
