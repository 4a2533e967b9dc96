// How the pieces into which the keys of a tile are cut become one result: every block leaves its sums, waits for those of
// the others, and adds up an equal share of the tile's places, in the order of the keys, so that the bits do not depend on
// who is quick. Included once by prefill_attention.cu, after its plan and Places.

constexpr u32 LOADS = 16;  // of 16 bytes, in flight a lane

// The pieces of one (tile, group): the blocks first, first + step, first + 2·step, ...
struct Parts {
  const Arguments& args;
  u32 first, step, count;

  DEVICE u32 block_of(u32 part) const { return first + part * step; }

  // Leaves this block's sums in memory.
  DEVICE void leave(u32 part, const float (&sums)[FRAGMENTS][HEAD_DIM / 8][4], const float (&base)[FRAGMENTS][2],
                    const float (&weight)[FRAGMENTS][2], u32 warp_row, u32 rows, u32 lane) const {
    const u32 i = lane / 4, q = lane % 4;
#pragma unroll
    for (int f = 0; f < FRAGMENTS; ++f)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const u32 row = warp_row + f * 16 + h * 8 + i;
        const float total = quad_sum(weight[f][h]);
        if (row >= rows) continue;
        const u64 at = u64(block_of(part)) * ROWS + row;
        if (q == 0) store_relaxed(args.statistics + at, make_float4(base[f][h], total, 0.f, 0.f));
        float2* const to = (float2*)(args.partial + at * HEAD_DIM) + q;
#pragma unroll
        for (int n = 0; n < HEAD_DIM / 8; ++n) {
          float2 two;
          two.x = sums[f][n][2 * h], two.y = sums[f][n][2 * h + 1];
          to[n * 4] = two;
        }
      }
  }

  // Returns when all pieces have been left.
  DEVICE void wait() const {
    block_barrier();
    if (thread_index() == 0) {
      count_arrival(args.counters + first);
      while (load_acquire(args.counters + first) < count) poll_pause();
    }
    block_barrier();
  }

  // The last block to come here, after all have waited, puts the counter back.
  DEVICE void release() const {
    if (thread_index() == 0 && count_arrival(args.counters + first) == 2 * count - 1) args.counters[first] = 0;
  }

  // Adds up this block's share of the places. A warp has a place at a time, or several where pieces are few.
  DEVICE void join(u32 part, u32 rows, const Places& places, u8* out, u32 warp, u32 lane) const {
    const u32 begin = rows * part / count, end = rows * (part + 1) / count;
    if (count <= LOADS / 4)
      add<4>(begin, end, places, out, warp, lane);
    else
      add<1>(begin, end, places, out, warp, lane);
  }

  template <u32 AT_ONCE>
  DEVICE void add(u32 begin, u32 end, const Places& places, u8* out, u32 warp, u32 lane) const {
    constexpr u32 BATCH = LOADS / AT_ONCE;
    const bool mine = lane * 4 < HEAD_DIM;
#pragma unroll 1
    for (u32 row = begin + warp; row < end; row += WARPS * AT_ONCE) {
      float top[AT_ONCE], weight[AT_ONCE];
      float4 sum[AT_ONCE];
#pragma unroll
      for (u32 r = 0; r < AT_ONCE; ++r) {
        top[r] = LEAST, weight[r] = 0.f;
        sum[r] = make_float4(0.f, 0.f, 0.f, 0.f);
      }
#pragma unroll 1
      for (u32 done = 0; done < count; done += BATCH) {
        float4 found[AT_ONCE][BATCH], statistics[AT_ONCE][BATCH];
#pragma unroll
        for (u32 r = 0; r < AT_ONCE; ++r)
#pragma unroll
          for (u32 n = 0; n < BATCH; ++n) {
            // Beyond the last piece or place: that one again, with no weight.
            const u64 at = u64(block_of(min(done + n, count - 1))) * ROWS + min(row + r * WARPS, end - 1);
            statistics[r][n] = load_relaxed(args.statistics + at);
            if (mine) found[r][n] = load_relaxed((const float4*)(args.partial + at * HEAD_DIM) + lane);
          }
#pragma unroll
        for (u32 r = 0; r < AT_ONCE; ++r) {
          const float before = top[r];
#pragma unroll
          for (u32 n = 0; n < BATCH; ++n) top[r] = fmaxf(top[r], statistics[r][n].x);
          const float shrink = exp2_fast(before - top[r]);
          weight[r] *= shrink;
          sum[r].x *= shrink, sum[r].y *= shrink, sum[r].z *= shrink, sum[r].w *= shrink;
#pragma unroll
          for (u32 n = 0; n < BATCH; ++n) {
            const float factor = done + n < count ? exp2_fast(statistics[r][n].x - top[r]) : 0.f;
            weight[r] += statistics[r][n].y * factor;
            if (!mine) continue;
            sum[r].x += found[r][n].x * factor, sum[r].y += found[r][n].y * factor;
            sum[r].z += found[r][n].z * factor, sum[r].w += found[r][n].w * factor;
          }
        }
      }
#pragma unroll
      for (u32 r = 0; r < AT_ONCE; ++r) {
        if (row + r * WARPS >= end || !mine) continue;
        const float factor = 1.f / weight[r];
        uint2 packed;
        packed.x = ELEMENT::pack(sum[r].x * factor, sum[r].y * factor);
        packed.y = ELEMENT::pack(sum[r].z * factor, sum[r].w * factor);
        *(uint2*)(out + places.offset(row + r * WARPS, args.out_stride) * 2 + lane * 8) = packed;
      }
    }
  }
};
