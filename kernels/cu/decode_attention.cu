// out[row of sequence s][head h] = softmax(scale · q[row][h] · K_s[h / group]ᵀ) · V_s[h / group]   for one new token a
// sequence.
//
// Layouts. q and out are [rows][stride], 16-bit, a row holds its heads one after the other, HEAD_DIM elements each;
// strides in elements. K and V of one layer are paged: [page][kv head][k, v][16 tokens][HEAD_DIM]. The pages of a
// sequence are listed in `table`, from its own offset on; its last page may be partly filled and what lies behind is
// never used.
//
// A *unit* is one page of one group of queries: the (at most 8) query heads that read the same K and V. All units stand
// in one line, by sequence, then group, then page; around the units of each (sequence, group) the line has some empty
// places, for what it costs to begin and end one, or so that cuts fall where few are needed. The plan cuts the line
// into equal parts, one a block; a block's part is a run of *pieces*, each within one (sequence, group). The warps of a
// block take its units in turn, so that pieces of any length keep all of them busy, and keep fetching across the ends
// of pieces.
//
// A warp multiplies keys as the left operand: scores[16 tokens][8 queries] = K · qᵀ, sums[dims][8 queries] = Vᵀ · pᵀ.
// One query a KV head leaves seven of eight columns idle, which costs nothing: the kernel waits for bytes.
//
// A piece that covers all pages of its (sequence, group) is written to out at once. Otherwise the block leaves its sums
// in `partial`, and whoever arrives last adds all of them up (decode_parts.cuh), more than BUNDLE of them in two levels,
// so that no block has to read them all.
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
#define DEPTH 2
#endif
#ifndef RESIDENT  // blocks that share a multiprocessor, as far as registers go
#define RESIDENT 2
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
constexpr u32 BUNDLE = 16;                   // parts that are added up at once

struct alignas(16) Sequence {
  u32 row;      // in q and out
  u32 context;  // tokens, the new one included
  u32 table;    // index of its first page in `table`
  u32 place;    // in the line
};

struct alignas(16) Worker {
  u32 sequence, group, page;  // of its first unit
  u32 units;                  // none: nothing to do
  u32 quota;                  // places in the line of every worker but the last
  u32 empty;                  // places before the units of a (sequence, group)
  u32 grain;                  // places of a (sequence, group) are a multiple of this
  u32 reserved;
  Sequence first;  // its first sequence
};

struct alignas(16) Counters {
  u32 first_piece, last_piece;  // bundles that begin with this worker's first piece, and with its last
  u32 bundles;                  // of the (sequence, group) that its last piece begins
  u32 reserved;
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
  Counters* counters;  // [workers], zero between launches
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

