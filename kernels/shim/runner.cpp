// Runs one launch of a kernel on the CPU: `runner CASE RESULT`.
//
// A case is a stream of little-endian u64 words and raw bytes:
//   program, blocks, threads, shared bytes, blocks in a cluster, shuffle seed, whether there are delays, planted fault,
//   buffers, then for each: bytes, flags (1 = appears only after the dependency wait, 2 = output, 4 = appears while the
//   preceding kernel still runs, together with all others of these), content,
//   pointers, then for each: buffer that holds it (or all ones: the arguments), offset, target buffer, addend,
//   argument bytes, content.
// The result holds the output buffers, in order, back to back.
#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <tuple>

#include "device.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define SWITCH_FROM(save, bottom, size) __sanitizer_start_switch_fiber(save, bottom, size)
#define SWITCH_DONE(save) __sanitizer_finish_switch_fiber(save, nullptr, nullptr)
#else
#define SWITCH_FROM(save, bottom, size)
#define SWITCH_DONE(save)
#endif

// Calls a kernel with its parameters, which lie back to back as in a CUDA parameter buffer: each at the next multiple
// of its alignment.
template <class... Parameters>
static void launch(void (*kernel)(Parameters...), const u8* arguments) {
  size_t at = 0;
  auto next = [&](size_t bytes, size_t alignment) {
    const u8* here = arguments + (at + alignment - 1) / alignment * alignment;
    at = here - arguments + bytes;
    return here;
  };
  // Braces, unlike a call's parentheses, fix the order.
  std::tuple<Parameters...> values{*(const Parameters*)next(sizeof(Parameters), alignof(Parameters))...};
  std::apply(kernel, values);
}

#include "kernels.inc"  // written by the test: the sources, and `void call(u64 program, const u8* arguments)`

#if !defined(__x86_64__)
#error "the fiber switch is written for x86-64"
#endif
extern "C" void switch_stack(void** save, void* load);
asm(R"(
.text
.globl switch_stack
.type switch_stack, @function
switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size switch_stack, .-switch_stack
)");

constexpr size_t STACK = 256 * 1024;
Fiber* current = nullptr;
static void* scheduler_stack_pointer;
static void* scheduler_fake = nullptr;
static const void* scheduler_bottom = nullptr;
static size_t scheduler_size = 0;
static std::vector<std::unique_ptr<u8[], void (*)(void*)>> shared_memory;
static u64 program_index;
u64 planted;
static const u8* kernel_arguments;
static bool follows_a_kernel;  // some buffer is written by the preceding kernel, for whose end all threads wait
static bool beside_a_kernel;   // some buffer is written by the preceding kernel, for whose end one thread at least waits

void fail(const char* what) {
  if (current)
    fprintf(stderr, "block %u thread %u: %s\n", current->block, current->thread, what);
  else
    fprintf(stderr, "%s\n", what);
  exit(3);
}

u8* shared_of(u32 block) { return shared_memory[block].get(); }

void yield(State state) {
  Fiber* self = current;
  self->state = state;
  void* fake = nullptr;
  (void)fake;
  SWITCH_FROM(&fake, scheduler_bottom, scheduler_size);
  switch_stack(&self->stack_pointer, scheduler_stack_pointer);
  SWITCH_DONE(fake);
}

u32 cluster_blocks = 1;
std::vector<u32> cluster_arrivals;
static u32 threads_in_block;
void cluster_wait() {
  while (cluster_arrivals[current->block / cluster_blocks] < cluster_blocks * threads_in_block) yield(State::Poll);
  current->in_cluster_barrier = false;
}

static std::mt19937_64 chance;
static bool delays;
bool is_late() { return delays && chance() % 2; }

