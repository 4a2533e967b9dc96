//! A directory that is there as a whole or not at all.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::ReportError;

/// The file that marks a directory as one of ours, so that replacing never removes anything else.
pub const MARKER: &str = "summary.json";

/// What to do with a directory that is already there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Leave it alone and say so.
    Refuse,
    /// Put the new one in its place, once the new one is complete.
    Replace,
}

/// Where the results of a scenario go: written next to the target under a temporary name, renamed when complete.
///
/// Dropped without [`RunDir::commit`], it leaves nothing behind.
#[derive(Debug)]
pub struct RunDir {
    target: PathBuf,
    temporary: TempDir,
    existing: Existing,
    /// After the temporary folder, which lies in the last of them.
    made: MadeFolders,
}

/// Folders that were made on the way, the outermost first: those that are empty in the end go again.
#[derive(Debug)]
struct MadeFolders(Vec<PathBuf>);

impl Drop for MadeFolders {
    fn drop(&mut self) {
        for folder in self.0.iter().rev() {
            // Refused of folders that are in use: that is the point.
            let _ = fs::remove_dir(folder);
        }
    }
}

impl RunDir {
    /// Prepares to write `target`; missing parents are created.
    ///
    /// # Errors
    /// [`ReportError::Exists`] for a target that is there and may not be replaced, [`ReportError::NotARunDirectory`] for one that
    /// may be but is not ours; anything the file system refuses.
    pub fn create(target: &Path, existing: Existing) -> Result<RunDir, ReportError> {
        check(target, existing)?;
        let parent = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let name = target.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let missing = parent.ancestors().take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists());
        let mut made = MadeFolders(missing.map(Path::to_owned).collect());
        made.0.reverse();
        fs::create_dir_all(parent).map_err(ReportError::io("create the folder", parent))?;
        let temporary = tempfile::Builder::new()
            .prefix(&format!(".{name}."))
            .suffix(".partial")
            .tempdir_in(parent)
            .map_err(ReportError::io("create a temporary folder in", parent))?;
        Ok(RunDir { target: target.to_owned(), temporary, existing, made })
    }

    /// Where to write meanwhile.
    pub fn path(&self) -> &Path {
        self.temporary.path()
    }

    /// The folders that were made for it to lie in, the outermost first.
    pub fn made(&self) -> &[PathBuf] {
        &self.made.0
    }

    /// Where it will be.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Gives everything its final name.
    ///
    /// # Errors
    /// As [`RunDir::create`], should somebody else have been faster; what was there before is then still there.
    pub fn commit(self) -> Result<PathBuf, ReportError> {
        check(&self.target, self.existing)?;
        let replaced = self.target.exists().then(|| self.temporary.path().with_extension("replaced"));
        if let Some(aside) = &replaced {
            fs::rename(&self.target, aside).map_err(ReportError::io("move aside", &self.target))?;
        }
        if let Err(error) = fs::rename(self.temporary.path(), &self.target) {
            if let Some(aside) = &replaced {
                // Put back what was there; if even that fails, the first error tells where to look.
                let _ = fs::rename(aside, &self.target);
            }
            return Err(ReportError::io("give the finished run directory its name", &self.target)(error));
        }
        // The temporary folder is now the target: nothing is left to clean up.
        let _ = self.temporary.keep();
        if let Some(aside) = replaced {
            fs::remove_dir_all(&aside).map_err(ReportError::io("remove the replaced", &aside))?;
        }
        Ok(self.target)
    }
}

fn check(target: &Path, existing: Existing) -> Result<(), ReportError> {
    if target.symlink_metadata().is_err() {
        return Ok(());
    }
    if existing == Existing::Refuse {
        return Err(ReportError::Exists(target.to_owned()));
    }
    let empty = fs::read_dir(target).is_ok_and(|mut entries| entries.next().is_none());
    if empty || target.join(MARKER).is_file() {
        return Ok(());
    }
    Err(ReportError::NotARunDirectory { path: target.to_owned(), marker: MARKER })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(path: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn nothing_is_left_of_a_run_directory_that_was_not_committed() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunDir::create(&folder.path().join("out"), Existing::Refuse).unwrap();
        fs::write(run.path().join("half"), "half").unwrap();
        drop(run);
        assert!(entries(folder.path()).is_empty());
    }

    #[test]
    fn folders_on_the_way_go_with_it_unless_they_are_in_use() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("runs/of/today/out");
        drop(RunDir::create(&target, Existing::Refuse).unwrap());
        assert!(entries(folder.path()).is_empty());
        let run = RunDir::create(&target, Existing::Refuse).unwrap();
        fs::write(folder.path().join("runs/other"), "1").unwrap();
        drop(run);
        assert_eq!(entries(&folder.path().join("runs")), ["other"]);
        RunDir::create(&target, Existing::Refuse).unwrap().commit().unwrap();
        assert!(target.is_dir());
    }

    #[test]
    fn an_existing_directory_is_refused_and_stays_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("out");
        fs::create_dir(&target).unwrap();
        fs::write(target.join("precious"), "1").unwrap();
        assert!(matches!(RunDir::create(&target, Existing::Refuse), Err(ReportError::Exists(_))));
        assert!(matches!(RunDir::create(&target, Existing::Replace), Err(ReportError::NotARunDirectory { .. })));
        assert_eq!(entries(&target), ["precious"]);
    }

    #[test]
    fn force_replaces_a_whole_run_directory_by_a_whole_one() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("out");
        for content in ["old", "new"] {
            let run = RunDir::create(&target, Existing::Replace).unwrap();
            fs::write(run.path().join(MARKER), content).unwrap();
            fs::write(run.path().join(content), content).unwrap();
            run.commit().unwrap();
        }
        assert_eq!(entries(&target), ["new", MARKER]);
        assert_eq!(entries(folder.path()), ["out"]);
    }

    #[test]
    fn a_directory_that_appears_meanwhile_is_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("out");
        let run = RunDir::create(&target, Existing::Refuse).unwrap();
        fs::create_dir(&target).unwrap();
        assert!(matches!(run.commit(), Err(ReportError::Exists(_))));
        assert_eq!(entries(folder.path()), ["out"]);
    }
}
