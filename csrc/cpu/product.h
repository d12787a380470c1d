// SPDX-License-Identifier: Apache-2.0
// The matrix product of layers, in registers. There is no include guard, because isa.h includes this file once per
// instruction set.
#include "simd.h"

namespace stylefast {
namespace STYLEFAST_ISA {

// kPositions x kVectors sums, kVectors vectors of weights and one input fill the registers.
inline constexpr int kPositions = STYLEFAST_BYTES == 64 ? 12 : 6;
inline constexpr int kVectors = 2;

// Adds the products of kRows rows of inputs, at most kPositions, and kWidth vectors of output channels.
//
// x: slabs of kLanes channels, `x_step` elements apart, in which a position has kLanes consecutive channels.
// weights: one row of output channels per input channel, `weights_step` elements apart; their vectors lie `vector_step`
// elements apart.
// ahead: weights of a later call, of which a cache line is prefetched per slab, or nullptr.
template <typename T, int kWidth, int kRows>
STYLEFAST_INLINE void add_products(const T* x, int64_t x_step, const T* weights, int64_t weights_step, const T* ahead,
                                   int64_t channels, Vec<T> (&sum)[kRows][kWidth], int64_t vector_step = kLanes<T>) {
  constexpr int L = kLanes<T>;
  const auto add_channel = [&](int64_t i) __attribute__((always_inline)) {
    Vec<T> y[kWidth];
    for (int j = 0; j < kWidth; ++j) y[j] = load(weights + j * vector_step);
    weights += weights_step;
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      for (int j = 0; j < kWidth; ++j) sum[r][j] += x[r * L + i] * y[j];
    }
  };
  for (; channels >= L; channels -= L, x += x_step) {
    if (ahead != nullptr) {
      __builtin_prefetch(ahead);
      ahead += kVectorBytes / sizeof(T);
    }
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i) add_channel(i);
  }
  for (int64_t i = 0; i < channels; ++i) add_channel(i);
}

}  // namespace STYLEFAST_ISA
}  // namespace stylefast
