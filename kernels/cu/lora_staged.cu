// The formula of lora.cu for segments of many rows: x and y, not weights, are the bytes that count.
//
// y[rows of segment i] += scale_i · (x[rows of segment i] · A_i) · B_i
//
// Layouts, jobs and modes are those of lora.cu; so are the operands of the matrix instructions: ranks (shrink) or
// outputs (expand) are their 16 rows, the rows of the batch their 8 columns.
//
// A block takes its slice of x and then its slice of y through one ring of *stages* in shared memory, filled by
// cp.async: a stage holds NT row tiles × `tiles` tiles of 32 columns of x or y (16 KiB), and the weights of the same
// columns, which lie together in memory. y follows x in the ring, so that the memory is busy while the block adds up
// v: the ring is as long as what arrives during an exchange. One barrier a stage: behind it everybody sees the stage,
// and the slot of the stage before is free to be filled again.
//
// Shrink: warps divide the row tiles (NTW each), the ranks, and the columns of a stage, in this order; warps that
// divide the columns add up their sums in shared memory. Exchange: the members of a group own the cells of v in
// turn; each sends its sums of a cell to the owner, which adds them up in the order of the members and sends v,
// rounded for the expand, to the others. Cells travel as in lora.cu: through the shared memory of a cluster, or
// through an inbox in global memory. Expand: warps divide the column tiles of a stage, then the row tiles.
//
// Bound by the bytes of x and y; each x is read once, each y read and written once, weights once a row tile from L2.
#include "lora.cuh"

#ifndef PAIRS  // rank pairs (16 ranks) whose sums a warp holds
#define PAIRS 2
#endif

constexpr u32 NTW = NT < 4 ? NT : 4;              // row tiles whose sums a warp holds
constexpr u32 ROW_WARPS = NT / NTW;               // warps that divide the row tiles in the shrink
constexpr u32 STAGE_TILES = 32 / NT;              // column tiles of a stage, at most
constexpr u32 STAGE_TILES_MIN = NT >= 8 ? 1 : 8 / NT;
constexpr u32 STAGE_WEIGHTS_MAX = 32 << 10;       // bytes of weights above which a stage has fewer tiles
constexpr u32 THREADS = WARPS * 32;

// Returns when at most `pending` of this thread's newest groups are in flight, or fewer.
DEVICE void copy_wait_at_most(u32 pending) {
  switch (pending) {
    case 0: return copy_wait<0>();
    case 1: return copy_wait<1>();
    case 2: return copy_wait<2>();
    case 3: return copy_wait<3>();
    case 4: return copy_wait<4>();
    case 5: return copy_wait<5>();
    case 6: return copy_wait<6>();
    case 7: return copy_wait<7>();
    case 8: return copy_wait<8>();
    case 9: return copy_wait<9>();
    default: return copy_wait<10>();
  }
}

// Where 16 bytes of a stage lie: row `i` of a row tile, quarter `c` of the 64 bytes that it has in column tile `t`.
// Reading 16 bytes a lane (row i, quarter q) or 8 (rows 2q or 2q + 1, eighth i) and writing whole rows all meet 32
// different banks.
DEVICE u32 place(u32 t, u32 i, u32 c) {
  return (i >> 1) * 128 + (((((i & 1) << 2) | c) ^ (i & 6) ^ ((t & 1) << 2)) << 4);
}

// A matrix of 16-bit elements of which a stage takes some rows and columns.
struct Rows {
  const u8* base;  // first row, first column of this member's slice
  u32 row_bytes;
  u32 quarters;    // of 16 bytes that exist from there on in a row
};

struct Stages {
  u8* ring;
  u32 slot_bytes, slots;
  u32 tiles, chunk_bits;  // column tiles of a stage; log2 of the quarters of 16 bytes in a row of it
  u32 in, total;          // stages of x; of x and y
  u32 in_tiles, out_tiles;
  u32 granules, rows, row_tiles;
  const u8 *a, *b;  // weights of this member's slices
  Rows x, y;
  u32 committed;

