//! The files of a report.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::compare::Comparison;
use crate::input::ReportInput;
use crate::summary::Summary;
use crate::{ReportError, page};

/// What was written.
#[derive(Clone, Debug)]
pub struct Written {
    /// The page.
    pub report: PathBuf,
    /// The numbers.
    pub summary: PathBuf,
    /// Policies against each other, as both say it.
    pub comparison: Comparison,
}

/// Writes `report.html` and `summary.json` into `dir`, next to the folders of the runs ([`crate::RunInfo::folder`]).
///
/// # Errors
/// [`ReportError::Empty`] without runs; anything the file system refuses.
pub fn write(input: &ReportInput, dir: &Path) -> Result<Written, ReportError> {
    if input.runs.is_empty() {
        return Err(ReportError::Empty("a report needs at least one run".to_owned()));
    }
    let summary = Summary::of(input);
    let html = page::report(input, &summary)?;
    let report = dir.join("report.html");
    save(&report, |out| out.write_all(html.as_bytes()))?;
    let path = dir.join("summary.json");
    let mut json = serde_json::to_vec(&summary)?;
    json.push(b'\n');
    save(&path, |out| out.write_all(&json))?;
    Ok(Written { report, summary: path, comparison: summary.comparison })
}

fn save(path: &Path, what: impl FnOnce(&mut BufWriter<File>) -> std::io::Result<()>) -> Result<(), ReportError> {
    let file = File::create(path).map_err(ReportError::io("create", path))?;
    let mut out = BufWriter::new(file);
    what(&mut out).and_then(|()| out.flush()).map_err(ReportError::io("write", path))
}
