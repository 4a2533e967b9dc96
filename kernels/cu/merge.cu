// W[outputs][inputs] += scale · (A·B)ᵀ: an adapter added to a matrix of the base model, or taken out again.
//
// Layouts. W is [outputs][w_stride], A is [ranks][inputs] and B is [outputs][ranks], 16-bit, row-major; `ranks`, a multiple
// of 8, is the adapter's stride, and what is beyond its rank is zero.
//
// Grid: one block a tile of 128 outputs × 128 inputs, the inputs' tiles first. A warp has 16 outputs and all 128
// inputs. A's tile lies in shared memory, and each lane's share of W is in flight while it gets there. The order of
// inputs in shared memory is such that a lane's sums are 8 neighbours in W: 16 bytes.
//
// Bound by: W, read and written.
#include "primitives.cuh"

#ifndef ELEMENT
#define ELEMENT Bf16
#endif

constexpr u32 MERGE_THREADS = 256, TILE = 128;
constexpr u32 GROUPS = TILE / 32;           // of 32 inputs
constexpr u32 LINE = (TILE + 8) * 2;        // bytes from one rank to the next in shared memory: odd multiples of 16

struct MergeArguments {
  void* weights;
  const void* a;
  const void* b;
  u32 w_stride;
  u32 inputs, outputs, ranks;
  u32 input_tiles;
  float scale;
};

KERNEL void __launch_bounds__(MERGE_THREADS, 2) merge_adapter(const GRID_CONSTANT MergeArguments args) {
  dependents_trigger();
  const u32 first_input = block_index() % args.input_tiles * TILE;
  const u32 first_output = block_index() / args.input_tiles * TILE + thread_index() / 32 * 16;
  const u32 lane = thread_index() % 32, i = lane / 4, q = lane % 4;
  dependency_wait();

  // Rows i and i + 8 of this warp, 8 inputs of each group.
  u8* const w = (u8*)args.weights + (u64(first_output + i) * args.w_stride + first_input + 8 * q) * 2;
  const u64 eight_rows = u64(args.w_stride) * 16;
  uint4 before[GROUPS][2];
#pragma unroll
  for (u32 g = 0; g < GROUPS; ++g)
#pragma unroll
    for (u32 half = 0; half < 2; ++half)
      if (first_output + i + 8 * half < args.outputs && first_input + 32 * g + 8 * q < args.inputs)
        before[g][half] = *(const uint4*)(w + half * eight_rows + 64 * g);

  // A's tile: inputs 8c + 2j and 8c + 2j + 1 of a group go to places 8j + 2c and 8j + 2c + 1.
  u8* const tile = shared_base();
  const u32 depth = (args.ranks + 15) / 16 * 16;
#pragma unroll 2
  for (u32 at = thread_index(); at < depth * (TILE / 8); at += MERGE_THREADS) {
    const u32 rank = at / (TILE / 8), vector = at % (TILE / 8), input = first_input + 8 * vector;
    uint4 values = make_uint4(0, 0, 0, 0);
    if (rank < args.ranks && input < args.inputs)
      values = *(const uint4*)((const u8*)args.a + (u64(rank) * args.inputs + input) * 2);
    u8* const to = tile + rank * LINE + (vector / 4 * 32 + vector % 4 * 2) * 2;
    *(u32*)to = values.x, *(u32*)(to + 16) = values.y, *(u32*)(to + 32) = values.z, *(u32*)(to + 48) = values.w;
  }
  block_barrier();

  // 8 bytes a lane of B are 4 ranks of one output: the row of the matrix that lane 8m + r names is permuted alike.
  const u8* const b = (const u8*)args.b + (u64(first_output + i) * args.ranks + 4 * q) * 2;
  const u64 b_eight_rows = u64(args.ranks) * 16;
  const u32 row = lane % 8 / 2 * 4 + lane % 2 + lane / 8 % 2 * 2;
  const u8* const matrices = tile + row * LINE + lane / 16 * 16;
#pragma unroll
  for (u32 g = 0; g < GROUPS; ++g) {
    float sums[4][4];
#pragma unroll
    for (int j = 0; j < 4; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e) sums[j][e] = 0.f;
#pragma unroll 1
    for (u32 first = 0; first < depth; first += 16) {
      uint2 above, below;
      above.x = above.y = below.x = below.y = 0;
      if (first + 4 * q < args.ranks) {
        if (first_output + i < args.outputs) above = *(const uint2*)(b + first * 2);
        if (first_output + i + 8 < args.outputs) below = *(const uint2*)(b + first * 2 + b_eight_rows);
      }
#pragma unroll
      for (int pair = 0; pair < 2; ++pair) {
        u32 right[4];
        load_matrices_transposed(right, matrices + first * LINE + g * 64 + pair * 32);
        ELEMENT::mma(sums[2 * pair], above.x, below.x, above.y, below.y, right[0], right[1]);
        ELEMENT::mma(sums[2 * pair + 1], above.x, below.x, above.y, below.y, right[2], right[3]);
      }
    }
#pragma unroll
    for (u32 half = 0; half < 2; ++half) {
      if (first_output + i + 8 * half >= args.outputs || first_input + 32 * g + 8 * q >= args.inputs) continue;
      const uint4 old = before[g][half];
      auto sum = [&](u32 word, int j) {
        return ELEMENT::pack(ELEMENT::low(word) + args.scale * sums[j][2 * half],
                             ELEMENT::high(word) + args.scale * sums[j][2 * half + 1]);
      };
      *(uint4*)(w + half * eight_rows + 64 * g) = make_uint4(sum(old.x, 0), sum(old.y, 1), sum(old.z, 2), sum(old.w, 3));
    }
  }
}
