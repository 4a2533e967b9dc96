// The formula of lora.cu for segments of many rows: x and y, not weights, are the bytes that count.
//
// y[rows of segment i] += scale_i · (x[rows of segment i] · A_i) · B_i
//
// Layouts, jobs and modes are those of lora.cu. Here the rows of the batch, 16 of them, are the rows of the matrix
// instructions, and ranks (shrink) or outputs (expand) their 8 columns: a lane's 16 bytes of a weight tile are the right
// operands of two of them as they lie, one granule each, and it is x and v that are put together from two rows each, once
// for all ranks. The expand multiplies in four parts, outputs 4n + j for each j, so that a lane has 8 outputs in a row.
//
// A block takes its slice of x and then its slice of y through one ring of *stages* in shared memory (lora_stages.cuh): a
// stage holds NT row tiles × `tiles` tiles of 32 columns of x or y (16 KiB), and the weights of the same columns, which lie
// together in memory. y follows x in the ring, so that the memory is busy while the block adds up v.
//
// Shrink: every warp multiplies all rows, so that it reads each weight of a stage once; warps divide the ranks, then the
// columns of a stage, and those that divide the columns add up their sums in shared memory. Exchange: in turns
// (lora_exchange.cuh). Expand: warps divide the column tiles of a stage, then the rows. On Hopper a few further warps copy
// and do nothing else, so that a warp that multiplies asks for nothing.
//
// Rows that a segment does not have are multiplied too, with whatever their place holds: they are rows of the products that
// nobody reads. Columns that x does not have are masked: weights there are zero, but zero times anything is not.
//
// Bound by the bytes of x and y; each x is read once, each y read and written once, weights once a row tile from L2.
#include "lora.cuh"
#include "lora_exchange.cuh"

#ifndef NT  // row tiles of 8 rows that one group holds: an even number
#define NT 2
#endif
#ifndef PAIRS  // rank pairs (16 ranks) whose sums a warp holds
#define PAIRS 2
#endif
#ifndef BULK  // whether barriers in shared memory and bulk copies serve the ring: on Hopper
#define BULK 0
#endif

#ifndef COPIERS  // warps that only copy, beside WARPS that multiply; without barriers in shared memory all warps copy
#define COPIERS 0
#endif
#ifndef EXPAND_ROWS  // tiles of 16 rows that a warp multiplies at once in the expand
#define EXPAND_ROWS 1
#endif

constexpr bool ROLES = BULK && COPIERS > 0;
// Whether a warp asks for what it multiplies next while it multiplies: where few warps have all registers of a multiprocessor.
constexpr bool AHEAD = MIN_BLOCKS == 1 && WARPS == 8;
constexpr int MT = NT / 2;                       // tiles of 16 rows: a warp of the shrink multiplies all of them
constexpr int HELD = BULK ? 4 : 2;               // rank pairs whose v a warp of the expand keeps in registers
constexpr int HELD_MAX = BULK && AHEAD ? 8 : HELD;  // the same for large ranks
constexpr u32 STAGE_TILES = 32 / NT;             // column tiles of a stage, at most
constexpr u32 STAGE_TILES_MIN = 4;
constexpr u32 STAGE_WEIGHTS_MAX = 32 << 10;      // bytes of weights above which a stage has fewer tiles
constexpr u32 SLOTS_MAX = 16;
constexpr u32 BARRIERS = SLOTS_MAX * 2 * 8;      // bytes before the ring
constexpr u32 THREADS = (WARPS + COPIERS) * 32;
constexpr u32 COPYING = ROLES ? COPIERS * 32 : THREADS;  // threads that copy
constexpr u32 READING = ROLES ? WARPS * 32 : THREADS;    // threads that read a stage
static_assert(COPYING >= STAGE_TILES * 4, "every 16 bytes of a row of a stage have a thread");

#include "lora_stages.cuh"

// A lane's part of a tile of weights, zero where the rank has no such granule.
DEVICE void load_granule(uint4& tile, const u8* from, bool here) {
  tile = make_uint4(0, 0, 0, 0);
  if (here) tile = *(const uint4*)from;
}

