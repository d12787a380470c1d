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

template <typename S, typename T>
STYLEFAST_INLINE void copy_row(const S* from, T* to, int64_t count) {
  int64_t i = 0;
  for (; i + kLanes<T> <= count; i += kLanes<T>) store(to + i, load(from + i));
  for (; i < count; ++i) to[i] = load_one(from + i);
}

// Channels are contiguous (channels_last): blocks of kLanes positions x kLanes channels are transposed.
template <typename S, typename T>
void copy_columns(const S* from, int64_t stride_position, T* to, int64_t pixels, int64_t channels, int64_t count) {
  constexpr int L = kLanes<T>;
  for (int64_t p = 0; p < count; p += L) {
    const int64_t width = std::min<int64_t>(L, count - p);
    int64_t c = 0;
    for (; width == L && c + L <= channels; c += L) {
      Vec<T> block[L];
      for (int i = 0; i < L; ++i) block[i] = load(from + (p + i) * stride_position + c);
      transpose<T>(block);
      for (int i = 0; i < L; ++i) store(to + (c + i) * pixels + p, block[i]);
    }
    for (; c < channels; ++c) {
      for (int64_t i = 0; i < width; ++i) to[c * pixels + p + i] = load_one(from + (p + i) * stride_position + c);
    }
  }
}

// Fills to[C][pixels] with positions [first, first + count), counted over all images, and zeros behind them.
template <typename S, typename T>
void pack(const Activations<S>& a, int64_t first, int64_t count, T* to, int64_t pixels) {
  const int64_t run = a.rows_join() ? a.plane() : a.w;
  for (int64_t done = 0; done < count;) {
    const int64_t n = (first + done) / a.plane(), offset = (first + done) % a.plane();
    const int64_t length = std::min(count - done, run - offset % run);
    const S* from = a.data + n * a.stride_n + (offset / a.w) * a.stride_h + (offset % a.w) * a.stride_w;
    if (a.stride_w == 1) {
      for (int64_t c = 0; c < a.c; ++c) copy_row(from + c * a.stride_c, to + c * pixels + done, length);
    } else if (a.stride_c == 1) {
      copy_columns(from, a.stride_w, to + done, pixels, a.c, length);
    } else {
      for (int64_t c = 0; c < a.c; ++c) {
        for (int64_t i = 0; i < length; ++i) {
          to[c * pixels + done + i] = load_one(from + c * a.stride_c + i * a.stride_w);
        }
      }
    }
    done += length;
  }
  for (int64_t c = 0; count < pixels && c < a.c; ++c) std::fill(to + c * pixels + count, to + (c + 1) * pixels, T(0));
}

// Turns a packed tile of raw activations into the features that are clustered; statistics [N][C] hold mean, 1/std.
template <typename S, typename T>
void make_features(const Activations<S>& a, Features features, const T* statistics, int64_t first, int64_t count,
                   T* tile, int64_t pixels) {
  if (features == Features::kSquared) {
    for (int64_t i = 0; i < a.c * pixels; ++i) tile[i] *= tile[i];
  } else if (features == Features::kStandardized) {
    for (int64_t done = 0; done < count;) {
      const int64_t n = (first + done) / a.plane();
      const int64_t end = std::min(count, (n + 1) * a.plane() - first);
      for (int64_t c = 0; c < a.c; ++c) {
        const T mean = statistics[2 * (n * a.c + c)], scale = statistics[2 * (n * a.c + c) + 1];
        for (int64_t i = done; i < end; ++i) tile[c * pixels + i] = (tile[c * pixels + i] - mean) * scale;
      }
      done = end;
    }
  }
}

// The mean of a row; exactly its value if all are equal.
template <typename T>
STYLEFAST_INLINE T row_mean(const T* row, int64_t count) {
  T total = 0;
#pragma omp simd reduction(+ : total)
  for (int64_t i = 0; i < count; ++i) total += row[i] - row[0];
  return row[0] + total / static_cast<T>(count);
}

// mean and 1/sqrt(var + epsilon) of every plane of images [begin, end), shifted by the first tile's mean so that no
// digits are lost when |mean| >> std.
template <typename S, typename T>
void plane_statistics(const Activations<S>& a, int64_t begin, int64_t end, T* statistics) {
  const int64_t pixels = tile_pixels<T>(a.c, a.plane());
  Buffer<T> tile(a.c * pixels);
  std::vector<double> shift(a.c), sum(a.c), square(a.c);
  for (int64_t n = begin; n < end; ++n) {
    std::fill(sum.begin(), sum.end(), 0.0);
    std::fill(square.begin(), square.end(), 0.0);
    for (int64_t p = 0; p < a.plane(); p += pixels) {
      const int64_t count = std::min(pixels, a.plane() - p);
      pack<S, T>(a, n * a.plane() + p, count, tile, pixels);
      for (int64_t c = 0; c < a.c; ++c) {
        const T* row = tile + c * pixels;
        if (p == 0) shift[c] = row_mean(row, count);
        const T s = static_cast<T>(shift[c]);
        T l = 0, q = 0;
#pragma omp simd reduction(+ : l, q)
        for (int64_t i = 0; i < count; ++i) {
          l += row[i] - s;
          q += (row[i] - s) * (row[i] - s);
        }
        sum[c] += l;
        square[c] += q;
      }
    }
    for (int64_t c = 0; c < a.c; ++c) {
      const double offset = sum[c] / a.plane(), variance = square[c] / a.plane() - offset * offset;
      statistics[2 * (n * a.c + c)] = static_cast<T>(shift[c] + offset);
      statistics[2 * (n * a.c + c) + 1] = static_cast<T>(1 / std::sqrt(std::max(variance, 0.0) + kVarianceEpsilon));
    }
  }
}

}  // namespace STYLEFAST_ISA
}  // namespace stylefast
