// What the LoRA kernels share: the plan's jobs, the arguments of a launch, and the cells through which the
// blocks of a group exchange partial sums. Included once by each kernel source.
#include "primitives.cuh"

#ifndef ELEMENT
#define ELEMENT Bf16
#endif
#ifndef NT  // row tiles of 8 rows that one group holds
#define NT 1
#endif
#ifndef MIN_BLOCKS
#define MIN_BLOCKS 2
#endif

constexpr u32 WARPS = 8;

struct alignas(16) Job {
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
  u32 job_count;
  u32 cluster;  // whether the members of a group are a cluster
  u32 depth;    // of a warp's ring in units (lora.cu), of the block's ring in KiB (lora_staged.cu)
  u32 reserved;
  Projection projections[4];
  // Where this is given, the launch runs beside the preceding kernel, which stores `mark` there when x is complete, and only
  // the end of the launch waits for that kernel.
  const u32* ready;
  u32 mark;
  u32 reserved_too;
};

enum Mode { SHRINK, EXPAND, PAIR };

constexpr u32 EMPTY = 0xffffffffu;
constexpr u32 TILE = 512, UNIT = 2 * TILE;

DEVICE bool arrived(const float4& v) {
  return float_bits(v.x) != EMPTY && float_bits(v.y) != EMPTY && float_bits(v.z) != EMPTY && float_bits(v.w) != EMPTY;
}
DEVICE float never_empty(float v) { return float_bits(v) == EMPTY ? bits_float(0x7fffffffu) : v; }
DEVICE float4 no_empty(float4 v) {
  return make_float4(never_empty(v.x), never_empty(v.y), never_empty(v.z), never_empty(v.w));
}
DEVICE float4 add(float4 a, float4 b) { return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w); }

DEVICE float4 empty_cell() {
  const float empty = bits_float(EMPTY);
  return make_float4(empty, empty, empty, empty);
}

// Waits for up to COUNT cells in global memory, takes them, leaves them empty. Null cells are skipped.
template <int COUNT>
DEVICE void receive(float4* (&cells)[COUNT], float4 (&values)[COUNT]) {
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
      store_relaxed(cells[i], empty_cell());
    }
}

