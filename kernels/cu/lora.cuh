// What the LoRA kernels share: the plan's jobs, the arguments of a launch, its beginning and its end, and v. Included once
// by each kernel source.
#include "primitives.cuh"

#ifndef ELEMENT
#define ELEMENT Bf16
#endif
#ifndef WARPS  // a block
#define WARPS 8
#endif
#ifndef MIN_BLOCKS
#define MIN_BLOCKS 2
#endif


struct alignas(16) Job {
  u64 weights;  // address of the adapter's packed weights
  u32 row, rows;
  u32 rank, projection;
  u32 k_tile, k_tiles;            // this member's slice of the inputs, in tiles of 32
  u32 column_tile, column_tiles;  // this member's slice of the outputs, in tiles of 32
  u32 member, members;
  u32 inbox;  // the group's first inbox cell (512 bytes each)
  float scale;
  u64 reserved;
};

struct Projection {
  u64 a_tiles, b_tiles;  // tiles per rank granule that precede A and B in the adapter's memory
  void* y;
  float* v;
  u32 y_stride, v_stride;
  u32 columns;
  u32 reserved;
};

struct Arguments {
  const Job* jobs;
  const void* x;
  float4* inbox;
  u32 x_stride, inputs;
  u32 job_count;
  u32 cluster;  // whether the members of a group are a cluster
  u32 depth;    // of a warp's ring in units (lora.cu), of the block's ring in KiB (lora_staged.cu)
  u32 release;  // when the next launch may start its blocks: a Release
  Projection projections[4];
  // Where this is given, the launch runs beside the preceding kernel, which stores `mark` there when x is complete, and only
  // the end of the launch waits for that kernel.
  const u32* ready;
  u32 mark;
  u32 reserved_too;
};

// Blocks of the next launch ask for their weights as soon as they start, and share the memory with those of this one.
enum Release { AT_START, WITH_OPERANDS, WITH_SUMS };

enum Mode { SHRINK, EXPAND, PAIR };

constexpr u32 TILE = 512, UNIT = 2 * TILE;

// Where in a tile of A lie the inputs 8q to 8q + 7 of rank i, as lane = 4i + q reads them: four lanes that follow one
// another find their 16 bytes in each other's places, as warpgroup products want it.
DEVICE u32 input_lane(u32 lane) { return lane ^ (lane / 8 & 3); }

// How a lane = 4i + q holds a cell, 16 ranks × 8 rows, of sums or of v.
enum Cell {
  RANKS_FIRST,  // rank i: rows 2q and 2q + 1; rank i + 8: the same
  ROWS_FIRST,   // row i: ranks 2q, 2q + 1, 2q + 8 and 2q + 9
};

// scale·v of a cell, rows first, as the expand's operand: a high and a low 16-bit part, which together are
//   bf16: scale·v to within 2^-16 of itself, whatever an fp32 holds;
//   fp16: to within max(2^-22 |scale·v|, 2^-25) as far as 65,504, and to within 2^-11 (|scale·v| - 65,504), at most 16, as far
//         as 131,024, from where on the low part is an infinity: y is one or NaN, and never a number that is wrong.
// So the high part of fp16 stops at the largest half (from an infinity the low one would take an infinity), and the low part does
// not.
DEVICE uint4 split(float4 sum, float scale) {
  float v0 = sum.x * scale, v1 = sum.y * scale, v2 = sum.z * scale, v3 = sum.w * scale;
  float h0 = ELEMENT::clamp(v0), h1 = ELEMENT::clamp(v1), h2 = ELEMENT::clamp(v2), h3 = ELEMENT::clamp(v3);
  u32 high01 = ELEMENT::pack(h0, h1), high23 = ELEMENT::pack(h2, h3);
  u32 low01 = ELEMENT::pack(v0 - ELEMENT::low(high01), v1 - ELEMENT::high(high01));
  u32 low23 = ELEMENT::pack(v2 - ELEMENT::low(high23), v3 - ELEMENT::high(high23));
  return make_uint4(high01, high23, low01, low23);
}

