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
// Grid: one block a job, written by the plan. The `members` blocks of one group share up to 8 rows of
// one segment and one projection: member m multiplies its slice of the inputs, the members exchange
// their partial v, then each finishes its slice of the outputs.
//
// Every lane streams its own weights through a ring in shared memory (lora_stream.cuh): B is in flight
// while A is multiplied, and both start before the wait for the preceding kernel. Weights and jobs must
// therefore be complete before that kernel started; x, v and y need not.
//
// Exchange: each member writes its partial sums into an inbox of each other member (lora_exchange.cuh).
//
// At decode a launch lasts some thousand cycles, and what counts is the number of dependent
// instructions after the wait: addresses are made before it, and warps share the exchange.
//
// Bound by: the bytes of the weights (decode), of x and y (prefill), and one exchange through L2.
#include "lora.cuh"

#ifndef PAIRS  // rank pairs (16 ranks) that one warp accumulates
#define PAIRS 2
#endif

#ifndef BATCH  // units that a warp takes from its ring at once: more hide more latency and make more code
#define BATCH 4
#endif
#ifndef SETS  // of registers for x and y: two hide more latency; with one the code is shorter
#define SETS 2
#endif
#ifndef TURNS  // cells from which on they are exchanged in turns
#define TURNS 5
#endif
#ifndef TURNS_OF_ALL  // the same for the cells of all members together
#define TURNS_OF_ALL 64
#endif

#include "lora_exchange.cuh"
#include "lora_stream.cuh"

constexpr u32 WARP_BITS = 3;
static_assert(WARPS == 1 << WARP_BITS, "the exchange is shared among eight warps");
static_assert(TURNS <= WARPS, "a few cells are one a warp at most");

constexpr u32 EXPECTED_MIN = 16;  // input tiles

// x of this lane: row i, 8 inputs of each input tile.
struct Inputs {
  const u8* base;  // this lane's first input of its row
  u32 step;        // bytes between this warp's input tiles
  u32 tiles;       // input tiles of this warp
  u32 here;        // those in which this lane's inputs exist: none if its row does not

  template <int COUNT>
  DEVICE void load(uint4 (&into)[COUNT], u32 tile) const {
    const u8* from = base + u64(tile) * step;
#pragma unroll
    for (int b = 0; b < COUNT; ++b) {
      into[b] = make_uint4(0, 0, 0, 0);
      if (tile + b < here) into[b] = *(const uint4*)(from + b * step);
    }
  }

  // Asks the L2 for what comes late in a long slice, which may be cold: a warp has few loads in flight.
  DEVICE void expect() const {
    if (here <= EXPECTED_MIN) return;
#pragma unroll 1
    for (u32 tile = 2 * BATCH; tile < here; ++tile) prefetch_to_l2(base + u64(tile) * step);
  }
};

// Partial sums of PAIRS_HERE rank pairs over this warp's inputs. With two sets of registers x is asked for two batches
// ahead, into the sets by turns; with one it is asked for one batch ahead, and moving it into the set waits for it.
template <int PAIRS_HERE>
DEVICE void multiply_inputs(Stream& stream, const Inputs& x, float (&sums)[PAIRS][4]) {
  constexpr int TILES = BATCH / PAIRS_HERE > 0 ? BATCH / PAIRS_HERE : 1;
  uint4 sets[SETS][TILES];
#pragma unroll
  for (int set = 0; set < SETS; ++set) x.load(sets[set], set * TILES);
#pragma unroll 1
  for (u32 first = 0; first < x.tiles; first += SETS * TILES)
#pragma unroll
    for (int set = 0; set < SETS; ++set) {
      const u32 tile = first + set * TILES;
      if (set > 0 && tile >= x.tiles) break;
      uint4 ahead[TILES];
      if (SETS == 1) x.load(ahead, tile + TILES);
      uint4 units[TILES * PAIRS_HERE][2];
      u32 here = min((u32)TILES, x.tiles - tile);
      stream.take(units, here * PAIRS_HERE);
#pragma unroll
      for (int b = 0; b < TILES; ++b)
        if (b == 0 || b < here)
#pragma unroll
          for (int p = 0; p < PAIRS_HERE; ++p) {
            uint4 a = units[b * PAIRS_HERE + p][0], c = units[b * PAIRS_HERE + p][1];
            ELEMENT::mma(sums[p], a.x, c.x, a.y, c.y, sets[set][b].x, sets[set][b].y);
            ELEMENT::mma(sums[p], a.z, c.z, a.w, c.w, sets[set][b].z, sets[set][b].w);
          }
      if (SETS > 1) {
        x.load(sets[set], tile + SETS * TILES);
      } else {
#pragma unroll
        for (int b = 0; b < TILES; ++b) sets[set][b] = ahead[b];
      }
    }
}

