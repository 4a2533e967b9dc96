// y[rows of segment i] += scale_i · (x[rows of segment i] · A_i) · B_i   for every segment of a batch.
//
// shrink: v = x·A        expand: y += scale·(v·B)        pair: both, v never leaves the chip's caches.
//
// Layouts. x is [rows][x_stride], y is [rows][y_stride], 16-bit, row-major, strides in elements.
// v (separate shrink and expand only) is [rows][v_stride] fp32. Weights are packed when an adapter
// is loaded, in *tiles* of 512 bytes, 16 bytes a lane, so that the bytes a lane loads are the bytes
// its matrix instruction wants (lane = 4i + q):
//   A tile (t, g): 8 ranks × 32 inputs. lane holds A[32t + 8q + 0..7][8g + i]
//   B tile (c, g): 8 ranks × 32 outputs. lane holds, for j in 0..4, B[8g + 2q, 8g + 2q + 1][32c + 4i + j]
// A is stored as [t][g], B as [c][g], so an adapter of rank r costs ceil(r / 8) granules and no more.
//
// Grid: one block a job, written by the plan. The `members` blocks of one group share a row tile of
// one segment and one projection: member m multiplies its slice of the inputs, the members exchange
// their partial v, then each finishes its slice of the outputs.
//
// Every lane streams its own weights through a ring in shared memory with cp.async and reads back
// only what it copied: no barrier on the way, B is in flight while A is multiplied, and both start
// before the wait for the preceding kernel. Weights and jobs must therefore be complete before
// that kernel started; x, v and y need not.
//
// Exchange: each member writes its partial sums into an inbox of each other member and polls its
// own. An empty word holds EMPTY, which no sum produces, so the data are their own flags; the
// reader puts EMPTY back. Polling is free of deadlock because blocks start in the order of their
// index, a group's blocks are neighbours, and a group fits on the chip.
//
// Bound by: the bytes of the weights (decode), of x and y (prefill), and one exchange through L2.
#include "primitives.cuh"

#ifndef ELEMENT
#define ELEMENT Bf16
#endif
#ifndef NT  // row tiles of 8 rows that one group holds
#define NT 1
#endif
#ifndef WARPS
#define WARPS 8
#endif
#ifndef DEPTH  // ring depth in units of two tiles
#define DEPTH 12
#endif
#ifndef PAIRS  // rank pairs (16 ranks) that one warp accumulates
#define PAIRS 4
#endif
#ifndef XB  // input tiles of x that a warp loads ahead
#define XB 4
#endif
#ifndef YB  // output tiles of y that a warp loads ahead
#define YB 4
#endif
#ifndef MIN_BLOCKS
#define MIN_BLOCKS 2
#endif

struct Job {
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
  u32 job_count, reserved;
  Projection projections[4];
};

enum Mode { SHRINK, EXPAND, PAIR };

constexpr u32 EMPTY = 0xffffffffu;
constexpr u32 TILE = 512, UNIT = 2 * TILE;

// The weights of one warp, in the order in which it will use them: units of two tiles (16 ranks),
// in runs of consecutive units, the runs a fixed stride apart; first the runs of A, then those of B.
struct Runs {
  const u8* start;
  u64 stride;  // bytes between the starts of consecutive runs
  u32 runs;
  u32 units;   // in one run
  u32 tiles;   // in one run: 2·units, or one fewer where the rank has an odd granule
};

struct Stream {
  u8* ring;  // this lane's 16 bytes of slot 0
  Runs now, next;
  u32 unit;
  u32 fill, drain;  // slots

  DEVICE void issue() {
    if (now.runs == 0) {
      now = next;
      next.runs = 0;
    }
    if (now.runs != 0) {
      const u8* from = now.start + unit * UNIT;
      u8* to = ring + fill * UNIT;
      copy_async(to, from, 16);
      bool second = 2 * unit + 1 < now.tiles;
      copy_async(to + TILE, second ? from + TILE : from, second ? 16 : 0);
      if (++unit == now.units) {
        unit = 0;
        now.start += now.stride;
        --now.runs;
      }
    }
    fill = fill + 1 == DEPTH ? 0 : fill + 1;
    copy_commit();
  }

