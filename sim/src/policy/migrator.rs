//! Who moves where? One rule a file.

mod punica_consolidate;

pub use punica_consolidate::PunicaConsolidate;
