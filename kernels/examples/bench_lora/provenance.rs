//! Where and when a measurement was made.

use std::process::Command;

use aril_kernels::Error;
use aril_kernels::source::Sources;

/// What `--source-hash` prints: the kernel sources that this binary holds, as its results name them.
///
/// `measured` are the sources of the kernels that it measures, where its results name those alone.
pub(crate) fn source_hashes(measured: Option<&[&str]>) -> Result<String, Error> {
    let sources = Sources::built_in();
    let all = format!("sha256 of all kernel sources {}", sources.hash()?);
    Ok(match measured {
        Some(measured) => format!("{all}, of those measured {}", sources.hash_of(measured.iter().copied())?),
        None => all,
    })
}

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
