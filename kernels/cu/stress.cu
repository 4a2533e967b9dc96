// What a stress run needs around a kernel: shared memory that holds what no kernel may rely on, and a comparison of
// results to the bit.
#include "primitives.cuh"

struct Poison {
  u32 bytes;  // of shared memory that the block has
  u32 word;
};

// Every word of the block's shared memory = `word`. Grid: as many blocks as multiprocessors, each with all the shared
// memory that a block can have.
KERNEL void poison_shared(const GRID_CONSTANT Poison args) {
  volatile u32* const words = (volatile u32*)shared_base();
  for (u32 n = thread_index(); n < args.bytes / 4; n += 256) words[n] = args.word;
}

struct Differences {
  const uint4 *a, *b;
  u64 count;       // vectors of 16 bytes
  u32* differing;  // grows by the number of vectors of a that are not those of b
  u32 blocks;      // of the grid: any number
  u32 reserved;
};

KERNEL void count_differences(const GRID_CONSTANT Differences args) {
  for (u64 n = u64(block_index()) * 256 + thread_index(); n < args.count; n += u64(args.blocks) * 256) {
    const uint4 v = args.a[n], w = args.b[n];
    if (v.x != w.x || v.y != w.y || v.z != w.z || v.w != w.w) count_arrival(args.differing);
  }
}
