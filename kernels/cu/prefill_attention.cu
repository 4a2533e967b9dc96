// out[row][head h] = softmax(scale · q[row][h] · Kᵀ) · V over the tokens up to and including row's own, for runs of new
// tokens whose K and V, and those of all earlier tokens, lie in pages.
//
// Layouts as in decode_attention.cu: q and out [rows][stride], 16-bit; K and V of one layer
// [page][kv head][k, v][16 tokens][HEAD_DIM]; `table` lists the pages of each sequence.
//
// The query heads that share a KV head, `packed` of them at once, share a tile too: place p of a tile is query p % packed
// of its token p / packed. A tile is up to ROWS places of consecutive new tokens of one sequence.
//
// Grid: one block a (piece, group of heads), pieces as the plan lists them, groups fastest. A piece is a tile with all its
// keys; the most keys come first, so that the last blocks to start are the shortest. Blocks of one piece and of its
// neighbours walk the same keys at about the same time, which the L2 cache turns into one read. With SPLIT the keys of a
// tile may be cut into several pieces, each of a block of its own: few new tokens after many old ones then fill the chip.
// Each block leaves what it found in `partial` (prefill_parts.cuh), and when all pieces of the tile are there, each adds up
// an equal share of its places, in the order of the keys. Blocks wait for one another: all of a launch find room at once.
//
// A warp owns 16·FRAGMENTS places: their scores against 64 keys and their sums over HEAD_DIM stay in registers, an online
// softmax in base 2 joins one key tile to the next (sums are rescaled only where a score leads by so much that weights
// might overflow: they need not be relative to the largest score, but to one that is near), and the weights go from the
// first product's accumulators into the second product's operand without leaving registers. q lies in shared memory, K
// and V in two buffers of 64 tokens: one is filled by cp.async while the other is multiplied, with one barrier a key
// tile. Rows of 16-byte chunks are swizzled by the row's low three bits, so that matrix loads meet no bank twice.
//
// Nothing but the plan is read before the wait for the preceding kernel, which appends the new tokens' K and V.
//
// Bound by: the matrix instructions, and the exponentials beside them; with few places a tile, the bytes of K and V.
#include "primitives.cuh"

#ifndef ELEMENT
#define ELEMENT Bf16
#endif
#ifndef HEAD_DIM
#define HEAD_DIM 128
#endif
#ifndef FRAGMENTS  // of 16 rows, a warp
#define FRAGMENTS 2
#endif

#ifndef SPLIT  // whether the keys of a tile may be cut
#define SPLIT 0
#endif

constexpr u32 WARPS = 4, THREADS = WARPS * 32;
constexpr u32 PAGE = 16;                      // tokens
constexpr u32 ROW = HEAD_DIM * 2;             // bytes of a token of one head
constexpr u32 CHUNKS = ROW / 16;              // in a row
constexpr u32 PLANE = PAGE * ROW;             // bytes of a page's K or V of one head
constexpr u32 KEYS = 64, PAGES = KEYS / PAGE; // of a key tile
constexpr u32 WARP_ROWS = 16 * FRAGMENTS, ROWS = WARPS * WARP_ROWS;
constexpr u32 BUFFER = 2 * KEYS * ROW;        // K, then V
constexpr float LEAD = 8.f;                   // in powers of two: far from the largest finite half
constexpr float LEAST = -1e30f;               // below any score: a finite value, of which there is a difference
constexpr int STEPS = HEAD_DIM / 16, KEY_STEPS = KEYS / 16;

struct alignas(16) Piece {
  u32 row, tokens;  // first row in q and out, and how many; none: nothing to do
  u32 position;     // of the first row in its sequence
  u32 table;        // index of the sequence's first page in `table`
  u32 begin, end;   // key tiles, in the sequence
  u32 part, parts;  // of the tile: this piece and how many there are
};

struct Arguments {
  const Piece* pieces;
  const u32* table;
  const u8* cache;  // of this layer
  const u8* q;
  u8* out;
  float* partial;      // with SPLIT, [blocks][ROWS][HEAD_DIM]
  float4* statistics;  // with SPLIT, [blocks][ROWS]: what weights are relative to, their sum
  u32* counters;       // with SPLIT, [blocks], zero between launches
  float scale;  // of the scores, times log2(e)
  u32 q_stride, out_stride;
  u32 groups;    // of heads
  u32 kv_heads;
  u32 packed;    // heads of a group
  u32 sharing;   // groups that share a KV head
};

