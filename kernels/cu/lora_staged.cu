// The formula of lora.cu for segments of many rows: x and y, not weights, are the bytes that count.
//
// y[rows of segment i] += scale_i · (x[rows of segment i] · A_i) · B_i
//
// Layouts, jobs and modes are those of lora.cu; so are the operands of the matrix instructions: ranks (shrink) or
// outputs (expand) are their 16 rows, the rows of the batch their 8 columns.
//
// A block takes its slice of x and then its slice of y through one ring of *stages* in shared memory: a stage holds
// NT row tiles × `tiles` tiles of 32 columns of x or y (16 KiB), and the weights of the same columns, which lie
// together in memory. y follows x in the ring, so that the memory is busy while the block adds up v. All threads copy
// rows with cp.async. On Hopper one bulk copy brings the weights, and barriers in shared memory tell when a stage is
// full and when all warps have left it, so that a warp waits for no other to go on; before Hopper a block barrier a
// stage does both. (A bulk copy for each row was tried: one takes some 36 ns, however short, so that rows of 256 bytes
// came at 7 GB/s a multiprocessor.)
//
// Shrink: warps divide the row tiles (NTW each), the ranks, and the columns of a stage, in this order; warps that
// divide the columns add up their sums in shared memory. Exchange: in turns (lora.cuh). Expand: warps divide the
// column tiles of a stage, then the row tiles.
//
// Rows that a segment does not have are multiplied too, with whatever their place holds: they are columns of the
// products that nobody reads. Columns that x does not have are masked: weights there are zero, but zero times
// anything is not.
//
// Bound by the bytes of x and y; each x is read once, each y read and written once, weights once a row tile from L2.
#include "lora.cuh"

#ifndef PAIRS  // rank pairs (16 ranks) whose sums a warp holds
#define PAIRS 2
#endif
#ifndef BULK  // whether barriers in shared memory and bulk copies serve the ring: on Hopper
#define BULK 0
#endif

constexpr u32 NTW = NT < 4 ? NT : 4;             // row tiles whose sums a warp holds
constexpr u32 ROW_WARPS = NT / NTW;              // warps that divide the row tiles in the shrink
constexpr u32 STAGE_TILES = 32 / NT;             // column tiles of a stage, at most
constexpr u32 STAGE_TILES_MIN = NT >= 8 ? 1 : 8 / NT;
constexpr u32 STAGE_WEIGHTS_MAX = 32 << 10;      // bytes of weights above which a stage has fewer tiles
constexpr u32 SLOTS_MAX = 16;
constexpr u32 BARRIERS = SLOTS_MAX * 2 * 8;      // bytes before the ring
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
    default: return copy_wait<8>();
  }
}

// A matrix of 16-bit elements of which a stage takes some rows and columns.
struct Rows {
  const u8* base;  // first row, first column of this member's slice
  u32 row_bytes;
  u32 quarters;    // of 16 bytes that exist from there on in a row
};

struct Stages {
  u32 slot_bytes, slots;
  u32 tiles;      // column tiles of a stage
  u32 in, total;  // stages of x; of x and y
  u32 in_tiles, out_tiles;
  u32 granules, rows, row_tiles;
  const u8 *a, *b;  // weights of this member's slices
  Rows x, y;
  u32 asked, asked_slot, asked_parity;  // the next stage to be asked for
  u32 stage, slot, parity;              // the stage that this warp is at

  // Barriers of a slot: it is full, it is empty.
  DEVICE u64* full(u32 slot) const { return (u64*)shared_base() + slot; }
  DEVICE u64* empty(u32 slot) const { return (u64*)shared_base() + SLOTS_MAX + slot; }
  DEVICE u8* place(u32 slot) const { return shared_base() + BARRIERS + slot * slot_bytes; }

  // Bytes from one row of a stage to the next. Reading 16 bytes a lane of x (row i, quarter q) and 8 bytes a lane of y
  // (rows 2q or 2q + 1, eighth i) both meet 32 different banks.
  DEVICE u32 x_pitch() const { return tiles * 64 + (tiles & 1 ? 0 : 64); }
  DEVICE u32 y_pitch() const { return tiles * 64 + 16; }
  DEVICE u32 weights_at() const { return NT * 8 * (tiles * 64 + 64); }
  DEVICE u32 tiles_in(u32 stage) const {
    return stage < in ? min(tiles, in_tiles - stage * tiles) : min(tiles, out_tiles - (stage - in) * tiles);
  }
  DEVICE const u8* here() const { return place(slot); }