std::vector<Store> stores;
void barrier_wait(u64* barrier) {
  if (delays) yield(State::Poll);  // others may be ahead
  for (;;) {
    for (size_t n = stores.size(); n-- > 0;) {
      if (stores[n].barrier != barrier) continue;
      store_now(stores[n]);
      stores.erase(stores.begin() + (long)n);
    }
    if (*barrier == 0) return;
    yield(State::Poll);
  }
}

std::vector<BulkCopy> bulk_copies;
std::vector<Arrival> arrivals;
void phases_wait(u64* barrier, u32 parity) {
  Phases* phases = phases_of(barrier);
  while (phases->parity == parity) {
    for (size_t n = bulk_copies.size(); n-- > 0;) {
      if (bulk_copies[n].barrier != phases) continue;
      const BulkCopy copy = bulk_copies[n];
      bulk_copies.erase(bulk_copies.begin() + (long)n);
      memcpy(copy.to, copy.content.data(), copy.content.size());
      phases->bytes -= (int)copy.content.size();
    }
    phases_end_if_complete(phases);
    for (size_t n = arrivals.size(); n-- > 0;) {
      if (arrivals[n].barrier != phases || phases->parity != parity) continue;
      for (const Copy& copy : arrivals[n].copies) copy_now(copy);
      arrivals.erase(arrivals.begin() + (long)n);
      phases_arrive(barrier);
    }
    if (phases->parity == parity) yield(State::Poll);
  }
}

void copy_finish(u32 pending) {
  auto& groups = current->groups;
  while (groups.size() > pending) {
    for (const Copy& copy : groups.front()) copy_now(copy);
    groups.erase(groups.begin());
  }
}

static void fiber_main() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &scheduler_bottom, &scheduler_size);
#endif
  call(program_index, kernel_arguments);
  for (auto& group : current->groups)
    if (!group.empty()) fail("ended with asynchronous copies in flight");
  if (follows_a_kernel && !current->waited) fail("ended without waiting for the preceding kernel");
  if (current->in_cluster_barrier) fail("ended without waiting for its cluster");
  current->state = State::Done;
  SWITCH_FROM(nullptr, scheduler_bottom, scheduler_size);
  switch_stack(&current->stack_pointer, scheduler_stack_pointer);
  abort();
}

static void start(Fiber& fiber) {
  fiber.stack = mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (fiber.stack == MAP_FAILED) fail("no memory for a fiber's stack");
  void** top = (void**)((u8*)fiber.stack + STACK);
  *--top = nullptr;             // fiber_main returns to nowhere; keeps the stack aligned as after a call
  *--top = (void*)&fiber_main;  // popped by `ret`
  for (int n = 0; n < 6; ++n) *--top = nullptr;
  fiber.stack_pointer = top;
}

static void resume(Fiber& fiber) {
  current = &fiber;
  fiber.state = State::Ready;
  SWITCH_FROM(&scheduler_fake, fiber.stack, STACK);
  switch_stack(&scheduler_stack_pointer, fiber.stack_pointer);
  SWITCH_DONE(scheduler_fake);
  current = nullptr;
}

static float decode(Collective kind, u32 word, int half) {
  u32 bits = half ? word >> 16 : word & 0xffff;
  return kind == Collective::MmaBf16 ? Bf16::decode(bits) : F16::decode(bits);
}

