// SPDX-License-Identifier: Apache-2.0
// Modulated separable convolution, in one pass over tiles of positions.
//
// The depthwise result of a tile stays in the second-level cache, in slabs of kLanes channels. product_block()
// multiplies kPositions of its positions by one or two vectors of output channels in registers, and completes the layer
// before it stores them.
#include "product.h"

namespace stylefast {
namespace STYLEFAST_ISA {

inline constexpr int kGroup = 4;      // neighbouring positions that share the loads of the depthwise convolution
inline constexpr int64_t kTile = 96;  // positions per tile
inline constexpr int64_t kSlab = kTile + kGroup;  // positions per slab, of which the last ones are never used

// Dimensions of the packed order, outermost first: blocks of kVectors vectors of output channels, input channels,
// output channels. Padding is zero.
template <typename T>
void pack_pointwise(const T* from, int64_t c, int64_t d, T* to) {
  constexpr int L = kLanes<T>;
  const int64_t padded_c = round_up(c, L), columns = round_up(d, L);
  std::fill(to, to + padded_c * columns, T(0));
  for (int64_t begin = 0; begin < columns; begin += kVectors * L) {
    const int64_t width = std::min<int64_t>(kVectors * L, columns - begin), count = std::min(width, d - begin);
    for (int64_t i = 0; i < c; ++i) std::memcpy(to + i * width, from + i * d + begin, sizeof(T) * count);
    to += padded_c * width;
  }
}

// Computes the depthwise convolution at positions [first, first + count) of one image. Neighbours outside the image are
// read from `zeros`. kWhole: whether C is a multiple of kLanes.
template <typename T, bool kWhole>
void depthwise_tile(const SeparableConvTask<T>& task, const T* image, const T* weights, const T* zeros, int64_t first,
                    int64_t count, T* tile) {
  constexpr int L = kLanes<T>;
  const int64_t padded_c = round_up(task.c, L);
  int64_t step;
  for (int64_t p = 0; p < count; p += step) {
    const int64_t y = (first + p) / task.w - task.above, x = (first + p) % task.w - 1;  // top left neighbour
    step = std::min<int64_t>({kGroup, task.w - 1 - x, count - p});
    const T* from[3][kGroup + 2];
    for (int i = 0; i < 3; ++i) {
      for (int j = 0; j < kGroup + 2; ++j) {
        const bool inside = y + i >= 0 && y + i < task.h && x + j >= 0 && x + j < task.w;
        from[i][j] = inside ? image + ((y + i) * task.w + x + j) * task.c : zeros;
      }
    }
    for (int64_t c = 0; c < padded_c; c += L) {
      Vec<T> sum[kGroup] = {};
#pragma GCC unroll 3
      for (int i = 0; i < 3; ++i) {
        const T* k = weights + 3 * i * padded_c + c;
        const Vec<T> left = load(k), middle = load(k + padded_c), right = load(k + 2 * padded_c);
#pragma GCC unroll 8
        for (int j = 0; j < kGroup + 2; ++j) {
          const T* neighbour = from[i][j] + c;
          const Vec<T> value = kWhole ? load(neighbour) : gather(neighbour, 1, std::min<int64_t>(L, task.c - c));
          if (j < kGroup) sum[j] += left * value;
          if (j >= 1 && j <= kGroup) sum[j - 1] += middle * value;
          if (j >= 2) sum[j - 2] += right * value;
        }
      }
#pragma GCC unroll 8
      for (int j = 0; j < kGroup; ++j) store(tile + c * kSlab + (p + j) * L, sum[j]);
    }
  }
}

// Computes kWidth vectors of output channels from `column` on, at positions [p, p + kPositions) of a tile that begins
// at position `first` of an image.
template <typename T, int kWidth>
void product_block(const SeparableConvTask<T>& task, const T* tile, int64_t first, int64_t p, int64_t count,
                   int64_t column, T* out) {
  constexpr int L = kLanes<T>;
  const int64_t padded_c = round_up(task.c, L);
  const T* weights = task.pointwise + column * padded_c;
  Vec<T> sum[kPositions][kWidth] = {};
  add_products<T, kWidth>(tile + p * L, kSlab * L, weights, kWidth * L, weights + kWidth * L * padded_c, padded_c, sum);
  T spare[kPositions * kWidth * L];  // for a block that exceeds the tile or the channels
  const bool whole = p + kPositions <= count && column + kWidth * L <= task.d;
  T* to = whole ? out + p * task.d + column : spare;
  const int64_t stride = whole ? task.d : kWidth * L;
#pragma GCC unroll 16
  for (int r = 0; r < kPositions; ++r) {
    const T noise = task.noise[first + std::min(p + r, count - 1)];
    for (int j = 0; j < kWidth; ++j) {
      const Vec<T> y = sum[r][j] + load(task.bias + column + j * L) + noise, low = y * task.slope;
      store(to + r * stride + j * L, y > 0 ? y : low);
    }
  }
  if (whole) return;
  const int64_t width = std::min<int64_t>(kWidth * L, task.d - column);
  for (int64_t r = 0; r < std::min<int64_t>(kPositions, count - p); ++r) {
    std::copy_n(spare + r * stride, width, out + (p + r) * task.d + column);
  }
}

// Writes the depthwise weights [9, padded C] of an image, multiplied by its style.
template <typename T>
void modulate(const SeparableConvTask<T>& task, int64_t image, T* weights) {
  const int64_t padded_c = round_up(task.c, kLanes<T>);
  const T* style = task.style + image * task.c;
  for (int64_t c = 0; c < task.c; ++c) {
    for (int k = 0; k < 9; ++k) weights[k * padded_c + c] = task.depthwise[9 * c + k] * style[c];
  }
}

// Computes one part of the tiles of all images.
template <typename T>
void separable_conv_kernel(const SeparableConvTask<T>& task, int64_t part, int64_t parts) {
  constexpr int L = kLanes<T>;
  const int64_t padded_c = round_up(task.c, L), plane = task.rows * task.w, tiles = (plane + kTile - 1) / kTile;
  Buffer<T> weights(9 * padded_c), zeros(padded_c), tile((padded_c + L) * kSlab);
  std::fill(weights + 0, weights + 9 * padded_c, T(0));
  std::fill(zeros + 0, zeros + padded_c, T(0));
  const auto depthwise = task.c == padded_c ? depthwise_tile<T, true> : depthwise_tile<T, false>;
  int64_t modulated = -1;
  for (int64_t i = part_begin(task.n * tiles, part, parts); i < part_begin(task.n * tiles, part + 1, parts); ++i) {
    const int64_t image = i / tiles, first = i % tiles * kTile, count = std::min(kTile, plane - first);
    if (modulated != image) modulate<T>(task, modulated = image, weights);
    depthwise(task, task.x + image * task.h * task.w * task.c, weights, zeros, first, count, tile);
    T* out = task.out + (image * plane + first) * task.d;
    for (int64_t column = 0; column < task.d; column += kVectors * L) {
      const auto block = task.d - column > L ? product_block<T, kVectors> : product_block<T, 1>;
      for (int64_t p = 0; p < count; p += kPositions) block(task, tile, first, p, count, column, out);
    }
  }
}

}  // namespace STYLEFAST_ISA
}  // namespace stylefast
