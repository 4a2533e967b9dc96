// What the LoRA kernels share: the plan's jobs, the arguments of a launch, and the cells through which the
// blocks of a group exchange partial sums. Included once by each kernel source.
#include "primitives.cuh"

#ifndef ELEMENT
#define ELEMENT Bf16
#endif
#ifndef NT  // row tiles of 8 rows that one group holds
#define NT 1
#endif
#ifndef MIN_BLOCKS
#define MIN_BLOCKS 2
#endif

constexpr u32 WARPS = 8;

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
  u32 reserved;
  Projection projections[4];
};

enum Mode { SHRINK, EXPAND, PAIR };

constexpr u32 EMPTY = 0xffffffffu;
constexpr u32 TILE = 512, UNIT = 2 * TILE;

DEVICE bool arrived(const float4& v) {
  return float_bits(v.x) != EMPTY && float_bits(v.y) != EMPTY && float_bits(v.z) != EMPTY && float_bits(v.w) != EMPTY;
}
DEVICE float never_empty(float v) { return float_bits(v) == EMPTY ? bits_float(0x7fffffffu) : v; }
DEVICE float4 no_empty(float4 v) {
  return make_float4(never_empty(v.x), never_empty(v.y), never_empty(v.z), never_empty(v.w));
}
DEVICE float4 add(float4 a, float4 b) { return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w); }

DEVICE float4 empty_cell() {
  const float empty = bits_float(EMPTY);
  return make_float4(empty, empty, empty, empty);
}

// Waits for up to COUNT cells in global memory, takes them, leaves them empty. Null cells are skipped.
template <int COUNT>
DEVICE void receive(float4* (&cells)[COUNT], float4 (&values)[COUNT]) {
#pragma unroll
  for (int i = 0; i < COUNT; ++i)
    if (cells[i]) values[i] = load_relaxed(cells[i]);
#pragma unroll
  for (int i = 0; i < COUNT; ++i)
    if (cells[i]) {
      while (!arrived(values[i])) {
        poll_pause();
        values[i] = load_relaxed(cells[i]);
      }
      store_relaxed(cells[i], empty_cell());
    }
}

// The sum of `count` cells, `stride` vectors apart, in order.
DEVICE float4 sum_of(const float4* cells, u32 count, u32 stride) {
  float4 sum = cells[0];
  if (count == 8) {
    float4 others[7];
#pragma unroll
    for (int n = 0; n < 7; ++n) others[n] = cells[(n + 1) * stride];
#pragma unroll
    for (int n = 0; n < 7; ++n) sum = add(sum, others[n]);
  } else {
#pragma unroll 3
    for (u32 n = 1; n < count; ++n) sum = add(sum, cells[n * stride]);
  }
  return sum;
}

// Sums as the shrink left them (rank = i, rows 2q and 2q+1; rank i+8) → the right operand of the
// expand (rows = i, ranks 2q and 2q+1), split into a high and a low 16-bit part: 16 to 22 bits of v.
DEVICE uint4 split(float4 sum, float scale) {
  float v0 = sum.x * scale, v1 = sum.y * scale, v2 = sum.z * scale, v3 = sum.w * scale;
  float h0 = ELEMENT::clamp(v0), h1 = ELEMENT::clamp(v1), h2 = ELEMENT::clamp(v2), h3 = ELEMENT::clamp(v3);
  u32 high01 = ELEMENT::pack(h0, h1), high23 = ELEMENT::pack(h2, h3);
  u32 low01 = ELEMENT::pack(ELEMENT::clamp(v0 - ELEMENT::low(high01)), ELEMENT::clamp(v1 - ELEMENT::high(high01)));
  u32 low23 = ELEMENT::pack(ELEMENT::clamp(v2 - ELEMENT::low(high23)), ELEMENT::clamp(v3 - ELEMENT::high(high23)));
  return make_uint4(high01, high23, low01, low23);
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
