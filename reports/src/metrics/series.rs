//! Quantities over time, ready to be drawn.

use std::ops::Range;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::recorder::{Occupancy, series};
use crate::time_bins::TimeBins;

/// Quantities over the whole run, in equal bins.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Series {
    /// Width of a bin, seconds. The last bin may reach beyond the end of the run.
    pub bin_s: f64,
    /// Requests offered per second.
    pub offered_per_s: Vec<f64>,
    /// Requests finished per second.
    pub finished_per_s: Vec<f64>,
    /// Output tokens emitted per second.
    pub output_tokens_per_s: Vec<f64>,
    /// Requests in the system, mean.
    pub in_system: Vec<f64>,
    /// Requests that wait for their first step, mean.
    pub waiting: Vec<f64>,
    /// GPUs in a step, mean.
    pub busy_gpus: Vec<f64>,
    /// GPUs held, mean.
    pub held_gpus: Vec<f64>,
}

/// Batch size by replica, or by a few replicas side by side, and time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Heat {
    /// Width of a bin, seconds.
    pub bin_s: f64,
    /// Largest batch that the engine allows.
    pub rows_max: u32,
    /// How many replicas there are.
    pub replicas: usize,
    /// So many of them, by id, share a row; the last row may have fewer.
    pub replicas_per_row: usize,
    /// Mean rows in the batch of a replica, by row and bin; bins beyond the last are idle.
    pub rows: Vec<Vec<f32>>,
}

impl Series {
    pub(crate) fn of(bins: TimeBins) -> Series {
        let (width, amounts) = bins.finish();
        let len = amounts.iter().map(Vec::len).max().unwrap_or(0);
        let seconds = width as f64 / 1e12;
        let scaled = |index: usize, scale: f64| {
            let values: &Vec<u128> = &amounts[index];
            (0..len).map(|bin| values.get(bin).map_or(0.0, |value| *value as f64 / scale)).collect::<Vec<f64>>()
        };
        Series {
            bin_s: seconds,
            offered_per_s: scaled(series::OFFERED, seconds),
            finished_per_s: scaled(series::FINISHED, seconds),
            output_tokens_per_s: scaled(series::OUTPUT_TOKENS, seconds),
            in_system: scaled(series::IN_SYSTEM, width as f64),
            waiting: scaled(series::WAITING, width as f64),
            busy_gpus: scaled(series::BUSY_GPUS, width as f64),
            held_gpus: scaled(series::HELD_GPUS, width as f64),
        }
    }
}

impl Heat {
    pub(crate) fn of(occupancy: Occupancy, rows_max: u32) -> Heat {
        let (replicas, replicas_per_row) = (occupancy.replicas.len(), occupancy.replicas_per_series);
        let (width, amounts) = occupancy.rows.finish();
        let mut heat = Heat {
            bin_s: width as f64 / 1e12,
            rows_max,
            replicas,
            replicas_per_row,
            rows: Vec::with_capacity(amounts.len()),
        };
        for (row, bins) in amounts.iter().enumerate() {
            let whole = width as f64 * heat.members(row).len() as f64;
            heat.rows.push(bins.iter().map(|bin| (*bin as f64 / whole) as f32).collect());
        }
        heat
    }

    /// The replicas of a row.
    pub(crate) fn members(&self, row: usize) -> Range<usize> {
        let first = row * self.replicas_per_row;
        first..(first + self.replicas_per_row).min(self.replicas)
    }
}
