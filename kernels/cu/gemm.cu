// y[r][n] = Σ_k x[r][k] · W[n][k]   for few rows r: the projections of a decode step.
//
// Layouts. W is [outputs][inputs], x is [rows][x_stride], y is [rows][y_stride], 16-bit, row-major.
//
// The work is cut into steps of 128 outputs × 64 inputs, in the order of W's tiles of 128 outputs, and every block gets
// the same number of consecutive steps, whatever the shape: no wave is half empty. Grid: one block a share. Where the
// steps of a tile fall to several blocks, those whose share ends in it divide its tiles of 8 rows among themselves; each
// block leaves its partial sums of the rows of others in an inbox, in fp32, and adds those of its own in the order of the
// blocks. The result does not depend on timing, and no sum travels after another.
//
// Warps: four along the outputs (32 each), two along the inputs of a step, which add their sums at the end of a tile.
// Steps travel through a ring in shared memory with cp.async. W of the first steps is asked for before the wait for
// the preceding kernel: weights must have been complete before that kernel began.
//
// The matrix instruction may see the inputs in any order as long as W and x agree, so that a lane takes 8 consecutive
// inputs with one 16-byte access: those of its q in four instructions' worth of registers.
//
// Inbox: an empty word holds EMPTY, which no sum produces; the reader puts EMPTY back. Blocks wait for one another, so
// all of them must find room at once: no more blocks than multiprocessors hold.
//
// `ready`, if given, becomes `mark` when x is complete: a launch that needs x alone, and writes what nothing before it
// touches, may then run beside this one.
//
// Bound by: the bytes of W.
#include "primitives.cuh"

#ifndef ELEMENT
#define ELEMENT Bf16
#endif
#ifndef NT  // tiles of 8 rows
#define NT 4
#endif
#ifndef STAGES
#define STAGES 4
#endif
#ifndef WIDE  // whether the L2 fetches two steps of a row of W at once
#define WIDE 0
#endif

struct Arguments {
  const void* weights;
  const void* x;
  void* y;
  float4* inbox;  // [block][0: of its first tile, begun by others; 1: of its last, which it began][NT][256]
  u32 x_stride, y_stride;
  u32 rows, inputs, outputs;
  u32 tile_steps;   // steps of one tile: ceil(inputs / 64)
  u32 total_steps;  // of all tiles
  u32 block_steps;  // of one block
  u32* ready;       // or null
  u32 mark;
  u32 reserved;
};

constexpr u32 THREADS = 256;
constexpr u32 TILE_OUTPUTS = 128, STEP_INPUTS = 64;
constexpr u32 LINE = 2 * STEP_INPUTS;  // bytes of one row of a step
constexpr u32 W_BYTES = TILE_OUTPUTS * LINE, X_BYTES = NT * 8 * LINE, STAGE = W_BYTES + X_BYTES;
constexpr int EXCHANGED = NT < 2 ? NT : 2;  // sums that travel between warps at once, a thread
constexpr int EARLY_AT_ONCE = 2;  // steps that are on their way while the preceding kernel works
constexpr u32 AHEAD = 5;  // blocks whose sums a thread asks for at once
constexpr u32 EMPTY = 0xffffffffu;

// Where 16-byte chunk `chunk` of row `row` lies in a step: eight lanes that read two rows, or write one, meet no bank twice.
DEVICE u32 place(u32 row, u32 chunk) { return row * LINE + (chunk ^ ((row & 1) << 2) ^ ((row >> 1) & 3)) * 16; }

DEVICE float never_empty(float v) { return float_bits(v) == EMPTY ? bits_float(0x7fffffffu) : v; }
DEVICE bool arrived(float4 v) {
  return float_bits(v.x) != EMPTY && float_bits(v.y) != EMPTY && float_bits(v.z) != EMPTY && float_bits(v.w) != EMPTY;
}

