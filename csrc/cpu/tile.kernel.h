// SPDX-License-Identifier: Apache-2.0
// Tiles are packed in one place for all ops: compiled once for every instruction set and element type.
#include "tile.h"

namespace stylefast {
namespace STYLEFAST_ISA {

// Rows are too short for the processor to foresee the next one: it is asked for `ahead` elements before it is read.
template <typename S, typename T>
STYLEFAST_INLINE void copy_row(const S* from, T* to, int64_t count, int64_t ahead) {
  int64_t i = 0;
  for (; i + kLanes<T> <= count; i += kLanes<T>) {
    __builtin_prefetch(from + ahead + i);
    store(to + i, load(from + i));
  }
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

inline constexpr int64_t kRowsAhead = 8;

template <typename S, typename T>
void pack_as(const Activations<S>& a, int64_t first, int64_t count, T* to, int64_t pixels) {
  const int64_t run = a.rows_join() ? a.plane() : a.w;
  for (int64_t done = 0; done < count;) {
    const int64_t n = (first + done) / a.plane(), offset = (first + done) % a.plane();
    const int64_t length = std::min(count - done, run - offset % run);
    const S* from = a.data + n * a.stride_n + (offset / a.w) * a.stride_h + (offset % a.w) * a.stride_w;
    if (a.stride_w == 1) {
      for (int64_t c = 0; c < a.c; ++c) {
        copy_row(from + c * a.stride_c, to + c * pixels + done, length, kRowsAhead * a.stride_c);
      }
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

template <typename S, typename T>
void pack_source(const Source& a, int64_t first, int64_t count, T* to, int64_t pixels) {
  pack_as<S, T>({static_cast<const S*>(a.data), a.n, a.c, a.h, a.w, a.stride_n, a.stride_c, a.stride_h, a.stride_w},
                first, count, to, pixels);
}

template <typename T>
void pack(const Source& a, int64_t first, int64_t count, T* to, int64_t pixels) {
  if constexpr (std::is_same_v<T, double>) {
    pack_source<double>(a, first, count, to, pixels);
  } else if (a.element == Element::kHalf) {
    pack_source<half>(a, first, count, to, pixels);
  } else if (a.element == Element::kBfloat16) {
    pack_source<bfloat16>(a, first, count, to, pixels);
  } else {
    pack_source<float>(a, first, count, to, pixels);
  }
}

template <typename T>
void make_features(const Source& a, Features features, const T* statistics, int64_t first, int64_t count, T* tile,
                   int64_t pixels) {
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

template <typename T>
void plane_statistics(const Source& a, int64_t begin, int64_t end, T* statistics) {
  const int64_t pixels = tile_pixels<T>(a.c, a.plane());
  Buffer<T> tile(a.c * pixels);
  std::vector<double> shift(a.c), sum(a.c), square(a.c);
  for (int64_t n = begin; n < end; ++n) {
    std::fill(sum.begin(), sum.end(), 0.0);
    std::fill(square.begin(), square.end(), 0.0);
    for (int64_t p = 0; p < a.plane(); p += pixels) {
      const int64_t count = std::min(pixels, a.plane() - p);
      pack<T>(a, n * a.plane() + p, count, tile, pixels);
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

#define STYLEFAST_INSTANTIATE(T)                                                                 \
  template void pack(const Source&, int64_t, int64_t, T*, int64_t);                              \
  template void make_features(const Source&, Features, const T*, int64_t, int64_t, T*, int64_t); \
  template void plane_statistics(const Source&, int64_t, int64_t, T*);
STYLEFAST_INSTANTIATE(double)
STYLEFAST_INSTANTIATE(float)
#undef STYLEFAST_INSTANTIATE

}  // namespace STYLEFAST_ISA
}  // namespace stylefast
