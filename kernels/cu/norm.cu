// h[r] += y[r] + d[r];   out[slot(r)] = h[r] / sqrt(mean(h[r]²) + ε) · w
//
// RMSNorm with the residual's sum, as before each half of a layer. y is what the preceding projection gave, d what the
// adapters add to it; d is put back to zero, as the adapters' next launch expects it. Either may be absent. The sum is
// rounded to 16 bits, then normalised, as engines do.
//
// Layouts. h, y, d: [rows][width]; w: [width]; out: [slots][width]; all 16-bit, dense. slot(r) = r, or slots[r] where
// given: rows with a negative one are summed but not normalised (only sampled rows reach the LM head).
// Grid: one block of THREADS a row. A thread holds every THREADS-th vector of 8 elements in registers: width is a multiple
// of 8, up to 8 · THREADS · VECTORS.
//
// Bound by: latency at decode, the bytes of h, y, d and out at prefill.
#include "primitives.cuh"

#ifndef ELEMENT
#define ELEMENT Bf16
#endif
#ifndef VECTORS
#define VECTORS 2
#endif
#ifndef THREADS
#define THREADS 256
#endif

struct Arguments {
  uint4* h;
  const uint4* y;  // or null
  uint4* delta;    // or null
  const uint4* weight;
  uint4* out;
  const int* slots;  // or null
  u32 vectors;       // width / 8
  float epsilon;
};

struct Eight {
  float v[8];
};
DEVICE Eight unpack(uint4 u) {
  return {{ELEMENT::low(u.x), ELEMENT::high(u.x), ELEMENT::low(u.y), ELEMENT::high(u.y), ELEMENT::low(u.z),
           ELEMENT::high(u.z), ELEMENT::low(u.w), ELEMENT::high(u.w)}};
}
DEVICE uint4 pack(const Eight& e) {
  return make_uint4(ELEMENT::pack(e.v[0], e.v[1]), ELEMENT::pack(e.v[2], e.v[3]), ELEMENT::pack(e.v[4], e.v[5]),
                    ELEMENT::pack(e.v[6], e.v[7]));
}

// The sum of all threads' values, in a fixed order. `shared` holds THREADS + 32 floats.
DEVICE float block_sum(float mine, float* shared) {
  const u32 thread = thread_index();
  shared[thread] = mine;
  block_barrier();
  if (thread < 32) {
    float sum = 0.f;
#pragma unroll
    for (u32 n = 0; n < THREADS / 32; ++n) sum += shared[thread + 32 * n];
    shared[THREADS + thread] = sum;
  }
  block_barrier();
  float sum = 0.f;
#pragma unroll
  for (u32 n = 0; n < 8; ++n) {
    float4 part = ((const float4*)(shared + THREADS))[n];
    sum += (part.x + part.y) + (part.z + part.w);
  }
  return sum;
}

KERNEL void __launch_bounds__(THREADS) rms_norm(const GRID_CONSTANT Arguments args) {
  dependents_trigger();
  const u32 row = block_index();
  const u64 base = u64(row) * args.vectors;
  uint4 weight[VECTORS];
#pragma unroll
  for (u32 n = 0; n < VECTORS; ++n) {
    const u32 index = thread_index() + n * THREADS;
    if (index < args.vectors) weight[n] = args.weight[index];
  }
  const int slot = args.slots ? args.slots[row] : (int)row;  // there before the preceding kernel
  dependency_wait();
  // All is asked for before any of it is written: the compiler cannot know that what is written is not what is read next.
  uint4 stored[VECTORS], y[VECTORS], delta[VECTORS];
#pragma unroll
  for (u32 n = 0; n < VECTORS; ++n) {
    const u32 index = thread_index() + n * THREADS;
    y[n] = delta[n] = make_uint4(0, 0, 0, 0);
    if (index >= args.vectors) continue;
    stored[n] = args.h[base + index];
    if (args.y) y[n] = args.y[base + index];
    if (args.delta) delta[n] = args.delta[base + index];
  }
  Eight sums[VECTORS];
  float squares = 0.f;
#pragma unroll
  for (u32 n = 0; n < VECTORS; ++n) {
    const u32 index = thread_index() + n * THREADS;
    if (index >= args.vectors) continue;
    sums[n] = unpack(stored[n]);
    if (args.y) {
      const Eight more = unpack(y[n]), adapters = unpack(delta[n]);
#pragma unroll
      for (int e = 0; e < 8; ++e) sums[n].v[e] = sums[n].v[e] + more.v[e] + adapters.v[e];
      if (args.delta) args.delta[base + index] = make_uint4(0, 0, 0, 0);
      stored[n] = pack(sums[n]);
      args.h[base + index] = stored[n];
      sums[n] = unpack(stored[n]);
    }
#pragma unroll
    for (int e = 0; e < 8; ++e) squares += sums[n].v[e] * sums[n].v[e];
  }
  const float mean = block_sum(squares, (float*)shared_base()) / (float)(args.vectors * 8);
  if (slot < 0) return;
  const float scale = reciprocal_root(mean + args.epsilon);
#pragma unroll
  for (u32 n = 0; n < VECTORS; ++n) {
    const u32 index = thread_index() + n * THREADS;
    if (index >= args.vectors) continue;
    Eight w = unpack(weight[n]);
#pragma unroll
    for (int e = 0; e < 8; ++e) sums[n].v[e] = sums[n].v[e] * scale * w.v[e];
    args.out[u64((u32)slot) * args.vectors + index] = pack(sums[n]);
  }
}