// Asks for consecutive steps of this block's share. What a step needs beyond its copies is kept small: a warp has little
// time for it.
struct Feed {
  const Arguments* args;
  u8* ring;
  u32 tile, k, slot, left;
  const u8* w;   // this thread's 16 bytes of its first row of the step's W
  const u8* x;   // the same of x
  u32 input;     // the first of its 8 inputs
  u32 outputs;   // of the tile, from its first row on

  static constexpr u32 ROWS = THREADS / 8;                              // of W, or of x, at once
  static constexpr u32 X_PARTS = (NT * 8 + ROWS - 1) / ROWS;            // of x
  static constexpr bool ALL_COPY = NT * 8 % ROWS == 0;                  // whether x has a part for every thread
  DEVICE static u32 chunk() { return thread_index() % 8; }
  DEVICE static u32 row() { return thread_index() / 8; }

  // Looks up where step k of the tile begins.
  DEVICE void look_up() {
    const u32 output = tile * TILE_OUTPUTS + row();
    input = k * STEP_INPUTS + chunk() * 8;
    outputs = args->outputs - min(args->outputs, output);
    w = (const u8*)args->weights + (u64(output) * args->inputs + input) * 2;
    x = (const u8*)args->x + (u64(row()) * args->x_stride + input) * 2;
  }
  DEVICE void copy(u8* to, const u8* from, bool real) const {
    const void* const source = real ? from : args->weights;
    if (WIDE)
      copy_async_ahead(to, source, real ? 16 : 0);
    else
      copy_async(to, source, real ? 16 : 0);
  }
  DEVICE void weights(u8* stage) const {
    u8* const to = stage + place(row(), chunk());
    const u64 step = u64(args->inputs) * (2 * ROWS);
    const bool inside = input < args->inputs;
    if (inside && outputs > 3 * ROWS) {
#pragma unroll
      for (u32 n = 0; n < 4; ++n) copy(to + n * ROWS * LINE, w + n * step, true);
    } else {
#pragma unroll
      for (u32 n = 0; n < 4; ++n) copy(to + n * ROWS * LINE, w + n * step, inside && outputs > n * ROWS);
    }
  }
  DEVICE void activations(u8* stage) const {
    u8* const to = stage + W_BYTES + place(row(), chunk());
    const bool inside = input < args->inputs;
#pragma unroll
    for (u32 n = 0; n < X_PARTS; ++n)
      if (ALL_COPY || row() < NT * 8) {
        const bool real = inside && row() + n * ROWS < args->rows;
        const u8* const from = x + u64(n) * ROWS * 2 * args->x_stride;
        copy_async(to + n * ROWS * LINE, real ? from : args->x, real ? 16 : 0);
      }
  }
  DEVICE void advance() {
    slot = slot + 1 == STAGES ? 0 : slot + 1;
    input += STEP_INPUTS;
    w += LINE;
    x += LINE;
    if (++k == args->tile_steps) {
      k = 0, ++tile;
      look_up();
    }
    --left;
  }
  DEVICE void issue() {
    if (left > 0) {
      weights(ring + slot * STAGE);
      activations(ring + slot * STAGE);
      advance();
    }
    copy_commit();
  }
};

