//! Our figures beside published ones.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::statistics::Interval;

/// A table of published figures with ours beside them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Expectation {
    /// What is compared.
    pub title: String,
    /// Who published it.
    pub source: String,
    /// The unit of both.
    pub unit: String,
    /// Names of the labels of each row.
    pub axes: Vec<String>,
    /// The cells.
    pub rows: Vec<ExpectedCell>,
}

/// One published figure.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ExpectedCell {
    /// Which cell: a value for each axis.
    pub labels: Vec<String>,
    /// What was published.
    pub published: f64,
    /// What our runs give; none if there was no such run.
    pub ours: Option<f64>,
    /// Over seeds.
    pub interval: Option<Interval>,
    /// Did a parameter get its value from this cell? Then it validates nothing.
    pub fitted: bool,
    /// Why the cell is not judged, if so.
    pub exempt: Option<String>,
    /// Largest relative deviation that counts as agreement, such as 0.1.
    pub tolerance: f64,
    /// Folder of the run that gave our figure, relative to the report.
    pub run: Option<String>,
}

/// What a cell says about us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Judgement {
    /// Within tolerance.
    Holds,
    /// Outside.
    Misses,
    /// Parameters were fitted to it.
    Fitted,
    /// Not judged, for a stated reason.
    Exempt,
    /// No run, no figure.
    Missing,
}

impl ExpectedCell {
    /// Ours over the published figure, less one.
    pub fn deviation(&self) -> Option<f64> {
        self.ours.filter(|_| self.published != 0.0).map(|ours| ours / self.published - 1.0)
    }

    /// What the cell says about us.
    pub fn judgement(&self) -> Judgement {
        match (self.fitted, &self.exempt, self.deviation()) {
            (_, _, None) => Judgement::Missing,
            (true, _, _) => Judgement::Fitted,
            (false, Some(_), _) => Judgement::Exempt,
            (false, None, Some(deviation)) if deviation.abs() <= self.tolerance => Judgement::Holds,
            (false, None, Some(_)) => Judgement::Misses,
        }
    }
}

impl Expectation {
    /// Cells that hold, and cells that were judged: fitted, exempt and missing ones are neither.
    pub fn score(&self) -> (usize, usize) {
        let holds = self.rows.iter().filter(|row| row.judgement() == Judgement::Holds).count();
        let misses = self.rows.iter().filter(|row| row.judgement() == Judgement::Misses).count();
        (holds, holds + misses)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fitted_and_exempt_cells_never_count_as_validation() {
        let cell = |ours: f64, fitted, exempt: Option<&str>| ExpectedCell {
            published: 100.0,
            ours: Some(ours),
            fitted,
            exempt: exempt.map(str::to_owned),
            tolerance: 0.1,
            ..ExpectedCell::default()
        };
        let rows = vec![
            cell(100.0, true, None),
            cell(105.0, false, None),
            cell(89.0, false, None),
            cell(300.0, false, Some("contradicts itself")),
            ExpectedCell { published: 5.0, tolerance: 0.1, ..ExpectedCell::default() },
        ];
        let table = Expectation { rows, ..Expectation::default() };
        assert_eq!(table.score(), (1, 2));
    }
}
