// out[row of sequence s][head h] = softmax(scale · q[row][h] · K_s[h / group]ᵀ) · V_s[h / group]   for one new token a sequence.
//
// Layouts. q and out are [rows][stride], 16-bit, a row holds its heads one after the other, HEAD_DIM elements each; strides
// in elements. K and V of one layer are paged: [page][kv head][k, v][16 tokens][HEAD_DIM]. The pages of a sequence are listed
// in `table`, from its own offset on; its last page may be partly filled and what lies behind is never used.
//
// A *unit* is one page of one group of queries: the (at most 8) query heads that read the same K and V. All units stand in one
// line, by sequence, then group, then page. The plan cuts the line into equal parts, one a block; a block's part is a run of
// *pieces*, each within one (sequence, group). The warps of a block take its units in turn, so that pieces of any length keep
// all of them busy, and keep fetching across the ends of pieces.
//
// A warp multiplies keys as the left operand, Kᵀ-wise: scores[16 tokens][8 queries], sums[dims][8 queries]. One query a KV head
// leaves seven of eight columns idle, which costs nothing: 16 matrix instructions take a tenth of the time in which 8 KiB arrive.
//
// A piece that covers all pages of its (sequence, group) is written to out at once. Otherwise the block leaves its sums in
// `partial`, and whoever arrives last adds all of them up, in the order of the line: the same bits whoever it is.
//
// Nothing but the plan is read before the wait for the preceding kernel, which appends the new tokens' K and V.
//
// Bound by: the bytes of K and V.
#include "primitives.cuh"

#ifndef ELEMENT
#define ELEMENT Bf16
#endif
#ifndef HEAD_DIM
#define HEAD_DIM 128
#endif
#ifndef DEPTH  // units in a warp's ring
#define DEPTH 3
#endif

constexpr u32 WARPS = 4, THREADS = WARPS * 32;
constexpr u32 PAGE = 16;                     // tokens
constexpr u32 ROW = HEAD_DIM * 2;            // bytes of a token's K or V of one head
constexpr u32 CHUNKS = ROW / 16;             // in a row
constexpr u32 PLANE = PAGE * ROW;            // bytes of a page's K or V of one head
constexpr u32 UNIT = 2 * PLANE;
constexpr int STEPS = HEAD_DIM / 16;
constexpr u32 QUERIES_MAX = 8;
constexpr u32 EXCHANGE_ROW = HEAD_DIM + 4;   // floats; the padding keeps a warp's stores in different banks

struct alignas(16) Worker {
  u32 sequence, group, page;  // of its first unit
  u32 units;                  // none: nothing to do
  u32 quota;                  // units of every worker but the last
  u32 reserved[3];
};

struct alignas(16) Sequence {
  u32 row;         // in q and out
  u32 context;     // tokens, the new one included
  u32 table;       // index of its first page in `table`
  u32 first_unit;  // in the line of all units
};

struct Arguments {
  const Worker* workers;
  const Sequence* sequences;
  const u32* table;
  const u8* cache;  // of this layer
  const u8* q;
  u8* out;
  float4* partial;     // [2·workers][queries][HEAD_DIM / 4]
  float4* statistics;  // [2·workers][QUERIES_MAX]: largest score, sum of weights
  u32* counters;       // [workers], zero between launches
  float scale;         // of the scores, times log2(e)
  u32 q_stride, out_stride;
  u32 kv_heads;
  u32 queries;  // that share a KV head
  u32 tiles;    // groups of at most QUERIES_MAX queries a KV head
};

DEVICE u32 pages_of(u32 context) { return (context + PAGE - 1) / PAGE; }

DEVICE Sequence sequence_of(const Sequence* sequences, u32 index) {
  union {
    uint4 words;
    Sequence sequence;
  } loaded;
  loaded.words = *(const uint4*)(sequences + index);
  return loaded.sequence;
}

// Fetches the units of one warp.
struct Loader {
  const Arguments& args;
  u8* ring;
  Sequence now;
  u32 sequence, group, page, pages;
  u32 left;  // units of the worker from the next one of this warp on
  u32 id;    // of the page
  u32 slot;