  DEVICE u8* slot(u32 stage) const { return ring + (stage % slots) * slot_bytes; }
  DEVICE u32 tiles_in(u32 stage) const {
    return stage < in ? min(tiles, in_tiles - stage * tiles) : min(tiles, out_tiles - (stage - in) * tiles);
  }

  DEVICE void ask_weights(u32 stage) {
    const u32 first = (stage < in ? stage : stage - in) * tiles;
    const u8* from = (stage < in ? a : b) + u64(first) * granules * TILE + thread_index() * 16;
    u8* to = slot(stage) + tiles * NT * TILE + thread_index() * 16;
    const u32 bytes = tiles_in(stage) * granules * TILE;
#pragma unroll 2
    for (u32 n = thread_index() * 16; n < bytes; n += THREADS * 16) {
      copy_async(to, from, 16);
      to += THREADS * 16, from += THREADS * 16;
    }
  }

  DEVICE void ask_rows(u32 stage) {
    const bool is_x = stage < in;
    const u32 first = (is_x ? stage : stage - in) * tiles * 4;
    const u32 chunk = thread_index() & ((1 << chunk_bits) - 1);
    const Rows& matrix = is_x ? x : y;
    if (chunk < tiles_in(stage) * 4) {
      const bool here = first + chunk < matrix.quarters;
      const u8* from = matrix.base + (here ? (first + chunk) * 16 : 0);
      u8* to = slot(stage) + (chunk >> 2) * NT * TILE;
#pragma unroll 4
      for (u32 row = thread_index() >> chunk_bits; row < row_tiles * 8; row += THREADS >> chunk_bits) {
        const bool exists = here && row < rows;
        copy_async(to + (row >> 3) * TILE + place(chunk >> 2, row & 7, chunk & 3),
                   from + u64(exists ? row : 0) * matrix.row_bytes, exists ? 16 : 0);
      }
    }
  }

  // Closes the group of the next stage, which may be empty.
  DEVICE void commit() {
    copy_commit();
    ++committed;
  }

  // Fills the slot of a stage that nobody reads any more.
  DEVICE void refill(u32 freed) {
    const u32 stage = freed + slots;
    if (stage < total) {
      ask_weights(stage);
      ask_rows(stage);
    }
    commit();
  }

  DEVICE void wait(u32 stage) const {
    copy_wait_at_most(committed - stage - 1);
    block_barrier();
  }
};

// One unit of weights: two tiles, the second zero where the rank has an odd number of granules.
DEVICE void load_unit(uint4 (&unit)[2], const u8* from, bool both) {
  unit[0] = *(const uint4*)from;
  unit[1] = both ? *(const uint4*)(from + TILE) : make_uint4(0, 0, 0, 0);
}

// This member's partial sums of v over its inputs: cells [k warp][pair][row tile] in `partial`.
template <int PAIRS_HERE>
DEVICE void shrink_stages(Stages& stages, float4* partial, u32 pair_begin, u32 pairs_here, u32 row_tile, u32 k_warp,
                          u32 k_warps, u32 cells) {
  const u32 lane = thread_index() % 32;
  const u32 row_tiles = stages.row_tiles - min(stages.row_tiles, row_tile);  // from this warp's first on
  float sums[PAIRS_HERE][NTW][4];
#pragma unroll
  for (int p = 0; p < PAIRS_HERE; ++p)
#pragma unroll
    for (int n = 0; n < NTW; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) sums[p][n][e] = 0.f;
#pragma unroll 1
  for (u32 stage = 0; stage < stages.in; ++stage) {
    stages.wait(stage);
    if (stage > 0) stages.refill(stage - 1);
    const u8* slot = stages.slot(stage);
    const u8* weights = slot + stages.tiles * NT * TILE + pair_begin * UNIT + lane * 16;
    const u32 tiles = row_tiles > 0 && pairs_here > 0 ? stages.tiles_in(stage) : 0;
#pragma unroll 1
    for (u32 t = k_warp; t < tiles; t += k_warps) {
      uint4 x[NTW];
      const u8* from = slot + (t * NT + row_tile) * TILE + place(t, lane / 4, lane % 4);
#pragma unroll
      for (int n = 0; n < NTW; ++n)
        if (n < row_tiles) x[n] = *(const uint4*)(from + n * TILE);
#pragma unroll
      for (int p = 0; p < PAIRS_HERE; ++p)
        if (p < pairs_here) {
          uint4 unit[2];
          load_unit(unit, weights + (t * stages.granules + 2 * p) * TILE, 2 * (pair_begin + p) + 1 < stages.granules);
#pragma unroll
          for (int n = 0; n < NTW; ++n)
            if (n < row_tiles) ELEMENT::mma(sums[p][n], unit[0].x, unit[1].x, unit[0].y, unit[1].y, x[n].x, x[n].y);
#pragma unroll
          for (int n = 0; n < NTW; ++n)
            if (n < row_tiles) ELEMENT::mma(sums[p][n], unit[0].z, unit[1].z, unit[0].w, unit[1].w, x[n].z, x[n].w);
        }
    }
  }
#pragma unroll
  for (int p = 0; p < PAIRS_HERE; ++p)
    if (p < pairs_here)
#pragma unroll
      for (int n = 0; n < NTW; ++n)
        if (n < row_tiles)
          partial[(k_warp * cells + (pair_begin + p) * stages.row_tiles + row_tile + n) * 32 + lane] =
              make_float4(sums[p][n][0], sums[p][n][1], sums[p][n][2], sums[p][n][3]);
}

