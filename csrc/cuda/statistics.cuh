// SPDX-License-Identifier: Apache-2.0
// Mean and variance of the channels of an image.
#pragma once

#include "shift.cuh"

namespace stylefast {

inline constexpr int kSlice = 128;  // channels per block, and threads per block

// Statistics of one channel. The mean is shift + offset.
template <typename T>
struct Statistics {
  T shift = 0;
  double offset = 0, variance = 0;
};

// Statistics of channel `channel` + threadIdx.x of image n, from moments about a sampled mean. A thread owns a channel.
// Sums over a tile have type T, and sums over all tiles have type double. The tile has kSlice rows, and is still in use
// when the function returns.
template <typename S>
__device__ Statistics<typename Row<S>::T> channel_statistics(const View<S>& a, int64_t n, int64_t channel, int rows,
                                                             typename Row<S>::Word* tile) {
  using R = Row<S>;
  using T = typename R::T;
  const int c = static_cast<int>(threadIdx.x);
  Statistics<T> result;
  double sums = 0, squares = 0;
  sample_tile(a, n, channel, rows, tile);
  if (c < rows) result.shift = sampled_mean<S>(tile + c * R::kPitch, a.plane());
  for (int64_t p = 0; p < a.plane(); p += R::kPixels) {
    __syncthreads();
    load_tile(a, n, span_of<S>(p), channel, rows, static_cast<int>(round_up(rows, 32)), tile);
    __syncthreads();
    if (c >= rows) continue;
    const int count = static_cast<int>(min(a.plane() - p, static_cast<int64_t>(R::kPixels)));
    T sum = 0, square = 0;
    for (int i = 0; i < count; ++i) {
      const T d = R::pixel(tile + c * R::kPitch, i) - result.shift;
      sum += d;
      square = fma(d, d, square);
    }
    sums += static_cast<double>(sum);
    squares += static_cast<double>(square);
  }
  const double size = static_cast<double>(a.plane());
  result.offset = sums / size;
  result.variance = squares / size - result.offset * result.offset;
  if (result.variance < 0) result.variance = 0;  // NaN stays NaN
  return result;
}

}  // namespace stylefast
