// SPDX-License-Identifier: Apache-2.0
// A number near each channel's mean, about which its moments lose no digits.
#pragma once

#include "tile.cuh"

namespace stylefast {

// A tile of positions all over the plane, where no thread uses the last tile any more.
template <typename S>
__device__ void sample_tile(const View<S>& a, int64_t n, int64_t channel, int rows, typename Row<S>::Word* tile) {
  load_tile(a, n, sample_of<S>(a.plane()), channel, rows, static_cast<int>(round_up(rows, 32)), tile);
  __syncthreads();
}

// The mean of a row of a sample; exactly its elements if they are equal.
template <typename S>
__device__ typename Row<S>::T sampled_mean(const typename Row<S>::Word* row, int64_t plane) {
  using T = typename Row<S>::T;
  const int count = static_cast<int>(min(plane, static_cast<int64_t>(Row<S>::kPixels)));
  const T first = Row<S>::pixel(row, 0);
  T total = 0;
  for (int i = 1; i < count; ++i) total += Row<S>::pixel(row, i) - first;
  return first + total / static_cast<T>(count);
}

}  // namespace stylefast
