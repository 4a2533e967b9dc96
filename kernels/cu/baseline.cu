// The ways in which other systems serve rows of different adapters, as kernels: what ours is priced against.
//
//   bgmv     one block a (row, rank) in the shrink, one a (row, some columns) in the expand: Punica's BGMV
//   padded   one grid slot an (adapter, row tile of the whole batch), every rank padded to the largest, split-K with
//            atomic sums: vLLM's Triton kernels
//   gather   copies the weights of each row next to one another, for a batched GEMM
//
//   v[rows of segment i] = scale_i · x[rows of segment i] · A_i          y[rows of segment i] += v[rows of segment i] · B_i
//
// Layouts. x [rows][x_stride] and y [rows][y_stride], 16-bit; v [rows][v_stride], fp32; strides in elements.
// Weights lie as those systems keep them: A as [stride][inputs] and B as [outputs][stride], row-major, where an
// adapter's `stride` is its rank rounded up to a multiple of 8, or the largest rank if padded; what is beyond the
// rank is zero. An adapter holds its projections one after the other, so A begins `a_units · stride` elements from
// its start.
//
// Bound by: latency at a few rows; bytes where each row has an adapter of its own; bgmv reads an adapter again for
// each of its rows, and gather moves each row's weights three times.
#include "primitives.cuh"

#ifndef ELEMENT
#define ELEMENT Bf16
#endif

constexpr u32 THREADS = 128;

// An adapter and its rows; in bgmv and gather, a single row. No rows: nothing to do.
struct alignas(16) Segment {
  u64 weights;  // address of the adapter
  u32 row, rows;
  u32 rank, stride;
  float scale;
  u32 reserved;
};

struct Arguments {
  const Segment* segments;
  const void* x;
  void* y;
  float* v;
  u64 a_units, b_units;
  u32 x_stride, y_stride, v_stride;
  u32 inputs, outputs;
  u32 tiles[4];  // how the block index is taken apart: see each kernel
};

DEVICE Segment segment_of(const Arguments& args, u32 index) {
  union {
    uint4 words[2];
    Segment segment;
  } loaded;
  const uint4* from = (const uint4*)(args.segments + index);
  loaded.words[0] = from[0];
  loaded.words[1] = from[1];
  return loaded.segment;
}

DEVICE const u8* a_of(const Arguments& args, const Segment& s) {
  return (const u8*)s.weights + args.a_units * s.stride * 2;
}
DEVICE const u8* b_of(const Arguments& args, const Segment& s) {
  return (const u8*)s.weights + args.b_units * s.stride * 2;
}

DEVICE float dot_word(u32 a, u32 b, float sum) {
  sum += ELEMENT::low(a) * ELEMENT::low(b);
  return sum + ELEMENT::high(a) * ELEMENT::high(b);
}
DEVICE float dot(uint4 a, uint4 b, float sum) {
  return dot_word(a.w, b.w, dot_word(a.z, b.z, dot_word(a.y, b.y, dot_word(a.x, b.x, sum))));
}

