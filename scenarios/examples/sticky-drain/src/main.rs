//! `aril` with one more router: everything that the command does, it does with ours too.

use std::process::ExitCode;

use sticky_drain::StickyDrain;

fn main() -> ExitCode {
    aril::Cli::new().router::<StickyDrain>("sticky-drain").run()
}