// Sums of one warp: outputs of two tiles of 16, NT tiles of 8 rows.
struct Sums {
  float value[2][NT][4];
  DEVICE void clear() {
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
      for (int nt = 0; nt < NT; ++nt)
#pragma unroll
        for (int e = 0; e < 4; ++e) value[m][nt][e] = 0.f;
  }
  // One step: this warp's 32 outputs and its half of the inputs.
  DEVICE void add(const u8* stage, u32 first_output, u32 half) {
    const u32 lane = thread_index() % 32, i = lane / 4, chunk = lane % 4 + 4 * half;
    uint4 w[2][2], x[NT];
    // Rows that are 8 apart lie in the same order.
    const u8* const w_at = stage + place(first_output + i, chunk);
    const u8* const x_at = stage + W_BYTES + place(i, chunk);
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
      for (int odd = 0; odd < 2; ++odd) w[m][odd] = *(const uint4*)(w_at + (m * 16 + odd * 8) * LINE);
#pragma unroll
    for (int nt = 0; nt < NT; ++nt) x[nt] = *(const uint4*)(x_at + nt * 8 * LINE);
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
      for (int nt = 0; nt < NT; ++nt) {
        ELEMENT::mma(value[m][nt], w[m][0].x, w[m][1].x, w[m][0].y, w[m][1].y, x[nt].x, x[nt].y);
        ELEMENT::mma(value[m][nt], w[m][0].z, w[m][1].z, w[m][0].w, w[m][1].w, x[nt].z, x[nt].w);
      }
  }
};

