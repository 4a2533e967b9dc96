//! The core from outside: one binary, a module per behaviour.

mod policies;
mod truth;
