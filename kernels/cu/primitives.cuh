// Every instruction that plain C++ cannot say, one function each.
//
// The kernels include no CUDA header: NVRTC bundles none, and a user may have none. Under
// ARIL_CPU the same names come from `shim/device.h`, where each is emulated for one fiber
// per CUDA thread, so that the same kernel source runs under the address sanitizer.
#pragma once

#ifdef ARIL_CPU
#include "device.h"
#else

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define DEVICE __device__ __forceinline__
#define KERNEL extern "C" __global__
#define GRID_CONSTANT __grid_constant__

extern __shared__ __align__(1024) u8 dynamic_shared[];
DEVICE u8* shared_base() { return dynamic_shared; }
DEVICE u32 thread_index() { return threadIdx.x; }
DEVICE u32 block_index() { return blockIdx.x; }
DEVICE void block_barrier() { __syncthreads(); }
// Of the block's first `threads` threads, a number of warps; the others know nothing of it.
DEVICE void part_barrier(u32 threads) { asm volatile("barrier.sync.aligned 1, %0;" ::"r"(threads) : "memory"); }
// A barrier of a warpgroup, each with its own number from 2 on.
DEVICE void group_barrier(u32 number) { asm volatile("barrier.sync.aligned %0, 128;" ::"r"(number) : "memory"); }
DEVICE void warp_barrier() { __syncwarp(); }

DEVICE u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }

// 16 bytes global -> shared, asynchronous; `bytes` (0 or 16) are read, the rest is zero-filled.
DEVICE void copy_async(void* shared, const void* global, u32 bytes) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
               "r"(bytes)
               : "memory");
}
// The same for data that is read from end to end: the L2 fetches 256 bytes at a time.
DEVICE void copy_async_ahead(void* shared, const void* global, u32 bytes) {
  asm volatile("cp.async.cg.shared.global.L2::256B [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
               "r"(bytes)
               : "memory");
}
// Asks for a line that will be read, without waiting for it.
DEVICE void prefetch_to_l2(const void* global) { asm volatile("prefetch.global.L2 [%0];" ::"l"(global) : "memory"); }
DEVICE void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Returns when at most PENDING of this thread's newest groups are still in flight.
template <int PENDING>
DEVICE void copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// Programmatic dependent launch. `trigger`: the next kernel of the stream may start its blocks.
// `wait`: everything that earlier kernels of the stream wrote is visible from here on.
DEVICE void dependents_trigger() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
DEVICE void dependency_wait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// A word by which a kernel tells another, running now, that all it has seen is there: what was visible to the thread
// that stores is visible to the one that loads and finds it.
DEVICE void store_release(u32* p, u32 v) { asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory"); }
DEVICE u32 load_acquire(const u32* p) {
  u32 v;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
  return v;
}

// 16-byte accesses that another block, running now, may read or write.
DEVICE float4 load_relaxed(const float4* p) {
  float4 v;
  asm volatile("ld.relaxed.gpu.global.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "l"(p)
               : "memory");
  return v;
}
DEVICE void store_relaxed(float4* p, float4 v) {
  asm volatile("st.relaxed.gpu.global.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(p), "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w)
               : "memory");
}

// *p += v, for any number of threads at once, in no particular order.
DEVICE void add_relaxed(float* p, float v) {
  asm volatile("red.relaxed.gpu.global.add.f32 [%0], %1;" ::"l"(p), "f"(v) : "memory");
}

// A transaction barrier in shared memory, which other blocks of a cluster complete by storing.
// `barrier_init`, by one thread: the barrier opens when `bytes` have been stored.
DEVICE void barrier_init(u64* barrier, u32 bytes) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "{.reg .b64 state; mbarrier.init.shared::cta.b64 [%0], 1; "
      "mbarrier.arrive.expect_tx.shared::cta.b64 state, [%0], %1; fence.mbarrier_init.release.cluster;}" ::"r"(
          shared_address(barrier)),
      "r"(bytes)
      : "memory");
#endif
}
DEVICE void barrier_wait(u64* barrier) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "{.reg .pred done; again%=: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], 0; @!done bra again%=;}" ::"r"(
          shared_address(barrier))
      : "memory");