// The sum of `count` cells, `stride` vectors apart, in order.
DEVICE float4 sum_of(const float4* cells, u32 count, u32 stride) {
  float4 sum = cells[0];
  if (count == 8) {
    float4 others[7];
#pragma unroll
    for (int n = 0; n < 7; ++n) others[n] = cells[(n + 1) * stride];
#pragma unroll
    for (int n = 0; n < 7; ++n) sum = add(sum, others[n]);
  } else {
#pragma unroll 3
    for (u32 n = 1; n < count; ++n) sum = add(sum, cells[n * stride]);
  }
  return sum;
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

// Whether this block waits for the preceding kernel: beside it one block does, at its end, so that what follows this
// launch also follows that kernel.
DEVICE bool waits_for_predecessor(const Arguments& args) { return !args.ready || block_index() + 1 == args.job_count; }

// Returns when x and y may be read.
DEVICE void wait_for_operands(const Arguments& args) {
  if (args.ready) {
    if (thread_index() == 0)
      while (load_acquire(args.ready) != args.mark) poll_pause();
    block_barrier();
  } else {
    dependency_wait();
  }
}

DEVICE Job job_of(const Job* jobs, u32 block) {
  union {
    uint4 words[4];
    Job job;
  } loaded;
  const uint4* from = (const uint4*)(jobs + block);
#pragma unroll
  for (int n = 0; n < 4; ++n) loaded.words[n] = from[n];
  return loaded.job;
}

// v of one cell as the expand takes it: rows i, ranks 2q, 2q + 1, 2q + 8 and 2q + 9, from global memory.
DEVICE float4 v_cell(const Job& job, const Projection& projection, u32 row_tiles, u32 cell) {
  const u32 lane = thread_index() % 32, i = lane / 4, q = lane % 4;
  const u32 rank = cell / row_tiles * 16 + 2 * q, row = cell % row_tiles * 8 + i;
  const float* v = projection.v + u64(job.row + row) * projection.v_stride + rank;
  float4 sum = make_float4(0.f, 0.f, 0.f, 0.f);
  if (row < job.rows && rank < job.rank) sum.x = v[0];
  if (row < job.rows && rank + 1 < job.rank) sum.y = v[1];
  if (row < job.rows && rank + 8 < job.rank) sum.z = v[8];
  if (row < job.rows && rank + 9 < job.rank) sum.w = v[9];
  return sum;
}

// Writes the sums of one cell, as the shrink left them, to v in global memory.
DEVICE void store_v(const Job& job, const Projection& projection, u32 row_tiles, u32 cell, float4 sum) {
  const u32 lane = thread_index() % 32, i = lane / 4, q = lane % 4;
  const u32 rank = cell / row_tiles * 16 + i, row = cell % row_tiles * 8 + 2 * q;
  float* v = projection.v + u64(job.row + row) * projection.v_stride + rank;
  if (row < job.rows && rank < job.rank) v[0] = sum.x;
  if (row < job.rows && rank + 8 < job.rank) v[8] = sum.z;
  v += projection.v_stride;
  if (row + 1 < job.rows && rank < job.rank) v[0] = sum.y;
  if (row + 1 < job.rows && rank + 8 < job.rank) v[8] = sum.w;
}

DEVICE uint4 operand_of(float4 sum, float scale) {
  const uint4 parts = split(sum, scale);
  return make_uint4(matrix_transpose(parts.x), matrix_transpose(parts.y), matrix_transpose(parts.z),
                    matrix_transpose(parts.w));
}

// The exchange of many cells, in two hops: the members own the cells in turn. Each sends its sums of a cell to the
// owner, which adds them up in the order of the members and sends v, as the expand takes it, to the others.
struct Room {
  const float4* partial;  // [k warp][cell][lane]
  float4* gathered;       // [member][owned cell][lane], with a cluster
  uint4* operand;         // [cell][lane]
  u64* barriers;          // two, with a cluster
  bool cluster;
};

DEVICE u32 cells_owned(const Job& job, u32 cells) {
  return cells > job.member ? (cells - job.member - 1) / job.members + 1 : 0;
}
DEVICE u32 cells_owned_max(const Job& job, u32 cells) { return (cells + job.members - 1) / job.members; }

// Where an exchange lies that begins at `from`.
template <Mode MODE>
DEVICE Room room_in_turns(float4* from, const Job& job, u32 k_warps, u32 cells, bool cluster) {
  Room room;
  room.partial = from;
  room.cluster = cluster;
  room.gathered = from + (MODE == EXPAND ? 0 : k_warps * cells * 32);
  room.operand = (uint4*)(room.gathered + (cluster ? job.members * cells_owned_max(job, cells) * 32 : 0));
  room.barriers = (u64*)(room.operand + cells * 32);
  return room;
}

// By one thread, before the cluster meets.
template <Mode MODE>
DEVICE void begin_turns(const Job& job, const Room& room, u32 cells) {
  const u32 owned = cells_owned(job, cells);
  barrier_init(room.barriers, (job.members - 1) * owned * TILE);
  barrier_init(room.barriers + 1, MODE == PAIR ? (cells - owned) * TILE : 0);
}

// After a barrier behind which `partial` is whole. Leaves v in `operand` (PAIR; for each thread what it wrote or
// received, so a barrier must follow) or in global memory (SHRINK). `meanwhile` is called between the hops. SUMS_AT_ONCE,
// CELLS_AT_ONCE: cells of an inbox that a warp waits for together in the first and in the second hop.
template <Mode MODE, int SUMS_AT_ONCE, int CELLS_AT_ONCE, class Meanwhile>
DEVICE void exchange_in_turns(const Job& job, const Projection& projection, float4* inbox, const Room& room,
                              u32 k_warps, u32 row_tiles, u32 cells, Meanwhile meanwhile) {
  const u32 lane = thread_index() % 32, warp = thread_index() / 32;
  const u32 members = job.members, me = job.member;
  const u32 owned = cells_owned(job, cells), owned_max = cells_owned_max(job, cells);
  auto scatter = [&](u32 reader, u32 writer, u32 index) {
    return inbox + (u64(job.inbox) + (reader * members + writer) * owned_max + index) * 32 + lane;
  };
  auto spread = [&](u32 reader, u32 cell) {
    return inbox + (u64(job.inbox) + members * members * owned_max + reader * cells + cell) * 32 + lane;
  };
  for (u32 cell = warp; cell < cells && members > 1; cell += WARPS) {
    const u32 owner = cell % members, index = cell / members;
    if (owner == me) continue;
    const float4 sum = sum_of(room.partial + cell * 32 + lane, k_warps, cells * 32);
    if (room.cluster)
      store_async(room.gathered + (me * owned_max + index) * 32 + lane, room.barriers, owner, sum);
    else
      store_relaxed(scatter(owner, me, index), no_empty(sum));
  }
  if (room.cluster) barrier_wait(room.barriers);
  for (u32 index = warp; index < owned; index += WARPS) {
    const u32 cell = index * members + me;
    const float4 mine = sum_of(room.partial + cell * 32 + lane, k_warps, cells * 32);
    float4 sum = mine;
    if (room.cluster) {
      const float4* from = room.gathered + index * 32 + lane;
      sum = me == 0 ? mine : from[0];
#pragma unroll 4
      for (u32 writer = 1; writer < members; ++writer)
        sum = add(sum, writer == me ? mine : from[writer * owned_max * 32]);
    } else if (members > 1) {
      sum = make_float4(0.f, 0.f, 0.f, 0.f);
      for (u32 first = 0; first < members; first += SUMS_AT_ONCE) {
        float4* from[SUMS_AT_ONCE];
        float4 values[SUMS_AT_ONCE];
#pragma unroll
        for (int n = 0; n < SUMS_AT_ONCE; ++n) {
          const u32 writer = first + n;
          from[n] = writer < members && writer != me ? scatter(me, writer, index) : nullptr;
          values[n] = mine;
        }
        receive(from, values);
#pragma unroll
        for (int n = 0; n < SUMS_AT_ONCE; ++n)
          if (first + n < members) sum = add(sum, values[n]);
      }
    }
    if (MODE == SHRINK) {
      store_v(job, projection, row_tiles, cell, sum);
      continue;
    }
    const uint4 parts = operand_of(sum, job.scale);
    room.operand[cell * 32 + lane] = parts;
    const float4 sent = make_float4(bits_float(parts.x), bits_float(parts.y), bits_float(parts.z), bits_float(parts.w));
    for (u32 reader = 0; reader < members; ++reader) {
      if (reader == me) continue;
      if (room.cluster)
        store_async((float4*)room.operand + cell * 32 + lane, room.barriers + 1, reader, sent);
      else
        store_relaxed(spread(reader, cell), no_empty(sent));
    }
  }
  meanwhile();
  if (MODE != PAIR || members == 1) return;
  if (room.cluster) return barrier_wait(room.barriers + 1);
  for (u32 first = warp; first < cells; first += CELLS_AT_ONCE * WARPS) {
    float4* from[CELLS_AT_ONCE];
    float4 values[CELLS_AT_ONCE];
#pragma unroll
    for (int n = 0; n < CELLS_AT_ONCE; ++n) {
      const u32 cell = first + n * WARPS;
      from[n] = cell < cells && cell % members != me ? spread(me, cell) : nullptr;
    }
    receive(from, values);
#pragma unroll
    for (int n = 0; n < CELLS_AT_ONCE; ++n)
      if (from[n])
        room.operand[(first + n * WARPS) * 32 + lane] = make_uint4(float_bits(values[n].x), float_bits(values[n].y),
                                                                    float_bits(values[n].z), float_bits(values[n].w));
  }
}
