// SPDX-License-Identifier: Apache-2.0
// Tiles of activations: consecutive positions, counted over all images, with all their channels, copied into slabs of
// kLanes channels.
//
// A tile stays in the second-level cache while its positions are labelled and summed, so memory is read once. The copy
// is necessary: the channels of a position lie H*W*4 bytes apart in the tensor, often 4096, so that they would all
// fall into one set of the cache.
#include "simd.h"

namespace stylefast {
namespace STYLEFAST_ISA {

// Positions per tile: as many as fill half of a 1 MB second-level cache, but at most 256 and at most `positions`,
// rounded up to whole vectors. Reading fewer than 16 cache lines (256 floats) per row halves the memory bandwidth.
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
        stride(pixels + 64 / STYLEFAST_BYTES),
        slabs((channels + kLanes<T> - 1) / kLanes<T>),
        data((slabs * stride + kSpare) * kLanes<T>) {
    std::fill(slab(slabs), slab(slabs) + kSpare * kLanes<T>, T(0));
  }
  T* slab(int64_t s) const { return data + s * stride * kLanes<T>; }

  static constexpr int64_t kSpare = 16;  // positions that kernels may read past the last slab
  int64_t pixels;
  int64_t stride;  // positions from one slab to the next: a cache line more, so that slabs do not share cache sets
  int64_t slabs;
  Buffer<T> data;  // [slabs, stride, kLanes]
};

// The following three functions are compiled in tile.cpp.

// Fills slabs [begin, end), stored at `to`, with positions [first, first + count), counted over all images. Positions
// from count to stride become zero. Adds the squares of the values to norm [pixels] unless it is nullptr. Prefetches
// the first `ahead` channels of the slab that follows each slab, if channels lie in planes. With `rectify`, negative
// values become zero, and Inf becomes NaN.
template <typename T>
void pack(const Source& a, int64_t first, int64_t count, int64_t begin, int64_t end, T* to, int64_t stride, T* norm,
          int64_t ahead = kLanes<T>, bool rectify = false);

// Computes standardised or squared features from slabs [begin, end) of raw activations, and adds their squares to norm
// [pixels].
template <typename T>
void make_features(const Points<T>& points, int64_t first, int64_t count, int64_t begin, int64_t end,
                   const Tile<T>& from, const Tile<T>& to, T* norm);

// Writes mean and 1/sqrt(var + epsilon) of every plane of images [begin, end) to statistics [N, 2, padded C]. Sums are
// taken about the mean of the first tile, so that no digits are lost where |mean| >> std.
template <typename T>
void plane_statistics(const Source& a, int64_t begin, int64_t end, T* statistics);

// Mean of the first `count` positions of a slab. Exact if all are equal.
template <typename T>
STYLEFAST_INLINE Vec<T> slab_mean(const T* slab, int64_t count) {
  const Vec<T> first = load(slab);
  Vec<T> total{};
  for (int64_t i = 1; i < count; ++i) total += load(slab + i * kLanes<T>) - first;
  return first + total / static_cast<T>(count);
}

}  // namespace STYLEFAST_ISA
}  // namespace stylefast
