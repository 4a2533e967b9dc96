// W[outputs][inputs] += scale · (A·B)ᵀ: an adapter added to a matrix of the base model, or taken out again.
//
// Layouts. W is [outputs][w_stride], A is [ranks][inputs] and B is [outputs][ranks], 16-bit, row-major; `ranks`, a multiple
// of 8, is the adapter's stride, and what is beyond its rank is zero.
//
// Grid: one block a tile of 128 outputs × 128 inputs, the inputs' tiles first. A warp has 16 outputs and all 128
// inputs. The tile's parts of A and B lie in shared memory; they are asked for before the wait for the preceding
// kernel, so the adapter must have been complete before that kernel began, and each lane's share of W is in flight
// while they arrive. The order of inputs in shared memory is such that a lane's sums are 8 neighbours in W: 16 bytes.
//
// Bound by: W, read and written.
#include "primitives.cuh"

#ifndef ELEMENT
#define ELEMENT Bf16
#endif

constexpr u32 MERGE_THREADS = 256, TILE = 128;
constexpr u32 GROUPS = TILE / 32;     // of 32 inputs
constexpr u32 LINE = (TILE + 8) * 2;  // bytes from one rank of A to the next in shared memory: odd multiples of 16
constexpr u32 TOGETHER = 2;           // groups whose sums a warp holds at once

struct MergeArguments {
  void* weights;
  const void* a;
  const void* b;
  u32 w_stride;
  u32 inputs, outputs, ranks;
  u32 input_tiles;
  float scale;
};

// 8 inputs of A, or zero beyond its ranks and inputs.
DEVICE uint4 a_vector(const MergeArguments& args, u32 first_input, u32 at) {
  const u32 rank = at / (TILE / 8), input = first_input + at % (TILE / 8) * 8;
  if (rank >= args.ranks || input >= args.inputs) return make_uint4(0, 0, 0, 0);
  return *(const uint4*)((const u8*)args.a + (u64(rank) * args.inputs + input) * 2);
}
// Inputs 8c + 2j and 8c + 2j + 1 of a group go to places 8j + 2c and 8j + 2c + 1.
DEVICE void put_a_vector(u8* tile, u32 at, uint4 values) {
  const u32 rank = at / (TILE / 8), vector = at % (TILE / 8);
  u8* const to = tile + rank * LINE + (vector / 4 * 32 + vector % 4 * 2) * 2;
  *(u32*)to = values.x, *(u32*)(to + 16) = values.y, *(u32*)(to + 32) = values.z, *(u32*)(to + 48) = values.w;
}

KERNEL void __launch_bounds__(MERGE_THREADS, 2) merge_adapter(const GRID_CONSTANT MergeArguments args) {
  dependents_trigger();
  const u32 first_input = block_index() % args.input_tiles * TILE;
  const u32 block_output = block_index() / args.input_tiles * TILE, warp_output = thread_index() / 32 * 16;
  const u32 lane = thread_index() % 32, i = lane / 4, q = lane % 4;
  const u32 depth = (args.ranks + 15) / 16 * 16, b_line = depth * 2 + 16;
  u8* const a_tile = shared_base();          // [depth][LINE]
  u8* const b_tile = a_tile + depth * LINE;  // [TILE outputs][b_line]

#pragma unroll 1
  for (u32 at = thread_index(); at < TILE * (depth / 8); at += MERGE_THREADS) {
    const u32 output = at / (depth / 8), vector = at % (depth / 8);
    const bool there = block_output + output < args.outputs && 8 * vector < args.ranks;
    const u8* const from = (const u8*)args.b + (u64(block_output + output) * args.ranks + 8 * vector) * 2;
    copy_async(b_tile + output * b_line + vector * 16, there ? from : (const u8*)args.b, there ? 16 : 0);
  }
  copy_commit();
  const uint4 a_first = a_vector(args, first_input, thread_index());
  dependency_wait();

  // Rows i and i + 8 of this warp, 8 inputs of each group.
  const u32 output = block_output + warp_output + i;
  u8* const w = (u8*)args.weights + (u64(output) * args.w_stride + first_input + 8 * q) * 2;
  const u64 eight_rows = u64(args.w_stride) * 16;
  uint4 before[GROUPS][2];
#pragma unroll
  for (u32 g = 0; g < GROUPS; ++g)
#pragma unroll
    for (u32 half = 0; half < 2; ++half)
      if (output + 8 * half < args.outputs && first_input + 32 * g + 8 * q < args.inputs)
        before[g][half] = *(const uint4*)(w + half * eight_rows + 64 * g);

  // At least 16 ranks lie in shared memory: a vector for each thread.
  put_a_vector(a_tile, thread_index(), a_first);
#pragma unroll 2
  for (u32 at = thread_index() + MERGE_THREADS; at < depth * (TILE / 8); at += MERGE_THREADS)
    put_a_vector(a_tile, at, a_vector(args, first_input, at));
  copy_wait<0>();
  block_barrier();

  // 8 bytes a lane of B are 4 ranks of one output: the row of the matrix that lane 8m + r names is permuted alike.
  const u8* const b = b_tile + (warp_output + i) * b_line + 8 * q;
  const u32 row = lane % 8 / 2 * 4 + lane % 2 + lane / 8 % 2 * 2;
  const u8* const matrices = a_tile + row * LINE + lane / 16 * 16;
#pragma unroll
  for (u32 first_group = 0; first_group < GROUPS; first_group += TOGETHER) {
    float sums[TOGETHER][4][4];
#pragma unroll
    for (u32 g = 0; g < TOGETHER; ++g)
#pragma unroll
      for (int j = 0; j < 4; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e) sums[g][j][e] = 0.f;
#pragma unroll 1
    for (u32 first = 0; first < depth; first += 16) {
      const uint2 above = *(const uint2*)(b + first * 2), below = *(const uint2*)(b + first * 2 + 8 * b_line);
#pragma unroll
      for (u32 g = 0; g < TOGETHER; ++g)
#pragma unroll
        for (int pair = 0; pair < 2; ++pair) {
          u32 right[4];
          load_matrices_transposed(right, matrices + first * LINE + (first_group + g) * 64 + pair * 32);
          ELEMENT::mma(sums[g][2 * pair], above.x, below.x, above.y, below.y, right[0], right[1]);
          ELEMENT::mma(sums[g][2 * pair + 1], above.x, below.x, above.y, below.y, right[2], right[3]);
        }
    }
#pragma unroll
    for (u32 g = 0; g < TOGETHER; ++g)
#pragma unroll
      for (u32 half = 0; half < 2; ++half) {
        const u32 group = first_group + g;
        if (output + 8 * half >= args.outputs || first_input + 32 * group + 8 * q >= args.inputs) continue;
        const uint4 old = before[group][half];
        auto sum = [&](u32 word, int j) {
          return ELEMENT::pack(ELEMENT::low(word) + args.scale * sums[g][j][2 * half],
                               ELEMENT::high(word) + args.scale * sums[g][j][2 * half + 1]);
        };
        *(uint4*)(w + half * eight_rows + 64 * group) =
            make_uint4(sum(old.x, 0), sum(old.y, 1), sum(old.z, 2), sum(old.w, 3));
      }
  }
}
