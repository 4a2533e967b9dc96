// The formula of lora.cu for prompts whose ranks are 33 to 64, on Hopper: 64 rows a group, so that weights, which every group
// reads again from the L2, are no more than a third of the bytes, and products of warpgroups. lora_staged.cu is its sibling
// for every other GPU.
//
// y[rows of segment i] += scale_i · (x[rows of segment i] · A_i) · B_i
//
// Layouts, jobs and modes are those of lora.cu; the members of a group are a cluster.
//
// One thread fills a ring of slots of 16 KiB with the stages of this member's slices: first 64 rows × 64 inputs of x, one box,
// and A of the same inputs; then B of 128 outputs. (A ninth warp for this would leave the others 96 registers instead of 128.)
// y does not pass through shared memory: it is asked for into the L2 behind the last of x.
//
// Shrink: x and A are both operands in shared memory as they lie (rows of 128 bytes of x, of 64 bytes of A, both swizzled). The
// two warpgroups divide the ranks. Exchange: cells of 16 ranks × 8 rows, owned by the members in turn; an owner adds up and
// sends v, high and low 16-bit parts, to where the others' products read it. Expand: outputs are the rows of the products, B
// is their left operand in registers, as in lora.cu, 32 outputs a warp; v of 32 rows a warpgroup is the right one.
//
// Rows that a segment does not have are multiplied too, with whatever is there: they are rows of the products that nobody
// reads. Ranks that it does not have are set to zero on the way.
//
// Bound by the bytes of x and y.
#include "lora.cuh"
#include "lora_exchange.cuh"
#include "lora_warpgroup.cuh"

constexpr u32 ROWS = 64, RANKS = 64;
constexpr u32 ROW_TILES = ROWS / 8, CELLS = ROW_TILES * RANKS / 16;
constexpr u32 SLOT = 16 << 10, BOX = 8 << 10, SLOTS_MAX = 16;
constexpr u32 IN_TILES = 2, OUT_TILES = 4;  // tiles of 32 inputs and of 32 outputs in a stage
constexpr u32 PART = ROWS * RANKS * 2;      // bytes of the high parts of v, and of the low ones
constexpr u32 THREADS = WARPS * 32;
static_assert(WARPS == 8, "two warpgroups");

struct Wide {
  u8* ring;
  u8* v;             // [part][row][rank], rows of 128 bytes, swizzled
  float4* gathered;  // [member][owned cell][lane]
  u64* barriers;     // full and empty ones of each slot; two of the exchange
  u32 slots;
  u32 in, total;  // stages
  u32 granules;
  u32 asked, asked_slot, asked_parity;  // the next stage to be asked for
  u32 stage, slot, parity;              // the stage that this warp is at

  DEVICE u64* full(u32 slot) const { return barriers + slot; }
  DEVICE u64* empty(u32 slot) const { return barriers + SLOTS_MAX + slot; }
  DEVICE u64* exchange(u32 hop) const { return barriers + 2 * SLOTS_MAX + hop; }
  DEVICE u8* here() const { return ring + slot * SLOT; }

  DEVICE void advance() {
    ++stage;
    if (++slot == slots) slot = 0, parity ^= 1;
  }

  // Weights of a stage, and the announcement of all of its bytes.
  DEVICE void ask_weights_if(bool chosen, const Job& job, const Projection& projection, u32 stage, u32 slot) const {
    const bool is_x = stage < in;
    const u32 first = is_x ? stage * IN_TILES : (stage - in) * OUT_TILES;
    const u32 tiles = is_x ? min(IN_TILES, job.k_tiles - first) : min(OUT_TILES, job.column_tiles - first);
    const u64 tile = is_x ? projection.a_tiles + job.k_tile + first : projection.b_tiles + job.column_tile + first;
    const u32 bytes = tiles * granules * TILE;
    announce_if(chosen, full(slot), bytes + (is_x ? BOX : 0));
    copy_bulk_if(chosen, ring + slot * SLOT + (is_x ? BOX : 0), (const u8*)job.weights + tile * granules * TILE, bytes, full(slot));
  }

  // Where a rank pair's v of a lane's row begins: words of ranks 2q and 2q + 1 are in place `odd` 0, of 2q + 8 and 2q + 9 in 1.
  DEVICE u32* v_at(u32 part, u32 cell, u32 odd) const {
    const u32 lane = thread_index() % 32, i = lane / 4, q = lane % 4;
    const u32 row = cell % ROW_TILES * 8 + i, chunk = cell / ROW_TILES * 2 + odd;
    return (u32*)(v + part * PART + row * 128 + ((chunk ^ i) << 4) + q * 4);
  }
};

