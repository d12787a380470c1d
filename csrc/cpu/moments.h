// SPDX-License-Identifier: Apache-2.0
// First and second moments of every channel over every cluster, taken about a shift near the channel's mean, and what
// they give: M. With d = mean - shift, sum (a - mean)^2 = Q - 2 d L + d^2 n, which loses no digits as long as |d| is of
// the order of the standard deviation, however large |mean| is.
#include "runs.h"

namespace stylefast {
namespace STYLEFAST_ISA {

// Adds slab s of positions of one image.
template <typename T>
void add_slab(const T* slab, int64_t s, const Runs& runs, const Moments<T>& to) {
  constexpr int L = kLanes<T>;
  const Vec<T> shift = load(to.shift + s * L);
  const int32_t* at = runs.order;
  for (const Run& run : runs) {
    const int32_t* end = runs.order + run.end;
    T* to_l = to.l + (s * (to.clusters + 1) + run.label) * L;
    T* to_q = to.q + (s * (to.clusters + 1) + run.label) * L;
    Vec<T> l[2] = {}, q[2] = {};  // summed by run first: fewer roundings at the size of the total
    for (; at + 2 <= end; at += 2) {
      for (int j = 0; j < 2; ++j) {
        const Vec<T> x = load(slab + at[j] * L) - shift;
        l[j] += x;
        q[j] += x * x;
      }
    }
    if (at < end) {
      const Vec<T> x = load(slab + *at++ * L) - shift;
      l[0] += x;
      q[0] += x * x;
    }
    store(to_l, load(to_l) + (l[0] + l[1]));
    store(to_q, load(to_q) + (q[0] + q[1]));
  }
}

// Adds the moments of another part of the same image, taken about another shift.
template <typename T>
void merge(const Moments<T>& from, const Moments<T>& to) {
  constexpr int L = kLanes<T>;
  for (int64_t k = 0; k <= to.clusters; ++k) to.n[k] += from.n[k];
  for (int64_t c = 0; c < to.row; c += L) {
    const Vec<T> s = load(from.shift + c) - load(to.shift + c);
    for (int64_t k = 0; k <= to.clusters; ++k) {
      const int64_t at = c * (to.clusters + 1) + k * L;
      const Vec<T> l = load(from.l + at);
      store(to.q + at, load(to.q + at) + load(from.q + at) + 2 * s * l + s * s * from.n[k]);
      store(to.l + at, load(to.l + at) + l + s * from.n[k]);
    }
  }
}

// M of one image from its moments: `width` channels of every cluster are added to sum [K][sum_row] or, divided by the
// number of positions, written to image [K][image_row].
template <typename T>
void fold(const Moments<T>& m, bool standardize, T positions, int64_t width, double* sum, int64_t sum_row, T* image,
          int64_t image_row) {
  constexpr int L = kLanes<T>;
  for (int64_t c = 0; c < width; c += L) {
    Vec<T> d{}, scale = splat(T(1));
    if (standardize) {
      Vec<T> square{};
      for (int64_t k = 0; k <= m.clusters; ++k) {
        d += load(m.l + c * (m.clusters + 1) + k * L);
        square += load(m.q + c * (m.clusters + 1) + k * L);
      }
      d /= positions;
      const Vec<T> variance = square / positions - d * d;
      scale = 1 / ((variance < 0 ? Vec<T>{} : variance) + static_cast<T>(kVarianceEpsilon));
    }
    for (int64_t k = 0; k < m.clusters; ++k) {
      const int64_t at = c * (m.clusters + 1) + k * L;
      const Vec<T> l = load(m.l + at), q = load(m.q + at);
      const Vec<T> energy = q - 2 * d * l + d * d * m.n[k];
      const Vec<T> contribution = (energy < 0 ? Vec<T>{} : energy) * scale;
      for (int64_t i = 0; i < std::min<int64_t>(L, width - c); ++i) {
        if (image != nullptr) {
          image[k * image_row + c + i] = contribution[i] / positions;
        } else {
          sum[k * sum_row + c + i] += contribution[i];
        }
      }
    }
  }
}

}  // namespace STYLEFAST_ISA
}  // namespace stylefast
