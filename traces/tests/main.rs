//! What the crate promises, a module per behaviour.

mod bad_input;
mod canonical;
mod determinism;
mod formats;
mod given;
mod inspection;
mod locality;
mod parquet;
mod punica;
mod replay;
mod scenario;
mod servegen;
mod synthetic;
mod vidur;
mod vidur_costs;
