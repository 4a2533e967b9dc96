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
// Exchange: each member writes its partial sums into an inbox of each other member. Where the members
// are a cluster, inboxes lie in shared memory and a transaction barrier counts the bytes that arrived.
// Otherwise they lie in global memory, where an empty word holds EMPTY, which no sum produces, so the
// data are their own flags, and the reader puts EMPTY back. Polling is free of deadlock because blocks
// start in the order of their index, a group's blocks are neighbours, and a group fits on the chip.
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

constexpr int BATCH_IN = BATCH, BATCH_OUT = BATCH;
// Whether y of the next batch is asked for before this one is multiplied.
constexpr bool Y_AHEAD = NT == 2 || NT == 8;

constexpr u32 WARP_BITS = 3;
static_assert(WARPS == 1 << WARP_BITS, "the exchange is shared among eight warps");
#ifndef TURNS  // cells from which on they are exchanged in turns
#define TURNS 5
#endif
static_assert(TURNS <= WARPS, "a few cells are one a warp at most");

// The weights of one warp, in the order in which it will use them: units of two tiles (16 ranks),
// in runs of consecutive units, the runs a fixed stride apart; first the runs of A, then those of B.
struct Runs {
  const u8* start;  // of the next unit
  int skip;         // bytes from the end of one run to the start of the next
  u32 runs;
  u32 units;   // in one run
  u32 tiles;   // in one run: 2·units, or one fewer where the rank has an odd granule
};

struct Stream {
  u8* ring;  // this lane's 16 bytes of slot 0
  Runs now, next;
  u32 depth;        // slots
  u32 unit;         // in the run
  u32 left;         // units not asked for yet
  u32 unread;       // units asked for and not taken
  u32 fill, drain;  // slots

  // Asks for the next unit. There must be one left.
  DEVICE void issue() {
    u8* to = ring + fill * UNIT;
    copy_async(to, now.start, 16);
    copy_async(to + TILE, now.start + TILE, 2 * unit + 1 < now.tiles ? 16 : 0);
    copy_commit();
    now.start += UNIT;
    if (++unit == now.units) {
      unit = 0;
      now.start += now.skip;
      if (--now.runs == 0) now = next;
    }
    fill = fill + 1 == depth ? 0 : fill + 1;
    --left;
    ++unread;
  }

  // Asks for as many units as the ring holds.
  DEVICE void begin() {
    if (now.runs == 0) now = next;
    unread = min(left, depth);
    left -= unread;
    fill = unread == depth ? 0 : unread;
    u8* to = ring;
    for (u32 room = unread; room > 0;) {
      // One run, or what of it fits.
      u32 count = min(room, now.units), size = now.tiles;
      room -= count;
#pragma unroll 1
      for (u32 n = 0; n < count; ++n, size -= 2) {
        copy_async(to, now.start, 16);
        copy_async(to + TILE, now.start + TILE, size > 1 ? 16 : 0);
        copy_commit();
        now.start += UNIT;
        to += UNIT;
      }
      unit = count;
      if (unit == now.units) {
        unit = 0;
        now.start += now.skip;
        if (--now.runs == 0) now = next;
      }
    }
  }

  // The `count` oldest units, at most COUNT; their slots are refilled at once.
  template <int COUNT>
  DEVICE void take(uint4 (&units)[COUNT][2], u32 count) {
    // Units arrive in order, so those after these may still be on their way.
    unread -= count;
    if (unread >= 7)
      copy_wait<7>();
    else if (unread >= 4)
      copy_wait<4>();
    else if (unread >= 2)
      copy_wait<2>();
    else
      copy_wait<0>();
#pragma unroll
    for (int n = 0; n < COUNT; ++n)
      if (COUNT == 1 || n < count) {
        const u8* from = ring + drain * UNIT;
        units[n][0] = *(const uint4*)from;
        units[n][1] = *(const uint4*)(from + TILE);
        drain = drain + 1 == depth ? 0 : drain + 1;
      }
    if (left == 0) return;
    const u32 refill = min(left, count);
#pragma unroll 1
    for (u32 n = 0; n < refill; ++n) issue();
  }
};

