// SPDX-License-Identifier: Apache-2.0
// Runs the threads of a block as fibers. A fiber runs until it reaches a barrier. The tests choose the order in which
// fibers run. Results must not depend on this order; they do if a barrier is missing.
#include "fibers.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "emulated_async.h"
#include "emulated_units.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, size)
#define ASAN_UNPOISON_MEMORY_REGION(address, size)
#endif

// Saves the callee-saved registers and the stack pointer of one fiber, and resumes another fiber.
extern "C" void on_cpu_switch(void** from, void* to);
asm(R"(
.text
on_cpu_switch:
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
)");

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace stylefast {
constexpr size_t kMaxShared = 232448;  // bytes of shared memory that a block on Hopper can have
alignas(1024) unsigned char shared_bytes[kMaxShared + 4096];
}  // namespace stylefast

namespace on_cpu {
namespace {

constexpr size_t kStack = 64 << 10;

int processors = 3, shared_limit = 166912, capability = 8, chosen_order = 0;
int largest = 0;            // bytes of shared memory of the largest launch so far
bool only_measure = false;  // whether launches only record their shared memory
int max_blocks = -1;        // blocks of a launch that run; negative: all
int registers = 0;          // per thread, of kernels whose resident blocks are asked for; 0: one block is resident
const char* skipped_file = "";
int skipped_line = 0;

enum class State { kReady, kAtBlock, kAtWarp, kWaiting, kDone };

struct Copy {
  void* to;
  const void* from;
  int size;

  void make() const { std::memcpy(to, from, static_cast<size_t>(size)); }
};

struct Fiber {
  void* top;  // top of the stack, where the registers are saved
  std::unique_ptr<unsigned char[]> stack{new unsigned char[kStack]};
  State state;
  int line;
  int exchanges;
  std::vector<std::vector<Copy>> copies;  // groups that are not yet made; the last one is not yet committed
  std::function<bool()> ready;            // ends State::kWaiting
};

std::vector<Fiber> fibers;
std::vector<Operands> exchanged;  // [warps, 2, 32]: one exchange and the next
void* scheduler;
int current;
const std::function<void()>* body;

void switch_to(void** from, void* to, [[maybe_unused]] const void* stack, [[maybe_unused]] size_t size) {
#if defined(__SANITIZE_ADDRESS__)
  void* fake = nullptr;
  __sanitizer_start_switch_fiber(&fake, stack, size);
  on_cpu_switch(from, to);
  __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#else
  on_cpu_switch(from, to);
#endif
}

const void* scheduler_stack = nullptr;
size_t scheduler_size = 0;

void leave() { switch_to(&fibers[current].top, scheduler, scheduler_stack, scheduler_size); }

void enter() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_size);
#endif
  (*body)();
  fibers[current].state = State::kDone;
  leave();
}

void wait(State state, int line) {
  fibers[current].state = state;
  fibers[current].line = line;
  leave();
}

// Lets the fibers in [begin, end) continue if all of them wait at the same barrier.
bool release(int begin, int end, State state) {
  for (int i = begin; i < end; ++i) {
    if (fibers[i].state != state || fibers[i].line != fibers[begin].line) return false;
  }
  for (int i = begin; i < end; ++i) fibers[i].state = State::kReady;
  return true;
}

void start(Fiber& fiber) {
  fiber.state = State::kReady;
  fiber.exchanges = 0;
  fiber.copies.assign(1, {});
  auto* top = reinterpret_cast<void**>(reinterpret_cast<uintptr_t>(fiber.stack.get() + kStack) / 16 * 16);
  top[-2] = reinterpret_cast<void*>(&enter);  // where on_cpu_switch returns to
  fiber.top = top - 8;                        // below six registers
}

// The i-th thread that runs. 37 has no common divisor with the number of threads.
int nth(int i, int threads) {
  return chosen_order == 0 ? i : chosen_order == 1 ? threads - 1 - i : i * chosen_order % threads;
}

// Whether a warp does not run in this round: three of four, at random, in orders above 100. A warp then lags behind.
bool stalls(unsigned round, unsigned warp) {
  if (chosen_order <= 100) return false;
  const unsigned mixed = (round * 2654435761u + static_cast<unsigned>(chosen_order)) ^ warp * 2246822519u;
  return (mixed * 3266489917u >> 24) % 4 != 0;
}

void run_block(int threads) {
  for (int i = 0; i < threads; ++i) start(fibers[i]);
  bool advanced = true;
  for (unsigned round = 0; advanced; ++round) {
    advanced = false;
    for (int i = 0; i < threads; ++i) {
      current = nth(i, threads);
      Fiber& fiber = fibers[current];
      threadIdx.x = static_cast<unsigned>(current);
      if (fiber.state == State::kWaiting && fiber.ready()) fiber.state = State::kReady;
      if (fiber.state != State::kReady) continue;
      advanced = true;
      if (stalls(round, threadIdx.x / 32)) continue;
      switch_to(&scheduler, fiber.top, fiber.stack.get(), kStack);
    }
    advanced |= release(0, threads, State::kAtBlock);
    for (int i = 0; i < threads; i += 32) advanced |= release(i, std::min(i + 32, threads), State::kAtWarp);
    if (!advanced) advanced = advance_units();
  }
  for (int i = 0; i < threads; ++i) {
    if (fibers[i].state == State::kDone) continue;
    std::fprintf(stderr, "thread %d waits at a barrier (line %d) that other threads do not reach\n", i, fibers[i].line);
    std::abort();
  }
}

}  // namespace

