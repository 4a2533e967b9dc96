//! A launch's projections, and what its price needs of them.

use super::PlannedSite;

/// The most projections of a launch.
pub(super) const PROJECTIONS: usize = 4;

/// [`PlannedSite`] made ready.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Site {
    pub(super) inputs: u32,
    /// Widths of outputs, each with how many projections of it follow each other.
    runs: [(u32, u32); PROJECTIONS],
    run_count: usize,
    pub(super) projections: u32,
    /// Of inputs and of all outputs.
    pub(super) widest: u32,
    pub(super) narrowest: u32,
    /// Is every output wider than the inputs?
    pub(super) widens: bool,
    /// Inputs and outputs of all projections, and of the widest: in 64 times 64 columns.
    pub(super) pieces: f64,
    pub(super) pieces_most: f64,
    /// Columns of weights, and of rows read and written.
    pub(super) columns: f64,
    pub(super) moved: f64,
}

impl Site {
    pub(super) fn of(site: &PlannedSite) -> Site {
        let (mut runs, mut run_count) = ([(0, 0); PROJECTIONS], 0);
        for same in site.outputs.chunk_by(|a, b| a == b) {
            runs[run_count] = (same[0], same.len() as u32);
            run_count += 1;
        }
        let outputs = || site.outputs.iter().copied();
        let pieces = || outputs().map(|outputs| pieces(site.inputs, outputs));
        Site {
            inputs: site.inputs,
            runs,
            run_count,
            projections: site.outputs.len() as u32,
            widest: outputs().fold(site.inputs, u32::max),
            narrowest: outputs().fold(site.inputs, u32::min),
            widens: outputs().all(|outputs| outputs > site.inputs),
            pieces: pieces().sum(),
            pieces_most: pieces().fold(0.0, f64::max),
            columns: outputs().map(|outputs| f64::from(site.inputs + outputs)).sum(),
            moved: outputs().map(|outputs| f64::from(site.inputs + 2 * outputs)).sum(),
        }
    }

    /// Widths of outputs, each with how many projections of it follow each other.
    pub(super) fn runs(&self) -> &[(u32, u32)] {
        &self.runs[..self.run_count]
    }
}

/// Inputs and outputs of a projection, in 64 times 64 columns.
pub(super) fn pieces(inputs: u32, outputs: u32) -> f64 {
    f64::from(inputs.div_ceil(32) + outputs.div_ceil(32)) / 64.0
}