// y += v·B over this member's outputs.
DEVICE void expand_stages(Stages& stages, const uint4* operand, u32 pairs, u8* y, u32 columns, bool refilled) {
  const u32 lane = thread_index() % 32, warp = thread_index() / 32, i = lane / 4, q = lane % 4;
  // Warps divide the column tiles; where there are fewer of those, also the row tiles.
  const u32 column_warps = min(stages.tiles, WARPS), row_parts = WARPS / column_warps;
  const u32 column_warp = warp % column_warps, row_tile = warp / column_warps * (NT / row_parts);
  const u32 row_tiles = min(NT / row_parts, stages.row_tiles - min(stages.row_tiles, row_tile));
  const u32 rows = stages.rows - min(stages.rows, row_tile * 8 + 2 * q);  // from this lane's first on
  y += u64(row_tile * 8 + 2 * q) * stages.y.row_bytes + 8 * i;
  const u64 row_bytes = stages.y.row_bytes;
#pragma unroll 1
  for (u32 stage = stages.in; stage < stages.total; ++stage) {
    stages.wait(stage);
    if (stage > stages.in || !refilled) {
      if (stage > 0) stages.refill(stage - 1);
    }
    const u8* slot = stages.slot(stage);
    const u8* weights = slot + stages.tiles * NT * TILE + lane * 16;
    const u32 tiles = row_tiles > 0 ? stages.tiles_in(stage) : 0;
#pragma unroll 1
    for (u32 t = column_warp; t < tiles; t += column_warps) {
      float sums[2][NTW][4];
#pragma unroll
      for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int n = 0; n < NTW; ++n)
#pragma unroll
          for (int e = 0; e < 4; ++e) sums[half][n][e] = 0.f;
      const uint4* v = operand + row_tile * 32 + lane;
      const u8* unit_from = weights + t * stages.granules * TILE;
#pragma unroll 2
      for (u32 pair = 0; pair < pairs; ++pair) {
        uint4 unit[2];
        load_unit(unit, unit_from + pair * UNIT, 2 * pair + 1 < stages.granules);
        uint4 part[NTW];
#pragma unroll
        for (int n = 0; n < NTW; ++n)
          if (n < row_tiles) part[n] = v[(pair * stages.row_tiles + n) * 32];
#pragma unroll
        for (int n = 0; n < NTW; ++n)
          if (n < row_tiles) {
            ELEMENT::mma(sums[0][n], unit[0].x, unit[0].y, unit[1].x, unit[1].y, part[n].x, part[n].y);
            ELEMENT::mma(sums[1][n], unit[0].z, unit[0].w, unit[1].z, unit[1].w, part[n].x, part[n].y);
          }
#pragma unroll
        for (int n = 0; n < NTW; ++n)
          if (n < row_tiles) {
            ELEMENT::mma(sums[0][n], unit[0].x, unit[0].y, unit[1].x, unit[1].y, part[n].z, part[n].w);
            ELEMENT::mma(sums[1][n], unit[0].z, unit[0].w, unit[1].z, unit[1].w, part[n].z, part[n].w);
          }
      }
      const u32 column = ((stage - stages.in) * stages.tiles + t) * 32;
      if (column + 4 * i >= columns) continue;
      const u8* from = slot + (t * NT + row_tile) * TILE + (i & 1) * 8;
#pragma unroll
      for (int n = 0; n < NTW; ++n)
#pragma unroll
        for (int odd = 0; odd < 2; ++odd)
          if (n < row_tiles && n * 8 + odd < (int)rows) {
            uint2 before = *(const uint2*)(from + n * TILE + place(t, 2 * q + odd, i >> 1));
            uint2 after;
            after.x = ELEMENT::pack(ELEMENT::low(before.x) + sums[0][n][odd], ELEMENT::high(before.x) + sums[0][n][2 + odd]);
            after.y = ELEMENT::pack(ELEMENT::low(before.y) + sums[1][n][odd], ELEMENT::high(before.y) + sums[1][n][2 + odd]);
            *(uint2*)(y + (n * 8 + odd) * row_bytes + u64(column) * 2) = after;
          }
    }
  }
}

