// SPDX-License-Identifier: Apache-2.0
// First and second moments of every channel over every cluster, computed in one pass over the activations, and M, which
// follows from the moments.
//
// Moments are taken about a shift near the mean of the channel. With d = mean - shift,
//   sum (a - mean)^2 = squares - 2 d sums + d^2 counts.
// This loses no digits while |d| is at most about the standard deviation, however large |mean| is.
#include "runs.h"

namespace stylefast {
namespace STYLEFAST_ISA {

// Clears the moments for the next image.
template <typename T>
void clear(const Moments<T>& moments) {
  constexpr int L = kLanes<T>;
  for (int64_t c = 0; c < moments.width; c += L) {
    for (int64_t k = 0; k <= moments.clusters; ++k) {
      store(moments.sums + c * (moments.clusters + 1) + k * L, Vec<T>{});
      store(moments.squares + c * (moments.clusters + 1) + k * L, Vec<T>{});
    }
  }
  std::fill(moments.shift + 0, moments.shift + moments.width, T(0));
  std::fill(moments.counts + 0, moments.counts + moments.clusters + 1, T(0));
}

// Mean of 64 to 127 positions, evenly spaced among the first `count` positions of a slab, or of all if there are fewer.
// Exact if all are equal.
template <typename T>
STYLEFAST_INLINE Vec<T> sample_mean(const T* slab, int64_t count) {
  const int64_t step = std::max<int64_t>(1, count / 64), samples = (count + step - 1) / step;
  const Vec<T> first = load(slab);
  Vec<T> total[4] = {};  // one sum would wait for every addition
  int64_t i = 0;
  for (; i + 4 <= samples; i += 4) {
    for (int j = 0; j < 4; ++j) total[j] += load(slab + (i + j) * step * kLanes<T>) - first;
  }
  for (; i < samples; ++i) total[0] += load(slab + i * step * kLanes<T>) - first;
  return first + ((total[0] + total[1]) + (total[2] + total[3])) / static_cast<T>(samples);
}

// Memory that is read next. The sum of a slab prefetches `step` bytes of it per position.
struct Ahead {
  const char* from;
  int64_t step;
};

// Adds slab s of a tile, whose positions are sorted into runs.
template <typename T>
void add_slab(const T* slab, int64_t s, const Runs& runs, const Moments<T>& moments, const Ahead& ahead) {
  constexpr int L = kLanes<T>;
  const Vec<T> shift = load(moments.shift + s * L);
  const int32_t* position = runs.order;
  for (const Run& run : runs) {
    const int32_t* end = runs.order + run.end;
    T* total_sum = moments.sums + (s * (moments.clusters + 1) + run.label) * L;
    T* total_square = moments.squares + (s * (moments.clusters + 1) + run.label) * L;
    Vec<T> sum[2] = {}, square[2] = {};  // summing a run first rounds less often at the magnitude of the total
    for (; position + 2 <= end; position += 2) {
      __builtin_prefetch(ahead.from + (position - runs.order) * ahead.step, 0, 2);
      for (int j = 0; j < 2; ++j) {
        const Vec<T> x = load(slab + position[j] * L) - shift;
        sum[j] += x;
        square[j] += x * x;
      }
    }
    if (position < end) {
      const Vec<T> x = load(slab + *position++ * L) - shift;
      sum[0] += x;
      square[0] += x * x;
    }
    store(total_sum, load(total_sum) + (sum[0] + sum[1]));
    store(total_square, load(total_square) + (square[0] + square[1]));
  }
}

// Adds the moments of another segment of the same image. They were taken about a different shift, so sums and squares
// are converted to the shift of `to`.
template <typename T>
void merge(const Moments<T>& from, const Moments<T>& to) {
  constexpr int L = kLanes<T>;
  for (int64_t k = 0; k <= to.clusters; ++k) to.counts[k] += from.counts[k];
  for (int64_t c = 0; c < to.width; c += L) {
    const Vec<T> d = load(from.shift + c) - load(to.shift + c);
    for (int64_t k = 0; k <= to.clusters; ++k) {
      const int64_t i = c * (to.clusters + 1) + k * L;
      const Vec<T> sum = load(from.sums + i);
      store(to.squares + i, load(to.squares + i) + load(from.squares + i) + 2 * d * sum + d * d * from.counts[k]);
      store(to.sums + i, load(to.sums + i) + sum + d * from.counts[k]);
    }
  }
}

// Computes the share of one image in M, for `channels` channels, from its moments. If image is nullptr, adds the share
// to sum [K, sum_stride], whose rows consist of whole vectors; clusters without a position are skipped if all channels
// are finite. Otherwise divides the share by the number of positions, and writes it to image [K, image_stride].
template <typename T>
void fold(const Moments<T>& moments, bool standardize, T positions, int64_t channels, double* sum, int64_t sum_stride,
          T* image, int64_t image_stride) {
  constexpr int L = kLanes<T>;
  for (int64_t c = 0; c < channels; c += L) {
    const T* sums = moments.sums + c * (moments.clusters + 1);
    const T* squares = moments.squares + c * (moments.clusters + 1);
    Vec<T> d{}, scale = splat(T(1));
    if (standardize) {
      Vec<T> square{};
      for (int64_t k = 0; k <= moments.clusters; ++k) {
        d += load(sums + k * L);
        square += load(squares + k * L);
      }
      d /= positions;
      const Vec<T> variance = square / positions - d * d;
      scale = 1 / ((variance < 0 ? Vec<T>{} : variance) + static_cast<T>(kVarianceEpsilon));
    }
    const Vec<T> empty = d - d;  // M of a cluster without a position: 0, or NaN in a channel that is not finite
    const bool skips_empty = lane_sum<T>(empty) == 0;
    for (int64_t k = 0; k < moments.clusters; ++k) {
      Vec<T> contribution = empty;
      if (moments.counts[k] != 0) {
        const Vec<T> energy = load(squares + k * L) - 2 * d * load(sums + k * L) + d * d * moments.counts[k];
        contribution = (energy < 0 ? Vec<T>{} : energy) * scale;
      }
      if (image != nullptr) {
        const Vec<T> mean = contribution / positions;
        std::memcpy(image + k * image_stride + c, &mean, sizeof(T) * std::min<int64_t>(L, channels - c));
      } else if (moments.counts[k] != 0 || !skips_empty) {
        add_to<T>(sum + k * sum_stride + c, contribution);
      }
    }
  }
}

}  // namespace STYLEFAST_ISA
}  // namespace stylefast