  // Weights of the next stage to be asked for, which a call of `ask_rows` completes.
  DEVICE void ask_weights(u32 stage, u32 slot) const {
    const u32 first = (stage < in ? stage : stage - in) * tiles, bytes = tiles_in(stage) * granules * TILE;
    const u8* from = (stage < in ? a : b) + u64(first) * granules * TILE;
    u8* to = place(slot) + weights_at();
    if (BULK) {
      if (thread_index() == 0) {
        phases_announce(full(slot), bytes);
        phases_arrive(full(slot));
        copy_bulk(to, from, bytes, full(slot));
      }
    } else {
#pragma unroll 2
      for (u32 n = thread_index() * 16; n < bytes; n += THREADS * 16) copy_async(to + n, from + n, 16);
    }
  }

  DEVICE void ask_rows(u32 stage, u32 slot) const {
    const bool is_x = stage < in;
    const u32 first = (is_x ? stage : stage - in) * tiles * 4, pitch = is_x ? x_pitch() : y_pitch();
    const u32 quarters = min(tiles_in(stage) * 4, (is_x ? x.quarters : y.quarters) - first);
    const u32 row_bytes = is_x ? x.row_bytes : y.row_bytes;
    const u8* from = (is_x ? x.base : y.base) + first * 16;
    u8* to = place(slot);
    const u32 chunk = thread_index() & (tiles * 4 - 1), step = THREADS / (tiles * 4);
    const u32 row = thread_index() / (tiles * 4);
    from += u64(row) * row_bytes + chunk * 16;
    to += row * pitch + chunk * 16;
    const u64 from_step = u64(step) * row_bytes;
    const u32 to_step = step * pitch;
    if (chunk < quarters)
#pragma unroll 4
      for (u32 n = row; n < rows; n += step) {
        copy_async(to, from, 16);
        from += from_step;
        to += to_step;
      }
    if (BULK)
      phases_arrive_with_copies(full(slot));
    else
      copy_commit();
  }

  DEVICE void advance_asked() {
    ++asked;
    if (++asked_slot == slots) asked_slot = 0, asked_parity ^= 1;
  }

  // Asks for the next stage, in the slot of the oldest one, once all warps have left that.
  DEVICE void refill() {
    if (BULK) {
      if (asked >= total) return;
      phases_wait(empty(asked_slot), asked_parity);
    }
    if (asked < total) {
      ask_weights(asked, asked_slot);
      ask_rows(asked, asked_slot);
    } else if (!BULK) {
      copy_commit();
    }
    advance_asked();
  }

  // The stage that this warp is at is here. Before Hopper: and all warps have left the one before.
  DEVICE void wait() const {
    if (BULK) {
      phases_wait(full(slot), parity);
    } else {
      copy_wait_at_most(asked - stage - 1);
      block_barrier();
    }
  }