#endif
}
// `to` and `barrier` are where they would lie in this block's shared memory; they are those of block `rank`.
DEVICE void store_async(float4* to, u64* barrier, u32 rank, float4 v) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "{.reg .b32 to, bar; mapa.shared::cluster.u32 to, %0, %2; mapa.shared::cluster.u32 bar, %1, %2; "
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [to], {%3, %4, %5, %6}, [bar];}" ::"r"(
          shared_address(to)),
      "r"(shared_address(barrier)), "r"(rank), "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w)
      : "memory");
#endif
}
DEVICE void store_async(u32* to, u64* barrier, u32 rank, u32 v) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "{.reg .b32 to, bar; mapa.shared::cluster.u32 to, %0, %2; mapa.shared::cluster.u32 bar, %1, %2; "
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.b32 [to], %3, [bar];}" ::"r"(shared_address(to)),
      "r"(shared_address(barrier)), "r"(rank), "r"(v)
      : "memory");
#endif
}
// A barrier in shared memory with many phases: the phase ends when `arrivals` threads have arrived and all bytes that
// were announced have been copied. A wait for parity p returns when a phase of that parity, the first having 0, has
// ended. The threads that use it must meet at a block barrier after `phases_init`.
DEVICE void phases_init(u64* barrier, u32 arrivals) {
#if __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1; fence.mbarrier_init.release.cluster;" ::"r"(
                   shared_address(barrier)),
               "r"(arrivals)
               : "memory");
#endif
}
DEVICE void phases_announce(u64* barrier, u32 bytes) {
#if __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
               : "memory");
#endif
}
DEVICE void phases_arrive(u64* barrier) {
#if __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
#endif
}
DEVICE void phases_wait(u64* barrier, u32 parity) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "{.reg .pred done; again%=: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1; @!done bra again%=;}" ::"r"(
          shared_address(barrier)),
      "r"(parity)
      : "memory");
#endif
}
// `bytes` global -> shared, asynchronous, counted by the barrier; addresses and bytes are multiples of 16.
DEVICE void copy_bulk(void* shared, const void* global, u32 bytes, u64* barrier) {
#if __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                   shared_address(shared)),
               "l"(global), "r"(bytes), "r"(shared_address(barrier))
               : "memory");
#endif
}
// This thread arrives when all its asynchronous copies so far (`copy_async`) are complete.
DEVICE void phases_arrive_with_copies(u64* barrier) {
#if __CUDA_ARCH__ >= 900
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(shared_address(barrier)) : "memory");
#endif
}
// Every block of the cluster has started, and its barriers are initialised, when the wait returns.
DEVICE void cluster_arrive() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
#endif
}
DEVICE void cluster_wait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.wait.aligned;" ::: "memory");
#endif
}
DEVICE u32 float_bits(float v) { return __float_as_uint(v); }
DEVICE float bits_float(u32 v) { return __uint_as_float(v); }
DEVICE float reciprocal_root(float v) { return rsqrtf(v); }
DEVICE float exponential(float v) { return __expf(v); }
// A thread that polls calls this between two looks.
DEVICE void poll_pause() {}

// 8×8 matrix of 16-bit elements, two a lane, transposed across the warp.
DEVICE u32 matrix_transpose(u32 v) {
  u32 out;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(out) : "r"(v));
  return out;
}

// Four 8×8 matrices of 16-bit elements from shared memory. Lane 8m + r gives the address of row r of matrix m, 16
// bytes, aligned. out[m] holds elements 2q and 2q + 1 of row i of matrix m for lane 4i + q; transposed, of column i.
DEVICE void load_matrices(u32 (&out)[4], const void* shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(shared_address(shared))
               : "memory");
}
DEVICE void load_matrices_transposed(u32 (&out)[4], const void* shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(shared_address(shared))
               : "memory");
}

