// What a measurement needs around a kernel: random contents, a cold L2, and a neighbour that does
// not cooperate. Nothing here is timed for its own sake.
#include "primitives.cuh"

// words[i] = two random 16-bit values in about ±scale, the same for the same seed. Grid: any.
DEVICE u32 mix(u64 v) {
  v ^= v >> 33, v *= 0xff51afd7ed558ccdull, v ^= v >> 33, v *= 0xc4ceb9fe1a85ec53ull, v ^= v >> 33;
  return (u32)v;
}
template <class Element>
DEVICE void fill(u32* words, u64 count, u64 seed, float scale, u32 stride) {
  for (u64 n = u64(block_index()) * 256 + thread_index(); n < count; n += u64(stride) * 256) {
    u32 bits = mix(n + seed * 0x9e3779b97f4a7c15ull);
    float low = (float)(bits & 0xffff) / 32768.f - 1.f, high = (float)(bits >> 16) / 32768.f - 1.f;
    words[n] = Element::pack(low * scale, high * scale);
  }
}
KERNEL void fill_f16(u32* words, u64 count, u64 seed, float scale, u32 blocks) {
  fill<F16>(words, count, seed, scale, blocks);
}
KERNEL void fill_bf16(u32* words, u64 count, u64 seed, float scale, u32 blocks) {
  fill<Bf16>(words, count, seed, scale, blocks);
}

// Reads `count` vectors, so that the L2 holds them and no dirty line of anything else is left over.
// The sum is stored only if it has a value that it never has.
KERNEL void read_all(const uint4* vectors, u64 count, u32* sink, u32 blocks) {
  u32 sum = 0;
  for (u64 n = u64(block_index()) * 256 + thread_index(); n < count; n += u64(blocks) * 256) {
    uint4 v = vectors[n];
    sum += v.x ^ v.y ^ v.z ^ v.w;
  }
  if (sum == 0x12345678u) *sink = sum;
}

// y[n] = x[n]: a kernel like those before a LoRA call in a step, which never triggers its dependents.
KERNEL void copy_vectors(uint4* y, const uint4* x, u64 count, u32 blocks) {
  const u64 stride = u64(blocks) * 256;
  u64 n = u64(block_index()) * 256 + thread_index();
  for (; n + 3 * stride < count; n += 4 * stride) {
    uint4 a = x[n], b = x[n + stride], c = x[n + 2 * stride], d = x[n + 3 * stride];
    y[n] = a, y[n + stride] = b, y[n + 2 * stride] = c, y[n + 3 * stride] = d;
  }
  for (; n < count; n += stride) y[n] = x[n];
}