// y of this lane: rows 2q and 2q + 1, 4 columns of each output tile.
struct Outputs {
  static constexpr u32 STEP = WARPS * 64;  // bytes between this warp's output tiles

  u8* base;  // this lane's first column of its first row
  u32 row_bytes;
  u32 tiles;  // output tiles of this warp
  u32 here;   // those in which this lane's columns exist
  u32 rows;   // rows of the tile from this lane's first on

  // COUNT tiles from `tile` on go to `into` from `at` on.
  template <int COUNT, int SIZE>
  DEVICE void load(uint2 (&into)[SIZE][2], int at, u32 tile) const {
    const u8* from = base + tile * STEP;
#pragma unroll
    for (int odd = 0; odd < 2; ++odd)
      if (odd < (int)rows)
#pragma unroll
        for (int b = 0; b < COUNT; ++b)
          if (tile + b < here) into[at + b][odd] = *(const uint2*)(from + u64(odd) * row_bytes + b * STEP);
  }

  DEVICE void add(const uint2 (&before)[2], const float (&sums)[2][4], u32 tile) const {
    if (tile >= here) return;
    u8* to = base + tile * STEP;
#pragma unroll
    for (int odd = 0; odd < 2; ++odd)
      if (odd < (int)rows) {
        uint2 y = before[odd];
        y.x = ELEMENT::pack(ELEMENT::low(y.x) + sums[0][odd], ELEMENT::high(y.x) + sums[0][2 + odd]);
        y.y = ELEMENT::pack(ELEMENT::low(y.y) + sums[1][odd], ELEMENT::high(y.y) + sums[1][2 + odd]);
        *(uint2*)(to + u64(odd) * row_bytes) = y;
      }
  }
};

// Adds this lane's share of one unit: 32 outputs × 16 ranks times v, high part and low part. LONE: 8 ranks, whose low part
// takes the place of the second granule.
template <bool LONE>
DEVICE void multiply_ranks(float (&sums)[2][4], float (&low)[2][4], const uint4 (&unit)[2], uint4 v) {
  if (LONE) {
    ELEMENT::mma(sums[0], unit[0].x, unit[0].y, unit[0].x, unit[0].y, v.x, v.z);
    ELEMENT::mma(sums[1], unit[0].z, unit[0].w, unit[0].z, unit[0].w, v.x, v.z);
    return;
  }
  uint4 a = unit[0], c = unit[1];
  ELEMENT::mma(sums[0], a.x, a.y, c.x, c.y, v.x, v.y);
  ELEMENT::mma(sums[1], a.z, a.w, c.z, c.w, v.x, v.y);
  ELEMENT::mma(low[0], a.x, a.y, c.x, c.y, v.z, v.w);
  ELEMENT::mma(low[1], a.z, a.w, c.z, c.w, v.z, v.w);
}

// Output tiles that one batch of units completes, for a rank of this many pairs.
constexpr int tiles_in_batch(int pairs) { return BATCH / pairs > 0 ? BATCH / pairs : 1; }

