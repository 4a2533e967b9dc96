//! The `aril` command from outside: scenarios in, run directories and messages out.

mod integration {
    mod bench;
    mod checks;
    mod errors;
    mod files;
    mod manifests;
    mod runs;
    mod sweeps;
    mod traces;
}
