// token[s] = the lowest index among the largest logits of row s
//
// Greedy sampling in two stages: `parts` blocks a row find the largest of their slice, then one block a row takes the
// largest of those. A NaN is never the largest; a row of NaNs gives token 0.
//
// Layouts. logits: [rows][vocab], 16-bit, dense, vocab a multiple of 8; partial: [rows][parts] keys; tokens: [rows].
// A key orders a logit and its index in one word: the float's bits made monotonic, then the index's complement.
// Grid: rows · parts blocks of 256 threads, then rows blocks of 256.
//
// Bound by: the bytes of the logits.
#include "primitives.cuh"

#ifndef ELEMENT
#define ELEMENT Bf16
#endif

struct Arguments {
  const uint4* logits;
  u64* partial;
  u32* tokens;
  u32 vectors;  // vocab / 8
  u32 parts;
};

constexpr u32 THREADS = 256;

DEVICE u64 key(float v, u32 index) {
  u32 bits = float_bits(v + 0.f);  // zeros of both signs are one
  bits = v != v ? 0 : bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return u64(bits) << 32 | (u32)~index;
}
DEVICE u64 larger(u64 a, u64 b) { return a > b ? a : b; }

// The largest key of the block, in thread 0.
DEVICE u64 block_largest(u64 mine) {
  u64* shared = (u64*)shared_base();
  const u32 thread = thread_index();
  shared[thread] = mine;
#pragma unroll
  for (u32 width = THREADS / 2; width > 0; width /= 2) {
    block_barrier();
    if (thread < width) shared[thread] = larger(shared[thread], shared[thread + width]);
  }
  return thread == 0 ? shared[0] : 0;
}

KERNEL void __launch_bounds__(THREADS) largest_of_parts(const GRID_CONSTANT Arguments args) {
  dependents_trigger();
  dependency_wait();
  const u32 row = block_index() / args.parts, part = block_index() % args.parts;
  const u32 begin = (u32)(u64(args.vectors) * part / args.parts), end = (u32)(u64(args.vectors) * (part + 1) / args.parts);
  u64 best = 0;
  for (u32 n = begin + thread_index(); n < end; n += THREADS) {
    const uint4 v = args.logits[u64(row) * args.vectors + n];
    const u32 words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (u32 w = 0; w < 4; ++w) {
      best = larger(best, key(ELEMENT::low(words[w]), n * 8 + w * 2));
      best = larger(best, key(ELEMENT::high(words[w]), n * 8 + w * 2 + 1));
    }
  }
  best = block_largest(best);
  if (thread_index() == 0) args.partial[block_index()] = best;
}

KERNEL void __launch_bounds__(THREADS) largest_of_rows(const GRID_CONSTANT Arguments args) {
  dependents_trigger();
  dependency_wait();
  const u32 row = block_index();
  u64 best = 0;
  for (u32 n = thread_index(); n < args.parts; n += THREADS) best = larger(best, args.partial[u64(row) * args.parts + n]);
  best = block_largest(best);
  if (thread_index() == 0) args.tokens[row] = best >> 32 ? ~(u32)best : 0;
}
