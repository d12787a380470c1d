// SPDX-License-Identifier: Apache-2.0
// Kernel of nmf_step. A part owns a range of tiles and its own sums.
//
// A tile is read once and rectified. While it is in cache, it is scored against the components, the memberships of its
// positions are solved from the scores, and their products with the tile and with themselves are added. Sums over the
// positions of a tile are in T, sums over tiles in double.
#include "product.h"
#include "score.h"

namespace stylefast {
namespace STYLEFAST_ISA {

inline constexpr int kBlock = 4;                              // components that are updated together
inline constexpr int kGroup = STYLEFAST_BYTES == 64 ? 4 : 2;  // vectors of positions that are solved together

// The components of a step.
template <typename T>
struct Components {
  explicit Components(int64_t clusters)
      : rows(round_up(clusters, kBlock)), gram(rows * rows), start(rows), update(rows) {
    std::fill(gram + 0, gram + rows * rows, T(0));
    std::fill(start + 0, start + rows, T(1));
    std::fill(update + 0, update + rows, T(1));
  }

  int64_t rows;             // K, padded; padding is zero, so that its memberships are zero
  Buffer<T> gram;           // G = H H^T, [rows, rows]
  Buffer<T> start, update;  // [rows]: 1 / sum_j G_kj and 1 / G_kk, or 1 for components that are zero
};

// Computes G as the scores of the components against themselves.
template <typename T>
void prepare(const Points<T>& points, const Tile<T>& tile, T* norm, T* scores, const Components<T>& to) {
  const int64_t k = points.clusters, columns = score_columns<T>(k);
  for (int64_t first = 0; first < k; first += tile.pixels) {
    const int64_t count = std::min(tile.pixels, k - first);
    score_tile<T>(points, first, count, tile, tile, norm, scores);
    for (int64_t i = 0; i < count; ++i) std::copy_n(scores + i * columns, k, to.gram + (first + i) * to.rows);
  }
  for (int64_t i = 0; i < k; ++i) {
    T total = 0;
    for (int64_t j = 0; j < k; ++j) total += to.gram[i * to.rows + j];
    if (total > 0) to.start[i] = 1 / total;
    if (to.gram[i * to.rows + i] > 0) to.update[i] = 1 / to.gram[i * to.rows + i];
  }
}

// Runs one sweep over kWidth vectors of positions. Scores and memberships are [kWidth, rows, kLanes].
//
// The memberships outside a block of components do not change while the block is updated, so their products with G are
// a small matrix product.
template <typename T, int kWidth>
void sweep(const Components<T>& components, const T* scores, T* u) {
  constexpr int L = kLanes<T>;
  const int64_t rows = components.rows, step = rows * L;
  for (int64_t k = 0; k < rows; k += kBlock) {
    const T* gram = components.gram + k;  // G is symmetric: the block is read by columns
    Vec<T> gain[kBlock][kWidth];
    for (int i = 0; i < kBlock; ++i) {
      for (int v = 0; v < kWidth; ++v) gain[i][v] = load(scores + v * step + (k + i) * L);
    }
    const auto subtract = [&](int64_t begin, int64_t end) __attribute__((always_inline)) {
      for (int64_t j = begin; j < end; ++j) {
        Vec<T> other[kWidth];
        for (int v = 0; v < kWidth; ++v) other[v] = load(u + v * step + j * L);
#pragma GCC unroll 4
        for (int i = 0; i < kBlock; ++i) {
          for (int v = 0; v < kWidth; ++v) gain[i][v] -= gram[j * rows + i] * other[v];
        }
      }
    };
    subtract(0, k);
    subtract(k + kBlock, rows);
#pragma GCC unroll 4
    for (int i = 0; i < kBlock; ++i) {
      for (int v = 0; v < kWidth; ++v) {
        T* own = u + v * step + k * L;
#pragma GCC unroll 4
        for (int j = 0; j < kBlock; ++j) gain[i][v] -= gram[(k + j) * rows + i] * load(own + j * L);
        const Vec<T> value = load(own + i * L) + gain[i][v] * components.update[k + i];
        store(own + i * L, value < 0 ? Vec<T>{} : value);  // keeps NaN
      }
    }
  }
}

// Solves the memberships u [kWidth, rows, kLanes] of `count` positions, at most kWidth vectors, from their scores
// [positions, columns]. The memberships of further positions are zero. `buffer` has the size of u.
template <typename T, int kWidth>
void solve(const Components<T>& components, const T* scores, int64_t columns, int64_t clusters, int64_t count,
           int64_t sweeps, T* buffer, T* u) {
  constexpr int L = kLanes<T>;
  const int64_t rows = components.rows;
  for (int64_t v = 0; v < kWidth; ++v) {
    for (int64_t k = 0; k < rows; k += L) {
      Vec<T> block[L];
#pragma GCC unroll 16
      for (int i = 0; i < L; ++i) {
        block[i] = v * L + i < count && k < columns ? load(scores + (v * L + i) * columns + k) : Vec<T>{};
      }
      transpose<T>(block);
      for (int64_t i = 0; i < std::min<int64_t>(L, rows - k); ++i) {
        const Vec<T> score = k + i < clusters ? block[i] : Vec<T>{};
        store(buffer + (v * rows + k + i) * L, score);
        store(u + (v * rows + k + i) * L, score * components.start[k + i]);
      }
    }
  }
  for (int64_t i = 0; i < sweeps; ++i) sweep<T, kWidth>(components, buffer, u);
}

// Copies memberships [vectors of positions, rows, kLanes] of positions [first, first + count), counted over all images,
// to [N, K, H, W].
template <typename T>
void write_memberships(const T* u, int64_t rows, int64_t first, int64_t count, int64_t clusters, int64_t plane, T* to) {
  constexpr int L = kLanes<T>;
  for (int64_t p = 0; p < count; p += L, u += rows * L) {
    const int64_t image = (first + p) / plane, offset = (first + p) % plane, width = std::min<int64_t>(L, count - p);
    T* plane_0 = to + image * clusters * plane + offset;
    for (int64_t k = 0; k < clusters; ++k) {
      if (offset + width <= plane) {
        store_some(plane_0 + k * plane, load(u + k * L), width);
        continue;
      }
      for (int64_t i = 0; i < width; ++i) {
        const int64_t position = first + p + i;
        to[(position / plane * clusters + k) * plane + position % plane] = u[k * L + i];
      }
    }
  }
}

// Copies memberships [vectors of positions, rows, kLanes] to a tile with components as channels.
template <typename T>
void turn(const T* u, int64_t rows, int64_t count, const Tile<T>& to) {
  constexpr int L = kLanes<T>;
  for (int64_t p = 0; p < count; p += L, u += rows * L) {
    for (int64_t s = 0; s < to.slabs; ++s) {
      Vec<T> block[L];
#pragma GCC unroll 16
      for (int i = 0; i < L; ++i) block[i] = s * L + i < rows ? load(u + (s * L + i) * L) : Vec<T>{};
      transpose<T>(block);
#pragma GCC unroll 16
      for (int i = 0; i < L; ++i) store(to.slab(s) + (p + i) * L, block[i]);
    }
  }
}

// Adds the products of kRows rows of memberships and kWidth slabs of a tile to sums, rows of `stride` elements.
template <typename T, int kWidth, int kRows>
void multiply(const T* u, int64_t u_step, const T* slab, int64_t slab_step, int64_t count, double* sums,
              int64_t stride) {
  constexpr int L = kLanes<T>;
  Vec<T> sum[kRows][kWidth] = {};
  for (int64_t p = 0; p < count; p += L, u += u_step, slab += L * L) {
    add_products<T, kWidth>(u, 0, slab, L, nullptr, L, sum, slab_step);
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    for (int j = 0; j < kWidth; ++j) add_to<T>(sums + r * stride + j * L, sum[r][j]);
  }
}

// Adds the products of all rows of memberships and all slabs of a tile to sums [rows, stride].
template <typename T>
void multiply_tile(const T* u, int64_t rows, const Tile<T>& tile, int64_t count, double* sums, int64_t stride) {
  constexpr int L = kLanes<T>, kStep = kPositions / 3;
  static_assert(kBlock % kStep == 0);
  for (int64_t s = 0; s < tile.slabs; s += kVectors) {
    for (int64_t k = 0; k < rows; k += kPositions) {
      const int64_t left = rows - k;
      const bool wide = s + 1 < tile.slabs;
      const auto call = left > 2 * kStep ? (wide ? multiply<T, kVectors, kPositions> : multiply<T, 1, kPositions>)
                        : left > kStep   ? (wide ? multiply<T, kVectors, 2 * kStep> : multiply<T, 1, 2 * kStep>)
                                         : (wide ? multiply<T, kVectors, kStep> : multiply<T, 1, kStep>);
      call(u + k * L, rows * L, tile.slab(s), tile.stride * L, count, sums + k * stride + s * L, stride);
    }
  }
}

template <typename T>
void nmf_kernel(const FactorTask<T>& task, int64_t part, int64_t parts) {
  constexpr int L = kLanes<T>;
  const Source& a = task.points.a;
  const int64_t positions = a.positions(), pixels = tile_pixels<T>(a.c, (positions + parts - 1) / parts);
  const int64_t tiles = (positions + pixels - 1) / pixels, clusters = task.points.clusters;
  const int64_t columns = score_columns<T>(clusters), width = padded<T>(a.c), gram_width = padded<T>(clusters);
  const Tile<T> tile(a.c, pixels), turned(clusters, pixels);
  const Components<T> components(clusters);
  const int64_t rows = components.rows;

  const Buffer<T> scores(scores_size<T>(pixels, clusters)), norm(pixels);
  const Buffer<T> u(pixels * rows), buffer(kGroup * L * rows);
  const Buffer<double> products(rows * width), gram(rows * gram_width);
  std::fill(products + 0, products + rows * width, 0.0);
  std::fill(gram + 0, gram + rows * gram_width, 0.0);
  double energy = 0;
  prepare<T>(task.components, tile, norm, scores, components);

  const int64_t begin = part_begin(tiles, part, parts), end = part_begin(tiles, part + 1, parts);
  for (int64_t t = begin; t < end; ++t) {
    const int64_t first = t * pixels, count = std::min(pixels, positions - first);
    score_tile<T>(task.points, first, count, tile, tile, norm, scores);
    for (int64_t i = 0; i < count; ++i) energy += norm[i];
    for (int64_t p = 0; p < count;) {
      const bool group = count - p > (kGroup - 1) * L;
      const auto call = group ? solve<T, kGroup> : solve<T, 1>;
      call(components, scores + p * columns, columns, clusters, count - p, task.sweeps, buffer, u + p * rows);
      p += group ? kGroup * L : L;
    }
    write_memberships<T>(u, rows, first, count, clusters, a.plane(), task.memberships);
    turn<T>(u, rows, count, turned);
    multiply_tile<T>(u, rows, tile, count, products, width);
    multiply_tile<T>(u, rows, turned, count, gram, gram_width);
  }
  std::copy_n(products + 0, clusters * width, task.products + part * clusters * width);
  std::copy_n(gram + 0, clusters * gram_width, task.gram + part * clusters * gram_width);
  task.energy[part] = energy;
}

}  // namespace STYLEFAST_ISA
}  // namespace stylefast
