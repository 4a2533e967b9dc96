// TEMPORARY: out[row][head] = softmax(scale q K^T) V over a paged cache, one block a (row, head).
#include "primitives.cuh"
#ifndef ELEMENT
#define ELEMENT Bf16
#endif
#ifndef HEAD
#define HEAD 128
#endif
struct Arguments {
  const u16* q;
  u16* out;
  const u16* cache;
  const u32* positions;
  const u32* row_table;  // row -> first entry in tables
  const u32* tables;
  u32 heads, kv_heads;
  float scale;
  u32 reserved;
};
DEVICE float one(const u16* p) { return ELEMENT::low(*p); }
KERNEL void __launch_bounds__(128) attend(const GRID_CONSTANT Arguments args) {
  dependents_trigger();
  dependency_wait();
  const u32 row = block_index() / args.heads, head = block_index() % args.heads;
  const u32 kv_head = head / (args.heads / args.kv_heads);
  const u32 context = args.positions[row] + 1;
  const u32* table = args.tables + args.row_table[row];
  float* scores = (float*)shared_base();
  float* q = scores + context;
  float* scratch = q + HEAD;
  const u32 t = thread_index();
  for (u32 d = t; d < HEAD; d += 128) q[d] = one(args.q + (u64(row) * args.heads + head) * HEAD + d);
  block_barrier();
  float best = -1e30f;
  for (u32 n = t; n < context; n += 128) {
    const u16* k = args.cache + ((u64(table[n / 16]) * args.kv_heads + kv_head) * 2 * 16 + n % 16) * HEAD;
    float sum = 0.f;
    for (u32 d = 0; d < HEAD; d += 8) {
      uint4 v = *(const uint4*)(k + d);
      sum += q[d] * ELEMENT::low(v.x) + q[d + 1] * ELEMENT::high(v.x) + q[d + 2] * ELEMENT::low(v.y) + q[d + 3] * ELEMENT::high(v.y) +
             q[d + 4] * ELEMENT::low(v.z) + q[d + 5] * ELEMENT::high(v.z) + q[d + 6] * ELEMENT::low(v.w) + q[d + 7] * ELEMENT::high(v.w);
    }
    scores[n] = sum * args.scale;
    best = scores[n] > best ? scores[n] : best;
  }
  scratch[t] = best;
  block_barrier();
  for (u32 n = 0; n < 128; ++n) best = scratch[n] > best ? scratch[n] : best;
  block_barrier();
  float total = 0.f;
  for (u32 n = t; n < context; n += 128) total += scores[n] = exponential(scores[n] - best);
  scratch[t] = total;
  block_barrier();
  total = 0.f;
  for (u32 n = 0; n < 128; ++n) total += scratch[n];
  for (u32 d = t; d < HEAD; d += 128) {
    float sum = 0.f;
    for (u32 n = 0; n < context; ++n)
      sum += scores[n] * one(args.cache + (((u64(table[n / 16]) * args.kv_heads + kv_head) * 2 + 1) * 16 + n % 16) * HEAD + d);
    args.out[(u64(row) * args.heads + head) * HEAD + d] = (u16)(ELEMENT::pack(sum / total, 0.f) & 0xffff);
  }
}