// The value of lane `lane ^ mask`.
DEVICE float shuffle_xor(float v, u32 mask) { return __shfl_xor_sync(0xffffffffu, v, mask); }
// A value that all lanes of the warp have, so that the compiler knows it.
DEVICE u32 uniform(u32 v) { return __shfl_sync(0xffffffffu, v, 0); }
// Whether any lane of the warp says so.
DEVICE bool any_lane(bool v) { return __any_sync(0xffffffffu, v); }
// 2^v with an error of two units in the last place; 0 for minus infinity.
DEVICE float exp2_fast(float v) {
  float out;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(v));
  return out;
}
// Counts one more arrival and returns how many there were before. What this thread's block wrote before a barrier
// and this call is visible to whoever counts later.
DEVICE u32 count_arrival(u32* counter) {
  u32 before;
  asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], 1;" : "=r"(before) : "l"(counter) : "memory");
  return before;
}

// Products of a warpgroup, asynchronous: d(64 × 32) += a(64 × 16) · b(16 × 32), b in shared memory, described, the 16 of a
// column side by side; a the same by rows, or in registers as `mma` has it. d[4n + e]: rows i and i + 8 of the warp's 16,
// columns 8n + 2q and 8n + 2q + 1.
#if __CUDA_ARCH_FEAT_SM90_ALL
#define PRODUCTS_OF(TYPE, A_AND_B, OPERANDS)                                                                          \
  asm volatile("wgmma.mma_async.sync.aligned.m64n32k16.f32." TYPE "." TYPE                                            \
               " {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, " A_AND_B ";"                \
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),      \
                 "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]) \
               : OPERANDS)
#define OPERANDS_OF(...) __VA_ARGS__
#define PRODUCTS(TYPE)                                                                                                \
  static DEVICE void products(float (&d)[16], u64 a, u64 b) {                                                         \
    PRODUCTS_OF(TYPE, "%16, %17, 1, 1, 1, 0, 0", OPERANDS_OF("l"(a), "l"(b)));                                        \
  }                                                                                                                   \
  static DEVICE void products(float (&d)[16], u32 a0, u32 a1, u32 a2, u32 a3, u64 b) {                                \
    PRODUCTS_OF(TYPE, "{%16, %17, %18, %19}, %20, 1, 1, 1, 0", OPERANDS_OF("r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(b))); \
  }
// What other threads copied to shared memory is visible to the products that follow.
DEVICE void products_see_copies() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
DEVICE void products_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEVICE void products_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int PENDING>
DEVICE void products_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}
// The sums are whole, after `products_wait`.
template <int COUNT>
DEVICE void products_end(float (&sums)[COUNT]) {
#pragma unroll
  for (int n = 0; n < COUNT; ++n) asm volatile("" : "+f"(sums[n])::"memory");
}
#else
#define PRODUCTS(TYPE)
DEVICE void products_see_copies() {}
#endif

struct Bf16 {
  PRODUCTS("bf16")
  // low half = a, high half = b
  static DEVICE u32 pack(float a, float b) {
    u32 out;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(b), "f"(a));
    return out;
  }
  static DEVICE float low(u32 v) { return __uint_as_float(v << 16); }
  static DEVICE float high(u32 v) { return __uint_as_float(v & 0xffff0000u); }
  static DEVICE float clamp(float v) { return v; }
  // d(16×8) += a(16×16) · b(16×8), fp32 accumulators
  static DEVICE void mma(float (&d)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    asm(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
  }
};

struct F16 {
  PRODUCTS("f16")
  static DEVICE u32 pack(float a, float b) {
    u32 out;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(b), "f"(a));
    return out;
  }
  static DEVICE float low(u32 v) {
    float out;
    asm("{.reg .b16 l, h; mov.b32 {l, h}, %1; cvt.f32.f16 %0, l;}" : "=f"(out) : "r"(v));
    return out;
  }
  static DEVICE float high(u32 v) {
    float out;
    asm("{.reg .b16 l, h; mov.b32 {l, h}, %1; cvt.f32.f16 %0, h;}" : "=f"(out) : "r"(v));
    return out;
  }
  // The largest finite half: a larger value would leave an infinity minus an infinity in the low part.
  static DEVICE float clamp(float v) { return v > 65504.f ? 65504.f : (v < -65504.f ? -65504.f : v); }
  static DEVICE void mma(float (&d)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    asm(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
  }
};
#endif