KERNEL void __launch_bounds__(THREADS, 2) gemm_few_rows(const GRID_CONSTANT Arguments args) {
  dependents_trigger();
  const u32 lane = thread_index() % 32, warp = thread_index() / 32;
  const u32 half = warp / 4, first_output = warp % 4 * 32;
  const u32 begin = min(args.total_steps, block_index() * args.block_steps);
  const u32 end = min(args.total_steps, begin + args.block_steps);
  u8* const ring = shared_base();
  float4* const exchange = (float4*)(ring + STAGES * STAGE);

  Feed feed;
  feed.args = &args;
  feed.ring = ring;
  feed.tile = begin / args.tile_steps;
  feed.k = begin % args.tile_steps;
  feed.slot = 0;
  feed.left = end - begin;
  u32 tile = feed.tile, k = feed.k, slot = 0;

  feed.look_up();
  // W of the first steps before x is there, then x of the same steps. One step after the other: the preceding kernel, which
  // makes x, is still at work, and all at once would stand before its loads in the queues of the multiprocessor.
  const u32 early = min(feed.left, (u32)STAGES - 1);
  {
    Feed ahead = feed;
#pragma unroll 1
    for (u32 n = 0; n < STAGES - 1; ++n) {
      if (n >= (u32)EARLY_AT_ONCE) copy_wait<EARLY_AT_ONCE - 1>();
      if (n < early) {
        ahead.weights(ring + n * STAGE);
        ahead.advance();
      }
      copy_commit();
    }
  }
  dependency_wait();
  if (args.ready && block_index() == 0 && thread_index() == 0) store_release(args.ready, args.mark);
#pragma unroll 1
  for (u32 n = 0; n < STAGES - 1; ++n) {
    if (n < early) {
      feed.activations(ring + n * STAGE);
      feed.advance();
    }
    copy_commit();
  }

  Sums sums;
  sums.clear();
  bool began_tile = k == 0;
  for (u32 step = begin; step < end; ++step) {
    copy_wait<STAGES - 2>();
    block_barrier();
    feed.issue();
    sums.add(ring + slot * STAGE, first_output, half);
    slot = slot + 1 == STAGES ? 0 : slot + 1;
    ++k;
    if (k < args.tile_steps && step + 1 < end) continue;

    // The tile ends here, or this block's share of it. Warps along the inputs swap halves, so that each thread holds
    // sums of 16 outputs.
    float4 mine[NT];
#pragma unroll
    for (int first = 0; first < NT; first += EXCHANGED) {
      if (first > 0) block_barrier();
#pragma unroll
      for (int n = 0; n < EXCHANGED; ++n) {
        const float(&low)[4] = sums.value[0][first + n], (&high)[4] = sums.value[1][first + n];
        exchange[n * THREADS + (thread_index() ^ 128)] = half ? make_float4(low[0], low[1], low[2], low[3])
                                                              : make_float4(high[0], high[1], high[2], high[3]);
      }
      block_barrier();
#pragma unroll
      for (int n = 0; n < EXCHANGED; ++n) {
        const float(&low)[4] = sums.value[0][first + n], (&high)[4] = sums.value[1][first + n];
        float4 other = exchange[n * THREADS + thread_index()];
        mine[first + n] = half ? make_float4(high[0] + other.x, high[1] + other.y, high[2] + other.z, high[3] + other.w)
                               : make_float4(low[0] + other.x, low[1] + other.y, low[2] + other.z, low[3] + other.w);
      }
    }
    sums.clear();

    // The blocks of this tile, and which of its rows this one finishes: the first `finishers` end in it.
    const u32 tile_begin = tile * args.tile_steps, tile_end = tile_begin + args.tile_steps;
    const u32 first_block = tile_begin / args.block_steps, last_block = (tile_end - 1) / args.block_steps;
    const bool last_ends = min(args.total_steps, (last_block + 1) * args.block_steps) == tile_end;
    const u32 finishers = last_block - first_block + (last_ends || first_block == last_block ? 1 : 0);
    const u32 me = block_index() - first_block;
    if (first_block < last_block) {
      float4* to = args.inbox + (u64(block_index()) * 2 + (began_tile ? 1 : 0)) * NT * THREADS + thread_index();
#pragma unroll
      for (int nt = 0; nt < NT; ++nt)
        if (me >= finishers || nt % finishers != me)
          store_relaxed(to + nt * THREADS, make_float4(never_empty(mine[nt].x), never_empty(mine[nt].y),
                                                       never_empty(mine[nt].z), never_empty(mine[nt].w)));
#pragma unroll
      for (int nt = 0; nt < NT; ++nt) {
        if (me >= finishers || nt % finishers != me) continue;
        float4 sum = make_float4(0.f, 0.f, 0.f, 0.f);
        for (u32 first = first_block; first <= last_block; first += AHEAD) {
          float4* cells[AHEAD];
          float4 parts[AHEAD];
#pragma unroll
          for (u32 n = 0; n < AHEAD; ++n) {
            const u32 from = first + n;
            cells[n] = args.inbox + ((u64(from) * 2 + (from == first_block ? 1 : 0)) * NT + nt) * THREADS + thread_index();
            parts[n] = mine[nt];
            if (from <= last_block && from != block_index()) parts[n] = load_relaxed(cells[n]);
          }
#pragma unroll
          for (u32 n = 0; n < AHEAD; ++n) {
            const u32 from = first + n;
            if (from > last_block) continue;
            if (from != block_index()) {
              while (!arrived(parts[n])) {
                poll_pause();
                parts[n] = load_relaxed(cells[n]);
              }
              const float none = bits_float(EMPTY);
              store_relaxed(cells[n], make_float4(none, none, none, none));
            }
            sum.x += parts[n].x, sum.y += parts[n].y, sum.z += parts[n].z, sum.w += parts[n].w;
          }
        }
        mine[nt] = sum;
      }
    }
    if (me < finishers) {
      const u32 i = lane / 4, q = lane % 4;
      const u32 output = tile * TILE_OUTPUTS + first_output + half * 16 + 2 * q;
#pragma unroll
      for (int nt = 0; nt < NT; ++nt) {
        if (nt % finishers != me) continue;
        // Lane 4i + q holds outputs i and i + 8 of rows 2q and 2q + 1; after the transpose outputs 2q and 2q + 1 of row i.
        u32 low = matrix_transpose(ELEMENT::pack(mine[nt].x, mine[nt].y));
        u32 high = matrix_transpose(ELEMENT::pack(mine[nt].z, mine[nt].w));
        const u32 row = nt * 8 + i;
        if (row < args.rows) {
          u32* to = (u32*)((u16*)args.y + u64(row) * args.y_stride + output);
          if (output < args.outputs) to[0] = low;
          if (output + 8 < args.outputs) to[4] = high;
        }
      }
    }
    k = 0;
    ++tile;
    began_tile = true;
  }
  copy_wait<0>();
}