// One unit of weights: two tiles, the second zero where the rank has an odd number of granules.
DEVICE void load_unit(uint4 (&unit)[2], const u8* from, bool both) {
  unit[0] = *(const uint4*)from;
  load_granule(unit[1], from + TILE, both);
}

// A barrier of the warps that multiply.
DEVICE void multiplying_barrier() {
  if (ROLES)
    part_barrier(WARPS * 32);
  else
    block_barrier();
}

// This member's partial sums of v over its inputs: cells [k warp][pair][row tile] in `partial`.
template <int PAIRS_HERE>
DEVICE void shrink_stages(Stages& stages, float4* partial, u32 pair_begin, u32 pairs_here, u32 k_warp, u32 k_warps,
                          u32 cells) {
  const u32 lane = thread_index() % 32, q = lane % 4;
  const u32 pitch = stages.pitch();
  const u32 x_at = lane / 4 * pitch + q * 16;
  const u32 weights_at = stages.weights_at() + pair_begin * UNIT + lane * 16;
  float sums[PAIRS_HERE][MT][2][4];
#pragma unroll
  for (int p = 0; p < PAIRS_HERE; ++p)
#pragma unroll
    for (int m = 0; m < MT; ++m)
#pragma unroll
      for (int g = 0; g < 2; ++g)
#pragma unroll
        for (int e = 0; e < 4; ++e) sums[p][m][g][e] = 0.f;
#pragma unroll 1
  while (stages.stage < stages.in) {
    stages.wait();
    if (!ROLES && stages.stage > 0) stages.refill();
    const u8* slot = stages.here();
    const u32 tiles = pairs_here > 0 ? stages.tiles_in(stages.stage) : 0;
    const u32 quarters = stages.x.quarters - stages.stage * stages.tiles * 4;  // that exist from this stage on
    constexpr int BUFFERS = AHEAD ? 2 : 1;
    uint4 upper[BUFFERS][MT], lower[BUFFERS][MT];  // rows i and i + 8 of each 16
    uint4 units[BUFFERS][PAIRS_HERE][2];
    auto load_weights = [&](int set, u32 tile, int p) {
      const u8* from = slot + weights_at + tile * stages.granules * TILE + p * UNIT;
      load_unit(units[set][p], from, 2 * (pair_begin + p) + 1 < stages.granules);
    };
    auto load = [&](int set, u32 tile) {
      const u8* x_from = slot + x_at + tile * 64;
#pragma unroll
      for (int m = 0; m < MT; ++m) {
        upper[set][m] = *(const uint4*)(x_from + 16 * m * pitch);
        lower[set][m] = *(const uint4*)(x_from + (16 * m + 8) * pitch);
      }
#pragma unroll
      for (int p = 0; p < PAIRS_HERE && AHEAD; ++p)
        if (p == 0 || p < pairs_here) load_weights(set, tile, p);
    };
    if (AHEAD && k_warp < tiles) load(0, k_warp);
#pragma unroll 1
    for (u32 begin = k_warp; begin < tiles; begin += BUFFERS * k_warps)
#pragma unroll
      for (int set = 0; set < BUFFERS; ++set) {
        const u32 tile = begin + set * k_warps;
        if (set > 0 && tile >= tiles) break;
        if (!AHEAD)
          load(set, tile);
        else if (tile + k_warps < tiles)
          load(1 - set, tile + k_warps);
        if (tile * 4 + 4 > quarters && tile * 4 + q >= quarters)
#pragma unroll
          for (int m = 0; m < MT; ++m) upper[set][m] = lower[set][m] = make_uint4(0, 0, 0, 0);
#pragma unroll
        for (int p = 0; p < PAIRS_HERE; ++p)
          if (p == 0 || p < pairs_here) {
            if (!AHEAD) load_weights(set, tile, p);
#pragma unroll
            for (int m = 0; m < MT; ++m)
#pragma unroll
              for (int g = 0; g < 2; ++g) {
                const uint4 &up = upper[set][m], &low = lower[set][m], &unit = units[set][p][g];
                ELEMENT::mma(sums[p][m][g], up.x, low.x, up.y, low.y, unit.x, unit.y);
                ELEMENT::mma(sums[p][m][g], up.z, low.z, up.w, low.w, unit.z, unit.w);
              }
          }
      }
    stages.leave();
  }
#pragma unroll
  for (int p = 0; p < PAIRS_HERE; ++p)
    if (p < pairs_here)
#pragma unroll
      for (int n = 0; n < NT; ++n)
        if (n < stages.row_tiles) {
          const int m = n / 2, e = n % 2 * 2;
          partial[(k_warp * cells + (pair_begin + p) * stages.row_tiles + n) * 32 + lane] =
              make_float4(sums[p][m][0][e], sums[p][m][0][e + 1], sums[p][m][1][e], sums[p][m][1][e + 1]);
        }
}

