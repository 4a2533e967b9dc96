// How the blocks of a group exchange their partial sums: cells of 16 ranks × 8 rows in fp32, 512 bytes, 16 a lane.
//
// Where the members are a cluster, inboxes lie in shared memory and a transaction barrier counts the bytes that arrived.
// Otherwise they lie in global memory, where an empty word holds EMPTY, which no sum produces, so the data are their own
// flags, and the reader puts EMPTY back. Polling is free of deadlock because blocks start in the order of their index, a
// group's blocks are neighbours, and a group fits on the chip.
//
// Sums are added in the order of the members, whatever arrives first. Included once by each kernel source, after lora.cuh.

constexpr u32 EMPTY = 0xffffffffu;

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

// The sum of COUNT cells, `stride` vectors apart, in order: all of them are asked for before the first is added.
template <int COUNT>
DEVICE float4 sum_at_once(const float4* cells, u32 stride) {
  float4 all[COUNT];
#pragma unroll
  for (int n = 0; n < COUNT; ++n) all[n] = cells[n * stride];
  float4 sum = all[0];
#pragma unroll
  for (int n = 1; n < COUNT; ++n) sum = add(sum, all[n]);
  return sum;
}

// The same for any number of them.
DEVICE float4 sum_of(const float4* cells, u32 count, u32 stride) {
  if (WARPS == 16 && count == 16) return sum_at_once<16>(cells, stride);
  if (count == 8) return sum_at_once<8>(cells, stride);
  float4 sum = cells[0];
#pragma unroll 3
  for (u32 n = 1; n < count; ++n) sum = add(sum, cells[n * stride]);
  return sum;
}

// How v of a cell lies in shared memory for the expand: the four words of a lane together.
struct ByLanes {
  static DEVICE void store(uint4* cell, u32 lane, uint4 v) { cell[lane] = v; }
  static DEVICE void send(uint4* cell, u64* barrier, u32 reader, u32 lane, uint4 v) {
    store_async((float4*)cell + lane, barrier, reader,
                make_float4(bits_float(v.x), bits_float(v.y), bits_float(v.z), bits_float(v.w)));
  }
};

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
  const bool at_once = MODE == PAIR && job.members == 2;
  barrier_init(room.barriers, at_once ? cells * TILE : (job.members - 1) * owned * TILE);
  barrier_init(room.barriers + 1, MODE == PAIR ? (cells - owned) * TILE : 0);
}

// After a barrier behind which `partial` is whole. Leaves v in `operand` (PAIR; for each thread what it wrote or
// received, so a barrier must follow) or in global memory (SHRINK). `meanwhile` is called between the hops. Order: of v in
// `operand`. SUMS_AT_ONCE, CELLS_AT_ONCE: cells of an inbox that a warp waits for together in the first and in the second hop.
template <Mode MODE, Cell CELL, class Order, int SUMS_AT_ONCE, int CELLS_AT_ONCE, class Meanwhile>
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
  // Two members send each other all of their sums: one hop is shorter than two, and the bytes are the same.
  if (MODE == PAIR && room.cluster && members == 2) {
    for (u32 cell = warp; cell < cells; cell += WARPS)
      store_async(room.gathered + cell * 32 + lane, room.barriers, 1 - me,
                  sum_of(room.partial + cell * 32 + lane, k_warps, cells * 32));
    meanwhile();
    barrier_wait(room.barriers);
    for (u32 cell = warp; cell < cells; cell += WARPS) {
      const float4 mine = sum_of(room.partial + cell * 32 + lane, k_warps, cells * 32);
      const float4 other = room.gathered[cell * 32 + lane];
      Order::store(room.operand + cell * 32, lane, operand_of<CELL>(me == 0 ? add(mine, other) : add(other, mine), job.scale));
    }
    return;
  }
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
      store_v<CELL>(job, projection, row_tiles, cell, sum);
      continue;
    }
    const uint4 parts = operand_of<CELL>(sum, job.scale);
    Order::store(room.operand + cell * 32, lane, parts);
    const float4 sent = make_float4(bits_float(parts.x), bits_float(parts.y), bits_float(parts.z), bits_float(parts.w));
    for (u32 reader = 0; reader < members; ++reader) {
      if (reader == me) continue;
      if (room.cluster)
        Order::send(room.operand + cell * 32, room.barriers + 1, reader, lane, parts);
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
        Order::store(room.operand + (first + n * WARPS) * 32, lane,
                     make_uint4(float_bits(values[n].x), float_bits(values[n].y), float_bits(values[n].z),
                                float_bits(values[n].w)));
  }
}

