//! Writing a recording, point by point, so that a cut session loses one line at most.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::{Line, Recording, lines};
use crate::error::CalibrateError;

/// A file that is being written.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    file: File,
}

impl Writer {
    /// A new file.
    ///
    /// # Errors
    /// When there is one already, or it cannot be made.
    pub fn create(path: &Path) -> Result<Writer, CalibrateError> {
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(path)
            .map_err(|error| refused("create", path, &error))?;
        Ok(Writer { path: path.to_owned(), file })
    }

    /// A file to go on with, and what it holds; an unfinished last line is cut off.
    ///
    /// # Errors
    /// When it cannot be read or written, or any line but the last is damaged.
    pub fn resume(path: &Path) -> Result<(Writer, Recording), CalibrateError> {
        let text = lines::text(path)?;
        let origin = path.display().to_string();
        let kept = match text.rfind('\n') {
            Some(end) => &text[..=end],
            None => "",
        };
        // A session that was cut short is ended here, so that the next begins after it.
        let (recording, whole) = Recording::build(&origin, kept)?;
        if kept.len() < text.len() {
            fs::write(path, kept).map_err(|error| refused("write", path, &error))?;
        }
        let file = OpenOptions::new().append(true).open(path).map_err(|error| refused("open", path, &error))?;
        let mut writer = Writer { path: path.to_owned(), file };
        if !whole && !recording.sessions.is_empty() {
            let session = recording.sessions.len() - 1;
            let mine = |block: &usize| recording.blocks[*block].0 == session;
            let points = recording.points.iter().filter(|(block, _)| mine(block)).count() as u32;
            let seconds = recording.blocks.last().map_or(0.0, |(_, block)| block.at_s);
            let missing = recording.sessions[session].planned.saturating_sub(recording.answered().len() as u32);
            writer.write(&Line::End(super::End { points, missing, seconds }))?;
        }
        Ok((writer, recording))
    }

    /// Appends a line and hands it to the system.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn write(&mut self, line: &Line) -> Result<(), CalibrateError> {
        let text = lines::write(line);
        self.file
            .write_all(text.as_bytes())
            .and_then(|()| self.file.flush())
            .map_err(|error| refused("write", &self.path, &error))
    }
}

fn refused(action: &'static str, path: &Path, error: &std::io::Error) -> CalibrateError {
    CalibrateError::File { action, path: path.to_owned(), problem: error.to_string() }
}