// v of 16 rows and a pair of granules as the left operand of the expand: high parts and low parts.
struct Left {
  u32 high[4], low[4];
};
DEVICE Left left_of(uint4 upper, uint4 lower) {
  return {{upper.x, lower.x, upper.y, lower.y}, {upper.z, lower.z, upper.w, lower.w}};
}

// sums[j] += 16 rows of v times outputs 4n + j of a column tile, for a unit of weights.
DEVICE void multiply_ranks(float (&sums)[4][4], const Left& v, const uint4 (&unit)[2]) {
  ELEMENT::mma(sums[0], v.high[0], v.high[1], v.high[2], v.high[3], unit[0].x, unit[1].x);
  ELEMENT::mma(sums[1], v.high[0], v.high[1], v.high[2], v.high[3], unit[0].y, unit[1].y);
  ELEMENT::mma(sums[2], v.high[0], v.high[1], v.high[2], v.high[3], unit[0].z, unit[1].z);
  ELEMENT::mma(sums[3], v.high[0], v.high[1], v.high[2], v.high[3], unit[0].w, unit[1].w);
  ELEMENT::mma(sums[0], v.low[0], v.low[1], v.low[2], v.low[3], unit[0].x, unit[1].x);
  ELEMENT::mma(sums[1], v.low[0], v.low[1], v.low[2], v.low[3], unit[0].y, unit[1].y);
  ELEMENT::mma(sums[2], v.low[0], v.low[1], v.low[2], v.low[3], unit[0].z, unit[1].z);
  ELEMENT::mma(sums[3], v.low[0], v.low[1], v.low[2], v.low[3], unit[0].w, unit[1].w);
}

// Two of a lane's outputs.
DEVICE u32 add_to(u32 before, float first, float second) {
  return ELEMENT::pack(ELEMENT::low(before) + first, ELEMENT::high(before) + second);
}