// Whether this block waits for the preceding kernel: beside it one block does, at its end, so that what follows this
// launch also follows that kernel.
DEVICE bool waits_for_predecessor(const Arguments& args) { return !args.ready || block_index() + 1 == args.job_count; }

// Returns when x and y may be read.
DEVICE void wait_for_operands(const Arguments& args) {
  if (args.ready) {
    if (thread_index() == 0)
      while (load_acquire(args.ready) != args.mark) poll_pause();
    block_barrier();
  } else {
    dependency_wait();
  }
}

DEVICE Job job_of(const Job* jobs, u32 block) {
  union {
    uint4 words[4];
    Job job;
  } loaded;
  const uint4* from = (const uint4*)(jobs + block);
#pragma unroll
  for (int n = 0; n < 4; ++n) loaded.words[n] = from[n];
  return loaded.job;
}

// This block's job. Where it has none it ends here, after the preceding kernel if that is its task.
DEVICE bool begin(const Arguments& args, Job& job) {
  if (args.release == AT_START) dependents_trigger();
  job.rows = 0;
  if (block_index() < args.job_count) job = job_of(args.jobs, block_index());
  if (job.rows > 0) return true;
  dependents_trigger();  // whatever the others do: it has nothing to wait for
  if (waits_for_predecessor(args)) dependency_wait();
  return false;
}

// What is left when a block has done its job.
DEVICE void end(const Arguments& args) {
  copy_wait<0>();
  if (args.ready && waits_for_predecessor(args)) dependency_wait();
}

// v of one cell as the expand takes it: rows i, ranks 2q, 2q + 1, 2q + 8 and 2q + 9, from global memory.
DEVICE float4 v_cell(const Job& job, const Projection& projection, u32 row_tiles, u32 cell) {
  const u32 lane = thread_index() % 32, i = lane / 4, q = lane % 4;
  const u32 rank = cell / row_tiles * 16 + 2 * q, row = cell % row_tiles * 8 + i;
  const float* v = projection.v + u64(job.row + row) * projection.v_stride + rank;
  float4 sum = make_float4(0.f, 0.f, 0.f, 0.f);
  if (row < job.rows && rank < job.rank) sum.x = v[0];
  if (row < job.rows && rank + 1 < job.rank) sum.y = v[1];
  if (row < job.rows && rank + 8 < job.rank) sum.z = v[8];
  if (row < job.rows && rank + 9 < job.rank) sum.w = v[9];
  return sum;
}

// Writes one cell of v to global memory.
template <Cell CELL>
DEVICE void store_v(const Job& job, const Projection& projection, u32 row_tiles, u32 cell, float4 sum) {
  const u32 lane = thread_index() % 32, i = lane / 4, q = lane % 4;
  const u32 rank = cell / row_tiles * 16 + (CELL == RANKS_FIRST ? i : 2 * q);
  const u32 row = cell % row_tiles * 8 + (CELL == RANKS_FIRST ? 2 * q : i);
  float* v = projection.v + u64(job.row + row) * projection.v_stride + rank;
  auto store = [&](u32 rows_on, u32 ranks_on, float value) {
    if (row + rows_on < job.rows && rank + ranks_on < job.rank) v[rows_on * projection.v_stride + ranks_on] = value;
  };
  store(0, 0, sum.x);
  store(CELL == RANKS_FIRST ? 1 : 0, CELL == RANKS_FIRST ? 0 : 1, sum.y);
  store(0, 8, sum.z);
  store(CELL == RANKS_FIRST ? 1 : 0, CELL == RANKS_FIRST ? 8 : 9, sum.w);
}

// Sums of a cell as the expand's operand, rows first.
template <Cell CELL>
DEVICE uint4 operand_of(float4 sum, float scale) {
  const uint4 parts = split(sum, scale);
  if (CELL == ROWS_FIRST) return parts;
  return make_uint4(matrix_transpose(parts.x), matrix_transpose(parts.y), matrix_transpose(parts.z),
                    matrix_transpose(parts.w));
}
