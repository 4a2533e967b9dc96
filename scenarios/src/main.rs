//! The `aril` command.
fn main() {}
