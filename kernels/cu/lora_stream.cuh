// The weights of one warp on their way through its ring in shared memory. Every lane copies 16 bytes of each tile with
// cp.async and reads back only what it copied: no barrier on the way. Included once by lora.cu, after lora.cuh.

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
