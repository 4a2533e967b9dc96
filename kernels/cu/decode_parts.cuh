// How the parts of one (sequence, group) that several blocks of a decode launch leave in memory are added up, in the order
// of the line: the same bits whoever does it. Included once by decode_attention.cu, after its plan and Piece.

DEVICE void accumulate(float4& sum, float4 part, float factor) {
  sum.x += part.x * factor, sum.y += part.y * factor, sum.z += part.z * factor, sum.w += part.w * factor;
}

DEVICE void write(const Arguments& args, u32 row, u32 head, u32 lane, float4 sum, float weight) {
  const float factor = 1.f / weight;
  uint2 packed;
  packed.x = ELEMENT::pack(sum.x * factor, sum.y * factor);
  packed.y = ELEMENT::pack(sum.z * factor, sum.w * factor);
  *(uint2*)(args.out + (u64(row) * args.out_stride + head * HEAD_DIM + lane * 4) * 2) = packed;
}

// Where the sums of one part lie: part 0 is the last piece of worker `first`, part n the first piece of the n-th worker
// after it.
DEVICE u32 slot_of(u32 first, u32 part) { return part == 0 ? 2 * first + 1 : 2 * (first + part); }

// The parts of one (sequence, group).
struct Parts {
  const Arguments& args;
  u32 first, count;  // workers
  u32 queries;       // a row of `partial`

  // Adds up `number` parts of one query, `step` apart from `part` on, in order. Into out, or back into the place of
  // `part`.
  DEVICE void add(u32 part, u32 number, u32 step, u32 query, const Piece& piece, bool finally, u32 lane) const {
    float top = bits_float(0xff800000u), weight = 0.f;
    float4 sum = make_float4(0.f, 0.f, 0.f, 0.f);
    const bool mine = lane * 4 < HEAD_DIM;
#pragma unroll 1
    for (u32 begin = 0; begin < number; begin += BUNDLE) {
      float4 rows[BUNDLE], statistics[BUNDLE];
      const float before = top;
#pragma unroll
      for (u32 n = 0; n < BUNDLE; ++n) {
        // Beyond the last part: that one again, with no weight.
        const u64 from = slot_of(first, part + min(begin + n, number - 1) * step);
        statistics[n] = load_relaxed(args.statistics + from * QUERIES_MAX + query);
        if (mine) rows[n] = load_relaxed(args.partial + (from * queries + query) * (HEAD_DIM / 4) + lane);
      }
#pragma unroll
      for (u32 n = 0; n < BUNDLE; ++n) top = fmaxf(top, statistics[n].x);
      const float shrink = exp2_fast(before - top);
      weight *= shrink;
      sum.x *= shrink, sum.y *= shrink, sum.z *= shrink, sum.w *= shrink;
#pragma unroll
      for (u32 n = 0; n < BUNDLE; ++n) {
        const float factor = begin + n < number ? exp2_fast(statistics[n].x - top) : 0.f;
        weight += statistics[n].y * factor;
        if (mine) accumulate(sum, rows[n], factor);
      }
    }
    if (finally) {
      if (mine) write(args, piece.sequence.row, piece.head(args) + query, lane, sum, weight);
    } else {
      warp_barrier();
      store(slot_of(first, part), query, sum, top, weight, lane);
    }
  }

  DEVICE void store(u32 slot, u32 query, float4 sum, float top, float weight, u32 lane) const {
    if (lane * 4 < HEAD_DIM)
      store_relaxed(args.partial + (u64(slot) * queries + query) * (HEAD_DIM / 4) + lane, sum);
    if (lane == 0) store_relaxed(args.statistics + slot * QUERIES_MAX + query, make_float4(top, weight, 0.f, 0.f));
  }
};

// Whether this block is the last of `number` to come here; the counter is then back at zero. Before, the block's
// stores.
DEVICE bool is_last(u32* counter, u32 number, u32* said) {
  block_barrier();
  if (thread_index() == 0) {
    *said = count_arrival(counter) == number - 1;
    if (*said) *counter = 0;
  }
  block_barrier();
  return *said;
}
