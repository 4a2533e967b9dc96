//! Cubins on disk, so that a kernel is compiled once a machine and not once a process.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};

/// A folder of cubins, each named by the hash of everything that went into it.
///
/// Several processes may share one: an entry is written under a temporary name and renamed, so a reader sees all
/// of it or none, and two writers of one key write the same bytes. An entry carries a digest of its content;
/// a damaged one is treated as absent.
#[derive(Debug, Clone)]
pub struct Cache {
    folder: PathBuf,
}

/// The name of the entry for these inputs.
pub fn key(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    hex(&hash.finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

const DIGEST_BYTES: usize = 32;

impl Cache {
    /// A cache in this folder, which is created at the first write.
    pub fn new(folder: &Path) -> Self {
        Cache { folder: folder.to_owned() }
    }

    /// `$XDG_CACHE_HOME/aril/cubin`, or the same under `~/.cache`; `None` where neither variable is set.
    pub fn of_user() -> Option<Self> {
        let base = std::env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))?;
        Some(Cache { folder: base.join("aril").join("cubin") })
    }

    /// The entry of this key, if it is there and whole.
    pub fn read(&self, key: &str) -> Option<Vec<u8>> {
        let bytes = std::fs::read(self.folder.join(key)).ok()?;
        let (digest, image) = bytes.split_at_checked(DIGEST_BYTES)?;
        (Sha256::digest(image).as_slice() == digest).then(|| image.to_vec())
    }

    /// Stores an entry. A failure leaves the cache as it was; the cost is a later compilation.
    pub fn write(&self, key: &str, image: &[u8]) {
        static SEQUENCE: AtomicU64 = AtomicU64::new(0);
        let unique = SEQUENCE.fetch_add(1, Ordering::Relaxed);
        let temporary = self.folder.join(format!("{key}.{}.{unique}.new", std::process::id()));
        let content = [Sha256::digest(image).as_slice(), image].concat();
        let stored = std::fs::create_dir_all(&self.folder)
            .and_then(|()| std::fs::write(&temporary, content))
            .and_then(|()| std::fs::rename(&temporary, self.folder.join(key)));
        if stored.is_err() {
            let _ = std::fs::remove_file(&temporary);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_comes_back_whole_or_not_at_all() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let cache = Cache::new(&folder.path().join("cubin"));
        let name = key(&["source", "options"]);
        assert_eq!(cache.read(&name), None);
        cache.write(&name, b"machine code");
        assert_eq!(cache.read(&name).as_deref(), Some(b"machine code".as_slice()));
        let path = folder.path().join("cubin").join(&name);
        let mut bytes = std::fs::read(&path).expect("the entry");
        bytes.pop();
        std::fs::write(&path, bytes).expect("the folder is writable");
        assert_eq!(cache.read(&name), None);
    }

    #[test]
    fn moving_a_byte_between_parts_changes_the_key() {
        assert_ne!(key(&["ab", "c"]), key(&["a", "bc"]));
    }
}
