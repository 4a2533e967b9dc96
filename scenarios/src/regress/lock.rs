//! One writer at a time: two updates of the same folder would mix their baselines.

use std::fs::{File, TryLockError};
use std::path::Path;

use crate::error::ArilError;

/// Held as long as a folder's baselines may change; let go by the system even if the program dies.
pub(super) struct Lock(#[allow(dead_code, reason = "held, not read")] File);

impl Lock {
    /// Takes the lock of a folder.
    ///
    /// # Errors
    /// Somebody else has it, or the folder cannot be opened.
    pub(super) fn take(folder: &Path) -> Result<Lock, ArilError> {
        let file = open(folder)?;
        match file.try_lock() {
            Ok(()) => Ok(Lock(file)),
            Err(TryLockError::WouldBlock) => Err(ArilError::Input {
                path: folder.to_owned(),
                problem: "another `aril regress` is writing the baselines of this folder".to_owned(),
                help: "wait until it is done".to_owned(),
            }),
            Err(TryLockError::Error(error)) => Err(ArilError::io("lock", folder)(error)),
        }
    }
}

/// The folder itself: nothing is left lying in it.
#[cfg(unix)]
fn open(folder: &Path) -> Result<File, ArilError> {
    File::open(folder).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => super::folder::not_there(folder),
        _ => ArilError::io("open", folder)(error),
    })
}

/// Folders cannot be locked here: a file beside the baselines stands for it.
#[cfg(not(unix))]
fn open(folder: &Path) -> Result<File, ArilError> {
    let path = folder.join(".regress.lock");
    File::options().create(true).write(true).truncate(false).open(&path).map_err(ArilError::io("open", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_updates_at_once_are_refused_and_one_after_the_other_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let first = Lock::take(folder.path()).unwrap();
        let refused = Lock::take(folder.path()).err().unwrap().to_string();
        assert!(refused.contains("another `aril regress` is writing"), "{refused}");
        drop(first);
        assert!(Lock::take(folder.path()).is_ok());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
