// The stages of a slice of x, and then of y, on their way through a ring in shared memory: NT row tiles × `tiles` tiles of
// 32 columns each, and the weights of the same columns. Rows are copied with cp.async, by warps that do nothing else, or,
// where there are none or no barriers in shared memory, by all. On Hopper one bulk copy brings the weights, and barriers in
// shared memory tell when a stage is full and when all that read it have left it, so that a warp waits for no other to go
// on; before Hopper a block barrier a stage does both. (A bulk copy for each row was tried: one
// takes some 36 ns, however short, so that rows of 256 bytes came at 7 GB/s a multiprocessor.)
// Included once by lora_staged.cu, after its constants.

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

// Warpgroups: each tile of 32 columns of x lies for itself, 64 bytes a row, and the quarters of a row change places, as
// the matrix instructions have it.
constexpr u32 TILE_ROWS = NT * 8 * 64;
DEVICE u32 x_place(u32 row, u32 quarter) { return row * 64 + (quarter ^ (row / 2 & 3)) * 16; }

// A matrix of 16-bit elements of which a stage takes some rows and columns.
struct Rows {
  const u8* base;  // first row, first column of this member's slice
  u32 row_bytes;
  u32 quarters;    // of 16 bytes that exist from there on in a row
};

struct Stages {
  u32 slot_bytes, slots;
  u32 tiles;      // column tiles of a stage: a power of two
  u32 in, total;  // stages of x; of x and y
  u32 in_tiles, out_tiles;
  u32 granules, rows, row_tiles;
  const u8 *a, *b;  // weights of this member's slices
  Rows x, y;
  u32 copier;            // this thread among those that copy
  u32 chunk, row, step;  // 16 bytes that this thread copies in a row of a stage, its first row, rows to its next
  u32 asked, asked_slot, asked_parity;  // the next stage to be asked for
  u32 stage, slot, parity;              // the stage that this warp is at

  // Barriers of a slot: it is full, it is empty.
  DEVICE u64* full(u32 slot) const { return (u64*)shared_base() + slot; }
  DEVICE u64* empty(u32 slot) const { return (u64*)shared_base() + SLOTS_MAX + slot; }
  DEVICE u8* place(u32 slot) const { return shared_base() + BARRIERS + slot * slot_bytes; }

  // Bytes from one row of a stage to the next, so that lanes meet different banks: 64 more or less than a multiple of 128
  // where they read 16 bytes each, quarter q of row i; 16 more where they read 8 bytes, eighth i of row 2q.
  DEVICE u32 pitch() const { return tiles * 64 + (WARPGROUPS ? 16 : tiles & 1 ? 0 : 64); }
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
      if (copier == 0) {
        phases_announce(full(slot), bytes);
        phases_arrive(full(slot));
        copy_bulk(to, from, bytes, full(slot));
      }
    } else {
#pragma unroll 2
      for (u32 n = copier * 16; n < bytes; n += COPYING * 16) copy_async(to + n, from + n, 16);
    }
  }

  DEVICE void ask_rows(u32 stage, u32 slot) const {
    const bool is_x = stage < in;
    const u32 first = (is_x ? stage : stage - in) * tiles * 4;
    const u32 quarters = min(tiles_in(stage) * 4, (is_x ? x.quarters : y.quarters) - first);
    const u32 row_bytes = is_x ? x.row_bytes : y.row_bytes;
    const u8* from = (is_x ? x.base : y.base) + u64(row) * row_bytes + (first + chunk) * 16;
    const u64 from_step = u64(step) * row_bytes;
    if (WARPGROUPS && is_x) {
      // Columns that x does not have are zero: weights there are, but zero times anything is not.
      u8* const to = place(slot) + chunk / 4 * TILE_ROWS;
      const bool here = chunk < quarters;
      if (!here) from = x.base;
      if (chunk < tiles_in(stage) * 4)
#pragma unroll 4
        for (u32 n = row; n < rows; n += step) {
          copy_async(to + x_place(n, chunk % 4), from, here ? 16 : 0);
          if (here) from += from_step;
        }
      phases_arrive_with_copies(full(slot));
      return;
    }
    u8* to = place(slot) + row * pitch() + chunk * 16;
    const u32 to_step = step * pitch();
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

  // This thread has read it. (One arrival a warp would do, behind a barrier of the warp: racecheck does not take that for
  // the order of what the others did, and it was slower.)
  DEVICE void leave() {
    if (BULK) phases_arrive(empty(slot));
    ++stage;
    if (++slot == slots) slot = 0, parity ^= 1;
  }
};