// Place p of a tile as token and head of the group: `inverse` is 65536 / packed, rounded up, exact for p below 128.
struct Places {
  u32 packed, inverse;
  DEVICE u32 token(u32 place) const { return (place * inverse) >> 16; }
  // Elements from the first token's first head in q or out.
  DEVICE u64 offset(u32 place, u32 stride) const {
    const u32 t = token(place);
    return u64(t) * stride + (place - t * packed) * HEAD_DIM;
  }
};

// Fetches key tiles; the work of one thread.
struct Loader {
  const Arguments& args;
  u32 place;  // of this thread's chunk of the first row in a page
  u32 table;  // index of the sequence's first page
  u32 keys;   // in the sequence up to the block's last row, and before the end of its piece

  // Which pages a key tile lies in.
  DEVICE void look_up(u32 (&ids)[PAGES], u32 key_tile) const {
#pragma unroll
    for (u32 n = 0; n < PAGES; ++n)
      if (key_tile * KEYS + n * PAGE < keys) ids[n] = args.table[table + key_tile * PAGES + n];
  }

  // Asks for a key tile.
  DEVICE void issue(u8* buffer, const u32 (&ids)[PAGES], u32 key_tile, u32 thread) const {
    constexpr u32 STEP = THREADS / CHUNKS;  // rows between this thread's rows
    const u32 chunk = thread % CHUNKS, first = thread / CHUNKS, left = keys - key_tile * KEYS;
    u8* const to = buffer + first * ROW + ((chunk ^ (first & 7)) * 16);
#pragma unroll
    for (u32 n = 0; n < KEYS / STEP; ++n) {
      const u32 bytes = n * STEP + first < left ? 16 : 0;
      // Without a key there may be no page either: any address will do, nothing is read.
      const u64 page = bytes ? u64(ids[n * STEP / PAGE]) * args.kv_heads : 0;
      const u8* const source = args.cache + page * (2 * PLANE) + place + (n * STEP) % PAGE * ROW;
      copy_async(to + n * STEP * ROW, source, bytes);
      copy_async(to + (KEYS + n * STEP) * ROW, source + PLANE, bytes);
    }
    copy_commit();
  }
};

DEVICE float quad_max(float v) {
  v = fmaxf(v, shuffle_xor(v, 1));
  return fmaxf(v, shuffle_xor(v, 2));
}
DEVICE float quad_sum(float v) {
  v += shuffle_xor(v, 1);
  return v + shuffle_xor(v, 2);
}

#if SPLIT
#include "prefill_parts.cuh"
#endif

