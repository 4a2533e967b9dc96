//! The kernels on a CPU, through the real compiler, and (ignored by default) on a GPU.

mod batch;
mod compile;
mod gpu;
mod lora_on_cpu;
mod shim;