  // The oldest unit; its slot is refilled at once.
  DEVICE void take(uint4& first, uint4& second) {
    copy_wait<DEPTH - 1>();
    const u8* from = ring + drain * UNIT;
    first = *(const uint4*)from;
    second = *(const uint4*)(from + TILE);
    drain = drain + 1 == DEPTH ? 0 : drain + 1;
    issue();
  }
};

DEVICE bool arrived(const float4& v) {
  return float_bits(v.x) != EMPTY && float_bits(v.y) != EMPTY && float_bits(v.z) != EMPTY && float_bits(v.w) != EMPTY;
}
DEVICE float never_empty(float v) { return float_bits(v) == EMPTY ? bits_float(0x7fffffffu) : v; }
DEVICE float4 add(float4 a, float4 b) { return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w); }

// Waits for up to COUNT cells, takes them, leaves them empty. Null cells are skipped.
template <int COUNT>
DEVICE void receive(float4* (&cells)[COUNT], float4 (&values)[COUNT]) {
  const float empty = bits_float(EMPTY);
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
      store_relaxed(cells[i], make_float4(empty, empty, empty, empty));
    }
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

template <Mode MODE>
DEVICE void lora(const Arguments& args) {
  dependents_trigger();
  u32 block = block_index();
  u32 rows = 0;
  if (block < args.job_count) rows = args.jobs[block].rows;
  if (rows == 0) {
    dependency_wait();
    return;
  }
  const Job job = args.jobs[block];
  const Projection& projection = args.projections[job.projection];
  const u32 lane = thread_index() % 32, warp = thread_index() / 32;
  const u32 i = lane / 4, q = lane % 4;

  const u32 granules = (job.rank + 7) / 8, pairs = (granules + 1) / 2;
  const u32 row_tiles = NT == 1 ? 1 : (rows + 7) / 8;
  const u32 cells = pairs * row_tiles;  // of 16 ranks × 8 rows, 512 bytes in fp32

  // Shrink: warps share the inputs, and the ranks too where one warp cannot accumulate them all.
  u32 splits = 1;
  while (splits * PAIRS < pairs) splits *= 2;
  const u32 k_warps = WARPS / splits;
  const u32 k_warp = warp % k_warps, pairs_each = (pairs + splits - 1) / splits;
  const u32 pair_begin = min(pairs, warp / k_warps * pairs_each), my_pairs = min(pairs_each, pairs - pair_begin);
  u32 my_inputs = 0, my_columns = 0;  // tiles
  if (MODE != EXPAND && my_pairs && job.k_tiles > k_warp) my_inputs = (job.k_tiles - k_warp - 1) / k_warps + 1;
  if (MODE != SHRINK && job.column_tiles > warp) my_columns = (job.column_tiles - warp - 1) / WARPS + 1;

  u8* const ring = shared_base();
  float4* const partial = (float4*)(ring + WARPS * DEPTH * UNIT);              // [k warp][cell][lane]
  float4* const stage = partial + (MODE == EXPAND ? 1 : k_warps) * cells * 32;  // [member][cell][lane]
  uint4* const operand = (uint4*)partial;                                      // [cell][lane]

  Stream stream;
  stream.ring = ring + warp * DEPTH * UNIT + lane * 16;
  stream.unit = stream.fill = stream.drain = 0;
  const u8* weights = (const u8*)job.weights + lane * 16;
  stream.now.start =
      weights + (projection.a_tiles * granules + u64(job.k_tile + k_warp) * granules + 2 * pair_begin) * TILE;
  stream.now.stride = u64(k_warps) * granules * TILE;
  stream.now.runs = my_inputs;
  stream.now.units = my_pairs;
  stream.now.tiles = min(2 * my_pairs, granules - min(granules, 2 * pair_begin));
  stream.next.start = weights + (projection.b_tiles * granules + u64(job.column_tile + warp) * granules) * TILE;
  stream.next.stride = u64(WARPS) * granules * TILE;
  stream.next.runs = my_columns;
  stream.next.units = pairs;
  stream.next.tiles = granules;
#pragma unroll 1
  for (u32 n = 0; n < DEPTH; ++n) stream.issue();

  dependency_wait();

  // y of the first output tiles: asked for now, used last.
  const u64 y_row_bytes = u64(projection.y_stride) * 2;
  u8* const y_base = (u8*)projection.y + (job.row + 2 * q) * y_row_bytes;
  uint2 y_now[YB][NT][2];
  auto column_of = [&](u32 n) { return (job.column_tile + warp + n * WARPS) * 32 + 4 * i; };
  auto load_y = [&](uint2(&into)[YB][NT][2], u32 first) {
#pragma unroll
    for (int b = 0; b < YB; ++b)
#pragma unroll
      for (int nt = 0; nt < NT; ++nt)
#pragma unroll
        for (int odd = 0; odd < 2; ++odd) {
          u32 column = column_of(first + b);
          if (first + b < my_columns && column < projection.columns && nt * 8 + 2 * q + odd < rows)
            into[b][nt][odd] = *(const uint2*)(y_base + (nt * 8 + odd) * y_row_bytes + u64(column) * 2);
        }
  };

  if (MODE != EXPAND) {
    const u8* const x_base = (const u8*)args.x + (u64(job.row) + i) * args.x_stride * 2;
    auto load_x = [&](uint4(&into)[XB][NT], u32 first) {
#pragma unroll
      for (int b = 0; b < XB; ++b)
#pragma unroll
        for (int nt = 0; nt < NT; ++nt) {
          u32 input = (job.k_tile + k_warp + (first + b) * k_warps) * 32 + 8 * q;
          into[b][nt] = make_uint4(0, 0, 0, 0);
          if (first + b < my_inputs && input < args.inputs && nt * 8 + i < rows)
            into[b][nt] = *(const uint4*)(x_base + (u64(nt * 8) * args.x_stride + input) * 2);
        }
    };
    float sums[PAIRS][NT][4];
#pragma unroll
    for (int p = 0; p < PAIRS; ++p)
#pragma unroll
      for (int nt = 0; nt < NT; ++nt)
#pragma unroll
        for (int e = 0; e < 4; ++e) sums[p][nt][e] = 0.f;

    uint4 x_now[XB][NT], x_next[XB][NT];
    load_x(x_now, 0);
    if (MODE == PAIR) load_y(y_now, 0);
#pragma unroll 1
    for (u32 k = 0; k < my_inputs; k += XB) {
      load_x(x_next, k + XB);
#pragma unroll
      for (int b = 0; b < XB; ++b)
        if (k + b < my_inputs) {
#pragma unroll
          for (int p = 0; p < PAIRS; ++p)
            if (p < my_pairs) {
              uint4 a, c;
              stream.take(a, c);
#pragma unroll
              for (int nt = 0; nt < NT; ++nt)
                if (nt < row_tiles) {
                  ELEMENT::mma(sums[p][nt], a.x, c.x, a.y, c.y, x_now[b][nt].x, x_now[b][nt].y);
                  ELEMENT::mma(sums[p][nt], a.z, c.z, a.w, c.w, x_now[b][nt].z, x_now[b][nt].w);
                }
            }
        }
#pragma unroll
      for (int b = 0; b < XB; ++b)
#pragma unroll
        for (int nt = 0; nt < NT; ++nt) x_now[b][nt] = x_next[b][nt];
    }

#pragma unroll
    for (int p = 0; p < PAIRS; ++p)
      if (p < my_pairs)
#pragma unroll
        for (int nt = 0; nt < NT; ++nt)
          if (nt < row_tiles)
            partial[(k_warp * cells + (pair_begin + p) * row_tiles + nt) * 32 + lane] =
                make_float4(sums[p][nt][0], sums[p][nt][1], sums[p][nt][2], sums[p][nt][3]);
    block_barrier();

    // The block's sums, in the order of its warps; other members' shares leave at once.
    const u32 members = job.members, me = job.member;
    auto inbox = [&](u32 reader, u32 writer, u32 cell) {
      return args.inbox + ((u64(job.inbox) + (reader * members + writer) * cells + cell) * 32 + lane);
    };
    for (u32 cell = warp; cell < cells; cell += WARPS) {
      float4 sum = partial[cell * 32 + lane];
      for (u32 w = 1; w < k_warps; ++w) sum = add(sum, partial[(w * cells + cell) * 32 + lane]);
      if (members > 1) {
        sum.x = never_empty(sum.x), sum.y = never_empty(sum.y), sum.z = never_empty(sum.z), sum.w = never_empty(sum.w);
        for (u32 reader = 0; reader < members; ++reader)
          if (reader != me && (MODE == PAIR || reader == cell % members)) store_relaxed(inbox(reader, me, cell), sum);
      }
      if (members > 1 && cells < WARPS)
        stage[(me * cells + cell) * 32 + lane] = sum;
      else
        partial[cell * 32 + lane] = sum;  // read back by this lane alone
    }

    const bool staged = members > 1 && cells < WARPS;
    if (staged) {
      // Fewer cells than warps: all warps fetch, so that no warp waits twice.
      const u32 items = (members - 1) * cells;
      for (u32 first = warp; first < items; first += 4 * WARPS) {
        float4* from[4];
        float4 values[4];
#pragma unroll
        for (int n = 0; n < 4; ++n) {
          u32 item = first + n * WARPS, cell = item % cells, writer = item / cells;
          writer += writer >= me;
          from[n] = item < items && (MODE == PAIR || cell % members == me) ? inbox(me, writer, cell) : nullptr;
        }
        receive(from, values);
#pragma unroll
        for (int n = 0; n < 4; ++n) {
          u32 item = first + n * WARPS, cell = item % cells, writer = item / cells;
          writer += writer >= me;
          if (from[n]) stage[(writer * cells + cell) * 32 + lane] = values[n];
        }
      }
      block_barrier();
    }
    for (u32 cell = warp; cell < cells; cell += WARPS) {
      if (MODE == SHRINK && cell % members != me) continue;
      float4 sum;
      if (staged) {
        sum = stage[cell * 32 + lane];
        for (u32 writer = 1; writer < members; ++writer) sum = add(sum, stage[(writer * cells + cell) * 32 + lane]);
      } else {
        float4 mine = partial[cell * 32 + lane];
        sum = make_float4(0.f, 0.f, 0.f, 0.f);
        for (u32 first = 0; first < members; first += 4) {
          float4* from[4];
          float4 values[4];
#pragma unroll
          for (int n = 0; n < 4; ++n) {
            u32 writer = first + n;
            from[n] = writer < members && writer != me ? inbox(me, writer, cell) : nullptr;
            values[n] = mine;
          }
          receive(from, values);
#pragma unroll
          for (int n = 0; n < 4; ++n)
            if (first + n < members) sum = add(sum, values[n]);
        }
      }
      if (MODE == SHRINK) {
        u32 rank = cell / row_tiles * 16 + i, row = cell % row_tiles * 8 + 2 * q;
        float* v = projection.v + u64(job.row + row) * projection.v_stride + rank;
        if (row < rows && rank < job.rank) v[0] = sum.x;
        if (row < rows && rank + 8 < job.rank) v[8] = sum.z;
        v += projection.v_stride;
        if (row + 1 < rows && rank < job.rank) v[0] = sum.y;
        if (row + 1 < rows && rank + 8 < job.rank) v[8] = sum.w;
      } else {
        uint4 parts = split(sum, job.scale);
        operand[cell * 32 + lane] = make_uint4(matrix_transpose(parts.x), matrix_transpose(parts.y),
                                               matrix_transpose(parts.z), matrix_transpose(parts.w));
      }
    }
  } else {
    load_y(y_now, 0);
    for (u32 cell = warp; cell < cells; cell += WARPS) {
      u32 rank = cell / row_tiles * 16 + 2 * q, row = cell % row_tiles * 8 + i;
      const float* v = projection.v + u64(job.row + row) * projection.v_stride + rank;
      float4 sum = make_float4(0.f, 0.f, 0.f, 0.f);
      if (row < rows && rank < job.rank) sum.x = v[0];
      if (row < rows && rank + 1 < job.rank) sum.y = v[1];
      if (row < rows && rank + 8 < job.rank) sum.z = v[8];
      if (row < rows && rank + 9 < job.rank) sum.w = v[9];
      operand[cell * 32 + lane] = split(sum, job.scale);
    }
  }

  if (MODE != SHRINK) {
    block_barrier();
    uint2 y_next[YB][NT][2];
#pragma unroll 1
    for (u32 n = 0; n < my_columns; n += YB) {
      load_y(y_next, n + YB);
#pragma unroll
      for (int b = 0; b < YB; ++b)
        if (n + b < my_columns) {
          float sums[2][NT][4];
#pragma unroll
          for (int half = 0; half < 2; ++half)
#pragma unroll
            for (int nt = 0; nt < NT; ++nt)
#pragma unroll
              for (int e = 0; e < 4; ++e) sums[half][nt][e] = 0.f;
#pragma unroll 1
          for (u32 p = 0; p < pairs; ++p) {
            uint4 a, c;
            stream.take(a, c);
#pragma unroll
            for (int nt = 0; nt < NT; ++nt)
              if (nt < row_tiles) {
                uint4 v = operand[(p * row_tiles + nt) * 32 + lane];
                ELEMENT::mma(sums[0][nt], a.x, a.y, c.x, c.y, v.x, v.y);
                ELEMENT::mma(sums[1][nt], a.z, a.w, c.z, c.w, v.x, v.y);
                ELEMENT::mma(sums[0][nt], a.x, a.y, c.x, c.y, v.z, v.w);
                ELEMENT::mma(sums[1][nt], a.z, a.w, c.z, c.w, v.z, v.w);
              }
          }
          u32 column = column_of(n + b);
          if (column < projection.columns)
#pragma unroll
            for (int nt = 0; nt < NT; ++nt)
#pragma unroll
              for (int odd = 0; odd < 2; ++odd)
                if (nt * 8 + 2 * q + odd < rows) {
                  uint2 y = y_now[b][nt][odd];
                  y.x = ELEMENT::pack(ELEMENT::low(y.x) + sums[0][nt][odd], ELEMENT::high(y.x) + sums[0][nt][2 + odd]);
                  y.y = ELEMENT::pack(ELEMENT::low(y.y) + sums[1][nt][odd], ELEMENT::high(y.y) + sums[1][nt][2 + odd]);
                  *(uint2*)(y_base + (nt * 8 + odd) * y_row_bytes + u64(column) * 2) = y;
                }
        }
#pragma unroll
      for (int b = 0; b < YB; ++b)
#pragma unroll
        for (int nt = 0; nt < NT; ++nt)
#pragma unroll
          for (int odd = 0; odd < 2; ++odd) y_now[b][nt][odd] = y_next[b][nt][odd];
    }
  }
  copy_wait<0>();
}

KERNEL void __launch_bounds__(WARPS * 32, MIN_BLOCKS) lora_pair(const GRID_CONSTANT Arguments args) { lora<PAIR>(args); }
KERNEL void __launch_bounds__(WARPS * 32, MIN_BLOCKS) lora_shrink(const GRID_CONSTANT Arguments args) {
  lora<SHRINK>(args);
}
KERNEL void __launch_bounds__(WARPS * 32, MIN_BLOCKS) lora_expand(const GRID_CONSTANT Arguments args) {
  lora<EXPAND>(args);
}
