//! The kernels on a CPU and through the real compiler; on a GPU they are checked by `kernels/ci/gpu.sh`.

mod attention_on_cpu;
mod baseline_on_cpu;
mod batch;
mod compile;
mod gemm_on_cpu;
mod gpu;
mod lora_on_cpu;
mod memory_on_cpu;
mod merge_on_cpu;
mod shim;
mod step_on_cpu;