static void perform(Fiber* lanes) {
  Collective kind = lanes[0].collective;
  if (kind == Collective::Transpose) {
    u16 in[8][8];
    for (int lane = 0; lane < 32; ++lane) memcpy(&in[lane / 4][lane % 4 * 2], &lanes[lane].word[0], 4);
    for (int lane = 0; lane < 32; ++lane) {
      int row = lane / 4, column = lane % 4 * 2;
      lanes[lane].word[0] = in[column][row] | (u32)in[column + 1][row] << 16;
    }
  } else if (kind == Collective::LoadMatrices || kind == Collective::LoadMatricesTransposed) {
    u16 in[4][8][8];
    for (int lane = 0; lane < 32; ++lane) {
      const void* row;
      memcpy(&row, lanes[lane].word, sizeof row);
      memcpy(in[lane / 8][lane % 8], row, 16);
    }
    const bool transposed = kind == Collective::LoadMatricesTransposed;
    for (int lane = 0; lane < 32; ++lane)
      for (int matrix = 0; matrix < 4; ++matrix) {
        int i = lane / 4, q = lane % 4 * 2;
        u16 low = transposed ? in[matrix][q][i] : in[matrix][i][q];
        u16 high = transposed ? in[matrix][q + 1][i] : in[matrix][i][q + 1];
        lanes[lane].word[matrix] = low | (u32)high << 16;
      }
  } else if (kind == Collective::ShuffleXor) {
    u32 in[32];
    for (int lane = 0; lane < 32; ++lane) in[lane] = lanes[lane].word[0];
    for (int lane = 0; lane < 32; ++lane) lanes[lane].word[0] = in[(lane ^ lanes[lane].word[1]) % 32];
  } else if (kind == Collective::Any) {
    u32 any = 0;
    for (int lane = 0; lane < 32; ++lane) any |= lanes[lane].word[0];
    for (int lane = 0; lane < 32; ++lane) lanes[lane].word[0] = any;
  } else if (kind == Collective::MmaBf16 || kind == Collective::MmaF16) {
    float a[16][16], b[16][8];
    for (int lane = 0; lane < 32; ++lane) {
      int i = lane / 4, q = lane % 4;
      for (int word = 0; word < 4; ++word)
        for (int half = 0; half < 2; ++half)
          a[i + word % 2 * 8][2 * q + word / 2 * 8 + half] = decode(kind, lanes[lane].word[word], half);
      for (int word = 0; word < 2; ++word)
        for (int half = 0; half < 2; ++half)
          b[2 * q + word * 8 + half][i] = decode(kind, lanes[lane].word[4 + word], half);
    }
    for (int lane = 0; lane < 32; ++lane)
      for (int e = 0; e < 4; ++e) {
        int row = lane / 4 + e / 2 * 8, column = lane % 4 * 2 + e % 2;
        float sum = lanes[lane].sum[e];
        for (int k = 0; k < 16; ++k) sum += a[row][k] * b[k][column];
        lanes[lane].sum[e] = sum;
      }
  }
}

struct Buffer {
  u64 bytes, flags;
  u8* memory;
  std::vector<u8> hidden;
};

static FILE* input;
static u64 word() {
  u64 v;
  if (fread(&v, 8, 1, input) != 1) fail("the case ends early");
  return v;
}
static void bytes(void* to, u64 count) {
  if (count && fread(to, 1, count, input) != count) fail("the case ends early");
}