  DEVICE void seek(u32 index, Sequence found) {
    sequence = index;
    now = found;
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
        seek(sequence + 1, sequence_of(args.sequences, sequence + 1));
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

// The units of one (sequence, group) that a worker has.
struct Piece {
  Sequence sequence;
  u32 index;  // of the sequence
  u32 group, page, count;

  DEVICE u32 kv_head(const Arguments& args) const { return group / args.tiles; }
  DEVICE u32 head(const Arguments& args) const {
    return kv_head(args) * args.queries + group % args.tiles * QUERIES_MAX;
  }
  DEVICE u32 queries(const Arguments& args) const {
    return min(args.queries - group % args.tiles * QUERIES_MAX, QUERIES_MAX);
  }
};

DEVICE void load_queries(const Arguments& args, const Piece& piece, u32 (&q)[STEPS][2], u32 lane) {
  const u32 head = piece.head(args) + lane / 4;
  const u8* from = args.q + (u64(piece.sequence.row) * args.q_stride + head * HEAD_DIM + lane % 4 * 2) * 2;
  const bool exists = lane / 4 < piece.queries(args);
#pragma unroll
  for (int t = 0; t < STEPS; ++t)
#pragma unroll
    for (int half = 0; half < 2; ++half) q[t][half] = exists ? *(const u32*)(from + t * 32 + half * 16) : 0;
}

#include "decode_parts.cuh"

KERNEL void __launch_bounds__(THREADS, RESIDENT) decode_attention(const GRID_CONSTANT Arguments args) {
  dependents_trigger();
  const u32 index = block_index(), lane = thread_index() % 32, warp = thread_index() / 32;
  const Worker* const worker = args.workers + index;
  const uint4 begin = *(const uint4*)worker;
  const u32 quota = worker->quota, empty = worker->empty, grain = worker->grain, units = begin.w;
  Piece piece{sequence_of(&worker->first, 0), begin.x, begin.y, begin.z, 0};
  if (units == 0) {
    dependency_wait();
    return;
  }
  u8* const ring = shared_base() + warp * (DEPTH * UNIT);
  // [buffer][warp][query][EXCHANGE_ROW], then [buffer][warp][query][2]; two buffers where they are small.
  const u32 queries_most = min(args.queries, QUERIES_MAX), buffers = queries_most <= 4 ? 2 : 1;
  float* const exchanges = (float*)(shared_base() + WARPS * DEPTH * UNIT);
  float* const statistics_of_all = exchanges + buffers * WARPS * queries_most * EXCHANGE_ROW;
  u32* const said = (u32*)(statistics_of_all + buffers * WARPS * queries_most * 2);

  Loader loader{args, ring};
  loader.group = begin.y, loader.page = begin.z, loader.left = units, loader.slot = 0;
  loader.seek(piece.index, piece.sequence);
  loader.skip(warp);
  dependency_wait();
#pragma unroll 1
  for (u32 n = 0; n < DEPTH; ++n) loader.issue(lane);
  u32 q[STEPS][2];
  load_queries(args, piece, q, lane);

  u32 slot = 0, buffer = 0;
#pragma unroll 1
  for (u32 done = 0; done < units;) {
    const u32 pages = pages_of(piece.sequence.context);
    piece.count = min(pages - piece.page, units - done);
    const u32 queries = piece.queries(args);
    // The next piece, whose sequence arrives while this piece is multiplied.
    Piece next = piece;
    next.page = 0;
    if (done + piece.count < units && ++next.group == args.kv_heads * args.tiles) {
      next.group = 0;
      next.sequence = sequence_of(args.sequences, ++next.index);
    }

    Softmax softmax;
    softmax.clear();
#pragma unroll 1
    for (u32 n = (warp - done) % WARPS; n < piece.count; n += WARPS) {
      copy_wait<DEPTH - 1>();
      warp_barrier();
      softmax.add(ring + slot * UNIT, q, piece.sequence.context - (piece.page + n) * PAGE, args.scale, lane);
      warp_barrier();
      loader.issue(lane);
      slot = slot + 1 == DEPTH ? 0 : slot + 1;
    }
    // Its queries, while the warps of this one join their sums.
    load_queries(args, next, q, lane);

    float* const exchange = exchanges + buffer * WARPS * queries_most * EXCHANGE_ROW;
    float* const statistics = statistics_of_all + buffer * WARPS * queries_most * 2;
    softmax.leave(exchange + warp * queries_most * EXCHANGE_ROW, statistics + warp * queries_most * 2, queries, lane);
    block_barrier();
    const bool whole = piece.count == pages;
    const u32 places = (empty + pages + grain - 1) / grain * grain;
    const u32 start = piece.sequence.place + piece.group * places + empty;
    const u32 first = start / quota, last = (start + pages - 1) / quota;
    const Parts parts{args, first, last - first + 1, queries_most};
    const u32 part = index - first;
    for (u32 query = warp; query < queries; query += WARPS) {
      float top = statistics[query * 2];
#pragma unroll
      for (u32 n = 1; n < WARPS; ++n) top = fmaxf(top, statistics[(n * queries_most + query) * 2]);
      float4 sum = make_float4(0.f, 0.f, 0.f, 0.f);
      float weight = 0.f;
#pragma unroll
      for (u32 n = 0; n < WARPS; ++n) {
        const float* theirs = statistics + (n * queries_most + query) * 2;
        const float factor = exp2_fast(theirs[0] - top);
        weight += theirs[1] * factor;
        if (lane * 4 < HEAD_DIM)
          accumulate(sum, *(const float4*)(exchange + (n * queries_most + query) * EXCHANGE_ROW + lane * 4), factor);
      }
      if (!whole)
        parts.store(slot_of(first, part), query, sum, top, weight, lane);
      else if (lane * 4 < HEAD_DIM)
        write(args, piece.sequence.row, piece.head(args) + query, lane, sum, weight);
    }
    if (!whole) {
      const u32 bundle = part / BUNDLE * BUNDLE, bundles = (parts.count + BUNDLE - 1) / BUNDLE;
      const u32 members = min(BUNDLE, parts.count - bundle);
      Counters* const counters = args.counters + first;
      if (is_last(bundle == 0 ? &counters->last_piece : &counters[bundle].first_piece, members, said)) {
        for (u32 query = warp; query < queries; query += WARPS)
          parts.add(bundle, members, 1, query, piece, bundles == 1, lane);
        if (bundles > 1 && is_last(&counters->bundles, bundles, said))
          for (u32 query = warp; query < queries; query += WARPS)
            parts.add(0, bundles, BUNDLE, query, piece, true, lane);
      }
    }
    // With two buffers, the barrier of the next piece keeps that after it from overtaking a reader of this one.
    if (buffers == 1) block_barrier();
    buffer = buffers - 1 - buffer;
    done += piece.count;
    piece = next;
  }
  copy_wait<0>();
}
