// The products of lora_staged.cu by warpgroups, four warps each. The 32 rows of the batch are the columns of their
// instructions, so that no part of one is wasted, and weights the rows.
//
// Shrink: 64 ranks × 32 rows, both as they lie in shared memory. A warp has the 16 ranks of one pair, ranks first.
// Expand: 64 outputs × 32 rows twice. A lane's 16 bytes of a tile of B are outputs 4i to 4i + 3, of ranks 2q and 2q + 1: left
// operands in registers of two instructions, which thereby have every other pair of a tile's outputs; v lies in shared
// memory. A lane has 4 outputs side by side of rows 2q and 2q + 1 of each 8. Warpgroups take four tiles in turn.
// Included once by lora_staged.cu, after its constants and its stages.

static_assert(NT == 4 && WARPS == 8, "two warpgroups and 32 rows");
constexpr u32 GROUPS = 2;  // a block of 64 ranks each: no rank is larger than 128
constexpr Cell SUMS = RANKS_FIRST;

// Where a matrix begins: without the bits that tell blocks of a cluster apart.
DEVICE u64 matrix_at(u32 address) { return (address & 0x3ffff) / 16; }
// The same matrix 16 · `step` bytes further on, which changes the lower word alone.
DEVICE u64 matrix_further(u64 matrix, u32 step) { return matrix >> 32 << 32 | u32(u32(matrix) + step); }
// 8 rows (or columns) of 64 bytes in 512, their quarters exchanged as `x_place` does; the next 8 follow.
DEVICE u64 matrix_of_64(u32 address) { return matrix_at(address) | u64(1) << 16 | u64(TILE / 16) << 32 | u64(2) << 62; }

// What a warpgroup multiplies in the shrink: blocks of 64 ranks, one each, or else every other tile of a stage.
struct Division {
  u32 block, blocks;
  u32 k_part, k_parts;
};

DEVICE Division division_of(u32 pairs) {
  const u32 group = uniform(thread_index() / 128) % GROUPS;  // those that copy ask, too
  const u32 blocks = uniform((pairs + 3) / 4);
  return blocks == 1 ? Division{0, 1, group, GROUPS} : Division{group, blocks, 0, 1};
}

// This member's partial sums of v: cells [k part][pair][row tile] in `partial`.
DEVICE void shrink(Stages& stages, float4* partial, const Division& mine, u32 pairs, u32 cells) {
  float sums[4 * NT];
#pragma unroll
  for (int n = 0; n < 4 * NT; ++n) sums[n] = 0.f;
  const u32 granules = uniform(stages.granules);
  const u32 weights_at = uniform(stages.weights_at()) + (mine.k_part * granules + mine.block * 8) * TILE;
  const u32 weights_step = mine.k_parts * granules * TILE / 16, x_step = mine.k_parts * TILE_ROWS / 16;
#pragma unroll 1
  while (stages.stage < stages.in) {
    stages.wait();
    const u32 slot = uniform(shared_address(stages.here())), tiles = uniform(stages.tiles_in(stages.stage));
    u64 x = matrix_of_64(slot + mine.k_part * TILE_ROWS), weights = matrix_of_64(slot + weights_at);
    products_see_copies();
#pragma unroll 1
    for (u32 tile = mine.k_part; tile < tiles; tile += mine.k_parts) {
      products_begin();
      ELEMENT::products(sums, weights, x);  // 16 inputs each
      ELEMENT::products(sums, matrix_further(weights, 2), matrix_further(x, 2));
      products_commit();
      x = matrix_further(x, x_step);
      weights = matrix_further(weights, weights_step);
    }
    products_wait<0>();
    stages.leave();
  }
  products_end(sums);
  const u32 lane = thread_index() % 32, pair = mine.block * 4 + thread_index() / 32 % 4;
  if (pair >= pairs) return;
  // What was read beyond the last granule is no weight of this adapter.
  const bool both = 2 * pair + 1 < stages.granules;
#pragma unroll
  for (int n = 0; n < NT; ++n)
    partial[(mine.k_part * cells + pair * NT + n) * 32 + lane] =
        make_float4(sums[4 * n], sums[4 * n + 1], both ? sums[4 * n + 2] : 0.f, both ? sums[4 * n + 3] : 0.f);
}

// v for matrix instructions: high parts of ranks 0 to 7 and 8 to 15, then low parts, each 8 rows of 16 bytes.
struct ByMatrices {
  static DEVICE void store(uint4* cell, u32 lane, uint4 v) {
    u32* const to = (u32*)cell + lane;
    to[0] = v.x, to[32] = v.y, to[64] = v.z, to[96] = v.w;
  }
  static DEVICE void send(uint4* cell, u64* barrier, u32 reader, u32 lane, uint4 v) {
    u32* const to = (u32*)cell + lane;
    store_async(to, barrier, reader, v.x);
    store_async(to + 32, barrier, reader, v.y);
    store_async(to + 64, barrier, reader, v.z);
    store_async(to + 96, barrier, reader, v.w);
  }
};

using Order = ByMatrices;