KERNEL void __launch_bounds__(THREADS, 2) prefill_attention(const GRID_CONSTANT Arguments args) {
  dependents_trigger();
  const u32 index = block_index() / args.groups, group = block_index() % args.groups;
  const uint4 tile = *(const uint4*)(args.pieces + index), cut = *((const uint4*)(args.pieces + index) + 1);
  const u32 first_row = tile.x, tokens = tile.y, position = tile.z;
  if (tokens == 0) {
    dependency_wait();
    return;
  }
  const u32 thread = thread_index(), lane = thread % 32, warp = thread / 32;
  const u32 i = lane / 4, q = lane % 4, matrix = lane / 8, line = lane % 8;
  u8* const queries = shared_base();
  u8* const buffers = queries + ROWS * ROW;
  const float minus_infinity = bits_float(0xff800000u);

  const Places places{args.packed, (65535 + args.packed) / args.packed};
  const u32 rows = tokens * args.packed;  // places that are taken
  const Loader loader{args, group / args.sharing * 2 * PLANE + thread * 16, tile.w, position + tokens};
  u32 ids[PAGES];
  const u32 begin = SPLIT ? cut.x : 0, key_tiles = cut.y;
  loader.look_up(ids, begin);
  dependency_wait();

  {
    constexpr u32 STEP = THREADS / CHUNKS;
    const u32 chunk = thread % CHUNKS, first = thread / CHUNKS;
    const u8* from = args.q + (u64(first_row) * args.q_stride + group * args.packed * HEAD_DIM + chunk * 8) * 2;
#pragma unroll 4
    for (u32 row = first; row < ROWS; row += STEP)
      copy_async(queries + row * ROW + ((chunk ^ (row & 7)) * 16),
                 row < rows ? from + places.offset(row, args.q_stride) * 2 : from, row < rows ? 16 : 0);
  }
  loader.issue(buffers + begin % 2 * BUFFER, ids, begin, thread);

  float sums[FRAGMENTS][HEAD_DIM / 8][4];
  float base[FRAGMENTS][2];    // what weights are relative to: a score, at most LEAD below the largest
  float weight[FRAGMENTS][2];  // sum over this lane's keys
#pragma unroll
  for (int f = 0; f < FRAGMENTS; ++f) {
#pragma unroll
    for (int n = 0; n < HEAD_DIM / 8; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) sums[f][n][e] = 0.f;
    base[f][0] = base[f][1] = LEAST;
    weight[f][0] = weight[f][1] = 0.f;
  }
  const u32 warp_row = warp * WARP_ROWS;
  // One past the last key that any place of this warp sees; none without places.
  const u32 end = warp_row < rows ? position + places.token(min(rows, warp_row + WARP_ROWS) - 1) + 1 : 0;
  const u32 unmasked = position + places.token(warp_row) + 1;  // keys that all of them see
  u32 newest[FRAGMENTS][2];                                    // key that this lane's places see
#pragma unroll
  for (int f = 0; f < FRAGMENTS; ++f)
#pragma unroll
    for (int h = 0; h < 2; ++h) newest[f][h] = position + places.token(warp_row + f * 16 + h * 8 + i);
  // This lane's rows and swizzled first chunks; chunk 2t further on is the same offset with 32·t flipped.
  const u32 query_place = (warp_row + (matrix & 1) * 8 + line) * ROW + (((matrix >> 1) ^ line) * 16);
  const u32 key_place = ((matrix >> 1) * 8 + line) * ROW + (((matrix & 1) ^ line) * 16);
  const u32 value_place = (KEYS + (matrix & 1) * 8 + line) * ROW + (((matrix >> 1) ^ line) * 16);

#pragma unroll 1
  for (u32 key_tile = begin; key_tile < key_tiles; ++key_tile) {
    loader.look_up(ids, key_tile + 1);
    copy_wait<0>();
    block_barrier();  // this key tile has arrived, and nobody still reads the one before
    u8* const buffer = buffers + key_tile % 2 * BUFFER;
    if (key_tile + 1 < key_tiles) loader.issue(buffers + (key_tile + 1) % 2 * BUFFER, ids, key_tile + 1, thread);
    const u32 first_key = key_tile * KEYS;
    if (first_key >= end) continue;

    float scores[FRAGMENTS][KEYS / 8][4];
#pragma unroll
    for (int f = 0; f < FRAGMENTS; ++f)
#pragma unroll
      for (int n = 0; n < KEYS / 8; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) scores[f][n][e] = 0.f;
#pragma unroll
    for (int t = 0; t < STEPS; ++t) {
      u32 a[FRAGMENTS][4];
#pragma unroll
      for (int f = 0; f < FRAGMENTS; ++f)
        load_matrices(a[f], queries + (query_place ^ (32 * t)) + f * 16 * ROW);
#pragma unroll
      for (int n = 0; n < KEY_STEPS; ++n) {
        u32 b[4];
        load_matrices(b, buffer + (key_place ^ (32 * t)) + n * 16 * ROW);
#pragma unroll
        for (int f = 0; f < FRAGMENTS; ++f) {
          ELEMENT::mma(scores[f][2 * n], a[f][0], a[f][1], a[f][2], a[f][3], b[0], b[1]);
          ELEMENT::mma(scores[f][2 * n + 1], a[f][0], a[f][1], a[f][2], a[f][3], b[2], b[3]);
        }
      }
    }

    if (first_key + KEYS > unmasked) {
#pragma unroll
      for (int f = 0; f < FRAGMENTS; ++f)
#pragma unroll
        for (int n = 0; n < KEYS / 8; ++n)
#pragma unroll
          for (int e = 0; e < 4; ++e)
            if (first_key + n * 8 + 2 * q + e % 2 > newest[f][e / 2]) scores[f][n][e] = minus_infinity;
    }

    float top[FRAGMENTS][2];
    bool leads = false;
#pragma unroll
    for (int f = 0; f < FRAGMENTS; ++f)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        float best = fmaxf(scores[f][0][2 * h], scores[f][0][2 * h + 1]);
#pragma unroll
        for (int n = 1; n < KEYS / 8; ++n) best = fmaxf(best, fmaxf(scores[f][n][2 * h], scores[f][n][2 * h + 1]));
        top[f][h] = quad_max(best) * args.scale;
        leads |= top[f][h] > base[f][h] + LEAD;
      }
    if (any_lane(leads)) {
#pragma unroll
      for (int f = 0; f < FRAGMENTS; ++f)
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const float now = fmaxf(top[f][h], base[f][h]), shrink = exp2_fast(base[f][h] - now);
          base[f][h] = now;
          weight[f][h] *= shrink;
#pragma unroll
          for (int n = 0; n < HEAD_DIM / 8; ++n) sums[f][n][2 * h] *= shrink, sums[f][n][2 * h + 1] *= shrink;
        }
    }
