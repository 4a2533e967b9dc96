//! Ctrl-C, a closed terminal and a file that grows too large leave nothing behind.

#[cfg(unix)]
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// What is removed when the program is interrupted: a folder, and those that were made for it, the outermost first.
static UNFINISHED: Mutex<Option<(PathBuf, Vec<PathBuf>)>> = Mutex::new(None);

/// As long as it lives, an interrupt removes the folder.
pub(crate) struct Guard(());

/// Sees to it that an interrupt removes this unfinished folder, with those `made` for it, and ends the program with 128 and the
/// number of the signal.
pub(crate) fn guard(folder: &Path, made: &[PathBuf]) -> Guard {
    remember(Some((folder.to_owned(), made.to_owned())));
    listen();
    Guard(())
}

impl Drop for Guard {
    fn drop(&mut self) {
        remember(None);
    }
}

fn remember(folder: Option<(PathBuf, Vec<PathBuf>)>) {
    *UNFINISHED.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = folder;
}

#[cfg(unix)]
fn listen() {
    use std::sync::Once;

    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    use signal_hook::iterator::Signals;

    static LISTENING: Once = Once::new();
    LISTENING.call_once(|| {
        // Without the listener an interrupt ends the program as usual and leaves a folder named *.partial.
        let mut ends = vec![SIGINT, SIGTERM];
        if !is_ignored(SIGHUP) {
            ends.push(SIGHUP);
        }
        let Ok(mut signals) = Signals::new(ends) else { return };
        std::thread::spawn(move || {
            if let Some(signal) = signals.forever().next() {
                // Held until the end: nobody may give the folder its name meanwhile.
                let unfinished = UNFINISHED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                if let Some((folder, made)) = unfinished.as_ref() {
                    // Runs still write into it: what appears between listing and removing is removed by the next try.
                    for _ in 0..10 {
                        if std::fs::remove_dir_all(folder).is_ok() || !folder.exists() {
                            break;
                        }
                    }
                    for folder in made.iter().rev() {
                        let _ = std::fs::remove_dir(folder);
                    }
                    // Nobody may be there to read it: a terminal that was closed is one reason to end.
                    let _ = writeln!(std::io::stderr(), "\ninterrupted: nothing was left behind");
                }
                std::process::exit(128 + signal);
            }
        });
    });
}

#[cfg(not(unix))]
fn listen() {}

/// Was the program started so that this signal does not end it, as `nohup` does? Where the system does not say, no.
#[cfg(unix)]
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal - 1) & 1 == 1
}

/// Lets a write beyond the limit on the size of files (`ulimit -f`) fail as other writes do, instead of ending the program.
pub(crate) fn survive_large_files() {
    #[cfg(unix)]
    {
        use std::sync::Arc;
        use std::sync::atomic::AtomicBool;

        // Without it the program ends in the middle, as it always did.
        let _ = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::new(AtomicBool::new(false)));
    }
}
