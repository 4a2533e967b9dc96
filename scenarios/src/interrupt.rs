//! Ctrl-C leaves nothing behind.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// What is removed when the program is interrupted.
static UNFINISHED: Mutex<Option<PathBuf>> = Mutex::new(None);

/// As long as it lives, an interrupt removes the folder.
pub(crate) struct Guard(());

/// Sees to it that an interrupt removes this unfinished folder and ends the program with 130.
pub(crate) fn guard(folder: &Path) -> Guard {
    remember(Some(folder.to_owned()));
    listen();
    Guard(())
}

impl Drop for Guard {
    fn drop(&mut self) {
        remember(None);
    }
}

fn remember(folder: Option<PathBuf>) {
    *UNFINISHED.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = folder;
}

#[cfg(unix)]
fn listen() {
    use std::sync::Once;

    use signal_hook::consts::{SIGINT, SIGTERM};
    use signal_hook::iterator::Signals;

    static LISTENING: Once = Once::new();
    LISTENING.call_once(|| {
        // Without the listener an interrupt ends the program as usual and leaves a folder named *.partial.
        let Ok(mut signals) = Signals::new([SIGINT, SIGTERM]) else { return };
        std::thread::spawn(move || {
            if let Some(signal) = signals.forever().next() {
                // Held until the end: nobody may give the folder its name meanwhile.
                let unfinished = UNFINISHED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                if let Some(folder) = unfinished.as_ref() {
                    // Runs still write into it: what appears between listing and removing is removed by the next try.
                    for _ in 0..10 {
                        if std::fs::remove_dir_all(folder).is_ok() || !folder.exists() {
                            break;
                        }
                    }
                    eprintln!("\ninterrupted: nothing was left behind");
                }
                std::process::exit(128 + signal);
            }
        });
    });
}

#[cfg(not(unix))]
fn listen() {}
