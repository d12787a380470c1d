// SPDX-License-Identifier: Apache-2.0
// Asynchronous copies for fibers. In the natural order of fibers a copy is made at once, in other orders as late as
// possible. Therefore results depend on the order if a wait is missing, or if a copy overwrites data in use.
#pragma once

namespace on_cpu {

void copy_async(void* to, const void* from, int size);
void commit_copies();
void wait_for_copies(int in_flight);

}  // namespace on_cpu

namespace stylefast {

template <int kSize>
void copy_async(void* to, const void* from) {
  on_cpu::copy_async(to, from, kSize);
}

inline void commit_copies() { on_cpu::commit_copies(); }

template <int kInFlight>
void wait_for_copies() {
  on_cpu::wait_for_copies(kInFlight);
}

}  // namespace stylefast