// y += v·B over this member's outputs. PAIRS_HELD: up to so many pairs of the rank stay in registers; 0 for any number.
template <int PAIRS_HELD>
DEVICE void expand_stages(Stages& stages, const uint4* operand, u32 pairs, bool refilled) {
  const u32 lane = thread_index() % 32, warp = thread_index() / 32, i = lane / 4, q = lane % 4;
  // Warps divide the column tiles, then the rows; where there are fewer of both than warps, some have none.
  const u32 column_warps = min(stages.tiles, WARPS * EXPAND_ROWS / MT);
  const u32 column_warp = warp % column_warps, first_m = warp / column_warps * EXPAND_ROWS;
  const u32 row_ms = (stages.row_tiles + 1) / 2;
  const u32 here = warp < WARPS && first_m < row_ms ? min(u32(EXPAND_ROWS), row_ms - first_m) : 0;  // tiles of 16 rows
  const u32 lane_row = first_m * 16 + i;
  const u32 lane_rows = stages.rows - min(stages.rows, lane_row);  // from this lane's first on
  const u32 row_bytes = stages.y.row_bytes, pitch = stages.pitch();
  u8* const y = (u8*)stages.y.base + u64(lane_row) * row_bytes + 16 * q;
  const u32 y_at = lane_row * pitch + 16 * q;
  // Where there is no second row tile of the 16 it is computed as the first.
  const uint4* const first_operand = operand + first_m * 64 + lane;
  auto left = [&](u32 pair, int m) {
    const uint4* upper = first_operand + (pair * stages.row_tiles + 2 * m) * 32;
    return left_of(upper[0], upper[(first_m + m) * 2 + 1 < stages.row_tiles ? 32 : 0]);
  };
  Left held[PAIRS_HELD > 0 ? PAIRS_HELD : 1][EXPAND_ROWS];
#pragma unroll
  for (int p = 0; p < PAIRS_HELD; ++p)
#pragma unroll
    for (int m = 0; m < EXPAND_ROWS; ++m) {
      if (AHEAD) held[p][m] = Left{};
      if (p < pairs && m < here) held[p][m] = left(p, m);
    }
#pragma unroll 1
  while (stages.stage < stages.total) {
    stages.wait();
    if (!ROLES && (stages.stage > stages.in || (stages.stage > 0 && !refilled))) stages.refill();
    const u8* slot = stages.here();
    const u32 tiles = here > 0 ? stages.tiles_in(stages.stage) : 0;
    const u32 first = (stages.stage - stages.in) * stages.tiles;  // column tile
#pragma unroll 1
    for (u32 t = column_warp; t < tiles; t += column_warps) {
      float sums[EXPAND_ROWS][4][4];
#pragma unroll
      for (int m = 0; m < EXPAND_ROWS; ++m)
#pragma unroll
        for (int j = 0; j < 4; ++j)
#pragma unroll
          for (int e = 0; e < 4; ++e) sums[m][j][e] = 0.f;
      const u8* weights = slot + stages.weights_at() + t * stages.granules * TILE + lane * 16;
      // A lane has 8 outputs of a row: a quarter, which exists or does not.
      const bool exists = (first + t) * 4 + q < stages.y.quarters;
      uint4 before[2 * EXPAND_ROWS];
      auto load_y = [&](int half) {
        if (exists && half / 2 < here && half * 8 < lane_rows)
          before[half] = *(const uint4*)(slot + y_at + t * 64 + half * 8 * pitch);
      };
#pragma unroll
      for (int half = 0; half < 2 * EXPAND_ROWS && AHEAD; ++half) load_y(half);
      if (PAIRS_HELD > 0) {
        // Ahead: no branches between the pairs, so that weights are read early; those of a pair that the rank lacks are zero.
#pragma unroll
        for (int p = 0; p < PAIRS_HELD; ++p)
          if (AHEAD || p == 0 || p < pairs) {
            uint4 unit[2];
            load_granule(unit[0], weights + p * UNIT, !AHEAD || 2 * p < stages.granules);
            load_granule(unit[1], weights + p * UNIT + TILE, 2 * p + 1 < stages.granules);
#pragma unroll
            for (int m = 0; m < EXPAND_ROWS; ++m)
              if (AHEAD || m == 0 || m < here) multiply_ranks(sums[m], held[p][m], unit);
          }
      } else {
#pragma unroll 1
        for (u32 pair = 0; pair < pairs; ++pair) {
          uint4 unit[2];
          load_unit(unit, weights + pair * UNIT, 2 * pair + 1 < stages.granules);
#pragma unroll
          for (int m = 0; m < EXPAND_ROWS; ++m)
            if (m == 0 || m < here) multiply_ranks(sums[m], left(pair, m), unit);
        }
      }
      u8* to = y + u64(first + t) * 64;
#pragma unroll
      for (int half = 0; half < 2 * EXPAND_ROWS; ++half)
        if (exists && half / 2 < here && half * 8 < lane_rows) {
          if (!AHEAD) load_y(half);
          const float(&sum)[4][4] = sums[half / 2];
          const int e = half % 2 * 2;
          *(uint4*)(to + u64(half * 8) * row_bytes) = make_uint4(
              add_to(before[half].x, sum[0][e], sum[1][e]), add_to(before[half].y, sum[2][e], sum[3][e]),
              add_to(before[half].z, sum[0][e + 1], sum[1][e + 1]), add_to(before[half].w, sum[2][e + 1], sum[3][e + 1]));
        }
    }
    stages.leave();
  }
}