// Asks for the next stage, in the slot of the one that all warps are about to leave, or in an empty one (FIRST).
template <Mode MODE, bool FIRST>
DEVICE void refill(Wide& wide, const TensorMap* map, const Job& job, const Projection& projection) {
  if (wide.asked >= wide.total) return;
  const u32 thread = thread_index();
  const bool is_x = wide.asked < wide.in;
  if (MODE != SHRINK && wide.asked == wide.in) {
    const u32 first = job.column_tile * 32, columns = min(job.column_tiles * 32, projection.columns - first);
    const u8* y = (const u8*)projection.y + (u64(job.row + thread) * projection.y_stride + first) * 2;
    prefetch_to_l2_if(thread < job.rows, y, columns * 2);
  }
  if (uniform(thread / 32) == 0) {
    if (!FIRST) {
      phases_wait(wide.empty(wide.asked_slot), wide.asked_parity);
      wide.ask_weights_if(thread == 0, job, projection, wide.asked, wide.asked_slot);
    }
    copy_box_if(thread == 0 && is_x, wide.ring + wide.asked_slot * SLOT, map, (job.k_tile + wide.asked * IN_TILES) * 32,
                job.row, wide.full(wide.asked_slot));
  }
  ++wide.asked;
  if (++wide.asked_slot == wide.slots) wide.asked_slot = 0, wide.asked_parity ^= FIRST ? 0 : 1;
}

// This member's partial sums: of this warp's 16 rows and this warpgroup's 32 ranks.
template <Mode MODE>
DEVICE void shrink_stages(Wide& wide, const TensorMap* map, const Job& job, const Projection& projection, u32 group,
                          float (&sums)[16]) {
#pragma unroll
  for (int e = 0; e < 16; ++e) sums[e] = 0.f;
  u32 before = 0;
#pragma unroll 1
  for (; wide.stage < wide.in; wide.advance()) {
    phases_wait(wide.full(wide.slot), wide.parity);
    const u8 *x = wide.here(), *weights = x + BOX + group * 4 * TILE;
    const bool both = job.k_tiles > wide.stage * IN_TILES + 1;
    warpgroup_begin();
#pragma unroll
    for (int t = 0; t < int(IN_TILES); ++t)
      if (t == 0 || both)
#pragma unroll
        for (int k = 0; k < 2; ++k)
          Warpgroup<ELEMENT>::multiply(sums, operand_at<ROWS_OF_128>(x + t * 64 + k * 32),
                                       operand_at<ROWS_OF_64>(weights + t * wide.granules * TILE + k * 32));
    warpgroup_commit();
    warpgroup_wait<1>();
    if (wide.stage > 0) {
      phases_arrive(wide.empty(before));
      refill<MODE, false>(wide, map, job, projection);
    }
    before = wide.slot;
  }
  warpgroup_wait<0>();
  if (wide.in > 0) {
    phases_arrive(wide.empty(before));
    refill<MODE, false>(wide, map, job, projection);
  }
}

// v of every row and rank, where the products of the expand read it, or in global memory (SHRINK).
template <Mode MODE>
DEVICE void exchange_wide(const Wide& wide, const Arguments& args, const Job& job, const Projection& projection, bool cluster,
                          const float (&sums)[16]) {
  const u32 lane = thread_index() % 32, warp = thread_index() / 32;
  const u32 members = job.members, me = job.member;
  const u32 owned = cells_owned(job, CELLS), owned_max = cells_owned_max(job, CELLS);
#pragma unroll
  for (int p = 0; p < 2; ++p)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const u32 pair = warp / 4 * 2 + p, cell = pair * ROW_TILES + warp % 4 * 2 + half;
      const bool first = 2 * pair < wide.granules, second = 2 * pair + 1 < wide.granules;
      const int e = p * 8 + half * 2;
      const float4 sum = make_float4(first ? sums[e] : 0.f, first ? sums[e + 1] : 0.f, second ? sums[e + 4] : 0.f,
                                     second ? sums[e + 5] : 0.f);
      const u32 owner = cell % members;
      float4* to = wide.gathered + (me * owned_max + cell / members) * 32 + lane;
      if (owner == me)
        *to = sum;
      else
        store_async(to, wide.exchange(0), owner, sum);
    }
  block_barrier();
  if (args.release == WITH_SUMS) dependents_trigger();
  if (cluster) barrier_wait(wide.exchange(0));
  for (u32 index = warp; index < owned; index += WARPS) {
    const u32 cell = index * members + me;
    const float4* from = wide.gathered + index * 32 + lane;
    float4 sum = from[0];
#pragma unroll 4
    for (u32 writer = 1; writer < members; ++writer) sum = add(sum, from[writer * owned_max * 32]);
    if (MODE == SHRINK) {
      store_v<ROWS_FIRST>(job, projection, ROW_TILES, cell, sum);
      continue;
    }
    const uint4 parts = split(sum, job.scale);
    for (u32 reader = 0; reader < members; ++reader) {
      if (reader == me) continue;
      store_async_word(wide.v_at(0, cell, 0), wide.exchange(1), reader, parts.x);
      store_async_word(wide.v_at(0, cell, 1), wide.exchange(1), reader, parts.y);
      store_async_word(wide.v_at(1, cell, 0), wide.exchange(1), reader, parts.z);
      store_async_word(wide.v_at(1, cell, 1), wide.exchange(1), reader, parts.w);
    }
    *wide.v_at(0, cell, 0) = parts.x;
    *wide.v_at(0, cell, 1) = parts.y;
    *wide.v_at(1, cell, 0) = parts.z;
    *wide.v_at(1, cell, 1) = parts.w;
  }
  if (MODE == PAIR && cluster) barrier_wait(wide.exchange(1));
}

