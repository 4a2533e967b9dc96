// What only Hopper can: products of a warpgroup (four warps) whose right operand, and perhaps the left, lies in shared memory,
// and copies of boxes of a matrix. No emulation: lora_wide.cu runs on the GPU alone. Included once, after primitives.cuh.

// A box of a matrix: what the driver encodes.
struct alignas(64) TensorMap {
  u8 bytes[128];
};

// How 16-byte chunks of rows that lie one after the other are permuted, so that 8 rows meet all banks: chunk c of row r is in
// place c ^ (r % 8) where a row has 128 bytes, and in place c ^ (r / 2 % 4) where it has 64.
enum Swizzle : u32 { ROWS_OF_128 = 1, ROWS_OF_64 = 2 };

// 16 inputs of a matrix in shared memory, rows in eights that lie one after the other. `at`: of the first row and input; the
// first eight rows begin at a multiple of their size.
template <Swizzle SWIZZLE>
DEVICE u64 operand_at(const void* at) {
  const u32 eight = SWIZZLE == ROWS_OF_128 ? 1024 : 512;
  return ((shared_address(at) & 0x3ffff) >> 4) | (1ull << 16) | (u64(eight >> 4) << 32) | (u64(SWIZZLE) << 62);
}

// The same value in every lane, and known to be: products behind a branch on anything else are made one at a time.
DEVICE u32 uniform(u32 v) { return __shfl_sync(0xffffffffu, v, 0); }

// Registers that products will read or add to are written; before the first product.
DEVICE void warpgroup_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEVICE void warpgroup_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Returns when at most PENDING of the newest groups are in flight.
template <int PENDING>
DEVICE void warpgroup_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

// Products of 64 × 16 by 16 × 32 elements. Sums of a lane 4i + q: d[4n] and d[4n + 1] are row 16·warp + i, columns 8n + 2q and
// 8n + 2q + 1; d[4n + 2] and d[4n + 3] the same of row i + 8. A left operand in registers is a warp's 16 × 16, as in
// mma.sync.
template <class T>
struct Warpgroup;

#define SUMS_32(d)                                                                                                \
  "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]),     \
      "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15])
#define NAMES_32 "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15}"
#define WARPGROUP(ELEMENT_NAME, TYPE)                                                                             \
  template <>                                                                                                     \
  struct Warpgroup<ELEMENT_NAME> {                                                                                \
    static DEVICE void multiply(float (&d)[16], u64 a, u64 b) {                                                   \
      asm volatile("{.reg .pred add; setp.eq.u32 add, 0, 0; wgmma.mma_async.sync.aligned.m64n32k16.f32." TYPE     \
                   "." TYPE " " NAMES_32 ", %16, %17, add, 1, 1, 0, 0;}"                                          \
                   : SUMS_32(d)                                                                                   \
                   : "l"(a), "l"(b));                                                                             \
    }                                                                                                             \
    static DEVICE void multiply(float (&d)[16], u32 a0, u32 a1, u32 a2, u32 a3, u64 b) {                          \
      asm volatile("{.reg .pred add; setp.eq.u32 add, 0, 0; wgmma.mma_async.sync.aligned.m64n32k16.f32." TYPE     \
                   "." TYPE " " NAMES_32 ", {%16,%17,%18,%19}, %20, add, 1, 1, 0;}"                               \
                   : SUMS_32(d)                                                                                   \
                   : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(b));                                                 \
    }                                                                                                             \
  };
WARPGROUP(Bf16, "bf16")
WARPGROUP(F16, "f16")

// The copies of a stage, by the one lane of a warp that is `chosen`: predicates, not branches, since products behind a branch
// that lanes may take apart are made one at a time.
DEVICE void announce_if(bool chosen, u64* barrier, u32 bytes) {
  asm volatile(
      "{.reg .pred chosen; setp.ne.u32 chosen, %2, 0; @chosen mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;}" ::"r"(
          shared_address(barrier)),
      "r"(bytes), "r"(u32(chosen))
      : "memory");
}
DEVICE void copy_bulk_if(bool chosen, void* shared, const void* global, u32 bytes, u64* barrier) {
  asm volatile(
      "{.reg .pred chosen; setp.ne.u32 chosen, %4, 0; "
      "@chosen cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];}" ::"r"(
          shared_address(shared)),
      "l"(global), "r"(bytes), "r"(shared_address(barrier)), "r"(u32(chosen))
      : "memory");
}
// A box, whose size the map knows, from this column and row on; what lies outside of the matrix is zero.
DEVICE void copy_box_if(bool chosen, void* shared, const TensorMap* map, u32 column, u32 row, u64* barrier) {
  asm volatile(
      "{.reg .pred chosen; setp.ne.u32 chosen, %5, 0; "
      "@chosen cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];}" ::"r"(
          shared_address(shared)),
      "l"(map), "r"(column), "r"(row), "r"(shared_address(barrier)), "r"(u32(chosen))
      : "memory");
}
// Asks the L2 for `bytes`, a multiple of 16.
DEVICE void prefetch_to_l2_if(bool chosen, const void* global, u32 bytes) {
  asm volatile(
      "{.reg .pred chosen; setp.ne.u32 chosen, %2, 0; @chosen cp.async.bulk.prefetch.L2.global [%0], %1;}" ::"l"(global),
      "r"(bytes), "r"(u32(chosen))
      : "memory");
}
// As `store_async`, of one word.
DEVICE void store_async_word(u32* to, u64* barrier, u32 rank, u32 v) {
  asm volatile(
      "{.reg .b32 to, bar; mapa.shared::cluster.u32 to, %0, %2; mapa.shared::cluster.u32 bar, %1, %2; "
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.b32 [to], %3, [bar];}" ::"r"(shared_address(to)),
      "r"(shared_address(barrier)), "r"(rank), "r"(v)
      : "memory");
}
// What this thread has seen in shared memory is there for products and bulk copies too.
DEVICE void shared_for_products() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
