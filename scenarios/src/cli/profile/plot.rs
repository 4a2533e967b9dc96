//! `aril profile plot`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use aril_calibrate::page::{Content, Kind};
use aril_calibrate::recording::Recording;
use aril_reports::calibration::{
    self, CalibrationChart, CalibrationContent, CalibrationSeries, CalibrationTable, SeriesKind,
};

use crate::cli::output;
use crate::error::ArilError;
use crate::manifest::build;

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct PlotArguments {
    /// A file, or a shipped profile by its full name.
    profile: String,
    /// Measurements to draw beside it: the files that `aril calibrate` wrote.
    #[arg(long, value_name = "FILE")]
    measurements: Vec<PathBuf>,
    /// The page to write [default: PROFILE.html].
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Replace a file that is already there.
    #[arg(long)]
    force: bool,
}

pub(super) fn plot(arguments: &PlotArguments) -> Result<ExitCode, ArilError> {
    let profile = super::load(&arguments.profile)?;
    let out = arguments.out.clone().unwrap_or_else(|| PathBuf::from(format!("{}.html", profile.name)));
    if out.exists() && !arguments.force {
        return Err(ArilError::Input {
            path: out,
            problem: "this file is already there".to_owned(),
            help: "choose another name with --out, or replace it with --force".to_owned(),
        });
    }
    let mut recordings = Vec::new();
    for file in &arguments.measurements {
        recordings.push(Recording::read(file)?);
    }
    let content = aril_calibrate::page::content(&profile, &recordings)?;
    let page = calibration::page(&drawn(content), &format!("aril {} ({})", build().version, build().commit))?;
    write(&out, &page)?;
    output::print(&format!("{}\n", out.display()))
}

fn write(path: &Path, page: &str) -> Result<(), ArilError> {
    fs::write(path, page).map_err(ArilError::io("write", path))
}

/// What is known becomes what is drawn.
fn drawn(content: Content) -> CalibrationContent {
    let kind = |kind: Kind| match kind {
        Kind::Measured => SeriesKind::Measured,
        Kind::Modelled => SeriesKind::Modelled,
        Kind::Published => SeriesKind::Published,
        Kind::OtherModel => SeriesKind::OtherModel,
        Kind::Peak => SeriesKind::Peak,
    };
    let chart = |chart: aril_calibrate::page::Chart| CalibrationChart {
        title: chart.title,
        note: chart.note,
        x: chart.x,
        y: chart.y,
        log: chart.log,
        series: chart
            .series
            .into_iter()
            .map(|series| CalibrationSeries { name: series.name, kind: kind(series.kind), points: series.points })
            .collect(),
    };
    let table = |table: aril_calibrate::page::Table| CalibrationTable {
        title: table.title,
        note: table.note,
        headings: table.headings,
        rows: table.rows,
    };
    CalibrationContent {
        title: content.title,
        verdict: content.verdict,
        facts: content.facts,
        charts: content.charts.into_iter().map(chart).collect(),
        tables: content.tables.into_iter().map(table).collect(),
    }
}