int main(int count, char** names) {
  if (count != 3) fail("usage: runner CASE RESULT");
  input = fopen(names[1], "rb");
  if (!input) fail("the case cannot be read");
  program_index = word();
  const u32 blocks = (u32)word(), threads = (u32)word();
  const u64 shared_bytes = word();
  cluster_blocks = (u32)word();
  const u64 seed = word();
  delays = word() != 0;
  planted = word();
  chance.seed(seed + 1);
  if (cluster_blocks == 0 || blocks % cluster_blocks) fail("the grid is not made of whole clusters");
  cluster_arrivals.assign(blocks / cluster_blocks, 0);
  threads_in_block = threads;
  std::vector<Buffer> buffers(word());
  for (Buffer& buffer : buffers) {
    buffer.bytes = word();
    buffer.flags = word();
    buffer.memory = (u8*)aligned_alloc(16, (buffer.bytes + 15) / 16 * 16);
#if defined(__SANITIZE_ADDRESS__)
    if (buffer.bytes % 16) __asan_poison_memory_region(buffer.memory + buffer.bytes, 16 - buffer.bytes % 16);
#endif
    bytes(buffer.memory, buffer.bytes);
  }
  struct Pointer { u64 holder, offset, target, addend; };
  std::vector<Pointer> pointers(word());
  for (Pointer& pointer : pointers) pointer = {word(), word(), word(), word()};
  std::vector<uint4> arguments((word() + 15) / 16);
  fseek(input, -8, SEEK_CUR);
  bytes(arguments.data(), word());
  fclose(input);
  for (const Pointer& pointer : pointers) {
    u8* holder = pointer.holder == ~0ull ? (u8*)arguments.data() : buffers[pointer.holder].memory;
    u64 address = (u64)(uintptr_t)buffers[pointer.target].memory + pointer.addend;
    memcpy(holder + pointer.offset, &address, 8);
  }
  for (Buffer& buffer : buffers)
    if (buffer.flags & 5) {
      follows_a_kernel |= buffer.flags & 1;
      beside_a_kernel |= (buffer.flags & 4) != 0;
      buffer.hidden.assign(buffer.memory, buffer.memory + buffer.bytes);
      memset(buffer.memory, 0xff, buffer.bytes);
    }
  kernel_arguments = (const u8*)arguments.data();

  for (u32 block = 0; block < blocks; ++block) {
    u8* memory = (u8*)aligned_alloc(1024, (shared_bytes + 1023) / 1024 * 1024);
    memset(memory, 0xff, (shared_bytes + 1023) / 1024 * 1024);
#if defined(__SANITIZE_ADDRESS__)
    if (shared_bytes % 1024) __asan_poison_memory_region(memory + shared_bytes, 1024 - shared_bytes % 1024);
#endif
    shared_memory.emplace_back(memory, &free);
  }
  std::vector<Fiber> fibers(size_t(blocks) * threads);
  for (size_t n = 0; n < fibers.size(); ++n) {
    fibers[n].block = (u32)(n / threads);
    fibers[n].thread = (u32)(n % threads);
    start(fibers[n]);
  }

  std::mt19937_64 shuffle(seed);
  std::vector<u32> order(blocks * (threads / 32));
  for (u32 n = 0; n < order.size(); ++n) order[n] = n;
  // With delays: blocks that begin when the others have what they wait for, and rounds for which each warp sleeps.
  std::vector<bool> begins_late(blocks);
  std::vector<u32> asleep(order.size());
  for (u32 block = 0; block < blocks; ++block) begins_late[block] = is_late();
  for (u32 warp = 0; warp < order.size(); ++warp)
    if (is_late()) asleep[warp] = (u32)(chance() % (begins_late[warp / (threads / 32)] ? 96 : 24));
  bool revealed = false, marked = !beside_a_kernel;
  auto reveal = [&](u64 flag) {
    for (Buffer& buffer : buffers) {
      if (!(buffer.flags & flag) || buffer.bytes == 0) continue;
      for (u64 n = 0; n < buffer.bytes; ++n)
        if (buffer.memory[n] != 0xff) fail("a buffer was written before the dependency wait");
      memcpy(buffer.memory, buffer.hidden.data(), buffer.bytes);
    }
  };
  size_t done = 0, idle_rounds = 0;
  while (done < fibers.size()) {
    std::shuffle(order.begin(), order.end(), shuffle);
    bool progress = false;
    for (u32 warp : order) {
      Fiber* lanes = &fibers[warp * 32];
      if (begins_late[lanes->block] && !(marked && (revealed || !follows_a_kernel))) continue;
      if (asleep[warp] > 0) {
        --asleep[warp];
        progress = true;
        continue;
      }
      bool awake = false;
      for (;;) {
        bool ran = false;
        for (int lane = 0; lane < 32; ++lane)
          if (lanes[lane].state == State::Ready) resume(lanes[lane]), ran = true;
        progress |= ran;
        awake |= ran;
        int together = 0;
        for (int lane = 0; lane < 32; ++lane) together += lanes[lane].state == State::Warp;
        if (together == 0) break;
        for (int lane = 0; lane < 32 && together == 32; ++lane)
          if (lanes[lane].collective != lanes[0].collective) fail("the lanes of a warp execute different instructions");
        if (together != 32) {
          bool polling = false;
          for (int lane = 0; lane < 32; ++lane) polling |= lanes[lane].state == State::Poll;
          if (polling) break;
          fail("a warp instruction misses some of its lanes");
        }
        perform(lanes);
        for (int lane = 0; lane < 32; ++lane) lanes[lane].state = State::Ready;
      }
      for (int lane = 0; lane < 32; ++lane)
        if (lanes[lane].state == State::Poll) lanes[lane].state = State::Ready, resume(lanes[lane]);
      if (delays && awake && chance() % 4 == 0) asleep[warp] = (u32)(chance() % 24);
    }
    done = 0;
    size_t at_grid = 0;
    for (u32 block = 0; block < blocks; ++block) {
      u32 at_barrier = 0, finished = 0, at_part = 0, part = 0;
      Fiber* first = &fibers[size_t(block) * threads];
      for (u32 thread = 0; thread < threads; ++thread) {
        at_barrier += first[thread].state == State::Block;
        finished += first[thread].state == State::Done;
        at_grid += first[thread].state == State::Grid;
        if (first[thread].state == State::Part) {
          ++at_part;
          if (part != 0 && first[thread].word[0] != part) fail("a barrier of two parts");
          part = first[thread].word[0];
          if (thread >= part) fail("a thread waits for a barrier of others");
        }
      }
      done += finished;
      if (at_barrier && finished) fail("a barrier is waited for after a thread of its block has ended");
      if (at_part > 0 && at_part == part) {
        for (u32 thread = 0; thread < part; ++thread) first[thread].state = State::Ready;
        progress = true;
      }
      for (u32 group = 0; group + 128 <= threads; group += 128) {
        u32 here = 0, number = 0;
        for (u32 thread = group; thread < group + 128; ++thread)
          if (first[thread].state == State::Group) {
            if (here++ == 0) number = first[thread].word[0];
            if (first[thread].word[0] != number) fail("a warpgroup waits for different barriers");
          }
        if (here < 128) continue;
        for (u32 thread = group; thread < group + 128; ++thread) first[thread].state = State::Ready;
        progress = true;
      }
      if (at_barrier == threads) {
        for (u32 thread = 0; thread < threads; ++thread) first[thread].state = State::Ready;
        progress = true;
      }
    }
    // The preceding kernel has written what is read beside it when nobody has anything else to do, and ends when nobody has.
    const bool stuck = !progress && idle_rounds > 2;
    if (!marked && stuck) {
      reveal(4);
      marked = progress = true;
    } else if (!revealed && (delays || beside_a_kernel ? stuck && (at_grid || follows_a_kernel)
                                                   : at_grid && at_grid + done == fibers.size())) {
      reveal(1);
      for (Fiber& fiber : fibers)
        if (fiber.state == State::Grid) fiber.state = State::Ready;
      revealed = progress = true;
    } else if (revealed && at_grid) {
      for (Fiber& fiber : fibers)
        if (fiber.state == State::Grid) fiber.state = State::Ready;
      progress = true;
    }
    idle_rounds = progress ? 0 : idle_rounds + 1;
    if (idle_rounds > 1000) fail("no thread can go on");
  }

  if (!bulk_copies.empty() || !arrivals.empty() || !stores.empty()) fail("ended with copies in flight");
  if (beside_a_kernel && !revealed) fail("ended before the preceding kernel");
  FILE* output = fopen(names[2], "wb");
  if (!output) fail("the result cannot be written");
  for (const Buffer& buffer : buffers)
    if (buffer.flags & 2) fwrite(buffer.memory, 1, buffer.bytes, output);
  fclose(output);
  for (Fiber& fiber : fibers) munmap(fiber.stack, STACK);
  for (Buffer& buffer : buffers) free(buffer.memory);
  return 0;
}