#pragma unroll
    for (int f = 0; f < FRAGMENTS; ++f)
#pragma unroll
      for (int n = 0; n < KEYS / 8; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          scores[f][n][e] = exp2_fast(scores[f][n][e] * args.scale - base[f][e / 2]);
          weight[f][e / 2] += scores[f][n][e];
        }

#pragma unroll
    for (int t = 0; t < KEY_STEPS; ++t) {
      u32 a[FRAGMENTS][4];
#pragma unroll
      for (int f = 0; f < FRAGMENTS; ++f) {
        a[f][0] = ELEMENT::pack(scores[f][2 * t][0], scores[f][2 * t][1]);
        a[f][1] = ELEMENT::pack(scores[f][2 * t][2], scores[f][2 * t][3]);
        a[f][2] = ELEMENT::pack(scores[f][2 * t + 1][0], scores[f][2 * t + 1][1]);
        a[f][3] = ELEMENT::pack(scores[f][2 * t + 1][2], scores[f][2 * t + 1][3]);
      }
#pragma unroll
      for (int n = 0; n < STEPS; ++n) {
        u32 b[4];
        load_matrices_transposed(b, buffer + (value_place ^ (32 * n)) + t * 16 * ROW);
#pragma unroll
        for (int f = 0; f < FRAGMENTS; ++f) {
          ELEMENT::mma(sums[f][2 * n], a[f][0], a[f][1], a[f][2], a[f][3], b[0], b[1]);
          ELEMENT::mma(sums[f][2 * n + 1], a[f][0], a[f][1], a[f][2], a[f][3], b[2], b[3]);
        }
      }
    }
  }
#if SPLIT
  if (cut.w > 1) {
    const Parts parts{args, block_index() - cut.z * args.groups, args.groups, cut.w};
    parts.leave(cut.z, sums, base, weight, warp_row, rows, lane);
    parts.wait();
    u8* const out = args.out + (u64(first_row) * args.out_stride + group * args.packed * HEAD_DIM) * 2;
    parts.join(cut.z, rows, places, out, warp, lane);
    parts.release();
    return;
  }
#endif
  if (warp_row >= rows) return;

  // Through this warp's own rows of q, so that 16 bytes a lane leave together.
  warp_barrier();
#pragma unroll
  for (int f = 0; f < FRAGMENTS; ++f)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float factor = 1.f / quad_sum(weight[f][h]);
      u8* const to = queries + (warp_row + f * 16 + h * 8 + i) * ROW + q * 4;
#pragma unroll
      for (int n = 0; n < HEAD_DIM / 8; ++n)
        *(u32*)(to + ((n ^ i) * 16)) = ELEMENT::pack(sums[f][n][2 * h] * factor, sums[f][n][2 * h + 1] * factor);
    }
  warp_barrier();
  const u32 chunk = lane % CHUNKS;
  u8* const out = args.out + (u64(first_row) * args.out_stride + group * args.packed * HEAD_DIM + chunk * 8) * 2;
#pragma unroll 4
  for (u32 row = warp_row + lane / CHUNKS; row < min(rows, warp_row + WARP_ROWS); row += 32 / CHUNKS)
    *(uint4*)(out + places.offset(row, args.out_stride) * 2) =
        *(const uint4*)(queries + row * ROW + ((chunk ^ (row & 7)) * 16));
}
