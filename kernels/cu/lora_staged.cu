// The formula of lora.cu for segments of many rows: x and y, not weights, are the bytes that count.
//
// y[rows of segment i] += scale_i · (x[rows of segment i] · A_i) · B_i
//
// Layouts, jobs and modes are those of lora.cu. The products are by warps (lora_fragments.cuh) or, of 32 rows on Hopper, by
// warpgroups (lora_warpgroups.cuh).
//
// A block takes its slice of x and then its slice of y through one ring of *stages* in shared memory (lora_stages.cuh): a
// stage holds NT row tiles × `tiles` tiles of 32 columns of x or y (16 KiB), and the weights of the same columns, which lie
// together in memory. y follows x in the ring, so that the memory is busy while the block adds up v: members exchange in
// turns (lora_exchange.cuh). On Hopper a few further warps copy and do nothing else, so that a warp that multiplies asks for
// nothing.
//
// Rows that a segment does not have are multiplied too, with whatever their place holds: nobody reads those
// products. Columns that x does not have are masked: weights there are zero, but zero times anything is not.
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


#define WARPGROUPS (BULK && NT == 4)  // whether warpgroups multiply
constexpr bool ROLES = BULK && COPIERS > 0;
constexpr u32 STAGE_TILES = 32 / NT;             // column tiles of a stage, at most
constexpr u32 STAGE_TILES_MIN = 4;
constexpr u32 STAGE_WEIGHTS_MAX = 32 << 10;      // bytes of weights above which a stage has fewer tiles
constexpr u32 SLOTS_MAX = 16;
constexpr u32 BARRIERS = WARPGROUPS ? 512 : SLOTS_MAX * 2 * 8;  // bytes before the ring
constexpr u32 THREADS = (WARPS + COPIERS) * 32;
constexpr u32 COPYING = ROLES ? COPIERS * 32 : THREADS;  // threads that copy
constexpr u32 READING = ROLES ? WARPS * 32 : THREADS;    // threads that read a stage
static_assert(COPYING >= STAGE_TILES * 4, "every 16 bytes of a row of a stage have a thread");

#include "lora_stages.cuh"

// A barrier of the warps that multiply.
DEVICE void multiplying_barrier() {
  if (ROLES)
    part_barrier(WARPS * 32);
  else
    block_barrier();
}

// Two of a lane's outputs.
DEVICE u32 add_to(u32 before, float first, float second) {
  return ELEMENT::pack(ELEMENT::low(before) + first, ELEMENT::high(before) + second);
}

#if WARPGROUPS
#include "lora_warpgroups.cuh"
#else
#include "lora_fragments.cuh"
#endif

template <Mode MODE>
DEVICE void lora(const Arguments& args) {
  Job job;
  if (!begin(args, job)) return;
  const Projection& projection = args.projections[job.projection];
  const u32 lane = thread_index() % 32, warp = thread_index() / 32;
  const u32 granules = (job.rank + 7) / 8, pairs = (granules + 1) / 2;
  const u32 row_tiles = WARPGROUPS ? NT : (job.rows + 7) / 8;
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

  const Division mine = division_of(pairs);
  float4* const partial = (float4*)(shared_base() + BARRIERS + args.depth * 1024);  // [k warp][cell][lane]
  const bool cluster = MODE != EXPAND && job.members > 1 && args.cluster;
  const Room room = room_in_turns<MODE>(partial, job, mine.k_parts, cells, cluster);
  if (cluster && thread_index() == 0) begin_turns<MODE>(job, room, cells);
  if (cluster) cluster_arrive();
  stages.x.row_bytes = args.x_stride * 2;
  stages.x.base = (const u8*)args.x + u64(job.row) * stages.x.row_bytes + job.k_tile * 64;
  stages.x.quarters = args.inputs / 8 - min(args.inputs / 8, job.k_tile * 4);
  stages.y.row_bytes = projection.y_stride * 2;
  stages.y.base = (const u8*)projection.y + u64(job.row) * stages.y.row_bytes + job.column_tile * 64;
  stages.y.quarters = projection.columns / 8 - min(projection.columns / 8, job.column_tile * 4);
  if (BULK) block_barrier();
  if (cluster && !WARPGROUPS) cluster_wait();

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
    if (cluster && WARPGROUPS) cluster_wait();
    return end(args);
  }

  if (MODE != EXPAND) {
    shrink(stages, partial, mine, pairs, cells);
    multiplying_barrier();
    if (args.release == WITH_SUMS) dependents_trigger();
    if (!ROLES && stages.in > 0) stages.refill();
    if (cluster && WARPGROUPS) cluster_wait();
    if (warp < WARPS)
      exchange_in_turns<MODE, SUMS, Order, 4, 4>(job, projection, args.inbox, room, mine.k_parts, row_tiles, cells,
                                                    [] {});
  } else {
    for (u32 cell = warp; warp < WARPS && cell < cells; cell += WARPS)
      Order::store(room.operand + cell * 32, lane, split(v_cell(job, projection, row_tiles, cell), job.scale));
  }
  if (MODE != SHRINK) {
    if (WARPGROUPS) products_see_copies();
    multiplying_barrier();
    expand(stages, room.operand, pairs, MODE == PAIR);
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
