// SPDX-License-Identifier: Apache-2.0
// First and second moments of every channel over every cluster, taken about a shift near the channel's mean, and what
// they give: M. With d = mean - shift, sum (a - mean)^2 = Q - 2 d L + d^2 n, which loses no digits as long as |d| is of
// the order of the standard deviation, however large |mean| is.
#include "runs.h"

namespace stylefast {
namespace STYLEFAST_ISA {

// For the next image: only what was added to is written.
template <typename T>
void clear(const Moments<T>& m) {
  constexpr int L = kLanes<T>;
  for (int64_t c = 0; c < m.row; c += L) {
    for (int64_t k = 0; k <= m.clusters; ++k) {
      if (m.n[k] == 0) continue;
      store(m.l + c * (m.clusters + 1) + k * L, Vec<T>{});
      store(m.q + c * (m.clusters + 1) + k * L, Vec<T>{});
    }
  }
  std::fill(m.shift + 0, m.shift + m.row, T(0));
  std::fill(m.n + 0, m.n + m.clusters + 1, T(0));
}

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

// M of one image from its moments: `width` channels of every cluster are added to sum [K][sum_row] (rows of whole
// vectors) or, divided by the number of positions, written to image [K][image_row]. Clusters without a position cost
// nothing.
template <typename T>
void fold(const Moments<T>& m, bool standardize, T positions, int64_t width, double* sum, int64_t sum_row, T* image,
          int64_t image_row) {
  constexpr int L = kLanes<T>;
  for (int64_t c = 0; c < width; c += L) {
    const T* l = m.l + c * (m.clusters + 1);
    const T* q = m.q + c * (m.clusters + 1);
    Vec<T> d{}, scale = splat(T(1));
    if (standardize) {
      Vec<T> square{};
      for (int64_t k = 0; k <= m.clusters; ++k) {
        if (m.n[k] == 0) continue;
        d += load(l + k * L);
        square += load(q + k * L);
      }
      d /= positions;
      const Vec<T> variance = square / positions - d * d;
      scale = 1 / ((variance < 0 ? Vec<T>{} : variance) + static_cast<T>(kVarianceEpsilon));
    }
    const Vec<T> nothing = d - d;  // of a cluster without a position: NaN in a channel that is not finite
    const bool skip = lane_sum<T>(nothing) == 0;
    for (int64_t k = 0; k < m.clusters; ++k) {
      Vec<T> contribution = nothing;
      if (m.n[k] != 0) {
        const Vec<T> energy = load(q + k * L) - 2 * d * load(l + k * L) + d * d * m.n[k];
        contribution = (energy < 0 ? Vec<T>{} : energy) * scale;
      }
      if (image != nullptr) {
        const Vec<T> mean = contribution / positions;
        std::memcpy(image + k * image_row + c, &mean, sizeof(T) * std::min<int64_t>(L, width - c));
      } else if (m.n[k] != 0 || !skip) {
        add_to<T>(sum + k * sum_row + c, contribution);
      }
    }
  }
}

}  // namespace STYLEFAST_ISA
}  // namespace stylefast