// v[row][rank], zero from the rank to the stride. Block = segment · tiles[0] + rank; tiles[0]: the largest stride.
KERNEL void __launch_bounds__(THREADS) bgmv_shrink(const GRID_CONSTANT Arguments args) {
  constexpr int AHEAD = 4;
  dependents_trigger();
  const u32 rank = block_index() % args.tiles[0];
  const Segment s = segment_of(args, block_index() / args.tiles[0]);
  dependency_wait();
  if (s.rows == 0 || rank >= s.stride) return;
  float* const to = args.v + u64(s.row) * args.v_stride + rank;
  if (rank >= s.rank) {
    if (thread_index() == 0) *to = 0.f;
    return;
  }
  const uint4* const weights = (const uint4*)(a_of(args, s) + u64(rank) * args.inputs * 2);
  const uint4* const x = (const uint4*)((const u8*)args.x + u64(s.row) * args.x_stride * 2);
  const u32 vectors = args.inputs / 8;
  float sum = 0.f;
#pragma unroll 1
  for (u32 first = thread_index(); first < vectors; first += AHEAD * THREADS) {
    uint4 a[AHEAD], b[AHEAD];
#pragma unroll
    for (int n = 0; n < AHEAD; ++n) {
      const u32 at = first + n * THREADS;
      a[n] = b[n] = make_uint4(0, 0, 0, 0);
      if (at < vectors) a[n] = weights[at], b[n] = x[at];
    }
#pragma unroll
    for (int n = 0; n < AHEAD; ++n) sum = dot(a[n], b[n], sum);
  }
#pragma unroll
  for (u32 step = 16; step > 0; step /= 2) sum += shuffle_xor(sum, step);
  float* const warps = (float*)shared_base();
  if (thread_index() % 32 == 0) warps[thread_index() / 32] = sum;
  block_barrier();
  if (thread_index() == 0) *to = s.scale * ((warps[0] + warps[1]) + (warps[2] + warps[3]));
}

// Columns of a thread, THREADS / lanes apart: as many loads are in flight, and v is read once for all of them.
constexpr u32 BGMV_COLUMNS = 4;

// y[row][column] += v·B. A column belongs to tiles[1] lanes, a power of two that covers the largest stride by eights.
// Block = segment · tiles[0] + a tile of BGMV_COLUMNS · THREADS / tiles[1] columns.
KERNEL void __launch_bounds__(THREADS) bgmv_expand(const GRID_CONSTANT Arguments args) {
  dependents_trigger();
  const u32 lanes = args.tiles[1], step = THREADS / lanes, first = thread_index() % lanes * 8;
  const u32 column = block_index() % args.tiles[0] * BGMV_COLUMNS * step + thread_index() / lanes;
  const Segment s = segment_of(args, block_index() / args.tiles[0]);
  dependency_wait();
  if (s.rows == 0) return;
  uint4 w[BGMV_COLUMNS];
  float4 low = make_float4(0.f, 0.f, 0.f, 0.f), high = low;
#pragma unroll
  for (u32 n = 0; n < BGMV_COLUMNS; ++n) {
    w[n] = make_uint4(0, 0, 0, 0);
    if (first < s.stride && column + n * step < args.outputs)
      w[n] = *(const uint4*)(b_of(args, s) + (u64(column + n * step) * s.stride + first) * 2);
  }
  if (first < s.stride) {
    const float4* const v = (const float4*)(args.v + u64(s.row) * args.v_stride + first);
    low = v[0], high = v[1];
  }
  u16* const y = (u16*)args.y + u64(s.row) * args.y_stride + column;
  u32 before[BGMV_COLUMNS];
#pragma unroll
  for (u32 n = 0; n < BGMV_COLUMNS; ++n)
    if (first == 0 && column + n * step < args.outputs) before[n] = y[n * step];
#pragma unroll
  for (u32 n = 0; n < BGMV_COLUMNS; ++n) {
    float sum = ELEMENT::low(w[n].x) * low.x + ELEMENT::high(w[n].x) * low.y;
    sum += ELEMENT::low(w[n].y) * low.z + ELEMENT::high(w[n].y) * low.w;
    sum += ELEMENT::low(w[n].z) * high.x + ELEMENT::high(w[n].z) * high.y;
    sum += ELEMENT::low(w[n].w) * high.z + ELEMENT::high(w[n].w) * high.w;
    for (u32 apart = lanes / 2; apart > 0; apart /= 2) sum += shuffle_xor(sum, apart);
    if (first == 0 && column + n * step < args.outputs)
      y[n * step] = (u16)ELEMENT::pack(ELEMENT::low(before[n]) + sum, 0.f);
  }
}

