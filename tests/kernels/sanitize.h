// SPDX-License-Identifier: Apache-2.0
// Included before every source that tests/kernels/sanitize.py compiles, so that the sanitizers see every access. No
// sanitizer knows stores that bypass the caches, and ThreadSanitizer cannot look into torch's OpenMP.
#pragma once

#include <immintrin.h>
#define STYLEFAST_PART_WORK 1  // all samples run on several threads
#define _mm256_stream_si256(to, value) _mm256_store_si256(to, value)
#define _mm512_stream_si512(to, value) _mm512_store_si512(to, value)

#if defined(__SANITIZE_THREAD__)
#include <torch/csrc/stable/ops.h>

#include <thread>
#include <vector>

namespace torch::stable {

template <typename F>
void parallel_for_in_threads(int64_t begin, int64_t end, int64_t, const F& f) {
  std::vector<std::thread> threads;
  for (int64_t i = begin; i < end; ++i) threads.emplace_back(f, i, i + 1);
  for (std::thread& thread : threads) thread.join();
}

}  // namespace torch::stable

#define parallel_for parallel_for_in_threads
#endif
