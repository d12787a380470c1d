// SPDX-License-Identifier: Apache-2.0
// Packs tiles, and computes features and plane statistics, for all ops. Packing is compiled for every element type,
// the rest for float and double.
#include "tile.h"

namespace stylefast {
namespace STYLEFAST_ISA {

// Arguments for packing a run of positions into positions [offset, offset + count) of slabs [begin, end) of a tile.
template <typename S, typename T>
struct PackTask {
  const S* from;                                // channel 0 of the first position of the run
  int64_t stride_c, stride_w, channels, count;  // strides in elements; count: positions of the run
  int64_t begin, end, offset;
  T* to;           // slab `begin`
  int64_t stride;  // positions from one slab to the next
  T* norm;         // [pixels], to which squares are added, or nullptr
  int64_t ahead;   // rows of the next slab to prefetch
  bool rectify;

  T* line(int64_t s, int64_t p) const { return to + ((s - begin) * stride + offset + p) * kLanes<T>; }
};

// max(x, 0), but NaN for NaN and Inf.
template <typename T>
STYLEFAST_INLINE Vec<T> rectified(Vec<T> x) {
  const Vec<T> positive = x < 0 ? Vec<T>{} : x;  // keeps NaN
  return positive <= std::numeric_limits<T>::max() ? positive : splat(std::numeric_limits<T>::quiet_NaN());
}

// Packs channels that lie in planes: loads kLanes channels x kLanes positions and transposes them. The processor
// cannot predict the next rows, so the first `ahead` rows of the next slab are prefetched, one cache line at a time.
template <typename S, typename T>
void pack_planes(const PackTask<S, T>& task) {
  constexpr int L = kLanes<T>;
  constexpr int64_t kLine = 64 / sizeof(S);
  const int64_t stride_c = task.stride_c, stride_w = task.stride_w;
  for (int64_t s = task.begin; s < task.end; ++s) {
    const int64_t rows = std::min<int64_t>(L, task.channels - s * L);
    const int64_t whole = rows == L && stride_w == 1 ? task.count / L * L : 0;
    const S* row = task.from + s * L * stride_c;
    const S* middle = row + L / 2 * stride_c;
    T* line = task.line(s, 0);
    const auto finish = [&](Vec<T>(&block)[L], int64_t p) {
      if (task.rectify) {
#pragma GCC unroll 16
        for (int i = 0; i < L; ++i) block[i] = rectified<T>(block[i]);
      }
      if (task.norm != nullptr) {
        T* norm = task.norm + task.offset + p;
        Vec<T> square = load(norm);
#pragma GCC unroll 16
        for (int i = 0; i < L; ++i) square += block[i] * block[i];
        store(norm, square);
      }
      transpose<T>(block);
    };
    int64_t p = 0;
    for (; p < whole; p += L) {
      for (int64_t i = 0; i < (p % kLine == 0 ? task.ahead : 0); ++i) {
        __builtin_prefetch(row + (L + i) * stride_c + p, 0, 2);
      }
      Vec<T> block[L];
#pragma GCC unroll 8
      for (int i = 0; i < L / 2; ++i) {
        block[i] = load(row + i * stride_c + p);
        block[L / 2 + i] = load(middle + i * stride_c + p);
      }
      finish(block, p);
#pragma GCC unroll 16
      for (int i = 0; i < L; ++i) store(line + (p + i) * L, block[i]);
    }
    for (; p < task.count; p += L) {
      const int64_t width = std::min<int64_t>(L, task.count - p);
      Vec<T> block[L];
      for (int64_t i = 0; i < L; ++i) {
        block[i] = i < rows ? gather(row + i * stride_c + p * stride_w, stride_w, width) : Vec<T>{};
      }
      finish(block, p);
      for (int64_t i = 0; i < width; ++i) store(line + (p + i) * L, block[i]);
    }
  }
}

// Packs channels_last activations, which need no transpose.
template <typename S, typename T>
void pack_pixels(const PackTask<S, T>& task) {
  constexpr int L = kLanes<T>;
  for (int64_t p = 0; p < task.count; ++p) {
    Vec<T> square{};
    for (int64_t s = task.begin; s < task.end; ++s) {
      Vec<T> x = gather(task.from + p * task.stride_w + s * L, 1, std::min<int64_t>(L, task.channels - s * L));
      if (task.rectify) x = rectified<T>(x);
      square += x * x;
      store(task.line(s, p), x);
    }
    if (task.norm != nullptr) task.norm[task.offset + p] += lane_sum<T>(square);
  }
}

// Packs activations of element type S, run by run. A run is a plane, or a row of it if the rows do not follow each
// other at the same stride.
template <typename S, typename T>
void pack_as(const Source& a, int64_t first, int64_t count, int64_t begin, int64_t end, T* to, int64_t stride, T* norm,
             int64_t ahead, bool rectify) {
  constexpr int L = kLanes<T>;
  const int64_t run = a.rows_join() ? a.plane() : a.w;
  for (int64_t offset = 0; offset < count;) {
    const int64_t length = std::min(count - offset, run - (first + offset) % run);
    const S* from = reinterpret_cast<const S*>(a.address(first + offset, 0));
    const PackTask<S, T> task{from,   a.stride_c, a.stride_w, a.c,  length, begin,  end,
                              offset, to,         stride,     norm, ahead,  rectify};
    if (a.channels_last()) {
      pack_pixels(task);
    } else {
      pack_planes(task);
    }
    offset += length;
  }
  for (int64_t s = 0; s < end - begin; ++s) {
    std::fill(to + (s * stride + count) * L, to + (s + 1) * stride * L, T(0));
  }
}

template <typename T>
void pack(const Source& a, int64_t first, int64_t count, int64_t begin, int64_t end, T* to, int64_t stride, T* norm,
          int64_t ahead, bool rectify) {
  if constexpr (std::is_same_v<T, double>) {
    pack_as<double>(a, first, count, begin, end, to, stride, norm, ahead, rectify);
  } else if (a.element == Element::kHalf) {
    pack_as<half>(a, first, count, begin, end, to, stride, norm, ahead, rectify);
  } else if (a.element == Element::kBfloat16) {
    pack_as<bfloat16>(a, first, count, begin, end, to, stride, norm, ahead, rectify);
  } else {
    pack_as<float>(a, first, count, begin, end, to, stride, norm, ahead, rectify);
  }
}

template <typename T>
void make_features(const Points<T>& points, int64_t first, int64_t count, int64_t begin, int64_t end,
                   const Tile<T>& from, const Tile<T>& to, T* norm) {
  constexpr int L = kLanes<T>;
  const int64_t width = padded<T>(points.a.c);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t n = (first + i) / points.a.plane();
    Vec<T> square{};
    for (int64_t s = begin; s < end; ++s) {
      Vec<T> x = load(from.slab(s) + i * L);
      if (points.features == Features::kStandardized) {
        const T* mean = points.statistics + 2 * n * width + s * L;
        x = (x - load(mean)) * load(mean + width);
      } else {
        x *= x;
      }
      square += x * x;
      store(to.slab(s) + i * L, x);
    }
    norm[i] += lane_sum<T>(square);
  }
}

template <typename T>
void plane_statistics(const Source& a, int64_t begin, int64_t end, T* statistics) {
  constexpr int L = kLanes<T>;
  const Tile<T> tile(a.c, tile_pixels<T>(a.c, a.plane()));
  const int64_t width = padded<T>(a.c);
  const Buffer<double> sums(width), squares(width);
  for (int64_t n = begin; n < end; ++n) {
    T* mean = statistics + 2 * n * width;
    T* scale = mean + width;
    std::fill(sums + 0, sums + width, 0.0);
    std::fill(squares + 0, squares + width, 0.0);
    std::fill(mean, mean + 2 * width, T(0));
    for (int64_t p = 0; p < a.plane(); p += tile.pixels) {
      const int64_t count = std::min(tile.pixels, a.plane() - p);
      pack<T>(a, n * a.plane() + p, count, 0, tile.slabs, tile.data, tile.stride, nullptr);
      for (int64_t s = 0; s < tile.slabs; ++s) {
        const T* slab = tile.slab(s);
        if (p == 0) store(mean + s * L, slab_mean(slab, count));
        const Vec<T> shift = load(mean + s * L);
        Vec<T> sum{}, square{};
        for (int64_t i = 0; i < count; ++i) {
          const Vec<T> x = load(slab + i * L) - shift;
          sum += x;
          square += x * x;
        }
        for (int i = 0; i < L; ++i) {
          sums[s * L + i] += sum[i];
          squares[s * L + i] += square[i];
        }
      }
    }
    for (int64_t c = 0; c < a.c; ++c) {
      const double offset = sums[c] / a.plane(), variance = squares[c] / a.plane() - offset * offset;
      mean[c] = static_cast<T>(mean[c] + offset);
      scale[c] = static_cast<T>(1 / std::sqrt(std::max(variance, 0.0) + kVarianceEpsilon));
    }
  }
}

#define STYLEFAST_INSTANTIATE(T)                                                                                    \
  template void pack(const Source&, int64_t, int64_t, int64_t, int64_t, T*, int64_t, T*, int64_t, bool);            \
  template void make_features(const Points<T>&, int64_t, int64_t, int64_t, int64_t, const Tile<T>&, const Tile<T>&, \
                              T*);                                                                                  \
  template void plane_statistics(const Source&, int64_t, int64_t, T*);
STYLEFAST_INSTANTIATE(double)
STYLEFAST_INSTANTIATE(float)
#undef STYLEFAST_INSTANTIATE

}  // namespace STYLEFAST_ISA
}  // namespace stylefast
