// SPDX-License-Identifier: Apache-2.0
// A tile: `count` consecutive positions of all images with all their channels, copied to rows [C][pixels] that stay in
// the second-level cache while they are assigned and summed. Memory is read once, in order; and a copy is needed: rows
// of the tensor lie H*W*4 bytes apart, often 4096, which puts all channels of a position into one set of the cache.
#include "simd.h"

namespace stylefast {
namespace STYLEFAST_ISA {

inline constexpr int kGroup = 2;  // vectors of positions that a scoring loop holds at a time

// Positions a tile: C x pixels elements are to fill a quarter of a 1 MB second-level cache.
template <typename T>
int64_t tile_pixels(int64_t channels, int64_t positions) {
  const int64_t step = kGroup * kLanes<T>;
  const int64_t fitting = (256 << 10) / (channels * static_cast<int64_t>(sizeof(T))) / step * step;
  return std::min(std::clamp<int64_t>(fitting, step, 256), round_up(std::max<int64_t>(1, positions), step));
}

// Compiled in tile.cpp:

// Fills to[C][pixels] with positions [first, first + count), counted over all images, and zeros behind them.
template <typename T>
void pack(const Source& a, int64_t first, int64_t count, T* to, int64_t pixels);

// Turns a packed tile of raw activations into the features that are clustered; statistics [N][C] hold mean, 1/std.
template <typename T>
void make_features(const Source& a, Features features, const T* statistics, int64_t first, int64_t count, T* tile,
                   int64_t pixels);

// mean and 1/sqrt(var + epsilon) of every plane of images [begin, end), shifted by the first tile's mean so that no
// digits are lost when |mean| >> std.
template <typename T>
void plane_statistics(const Source& a, int64_t begin, int64_t end, T* statistics);

// The mean of a row; exactly its value if all are equal.
template <typename T>
STYLEFAST_INLINE T row_mean(const T* row, int64_t count) {
  T total = 0;
#pragma omp simd reduction(+ : total)
  for (int64_t i = 0; i < count; ++i) total += row[i] - row[0];
  return row[0] + total / static_cast<T>(count);
}

}  // namespace STYLEFAST_ISA
}  // namespace stylefast