// v[rows][v_stride] = 0, tiles[0] vectors of four.
KERNEL void __launch_bounds__(THREADS) zero_v(const GRID_CONSTANT Arguments args) {
  dependents_trigger();
  const u32 at = block_index() * THREADS + thread_index();
  dependency_wait();
  if (at < args.tiles[0]) ((float4*)args.v)[at] = make_float4(0.f, 0.f, 0.f, 0.f);
}

// Rows and ranks of a block of the padded shrink.
constexpr int SHRINK_ROWS = 32, SHRINK_RANKS = 16;

// v += scale·x·A, v zeroed before. Block = ((segment · tiles[2] + row tile) · tiles[3] + rank tile) · tiles[0] + split;
// a split is tiles[1] input tiles of 32.
// A warp multiplies every fourth of them; 16 bytes a lane are 8 inputs of one row, permuted alike in x and A.
KERNEL void __launch_bounds__(THREADS) padded_shrink(const GRID_CONSTANT Arguments args) {
  constexpr int ROW_TILES = SHRINK_ROWS / 16, GRANULES = SHRINK_RANKS / 8;
  dependents_trigger();
  u32 index = block_index();
  const u32 split = index % args.tiles[0];
  index /= args.tiles[0];
  const u32 rank_tile = index % args.tiles[3];
  index /= args.tiles[3];
  const u32 first_row = index % args.tiles[2] * SHRINK_ROWS;
  const Segment s = segment_of(args, index / args.tiles[2]);
  dependency_wait();
  if (first_row >= s.rows) return;
  const u32 rows = min((u32)SHRINK_ROWS, s.rows - first_row);
  const u32 lane = thread_index() % 32, warp = thread_index() / 32, i = lane / 4, q = lane % 4;
  const u32 ranks = s.stride - rank_tile * SHRINK_RANKS;  // there is at least one granule
  const u8* const a = a_of(args, s) + u64(rank_tile * SHRINK_RANKS + i) * args.inputs * 2;
  const u8* const x = (const u8*)args.x + u64(s.row + first_row + i) * args.x_stride * 2;

  float sums[ROW_TILES][GRANULES][4];
#pragma unroll
  for (int m = 0; m < ROW_TILES; ++m)
#pragma unroll
    for (int g = 0; g < GRANULES; ++g)
#pragma unroll
      for (int e = 0; e < 4; ++e) sums[m][g][e] = 0.f;
  const u32 tile_end = min((args.inputs + 31) / 32, (split + 1) * args.tiles[1]);
#pragma unroll 2
  for (u32 tile = split * args.tiles[1] + warp; tile < tile_end; tile += THREADS / 32) {
    const u32 input = tile * 32 + 8 * q;
    uint4 rows_of_x[ROW_TILES][2], weights[GRANULES];
#pragma unroll
    for (int g = 0; g < GRANULES; ++g) {
      weights[g] = make_uint4(0, 0, 0, 0);
      if (input < args.inputs && 8 * g < (int)ranks)
        weights[g] = *(const uint4*)(a + (u64(8 * g) * args.inputs + input) * 2);
    }
#pragma unroll
    for (int m = 0; m < ROW_TILES; ++m)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        rows_of_x[m][half] = make_uint4(0, 0, 0, 0);
        if (input < args.inputs && 16 * m + 8 * half + i < rows)
          rows_of_x[m][half] = *(const uint4*)(x + (u64(16 * m + 8 * half) * args.x_stride + input) * 2);
      }
#pragma unroll
    for (int m = 0; m < ROW_TILES; ++m)
      if (16 * m < (int)rows)
#pragma unroll
        for (int g = 0; g < GRANULES; ++g) {
          const uint4 above = rows_of_x[m][0], below = rows_of_x[m][1];
          ELEMENT::mma(sums[m][g], above.x, below.x, above.y, below.y, weights[g].x, weights[g].y);
          ELEMENT::mma(sums[m][g], above.z, below.z, above.w, below.w, weights[g].z, weights[g].w);
        }
  }

  // The warps' sums, then one atomic addition an element: 4 of 32 rows × 16 ranks a thread.
  constexpr u32 ELEMENTS = SHRINK_ROWS * SHRINK_RANKS;
  float* const partial = (float*)shared_base();  // [warp][row tile, granule, e][lane]