// x of this lane: row i of each row tile, 8 inputs of each input tile.
struct Inputs {
  const u8* base;  // this lane's first input of its row of the first row tile
  u32 row_step;    // bytes between row tiles
  u32 step;        // bytes between this warp's input tiles
  u32 tiles;       // input tiles of this warp
  u32 here;        // those in which this lane's inputs exist
  u32 rows;        // rows of the tile from this lane's on: row tile nt has one if 8·nt < rows

  template <int COUNT>
  DEVICE void load(uint4 (&into)[COUNT][NT], u32 tile) const {
    const u8* from = base + u64(tile) * step;
#pragma unroll
    for (int b = 0; b < COUNT; ++b)
#pragma unroll
      for (int nt = 0; nt < NT; ++nt) {
        into[b][nt] = make_uint4(0, 0, 0, 0);
        if (tile + b < here && nt * 8 < (int)rows) into[b][nt] = *(const uint4*)(from + b * step + u64(nt) * row_step);
      }
  }
};

// Partial sums of PAIRS_HERE rank pairs over this warp's inputs.
template <int PAIRS_HERE>
DEVICE void multiply_inputs(Stream& stream, const Inputs& x, u32 row_tiles, float (&sums)[PAIRS][NT][4]) {
  constexpr int TILES = BATCH_IN / PAIRS_HERE > 0 ? BATCH_IN / PAIRS_HERE : 1;
  uint4 now[TILES][NT], ahead[TILES][NT];
  x.load(now, 0);
#pragma unroll 1
  for (u32 tile = 0; tile < x.tiles; tile += TILES) {
    x.load(ahead, tile + TILES);
    uint4 units[TILES * PAIRS_HERE][2];
    u32 here = min((u32)TILES, x.tiles - tile);
    stream.take(units, here * PAIRS_HERE);
#pragma unroll
    for (int b = 0; b < TILES; ++b)
      if (b == 0 || b < here)
#pragma unroll
        for (int p = 0; p < PAIRS_HERE; ++p)
#pragma unroll
          for (int nt = 0; nt < NT; ++nt)
            if (nt < row_tiles) {
              uint4 a = units[b * PAIRS_HERE + p][0], c = units[b * PAIRS_HERE + p][1];
              ELEMENT::mma(sums[p][nt], a.x, c.x, a.y, c.y, now[b][nt].x, now[b][nt].y);
              ELEMENT::mma(sums[p][nt], a.z, c.z, a.w, c.w, now[b][nt].z, now[b][nt].w);
            }
#pragma unroll
    for (int b = 0; b < TILES; ++b)
#pragma unroll
      for (int nt = 0; nt < NT; ++nt) now[b][nt] = ahead[b][nt];
  }
}

// y of this lane: rows 2q and 2q + 1 of each row tile, 4 columns of each output tile.
struct Outputs {
  static constexpr u32 STEP = WARPS * 64;  // bytes between this warp's output tiles

  u8* base;  // this lane's first column of its first row
  u32 row_bytes;
  u32 tiles;  // output tiles of this warp
  u32 here;   // those in which this lane's columns exist
  u32 rows;   // rows of the tile from this lane's first on

  // Tiles `tile` to `tile` + COUNT go to `into` from `at` on.
  template <int COUNT, int SIZE>
  DEVICE void load_at(uint2 (&into)[SIZE][NT][2], int at, u32 tile) const {
    const u8* from = base + tile * STEP;
#pragma unroll
    for (int nt = 0; nt < NT; ++nt)
#pragma unroll
      for (int odd = 0; odd < 2; ++odd)
        if (nt * 8 + odd < (int)rows)
#pragma unroll
          for (int b = 0; b < COUNT; ++b)
            if (tile + b < here) into[at + b][nt][odd] = *(const uint2*)(from + u64(nt * 8 + odd) * row_bytes + b * STEP);
  }

  template <int COUNT>
  DEVICE void load(uint2 (&into)[COUNT][NT][2], u32 tile) const {
    load_at<COUNT>(into, 0, tile);
  }

