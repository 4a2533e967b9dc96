//! A matrix product on a GPU: bound by its bytes, or by whole waves of whole tiles, times what measurements correct.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{above_zero, increasing, interpolate, not_negative};

/// `us + max(bytes / bandwidth, waves × time of a wave)`, times a measured correction.
///
/// A tile is `rows_per_tile` rows by a part of the output; `tiles_across` of them lie side by side, and the chip computes
/// `tiles_per_wave` at once. A wave that is not full takes as long as a full one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Waves {
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
    pub rows_per_tile: u32,
    /// Tiles side by side across the output.
    pub tiles_across: u32,
    /// Tiles that the chip computes at once.
    pub tiles_per_wave: u32,
    /// Bandwidth reached, 10⁹ bytes a second.
    pub gigabytes_per_second: f64,
    /// Arithmetic reached in full waves, 10¹² operations a second.
    pub teraflops: f64,
    /// Rows at which the correction is given: strictly increasing; none if there is no correction.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rows: Vec<f64>,
    /// At each: measured over the form. Straight lines between them, the first and last value outside.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub factor: Vec<f64>,
}

impl Waves {
    /// What the form alone says of so many rows, microseconds.
    pub fn form_us(&self, rows: f64) -> f64 {
        // 10⁹ bytes a second are 10³ bytes a microsecond, 10¹² operations a second 10⁶.
        let memory = (self.bytes + self.bytes_per_row * rows) / (self.gigabytes_per_second * 1e3);
        let arithmetic = self.waves(rows) * self.flops_per_wave() / (self.teraflops * 1e6);
        self.us + memory.max(arithmetic)
    }

    /// Waves for so many rows.
    pub fn waves(&self, rows: f64) -> f64 {
        let tiles = (rows / f64::from(self.rows_per_tile.max(1))).ceil() * f64::from(self.tiles_across.max(1));
        (tiles / f64::from(self.tiles_per_wave.max(1))).ceil()
    }

    /// Operations of a full wave.
    pub fn flops_per_wave(&self) -> f64 {
        self.flops_per_row * f64::from(self.rows_per_tile.max(1)) / f64::from(self.tiles_across.max(1))
            * f64::from(self.tiles_per_wave.max(1))
    }

    /// The form and its correction, microseconds.
    pub(super) fn us(&self, rows: f64) -> f64 {
        let factor = match self.rows.as_slice() {
            [] => 1.0,
            known => interpolate(known, &self.factor, rows.clamp(known[0], known[known.len() - 1])),
        };
        self.form_us(rows) * factor
    }

    pub(super) fn check(&self) -> Result<(), String> {
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
        for (key, value) in [
            ("rows_per_tile", self.rows_per_tile),
            ("tiles_across", self.tiles_across),
            ("tiles_per_wave", self.tiles_per_wave),
        ] {
            if value == 0 {
                return Err(format!("{key} is 0: at least 1"));
            }
        }
        if self.rows.len() != self.factor.len() {
            return Err(format!("{} rows but {} factor: one for each", self.rows.len(), self.factor.len()));
        }
        if !self.rows.is_empty() {
            increasing("rows", &self.rows)?;
        }
        self.factor.iter().try_for_each(|&factor| above_zero("factor", factor))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Curve;
    use super::*;

    fn waves() -> Waves {
        Waves {
            us: 1.0,
            bytes: 4_000.0,
            bytes_per_row: 0.0,
            flops_per_row: 1e6,
            rows_per_tile: 4,
            tiles_across: 2,
            tiles_per_wave: 4,
            gigabytes_per_second: 1.0,
            teraflops: 2.0,
            rows: Vec::new(),
            factor: Vec::new(),
        }
    }

    #[test]
    fn a_wave_that_is_not_full_takes_as_long_as_a_full_one() {
        // Two tiles of rows make a wave, which computes 8 rows in 4 us: as long as the bytes take.
        for (rows, us) in [(1.0, 5.0), (8.0, 5.0), (9.0, 9.0), (16.0, 9.0), (17.0, 13.0)] {
            assert_eq!(Curve::Waves(waves()).us(rows), us, "{rows} rows");
        }
        assert_eq!(Curve::Waves(waves()).us(0.0), 0.0);
    }

    #[test]
    fn a_correction_is_straight_between_its_points_and_stays_outside_of_them() {
        let curve = Curve::Waves(Waves { rows: vec![8.0, 16.0], factor: vec![1.0, 2.0], ..waves() });
        for (rows, us) in [(1.0, 5.0), (8.0, 5.0), (12.0, 13.5), (16.0, 18.0), (24.0, 26.0)] {
            assert_eq!(curve.us(rows), us, "{rows} rows");
        }
    }

    #[test]
    fn damaged_figures_are_named() {
        for (curve, word) in [
            (Waves { tiles_across: 0, ..waves() }, "tiles_across"),
            (Waves { rows: vec![1.0], ..waves() }, "one for each"),
            (Waves { rows: vec![2.0, 1.0], factor: vec![1.0, 1.0], ..waves() }, "increase"),
            (Waves { rows: vec![1.0], factor: vec![0.0], ..waves() }, "above zero"),
        ] {
            let error = Curve::Waves(curve).check().unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }
}
