// SPDX-License-Identifier: Apache-2.0
// Asynchronous copies for fibers. In the natural order of fibers a copy is made at once, in other orders as late as
// possible. Therefore results depend on the order if a wait is missing, or if a copy overwrites data in use. The tests
// let single waits return at once.
#pragma once

namespace on_cpu {

void copy_async(void* to, const void* from, int size);
void commit_copies();
void wait_for_copies(int in_flight, const char* file, int line);

}  // namespace on_cpu

namespace stylefast {

template <int kSize>
void copy_async(void* to, const void* from) {
  on_cpu::copy_async(to, from, kSize);
}

inline void commit_copies() { on_cpu::commit_copies(); }

template <int kInFlight>
void wait_for_copies(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  on_cpu::wait_for_copies(kInFlight, file, line);
}

}  // namespace stylefast
