// SPDX-License-Identifier: Apache-2.0
// Blocks of fibers. A fiber runs until it comes to a barrier; in which order they run can be chosen, and results must
// not depend on it: they do wherever a barrier is missing.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "emulated_mma.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, size)
#define ASAN_UNPOISON_MEMORY_REGION(address, size)
#endif

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace stylefast {
constexpr size_t kMost = 232448;  // bytes of a Hopper block
alignas(16) unsigned char shared_bytes[kMost + 4096];
}  // namespace stylefast

namespace on_cpu {
namespace {

constexpr size_t kStack = 64 << 10;

int processors = 3, shared_limit = 166912, order = 0;

enum class State { kReady, kAtBlock, kAtWarp, kDone };

struct Fiber {
  ucontext_t context;
  std::unique_ptr<unsigned char[]> stack{new unsigned char[kStack]};
  State state;
  int line;
  int exchanges;
};

std::vector<Fiber> fibers;
std::vector<Operands> given;  // [warps, 2, 32]: of one exchange and the next
ucontext_t scheduler;
int current;
const std::function<void()>* body;

void switch_to(ucontext_t& from, ucontext_t& to, [[maybe_unused]] const void* stack, [[maybe_unused]] size_t size) {
#if defined(__SANITIZE_ADDRESS__)
  void* fake = nullptr;
  __sanitizer_start_switch_fiber(&fake, stack, size);
  swapcontext(&from, &to);
  __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#else
  swapcontext(&from, &to);
#endif
}

const void* scheduler_stack = nullptr;
size_t scheduler_size = 0;

void leave() { switch_to(fibers[current].context, scheduler, scheduler_stack, scheduler_size); }

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

// Lets fibers [begin, end) go on if all of them wait at the same barrier.
bool release(int begin, int end, State state) {
  for (int i = begin; i < end; ++i) {
    if (fibers[i].state != state || fibers[i].line != fibers[begin].line) return false;
  }
  for (int i = begin; i < end; ++i) fibers[i].state = State::kReady;
  return true;
}

void run_block(int threads) {
  for (int i = 0; i < threads; ++i) {
    Fiber& fiber = fibers[i];
    fiber.state = State::kReady;
    fiber.exchanges = 0;
    getcontext(&fiber.context);
    fiber.context.uc_stack = {fiber.stack.get(), 0, kStack};
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, enter, 0);
  }
  for (bool going = true; going;) {
    for (int i = 0; i < threads; ++i) {
      current = order == 0 ? i : order == 1 ? threads - 1 - i : i ^ (order % threads);
      if (fibers[current].state != State::kReady) continue;
      threadIdx.x = static_cast<unsigned>(current);
      switch_to(scheduler, fibers[current].context, fibers[current].stack.get(), kStack);
    }
    going = release(0, threads, State::kAtBlock);
    for (int i = 0; i < threads; i += 32) going |= release(i, std::min(i + 32, threads), State::kAtWarp);
  }
  for (int i = 0; i < threads; ++i) {
    if (fibers[i].state == State::kDone) continue;
    std::fprintf(stderr, "thread %d waits at a barrier (line %d) to which others do not come\n", i, fibers[i].line);
    std::abort();
  }
}

}  // namespace

int attribute(cudaDeviceAttr name) { return name == cudaDevAttrMultiProcessorCount ? processors : shared_limit; }

void meet_block(int line) { wait(State::kAtBlock, line); }
void meet_warp(int line) { wait(State::kAtWarp, line); }

const Operands* exchange(const Operands& own) {
  Operands* warp = &given[static_cast<size_t>(current / 32 * 64 + fibers[current].exchanges++ % 2 * 32)];
  warp[current % 32] = own;
  meet_warp(-1);
  return warp;
}

void run(const cudaLaunchConfig_t& config, const std::function<void()>& kernel) {
  const int threads = static_cast<int>(config.blockDim.x);
  if (threads > static_cast<int>(fibers.size())) fibers = std::vector<Fiber>(static_cast<size_t>(threads));
  given.resize(static_cast<size_t>((threads + 31) / 32 * 64));
  body = &kernel;
  blockDim = config.blockDim, gridDim = config.gridDim;
  const unsigned blocks = gridDim.x * gridDim.y;
  for (unsigned i = 0; i < blocks; ++i) {
    const unsigned block = order == 0 ? i : blocks - 1 - i;
    blockIdx = dim3(block % gridDim.x, block / gridDim.x);
    std::memset(stylefast::shared_bytes, 0xFF, sizeof stylefast::shared_bytes);  // NaN
    ASAN_POISON_MEMORY_REGION(stylefast::shared_bytes + config.dynamicSmemBytes,
                              sizeof stylefast::shared_bytes - config.dynamicSmemBytes);
    run_block(threads);
    ASAN_UNPOISON_MEMORY_REGION(stylefast::shared_bytes, sizeof stylefast::shared_bytes);
  }
}

}  // namespace on_cpu

// What the tests set: the order of fibers and blocks, and the device that the launchers see.
extern "C" __attribute__((visibility("default"))) void on_cpu_order(int order) { on_cpu::order = order; }
extern "C" __attribute__((visibility("default"))) void on_cpu_device(int processors, int shared_limit) {
  on_cpu::processors = processors, on_cpu::shared_limit = shared_limit;
}

AOTITorchError aoti_torch_get_current_cuda_stream(int32_t, void** stream) {
  *stream = nullptr;
  return AOTI_TORCH_SUCCESS;
}
