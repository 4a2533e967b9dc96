//! The files of a regression.

use std::fs;
use std::path::Path;

use super::chart::{Chart, charts};
use super::junit::junit;
use super::markdown::markdown;
use super::page::{file, page};
use super::regression::Regression;
use crate::ReportError;
use crate::run_dir::MARKER;

/// Writes `report.html`, `summary.md`, `junit.xml`, `summary.json` and the charts under `plots/` into `dir`.
///
/// # Errors
/// Anything the file system refuses; a figure that cannot be drawn.
pub fn write_regression(regression: &Regression, dir: &Path) -> Result<(), ReportError> {
    let speed = regression.speed.as_ref().map(|speed| speed.rules).unwrap_or_default();
    let drawn: Vec<Vec<Chart>> = regression
        .scenarios
        .iter()
        .map(|scenario| charts(scenario.name(), &scenario.history, &regression.rules.thresholds, &speed))
        .collect::<Result<_, _>>()?;
    let plots = dir.join("plots");
    fs::create_dir_all(&plots).map_err(ReportError::io("create the folder", &plots))?;
    for (scenario, charts) in regression.scenarios.iter().zip(&drawn) {
        for chart in charts {
            save(&dir.join(file(scenario, chart)), &chart.file)?;
        }
    }
    save(&dir.join("report.html"), &page(regression, &drawn))?;
    save(&dir.join("summary.md"), &markdown(regression))?;
    save(&dir.join("junit.xml"), &junit(regression))?;
    save(&dir.join(MARKER), &(serde_json::to_string_pretty(regression)? + "\n"))
}

fn save(path: &Path, text: &str) -> Result<(), ReportError> {
    fs::write(path, text).map_err(ReportError::io("write", path))
}
