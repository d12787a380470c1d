// SPDX-License-Identifier: Apache-2.0
// Products of squares and memberships, in registers: lanes hold channels, and the memberships are broadcast.
#include "product.h"

namespace stylefast {
namespace STYLEFAST_ISA {

inline constexpr int64_t kTile = 128;         // positions per tile of squares
inline constexpr int kStep = kPositions / 3;  // clusters are padded to a multiple of it
template <typename T>
inline constexpr int64_t kColumns = kVectors * kLanes<T>;  // channels per tile of squares

// Memory that is read next, of which some cache lines are prefetched at regular intervals.
struct Next {
  const char* from;
  int64_t lines;  // per position
};

// Adds the products of kRows clusters and kWidth vectors of channels over a tile to `sums`, one row per cluster.
// The tile has `slabs` * kLanes rows of kColumns squares. `memberships` holds kLanes positions per cluster; the next
// slab lies `step` elements ahead.
template <typename T, int kWidth, int kRows>
void multiply_rows(const T* squares, const T* memberships, int64_t step, int64_t slabs, Next& next, double* sums,
                   int64_t stride) {
  constexpr int L = kLanes<T>;
  Vec<T> sum[kRows][kWidth] = {};
  for (int64_t s = 0; s < slabs; ++s, squares += L * kColumns<T>, memberships += step) {
    for (int64_t i = 0; i < next.lines; ++i, next.from += 64) __builtin_prefetch(next.from, 0, 2);
    add_products<T, kWidth>(memberships, 0, squares, kColumns<T>, nullptr, L, sum);
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    for (int j = 0; j < kWidth; ++j) add_to<T>(sums + r * stride + j * L, sum[r][j]);
  }
}

// The memberships of an image, and their products with squares.
template <typename T>
class SoftProduct {
  static constexpr int L = kLanes<T>;

 public:
  SoftProduct(int64_t clusters, int64_t positions)
      : clusters_(clusters),
        rows_(round_up(clusters, kStep)),
        positions_(positions),
        memberships_((positions + L - 1) / L * rows_ * L),
        squares_(kTile * kColumns<T>) {
    std::fill(memberships_ + 0, memberships_ + (positions + L - 1) / L * rows_ * L, T(0));
  }

  int64_t rows() const { return rows_; }

  // Copies the memberships of cluster k, [positions].
  void pack(int64_t k, const T* from) {
    for (int64_t p = 0; p < positions_; p += L) {
      std::memcpy(memberships_ + (p * rows_ + k * L), from + p, sizeof(T) * std::min<int64_t>(L, positions_ - p));
    }
  }

  // Adds the products of all clusters and at most kColumns channels to sums [rows, stride]. fill(first, count, to)
  // writes the squares of `count` positions, rows of kColumns elements.
  template <typename Fill>
  void add(int64_t channels, const Fill& fill, Next next, double* sums, int64_t stride) {
    const int64_t blocks = (rows_ + kPositions - 1) / kPositions;
    next.lines = (next.lines * L + blocks - 1) / blocks;  // per slab and block of clusters
    for (int64_t p = 0; p < positions_; p += kTile) {
      const int64_t count = std::min(kTile, positions_ - p), slabs = (count + L - 1) / L;
      fill(p, count, squares_ + 0);
      std::fill(squares_ + count * kColumns<T>, squares_ + slabs * L * kColumns<T>, T(0));
      if (channels > L) {
        multiply_tile<kVectors>(p, slabs, next, sums, stride);
      } else {
        multiply_tile<1>(p, slabs, next, sums, stride);
      }
    }
  }

 private:
  template <int kWidth>
  void multiply_tile(int64_t p, int64_t slabs, Next& next, double* sums, int64_t stride) const {
    for (int64_t k = 0; k < rows_; k += kPositions) {
      const int64_t left = rows_ - k;
      const auto multiply = left > 2 * kStep ? multiply_rows<T, kWidth, kPositions>
                            : left > kStep   ? multiply_rows<T, kWidth, 2 * kStep>
                                             : multiply_rows<T, kWidth, kStep>;
      multiply(squares_, memberships_ + (p * rows_ + k * L), rows_ * L, slabs, next, sums + k * stride, stride);
    }
  }

  int64_t clusters_, rows_, positions_;  // rows: K, padded
  Buffer<T> memberships_;                // [slabs of positions, rows, kLanes]; padding is zero
  Buffer<T> squares_;                    // [kTile, kColumns]
};

}  // namespace STYLEFAST_ISA
}  // namespace stylefast