  DEVICE void seek(u32 index) {
    sequence = index;
    now = sequence_of(args.sequences, index);
    pages = pages_of(now.context);
  }

  // Moves on by `count` units of the worker.
  DEVICE void skip(u32 count) {
    left -= min(left, count);
    if (left == 0) return;
    page += count;
    while (page >= pages) {
      page -= pages;
      if (++group == args.kv_heads * args.tiles) {
        group = 0;
        seek(sequence + 1);
      }
    }
    id = args.table[now.table + page];
  }

  // Asks for the next unit, if there is one.
  DEVICE void issue(u32 lane) {
    if (left > 0) {
      const u8* from = args.cache + (u64(id) * args.kv_heads + group / args.tiles) * UNIT + lane * 16;
      u8* const to = ring + slot * UNIT;
      const u32 rows = now.context - page * PAGE;
#pragma unroll
      for (u32 n = 0; n < PLANE / 512; ++n) {
        const u32 row = (lane + n * 32) / CHUNKS, chunk = (lane + n * 32) % CHUNKS;
        u8* const place = to + row * ROW + ((chunk ^ (row & 7)) * 16);
        const u32 bytes = row < rows ? 16 : 0;
        copy_async(place, from + n * 512, bytes);
        copy_async(place + PLANE, from + n * 512 + PLANE, bytes);
      }
      slot = slot + 1 == DEPTH ? 0 : slot + 1;
      skip(WARPS);
    }
    copy_commit();
  }
};

// What a warp knows of its queries 2q and 2q + 1 after some of the tokens.
struct Softmax {
  float largest[2];  // score, the same in all lanes
  float weight[2];   // sum over this lane's tokens
  float sums[STEPS][4];  // dims i and i + 8 of each 16, queries 2q and 2q + 1

  DEVICE void clear() {
    largest[0] = largest[1] = bits_float(0xff800000u);
    weight[0] = weight[1] = 0.f;
#pragma unroll
    for (int t = 0; t < STEPS; ++t)
#pragma unroll
      for (int e = 0; e < 4; ++e) sums[t][e] = 0.f;
  }

  // Adds the unit at `k`, of which `rows` tokens exist.
  DEVICE void add(const u8* k, const u32 (&q)[STEPS][2], u32 rows, float scale, u32 lane) {
    const u32 matrix = lane / 8, line = lane % 8, i = lane / 4;
    float scores[2][4] = {{0.f, 0.f, 0.f, 0.f}, {0.f, 0.f, 0.f, 0.f}};
    const u8* key = k + ((matrix & 1) * 8 + line) * ROW;
#pragma unroll
    for (int t = 0; t < STEPS; ++t) {
      u32 a[4];
      load_matrices(a, key + (((2 * t + (matrix >> 1)) ^ line) * 16));
      ELEMENT::mma(scores[t & 1], a[0], a[1], a[2], a[3], q[t][0], q[t][1]);
    }
    float p[4];
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      p[e] = (scores[0][e] + scores[1][e]) * scale;
      if (i + e / 2 * 8 >= rows) p[e] = bits_float(0xff800000u);
    }
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      float top = fmaxf(p[n], p[2 + n]);
      top = fmaxf(top, shuffle_xor(top, 4));
      top = fmaxf(top, shuffle_xor(top, 8));
      top = fmaxf(top, shuffle_xor(top, 16));
      top = fmaxf(top, largest[n]);
      const float shrink = exp2_fast(largest[n] - top);
      largest[n] = top;
      p[n] = exp2_fast(p[n] - top);
      p[2 + n] = exp2_fast(p[2 + n] - top);
      weight[n] = weight[n] * shrink + (p[n] + p[2 + n]);
#pragma unroll
      for (int t = 0; t < STEPS; ++t) sums[t][n] *= shrink, sums[t][2 + n] *= shrink;
    }
    const u32 low = matrix_transpose(ELEMENT::pack(p[0], p[1])), high = matrix_transpose(ELEMENT::pack(p[2], p[3]));
    const u8* value = k + PLANE + ((matrix >> 1) * 8 + line) * ROW;