  // This warp has read it.
  DEVICE void leave() {
    if (BULK) {
      warp_barrier();
      if (thread_index() % 32 == 0) phases_arrive(empty(slot));
    }
    ++stage;
    if (++slot == slots) slot = 0, parity ^= 1;
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
  const u32 lane = thread_index() % 32, q = lane % 4;
  const u32 row_tiles = stages.row_tiles - min(stages.row_tiles, row_tile);  // from this warp's first on
  const u32 pitch = stages.x_pitch();
  const u32 x_at = (row_tile * 8 + lane / 4) * pitch + q * 16;
  const u32 weights_at = stages.weights_at() + pair_begin * UNIT + lane * 16;
  float sums[PAIRS_HERE][NTW][4];
#pragma unroll
  for (int p = 0; p < PAIRS_HERE; ++p)
#pragma unroll
    for (int n = 0; n < NTW; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) sums[p][n][e] = 0.f;
#pragma unroll 1
  while (stages.stage < stages.in) {
    stages.wait();
    if (stages.stage > 0) stages.refill();
    const u8* slot = stages.here();
    const u32 tiles = row_tiles > 0 && pairs_here > 0 ? stages.tiles_in(stages.stage) : 0;
    const u32 quarters = stages.x.quarters - stages.stage * stages.tiles * 4;  // that exist from this stage on
#pragma unroll 1
    for (u32 t = k_warp; t < tiles; t += k_warps) {
      uint4 x[NTW];
      const u8* x_from = slot + x_at + t * 64;
#pragma unroll
      for (int n = 0; n < NTW; ++n, x_from += 8 * pitch) x[n] = *(const uint4*)x_from;
      if (t * 4 + 4 > quarters && t * 4 + q >= quarters)
#pragma unroll
        for (int n = 0; n < NTW; ++n) x[n] = make_uint4(0, 0, 0, 0);
#pragma unroll
      for (int p = 0; p < PAIRS_HERE; ++p)
        if (p == 0 || p < pairs_here) {
          uint4 unit[2];
          load_unit(unit, slot + weights_at + (t * stages.granules + 2 * p) * TILE,
                    2 * (pair_begin + p) + 1 < stages.granules);
#pragma unroll
          for (int n = 0; n < NTW; ++n)
            ELEMENT::mma(sums[p][n], unit[0].x, unit[1].x, unit[0].y, unit[1].y, x[n].x, x[n].y);
#pragma unroll
          for (int n = 0; n < NTW; ++n)
            ELEMENT::mma(sums[p][n], unit[0].z, unit[1].z, unit[0].w, unit[1].w, x[n].z, x[n].w);
        }
    }
    stages.leave();
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

// y += v·B over this member's outputs. PAIRS_HERE: of the rank, held in registers; or 0 for any number.
template <int PAIRS_HERE>
DEVICE void expand_stages(Stages& stages, const uint4* operand, u32 pairs, bool refilled) {
  const u32 lane = thread_index() % 32, warp = thread_index() / 32, i = lane / 4, q = lane % 4;
  // Warps divide the column tiles; where there are fewer of those, also the row tiles.
  const u32 column_warps = min(stages.tiles, WARPS), row_parts = WARPS / column_warps;
  const u32 column_warp = warp % column_warps, row_tile = warp / column_warps * (NT / row_parts);
  const u32 row_tiles = min(NT / row_parts, stages.row_tiles - min(stages.row_tiles, row_tile));
  const u32 rows = min(row_tiles * 8, stages.rows - min(stages.rows, row_tile * 8));
  const u32 lane_rows = rows - min(rows, 2 * q);  // from this lane's first on
  const u32 row_bytes = stages.y.row_bytes, pitch = stages.y_pitch();
  u8* const y = (u8*)stages.y.base + u64(row_tile * 8 + 2 * q) * row_bytes + 8 * i;
  const u32 y_at = (row_tile * 8 + 2 * q) * pitch + 8 * i;
  // Row tiles that do not exist are computed as the last one that does.
  u32 cell[NTW];
#pragma unroll
  for (int n = 0; n < NTW; ++n) cell[n] = (row_tile + min((u32)n, row_tiles - min(row_tiles, 1u))) * 32 + lane;
  uint4 held[NTW];
#pragma unroll
  for (int n = 0; n < NTW; ++n)
    if (PAIRS_HERE == 1 && row_tiles > 0) held[n] = operand[cell[n]];
#pragma unroll 1
  while (stages.stage < stages.total) {
    stages.wait();
    if (stages.stage > stages.in || (stages.stage > 0 && !refilled)) stages.refill();
    const u8* slot = stages.here();
    const u32 tiles = row_tiles > 0 ? stages.tiles_in(stages.stage) : 0;
    const u32 first = (stages.stage - stages.in) * stages.tiles;  // column tile
#pragma unroll 1
    for (u32 t = column_warp; t < tiles; t += column_warps) {
      float sums[2][NTW][4];
#pragma unroll
      for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int n = 0; n < NTW; ++n)
#pragma unroll
          for (int e = 0; e < 4; ++e) sums[half][n][e] = 0.f;
      const u8* weights = slot + stages.weights_at() + t * stages.granules * TILE + lane * 16;
      const uint4* v = operand;
#pragma unroll 1
      for (u32 pair = 0; pair < (PAIRS_HERE == 1 ? 1 : pairs); ++pair) {
        uint4 unit[2], part[NTW];
        load_unit(unit, weights + pair * UNIT, 2 * pair + 1 < stages.granules);
#pragma unroll
        for (int n = 0; n < NTW; ++n) part[n] = PAIRS_HERE == 1 ? held[n] : v[cell[n]];
        v += stages.row_tiles * 32;
#pragma unroll
        for (int n = 0; n < NTW; ++n) {
          ELEMENT::mma(sums[0][n], unit[0].x, unit[0].y, unit[1].x, unit[1].y, part[n].x, part[n].y);
          ELEMENT::mma(sums[1][n], unit[0].z, unit[0].w, unit[1].z, unit[1].w, part[n].x, part[n].y);
        }
#pragma unroll
        for (int n = 0; n < NTW; ++n) {
          ELEMENT::mma(sums[0][n], unit[0].x, unit[0].y, unit[1].x, unit[1].y, part[n].z, part[n].w);
          ELEMENT::mma(sums[1][n], unit[0].z, unit[0].w, unit[1].z, unit[1].w, part[n].z, part[n].w);
        }
      }
      // Eight bytes of y a lane exist if the quarter of which they are a half does.
      if ((first + t) * 4 + i / 2 >= stages.y.quarters) continue;
      const u8* from = slot + y_at + t * 64;
      u8* to = y + u64(first + t) * 64;
#pragma unroll
      for (int n = 0; n < NTW; ++n)
#pragma unroll
        for (int odd = 0; odd < 2; ++odd)
          if (n * 8 + odd < lane_rows) {
            const uint2 before = *(const uint2*)(from + (n * 8 + odd) * pitch);
            uint2 after;
            after.x = ELEMENT::pack(ELEMENT::low(before.x) + sums[0][n][odd], ELEMENT::high(before.x) + sums[0][n][2 + odd]);
            after.y = ELEMENT::pack(ELEMENT::low(before.y) + sums[1][n][odd], ELEMENT::high(before.y) + sums[1][n][2 + odd]);
            *(uint2*)(to + u64(n * 8 + odd) * row_bytes) = after;
          }
    }
    stages.leave();
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
    if (waits_for_predecessor(args)) dependency_wait();
    return;
  }
  const Projection& projection = args.projections[job.projection];
  const u32 lane = thread_index() % 32, warp = thread_index() / 32;
  const u32 granules = (job.rank + 7) / 8, pairs = (granules + 1) / 2;
  const u32 row_tiles = (job.rows + 7) / 8;
  const u32 cells = pairs * row_tiles;

  Stages stages;
  stages.tiles = STAGE_TILES;
  while (stages.tiles > STAGE_TILES_MIN && stages.tiles * granules * TILE > STAGE_WEIGHTS_MAX) stages.tiles /= 2;
  stages.slot_bytes = stages.weights_at() + stages.tiles * granules * TILE;
  stages.slots = min(args.depth * 1024 / stages.slot_bytes, SLOTS_MAX);
  stages.in_tiles = MODE == EXPAND ? 0 : job.k_tiles;
  stages.out_tiles = MODE == SHRINK ? 0 : job.column_tiles;
  stages.in = (stages.in_tiles + stages.tiles - 1) / stages.tiles;
  stages.total = stages.in + (stages.out_tiles + stages.tiles - 1) / stages.tiles;
  stages.granules = granules;
  stages.rows = job.rows;
  stages.row_tiles = row_tiles;
  const u8* weights = (const u8*)job.weights;
  stages.a = weights + (projection.a_tiles + job.k_tile) * granules * TILE;
  stages.b = weights + (projection.b_tiles + job.column_tile) * granules * TILE;
  stages.stage = stages.slot = stages.parity = 0;
  stages.asked = stages.asked_slot = stages.asked_parity = 0;
  if (BULK && thread_index() == 0)
    for (u32 slot = 0; slot < stages.slots; ++slot) {
      phases_init(stages.full(slot), THREADS + 1);  // all for their rows, one for the weights
      phases_init(stages.empty(slot), WARPS);
    }
  const u32 ahead = min(stages.slots, stages.total);
#pragma unroll 1
  for (u32 stage = 0; stage < ahead; ++stage) stages.ask_weights(stage, stage);

  // Warps of the shrink: row tiles, then ranks (PAIRS a warp while warps last), then columns.
  u32 rank_bits = 0;
  while ((u32(PAIRS) << rank_bits) < pairs && (ROW_WARPS << rank_bits) < WARPS) ++rank_bits;
  const u32 rank_warps = 1u << rank_bits, k_warps = WARPS / ROW_WARPS / rank_warps;
  const u32 k_warp = warp % k_warps, rank_warp = warp / k_warps % rank_warps;
  const u32 row_tile = warp / k_warps / rank_warps * NTW;
  const u32 pairs_each = (pairs + rank_warps - 1) >> rank_bits;
  const u32 pair_begin = min(pairs, rank_warp * pairs_each), my_pairs = min(pairs_each, pairs - pair_begin);

  float4* const partial = (float4*)(shared_base() + BARRIERS + args.depth * 1024);  // [k warp][cell][lane]
  const bool cluster = MODE != EXPAND && job.members > 1 && args.cluster;
  const Room room = room_in_turns<MODE>(partial, job, k_warps, cells, cluster);
  if (cluster && thread_index() == 0) begin_turns<MODE>(job, room, cells);
  if (cluster) cluster_arrive();
  stages.x.row_bytes = args.x_stride * 2;
  stages.x.base = (const u8*)args.x + u64(job.row) * stages.x.row_bytes + job.k_tile * 64;
  stages.x.quarters = args.inputs / 8 - min(args.inputs / 8, job.k_tile * 4);
  stages.y.row_bytes = projection.y_stride * 2;
  stages.y.base = (const u8*)projection.y + u64(job.row) * stages.y.row_bytes + job.column_tile * 64;
  stages.y.quarters = projection.columns / 8 - min(projection.columns / 8, job.column_tile * 4);
  if (BULK) block_barrier();
  if (cluster) cluster_wait();

  wait_for_operands(args);

#pragma unroll 1
  for (u32 stage = 0; stage < stages.slots; ++stage) {
    if (stage < ahead) {
      stages.ask_rows(stage, stage);
    } else if (!BULK) {
      copy_commit();
    }
  }
  // What is asked for next goes to slot 0, when the warps have left it for the first time.
  stages.asked = stages.slots;

  if (MODE != EXPAND) {
    if (my_pairs <= 1)
      shrink_stages<1>(stages, partial, pair_begin, my_pairs, row_tile, k_warp, k_warps, cells);
    else
      shrink_stages<PAIRS>(stages, partial, pair_begin, my_pairs, row_tile, k_warp, k_warps, cells);
    block_barrier();
    if (stages.in > 0) stages.refill();
    exchange_in_turns<MODE, 4, 4>(job, projection, args.inbox, room, k_warps, row_tiles, cells, [] {});
  } else {
    for (u32 cell = warp; cell < cells; cell += WARPS)
      room.operand[cell * 32 + lane] = split(v_cell(job, projection, row_tiles, cell), job.scale);
  }
  if (MODE != SHRINK) {
    block_barrier();
    if (pairs == 1)
      expand_stages<1>(stages, room.operand, pairs, MODE == PAIR);
    else
      expand_stages<0>(stages, room.operand, pairs, MODE == PAIR);
  }
  copy_wait<0>();
  if (args.ready && waits_for_predecessor(args)) dependency_wait();
}

KERNEL void __launch_bounds__(THREADS, MIN_BLOCKS) lora_pair(const GRID_CONSTANT Arguments args) { lora<PAIR>(args); }
KERNEL void __launch_bounds__(THREADS, MIN_BLOCKS) lora_shrink(const GRID_CONSTANT Arguments args) {
  lora<SHRINK>(args);
}
KERNEL void __launch_bounds__(THREADS, MIN_BLOCKS) lora_expand(const GRID_CONSTANT Arguments args) {
  lora<EXPAND>(args);
}
