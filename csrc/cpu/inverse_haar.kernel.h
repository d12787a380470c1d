// SPDX-License-Identifier: Apache-2.0
// Inverse Haar transform: a butterfly of four vectors of channels per input position.
#include "simd.h"

namespace stylefast {
namespace STYLEFAST_ISA {

// Transforms one part of the rows of all images.
template <typename T>
void inverse_haar_kernel(const InverseHaarTask<T>& task, int64_t part, int64_t parts) {
  constexpr int L = kLanes<T>;
  const int64_t rows = task.n * task.h, c = task.c;
  for (int64_t row = part_begin(rows, part, parts); row < part_begin(rows, part + 1, parts); ++row) {
    const T* style = task.style + row / task.h * 4 * c;
    for (int64_t x = 0; x < task.w; ++x) {
      const T* from = task.x + (row * task.w + x) * 4 * c;
      T* top = task.out + (2 * row * 2 * task.w + 2 * x) * c;
      T* bottom = top + 2 * task.w * c;
      for (int64_t i = 0; i < c; i += L) {
        const int64_t width = std::min<int64_t>(L, c - i);
        const auto scaled = [&](int64_t k) {
          return gather(from + k * c + i, 1, width) * gather(style + k * c + i, 1, width) * T(0.5);
        };
        const Vec<T> average = scaled(0), vertical = scaled(1), horizontal = scaled(2), diagonal = scaled(3);
        const Vec<T> upper = average + vertical, lower = average - vertical;
        const Vec<T> outer = horizontal + diagonal, inner = horizontal - diagonal;
        store_some(top + i, upper + outer, width);
        store_some(top + c + i, upper - outer, width);
        store_some(bottom + i, lower + inner, width);
        store_some(bottom + c + i, lower - inner, width);
      }
    }
  }
}

}  // namespace STYLEFAST_ISA
}  // namespace stylefast