  DEVICE void add(const uint2 (&before)[NT][2], const float (&sums)[2][NT][4], u32 tile) const {
    if (tile >= here) return;
    u8* to = base + tile * STEP;
#pragma unroll
    for (int nt = 0; nt < NT; ++nt)
#pragma unroll
      for (int odd = 0; odd < 2; ++odd)
        if (nt * 8 + odd < (int)rows) {
          uint2 y = before[nt][odd];
          y.x = ELEMENT::pack(ELEMENT::low(y.x) + sums[0][nt][odd], ELEMENT::high(y.x) + sums[0][nt][2 + odd]);
          y.y = ELEMENT::pack(ELEMENT::low(y.y) + sums[1][nt][odd], ELEMENT::high(y.y) + sums[1][nt][2 + odd]);
          *(uint2*)(to + u64(nt * 8 + odd) * row_bytes) = y;
        }
  }
};

// Adds this lane's share of one unit: 32 outputs × 16 ranks times v, high part and low part.
template <int STRIDE>
DEVICE void multiply_ranks(float (&sums)[2][NT][4], float (&low)[2][NT][4], const uint4 (&unit)[2], const uint4* v, u32 row_tiles) {
  uint4 a = unit[0], c = unit[1];
#pragma unroll
  for (int nt = 0; nt < NT; ++nt)
    if (nt < row_tiles) {
      uint4 part = v[nt * STRIDE];
      ELEMENT::mma(sums[0][nt], a.x, a.y, c.x, c.y, part.x, part.y);
      ELEMENT::mma(sums[1][nt], a.z, a.w, c.z, c.w, part.x, part.y);
      ELEMENT::mma(low[0][nt], a.x, a.y, c.x, c.y, part.z, part.w);
      ELEMENT::mma(low[1][nt], a.z, a.w, c.z, c.w, part.z, part.w);
    }
}

// Output tiles that one batch of units completes, for a rank of this many pairs.
constexpr int tiles_in_batch(int pairs) { return BATCH_OUT / pairs > 0 ? BATCH_OUT / pairs : 1; }

// y += v·B over this warp's outputs, TILES of them at once, each of `pairs` units. y is asked for BATCH_OUT tiles
// ahead: the first ones are in `first`.
template <int TILES, int PAIRS_HERE>
DEVICE void multiply_outputs(Stream& stream, const Outputs& y, const uint4* operand, uint4 in_hand, bool is_in_hand,
                             u32 pairs, u32 row_tiles, uint2 (&first)[BATCH_OUT][NT][2]) {
  // A short rank's v stays in registers.
  constexpr bool IN_REGISTERS = PAIRS_HERE > 0 && PAIRS_HERE * NT <= 2;
  uint4 held[IN_REGISTERS ? PAIRS_HERE : 1][NT];
  if (NT == 1 && is_in_hand) {
    held[0][0] = in_hand;
  } else {
#pragma unroll
    for (int p = 0; p < PAIRS_HERE && IN_REGISTERS; ++p)
#pragma unroll
      for (int nt = 0; nt < NT; ++nt)
        if (nt < row_tiles) held[p][nt] = operand[(p * row_tiles + nt) * 32];
  }
  // Tiles of y that are here or on their way, beyond those that are added to now.
    constexpr int AHEAD = Y_AHEAD ? TILES : BATCH_OUT - TILES;
  uint2 queue[TILES + AHEAD][NT][2];
#pragma unroll
  for (int b = 0; b < TILES + AHEAD && b < BATCH_OUT; ++b)
#pragma unroll
    for (int nt = 0; nt < NT; ++nt)
#pragma unroll
      for (int odd = 0; odd < 2; ++odd) queue[b][nt][odd] = first[b][nt][odd];
#pragma unroll 1
  for (u32 tile = 0; tile < y.tiles; tile += TILES) {
    if (Y_AHEAD) y.load_at<TILES>(queue, AHEAD, tile + TILES);
    float sums[TILES][2][NT][4];
    float low[NT == 1 && TILES == 1 ? 1 : TILES][2][NT][4];  // of v's low parts, where one chain would be long
        constexpr bool TWO_CHAINS = NT == 1 && PAIRS_HERE == 0;
#pragma unroll
    for (int b = 0; b < TILES; ++b)
#pragma unroll
      for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int nt = 0; nt < NT; ++nt)
#pragma unroll
          for (int e = 0; e < 4; ++e) sums[b][half][nt][e] = low[b][half][nt][e] = 0.f;
    u32 here = min((u32)TILES, y.tiles - tile);
    if (PAIRS_HERE > 0) {
      uint4 units[TILES * (PAIRS_HERE > 0 ? PAIRS_HERE : 1)][2];
      stream.take(units, here * PAIRS_HERE);
#pragma unroll
      for (int b = 0; b < TILES; ++b)
        if (b == 0 || b < here)
#pragma unroll
          for (int p = 0; p < PAIRS_HERE; ++p)
            if (IN_REGISTERS)
              multiply_ranks<1>(sums[b], sums[b], units[b * PAIRS_HERE + p], held[p], row_tiles);
            else
              multiply_ranks<32>(sums[b], sums[b], units[b * PAIRS_HERE + p], operand + p * row_tiles * 32, row_tiles);
    } else {
#pragma unroll 1
      for (u32 pair = 0; pair < pairs; pair += BATCH_OUT) {
        uint4 units[BATCH_OUT][2];
        u32 count = min((u32)BATCH_OUT, pairs - pair);
        stream.take(units, count);
#pragma unroll
        for (int p = 0; p < BATCH_OUT; ++p)
          if (p == 0 || p < count)
            multiply_ranks<32>(sums[0], TWO_CHAINS ? low[0] : sums[0], units[p],
                               operand + (pair + p) * row_tiles * 32, row_tiles);
      }
      if (TWO_CHAINS)
#pragma unroll
        for (int half = 0; half < 2; ++half)
#pragma unroll
          for (int nt = 0; nt < NT; ++nt)
#pragma unroll
            for (int e = 0; e < 4; ++e) sums[0][half][nt][e] += low[0][half][nt][e];
    }
#pragma unroll
    for (int b = 0; b < TILES; ++b)
      if (b == 0 || b < here) y.add(queue[b], sums[b], tile + b);
#pragma unroll
    for (int b = 0; b < AHEAD; ++b)
#pragma unroll
      for (int nt = 0; nt < NT; ++nt)
#pragma unroll
        for (int odd = 0; odd < 2; ++odd) queue[b][nt][odd] = queue[b + TILES][nt][odd];
    if (!Y_AHEAD && tile + TILES + AHEAD < y.tiles) y.load_at<TILES>(queue, AHEAD, tile + TILES + AHEAD);
  }
}