// 8 rows of 16 bytes in 128; the next 8 of the 16 elements of a row follow, the next 8 rows a cell further on.
DEVICE u64 matrix_of_16(u32 address) { return matrix_at(address) | u64(128 / 16) << 16 | u64(TILE / 16) << 32; }

// Outputs 4i and 4i + 1 (`even`), 4i + 2 and 4i + 3 (`odd`) of a tile += v times weights of COUNT pairs from `first` on.
template <int COUNT>
DEVICE void multiply_pairs(float (&even)[4 * NT], float (&odd)[4 * NT], const Stages& stages, const u8* weights, u64 v,
                           u32 first) {
  constexpr u32 V_STEP = NT * TILE / 16;  // known, so that descriptions of v differ by constants
  const u32 granules = stages.granules - 2 * first;
  weights += first * UNIT;
  v = matrix_further(v, first * V_STEP);
  uint4 units[COUNT][2];
#pragma unroll
  for (int p = 0; p < COUNT; ++p) {
    units[p][0] = *(const uint4*)(weights + p * UNIT);
    units[p][1] = make_uint4(0, 0, 0, 0);
    if (u32(2 * p + 1) < granules) units[p][1] = *(const uint4*)(weights + p * UNIT + TILE);
  }
  products_end(even);  // in registers of their kind
  products_end(odd);
  products_begin();
#pragma unroll
  for (int p = 0; p < COUNT; ++p) {
    const uint4 &low = units[p][0], &high = units[p][1];  // granules
#pragma unroll
    for (int part = 0; part < 2; ++part) {
      const u64 of_part = matrix_further(v, p * V_STEP + part * (256 / 16));
      ELEMENT::products(even, low.x, low.y, high.x, high.y, of_part);
      ELEMENT::products(odd, low.z, low.w, high.z, high.w, of_part);
    }
  }
  products_commit();
  products_wait<0>();
  products_end(even);
  products_end(odd);
}

// y += v·B over this member's outputs.
DEVICE void expand(Stages& stages, const uint4* operand, u32 pairs, bool) {
  pairs = uniform(pairs);
  const u32 lane = thread_index() % 32, warp = thread_index() / 32 % 4, i = lane / 4, q = lane % 4;
  const u32 group = uniform(thread_index() / 128);
  const u32 quads = stages.tiles / 4;
  const u64 v = matrix_of_16(uniform(shared_address(operand)));
  const u32 row_bytes = stages.y.row_bytes, pitch = stages.pitch();
#pragma unroll 1
  while (stages.stage < stages.total) {
    stages.wait();
    const u32 index = stages.stage - stages.in, tiles = stages.tiles_in(stages.stage);
    const u32 quad = (group - index * quads) % GROUPS;
    if (quad * 4 >= uniform(tiles)) {
      stages.leave();
      continue;
    }
    // Four tiles: 256 bytes of each row of y, a warp 64 of them.
    u8* const block = (u8*)stages.here() + quad * 256;
    u8* const at = block + 2 * q * pitch + warp * 64 + 8 * i;
    uint2 before[NT][2];
#pragma unroll
    for (int n = 0; n < NT; ++n)
#pragma unroll
      for (int e = 0; e < 2; ++e) before[n][e] = *(const uint2*)(at + (8 * n + e) * pitch);
    const u8* weights = stages.here() + stages.weights_at() + (quad * 4 + warp) * stages.granules * TILE + lane * 16;
    float even[4 * NT], odd[4 * NT];
#pragma unroll
    for (int n = 0; n < 4 * NT; ++n) even[n] = odd[n] = 0.f;
    u32 pair = 0;
#pragma unroll 1
    for (; pair + 4 <= pairs; pair += 4) multiply_pairs<4>(even, odd, stages, weights, v, pair);
    if (pairs & 2) multiply_pairs<2>(even, odd, stages, weights, v, pair);
    if (pairs & 1) multiply_pairs<1>(even, odd, stages, weights, v, pairs - 1);
    // Through the stage, so that whole lines of memory are written at once.
#pragma unroll
    for (int n = 0; n < NT; ++n)
#pragma unroll
      for (int e = 0; e < 2; ++e)
        *(uint2*)(at + (8 * n + e) * pitch) = make_uint2(add_to(before[n][e].x, even[4 * n + e], even[4 * n + 2 + e]),
                                                         add_to(before[n][e].y, odd[4 * n + e], odd[4 * n + 2 + e]));
    group_barrier(2 + group);
    const u32 part = thread_index() % 16, first_row = thread_index() % 128 / 16;
    uint4 out[NT];
#pragma unroll
    for (int n = 0; n < NT; ++n) out[n] = *(const uint4*)(block + (first_row + 8 * n) * pitch + part * 16);
    stages.leave();
    const u32 quarter = (index * stages.tiles + quad * 4) * 4 + part;
    const bool exists = quad * 4 + part / 4 < tiles && quarter < stages.y.quarters;
    const u32 rows = exists ? stages.rows - min(stages.rows, first_row) : 0;
    u8* to = (u8*)stages.y.base + u64(first_row) * row_bytes + u64(quarter) * 16;
#pragma unroll
    for (int n = 0; n < NT; ++n, to += 8 * row_bytes)
      if (8 * n < rows) *(uint4*)to = out[n];
  }
}
