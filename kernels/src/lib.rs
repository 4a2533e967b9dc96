//! CUDA kernels for serving many LoRA adapters over one base model, and nothing else.
//!
//! Knows pointers, shapes and ranks; knows no tenant and no scheduler. Reading order:
//! [`element`] (the two number formats), [`lora::layout`] (how weights lie in memory),
//! [`lora::plan`] (which block does what, decided once a step), [`lora::launch`] (the launches),
//! [`attention`] (over paged keys and values),
//! [`llama`] (a whole step of a model around them), [`reference`](mod@reference) (the same formulas in float64 on the CPU), then what carries them: [`gpu`],
//! [`source`], [`compile`], [`cache`], and [`timing`] for whoever measures. [`baseline`] is how others serve adapters,
//! through [`cublas`] where they do; [`copy`] brings adapters to the GPU.
//!
//! CUDA is loaded when [`gpu::Gpu::open`] is called. A machine without a driver, without NVRTC
//! or without a GPU gets an [`Error`] that says which one is missing.

pub mod attention;
pub mod baseline;
pub mod cache;
pub mod compile;
pub mod copy;
pub mod cublas;
pub mod element;
mod error;
pub mod gemm;
pub mod gpu;
pub mod llama;
pub mod lora;
pub mod program;
pub mod reference;
pub mod source;
pub mod timing;

pub use element::Element;
pub use error::Error;