// y += v·B over this warp's outputs, TILES of them at once, each of `pairs` units: PAIRS_HERE, or any number where that
// is 0. y is asked for BATCH tiles ahead: the first ones are in `first`. v is in `operand`, or its only cell in hand.
template <int TILES, int PAIRS_HERE, bool LONE = false>
DEVICE void multiply_outputs(Stream& stream, const Outputs& y, const uint4* operand, uint4 in_hand, bool is_in_hand,
                             u32 pairs, uint2 (&first)[BATCH][2]) {
  // A short rank's v stays in registers.
  uint4 held[PAIRS_HERE > 0 ? PAIRS_HERE : 1];
  if (is_in_hand) {
    held[0] = in_hand;
  } else {
#pragma unroll
    for (int p = 0; p < PAIRS_HERE; ++p) held[p] = operand[p * 32];
  }
  // Tiles of y that are here or on their way: they stay where they arrive, and every TILES of them have their turn; or,
  // with one set, they move up behind those that are added to now.
  constexpr int ROUND = SETS > 1 ? BATCH : TILES;
  uint2 ahead[BATCH][2];
#pragma unroll
  for (int b = 0; b < BATCH; ++b)
#pragma unroll
    for (int odd = 0; odd < 2; ++odd) ahead[b][odd] = first[b][odd];
#pragma unroll 1
  for (u32 begin = 0; begin < y.tiles; begin += ROUND)
#pragma unroll
    for (int at = 0; at < ROUND; at += TILES) {
      const u32 tile = begin + at;
      if (at > 0 && tile >= y.tiles) break;
      float sums[TILES][2][4];
      float low[TILES][2][4];  // of v's low parts, where one chain would be long
#pragma unroll
      for (int b = 0; b < TILES; ++b)
#pragma unroll
        for (int half = 0; half < 2; ++half)
#pragma unroll
          for (int e = 0; e < 4; ++e) sums[b][half][e] = low[b][half][e] = 0.f;
      u32 here = min((u32)TILES, y.tiles - tile);
      if (PAIRS_HERE > 0) {
        uint4 units[TILES * (PAIRS_HERE > 0 ? PAIRS_HERE : 1)][2];
        stream.take(units, here * PAIRS_HERE);
#pragma unroll
        for (int b = 0; b < TILES; ++b)
          if (b == 0 || b < here)
#pragma unroll
            for (int p = 0; p < PAIRS_HERE; ++p) multiply_ranks<LONE>(sums[b], sums[b], units[b * PAIRS_HERE + p], held[p]);
      } else {
#pragma unroll 1
        for (u32 pair = 0; pair < pairs; pair += BATCH) {
          uint4 units[BATCH][2];
          u32 count = min((u32)BATCH, pairs - pair);
          stream.take(units, count);
#pragma unroll
          for (int p = 0; p < BATCH; ++p)
            if (p == 0 || p < count) multiply_ranks<false>(sums[0], low[0], units[p], operand[(pair + p) * 32]);
        }
#pragma unroll
        for (int half = 0; half < 2; ++half)
#pragma unroll
          for (int e = 0; e < 4; ++e) sums[0][half][e] += low[0][half][e];
      }
#pragma unroll
      for (int b = 0; b < TILES; ++b)
        if (b == 0 || b < here) y.add(ahead[at + b], sums[b], tile + b);
      if (SETS == 1)
#pragma unroll
        for (int b = TILES; b < BATCH; ++b)
#pragma unroll
          for (int odd = 0; odd < 2; ++odd) ahead[b - TILES][odd] = ahead[b][odd];
      if (tile + BATCH < y.tiles) y.load<TILES>(ahead, SETS > 1 ? at : BATCH - TILES, tile + BATCH);
    }
}

// How many of `tiles` tiles, `step` apart from `first` on, begin below `end`. Only the last one may not.
DEVICE u32 tiles_below(u32 first, u32 step, u32 end, u32 tiles) {
  return tiles > 0 && first + (tiles - 1) * step >= end ? tiles - 1 : tiles;
}