#pragma unroll
    for (int t = 0; t < STEPS; ++t) {
      u32 a[4];
      load_matrices_transposed(a, value + (((2 * t + (matrix & 1)) ^ line) * 16));
      ELEMENT::mma(sums[t], a[0], a[1], a[2], a[3], low, high);
    }
  }

  // Leaves the sums where the other warps find them: [query][EXCHANGE_ROW], and (largest, weight) of each query.
  DEVICE void leave(float* exchange, float* statistics, u32 queries, u32 lane) {
    const u32 i = lane / 4, q = lane % 4;
#pragma unroll
    for (u32 n = 0; n < 2; ++n) {
      float total = weight[n];
      total += shuffle_xor(total, 4);
      total += shuffle_xor(total, 8);
      total += shuffle_xor(total, 16);
      const u32 query = 2 * q + n;
      if (query < queries) {
        if (i == 0) statistics[query * 2] = largest[n], statistics[query * 2 + 1] = total;
#pragma unroll
        for (int t = 0; t < STEPS; ++t) {
          exchange[query * EXCHANGE_ROW + t * 16 + i] = sums[t][n];
          exchange[query * EXCHANGE_ROW + t * 16 + 8 + i] = sums[t][2 + n];
        }
      }
    }
  }
};

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

// Adds up what the blocks left of one query of one (sequence, group), in order. Part 0 is the last piece of worker `first`,
// part n the first piece of worker `first + n`.
DEVICE void combine(const Arguments& args, u32 first, u32 parts, u32 queries, u32 query, u32 row, u32 head, u32 lane) {
  auto place = [&](u32 part) { return part == 0 ? 2 * first + 1 : 2 * (first + part); };
  float top = bits_float(0xff800000u);
  for (u32 part = lane; part < parts; part += 32)
    top = fmaxf(top, load_relaxed(args.statistics + place(part) * QUERIES_MAX + query).x);
#pragma unroll
  for (u32 mask = 16; mask > 0; mask /= 2) top = fmaxf(top, shuffle_xor(top, mask));
  float4 sum = make_float4(0.f, 0.f, 0.f, 0.f);
  float weight = 0.f;
  const bool mine = lane * 4 < HEAD_DIM;
  constexpr u32 AHEAD = 8;
  for (u32 part = 0; part < parts; part += AHEAD) {
    float4 rows[AHEAD], statistics[AHEAD];
#pragma unroll
    for (u32 n = 0; n < AHEAD; ++n)
      if (part + n < parts) {
        const u64 from = place(part + n);
        statistics[n] = load_relaxed(args.statistics + from * QUERIES_MAX + query);
        if (mine) rows[n] = load_relaxed(args.partial + (from * queries + query) * (HEAD_DIM / 4) + lane);
      }
#pragma unroll
    for (u32 n = 0; n < AHEAD; ++n)
      if (part + n < parts) {
        const float factor = exp2_fast(statistics[n].x - top);
        weight += statistics[n].y * factor;
        if (mine) accumulate(sum, rows[n], factor);
      }
  }
  if (mine) write(args, row, head, lane, sum, weight);
}

