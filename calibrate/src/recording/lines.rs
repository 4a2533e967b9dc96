//! One line: JSON, and a checksum that finds what a disk or an editor did to it.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use flate2::read::MultiGzDecoder;

use super::Line;
use crate::error::CalibrateError;
use crate::machine::Identity;

/// Before the sixteen digits that end a line.
const MARK: &str = ",\"sum\":\"";

/// The text of a file, unpacked where its name ends in `.gz`.
pub(super) fn text(path: &Path) -> Result<String, CalibrateError> {
    let packed = path.extension().is_some_and(|extension| extension == "gz");
    let text = if packed {
        File::open(path).and_then(|file| io::read_to_string(MultiGzDecoder::new(file)))
    } else {
        fs::read_to_string(path)
    };
    text.map_err(|error| CalibrateError::File { action: "read", path: path.to_owned(), problem: error.to_string() })
}

/// The line as it is written, its end included.
pub(super) fn write(line: &Line) -> String {
    let json = serde_json::to_string(line).expect("a line has only numbers, lists and names");
    let body = json.strip_suffix('}').expect("a line is a JSON object");
    format!("{body}{MARK}{:016x}\"}}\n", checksum(body))
}

/// Reads line `number`, from 1.
pub(super) fn read(origin: &str, number: usize, line: &str) -> Result<Line, CalibrateError> {
    let Some((body, sum)) = line.rsplit_once(MARK) else {
        return Err(damaged(origin, number, "it has no checksum"));
    };
    if sum.strip_suffix("\"}") != Some(&format!("{:016x}", checksum(body))) {
        return Err(damaged(origin, number, "its checksum is another than what it says"));
    }
    if let Some(format) = other_format(body) {
        return Err(CalibrateError::RecordingVersion { origin: origin.to_owned(), found: format });
    }
    serde_json::from_str(&format!("{body}}}")).map_err(|error| damaged(origin, number, &error.to_string()))
}

/// The version of a session that may have other keys than ours.
fn other_format(body: &str) -> Option<u32> {
    let value: serde_json::Value = serde_json::from_str(&format!("{body}}}")).ok()?;
    let format = u32::try_from(value.get("format")?.as_u64()?).ok()?;
    (value.get("line")? == "session" && !super::is_read(format)).then_some(format)
}

pub(super) fn damaged(origin: &str, line: usize, problem: &str) -> CalibrateError {
    CalibrateError::Recording { origin: origin.to_owned(), line, problem: format!("the line is damaged: {problem}") }
}

pub(super) fn cut(origin: &str, lines: usize) -> CalibrateError {
    let problem = "the file ends in the middle of a session: go on with `--resume`".to_owned();
    CalibrateError::Recording { origin: origin.to_owned(), line: lines, problem }
}

/// Refuses measurements of another machine, and says in what it differs.
pub(super) fn same_machine(
    origin: &str,
    line: usize,
    ours: &Identity,
    theirs: &Identity,
) -> Result<(), CalibrateError> {
    let differs = [
        ("GPU", &ours.gpu, &theirs.gpu),
        ("driver", &ours.driver, &theirs.driver),
        ("CUDA", &ours.cuda, &theirs.cuda),
        ("kernel sources", &ours.kernel_source_hash, &theirs.kernel_source_hash),
        ("model", &ours.model.name, &theirs.model.name),
    ]
    .into_iter()
    .find(|(_, a, b)| a != b)
    .map(|(what, a, b)| format!("{what}: {a} and {b}"));
    if ours == theirs {
        return Ok(());
    }
    let what = differs.unwrap_or_else(|| "what it can hold".to_owned());
    let problem = format!("two machines share a file, and differ in their {what}: measure into another file");
    Err(CalibrateError::Recording { origin: origin.to_owned(), line, problem })
}

/// FNV-1a.
fn checksum(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}
