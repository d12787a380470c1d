// SPDX-License-Identifier: Apache-2.0
// Counts how often warps execute each basic block of a kernel. The compiler inserts a call at the beginning of every
// basic block if it gets -fsanitize-coverage=trace-pc. A warp executes a block as often as the lane that executes it
// most often.
#ifndef __OPTIMIZE__
#pragma GCC optimize("O2")  // most of the time is spent here
#endif
#include <dlfcn.h>

#include <algorithm>
#include <cstdio>
#include <map>
#include <vector>

#include "cuda_runtime.h"
#include "fibers.h"

namespace on_cpu {
namespace {

struct Launch {
  const void* kernel;
  unsigned blocks, threads;
  std::map<ptrdiff_t, double> executions;  // by address, of all warps
};

constexpr ptrdiff_t kMaxCode = 64 << 20;  // largest distance of the kernels from this file, in bytes
std::vector<Launch> launches;
int row_numbers[2 * kMaxCode];      // by address, from one; 0 if it has none. Unused pages take no memory.
std::vector<ptrdiff_t> address_of;  // by row
std::vector<unsigned> executions;   // in the current block: [rows, threads]
unsigned* first_row = nullptr;      // of executions
bool counts = false;

const char* const origin = reinterpret_cast<const char*>(&begin_count);

void add_row(ptrdiff_t offset) {
  address_of.push_back(offset);
  executions.resize(address_of.size() * launches.back().threads);
  first_row = executions.data();
  row_numbers[offset + kMaxCode] = static_cast<int>(address_of.size());
}

}  // namespace

void begin_count(const void* kernel, unsigned blocks, unsigned threads) {
  launches.push_back({kernel, blocks, threads, {}});
}

void begin_count_of_block() { counts = true; }

void end_count_of_block(double weight) {
  counts = false;
  const unsigned threads = launches.back().threads;
  for (size_t row = 0; row < address_of.size(); ++row) {
    const unsigned* lanes = executions.data() + row * threads;
    for (unsigned i = 0; i < threads; i += 32) {
      const unsigned most = *std::max_element(lanes + i, lanes + std::min(i + 32, threads));
      launches.back().executions[address_of[row]] += weight * most;
    }
    row_numbers[address_of[row] + kMaxCode] = 0;
  }
  address_of.clear(), executions.clear();
}

}  // namespace on_cpu

// Calls no other function if the address has a row, because most of the time is spent here.
extern "C" __attribute__((no_sanitize_coverage)) void __sanitizer_cov_trace_pc() {
  using namespace on_cpu;
  if (!counts) return;
  const ptrdiff_t offset = static_cast<const char*>(__builtin_return_address(0)) - origin;
  if (offset < -kMaxCode || offset >= kMaxCode) __builtin_trap();
  if (row_numbers[offset + kMaxCode] == 0) {
    counts = false;  // add_row is counted, too
    add_row(offset);
    counts = true;
  }
  ++first_row[static_cast<size_t>(row_numbers[offset + kMaxCode] - 1) * blockDim.x + threadIdx.x];
}

// Writes the counts of all launches since the last call. Addresses are relative to the library. The lines are
// "launch <kernel> <blocks> <threads>", each followed by lines "<address> <executions>".
extern "C" __attribute__((visibility("default"))) void on_cpu_write_counts(const char* path) {
  Dl_info library;
  dladdr(reinterpret_cast<const void*>(&on_cpu_write_counts), &library);
  const auto* base = static_cast<const char*>(library.dli_fbase);
  std::FILE* file = std::fopen(path, "w");
  if (file == nullptr) return;
  for (const auto& launch : on_cpu::launches) {
    std::fprintf(file, "launch %tx %u %u\n", static_cast<const char*>(launch.kernel) - base, launch.blocks,
                 launch.threads);
    for (const auto& [address, total] : launch.executions) {
      std::fprintf(file, "%tx %.17g\n", on_cpu::origin + address - base, total);
    }
  }
  std::fclose(file);
  on_cpu::launches.clear();
}