#pragma unroll
  for (int m = 0; m < ROW_TILES; ++m)
#pragma unroll
    for (int g = 0; g < GRANULES; ++g)
#pragma unroll
      for (int e = 0; e < 4; ++e) partial[warp * ELEMENTS + ((m * GRANULES + g) * 4 + e) * 32 + lane] = sums[m][g][e];
  block_barrier();
#pragma unroll
  for (u32 n = 0; n < ELEMENTS / THREADS; ++n) {
    const u32 at = n * THREADS + thread_index(), e = at / 32 % 4, tile = at / 128;
    const u32 row = tile / GRANULES * 16 + e / 2 * 8 + i, rank = tile % GRANULES * 8 + 2 * q + e % 2;
    if (row >= rows || rank >= ranks) continue;
    float sum = partial[at];
#pragma unroll
    for (u32 w = 1; w < THREADS / 32; ++w) sum += partial[w * ELEMENTS + at];
    add_relaxed(args.v + u64(s.row + first_row + row) * args.v_stride + rank_tile * SHRINK_RANKS + rank, s.scale * sum);
  }
}

constexpr int EXPAND_ROWS = 64, EXPAND_COLUMNS = 128;

// y += v·B, v rounded to the 16-bit format. Block = (segment · tiles[2] + row tile) · tiles[0] + column tile.
// A warp has 32 columns; 8 bytes a lane are 4 ranks of one column, permuted alike in v and B.
KERNEL void __launch_bounds__(THREADS) padded_expand(const GRID_CONSTANT Arguments args) {
  constexpr int ROW_TILES = EXPAND_ROWS / 16, COLUMN_TILES = EXPAND_COLUMNS / (8 * int(THREADS) / 32);
  dependents_trigger();
  u32 index = block_index();
  const u32 lane = thread_index() % 32, warp = thread_index() / 32, i = lane / 4, q = lane % 4;
  const u32 first_column = index % args.tiles[0] * EXPAND_COLUMNS + warp * COLUMN_TILES * 8;
  index /= args.tiles[0];
  const u32 first_row = index % args.tiles[2] * EXPAND_ROWS;
  const Segment s = segment_of(args, index / args.tiles[2]);
  dependency_wait();
  if (first_row >= s.rows || first_column >= args.outputs) return;
  const u32 rows = min((u32)EXPAND_ROWS, s.rows - first_row), columns = args.outputs - first_column;
  const u8* const b = b_of(args, s) + u64(first_column + i) * s.stride * 2;
  const float* const v = args.v + u64(s.row + first_row + i) * args.v_stride;

  float sums[ROW_TILES][COLUMN_TILES][4];
#pragma unroll
  for (int m = 0; m < ROW_TILES; ++m)
#pragma unroll
    for (int n = 0; n < COLUMN_TILES; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) sums[m][n][e] = 0.f;
#pragma unroll 2
  for (u32 first = 0; first < s.stride; first += 16) {
    const u32 rank = first + 4 * q;
    uint2 weights[COLUMN_TILES];
#pragma unroll
    for (int n = 0; n < COLUMN_TILES; ++n) {
      weights[n].x = weights[n].y = 0;
      if (rank < s.stride && 8 * n + i < columns)
        weights[n] = *(const uint2*)(b + (u64(8 * n) * s.stride + rank) * 2);
    }
#pragma unroll
    for (int m = 0; m < ROW_TILES; ++m)
      if (16 * m < (int)rows) {
        float4 above = make_float4(0.f, 0.f, 0.f, 0.f), below = above;
        if (rank < s.stride && 16 * m + i < rows) above = *(const float4*)(v + u64(16 * m) * args.v_stride + rank);
        if (rank < s.stride && 16 * m + 8 + i < rows) below = *(const float4*)(v + u64(16 * m + 8) * args.v_stride + rank);
        const u32 a0 = ELEMENT::pack(above.x, above.y), a2 = ELEMENT::pack(above.z, above.w);
        const u32 a1 = ELEMENT::pack(below.x, below.y), a3 = ELEMENT::pack(below.z, below.w);
#pragma unroll
        for (int n = 0; n < COLUMN_TILES; ++n) ELEMENT::mma(sums[m][n], a0, a1, a2, a3, weights[n].x, weights[n].y);
      }
  }
  // All of y is asked for before any of it is written.
  u8* const y = (u8*)args.y + (u64(s.row + first_row + i) * args.y_stride + first_column + 2 * q) * 2;
  const u64 eight_rows = u64(args.y_stride) * 16;
  u32 before[ROW_TILES][2][COLUMN_TILES];
#pragma unroll
  for (int m = 0; m < ROW_TILES; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half)
      if (16 * m + 8 * half + i < rows)
#pragma unroll
        for (int n = 0; n < COLUMN_TILES; ++n)
          if (8 * n < (int)columns) before[m][half][n] = *(const u32*)(y + (2 * m + half) * eight_rows + 16 * n);
#pragma unroll
  for (int m = 0; m < ROW_TILES; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half)
      if (16 * m + 8 * half + i < rows)
#pragma unroll
        for (int n = 0; n < COLUMN_TILES; ++n)
          if (8 * n < (int)columns)
            *(u32*)(y + (2 * m + half) * eight_rows + 16 * n) =
                ELEMENT::pack(ELEMENT::low(before[m][half][n]) + sums[m][n][2 * half],
                              ELEMENT::high(before[m][half][n]) + sums[m][n][2 * half + 1]);
}

