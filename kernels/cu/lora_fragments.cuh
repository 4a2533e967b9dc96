// The products of lora_staged.cu by warps. 16 rows of the batch are the rows of the matrix instructions, and ranks (shrink) or
// outputs (expand) their 8 columns: a lane's 16 bytes of a weight tile are the right operands of two of them as they lie, one
// granule each, and it is x and v that are put together from two rows each, once for all ranks.
//
// Shrink: every warp multiplies all rows, so that it reads each weight of a stage once; warps divide the ranks, then the
// columns of a stage, and those that divide the columns add up their sums in shared memory.
// Expand: warps divide the column tiles of a stage, then the rows. In four parts, outputs 4n + j for each j, so that a lane
// has 8 outputs in a row.
// Included once by lora_staged.cu, after its constants and its stages.

// Whether a warp asks for what it multiplies next while it multiplies: where few warps have all registers of a multiprocessor.
constexpr bool AHEAD = MIN_BLOCKS == 1 && WARPS == 8;
constexpr int MT = NT / 2;                       // tiles of 16 rows: a warp of the shrink multiplies all of them
constexpr int HELD = BULK ? 4 : 2;               // rank pairs whose v a warp of the expand keeps in registers
constexpr Cell SUMS = ROWS_FIRST;
using Order = ByLanes;

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

// What a warp multiplies in the shrink: ranks (PAIRS a warp while warps last), then columns.
struct Division {
  u32 pair_begin, pairs, pairs_each;
  u32 k_part, k_parts;
};

DEVICE Division division_of(u32 pairs) {
  const u32 warp = thread_index() / 32;
  Division mine;
  u32 rank_bits = 0;
  while ((u32(PAIRS) << rank_bits) < pairs && (1 << rank_bits) < WARPS) ++rank_bits;
  const u32 rank_warps = 1u << rank_bits;
  mine.k_parts = WARPS / rank_warps;
  mine.k_part = warp % mine.k_parts;
  mine.pairs_each = (pairs + rank_warps - 1) >> rank_bits;
  mine.pair_begin = min(pairs, warp / mine.k_parts * mine.pairs_each);
  mine.pairs = warp < WARPS ? min(mine.pairs_each, pairs - mine.pair_begin) : 0;
  return mine;
}

// This member's partial sums of v over its inputs: cells [k warp][pair][row tile] in `partial`.
template <int PAIRS_HERE>
DEVICE void shrink_stages(Stages& stages, float4* partial, u32 pair_begin, u32 pairs_here, u32 k_warp, u32 k_warps,
                          u32 cells) {
  const u32 lane = thread_index() % 32, q = lane % 4;
  const u32 pitch = stages.pitch();
  const u32 x_at = lane / 4 * pitch + q * 16;
  const u32 weights_at = stages.weights_at() + pair_begin * UNIT + input_lane(lane) * 16;
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

DEVICE void shrink(Stages& stages, float4* partial, const Division& mine, u32 pairs, u32 cells) {
  if (mine.pairs_each <= 1)  // not `pairs`: all threads of the block meet at the same barriers
    shrink_stages<1>(stages, partial, mine.pair_begin, mine.pairs, mine.k_part, mine.k_parts, cells);
  else
    shrink_stages<PAIRS>(stages, partial, mine.pair_begin, mine.pairs, mine.k_part, mine.k_parts, cells);
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

DEVICE void expand(Stages& stages, const uint4* operand, u32 pairs, bool refilled) {
  if (pairs == 1)
    expand_stages<1>(stages, operand, pairs, refilled);
  else if (pairs <= HELD)
    expand_stages<HELD>(stages, operand, pairs, refilled);
  else
    expand_stages<0>(stages, operand, pairs, refilled);
}
