// SPDX-License-Identifier: Apache-2.0
// Asynchronous copies from global to shared memory. A thread commits the copies that it has started as a group, and
// waits until at most some of its groups are still in flight. Other threads see the data after a barrier.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#ifndef __CUDACC__
#include <emulated_async.h>  // tests run the kernels on a CPU
#endif

namespace stylefast {

#ifdef __CUDACC__
// Copies kSize bytes: 4, 8 or 16. Both addresses are multiples of kSize.
template <int kSize>
__device__ void copy_async(void* to, const void* from) {
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(to));
  if constexpr (kSize == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(from) : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(address), "l"(from), "n"(kSize) : "memory");
  }
}

__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

template <int kInFlight>
__device__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kInFlight) : "memory");
}
#endif

}  // namespace stylefast