template <Mode MODE>
DEVICE void lora(const Arguments& args) {
  dependents_trigger();
  const u32 block = block_index();
  Job job;
  job.rows = 0;
  if (block < args.job_count) job = job_of(args.jobs, block);
  if (job.rows == 0) {
    dependency_wait();
    return;
  }
  const Projection& projection = args.projections[job.projection];
  const u32 lane = thread_index() % 32, warp = thread_index() / 32;
  const u32 i = lane / 4, q = lane % 4;
  const u32 granules = (job.rank + 7) / 8, pairs = (granules + 1) / 2;
  const u32 row_tiles = (job.rows + 7) / 8;
  const u32 cells = pairs * row_tiles;

  // Warps of the shrink: row tiles, then ranks (two pairs a warp while warps last), then columns.
  u32 rank_bits = 0;
  while ((2u << rank_bits) < pairs && (ROW_WARPS << rank_bits) < WARPS) ++rank_bits;
  const u32 rank_warps = 1u << rank_bits, k_warps = WARPS / ROW_WARPS / rank_warps;
  const u32 k_warp = warp % k_warps, rank_warp = warp / k_warps % rank_warps;
  const u32 row_tile = warp / k_warps / rank_warps * NTW;
  const u32 pairs_each = (pairs + rank_warps - 1) >> rank_bits;
  const u32 pair_begin = min(pairs, rank_warp * pairs_each), my_pairs = min(pairs_each, pairs - pair_begin);

  Stages stages;
  stages.tiles = STAGE_TILES;
  while (stages.tiles > STAGE_TILES_MIN && stages.tiles * granules * TILE > STAGE_WEIGHTS_MAX) stages.tiles /= 2;
  stages.chunk_bits = 2;
  while ((1u << stages.chunk_bits) < stages.tiles * 4) ++stages.chunk_bits;
  stages.ring = shared_base();
  stages.slot_bytes = stages.tiles * (NT + granules) * TILE;
  stages.slots = args.depth * 1024 / stages.slot_bytes;
  stages.in_tiles = MODE == EXPAND ? 0 : job.k_tiles;
  stages.out_tiles = MODE == SHRINK ? 0 : job.column_tiles;
  stages.in = (stages.in_tiles + stages.tiles - 1) / stages.tiles;
  stages.total = stages.in + (stages.out_tiles + stages.tiles - 1) / stages.tiles;
  stages.granules = granules;
  stages.rows = job.rows;
  stages.row_tiles = row_tiles;
  stages.committed = 0;
  const u8* weights = (const u8*)job.weights;
  stages.a = weights + (projection.a_tiles + job.k_tile) * granules * TILE;
  stages.b = weights + (projection.b_tiles + job.column_tile) * granules * TILE;
  const u32 ahead = min(stages.slots, stages.total);
#pragma unroll 1
  for (u32 stage = 0; stage < ahead; ++stage) stages.ask_weights(stage);

  float4* const partial = (float4*)(shared_base() + args.depth * 1024);  // [k warp][cell][lane]
  const u32 members = job.members, me = job.member;
  const bool cluster = MODE != EXPAND && members > 1 && args.cluster;
  const u32 owned_max = (cells + members - 1) / members, owned = cells > me ? (cells - me - 1) / members + 1 : 0;
  float4* const gathered = partial + (MODE == EXPAND ? 0 : k_warps * cells * 32);       // [member][owned cell][lane]
  uint4* const operand = (uint4*)(gathered + (cluster ? members * owned_max * 32 : 0));  // [cell][lane]
  u64* const barriers = (u64*)(operand + cells * 32);
  if (cluster) {
    if (thread_index() == 0) {
      barrier_init(barriers, (members - 1) * owned * TILE);
      barrier_init(barriers + 1, MODE == PAIR ? (cells - owned) * TILE : 0);
    }
    cluster_arrive();
  }
  stages.x.row_bytes = args.x_stride * 2;
  stages.x.base = (const u8*)args.x + u64(job.row) * stages.x.row_bytes + job.k_tile * 64;
  stages.x.quarters = args.inputs / 8 - min(args.inputs / 8, job.k_tile * 4);
  stages.y.row_bytes = projection.y_stride * 2;
  u8* const y = (u8*)projection.y + u64(job.row) * stages.y.row_bytes + job.column_tile * 64;
  stages.y.base = y;
  stages.y.quarters = projection.columns / 8 - min(projection.columns / 8, job.column_tile * 4);
  if (cluster) cluster_wait();

  dependency_wait();

#pragma unroll 1
  for (u32 stage = 0; stage < stages.slots; ++stage) {
    if (stage < ahead) stages.ask_rows(stage);
    stages.commit();
  }

  if (MODE != EXPAND) {
    if (my_pairs <= 1)
      shrink_stages<1>(stages, partial, pair_begin, my_pairs, row_tile, k_warp, k_warps, cells);
    else if (PAIRS == 2 || my_pairs == 2)
      shrink_stages<2>(stages, partial, pair_begin, my_pairs, row_tile, k_warp, k_warps, cells);
    else
      shrink_stages<PAIRS>(stages, partial, pair_begin, my_pairs, row_tile, k_warp, k_warps, cells);
    block_barrier();
    if (stages.in > 0) stages.refill(stages.in - 1);

    // Sums of other members' cells leave.
    auto scatter = [&](u32 reader, u32 writer, u32 index) {
      return args.inbox + (u64(job.inbox) + (reader * members + writer) * owned_max + index) * 32 + lane;
    };
    auto spread = [&](u32 reader, u32 cell) {
      return args.inbox + (u64(job.inbox) + members * members * owned_max + reader * cells + cell) * 32 + lane;
    };
    for (u32 cell = warp; cell < cells && members > 1; cell += WARPS) {
      const u32 owner = cell % members, index = cell / members;
      if (owner == me) continue;
      float4 sum = sum_of(partial + cell * 32 + lane, k_warps, cells * 32);
      if (cluster)
        store_async(gathered + (me * owned_max + index) * 32 + lane, barriers, owner, sum);
      else
        store_relaxed(scatter(owner, me, index), no_empty(sum));
    }

    // Cells of our own: added up in the order of the members.
    if (cluster) barrier_wait(barriers);
    for (u32 index = warp; index < owned; index += WARPS) {
      const u32 cell = index * members + me;
      const float4 mine = sum_of(partial + cell * 32 + lane, k_warps, cells * 32);
      float4 sum = mine;
      if (cluster) {
        const float4* from = gathered + index * 32 + lane;
        sum = me == 0 ? mine : from[0];
#pragma unroll 4
        for (u32 writer = 1; writer < members; ++writer)
          sum = add(sum, writer == me ? mine : from[writer * owned_max * 32]);
      } else if (members > 1) {
        sum = make_float4(0.f, 0.f, 0.f, 0.f);
        for (u32 first = 0; first < members; first += 8) {
          float4* from[8];
          float4 values[8];
#pragma unroll
          for (int n = 0; n < 8; ++n) {
            u32 writer = first + n;
            from[n] = writer < members && writer != me ? scatter(me, writer, index) : nullptr;
            values[n] = mine;
          }
          receive(from, values);
#pragma unroll
          for (int n = 0; n < 8; ++n)
            if (first + n < members) sum = add(sum, values[n]);
        }
      }
      if (MODE == SHRINK) {
        u32 rank = cell / row_tiles * 16 + i, row = cell % row_tiles * 8 + 2 * q;
        float* v = projection.v + u64(job.row + row) * projection.v_stride + rank;
        if (row < job.rows && rank < job.rank) v[0] = sum.x;
        if (row < job.rows && rank + 8 < job.rank) v[8] = sum.z;
        v += projection.v_stride;
        if (row + 1 < job.rows && rank < job.rank) v[0] = sum.y;
        if (row + 1 < job.rows && rank + 8 < job.rank) v[8] = sum.w;
      } else {
        uint4 parts = split(sum, job.scale);
        parts = make_uint4(matrix_transpose(parts.x), matrix_transpose(parts.y), matrix_transpose(parts.z),
                           matrix_transpose(parts.w));
        operand[cell * 32 + lane] = parts;
        const float4 sent =
            make_float4(bits_float(parts.x), bits_float(parts.y), bits_float(parts.z), bits_float(parts.w));
        for (u32 reader = 0; reader < members; ++reader) {
          if (reader == me) continue;
          if (cluster)
            store_async((float4*)operand + cell * 32 + lane, barriers + 1, reader, sent);
          else
            store_relaxed(spread(reader, cell), no_empty(sent));
        }
      }
    }

    // v of the other members' cells.
    if (MODE == PAIR && members > 1) {
      if (cluster) {
        barrier_wait(barriers + 1);
      } else {
        for (u32 first = warp; first < cells; first += 4 * WARPS) {
          float4* from[4];
          float4 values[4];
#pragma unroll
          for (int n = 0; n < 4; ++n) {
            u32 cell = first + n * WARPS;
            from[n] = cell < cells && cell % members != me ? spread(me, cell) : nullptr;
          }
          receive(from, values);
#pragma unroll
          for (int n = 0; n < 4; ++n)
            if (from[n])
              operand[(first + n * WARPS) * 32 + lane] = make_uint4(float_bits(values[n].x), float_bits(values[n].y),
                                                                    float_bits(values[n].z), float_bits(values[n].w));
        }
      }
    }
  } else {
    for (u32 cell = warp; cell < cells; cell += WARPS) {
      u32 rank = cell / row_tiles * 16 + 2 * q, row = cell % row_tiles * 8 + i;
      const float* v = projection.v + u64(job.row + row) * projection.v_stride + rank;
      float4 sum = make_float4(0.f, 0.f, 0.f, 0.f);
      if (row < job.rows && rank < job.rank) sum.x = v[0];
      if (row < job.rows && rank + 1 < job.rank) sum.y = v[1];
      if (row < job.rows && rank + 8 < job.rank) sum.z = v[8];
      if (row < job.rows && rank + 9 < job.rank) sum.w = v[9];
      operand[cell * 32 + lane] = split(sum, job.scale);
    }
  }

  // The first stage's barrier makes v visible to every warp.
  if (MODE != SHRINK) expand_stages(stages, operand, pairs, y, projection.columns - min(projection.columns, job.column_tile * 32), MODE == PAIR);
  copy_wait<0>();
}

KERNEL void __launch_bounds__(THREADS, MIN_BLOCKS) lora_pair(const GRID_CONSTANT Arguments args) { lora<PAIR>(args); }
KERNEL void __launch_bounds__(THREADS, MIN_BLOCKS) lora_shrink(const GRID_CONSTANT Arguments args) {
  lora<SHRINK>(args);
}
KERNEL void __launch_bounds__(THREADS, MIN_BLOCKS) lora_expand(const GRID_CONSTANT Arguments args) {
  lora<EXPAND>(args);
}
