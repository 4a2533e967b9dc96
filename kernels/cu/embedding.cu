// h[r] = table[token(r)]
//
// Layouts. table: [vocab][width]; h: [rows][width]; 16-bit, dense; tokens: [rows], each below vocab (the host checks).
// Grid: one block of 256 threads a row.
//
// Bound by: latency.
#include "primitives.cuh"

struct Arguments {
  const uint4* table;
  const u32* tokens;
  uint4* h;
  u32 vectors;  // width / 8
  u32 reserved;
};

KERNEL void __launch_bounds__(256) embed(const GRID_CONSTANT Arguments args) {
  dependents_trigger();
  dependency_wait();
  const u32 row = block_index();
  const uint4* from = args.table + u64(args.tokens[row]) * args.vectors;
  for (u32 n = thread_index(); n < args.vectors; n += 256) args.h[u64(row) * args.vectors + n] = from[n];
}
