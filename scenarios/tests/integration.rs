//! The `aril` command from outside: scenarios in, run directories and messages out.

mod integration {
    mod bench;
    mod checks;
    mod compare;
    mod errors;
    mod files;
    mod left_behind;
    mod manifests;
    mod profiles;
    mod regress;
    mod runs;
    mod sweeps;
    mod traces;
    mod vidur;
}
