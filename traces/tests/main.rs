//! What the crate promises, a module per behaviour.

mod given;
mod punica;
mod scenario;
mod vidur;
