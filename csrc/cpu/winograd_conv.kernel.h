// SPDX-License-Identifier: Apache-2.0
// Modulated 3x3 convolution by Winograd's algorithm F(4x4, 3x3), in runs of tiles.
//
// A tile of 4 x 4 outputs (per phase) needs 6 x 6 inputs. Vectors hold channels. The transformed inputs of a run of
// tiles serve all blocks of output channels. For each block, 36 matrix products fill a buffer in the second-level
// cache, from which output_tile() completes the layer.
#include "product.h"

namespace stylefast {
namespace STYLEFAST_ISA {

inline constexpr int64_t kGroups = 72 / kPositions;  // groups of kPositions tiles per run

// The nodes of the interpolation are 0, kInner, -kInner, kOuter, -kOuter and infinity.
inline constexpr double kInner = 0.75, kOuter = 1.5;

// Evaluates six inputs at the nodes.
template <typename T>
STYLEFAST_INLINE void to_nodes(Vec<T> (&x)[6]) {
  constexpr T inner2 = kInner * kInner, outer2 = kOuter * kOuter;
  const Vec<T> inner_even = x[4] - x[2] * outer2, inner_odd = x[3] - x[1] * outer2;
  const Vec<T> outer_even = x[4] - x[2] * inner2, outer_odd = x[3] - x[1] * inner2;
  x[0] = x[0] * (inner2 * outer2) - x[2] * (inner2 + outer2) + x[4];
  x[5] = x[1] * (inner2 * outer2) - x[3] * (inner2 + outer2) + x[5];
  x[1] = inner_even + inner_odd * T(kInner);
  x[2] = inner_even - inner_odd * T(kInner);
  x[3] = outer_even + outer_odd * T(kOuter);
  x[4] = outer_even - outer_odd * T(kOuter);
}

// Computes four outputs from products at the nodes.
template <typename T>
STYLEFAST_INLINE void from_nodes(const Vec<T> (&m)[6], Vec<T> (&y)[4]) {
  constexpr T inner = kInner, outer = kOuter;
  const Vec<T> inner_even = m[1] + m[2], inner_odd = m[1] - m[2];
  const Vec<T> outer_even = m[3] + m[4], outer_odd = m[3] - m[4];
  y[0] = m[0] + inner_even + outer_even;
  y[1] = inner_odd * inner + outer_odd * outer;
  y[2] = inner_even * (inner * inner) + outer_even * (outer * outer);
  y[3] = inner_odd * (inner * inner * inner) + outer_odd * (outer * outer * outer) + m[5];
}

// Transformed inputs of a run: [36, groups, slabs of kLanes channels, kPositions, kLanes]. The 36 matrices lie one
// cache line further apart, as otherwise all could share a set of the first-level cache.
template <typename T>
constexpr int64_t input_stride(int64_t groups, int64_t c) {
  return groups * kPositions * round_up(c, kLanes<T>) + kVectorBytes / sizeof(T);
}

// Products of a run: [36, tiles, kColumns].
template <typename T>
constexpr int64_t product_stride(int64_t groups) {
  return groups * kPositions * kColumns + kVectorBytes / sizeof(T);
}

// Transforms the inputs of one tile. kWhole: whether C is a multiple of kLanes. Inputs outside the image are read from
// `zeros`.
template <typename T, bool kWhole>
void input_tile(const WinogradConvTask<T>& task, int64_t image, int64_t tile, const T* zeros, int64_t stride, T* to) {
  constexpr int L = kLanes<T>;
  const int64_t tiles_x = (task.w + 3) / 4, top = tile / tiles_x * 4 - 1, left = tile % tiles_x * 4 - 1;
  const T *plane = task.x + image * task.h * task.w * task.c, *style = task.style + image * task.c;
  const T* from[6][6];
  for (int i = 0; i < 6; ++i) {
    const bool inside = top + i >= 0 && top + i < task.h;
    const int64_t begin = inside ? -left : 6, end = inside ? task.w - left : 6;
    const T* row = plane + ((top + i) * task.w + left) * task.c;
#pragma GCC unroll 6
    for (int j = 0; j < 6; ++j, row += task.c) from[i][j] = j >= begin && j < end ? row : zeros;
  }
  for (int64_t c = 0; c < task.c; c += L, to += kPositions * L) {
    const int64_t width = kWhole ? L : std::min<int64_t>(L, task.c - c);
    const Vec<T> scale = gather(style + c, 1, width);
    Vec<T> rows[6][6];
#pragma GCC unroll 6
    for (int j = 0; j < 6; ++j) {
      Vec<T> column[6];
      for (int i = 0; i < 6; ++i) column[i] = gather(from[i][j] + c, 1, width) * scale;
      to_nodes<T>(column);
      for (int i = 0; i < 6; ++i) rows[i][j] = column[i];
    }
#pragma GCC unroll 6
    for (int i = 0; i < 6; ++i) {
      to_nodes<T>(rows[i]);
      for (int j = 0; j < 6; ++j) store(to + (6 * i + j) * stride, rows[i][j]);
    }
  }
}

// Multiplies kPositions transformed tiles by kWidth vectors of columns of one of the 36 matrices of weights.
template <typename T, int kWidth>
void multiply(const T* inputs, const T* weights, const T* ahead, int64_t c, T* products) {
  constexpr int L = kLanes<T>;
  Vec<T> sum[kPositions][kWidth] = {};
  add_products<T, kWidth>(inputs, kPositions * L, weights, kColumns, ahead, c, sum);
#pragma GCC unroll 16
  for (int r = 0; r < kPositions; ++r) {
    for (int j = 0; j < kWidth; ++j) store(products + r * kColumns + j * L, sum[r][j]);
  }
}

// Computes the products of a run and one block of weights [36, C, kColumns], of which `width` columns are used.
template <typename T>
void multiply_run(const T* inputs, const T* weights, int64_t c, int64_t groups, int64_t width, T* products) {
  constexpr int L = kLanes<T>;
  const int64_t group_size = kPositions * round_up(c, L);
  for (int64_t k = 0; k < 36; ++k) {
    const T* ahead = weights + c * kColumns;
    for (int64_t j = 0; j < width; j += kVectors * L) {
      const auto call = width - j > L ? multiply<T, kVectors> : multiply<T, 1>;
      for (int64_t g = 0; g < groups; ++g, ahead += c / L * kVectorBytes / sizeof(T)) {
        call(inputs + g * group_size, weights + j, ahead, c, products + g * kPositions * kColumns + j);
      }
    }
    inputs += input_stride<T>(groups, c);
    weights += c * kColumns;
    products += product_stride<T>(groups);
  }
}

// Completes the outputs of one tile for `width` channels from `channel` on, in one phase.
template <typename T>
void output_tile(const WinogradConvTask<T>& task, int64_t image, int64_t tile, int64_t phase, int64_t channel,
                 const T* products, int64_t stride) {
  constexpr int L = kLanes<T>;
  const int64_t tiles_x = (task.w + 3) / 4, top = tile / tiles_x * 4, left = tile % tiles_x * 4;
  const int64_t height = std::min<int64_t>(4, task.h - top), breadth = std::min<int64_t>(4, task.w - left);
  const int64_t row = task.p * task.p * task.w;  // positions from one row of this phase to the next
  const int64_t first = top * row + phase / task.p * task.p * task.w + task.p * left + phase % task.p;
  const T* noise = task.noise + first;
  T* out = task.out + (image * task.p * task.h * task.p * task.w + first) * task.d;
  const int64_t end = std::min(task.d, channel + kColumns);
  const bool clips = task.clamp <= std::numeric_limits<T>::max();
  for (int64_t d = channel; d < end; d += L, products += L) {
    const int64_t width = std::min<int64_t>(L, end - d);
    const Vec<T> scale = gather(task.scale + image * task.d + d, 1, width), bias = gather(task.bias + d, 1, width);
    Vec<T> rows[4][6];
#pragma GCC unroll 6
    for (int j = 0; j < 6; ++j) {
      Vec<T> column[6], y[4];
      for (int i = 0; i < 6; ++i) column[i] = load(products + (6 * i + j) * stride);
      from_nodes<T>(column, y);
      for (int i = 0; i < 4; ++i) rows[i][j] = y[i];
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      if (i == height) break;
      Vec<T> y[4];
      from_nodes<T>(rows[i], y);
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        if (j == breadth) break;
        const int64_t position = i * row + j * task.p;
        const Vec<T> value = y[j] * scale + bias + noise[position];
        Vec<T> active = value * (value > 0 ? splat<T>(task.gain) : splat<T>(task.gain * task.slope));
        if (clips) {
          active = active > task.clamp ? splat<T>(task.clamp) : active;
          active = active < -task.clamp ? splat<T>(-task.clamp) : active;
        }
        store_some(out + position * task.d + d, active, width);
      }
    }
  }
}

// Computes one part of the pairs of a run of tiles and a block of output channels, in this order.
template <typename T>
void winograd_conv_kernel(const WinogradConvTask<T>& task, int64_t part, int64_t parts) {
  constexpr int L = kLanes<T>;
  const int64_t padded_c = round_up(task.c, L), blocks = (task.d + kColumns - 1) / kColumns;
  const int64_t tiles = (task.h + 3) / 4 * ((task.w + 3) / 4), groups = (tiles + kPositions - 1) / kPositions;
  const int64_t runs = (groups + kGroups - 1) / kGroups, columns = task.p * task.p * blocks;
  const int64_t longest = (groups + runs - 1) / runs;
  const Buffer<T> zeros(padded_c), inputs(36 * input_stride<T>(longest, task.c));
  const Buffer<T> products(36 * product_stride<T>(longest));
  std::fill(zeros + 0, zeros + padded_c, T(0));
  const auto transform = task.c == padded_c ? input_tile<T, true> : input_tile<T, false>;
  int64_t transformed = -1;
  const int64_t end = part_begin(task.n * runs * columns, part + 1, parts);
  for (int64_t i = part_begin(task.n * runs * columns, part, parts); i < end; ++i) {
    const int64_t image = i / columns / runs, run = i / columns % runs, block = i % columns;
    const int64_t first = part_begin(groups, run, runs), count = part_begin(groups, run + 1, runs) - first;
    const int64_t begin = first * kPositions, used = std::min(tiles - begin, count * kPositions);
    const int64_t x_stride = input_stride<T>(count, task.c), y_stride = product_stride<T>(count);
    if (transformed != i / columns) {
      transformed = i / columns;
      for (int64_t t = 0; t < count * kPositions; ++t) {  // the last group may repeat the last tile
        transform(task, image, std::min(begin + t, tiles - 1), zeros, x_stride,
                  inputs + t / kPositions * kPositions * padded_c + t % kPositions * L);
      }
    }
    const int64_t channel = block % blocks * kColumns;
    multiply_run<T>(inputs, task.weight + block * 36 * task.c * kColumns, task.c, count,
                    std::min(kColumns, task.d - channel), products);
    for (int64_t t = 0; t < used; ++t) {
      output_tile<T>(task, image, begin + t, block / blocks, channel, products + t * kColumns, y_stride);
    }
  }
}

}  // namespace STYLEFAST_ISA
}  // namespace stylefast
