//! The kernels on a CPU and through the real compiler; on a GPU they are checked by `kernels/ci/gpu.sh`.

mod batch;
mod compile;
mod gpu;
mod lora_on_cpu;
mod memory_on_cpu;
mod shim;