KERNEL void __launch_bounds__(THREADS, 2) decode_attention(const GRID_CONSTANT Arguments args) {
  dependents_trigger();
  const u32 index = block_index(), lane = thread_index() % 32, warp = thread_index() / 32;
  const uint4 begin = *(const uint4*)(args.workers + index);
  const u32 quota = args.workers[index].quota, units = begin.w;
  if (units == 0) {
    dependency_wait();
    return;
  }
  u8* const ring = shared_base() + warp * (DEPTH * UNIT);
  float* const exchange = (float*)(shared_base() + WARPS * DEPTH * UNIT);
  const u32 queries_most = min(args.queries, QUERIES_MAX);
  float* const statistics = exchange + WARPS * queries_most * EXCHANGE_ROW;  // [warp][query][2]
  u32* const last = (u32*)(statistics + WARPS * QUERIES_MAX * 2);

  Loader loader{args, ring};
  loader.group = begin.y, loader.page = begin.z, loader.left = units, loader.slot = 0;
  loader.seek(begin.x);
  loader.skip(warp);
  dependency_wait();
#pragma unroll 1
  for (u32 n = 0; n < DEPTH; ++n) loader.issue(lane);

  u32 slot = 0;
  u32 index_of_sequence = begin.x, group = begin.y, page = begin.z;
  Sequence sequence = sequence_of(args.sequences, index_of_sequence);
#pragma unroll 1
  for (u32 done = 0; done < units;) {
    const u32 pages = pages_of(sequence.context), count = min(pages - page, units - done);
    const u32 kv_head = group / args.tiles, tile = group % args.tiles;
    const u32 queries = min(args.queries - tile * QUERIES_MAX, QUERIES_MAX), head = kv_head * args.queries + tile * QUERIES_MAX;

    u32 q[STEPS][2];
    const u8* from = args.q + (u64(sequence.row) * args.q_stride + (head + lane / 4) * HEAD_DIM + lane % 4 * 2) * 2;
#pragma unroll
    for (int t = 0; t < STEPS; ++t)
#pragma unroll
      for (int half = 0; half < 2; ++half)
        q[t][half] = lane / 4 < queries ? *(const u32*)(from + t * 32 + half * 16) : 0;

    Softmax softmax;
    softmax.clear();
#pragma unroll 1
    for (u32 n = (warp - done) % WARPS; n < count; n += WARPS) {
      copy_wait<DEPTH - 1>();
      warp_barrier();
      softmax.add(ring + slot * UNIT, q, sequence.context - (page + n) * PAGE, args.scale, lane);
      warp_barrier();
      loader.issue(lane);
      slot = slot + 1 == DEPTH ? 0 : slot + 1;
    }

    softmax.leave(exchange + warp * queries_most * EXCHANGE_ROW, statistics + warp * QUERIES_MAX * 2, queries, lane);
    block_barrier();
    const bool whole = count == pages;
    const u32 place = page > 0 ? 2 * index : 2 * index + 1;
    for (u32 query = warp; query < queries; query += WARPS) {
      float top = statistics[query * 2];
#pragma unroll
      for (u32 n = 1; n < WARPS; ++n) top = fmaxf(top, statistics[(n * QUERIES_MAX + query) * 2]);
      float4 sum = make_float4(0.f, 0.f, 0.f, 0.f);
      float weight = 0.f;
#pragma unroll
      for (u32 n = 0; n < WARPS; ++n) {
        const float* theirs = statistics + (n * QUERIES_MAX + query) * 2;
        const float factor = exp2_fast(theirs[0] - top);
        weight += theirs[1] * factor;
        if (lane * 4 < HEAD_DIM)
          accumulate(sum, *(const float4*)(exchange + (n * queries_most + query) * EXCHANGE_ROW + lane * 4), factor);
      }
      if (whole && lane * 4 < HEAD_DIM) write(args, sequence.row, head + query, lane, sum, weight);
      if (!whole) {
        if (lane * 4 < HEAD_DIM)
          store_relaxed(args.partial + (u64(place) * queries_most + query) * (HEAD_DIM / 4) + lane, sum);
        if (lane == 0) store_relaxed(args.statistics + place * QUERIES_MAX + query, make_float4(top, weight, 0.f, 0.f));
      }
    }
    block_barrier();
    if (!whole) {
      const u32 start = sequence.first_unit + group * pages;
      const u32 first = start / quota, parts = (start + pages - 1) / quota - first + 1;
      if (thread_index() == 0) {
        *last = count_arrival(args.counters + first) == parts - 1;
        if (*last) args.counters[first] = 0;
      }
      block_barrier();
      if (*last)
        for (u32 query = warp; query < queries; query += WARPS)
          combine(args, first, parts, queries_most, query, sequence.row, head + query, lane);
      block_barrier();
    }

    done += count;
    page = 0;
    if (done < units && ++group == args.kv_heads * args.tiles) {
      group = 0;
      sequence = sequence_of(args.sequences, ++index_of_sequence);
    }
  }
  copy_wait<0>();
}
