//! How many GPUs are held? One rule a file.

mod punica_hints;

pub use punica_hints::PunicaHints;
