//! What to call what was run.

use std::process::Command;

use super::folder::Folder;

/// The commit of the checkout that the folder lies in; with a `+` if the checkout holds more, `unknown` if there is none.
pub(super) fn name(folder: &Folder) -> String {
    let git = |arguments: &[&str]| -> Option<String> {
        let output = Command::new("git").arg("-C").arg(&folder.path).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else { return "unknown".to_owned() };
    let is_clean = git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|changes| changes.is_empty());
    if is_clean { commit } else { commit + "+" }
}