template <Mode MODE>
DEVICE void lora(const Arguments& args) {
  Job job;
  if (!begin(args, job)) return;
  const Projection& projection = args.projections[job.projection];
  const u32 lane = thread_index() % 32, warp = thread_index() / 32;
  const u32 i = lane / 4, q = lane % 4;

  const u32 granules = (job.rank + 7) / 8, pairs = (granules + 1) / 2;
  const u32 cells = pairs;  // of 16 ranks × 8 rows, 512 bytes in fp32

  // Shrink: warps share the inputs, and the ranks too where one warp cannot accumulate them all.
  u32 split_bits = 0;
  while ((PAIRS << split_bits) < pairs) ++split_bits;
  const u32 k_bits = WARP_BITS - split_bits, k_warps = 1u << k_bits;
  const u32 k_warp = warp & (k_warps - 1), pairs_each = (pairs + (1u << split_bits) - 1) >> split_bits;
  const u32 pair_begin = min(pairs, (warp >> k_bits) * pairs_each), my_pairs = min(pairs_each, pairs - pair_begin);
  u32 my_inputs = 0, my_columns = 0;  // tiles
  if (MODE != EXPAND && my_pairs && job.k_tiles > k_warp) my_inputs = ((job.k_tiles - k_warp - 1) >> k_bits) + 1;
  if (MODE != SHRINK && job.column_tiles > warp) my_columns = (job.column_tiles - warp - 1) / WARPS + 1;

  u8* const ring = shared_base();
  Stream stream;
  stream.ring = ring + warp * args.depth * UNIT + lane * 16;
  stream.depth = args.depth;
  stream.unit = stream.fill = stream.drain = stream.unread = 0;
  const u8* weights = (const u8*)job.weights;
  stream.now.start =
      weights + input_lane(lane) * 16 + (projection.a_tiles * granules + u64(job.k_tile + k_warp) * granules + 2 * pair_begin) * TILE;
  stream.now.skip = int(k_warps * granules * TILE) - int(my_pairs * UNIT);
  stream.now.runs = my_inputs;
  stream.now.units = my_pairs;
  stream.now.tiles = min(2 * my_pairs, granules - min(granules, 2 * pair_begin));
  stream.next.start = weights + lane * 16 + (projection.b_tiles * granules + u64(job.column_tile + warp) * granules) * TILE;
  stream.next.skip = int(WARPS * granules * TILE) - int(pairs * UNIT);
  stream.next.runs = my_columns;
  stream.next.units = pairs;
  stream.next.tiles = granules;
  stream.left = my_inputs * my_pairs + my_columns * pairs;
  stream.begin();

  // Many cells are exchanged in turns, a few at once.
  float4* const partial = (float4*)(ring + WARPS * args.depth * UNIT);  // [k warp][cell][lane]
  const bool cluster = MODE != EXPAND && job.members > 1 && args.cluster;
  const bool turns = cells >= TURNS || cells * job.members >= TURNS_OF_ALL;
  const Room in_turns = room_in_turns<MODE>(partial, job, k_warps, cells, cluster);
  const Hall at_once = hall_at_once<MODE>(partial, job, k_warps, cells, cluster);
  uint4* const operand = turns && MODE == PAIR ? in_turns.operand : at_once.operand;
  if (cluster) {
    if (thread_index() == 0) {
      if (turns)
        begin_turns<MODE>(job, in_turns, cells);
      else
        begin_at_once<MODE>(job, at_once, cells);
    }
    cluster_arrive();
  }

  Inputs x;
  {
    const u32 first = (job.k_tile + k_warp) * 32 + 8 * q;
    x.base = (const u8*)args.x + (u64(job.row + i) * args.x_stride + first) * 2;
    x.step = k_warps * 64;
    x.tiles = my_inputs;
    x.here = i < job.rows ? tiles_below(first, k_warps * 32, args.inputs, my_inputs) : 0;
  }
  Outputs y;
  {
    const u32 first = (job.column_tile + warp) * 32 + 4 * i;
    y.row_bytes = projection.y_stride * 2;
    y.base = (u8*)projection.y + u64(job.row + 2 * q) * y.row_bytes + u64(first) * 2;
    y.tiles = my_columns;
    y.here = tiles_below(first, WARPS * 32, projection.columns, my_columns);
    y.rows = job.rows - min(job.rows, 2 * q);
  }
  uint2 y_first[BATCH][2];
  if (cluster) cluster_wait();

  wait_for_operands(args);
  if (MODE == EXPAND ? args.release != AT_START : args.release == WITH_OPERANDS) dependents_trigger();

  // A single cell of v is added up by every warp for itself: that is shorter than sharing it.
  const bool each = cells == 1 && MODE != SHRINK;
  uint4 in_hand = make_uint4(0, 0, 0, 0);

  if (MODE != EXPAND) {
    x.expect();
    float sums[PAIRS][4];
#pragma unroll
    for (int p = 0; p < PAIRS; ++p)
#pragma unroll
      for (int e = 0; e < 4; ++e) sums[p][e] = 0.f;
    if (my_pairs == 1) multiply_inputs<1>(stream, x, sums);
    if (PAIRS >= 2 && my_pairs == 2) multiply_inputs<PAIRS >= 2 ? 2 : 1>(stream, x, sums);
    static_assert(PAIRS <= 2, "one instance a number of pairs");
#pragma unroll
    for (int p = 0; p < PAIRS; ++p)
      if (p < my_pairs)
        partial[(k_warp * cells + pair_begin + p) * 32 + lane] =
            make_float4(sums[p][0], sums[p][1], sums[p][2], sums[p][3]);
    block_barrier();
    if (args.release == WITH_SUMS) dependents_trigger();

    auto ask_y = [&] {
      if (MODE == PAIR) y.load<BATCH>(y_first, 0, 0);  // of the first output tiles: while the sums travel
    };
    if (turns)
      exchange_in_turns<MODE, RANKS_FIRST, ByLanes, 4, 2>(job, projection, args.inbox, in_turns, k_warps, 1, cells, ask_y);
    else
      in_hand = exchange_at_once<MODE>(job, projection, args.inbox, at_once, k_warps, cells, each, ask_y);
  } else {
    for (u32 cell = each ? 0 : warp; cell < cells; cell += WARPS) {
      const uint4 parts = split(v_cell(job, projection, 1, cell), job.scale);
      if (each)
        in_hand = parts;
      else
        operand[cell * 32 + lane] = parts;
    }
    y.load<BATCH>(y_first, 0, 0);
  }

  if (MODE != SHRINK) {
    if (!each) block_barrier();
    const uint4* v = operand + lane;
    if (granules == 1)
      multiply_outputs<tiles_in_batch(1), 1, true>(stream, y, v, in_hand, each, pairs, y_first);
    else if (pairs == 1)
      multiply_outputs<tiles_in_batch(1), 1>(stream, y, v, in_hand, each, pairs, y_first);
    else if (BATCH >= 2 && pairs == 2)
      multiply_outputs<tiles_in_batch(2), 2>(stream, y, v, in_hand, false, pairs, y_first);
    else
      multiply_outputs<1, 0>(stream, y, v, in_hand, false, pairs, y_first);
  }
  end(args);
}

KERNEL void __launch_bounds__(WARPS * 32, MIN_BLOCKS) lora_pair(const GRID_CONSTANT Arguments args) { lora<PAIR>(args); }
KERNEL void __launch_bounds__(WARPS * 32, MIN_BLOCKS) lora_shrink(const GRID_CONSTANT Arguments args) {
  lora<SHRINK>(args);
}
KERNEL void __launch_bounds__(WARPS * 32, MIN_BLOCKS) lora_expand(const GRID_CONSTANT Arguments args) {
  lora<EXPAND>(args);
}