// The exchange of a few cells, in one hop: every member sends its sums of every cell to every other. A cell belongs to
// `share` warps, which divide the other members among themselves.
struct Hall {
  const float4* partial;  // [k warp][cell][lane]
  float4* stage;          // [member][cell][lane]
  uint4* operand;         // [cell][lane]: in the place where this member would send sums to itself, so that it does not
                          // take the place of sums that another warp has yet to read
  u64* barrier;           // with a cluster
  bool cluster;
};

// Where an exchange lies that begins at `from`.
template <Mode MODE>
DEVICE Hall hall_at_once(float4* from, const Job& job, u32 k_warps, u32 cells, bool cluster) {
  Hall hall;
  hall.partial = from;
  hall.cluster = cluster;
  hall.stage = from + (MODE == EXPAND ? 1 : k_warps) * cells * 32;
  hall.operand = (uint4*)(MODE == PAIR && job.members > 1 ? hall.stage + job.member * cells * 32 : from);
  hall.barrier = (u64*)(hall.stage + job.members * cells * 32);
  return hall;
}

// By one thread, before the cluster meets.
template <Mode MODE>
DEVICE void begin_at_once(const Job& job, const Hall& hall, u32 cells) {
  const u32 expected = MODE == PAIR ? cells : cells_owned(job, cells);
  barrier_init(hall.barrier, (job.members - 1) * expected * TILE);
}

// After a barrier behind which `partial` is whole. Leaves v in `operand`, so that a barrier must follow, or, where
// there is one cell and `each` warp adds it up for itself, returns it; or leaves it in global memory (SHRINK).
// `meanwhile` is called when this block's sums are on their way. Rows: one tile of 8.
template <Mode MODE, class Meanwhile>
DEVICE uint4 exchange_at_once(const Job& job, const Projection& projection, float4* inboxes, const Hall& hall,
                              u32 k_warps, u32 cells, bool each, Meanwhile meanwhile) {
  const u32 lane = thread_index() % 32, warp = thread_index() / 32;
  const u32 members = job.members, me = job.member;
  const u32 share_bits = cells == 1 ? 3 : cells == 2 ? 2 : cells <= 4 ? 1 : 0, share = 1u << share_bits;
  const u32 my_cell = warp >> share_bits, sub = warp & (share - 1);
  auto inbox = [&](u32 reader, u32 writer) {
    return inboxes + ((u64(job.inbox) + (reader * members + writer) * cells + my_cell) * 32 + lane);
  };
  // The block's sums, in the order of its warps; other members' shares leave at once.
  float4 mine = empty_cell();
  if (my_cell < cells && (sub == 0 || members > 1 || each)) {
    mine = sum_of(hall.partial + my_cell * 32 + lane, k_warps, cells * 32);
    if (members > 1 && !hall.cluster) mine = no_empty(mine);
    for (u32 reader = sub; reader < members; reader += share) {
      if (reader == me || (MODE == SHRINK && reader != my_cell % members)) continue;
      if (hall.cluster)
        store_async(hall.stage + (me * cells + my_cell) * 32 + lane, hall.barrier, reader, mine);
      else
        store_relaxed(inbox(reader, me), mine);
    }
  }
  meanwhile();
  if (members > 1 && !hall.cluster) {
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
          if (from[n]) hall.stage[((first + n * share) * cells + my_cell) * 32 + lane] = values[n];
      }
    block_barrier();
  }
  if (hall.cluster) barrier_wait(hall.barrier);
  uint4 in_hand = make_uint4(0, 0, 0, 0);
  if (my_cell < cells && (sub == 0 || each) && (MODE != SHRINK || my_cell % members == me)) {
    float4 sum = mine;
    if (members > 1) {
      const float4* from = hall.stage + my_cell * 32 + lane;
      sum = me == 0 ? mine : from[0];
#pragma unroll 4
      for (u32 writer = 1; writer < members; ++writer)
        sum = add(sum, writer == me ? mine : from[writer * cells * 32]);
    }
    if (MODE == SHRINK)
      store_v<RANKS_FIRST>(job, projection, 1, my_cell, sum);
    else if (each)
      in_hand = operand_of<RANKS_FIRST>(sum, job.scale);
    else
      hall.operand[my_cell * 32 + lane] = operand_of<RANKS_FIRST>(sum, job.scale);
  }
  return in_hand;
}
