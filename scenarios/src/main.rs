//! The `aril` command, with the policies that come with it.

use std::process::ExitCode;

fn main() -> ExitCode {
    aril::Cli::new().run()
}
