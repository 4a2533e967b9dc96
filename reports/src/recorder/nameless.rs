//! What memory does not hold, in a file that has no name and is gone with the run.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

pub(super) struct Nameless {
    pub(super) folder: PathBuf,
    /// None: nothing was written.
    pub(super) file: Option<File>,
}

impl Nameless {
    /// In a folder, once something is written.
    pub(super) fn in_folder(folder: &Path) -> Nameless {
        Nameless { folder: folder.to_owned(), file: None }
    }

    /// The file to write to.
    pub(super) fn open(&mut self) -> io::Result<&mut File> {
        match &mut self.file {
            Some(file) => Ok(file),
            none => Ok(none.insert(tempfile::tempfile_in(&self.folder)?)),
        }
    }
}
