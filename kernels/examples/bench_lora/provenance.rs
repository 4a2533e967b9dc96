//! Where and when a measurement was made.

use std::process::Command;

/// Driver, clocks, temperature and power of the GPU as it is found.
pub(crate) fn clocks() -> String {
    let query = "--query-gpu=driver_version,clocks.sm,clocks.mem,clocks.max.sm,temperature.gpu,power.draw";
    Command::new("nvidia-smi").args([query, "--format=csv,noheader"]).output().map_or_else(
        |error| format!("nvidia-smi: {error}"),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}

/// Now, in UTC.
pub(crate) fn date() -> String {
    Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%SZ"]).output().map_or_else(
        |error| format!("date: {error}"),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}
