// SPDX-License-Identifier: Apache-2.0
// A tile: consecutive positions of all images with all their channels, transposed to slabs of kLanes channels that stay
// in the second-level cache while they are assigned and summed. Memory is read once; and a copy is needed: rows of the
// tensor lie H*W*4 bytes apart, often 4096, which puts all channels of a position into one set of the cache.
#include "simd.h"

namespace stylefast {
namespace STYLEFAST_ISA {

// Positions of a tile: so few that it fills at most half of a 1 MB second-level cache, and no more than 256. With fewer
// than 16 lines of every row read at a time memory is half as fast.
template <typename T>
int64_t tile_pixels(int64_t channels, int64_t positions) {
  constexpr int64_t L = kLanes<T>;
  const int64_t fitting = (512 << 10) / (std::max<int64_t>(1, channels) * static_cast<int64_t>(sizeof(T))) / L * L;
  return std::min(std::clamp<int64_t>(fitting, L, 256), round_up(std::max<int64_t>(1, positions), L));
}

template <typename T>
struct Tile {
  Tile(int64_t channels, int64_t pixels)
      : pixels(pixels),
        slabs((channels + kLanes<T> - 1) / kLanes<T>),
        data(slabs * pixels * kLanes<T> + kSpare * kLanes<T>) {
    std::fill(data + slabs * pixels * kLanes<T>, data + (slabs * pixels + kSpare) * kLanes<T>, T(0));
  }
  T* slab(int64_t s) const { return data + s * pixels * kLanes<T>; }

  static constexpr int64_t kSpare = 16;  // positions that are read behind the last slab
  int64_t pixels, slabs;
  Buffer<T> data;  // [slabs][pixels][kLanes]
};

// Compiled in tile.cpp:

// Fills slabs [begin, end), which lie at `to`, with positions [first, first + count), counted over all images, and
// zeros behind them. Adds the squares to norm [pixels], unless it is nullptr.
template <typename T>
void pack(const Source& a, int64_t first, int64_t count, int64_t begin, int64_t end, T* to, int64_t pixels, T* norm);

// Turns slabs [begin, end) of raw activations into the features that are clustered, and adds their squares to norm.
template <typename T>
void make_features(const Points<T>& points, int64_t first, int64_t count, int64_t begin, int64_t end,
                   const Tile<T>& from, const Tile<T>& to, T* norm);

// mean and 1/sqrt(var + epsilon) of every plane of images [begin, end), shifted by the first tile's mean so that no
// digits are lost when |mean| >> std.
template <typename T>
void plane_statistics(const Source& a, int64_t begin, int64_t end, T* statistics);

// The mean of `count` positions of a slab; exactly its value if all are equal.
template <typename T>
STYLEFAST_INLINE Vec<T> slab_mean(const T* slab, int64_t count) {
  const Vec<T> first = load(slab);
  Vec<T> total{};
  for (int64_t i = 1; i < count; ++i) total += load(slab + i * kLanes<T>) - first;
  return first + total / static_cast<T>(count);
}

}  // namespace STYLEFAST_ISA
}  // namespace stylefast
