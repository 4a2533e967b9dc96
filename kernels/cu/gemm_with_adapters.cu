// y[r][n] = Σ_k x[r][k] · W[n][k]   and beside it   d[rows of segment i] += scale_i · (x[rows of segment i] · A_i) · B_i
//
// The projections of a decode step and their adapters in one launch, both from the same x, each to a place of its own;
// whatever reads y next adds d.
//
// Layouts: see gemm.cu and lora.cu.
// Grid: one block a multiprocessor. The first half of a block's threads are a block of the GEMM, the other half a block of
// the adapters, each with shared memory and a barrier of its own; where one has no share the other works alone. What
// the adapters wait for, x, sums of other members, v, hides behind the bytes of W. As two launches they would wait for
// each other's places: blocks of a launch go wherever there is room, and two of the GEMM on one multiprocessor, where
// another has none, cost more than all adapters do.
//
// Bound by: the bytes of W, A and B together.
#include "primitives.cuh"

constexpr u32 HALF = 256;  // threads

#define NT GEMM_NT
namespace backbone {
DEVICE void block_barrier() { group_barrier<1, HALF>(); }
#include "gemm.cu"
}  // namespace backbone
#undef NT
#define NT LORA_NT
namespace adapters {
DEVICE u32 thread_index() { return ::thread_index() - HALF; }
DEVICE void block_barrier() { group_barrier<2, HALF>(); }
DEVICE u8* shared_base() { return ::shared_base() + backbone::SHARED; }
#include "lora.cu"
}  // namespace adapters
#undef NT

struct Both {
  backbone::Arguments gemm;
  adapters::Arguments lora;
};

KERNEL void __launch_bounds__(2 * HALF, 1) gemm_with_adapters(const GRID_CONSTANT Both args) {
  if (thread_index() < HALF)
    backbone::multiply(args.gemm);
  else
    adapters::lora<adapters::PAIR>(args.lora);
}