// How many of `tiles` tiles, `step` apart from `first` on, begin below `end`. Only the last one may not.
DEVICE u32 tiles_below(u32 first, u32 step, u32 end, u32 tiles) {
  return tiles > 0 && first + (tiles - 1) * step >= end ? tiles - 1 : tiles;
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
  const u32 rows = job.rows;
  const Projection& projection = args.projections[job.projection];
  const u32 lane = thread_index() % 32, warp = thread_index() / 32;
  const u32 i = lane / 4, q = lane % 4;

  const u32 granules = (job.rank + 7) / 8, pairs = (granules + 1) / 2;
  const u32 row_tiles = NT == 1 ? 1 : (rows + 7) / 8;
  const u32 cells = pairs * row_tiles;  // of 16 ranks × 8 rows, 512 bytes in fp32

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
  float4* const partial = (float4*)(ring + WARPS * args.depth * UNIT);         // [k warp][cell][lane]
  float4* const stage = partial + (MODE == EXPAND ? 1 : k_warps) * cells * 32;  // [member][cell][lane]
  const u32 members = job.members, me = job.member;
  // Many cells are exchanged in turns, a few at once: every member sends its sums of every cell to every other.
  const bool turns = cells >= TURNS;
  // v as the expand's operand, [cell][lane]: in the place where this member would send sums to itself. It must not
  // take the place of sums that another warp has yet to read.
  uint4* const operand_at_once = (uint4*)(MODE == PAIR && members > 1 ? stage + me * cells * 32 : partial);
  u64* const inbox_barrier = (u64*)(stage + members * cells * 32);  // with a cluster

  Stream stream;
  stream.ring = ring + warp * args.depth * UNIT + lane * 16;
  stream.depth = args.depth;
  stream.unit = stream.fill = stream.drain = stream.unread = 0;
  const u8* weights = (const u8*)job.weights + lane * 16;
  stream.now.start =
      weights + (projection.a_tiles * granules + u64(job.k_tile + k_warp) * granules + 2 * pair_begin) * TILE;
  stream.now.skip = int(k_warps * granules * TILE) - int(my_pairs * UNIT);
  stream.now.runs = my_inputs;
  stream.now.units = my_pairs;
  stream.now.tiles = min(2 * my_pairs, granules - min(granules, 2 * pair_begin));
  stream.next.start = weights + (projection.b_tiles * granules + u64(job.column_tile + warp) * granules) * TILE;
  stream.next.skip = int(WARPS * granules * TILE) - int(pairs * UNIT);
  stream.next.runs = my_columns;
  stream.next.units = pairs;
  stream.next.tiles = granules;
  stream.left = my_inputs * my_pairs + my_columns * pairs;
  stream.begin();

  // The exchange: a cell belongs to `share` warps, which divide the other members among themselves.
  const bool cluster = MODE != EXPAND && members > 1 && args.cluster;
  const Room room = room_in_turns<MODE>(partial, job, k_warps, cells, cluster);
  uint4* const operand = turns && MODE == PAIR ? room.operand : operand_at_once;
  const u32 share_bits = cells == 1 ? 3 : cells == 2 ? 2 : cells <= 4 ? 1 : 0, share = 1u << share_bits;
  const u32 my_cell = warp >> share_bits, sub = warp & (share - 1);
  if (cluster) {
    if (thread_index() == 0 && turns) begin_turns<MODE>(job, room, cells);
    if (thread_index() == 0 && !turns) {
      u32 expected = MODE == PAIR ? cells : cells > me ? (cells - me - 1) / members + 1 : 0;
      barrier_init(inbox_barrier, (members - 1) * expected * TILE);
    }
    cluster_arrive();
  }

  Inputs x;
  {
    const u32 first = (job.k_tile + k_warp) * 32 + 8 * q;
    x.base = (const u8*)args.x + (u64(job.row + i) * args.x_stride + first) * 2;
    x.row_step = args.x_stride * 16;
    x.step = k_warps * 64;
    x.tiles = my_inputs;
    x.here = tiles_below(first, k_warps * 32, args.inputs, my_inputs);
    x.rows = rows - min(rows, i);
  }
  Outputs y;
  {
    const u32 first = (job.column_tile + warp) * 32 + 4 * i;
    y.row_bytes = projection.y_stride * 2;
    y.base = (u8*)projection.y + u64(job.row + 2 * q) * y.row_bytes + u64(first) * 2;
    y.tiles = my_columns;
    y.here = tiles_below(first, WARPS * 32, projection.columns, my_columns);
    y.rows = rows - min(rows, 2 * q);
  }
  uint2 y_first[BATCH_OUT][NT][2];
  if (cluster) cluster_wait();

  wait_for_operands(args);

  // A single cell of v is added up by every warp for itself: that is shorter than sharing it.
  const bool each = NT == 1 && cells == 1 && MODE != SHRINK;
  uint4 in_hand = make_uint4(0, 0, 0, 0);

  if (MODE != EXPAND) {
    float sums[PAIRS][NT][4];
#pragma unroll
    for (int p = 0; p < PAIRS; ++p)
#pragma unroll
      for (int nt = 0; nt < NT; ++nt)
#pragma unroll
        for (int e = 0; e < 4; ++e) sums[p][nt][e] = 0.f;
    if (my_pairs == 1) multiply_inputs<1>(stream, x, row_tiles, sums);
    if (PAIRS >= 2 && my_pairs == 2) multiply_inputs<PAIRS >= 2 ? 2 : 1>(stream, x, row_tiles, sums);
    if (PAIRS >= 3 && my_pairs == 3) multiply_inputs<PAIRS >= 3 ? 3 : 1>(stream, x, row_tiles, sums);
    if (PAIRS >= 4 && my_pairs == 4) multiply_inputs<PAIRS >= 4 ? 4 : 1>(stream, x, row_tiles, sums);
#pragma unroll
    for (int p = 0; p < PAIRS; ++p)
      if (p < my_pairs)
#pragma unroll
        for (int nt = 0; nt < NT; ++nt)
          if (nt < row_tiles)
            partial[(k_warp * cells + (pair_begin + p) * row_tiles + nt) * 32 + lane] =
                make_float4(sums[p][nt][0], sums[p][nt][1], sums[p][nt][2], sums[p][nt][3]);
    block_barrier();

    auto ask_y = [&] {
      if (MODE == PAIR) y.load(y_first, 0);  // of the first output tiles: while the sums travel
    };
    if (turns) {
      exchange_in_turns<MODE, 4, 2>(job, projection, args.inbox, room, k_warps, row_tiles, cells, ask_y);
    } else {
      // The block's sums, in the order of its warps; other members' shares leave at once.
      auto inbox = [&](u32 reader, u32 writer) {
        return args.inbox + ((u64(job.inbox) + (reader * members + writer) * cells + my_cell) * 32 + lane);
      };
      const bool mine_too = my_cell < cells && (sub == 0 || members > 1 || each);
      float4 mine = empty_cell();
      if (mine_too) {
        mine = sum_of(partial + my_cell * 32 + lane, k_warps, cells * 32);
        if (members > 1 && !cluster) mine = no_empty(mine);
        for (u32 reader = sub; reader < members; reader += share) {
          if (reader == me || (MODE == SHRINK && reader != my_cell % members)) continue;
          if (cluster)
            store_async(stage + (me * cells + my_cell) * 32 + lane, inbox_barrier, reader, mine);
          else
            store_relaxed(inbox(reader, me), mine);
        }
      }
      ask_y();
      if (members > 1 && !cluster) {
        if (my_cell < cells && (MODE == PAIR || my_cell % members == me))
          for (u32 first = sub; first < members; first += 4 * share) {
            float4* from[4];
            float4 values[4];
#pragma unroll
            for (int n = 0; n < 4; ++n) {
              u32 writer = first + n * share;
              from[n] = writer < members && writer != me ? inbox(me, writer) : nullptr;
            }
            receive(from, values);
#pragma unroll
            for (int n = 0; n < 4; ++n)
              if (from[n]) stage[((first + n * share) * cells + my_cell) * 32 + lane] = values[n];
          }
        block_barrier();
      }
      if (cluster) barrier_wait(inbox_barrier);
      if (my_cell < cells && (sub == 0 || each) && (MODE != SHRINK || my_cell % members == me)) {
        float4 sum = mine;
        if (members > 1) {
          const float4* from = stage + my_cell * 32 + lane;
          sum = me == 0 ? mine : from[0];
#pragma unroll 4
          for (u32 writer = 1; writer < members; ++writer)
            sum = add(sum, writer == me ? mine : from[writer * cells * 32]);
        }
        if (MODE == SHRINK)
          store_v(job, projection, row_tiles, my_cell, sum);
        else if (each)
          in_hand = operand_of(sum, job.scale);
        else
          operand[my_cell * 32 + lane] = operand_of(sum, job.scale);
      }
    }
  } else {
    for (u32 cell = each ? 0 : warp; cell < cells; cell += WARPS) {
      const uint4 parts = split(v_cell(job, projection, row_tiles, cell), job.scale);
      if (each)
        in_hand = parts;
      else
        operand[cell * 32 + lane] = parts;
    }
    y.load(y_first, 0);
  }

  if (MODE != SHRINK) {
    if (!each) block_barrier();
    const uint4* v = operand + lane;
    if (pairs == 1)
      multiply_outputs<tiles_in_batch(1), 1>(stream, y, v, in_hand, each, pairs, row_tiles, y_first);
    else if (BATCH_OUT >= 2 && NT == 1 && pairs == 2)
      multiply_outputs<tiles_in_batch(2), 2>(stream, y, v, in_hand, false, pairs, row_tiles, y_first);
    else
      multiply_outputs<1, 0>(stream, y, v, in_hand, false, pairs, row_tiles, y_first);
  }
  copy_wait<0>();
  if (args.ready && waits_for_predecessor(args)) dependency_wait();
}

KERNEL void __launch_bounds__(WARPS * 32, MIN_BLOCKS) lora_pair(const GRID_CONSTANT Arguments args) { lora<PAIR>(args); }
KERNEL void __launch_bounds__(WARPS * 32, MIN_BLOCKS) lora_shrink(const GRID_CONSTANT Arguments args) {
  lora<SHRINK>(args);
}
KERNEL void __launch_bounds__(WARPS * 32, MIN_BLOCKS) lora_expand(const GRID_CONSTANT Arguments args) {
  lora<EXPAND>(args);
}
