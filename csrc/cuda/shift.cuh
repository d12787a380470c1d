// SPDX-License-Identifier: Apache-2.0
// The shift of a channel is a number near its mean. Moments about the shift lose no digits.
#pragma once

#include "tile.cuh"

namespace stylefast {

// Loads a tile of positions that are spread over the plane. No thread may still use the previous tile.
template <typename S>
__device__ void sample_tile(const View<S>& a, int64_t n, int64_t channel, int rows, typename Row<S>::Word* tile) {
  load_tile(a, n, sample_of<S>(a.plane()), channel, rows, static_cast<int>(round_up(rows, 32)), tile);
  __syncthreads();
}

// Mean of a row of a sampled tile. It is exact if all elements are equal.
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
