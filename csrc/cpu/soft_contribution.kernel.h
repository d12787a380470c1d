// SPDX-License-Identifier: Apache-2.0
// Kernels of soft_contribution. A unit of work is a block of channels of one image, so that any number of threads
// shares an image.
//
// The mean of every channel is computed first, while the block stays in the second-level cache. Then a tile of squares
// (a - mean)^2 is multiplied by the memberships, in registers: lanes hold channels, and the memberships are broadcast.
// Memberships on a grid with fewer cells than the layer has positions are not resized. Instead, a pool reduces the
// layer to the grid, and the products run over the cells.
#include "pool.h"
#include "product.h"
#include "tile.h"

namespace stylefast {
namespace STYLEFAST_ISA {

inline constexpr int64_t kTile = 128;             // positions per tile of squares
inline constexpr int kStep = kPositions / 3;      // clusters are padded to a multiple of it
inline constexpr int64_t kUnitBytes = 512 << 10;  // half of a 1 MB second-level cache
template <typename T>
inline constexpr int64_t kColumns = kVectors * kLanes<T>;  // channels per tile of squares

// Memory that is read next. Every stretch of kLanes positions of a product prefetches some cache lines of it.
struct Next {
  const char* from;
  int64_t lines;  // per stretch
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
  void add(int64_t channels, const Fill& fill, const char* next, int64_t next_bytes, double* sums, int64_t stride) {
    const int64_t blocks = (rows_ + kPositions - 1) / kPositions, stretches = (positions_ + L - 1) / L * blocks;
    Next ahead{next, (next_bytes / 64 + stretches - 1) / stretches};
    for (int64_t p = 0; p < positions_; p += kTile) {
      const int64_t count = std::min(kTile, positions_ - p), slabs = (count + L - 1) / L;
      fill(p, count, squares_ + 0);
      std::fill(squares_ + count * kColumns<T>, squares_ + slabs * L * kColumns<T>, T(0));
      if (channels > L) {
        multiply_tile<kVectors>(p, slabs, ahead, sums, stride);
      } else {
        multiply_tile<1>(p, slabs, ahead, sums, stride);
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

// Sums of (x - shift) over the positions of a slab.
template <typename T>
STYLEFAST_INLINE Vec<T> sum_about(Vec<T> shift, const T* slab, int64_t count) {
  Vec<T> total[4] = {};  // one sum would wait for every addition
  int64_t i = 0;
  for (; i + 4 <= count; i += 4) {
    for (int j = 0; j < 4; ++j) total[j] += load(slab + (i + j) * kLanes<T>) - shift;
  }
  for (; i < count; ++i) total[0] += load(slab + i * kLanes<T>) - shift;
  return (total[0] + total[1]) + (total[2] + total[3]);
}

// Sums of an image whose memberships have the size of the layer, or are resized to it.
template <typename T>
class SoftSum {
  static constexpr int L = kLanes<T>;

 public:
  SoftSum(const SoftTask<T>& task, int64_t width)
      : task_(task),
        stays_(task.a.plane() * width * static_cast<int64_t>(sizeof(T)) <= kUnitBytes),
        product_(task.clusters, task.a.plane()),
        tile_(width, stays_ ? task.a.plane() : kTile),
        resized_(task.a.plane()),
        shift_(width),
        offset_(width) {}

  int64_t rows() const { return product_.rows(); }

  // Adds channels [c, c + channels) of image n to sums [rows, stride], and writes their variances.
  void add(int64_t n, int64_t c, int64_t channels, double* sums, int64_t stride, T* variance) {
    if (n != std::exchange(packed_image_, n)) pack_memberships(n);
    const Source& a = task_.a;
    const int64_t slabs = (channels + L - 1) / L;
    const T positions = static_cast<T>(a.plane());
    const bool joined = a.stride_w == 1 && a.rows_join() && a.stride_c == a.plane();  // planes follow each other
    if (stays_) pack<T>(a, n * a.plane(), a.plane(), c / L, c / L + slabs, tile_.data, tile_.stride, nullptr, L);
    find_means(n, c / L, slabs);
    for (int64_t s = 0; s < slabs; s += kVectors) {
      const int64_t vectors = std::min<int64_t>(kVectors, slabs - s);
      const char* next = a.address(n * a.plane(), c + s * L + kColumns<T>);
      Vec<T> square[kVectors] = {};
      const auto fill = [&](int64_t first, int64_t count, T* to) {
        const T* slab = slabs_at(n, c / L, first, count, s, s + vectors);
        for (int64_t j = 0; j < vectors; ++j, slab += tile_.stride * L) {
          const Vec<T> shift = load(shift_ + (s + j) * L), offset = load(offset_ + (s + j) * L);
          for (int64_t i = 0; i < count; ++i) {
            const Vec<T> d = (load(slab + i * L) - shift) - offset;
            square[j] += d * d;
            store(to + i * kColumns<T> + j * L, d * d);
          }
        }
      };
      const int64_t bytes = joined ? kColumns<T> * a.plane() * a.element_size() : 0;
      product_.add(std::min(channels - s * L, kColumns<T>), fill, next, bytes, sums + s * L, stride);
      for (int64_t j = 0; j < vectors; ++j) store(variance + (s + j) * L, square[j] / positions);
    }
  }

 private:
  // Positions [first, first + count) of slabs [begin, end) of the block that begins with slab `block` of image n.
  const T* slabs_at(int64_t n, int64_t block, int64_t first, int64_t count, int64_t begin, int64_t end) const {
    if (stays_) return tile_.slab(begin) + first * L;
    pack<T>(task_.a, n * task_.a.plane() + first, count, block + begin, block + end, tile_.data, tile_.stride, nullptr,
            0);
    return tile_.data;
  }

  // Computes the means as sums of a shift and a small offset, so that no digits are lost where |mean| >> std.
  void find_means(int64_t n, int64_t block, int64_t slabs) {
    std::fill(shift_ + 0, shift_ + slabs * L, T(0));
    std::fill(offset_ + 0, offset_ + slabs * L, T(0));
    if (!task_.standardize) return;
    const int64_t plane = task_.a.plane(), step = stays_ ? plane : kTile;
    for (int64_t p = 0; p < plane; p += step) {
      const int64_t count = std::min(step, plane - p);
      const T* slab = slabs_at(n, block, p, count, 0, slabs);
      for (int64_t s = 0; s < slabs; ++s, slab += tile_.stride * L) {
        if (p == 0) store(shift_ + s * L, slab_mean(slab, std::min(count, kTile)));
        store(offset_ + s * L, load(offset_ + s * L) + sum_about<T>(load(shift_ + s * L), slab, count));
      }
    }
    for (int64_t i = 0; i < slabs * L; ++i) offset_[i] /= static_cast<T>(plane);
  }

  void pack_memberships(int64_t n) {
    const int64_t cells = task_.y == nullptr ? task_.a.plane() : task_.y->cells * task_.x->cells;
    for (int64_t k = 0; k < task_.clusters; ++k) {
      const T* from = task_.memberships + (n * task_.clusters + k) * cells;
      product_.pack(k, task_.y == nullptr ? from : resize(from));
    }
  }

  const T* resize(const T* cells) const {
    const Axis<T>&y = *task_.y, &x = *task_.x;
    for (int64_t i = 0; i < task_.a.h; ++i) {
      const T *low = cells + y.low[i] * x.cells, *high = cells + y.high[i] * x.cells;
      T* to = resized_ + i * task_.a.w;
      for (int64_t j = 0; j < task_.a.w; ++j) {
        const T left = low[x.low[j]] + y.weight[i] * (high[x.low[j]] - low[x.low[j]]);
        const T right = low[x.high[j]] + y.weight[i] * (high[x.high[j]] - low[x.high[j]]);
        to[j] = left + x.weight[j] * (right - left);
      }
    }
    return resized_;
  }

  const SoftTask<T>& task_;
  bool stays_;  // whether a block of channels stays in the cache; otherwise, it is read twice
  SoftProduct<T> product_;
  Tile<T> tile_;
  Buffer<T> resized_;         // [H, W]
  Buffer<T> shift_, offset_;  // [width]; their sums are the means
  int64_t packed_image_ = -1;
};

// Sums of an image that is pooled onto the grid of the memberships. `kPool` is a PixelPool or a PlanePool.
template <typename S, typename T, typename Pool>
class SoftPool {
  static constexpr int L = kLanes<T>;

 public:
  SoftPool(const SoftPoolTask<S>& task, int64_t width, int64_t pool_width)
      : task_(task),
        cells_(task.y.cells * task.x.cells),
        width_(width),
        pool_width_(pool_width),
        product_(task.clusters, cells_),
        pool_(task, pool_width),
        shift_(width),
        pooled_(2 * cells_ * width) {}

  int64_t rows() const { return product_.rows(); }

  // Adds channels [c, c + channels) of image n to sums [rows, stride], and writes their variances.
  void add(int64_t n, int64_t c, int64_t channels, double* sums, int64_t stride, T* variance) {
    if (n != std::exchange(packed_image_, n)) {
      for (int64_t k = 0; k < task_.clusters; ++k)
        product_.pack(k, task_.memberships + (n * task_.clusters + k) * cells_);
    }
    std::fill(shift_ + 0, shift_ + width_, T(0));
    for (int64_t i = 0; i < channels; i += pool_width_) {
      pool_.add(n, c + i, std::min(pool_width_, channels - i), shift_ + i,
                [&](int64_t y, const T* cells) { keep_row(y, cells, i); });
    }
    for (int64_t i = 0; i < channels; i += kColumns<T>) {
      add_columns(i, std::min(channels - i, kColumns<T>), sums + i, stride, variance + i);
    }
  }

 private:
  void keep_row(int64_t y, const T* cells, int64_t channel) const {
    for (int field = 0; field < 2; ++field) {
      for (int64_t x = 0; x < task_.x.cells; ++x, cells += pool_width_) {
        T* to = pooled_ + (field * cells_ + y * task_.x.cells + x) * width_ + channel;
        std::memcpy(to, cells, sizeof(T) * pool_width_);
      }
    }
  }

  // Adds the products of channels [i, i + channels) of the block. The energy of a cell follows from its sums about the
  // shift: with d = mean - shift, it is squares - 2 d sums + d^2 area.
  void add_columns(int64_t i, int64_t channels, double* sums, int64_t stride, T* variance) {
    const int64_t vectors = (channels + L - 1) / L, x_cells = task_.x.cells;
    const T positions = static_cast<T>(task_.a.plane());
    Vec<T> d[kVectors] = {}, total[kVectors] = {};
    for (int64_t j = 0; task_.standardize && j < vectors; ++j) {
      for (int64_t cell = 0; cell < cells_; ++cell) d[j] += load(pooled_ + cell * width_ + i + j * L);
      d[j] /= positions;
    }
    const auto fill = [&](int64_t first, int64_t count, T* to) {
      for (int64_t cell = first; cell < first + count; ++cell, to += kColumns<T>) {
        const T area = task_.y.area[cell / x_cells] * task_.x.area[cell % x_cells];
        for (int64_t j = 0; j < vectors; ++j) {
          const T* sum = pooled_ + cell * width_ + i + j * L;
          const Vec<T> energy = load(sum + cells_ * width_) - 2 * d[j] * load(sum) + d[j] * d[j] * area;
          const Vec<T> positive = energy < 0 ? Vec<T>{} : energy;
          total[j] += positive;
          store(to + j * L, positive);
        }
      }
    };
    product_.add(channels, fill, nullptr, 0, sums, stride);
    for (int64_t j = 0; j < vectors; ++j) store(variance + j * L, total[j] / positions);
  }

  const SoftPoolTask<S>& task_;
  int64_t cells_, width_, pool_width_;  // channels of a unit, and of a call of the pool
  SoftProduct<T> product_;
  Pool pool_;
  Buffer<T> shift_;   // [width]
  Buffer<T> pooled_;  // [2, cells, width]
  int64_t packed_image_ = -1;
};

// Adds M of a block of channels of image n to the sums of a part, or writes it to the image's own M.
template <typename T>
void fold_soft(const double* sums, int64_t stride, const double* scale, int64_t clusters, int64_t channels,
               double positions, double* total, int64_t total_stride, T* image, int64_t image_stride) {
  for (int64_t k = 0; k < clusters; ++k, sums += stride) {
    for (int64_t c = 0; c < channels; ++c) {
      if (image != nullptr) {
        image[k * image_stride + c] = static_cast<T>(sums[c] * scale[c] / positions);
      } else {
        total[k * total_stride + c] += sums[c] * scale[c];
      }
    }
  }
}

// Runs a part. A unit of work is a block of `width` channels of one image.
template <typename Task, typename T, typename Sum>
void soft_units(const Task& task, int64_t width, int64_t part, int64_t parts, Sum&& sum) {
  const int64_t c = task.a.c, blocks = (c + width - 1) / width, units = blocks * task.a.n;
  const Contributions<T>& output = task.output;
  const int64_t stride = width + kVectorBytes / static_cast<int64_t>(sizeof(double));
  const Buffer<double> sums(sum.rows() * stride), scale(width);
  const Buffer<T> variance(width);
  for (int64_t u = part_begin(units, part, parts); u < part_begin(units, part + 1, parts); ++u) {
    const int64_t n = u / blocks, first = u % blocks * width, channels = std::min(width, c - first);
    std::fill(sums + 0, sums + sum.rows() * stride, 0.0);
    sum.add(n, first, channels, sums, stride, variance);
    for (int64_t i = 0; i < channels; ++i) scale[i] = task.standardize ? 1 / (variance[i] + kVarianceEpsilon) : 1.0;
    double* total = output.sums == nullptr ? nullptr : output.sums + part * task.clusters * output.stride + first;
    T* image = output.images == nullptr ? nullptr : output.images + n * task.clusters * c + first;
    fold_soft<T>(sums, stride, scale, task.clusters, channels, static_cast<double>(task.a.plane()), total,
                 output.stride, image, c);
  }
}

// Channels per unit. Planes: kColumns. channels_last: the widest blocks, of at most `most` channels, that still give
// every part some work.
template <typename T, typename A>
int64_t soft_width(const A& a, int64_t parts, int64_t most) {
  if (!a.channels_last()) return kColumns<T>;
  const int64_t splits = a.n == 0 ? 1 : (parts + a.n - 1) / a.n;
  return std::clamp(std::min(round_up((a.c + splits - 1) / splits, kColumns<T>), most / kColumns<T> * kColumns<T>),
                    kColumns<T>, int64_t(512));
}

template <typename T>
void soft_kernel(const SoftTask<T>& task, int64_t part, int64_t parts) {
  const int64_t fitting = kUnitBytes / (task.a.plane() * static_cast<int64_t>(sizeof(T)));
  const int64_t width = soft_width<T>(task.a, parts, fitting);
  soft_units<SoftTask<T>, T>(task, width, part, parts, SoftSum<T>(task, width));
}

template <typename S, typename T = typename Compute<S>::type>
void soft_pool_kernel(const SoftPoolTask<S>& task, int64_t part, int64_t parts) {
  const int64_t cells = task.y.cells * task.x.cells;
  const int64_t width = soft_width<T>(task.a, parts, kUnitBytes / (2 * cells * static_cast<int64_t>(sizeof(T))));
  const auto run = [&](auto&& sum) { soft_units<SoftPoolTask<S>, T>(task, width, part, parts, sum); };
  if (task.a.channels_last()) return run(SoftPool<S, T, PixelPool<S, T>>(task, width, width));
  run(SoftPool<S, T, PlanePool<S, T>>(task, width, kLanes<T>));
}

}  // namespace STYLEFAST_ISA
}  // namespace stylefast