// y += v·B: 32 rows a warpgroup, 32 outputs a warp and stage.
template <Mode MODE>
DEVICE void expand_stages(Wide& wide, const TensorMap* map, const Job& job, const Projection& projection, u32 warp) {
  const u32 lane = thread_index() % 32, i = lane / 4, q = lane % 4, group = warp / 4, quarter = warp % 4;
  const u32 first_row = group * 32 + 2 * q, row_bytes = projection.y_stride * 2;
  const u32 rows = job.rows - min(job.rows, first_row);  // from this lane's first on
  u8* const y = (u8*)projection.y + u64(job.row + first_row) * row_bytes + u64(job.column_tile + quarter) * 64 + i * 8;
  const u8* const v = wide.v + group * 32 * 128;
  auto tile_at = [&](u32 stage) { return (stage - wide.in) * OUT_TILES; };  // the stage's first
  auto mine = [&](u32 stage) {
    const u32 tile = tile_at(stage) + quarter;
    return stage < wide.total && tile < job.column_tiles && (job.column_tile + tile) * 32 + 4 * i < projection.columns;
  };
  auto load = [&](uint2 (&into)[4][2], u32 stage) {
    const bool here = mine(stage);
    const u8* from = y + tile_at(stage) * 64;
#pragma unroll
    for (int n = 0; n < 4; ++n)
#pragma unroll
      for (int odd = 0; odd < 2; ++odd)
        if (here && 8 * n + odd < rows) into[n][odd] = *(const uint2*)(from + u64(8 * n + odd) * row_bytes);
  };
  // y is asked for a stage ahead, into two sets of registers by turns.
  auto stage = [&](const uint2 (&before)[4][2], uint2 (&ahead)[4][2]) {
    phases_wait(wide.full(wide.slot), wide.parity);
    const u8* weights = wide.here() + quarter * wide.granules * TILE + lane * 16;
    uint4 units[RANKS / 8];
#pragma unroll
    for (int g = 0; g < int(RANKS / 8); ++g) {
      const bool there = g < wide.granules;
      const uint4 unit = *(const uint4*)(weights + (there ? g : 0) * TILE);
      units[g] = make_uint4(there ? unit.x : 0, there ? unit.y : 0, there ? unit.z : 0, there ? unit.w : 0);
    }
    float left[16], right[16];  // outputs 4i and 4i + 1, 4i + 2 and 4i + 3
#pragma unroll
    for (int e = 0; e < 16; ++e) left[e] = right[e] = 0.f;
    warpgroup_begin();
#pragma unroll
    for (int p = 0; p < int(RANKS / 16); ++p) {
      const uint4 a = units[2 * p], c = units[2 * p + 1];
#pragma unroll
      for (int part = 0; part < 2; ++part) {
        const u64 right_operand = operand_at<ROWS_OF_128>(v + part * PART + p * 32);
        Warpgroup<ELEMENT>::multiply(left, a.x, a.y, c.x, c.y, right_operand);
        Warpgroup<ELEMENT>::multiply(right, a.z, a.w, c.z, c.w, right_operand);
      }
    }
    warpgroup_commit();
    warpgroup_wait<0>();
    load(ahead, wide.stage + 1);
    phases_arrive(wide.empty(wide.slot));
    refill<MODE, false>(wide, map, job, projection);
    const bool here = mine(wide.stage);
    u8* const to = y + tile_at(wide.stage) * 64;
#pragma unroll
    for (int n = 0; n < 4; ++n)
#pragma unroll
      for (int odd = 0; odd < 2; ++odd)
        if (here && 8 * n + odd < rows) {
          uint2 sum = before[n][odd];
          const int e = 4 * n + odd;
          sum.x = ELEMENT::pack(ELEMENT::low(sum.x) + left[e], ELEMENT::high(sum.x) + left[e + 2]);
          sum.y = ELEMENT::pack(ELEMENT::low(sum.y) + right[e], ELEMENT::high(sum.y) + right[e + 2]);
          *(uint2*)(to + u64(8 * n + odd) * row_bytes) = sum;
        }
    wide.advance();
  };
  uint2 sets[2][4][2];
  load(sets[0], wide.stage);
#pragma unroll 1
  while (wide.stage < wide.total) {
    stage(sets[0], sets[1]);
    if (wide.stage == wide.total) break;
    stage(sets[1], sets[0]);
  }
}

