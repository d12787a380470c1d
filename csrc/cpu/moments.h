// SPDX-License-Identifier: Apache-2.0
// First and second moments of every channel over every cluster, taken about a shift near the channel's mean, and what
// they give: M. With d = mean - shift, sum (a - mean)^2 = Q - 2 d L + d^2 n, which loses no digits as long as |d| is of
// the order of the standard deviation, however large |mean| is.
#include "runs.h"

namespace stylefast {
namespace STYLEFAST_ISA {

// Adds a packed tile of one image. rows holds pixels x kLanes elements.
template <typename T>
void add_tile(const T* tile, int64_t pixels, const Runs& runs, T* rows, const Moments<T>& to) {
  constexpr int L = kLanes<T>;
  int32_t start = 0;
  for (const Run& run : runs) to.n[run.label] += static_cast<T>(run.end - std::exchange(start, run.end));
  for (int64_t c = 0; c < to.row; c += L) {
    const T* shift = to.shift + c;
    transpose_block<T>(
        tile + c * pixels, pixels, pixels, [shift](Vec<T> x, int64_t, int i) { return x - shift[i]; }, rows);
    start = 0;
    for (const Run& run : runs) {
      Vec<T> l[2] = {}, q[2] = {};
      int32_t i = std::exchange(start, run.end);
      for (; i + 2 <= run.end; i += 2) {
        for (int j = 0; j < 2; ++j) {
          const Vec<T> x = load(rows + runs.order[i + j] * L);
          l[j] += x;
          q[j] += x * x;
        }
      }
      if (i < run.end) {
        const Vec<T> x = load(rows + runs.order[i] * L);
        l[0] += x;
        q[0] += x * x;
      }
      T* to_l = to.l + run.label * to.row + c;
      T* to_q = to.q + run.label * to.row + c;
      store(to_l, load(to_l) + (l[0] + l[1]));
      store(to_q, load(to_q) + (q[0] + q[1]));
    }
  }
}

// Adds the moments of another part of the same image, taken about another shift.
template <typename T>
void merge(const Moments<T>& from, const Moments<T>& to) {
  for (int64_t k = 0; k <= to.clusters; ++k) {
    to.n[k] += from.n[k];
    for (int64_t c = 0; c < to.row; ++c) {
      const T s = from.shift[c] - to.shift[c], l = from.l[k * to.row + c];
      to.q[k * to.row + c] += from.q[k * to.row + c] + 2 * s * l + s * s * from.n[k];
      to.l[k * to.row + c] += l + s * from.n[k];
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
        d += load(m.l + k * m.row + c);
        square += load(m.q + k * m.row + c);
      }
      d /= positions;
      const Vec<T> variance = square / positions - d * d;
      scale = 1 / ((variance < 0 ? Vec<T>{} : variance) + static_cast<T>(kVarianceEpsilon));
    }
    for (int64_t k = 0; k < m.clusters; ++k) {
      const Vec<T> l = load(m.l + k * m.row + c), q = load(m.q + k * m.row + c);
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
