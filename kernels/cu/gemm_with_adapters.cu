// y[r][n] = Σ_k x[r][k] · W[n][k]   and beside it   d[rows of segment i] += scale_i · (x[rows of segment i] · A_i) · B_i
//
// The projections of a decode step and their adapters in one launch, both from the same x, each to a place of its own;
// whatever reads y next adds d.
//
// Layouts: see gemm.cu and lora.cu.
// Grid: the blocks of the GEMM, then those of the adapters. Two blocks find room on a multiprocessor, and the first of
// the grid take one each, so that a block of adapters runs beside each block of the GEMM: what the adapters wait for, x,
// sums of other members, v, hides behind the bytes of W. The adapters' jobs are counted from the first block of the
// grid. Blocks of either kind wait for others of their kind only, and those of the GEMM start first.
//
// Bound by: the bytes of W, A and B together.
#include "primitives.cuh"

#define NT GEMM_NT
namespace backbone {
#include "gemm.cu"
}
#undef NT
#define NT LORA_NT
namespace adapters {
#include "lora.cu"
}
#undef NT

struct Both {
  backbone::Arguments gemm;
  adapters::Arguments lora;
  u32 gemm_blocks;
  u32 reserved;
};

KERNEL void __launch_bounds__(backbone::THREADS, 2) gemm_with_adapters(const GRID_CONSTANT Both args) {
  if (block_index() < args.gemm_blocks)
    backbone::multiply(args.gemm);
  else
    adapters::lora<adapters::PAIR>(args.lora);
}
