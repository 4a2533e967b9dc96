// q[r] = rotate(y[r].q + d[r].q),  cache.k[slot(r)] = rotate(y[r].k + d[r].k),  cache.v[slot(r)] = y[r].v + d[r].v
//
// Rotary embedding and KV append in one pass over q, k and v, which lie side by side as their GEMM leaves them. d is
// what the adapters add (or null), and is put back to zero. rotate turns each pair (j, j + D/2) of a head by the angle of
// the row's position, as Hugging Face's models pair them.
//
// Layouts. y, d: [rows][(H + 2·KV)·D], q: [rows][H·D], 16-bit, dense. table: [positions][D/2] pairs (cos, sin), fp32.
// slots: [rows], the row's token slot in the cache (block · 16 + token in the block), or negative: nothing is written.
// The cache of one layer is paged: [block][KV head][k, v][16 tokens][D].
// Grid: one thread for 2 × 4 elements of a head (j..j+3 and j + D/2..), 256 a block, blocks_row blocks a row.
//
// Positions, slots and the table are read before the wait for the preceding kernel: they must have been complete before
// that kernel began.
//
// Bound by: latency at decode, the bytes of y, q and the new KV at prefill.
#include "primitives.cuh"

#ifndef ELEMENT
#define ELEMENT Bf16
#endif
#ifndef HEAD
#define HEAD 128
#endif

struct Arguments {
  const u16* y;
  u16* delta;  // or null
  u16* q;
  u16* cache;  // of this layer
  const float2* table;
  const u32* positions;
  const int* slots;
  u32 heads, kv_heads;
  u32 blocks_row;
  u32 reserved;
};

constexpr u32 BLOCK_TOKENS = 16, PAIRS = HEAD / 2, ITEMS = PAIRS / 4;

// Element offset of a token's key, or of its value, of one KV head.
DEVICE u64 kv_place(u32 slot, u32 head, u32 kv_heads, bool value) {
  const u64 plane = (u64(slot / BLOCK_TOKENS) * kv_heads + head) * 2 + (value ? 1 : 0);
  return (plane * BLOCK_TOKENS + slot % BLOCK_TOKENS) * HEAD;
}

struct Four {
  float v[4];
};
DEVICE Four sum(uint2 y, uint2 d) {
  return {{ELEMENT::low(y.x) + ELEMENT::low(d.x), ELEMENT::high(y.x) + ELEMENT::high(d.x),
           ELEMENT::low(y.y) + ELEMENT::low(d.y), ELEMENT::high(y.y) + ELEMENT::high(d.y)}};
}
DEVICE void put(u16* to, const Four& four) {
  uint2 u;
  u.x = ELEMENT::pack(four.v[0], four.v[1]), u.y = ELEMENT::pack(four.v[2], four.v[3]);
  *(uint2*)to = u;
}

KERNEL void __launch_bounds__(256) rope_and_append(const GRID_CONSTANT Arguments args) {
  dependents_trigger();
  const u32 row = block_index() / args.blocks_row;
  const u32 item = block_index() % args.blocks_row * 256 + thread_index();
  const u32 head = item / ITEMS, j = item % ITEMS * 4;
  const bool used = head < args.heads + 2 * args.kv_heads, turned = head < args.heads + args.kv_heads;
  // Positions, slots and angles were there before the preceding kernel.
  float2 turn[4];
  int slot = 0;
  if (used) {
    slot = args.slots[row];
    const float2* angles = args.table + u64(args.positions[row]) * PAIRS + j;
#pragma unroll
    for (int n = 0; n < 4; ++n)
      if (turned) turn[n] = angles[n];
  }
  dependency_wait();
  if (!used) return;
  const u64 at = (u64(row) * (args.heads + 2 * args.kv_heads) + head) * HEAD + j;
  // All is asked for before any of it is written.
  uint2 zero, low_delta, high_delta;
  zero.x = zero.y = 0;
  low_delta = high_delta = zero;
  const uint2 low_y = *(const uint2*)(args.y + at), high_y = *(const uint2*)(args.y + at + PAIRS);
  if (args.delta) {
    low_delta = *(const uint2*)(args.delta + at), high_delta = *(const uint2*)(args.delta + at + PAIRS);
    *(uint2*)(args.delta + at) = *(uint2*)(args.delta + at + PAIRS) = zero;
  }
  Four low = sum(low_y, low_delta), high = sum(high_y, high_delta);
  if (turned) {
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      const float a = low.v[n], b = high.v[n];
      low.v[n] = a * turn[n].x - b * turn[n].y;
      high.v[n] = b * turn[n].x + a * turn[n].y;
    }
  }
  u16* to;
  if (head < args.heads) {
    to = args.q + (u64(row) * args.heads + head) * HEAD + j;
  } else {
    if (slot < 0) return;
    const bool value = head >= args.heads + args.kv_heads;
    const u32 kv_head = head - args.heads - (value ? args.kv_heads : 0);
    to = args.cache + kv_place((u32)slot, kv_head, args.kv_heads, value) + j;
  }
  put(to, low);
  put(to + PAIRS, high);
}
