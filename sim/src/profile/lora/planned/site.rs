//! A launch's projections, and what its price needs of them.

use super::{PlannedSite, TILES};

/// The most projections of a launch.
pub(super) const PROJECTIONS: usize = 4;

/// [`PlannedSite`] made ready.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Site {
    runs: [Run; PROJECTIONS],
    run_count: usize,
    pub(super) projections: u32,
    /// Of inputs and of all outputs.
    pub(super) widest: u32,
    pub(super) narrowest: u32,
    /// Tiles of 32 columns that a projection has least of, where it is widest.
    pub(super) tiles_least: u32,
    /// Is every output wider than the inputs?
    pub(super) widens: bool,
    /// Bytes of a pair of granules and of a row, of all projections.
    pub(super) bytes_pair: f64,
    pub(super) bytes_row: f64,
    /// Columns of weights, and of rows read and written: inputs by each projection, or by all of them once.
    pub(super) columns: f64,
    pub(super) moved: f64,
    pub(super) moved_once: f64,
    /// Columns of rows, those that are read and written counted once.
    pub(super) kept: f64,
    /// [`PlannedSite::scale`] by kinds of tiles, [`PlannedSite::us_waiting`], [`PlannedSite::waiting`] and [`PlannedSite::us_hidden`].
    pub(super) scales: [f64; TILES],
    pub(super) us_waiting: f64,
    pub(super) waiting: f64,
    pub(super) us_hidden: f64,
    /// Is every output at most half as wide as the inputs?
    pub(super) narrows: bool,
    /// Tiles of the inputs, 32 columns each.
    pub(super) input_tiles: u32,
    /// Tiles of the most outputs that a projection has.
    pub(super) output_tiles: u32,
    /// Is any output wider than the inputs?
    pub(super) widens_some: bool,
}

/// Projections of one width that follow each other.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Run {
    pub(super) times: u32,
    /// Inputs and outputs of each, in 64 times 64 columns.
    pub(super) pieces_in: f64,
    pub(super) pieces_out: f64,
    /// More output than input.
    pub(super) widens: bool,
    /// Members of a group, at most.
    pub(super) members_most: u32,
    /// Bytes of a pair of granules, and of a row.
    pub(super) bytes_pair: f64,
    pub(super) bytes_row: f64,
}

impl Run {
    fn of(inputs: u32, same: &[u32]) -> Run {
        let outputs = same[0];
        let tiles = inputs.div_ceil(32) + outputs.div_ceil(32);
        Run {
            times: same.len() as u32,
            pieces_in: f64::from(inputs.div_ceil(32)) / 64.0,
            pieces_out: f64::from(outputs.div_ceil(32)) / 64.0,
            widens: outputs > inputs,
            members_most: outputs.min(inputs).div_ceil(32).min(32),
            bytes_pair: f64::from(tiles) * 1024.0,
            bytes_row: 2.0 * (f64::from(inputs) + 2.0 * f64::from(outputs)),
        }
    }

    /// Bytes of a group with so many pairs of granules and rows.
    pub(super) fn bytes(&self, pairs: u32, rows: f64) -> f64 {
        self.bytes_pair * f64::from(pairs) + rows * self.bytes_row
    }
}

impl Site {
    /// In a step of so many rows.
    pub(super) fn of(site: &PlannedSite, rows: u32) -> Site {
        let beside = site.beside(rows);
        let (mut runs, mut run_count) = ([Run::default(); PROJECTIONS], 0);
        for same in site.outputs.chunk_by(|a, b| a == b) {
            runs[run_count] = Run::of(site.inputs, same);
            run_count += 1;
        }
        let outputs = || site.outputs.iter().copied();
        let all = |of: fn(&Run) -> f64| runs[..run_count].iter().map(|run| f64::from(run.times) * of(run)).sum();
        Site {
            scales: std::array::from_fn(|tile| beside.scale * site.scales.get(tile).unwrap_or(&1.0)),
            us_waiting: beside.us_waiting,
            waiting: beside.waiting,
            us_hidden: beside.us_hidden,
            narrows: outputs().all(|outputs| site.inputs >= 2 * outputs),
            input_tiles: site.inputs.div_ceil(32),
            output_tiles: outputs().max().unwrap_or(0).div_ceil(32),
            widens_some: outputs().any(|outputs| outputs > site.inputs),
            runs,
            run_count,
            projections: site.outputs.len() as u32,
            widest: outputs().fold(site.inputs, u32::max),
            narrowest: outputs().fold(site.inputs, u32::min),
            tiles_least: outputs().map(|outputs| site.inputs.max(outputs).div_ceil(32)).min().unwrap_or(0),
            widens: outputs().all(|outputs| outputs > site.inputs),
            bytes_pair: all(|run| run.bytes_pair),
            bytes_row: all(|run| run.bytes_row),
            columns: outputs().map(|outputs| f64::from(site.inputs + outputs)).sum(),
            kept: outputs().map(f64::from).sum::<f64>() + f64::from(site.inputs),
            moved_once: 2.0 * outputs().map(f64::from).sum::<f64>() + f64::from(site.inputs),
            moved: outputs().map(|outputs| f64::from(site.inputs + 2 * outputs)).sum(),
        }
    }

    /// Columns of all outputs.
    pub(super) fn outputs(&self) -> f64 {
        (self.moved_once - self.kept).max(0.0)
    }

    pub(super) fn runs(&self) -> &[Run] {
        &self.runs[..self.run_count]
    }
}
