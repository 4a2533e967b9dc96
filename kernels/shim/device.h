// The GPU's primitives on a CPU: one fiber per CUDA thread, all blocks of a grid at once.
//
// A fiber runs until it needs others: a warp instruction waits for the 32 lanes, a barrier for the
// block, the dependency wait for the grid. Differences from plain serial execution are on purpose:
// an asynchronous copy happens when it is waited for and not before, what the preceding kernel
// writes appears only when every thread has waited for it, and warps run in a shuffled order, so a
// kernel that leans on luck fails here. A case may ask for *delays*, too: some blocks begin after the
// others have all that they wait for, warps fall asleep wherever they meet others, and what a block
// stores in another's shared memory arrives at once or when somebody there waits for it. What this
// cannot find are races of the memory model.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef unsigned long long u64;

struct alignas(8) uint2 { u32 x, y; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) uint4 { u32 x, y, z, w; };
struct alignas(16) float4 { float x, y, z, w; };
inline uint4 make_uint4(u32 x, u32 y, u32 z, u32 w) { return {x, y, z, w}; }
inline uint2 make_uint2(u32 x, u32 y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline u32 min(u32 a, u32 b) { return a < b ? a : b; }
inline u32 max(u32 a, u32 b) { return a < b ? b : a; }

#define DEVICE inline
#define KERNEL static
#define GRID_CONSTANT
#define __launch_bounds__(...)

struct Copy {
  void* to;
  const void* from;
  u32 bytes;
};

enum class State { Ready, Warp, Block, Part, Group, Grid, Poll, Done };
enum class Collective { None, Barrier, Transpose, LoadMatrices, LoadMatricesTransposed, ShuffleXor, Any, MmaBf16, MmaF16 };

struct Fiber {
  u32 block, thread;
  State state = State::Ready;
  Collective collective = Collective::None;
  u32 word[6];   // operands of a collective; word[0] is its result
  float sum[4];  // accumulators
  std::vector<std::vector<Copy>> groups;
  std::vector<Copy> open;
  bool waited = false;
  bool in_cluster_barrier = false;  // it has arrived and not waited
  void* stack_pointer = nullptr;
  void* stack = nullptr;
};

// Which of the faults that a test has planted in a source is there: 0 for none.
extern u64 planted;

extern Fiber* current;
void yield(State state);
[[noreturn]] void fail(const char* what);
u8* shared_of(u32 block);

inline u8* shared_base() { return shared_of(current->block); }
inline u32 thread_index() { return current->thread; }
inline u32 block_index() { return current->block; }
inline void block_barrier() { yield(State::Block); }
// Of the block's first `threads` threads.
inline void part_barrier(u32 threads) {
  current->word[0] = threads;
  yield(State::Part);
}
inline void group_barrier(u32 number) {
  if (number < 2 || number > 15) fail("no number for a barrier of a warpgroup");
  current->word[0] = number;
  yield(State::Group);
}
inline void collect(Collective which) {
  current->collective = which;
  yield(State::Warp);
}
inline void warp_barrier() { collect(Collective::Barrier); }

inline void copy_async(void* shared, const void* global, u32 bytes) {
  if ((uintptr_t)shared % 16 || (uintptr_t)global % 16) fail("an asynchronous copy is not aligned to 16 bytes");
  if (bytes != 0 && bytes != 16) fail("an asynchronous copy reads neither 0 nor 16 bytes");
  current->open.push_back({shared, global, bytes});
}
inline void copy_async_ahead(void* shared, const void* global, u32 bytes) { copy_async(shared, global, bytes); }
// The address is read, so that one outside of all buffers is found.
inline void prefetch_to_l2(const void* global) { (void)*(const volatile u8*)global; }
inline void copy_commit() {
  current->groups.push_back(current->open);
  current->open.clear();
}
void copy_finish(u32 pending);
template <int PENDING>
inline void copy_wait() { copy_finish(PENDING); }

inline void dependents_trigger() {}
inline void dependency_wait() {
  yield(State::Grid);
  current->waited = true;
}

inline void store_release(u32* p, u32 v) { *p = v; }
inline u32 load_acquire(const u32* p) { return *p; }
inline float4 load_relaxed(const float4* p) { return *p; }
inline void store_relaxed(float4* p, float4 v) { *p = v; }
inline u32 float_bits(float v) {
  u32 out;
  memcpy(&out, &v, 4);
  return out;
}
inline float bits_float(u32 v) {
  float out;
  memcpy(&out, &v, 4);
  return out;
}
inline float reciprocal_root(float v) { return 1.f / std::sqrt(v); }
inline float exponential(float v) { return std::exp(v); }
inline void poll_pause() { yield(State::Poll); }

// The shared memory of a cluster. A launch synchronises it once.
extern u32 cluster_blocks;
extern std::vector<u32> cluster_arrivals;
inline u8* in_cluster(void* p, u32 rank) {
  if (rank >= cluster_blocks) fail("a store to a block outside the cluster");
  u32 block = current->block / cluster_blocks * cluster_blocks + rank;
  return shared_of(block) + ((u8*)p - shared_of(current->block));
}
inline void barrier_init(u64* barrier, u32 bytes) { *barrier = bytes; }
// What is on its way to another block: with delays, until somebody there waits for it.
struct Store {
  u8* to;
  u64* barrier;
  u32 bytes, words[4];
};
extern std::vector<Store> stores;
bool is_late();  // whether something that may be late is: by chance, and never without delays
inline void store_now(const Store& store) {
  memcpy(store.to, store.words, store.bytes);
  *store.barrier -= store.bytes;
}
inline void store_in_cluster(void* to, u64* barrier, u32 rank, const void* words, u32 bytes) {
  Store store{in_cluster(to, rank), (u64*)(void*)in_cluster(barrier, rank), bytes, {}};
  memcpy(store.words, words, bytes);
  if (is_late())
    stores.push_back(store);
  else
    store_now(store);
}
inline void store_async(float4* to, u64* barrier, u32 rank, float4 v) { store_in_cluster(to, barrier, rank, &v, 16); }
inline void store_async(u32* to, u64* barrier, u32 rank, u32 v) { store_in_cluster(to, barrier, rank, &v, 4); }
void barrier_wait(u64* barrier);
// A barrier of many phases, as it lies in shared memory, and the bulk copies that it counts. A copy reads its source
// when it is asked for and writes when somebody waits.
struct Phases {
  u32 parity : 1, arrivals : 15, expected : 16;
  int bytes;
};
static_assert(sizeof(Phases) == 8, "as large as the barrier");
struct BulkCopy {
  void* to;
  std::vector<u8> content;
  Phases* barrier;
};
extern std::vector<BulkCopy> bulk_copies;
// The copies of a thread whose completion arrives at a barrier. Every other thread's happen at once, so that a place
// that is filled too early is found, and the others' when somebody waits, so that one that is read too early is.
struct Arrival {
  std::vector<Copy> copies;
  Phases* barrier;
};
extern std::vector<Arrival> arrivals;
inline void copy_now(const Copy& copy) {
  memcpy(copy.to, copy.from, copy.bytes);
  memset((u8*)copy.to + copy.bytes, 0, 16 - copy.bytes);
}
inline Phases* phases_of(u64* barrier) { return (Phases*)(void*)barrier; }
inline void phases_init(u64* barrier, u32 arrivals) { *phases_of(barrier) = {0, arrivals, arrivals, 0}; }
inline void phases_end_if_complete(Phases* phases) {
  if (phases->arrivals != 0 || phases->bytes != 0) return;
  phases->parity ^= 1;
  phases->arrivals = phases->expected;
}
inline void phases_announce(u64* barrier, u32 bytes) { phases_of(barrier)->bytes += (int)bytes; }
inline void phases_arrive(u64* barrier) {
  if (phases_of(barrier)->arrivals == 0) fail("more arrivals at a barrier than it expects");
  --phases_of(barrier)->arrivals;
  phases_end_if_complete(phases_of(barrier));
}
inline void phases_arrive_with_copies(u64* barrier) {
  std::vector<Copy> copies = current->open;
  current->open.clear();
  if (current->thread % 2) {
    for (const Copy& copy : copies) copy_now(copy);
    copies.clear();
  }
  arrivals.push_back({copies, phases_of(barrier)});
}
void phases_wait(u64* barrier, u32 parity);
inline void copy_bulk(void* shared, const void* global, u32 bytes, u64* barrier) {
  if ((uintptr_t)shared % 16 || (uintptr_t)global % 16 || bytes % 16) fail("a bulk copy is not made of 16 bytes");
  bulk_copies.push_back({shared, std::vector<u8>((const u8*)global, (const u8*)global + bytes), phases_of(barrier)});
}
inline void cluster_arrive() {
  ++cluster_arrivals[current->block / cluster_blocks];
  current->in_cluster_barrier = true;
}
void cluster_wait();
inline u32 matrix_transpose(u32 v) {
  current->word[0] = v;
  collect(Collective::Transpose);
  return current->word[0];
}

inline void load_matrices(Collective which, u32 (&out)[4], const void* shared) {
  if ((uintptr_t)shared % 16) fail("a row of a matrix is not aligned to 16 bytes");
  memcpy(current->word, &shared, sizeof shared);
  collect(which);
  memcpy(out, current->word, sizeof out);
}
inline void load_matrices(u32 (&out)[4], const void* shared) { load_matrices(Collective::LoadMatrices, out, shared); }
inline void load_matrices_transposed(u32 (&out)[4], const void* shared) {
  load_matrices(Collective::LoadMatricesTransposed, out, shared);
}
inline float shuffle_xor(float v, u32 mask) {
  current->word[0] = float_bits(v);
  current->word[1] = mask;
  collect(Collective::ShuffleXor);
  return bits_float(current->word[0]);
}
inline bool any_lane(bool v) {
  current->word[0] = v;
  collect(Collective::Any);
  return current->word[0];
}
inline float exp2_fast(float v) { return exp2f(v); }
inline void add_relaxed(float* p, float v) { *p += v; }
inline u32 count_arrival(u32* counter) { return (*counter)++; }

inline void mma(Collective which, float (&d)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
  u32 operands[6] = {a0, a1, a2, a3, b0, b1};
  memcpy(current->word, operands, sizeof operands);
  memcpy(current->sum, d, sizeof current->sum);
  collect(which);
  memcpy(d, current->sum, sizeof current->sum);
}

// A value that all lanes have.
inline u32 uniform(u32 v) { return v; }
inline u32 shared_address(const void* p) { return (u32)((const u8*)p - shared_base()); }

// Warpgroup products, which happen when they are asked for. Operands in shared memory as their description says: rows (or
// columns) of 64 bytes whose quarters change places, or 8 rows of 16 bytes together.
inline void products_see_copies() {}
inline void products_begin() {}
inline void products_commit() {}
template <int PENDING>
inline void products_wait() {}
template <int COUNT>
inline void products_end(float (&)[COUNT]) {}
// Word `word` of the 16 elements of a row.
inline u32 described(u64 matrix, u32 row, u32 word) {
  const u32 start = (u32)(matrix & 0x3fff) * 16, leading = (u32)(matrix >> 16 & 0x3fff) * 16,
            stride = (u32)(matrix >> 32 & 0x3fff) * 16;
  u32 at = start + row / 8 * stride;
  const u32 chunk = word / 4;
  if (matrix >> 62 == 2) {
    at += row % 8 * 64 + chunk * 16;
    at ^= (at >> 7 & 3) << 4;
  } else if (matrix >> 62 == 0) {
    at += row % 8 * 16 + chunk * leading;
  } else {
    fail("a matrix of a kind that is not emulated");
  }
  u32 out;
  memcpy(&out, shared_base() + at + word % 4 * 4, 4);
  return out;
}
template <class Format, int COUNT>
inline void add_products(float (&d)[COUNT], const u32 (&a)[2][8], u64 b) {
  const u32 q = current->thread % 4;
  for (u32 n = 0; n < COUNT / 4; ++n)
    for (u32 e = 0; e < 4; ++e)
      for (u32 word = 0; word < 8; ++word) {
        const u32 left = a[e / 2][word], right = described(b, 8 * n + 2 * q + e % 2, word);
        d[4 * n + e] += Format::low(left) * Format::low(right) + Format::high(left) * Format::high(right);
      }
}
template <class Format, int COUNT>
inline void products_of(float (&d)[COUNT], u64 a, u64 b) {
  const u32 i = current->thread % 128 / 32 * 16 + current->thread % 32 / 4;
  u32 rows[2][8];
  for (u32 row = 0; row < 2; ++row)
    for (u32 word = 0; word < 8; ++word) rows[row][word] = described(a, i + 8 * row, word);
  add_products<Format>(d, rows, b);
}
template <class Format, int COUNT>
inline void products_of(float (&d)[COUNT], u32 a0, u32 a1, u32 a2, u32 a3, u64 b) {
  const u32 q = current->thread % 4, mine[4] = {a0, a1, a2, a3};
  u32 rows[2][8];
  for (u32 word = 0; word < 4; ++word)
    for (u32 other = 0; other < 4; ++other)
      rows[word % 2][word / 2 * 4 + (q ^ other)] = float_bits(shuffle_xor(bits_float(mine[word]), other));
  add_products<Format>(d, rows, b);
}

#define PRODUCTS(FORMAT)                                                                              \
  template <class... Operands, int COUNT>                                                             \
  static void products(float (&d)[COUNT], Operands... operands) { products_of<FORMAT>(d, operands...); }

struct Bf16 {
  PRODUCTS(Bf16)
  static float decode(u32 bits) { return bits_float(bits << 16); }
  static u32 encode(float v) {
    u32 bits = float_bits(v);
    if (v != v) return 0x7fff;
    return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  }
  static u32 pack(float a, float b) { return encode(a) | encode(b) << 16; }
  static float low(u32 v) { return decode(v & 0xffff); }
  static float high(u32 v) { return decode(v >> 16); }
  static float clamp(float v) { return v; }
  static void mma(float (&d)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    ::mma(Collective::MmaBf16, d, a0, a1, a2, a3, b0, b1);
  }
};

struct F16 {
  PRODUCTS(F16)
  static float decode(u32 bits) {
    u16 half = (u16)bits;
    _Float16 v;
    memcpy(&v, &half, 2);
    return (float)v;
  }
  static u32 encode(float v) {
    _Float16 half = (_Float16)v;
    u16 out;
    memcpy(&out, &half, 2);
    return out;
  }
  static u32 pack(float a, float b) { return encode(a) | encode(b) << 16; }
  static float low(u32 v) { return decode(v & 0xffff); }
  static float high(u32 v) { return decode(v >> 16); }
  static float clamp(float v) { return v > 65504.f ? 65504.f : (v < -65504.f ? -65504.f : v); }
  static void mma(float (&d)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    ::mma(Collective::MmaF16, d, a0, a1, a2, a3, b0, b1);
  }
};