template <Mode MODE>
DEVICE void lora(const Arguments& args) {
  Job job;
  if (!begin(args, job)) return;
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
  const u32 copier = ROLES ? thread_index() - WARPS * 32 : thread_index();  // among those that copy; any other is beyond
  stages.copier = copier;
  stages.chunk = copier & (stages.tiles * 4 - 1);
  u32 quarter_bits = 2;
  while (stages.tiles * 4 >> quarter_bits > 1) ++quarter_bits;
  stages.row = copier >> quarter_bits;
  stages.step = COPYING >> quarter_bits;
  stages.stage = stages.slot = stages.parity = 0;
  stages.asked = stages.asked_slot = stages.asked_parity = 0;
  if (BULK && copier == 0)
    for (u32 slot = 0; slot < stages.slots; ++slot) {
      phases_init(stages.full(slot), COPYING + 1);  // all for their rows, one for the weights
      phases_init(stages.empty(slot), READING);
    }
  const u32 ahead = min(stages.slots, stages.total);
#pragma unroll 1
  for (u32 stage = 0; stage < ahead; ++stage) stages.ask_weights(stage, stage);

  // Warps of the shrink: ranks (PAIRS a warp while warps last), then columns.
  u32 rank_bits = 0;
  while ((u32(PAIRS) << rank_bits) < pairs && (1 << rank_bits) < WARPS) ++rank_bits;
  const u32 rank_warps = 1u << rank_bits, k_warps = WARPS / rank_warps;
  const u32 k_warp = warp % k_warps, rank_warp = warp / k_warps;
  const u32 pairs_each = (pairs + rank_warps - 1) >> rank_bits;
  const u32 pair_begin = min(pairs, rank_warp * pairs_each);
  const u32 my_pairs = warp < WARPS ? min(pairs_each, pairs - pair_begin) : 0;

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
  if (MODE == EXPAND ? args.release != AT_START : args.release == WITH_OPERANDS) dependents_trigger();

  if (!ROLES || warp >= WARPS) {
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
  }
  if (ROLES && warp >= WARPS) {
#pragma unroll 1
    while (stages.asked < stages.total) stages.refill();
    return end(args);
  }

  if (MODE != EXPAND) {
    if (pairs_each <= 1)  // not `my_pairs`: all threads of the block meet at the same barriers
      shrink_stages<1>(stages, partial, pair_begin, my_pairs, k_warp, k_warps, cells);
    else
      shrink_stages<PAIRS>(stages, partial, pair_begin, my_pairs, k_warp, k_warps, cells);
    multiplying_barrier();
    if (args.release == WITH_SUMS) dependents_trigger();
    if (!ROLES && stages.in > 0) stages.refill();
    if (warp < WARPS)
      exchange_in_turns<MODE, ROWS_FIRST, 4, 4>(job, projection, args.inbox, room, k_warps, row_tiles, cells, [] {});
  } else {
    for (u32 cell = warp; warp < WARPS && cell < cells; cell += WARPS)
      room.operand[cell * 32 + lane] = split(v_cell(job, projection, row_tiles, cell), job.scale);
  }
  if (MODE != SHRINK) {
    multiplying_barrier();
    if (pairs == 1)
      expand_stages<1>(stages, room.operand, pairs, MODE == PAIR);
    else if (pairs <= HELD)
      expand_stages<HELD>(stages, room.operand, pairs, MODE == PAIR);
    else if (HELD_MAX > HELD && pairs <= HELD_MAX)
      expand_stages<HELD_MAX>(stages, room.operand, pairs, MODE == PAIR);
    else
      expand_stages<0>(stages, room.operand, pairs, MODE == PAIR);
  }
  end(args);
}

KERNEL void __launch_bounds__(THREADS, MIN_BLOCKS) lora_pair(const GRID_CONSTANT Arguments args) { lora<PAIR>(args); }
KERNEL void __launch_bounds__(THREADS, MIN_BLOCKS) lora_shrink(const GRID_CONSTANT Arguments args) {
  lora<SHRINK>(args);
}
KERNEL void __launch_bounds__(THREADS, MIN_BLOCKS) lora_expand(const GRID_CONSTANT Arguments args) {
  lora<EXPAND>(args);
}