template <Mode MODE>
DEVICE void lora(const Arguments& args, const TensorMap* map) {
  Job job;
  if (!begin(args, job)) return;
  const Projection& projection = args.projections[job.projection];
  const u32 warp = uniform(thread_index() / 32);
  job.k_tiles = uniform(job.k_tiles);
  job.column_tiles = uniform(job.column_tiles);
  job.members = uniform(job.members);
  Wide wide;
  wide.slots = min(args.depth * 1024 / SLOT, SLOTS_MAX);
  wide.ring = shared_base();
  wide.v = wide.ring + wide.slots * SLOT;
  wide.gathered = (float4*)(wide.v + 2 * PART);
  wide.barriers = (u64*)(wide.gathered + job.members * cells_owned_max(job, CELLS) * 32);
  wide.granules = uniform((job.rank + 7) / 8);
  wide.in = MODE == EXPAND ? 0 : (job.k_tiles + IN_TILES - 1) / IN_TILES;
  wide.total = wide.in + (MODE == SHRINK ? 0 : (job.column_tiles + OUT_TILES - 1) / OUT_TILES);
  wide.stage = wide.slot = wide.parity = 0;
  wide.asked = wide.asked_slot = wide.asked_parity = 0;
  const bool cluster = MODE != EXPAND && job.members > 1;
  const u32 ahead = min(wide.slots, wide.total);
  if (warp == 0) {
    const u32 lane = thread_index();
    if (lane < wide.slots) {
      phases_init(wide.full(lane), 1);
      phases_init(wide.empty(lane), THREADS);
    }
    const u32 owned = cells_owned(job, CELLS);
    if (cluster && lane < 2)
      barrier_init(wide.exchange(lane), lane == 0 ? (job.members - 1) * owned * TILE : MODE == PAIR ? (CELLS - owned) * TILE : 0);
    warp_barrier();
#pragma unroll 1
    for (u32 stage = 0; stage < ahead; ++stage) wide.ask_weights_if(lane == 0, job, projection, stage, stage);
  }
  block_barrier();
  if (cluster) cluster_arrive();
  if (cluster) cluster_wait();
  wait_for_operands(args);
  if (MODE == EXPAND ? args.release != AT_START : args.release == WITH_OPERANDS) dependents_trigger();
#pragma unroll 1
  while (wide.asked < ahead) refill<MODE, true>(wide, map, job, projection);

  if (MODE != EXPAND) {
    float sums[16];
    shrink_stages<MODE>(wide, map, job, projection, warp / 4, sums);
    exchange_wide<MODE>(wide, args, job, projection, cluster, sums);
  } else {
    for (u32 cell = warp; cell < CELLS; cell += WARPS) {
      const uint4 parts = split(v_cell(job, projection, ROW_TILES, cell), job.scale);
      *wide.v_at(0, cell, 0) = parts.x;
      *wide.v_at(0, cell, 1) = parts.y;
      *wide.v_at(1, cell, 0) = parts.z;
      *wide.v_at(1, cell, 1) = parts.w;
    }
  }
  if (MODE != SHRINK) {
    shared_for_products();
    block_barrier();
    expand_stages<MODE>(wide, map, job, projection, warp);
  }
  end(args);
}

KERNEL void __launch_bounds__(THREADS, MIN_BLOCKS)
lora_pair(const GRID_CONSTANT Arguments args, const GRID_CONSTANT TensorMap x) { lora<PAIR>(args, &x); }
KERNEL void __launch_bounds__(THREADS, MIN_BLOCKS)
lora_shrink(const GRID_CONSTANT Arguments args, const GRID_CONSTANT TensorMap x) { lora<SHRINK>(args, &x); }
KERNEL void __launch_bounds__(THREADS, MIN_BLOCKS)
lora_expand(const GRID_CONSTANT Arguments args, const GRID_CONSTANT TensorMap x) { lora<EXPAND>(args, &x); }
