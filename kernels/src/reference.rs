//! The same formulas in float64 on the CPU, written for the reader and not for speed.

pub mod attention;
pub mod llama;
pub mod lora;
pub mod step;