int attribute(cudaDeviceAttr name) {
  if (name == cudaDevAttrComputeCapabilityMajor) return capability;
  if (name == cudaDevAttrComputeCapabilityMinor) return 0;
  return name == cudaDevAttrMultiProcessorCount ? processors : shared_limit;
}

int order() { return chosen_order; }

bool skipped(const char* file, int line) { return line == skipped_line && std::strstr(file, skipped_file) != nullptr; }

void wait_until(const std::function<bool()>& ready, int line) {
  if (ready()) return;
  fibers[current].ready = ready;
  wait(State::kWaiting, line);
}

unsigned char* shared_begin() { return stylefast::shared_bytes; }

void meet_block(const char* file, int line) {
  if (skipped(file, line)) return;
  wait(State::kAtBlock, line);
}

void meet_warp() { wait(State::kAtWarp, 0); }

const Operands* exchange(const Operands& operands) {
  Operands* warp = &exchanged[static_cast<size_t>(current / 32 * 64 + fibers[current].exchanges++ % 2 * 32)];
  warp[current % 32] = operands;
  meet_warp();
  return warp;
}

void copy_async(void* to, const void* from, int size) {
  const Copy copy{to, from, size};
  if (chosen_order == 0) {
    copy.make();
  } else {
    fibers[current].copies.back().push_back(copy);
  }
}

void commit_copies() { fibers[current].copies.emplace_back(); }

void wait_for_copies(int in_flight, const char* file, int line) {
  if (skipped(file, line)) return;
  auto& groups = fibers[current].copies;
  while (static_cast<int>(groups.size()) > in_flight + 1) {
    for (const Copy& copy : groups.front()) copy.make();
    groups.erase(groups.begin());
  }
}

int resident_blocks(int threads, size_t shared) {
  if (registers == 0) return 1;
  constexpr int kRegisters = 65536, kThreads = 2048, kReserved = 1024;  // of a processor; bytes of shared memory
  const int warps = (threads + 31) / 32, register_blocks = kRegisters / (warps * 32 * ((registers + 7) / 8 * 8));
  const int shared_blocks = (shared_limit + kReserved) / (static_cast<int>(shared) + kReserved);
  return std::min({kThreads / threads, 32, register_blocks, shared_blocks});
}

void run(const void* address, const cudaLaunchConfig_t& config, const std::function<void()>& kernel) {
  largest = std::max(largest, static_cast<int>(config.dynamicSmemBytes));
  if (only_measure) return;
  const int threads = static_cast<int>(config.blockDim.x);
  if (threads > static_cast<int>(fibers.size())) fibers = std::vector<Fiber>(static_cast<size_t>(threads));
  exchanged.resize(static_cast<size_t>((threads + 31) / 32 * 64));
  body = &kernel;
  blockDim = config.blockDim, gridDim = config.gridDim;
  const unsigned blocks = gridDim.x * gridDim.y, count = std::min(blocks, static_cast<unsigned>(max_blocks));
  const bool is_counted = max_blocks >= 0;
  if (is_counted) begin_count(address, blocks, static_cast<unsigned>(threads));
  for (unsigned i = 0; i < count; ++i) {
    // Multiples of the golden ratio are spread evenly.
    const unsigned nth = count == blocks ? i : static_cast<unsigned>(std::fmod(0.6180339887 * (i + 1), 1.0) * blocks);
    const unsigned block = chosen_order == 0 ? nth : blocks - 1 - nth;
    blockIdx = dim3(block % gridDim.x, block / gridDim.x);
    std::memset(stylefast::shared_bytes, 0xFF, sizeof stylefast::shared_bytes);  // NaN
    ASAN_POISON_MEMORY_REGION(stylefast::shared_bytes + config.dynamicSmemBytes,
                              sizeof stylefast::shared_bytes - config.dynamicSmemBytes);
    start_units(config.dynamicSmemBytes);
    if (is_counted) begin_count_of_block();
    run_block(threads);
    if (is_counted) end_count_of_block(static_cast<double>(blocks) / count);
    end_units();
    ASAN_UNPOISON_MEMORY_REGION(stylefast::shared_bytes, sizeof stylefast::shared_bytes);
  }
}

}  // namespace on_cpu

// Settings of the tests: the order of fibers and blocks, and the device that the launchers see.
extern "C" __attribute__((visibility("default"))) void on_cpu_order(int order) { on_cpu::chosen_order = order; }
extern "C" __attribute__((visibility("default"))) void on_cpu_device(int processors, int shared_limit) {
  on_cpu::processors = processors, on_cpu::shared_limit = shared_limit;
}
extern "C" __attribute__((visibility("default"))) void on_cpu_capability(int major) { on_cpu::capability = major; }
// Returns the bytes of shared memory of the largest launch since the last call. From now on launches run no kernel.
extern "C" __attribute__((visibility("default"))) int on_cpu_largest() {
  on_cpu::only_measure = true;
  return std::exchange(on_cpu::largest, 0);
}
// From now on at most so many blocks of a launch run, spread over its grid, and kernels have so many registers.
extern "C" __attribute__((visibility("default"))) void on_cpu_sample(int max_blocks, int registers) {
  on_cpu::max_blocks = max_blocks, on_cpu::registers = registers;
}
// From now on the barrier or the wait at this line lets every thread pass.
extern "C" __attribute__((visibility("default"))) void on_cpu_skip(const char* file, int line) {
  on_cpu::skipped_file = strdup(file), on_cpu::skipped_line = line;
}

AOTITorchError aoti_torch_get_current_cuda_stream(int32_t, void** stream) {
  *stream = nullptr;
  return AOTI_TORCH_SUCCESS;
}