// y as [rows][(inputs + outputs) · tiles[1]]: each row's A padded to [tiles[1]][inputs], then its B padded to
// [outputs][tiles[1]]. Block = segment · tiles[0] + a piece of GATHER vectors of 16 bytes a thread. A projection's B
// follows its A in memory.
constexpr u32 GATHER = 8;
KERNEL void __launch_bounds__(THREADS) gather_weights(const GRID_CONSTANT Arguments args) {
  dependents_trigger();
  const u32 index = block_index() / args.tiles[0], piece = block_index() % args.tiles[0], stride = args.tiles[1];
  const Segment s = segment_of(args, index);
  dependency_wait();
  const u32 a_vectors = args.inputs / 8 * stride, vectors = a_vectors + args.outputs * (stride / 8);
  const uint4* const a = (const uint4*)a_of(args, s);
  const uint4* const b = (const uint4*)b_of(args, s);
  uint4* const to = (uint4*)args.y + u64(index) * vectors;
  const u32 own = s.rows == 0 ? 0 : s.stride;
  uint4 loaded[GATHER];
#pragma unroll
  for (u32 n = 0; n < GATHER; ++n) {
    const u32 at = (piece * GATHER + n) * THREADS + thread_index();
    loaded[n] = make_uint4(0, 0, 0, 0);
    if (at >= vectors) continue;
    if (own == stride) {
      loaded[n] = a[at];
    } else if (at < a_vectors) {
      if (at < args.inputs / 8 * own) loaded[n] = a[at];
    } else {
      const u32 column = (at - a_vectors) / (stride / 8), part = (at - a_vectors) % (stride / 8);
      if (part < own / 8) loaded[n] = b[column * (own / 8) + part];
    }
  }
#pragma unroll
  for (u32 n = 0; n < GATHER; ++n) {
    const u32 at = (piece * GATHER + n) * THREADS + thread_index();
    if (at < vectors) to[at] = loaded[n];
  }
}
